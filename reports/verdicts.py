"""What may be said: a difference is stated only where its interval excludes none, and beyond NOISE.

Each compressed variant is compared with the nearest variant it was made from that was measured at
the same runtime, batch, threads and host (the reference, for a net trained from scratch).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.types import Json, Quantity
from reports import rows as model
from reports import text
from reports.causes import causes, facts_of
from reports.rows import Row

if TYPE_CHECKING:
    from bench.store import RunData

COLLAPSE = -0.05
"""A drop in accuracy whose whole interval is beyond this is called a collapse."""

NOISE = 0.10
"""Latencies of single processes that differ by less than this share are called equal: the intervals cover
the variation inside one process only, and on a shared machine the next process differs by 10% or more."""

GATE = 0.03
"""Less than this is called equal also where the intervals cover the differences between processes."""

RULE = (
    f"Latencies count as different where the interval of their ratio excludes 1 and they differ by more than {GATE:.0%} "
    f"(several processes timed) or {NOISE:.0%} (one)."
)

SIZES = 0.005
"""Sizes that differ by less than this share are called the same."""

PROFILED = ("onnxruntime", "litert", "openvino")
"""Runtimes that `bench explain` looks into."""

NAMED = 8
"""A sentence names at most so many variants."""

EACH = 3
"""So many variants have their own cause named in a line about many."""

FASTER, SLOWER, SAME = "faster", "slower", "no measurable difference"
UNSURE = "the prediction cannot tell"
"""What SAME is called where one of the two latencies is a prediction: nobody looked for a difference."""

UNTOLD = "the measurements cannot tell"
"""What SAME is called where the interval holds a gain of more than NOISE: to find none is not to have shown that there is none."""


@dataclass(frozen=True)
class Verdict:
    """How ``row`` compares with ``base``, which it was made from.

    ``change`` is what was done (``int8``, ``pruned``, ``smaller net``, ...); ``ratio`` is of latencies and ``smaller`` of
    sizes, more than 1 is better; ``accuracy`` is the difference on the same test images; ``outcome`` is ``faster``,
    ``slower`` or ``no measurable difference``, empty where the latency is not known; ``causes`` are likely reasons where
    there is no win.
    """

    row: Row
    base: Row
    change: str
    ratio: Quantity
    outcome: str
    smaller: Quantity = field(default_factory=lambda: Quantity.missing("not compared", "x"))
    accuracy: Quantity = field(default_factory=lambda: Quantity.missing("not compared"))
    causes: tuple[str, ...] = ()

    @property
    def win(self) -> bool:
        return self.outcome == FASTER

    @property
    def said(self) -> str:
        return in_words(self.outcome, self.ratio)

    @property
    def told(self) -> bool:
        return self.said not in (UNSURE, UNTOLD)

    @property
    def cause(self) -> str:
        return "; ".join(self.causes)


def outcome(ratio: Quantity) -> str:
    """``faster`` or ``slower`` when the interval of the ratio excludes 1 and the ratio is beyond GATE, or NOISE for single processes.

    Everything else is ``no measurable difference``.
    """
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return SAME
    least = GATE if ratio.method == model.BETWEEN else NOISE
    if ratio.low > 1.0 and ratio.value > 1.0 + least:
        return FASTER
    if ratio.high < 1.0 and ratio.value < 1.0 / (1.0 + least):
        return SLOWER
    return SAME


def in_words(found: str, ratio: Quantity) -> str:
    """An outcome in words: two predictions measure no difference, and a wide interval does not show that there is none."""
    if found != SAME:
        return found
    if ratio.provenance == "predicted":
        return UNSURE
    return UNTOLD if (ratio.high or 1.0) > 1.0 + NOISE else SAME


def change(run: RunData, name: str) -> str:
    """What was done to make variant ``name``: its precision, ``qat``, ``pruned``, ``smaller net`` or ``retrained``."""
    record = run.variants.get(name) or {}
    step = record.get("step") or {}
    if step.get("kind") == "quantize":
        return str(step.get("precision", "quantized"))
    if step.get("kind") == "prune":
        return "pruned"
    if step.get("kind") == "qat":
        return "int8 (QAT)"
    parent = run.variants.get(record.get("parent") or "")
    if parent is None:
        return "smaller net"
    return change(run, parent["name"]) if parent.get("intermediate") else "retrained"


def _base(run: RunData, row: Row, lookup: dict[tuple[object, ...], Row]) -> Row | None:
    """The nearest ancestor at the same place that was timed, or weighed where none was; else the reference there."""
    place = (row.cell.runtime, *row.setting)
    names, name = [], (run.variants.get(row.cell.variant) or {}).get("parent") or ""
    while name and name not in names:
        names.append(name)
        name = (run.variants.get(name) or {}).get("parent") or ""
    names.append(run.manifest.get("reference", ""))
    found = [r for n in names if (r := lookup.get((n, *place))) is not None and r is not row]
    timed = [r for r in found if r.metrics["latency_ms"].value is not None]
    return next(iter(timed or [r for r in found if r.has_values]), None)


def compare(run: RunData, items: list[Row]) -> list[Verdict]:
    """Every row of which something is known, with what it was made from; also where nothing was timed."""
    lookup: dict[tuple[object, ...], Row] = {}
    for row in items:
        lookup.setdefault((row.cell.variant, row.cell.runtime, *row.setting), row)
    read = model.Predictions(run)
    found = []
    for row in items:
        base = None if row.is_reference or not row.has_values else _base(run, row, lookup)
        if base is None:
            continue
        shared = model.alike(base.record, row.record)
        ratio = model.ratio(base.metrics["latency_ms"], row.metrics["latency_ms"], shared=shared)
        what, said = change(run, row.cell.variant), outcome(ratio) if ratio.value is not None else ""
        size = model.ratio(base.metrics["size_bytes"], row.metrics["size_bytes"], "ratio of values")
        accuracy = read.change(base.record, row.record, "test")
        verdict = Verdict(row, base, what, ratio, said, size, accuracy)
        if verdict.said in (SAME, SLOWER):  # what cannot be told needs no cause
            why = causes(row, base, graph(run, row), graph(run, base))
            verdict = replace(verdict, causes=tuple(why))
        found.append(verdict)
    return found


def uncompared(items: list[Row], found: list[Verdict]) -> list[str]:
    """``not compared: student on litert, 1 cell: ...`` for what was timed, but has nothing timed that it was made from."""
    known = {id(v.row): v for v in found}
    groups: dict[str, list[Row]] = {}
    for row in items:
        verdict = known.get(id(row))
        if row.is_reference or row.metrics["latency_ms"].value is None or (verdict and verdict.outcome):
            continue
        reason = verdict.ratio.reason if verdict else "nothing that it was made from is known there"
        groups.setdefault(reason, []).append(row)
    return [
        f"not compared with what it was made from: {text.plural(len(rows), 'cell')} ({_some(rows)}): {reason}"
        for reason, rows in groups.items()
    ]


def _some(rows: list[Row]) -> str:
    """``student on litert``, NAMED at most."""
    setting = several(rows)
    names = list(dict.fromkeys(f"{row.cell.variant} on {place(row, setting)}" for row in rows))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def graph(run: RunData, row: Row) -> Json:
    """What is recorded of the graph in the file that a row measured, as far as it holds on the row's runtime."""
    record = run.artifacts.get(row.record.get("artifact") or "") or {}
    return facts_of(record.get("graph") or {}, record.get("format", ""), row.cell.runtime)


