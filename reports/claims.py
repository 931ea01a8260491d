"""What distillation, quantization ladders and chains of steps owe a reader: the comparison that shows whether they paid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench import stats
from bench.types import Json, Quantity
from reports import rows as model
from reports import text
from reports.rows import Row
from reports.verdicts import SAME, SLOWER, in_words, outcome, place, points, several

if TYPE_CHECKING:
    from bench.store import RunData

NAMED = 6
"""Layers, or chains, that are named at most."""


def claims(run: RunData, items: list[Row]) -> list[str]:
    """Sentences about every distilled variant, every ladder, and every chain that is worse than one of its steps."""
    return [*alone(run, items), *ladders(run), *chains(run, items)]


# --- distillation


def alone(run: RunData, items: list[Row]) -> list[str]:
    """``student-kd: 97.2% with its teacher, 95.8% without (student): +1.4 points [+0.1, +2.7] (...)`` for each distilled variant."""
    read = model.Predictions(run)
    said = []
    for name, record in run.variants.items():
        twin = record.get("alone") or ""
        if twin and twin in run.variants and record["status"] == "ok":
            line = _measured(name, twin, items, read) or _trained(run, name, twin)
            said += [line] if line else []
    return said


def _with_and_without(name: str, twin: str, both: tuple[float, float], gain: Quantity, how: str) -> str:
    with_teacher, without = (f"{100 * share:.1f}%" for share in both)
    sure = gain.low is not None and gain.high is not None and (gain.low > 0 or gain.high < 0)
    doubt = "" if sure else ", no measurable gain"
    return (
        f"{name}: {with_teacher} with its teacher, {without} without ({twin}): {points(gain)}{doubt} ({how})."
    )


def _measured(name: str, twin: str, items: list[Row], read: model.Predictions) -> str:
    """From cells at the same place: the same test images, in pairs."""
    places = {(r.cell.runtime, *r.setting): r for r in items if r.cell.variant == twin}
    for row in items:
        other = places.get((row.cell.runtime, *row.setting))
        if row.cell.variant != name or other is None:
            continue
        gain = read.change(other.record, row.record, "test")
        both = row.metrics["accuracy"].value, other.metrics["accuracy"].value
        if gain.value is not None and both[0] is not None and both[1] is not None:
            how = f"the same {gain.n} test images in pairs, {place(row)}"
            return _with_and_without(name, twin, (both[0], both[1]), gain, how)
    return ""


def _best(record: Json) -> float | None:
    """The validation accuracy of the epoch that was kept."""
    rows = [h for h in record.get("history") or () if h.get("epoch") == record.get("best_epoch")]
    value = rows[0].get("val_accuracy") if rows else None
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _trained(run: RunData, name: str, twin: str) -> str:
    """From the two trainings, where the twin was not measured: validation accuracies of the epochs that were kept."""
    both = [_best(run.variants[n]) for n in (name, twin)]
    n = ((run.manifest.get("data") or {}).get("counts") or {}).get("validation")
    if both[0] is None or both[1] is None or not n:
        return ""
    gain = unpaired(both[0], both[1], int(n))
    return _with_and_without(name, twin, (both[0], both[1]), gain, f"{n} validation images, not in pairs")


def unpaired(one: float, other: float, n: int) -> Quantity:
    """``one - other``, two accuracies over ``n`` images each, as if they were independent samples.

    R. G. Newcombe, *Interval estimation for the difference between independent proportions*, Statistics in Medicine 17,
    1998, method 10 (from Wilson's intervals). On the same images it is wider than a paired interval.
    """
    difference = one - other
    (low_1, high_1), (low_2, high_2) = (stats.wilson(round(p * n), n) for p in (one, other))
    low = difference - math.hypot(one - low_1, high_2 - other)
    high = difference + math.hypot(high_1 - one, other - low_2)
    method = f"{n} validation images each, Newcombe's interval of independent proportions"
    return Quantity(difference, "fraction", max(-1.0, low), min(1.0, high), n, "measured", method)


# --- ladders


def ladders(run: RunData) -> list[str]:
    """``int8 of X on onnxruntime: held at rung 'equalize', loss 0.4 [0.1, 0.8] points (budget 1.0)``, one a file."""
    runtimes: dict[str, list[str]] = {}
    for cell in run.cells:
        if cell.get("artifact"):
            runtimes.setdefault(cell["artifact"], []).append(cell["cell"]["runtime"])
    said = []
    for key, record in run.artifacts.items():
        if record.get("ladder"):
            used = ", ".join(dict.fromkeys(runtimes.get(key, []))) or record.get("format", "")
            said.append(_ladder(run, record, used))
    return said


def _ladder(run: RunData, record: Json, where: str) -> str:
    """``record["ladder"]``: rows of rung, held, drop (a quantity, null where skipped), skipped, float_layers, no_gain."""
    step = (run.variants.get(record["variant"]) or {}).get("step") or {}
    budget = step.get("max_drop")
    allowed = "" if budget is None else f" (budget {100 * budget:.1f})"
    head = f"int8 of {record['variant']} on {where}"
    tried = [r for r in record["ladder"] if r.get("drop")]
    if not tried:
        return f"{head}: no rung made a file."
    kept = next((r for r in tried if r.get("held")), None)
    best = kept or min(tried, key=lambda r: r["drop"]["value"])
    loss = f"loss {text.points(Quantity.from_json(best['drop']))} points{allowed}"
    if kept:
        line = f"{head}: held at rung '{best['rung']}', {loss}"
    else:
        names = text.listed([str(r["rung"]) for r in tried])
        line = f"{head}: no rung held (tried {names}); the best, '{best['rung']}', {loss}"
    culprits = [str(c) for c in best.get("float_layers") or ()]
    if culprits:
        more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
        line += f"; culprits kept float: {', '.join(culprits[:NAMED])}{more}"
    if best.get("no_gain"):
        line += ", which costs all that int8 gained"
    return line + "."


# --- chains


def _steps(run: RunData, name: str) -> tuple[str, ...]:
    """What compresses along the way to a variant, root first: ``prune``, ``distill`` of a child, ``int8``, ``qat``.

    A recovery by plain training compresses nothing.
    """
    steps: list[str] = []
    for ancestor in _line(run, name):
        record = run.variants.get(ancestor) or {}
        kind = (record.get("step") or {}).get("kind", "")
        if kind in ("prune", "qat", "quantize") or (kind == "distill" and record.get("parent")):
            steps.append(kind)
    return tuple(reversed(steps))


def _line(run: RunData, name: str) -> list[str]:
    """A variant, its parent, the parent's parent, and so on."""
    line: list[str] = []
    while name and name not in line:
        line.append(name)
        name = (run.variants.get(name) or {}).get("parent") or ""
    return line


def _root(run: RunData, name: str) -> str:
    return _line(run, name)[-1]


def chains(run: RunData, items: list[Row]) -> list[str]:
    """Sentences about chains of steps that are worse than a variant of the same root with only some of the steps.

    Worse: shown to be no faster and measurably less accurate, or slower and not measurably more accurate.
    """
    read, setting = model.Predictions(run), several(items)
    names = {row.cell.variant for row in items}
    steps = {name: _steps(run, name) for name in names}
    roots = {name: _root(run, name) for name in names}
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in items:
        name = row.cell.variant
        if steps[name] and row.metrics["latency_ms"].value is not None:
            groups.setdefault((roots[name], row.cell.runtime, row.setting), []).append(row)
    said = []
    for group in groups.values():
        for row in group:
            own = steps[row.cell.variant]
            shorter = [r for r in group if set(steps[r.cell.variant]) < set(own)]
            worse = ((other, _worse(row, other, read, setting)) for other in shorter)
            said += [f"{line}{_because(run, row, other, items)}." for other, line in worse if line][:1]
    more = len(said) - NAMED
    return said[:NAMED] + ([f"{more} more chains are worse than one of their steps."] if more > 0 else [])


def _worse(row: Row, other: Row, read: model.Predictions, setting: bool) -> str:
    shared = model.alike(other.record, row.record)
    ratio = model.ratio(other.metrics["latency_ms"], row.metrics["latency_ms"], shared=shared)
    lost = read.change(other.record, row.record, "test")
    if ratio.value is None or lost.value is None or lost.high is None or lost.low is None:
        return ""
    speed = in_words(outcome(ratio), ratio)
    if not (speed in (SAME, SLOWER) and lost.high < 0) and not (speed == SLOWER and lost.low <= 0):
        return ""
    size = model.ratio(other.metrics["size_bytes"], row.metrics["size_bytes"])
    gain = f", though {text.ratio(size)} smaller" if size.value is not None and size.value > 1.05 else ""
    return (
        f"{row.cell.variant} on {place(row, setting)}: the chain is worse than {other.cell.variant}, which has fewer of its steps: "
        f"{text.ratio(ratio, 'interval')} the speed, accuracy {points(lost)}{gain}"
    )


def _because(run: RunData, row: Row, other: Row, items: list[Row]) -> str:
    """What a chain has that the shorter one has not, and whether its teacher had anything to teach."""
    there = [r for r in items if (r.cell.runtime, r.setting) == (row.cell.runtime, row.setting)]
    accuracy = {r.cell.variant: r.metrics["accuracy"].value for r in there}
    reached = accuracy.get(other.cell.variant)
    for name in _line(run, row.cell.variant):
        if name in _line(run, other.cell.variant):
            continue
        step = (run.variants.get(name) or {}).get("step") or {}
        for teacher in step.get("teacher") or () if step.get("kind") == "distill" else ():
            taught = accuracy.get(teacher)
            if taught is not None and reached is not None and taught <= reached:
                return (
                    f"; its teacher {teacher} ({100 * taught:.1f}%) is no better than {other.cell.variant} without it "
                    f"({100 * reached:.1f}%)"
                )
    more = [s for s in _steps(run, row.cell.variant) if s not in _steps(run, other.cell.variant)]
    return (
        f"; the difference is its {text.listed(list(dict.fromkeys(more)))} step{'s' * (len(set(more)) > 1)}"
    )