def verdicts(run: RunData, items: list[Row]) -> list[Verdict]:
    """One verdict for each row that has a latency and something measured it was made from."""
    return [v for v in compare(run, items) if v.outcome]


# --- a sentence for each


def several(items: Iterable[Row]) -> bool:
    """Whether a sentence must name its setting: there are several batches or thread counts, or several hosts with latencies."""
    known = [row for row in items if row.has_values]
    timed = {row.cell.host for row in known if row.metrics["latency_ms"].value is not None}
    return len(timed) > 1 or len({(row.cell.batch, row.cell.threads) for row in known}) > 1


def place(row: Row, setting: bool = False) -> str:
    """``onnxruntime``, with host, batch and threads where ``setting`` asks for them, else with a host that is not this machine."""
    if setting:
        return f"{row.cell.runtime} ({model.setting_title(row.setting)})"
    return row.cell.runtime + ("" if row.cell.host == "local" else f" ({row.cell.host})")


def _speed(verdict: Verdict) -> str:
    """``1.90x faster [1.85, 1.95]``, or why there is no win."""
    ratio = verdict.ratio
    value, _, bounds = text.ratio(ratio, "interval").partition(" ")
    if verdict.win:
        return f"{value} faster {bounds}".rstrip()
    if not verdict.outcome:
        return "not timed"
    if not verdict.told:
        return f"{verdict.said} whether it is faster ({' '.join(filter(None, (value, bounds)))})"
    why = f" because {verdict.cause}" if verdict.cause else ""
    return f"no win on this runtime{why} ({' '.join(filter(None, (value, bounds)))}, {verdict.said})"


def _size(smaller: Quantity) -> str:
    """``3.90x smaller``, ``1.05x larger`` or ``the same size``."""
    if smaller.value is None:
        return ""
    if abs(smaller.value - 1.0) < SIZES:
        return "the same size"
    if smaller.value > 1.0:
        return f"{text.ratio(smaller)} smaller"
    return f"{text.ratio(replace(smaller, value=1.0 / smaller.value))} larger"


def sentence(verdict: Verdict, setting: bool = False) -> str:
    """``pruned-int8 on onnxruntime: 1.90x faster [1.85, 1.95], 3.9x smaller, accuracy -0.3 points [-0.6, +0.1] against pruned``."""
    parts = [p for p in (_speed(verdict), _size(verdict.smaller)) if p]
    if verdict.accuracy.value is not None:
        parts.append(f"accuracy {points(verdict.accuracy)}")
    against = f"against {verdict.base.cell.variant}"
    return f"{verdict.row.cell.variant} on {place(verdict.row, setting)}: {', '.join(parts)} {against}."


def points(quantity: Quantity) -> str:
    """``-0.3 points [-0.6, +0.1]``."""
    value, _, bounds = text.points(quantity, sign="+").partition(" ")
    return f"{value} points {bounds}".rstrip()


def sentences(found: list[Verdict]) -> list[str]:
    """One sentence for every variant at every place it was measured, against what it was made from."""
    setting = several(v.row for v in found)
    return [sentence(v, setting) for v in found]


def to_json(verdict: Verdict, setting: bool = False) -> Json:
    """One comparison as in the report's JSON document; ``setting``: see :func:`place`."""
    cell = verdict.row.cell
    return {
        "variant": cell.variant,
        "against": verdict.base.cell.variant,
        "runtime": cell.runtime,
        "batch": cell.batch,
        "threads": cell.threads,
        "host": cell.host,
        "change": verdict.change,
        "outcome": verdict.outcome or "not timed",
        "x_faster": verdict.ratio.to_json(),
        "x_smaller": verdict.smaller.to_json(),
        "accuracy_change": verdict.accuracy.to_json(),
        "causes": list(verdict.causes),
        "sentence": sentence(verdict, setting),
    }


# --- a line for many


def _named(items: list[Verdict]) -> str:
    """The first NAMED with their ratios, and how many more there are."""
    named = ", ".join(f"{v.row.cell.variant} {text.ratio(v.ratio, 'interval')}" for v in items[:NAMED])
    return named + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def _no_win(what: str, where: str, group: list[Verdict]) -> str:
    """One sentence about one kind of change at one place where not everything became faster."""
    wins = [v for v in group if v.win]
    parts = [f"faster: {_named(wins)}"] if wins else []
    for said in (SAME, UNSURE, UNTOLD, SLOWER):
        some = [v for v in group if v.said == said]
        if some:
            parts.append(f"{said}: {_named(some)}")
    if not any(v.told for v in group) and len({v.said for v in group}) == 1:
        return f"{what} on {where}: {group[0].said} whether it wins ({_named(group)})."
    title = f"a win in {len(wins)} of {len(group)}"
    if not wins:
        title = "no win" if all(v.told for v in group) else "no win seen"
    line = f"{what} on {where}: {title} ({'; '.join(parts)})."
    return line + _likely(group)


def _likely(group: list[Verdict]) -> str:
    """The causes that all losers of a group share; without such, the first one of each of the first few."""
    losers = [v for v in group if v.causes and not v.win]
    if not losers:
        return ""
    shared = [c for c in losers[0].causes if all(c in v.causes for v in losers)]
    if shared and len(losers) == sum(not v.win and v.told for v in group):
        return f" Likely cause: {'; '.join(shared)}."
    owners: dict[str, list[str]] = {}
    for verdict in losers:
        owners.setdefault(verdict.causes[0], []).append(verdict.row.cell.variant)
    said = [f"{cause} ({text.listed(names[:EACH])})" for cause, names in list(owners.items())[:EACH]]
    return f" Likely cause: {'; '.join(said)}."


def _win(where: str, group: list[Verdict]) -> str:
    """``litert 3.15x to 3.17x``: the range of one kind of change that won everywhere at one place."""
    values = sorted(v.ratio.value or 0.0 for v in group)
    mark = text.mark(Quantity(1.0, provenance=model.weakest(*(v.ratio for v in group))))
    return f"{where} {mark}" + " to ".join(dict.fromkeys(f"{v:.2f}x" for v in (values[0], values[-1])))


def lines(found: list[Verdict]) -> list[str]:
    """Sentences: each kind of change and place without a full win, then one for the wins of each kind."""
    setting = several(v.row for v in found)
    found = [v for v in found if v.outcome]
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in found:
        groups.setdefault((verdict.change, place(verdict.row, setting)), []).append(verdict)
    lost: list[tuple[int, str]] = []
    won: dict[str, list[str]] = {}
    for (what, where), group in groups.items():
        if all(v.win for v in group):
            won.setdefault(what, []).append(_win(where, group))
        else:
            lost.append((sum(v.win for v in group), _no_win(what, where, group)))
    ordered = [line for _, line in sorted(lost, key=lambda item: item[0])]
    wins = [f"{what}: faster on {', '.join(places)}." for what, places in won.items()]
    return [*ordered, *wins, *_unexplained(found)]


def _unexplained(found: list[Verdict]) -> list[str]:
    """Where to look when nothing recorded explains a missing gain, on runtimes that can be looked into."""
    lost = [
        v.row.cell for v in found if not v.win and v.told and not v.causes and v.row.cell.runtime in PROFILED
    ]
    if not lost:
        return []
    names = list(dict.fromkeys(f"{cell.variant} on {cell.runtime}" for cell in lost))
    shown = text.listed([*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])])
    look = f"bench explain {lost[0].variant} --runtime {lost[0].runtime}"
    return [f"no reason is recorded for {shown}; where the time goes: {look}."]


def collapses(items: list[Row]) -> list[str]:
    """Sentences about variants that lost more than COLLAPSE of accuracy against the reference."""
    found: dict[str, dict[str, str]] = {}
    for row in items:
        lost = row.relative["accuracy_change"]
        if lost.high is not None and lost.high < COLLAPSE:
            found.setdefault(row.cell.variant, {}).setdefault(row.cell.runtime, text.points(lost, sign="+"))
    said = [
        f"{variant} lost accuracy, in points against the reference: "
        + "; ".join(f"{change} on {runtime}" for runtime, change in places.items())
        + "."
        for variant, places in list(found.items())[:NAMED]
    ]
    return said + ([f"{len(found) - NAMED} more variants lost accuracy."] if len(found) > NAMED else [])
