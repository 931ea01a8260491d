"""What may be said: a difference is stated only where its interval excludes none, and beyond NOISE.

Each compressed variant is compared with the nearest variant it was made from that was measured at
the same runtime, batch, threads and host (the reference, for a net trained from scratch).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.types import Quantity
from reports import rows as model
from reports import text
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

NAMED = 8
"""A sentence names at most so many variants."""

_TINY_MS = 0.1
_SIMD = ("avx2", "avx512", "avx_vnni", "amx", "neon", "asimd")
_INT8_DOT = ("vnni", "amx_int8", "amx-int8", "asimddp", "dotprod")


@dataclass(frozen=True)
class Verdict:
    """How ``row`` compares in latency with ``base``, which it was made from.

    ``change`` is what was done (``int8``, ``pruned``, ``smaller net``, ...); ``outcome`` is ``faster``,
    ``slower`` or ``no measurable difference``; ``cause`` is a likely reason where there is no win.
    """

    row: Row
    base: Row
    change: str
    ratio: Quantity
    outcome: str
    cause: str = ""

    @property
    def win(self) -> bool:
        return self.outcome == "faster"


def outcome(ratio: Quantity) -> str:
    """``faster`` or ``slower`` when the interval of the ratio excludes 1 and the ratio is beyond GATE, or NOISE for single processes.

    Everything else is ``no measurable difference``.
    """
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return "no measurable difference"
    least = GATE if ratio.method == model.BETWEEN else NOISE
    if ratio.low > 1.0 and ratio.value > 1.0 + least:
        return "faster"
    if ratio.high < 1.0 and ratio.value < 1.0 / (1.0 + least):
        return "slower"
    return "no measurable difference"


def change(run: RunData, name: str) -> str:
    """What was done to make variant ``name``: its precision, ``pruned``, ``smaller net`` or ``retrained``."""
    record = run.variants.get(name) or {}
    step = record.get("step") or {}
    if step.get("kind") == "quantize":
        return str(step.get("precision", "quantized"))
    if step.get("kind") == "prune":
        return "pruned"
    parent = run.variants.get(record.get("parent") or "")
    if parent is None:
        return "smaller net"
    return change(run, parent["name"]) if parent.get("intermediate") else "retrained"


def _base(run: RunData, row: Row, lookup: dict[tuple[object, ...], Row]) -> Row | None:
    """The nearest measured ancestor at the same place, else the reference there."""
    place = (row.cell.runtime, *row.setting)
    name = (run.variants.get(row.cell.variant) or {}).get("parent") or ""
    while name:
        found = lookup.get((name, *place))
        if found is not None and found.metrics["latency_ms"].value is not None:
            return found
        name = (run.variants.get(name) or {}).get("parent") or ""
    found = lookup.get((run.manifest.get("reference", ""), *place))
    return found if found is not row else None


def _cause(row: Row, base: Row, what: str) -> str:
    """A likely reason for no win, only where the records support one."""
    notes = " ".join(str(n) for n in row.record.get("notes") or ()).lower()
    if "fell back" in notes or "fallback" in notes:
        return "some operations fell back to float"
    machine = json.dumps(row.record.get("environment") or {}, default=str).lower()
    if what == "int8" and any(s in machine for s in _SIMD) and not any(s in machine for s in _INT8_DOT):
        return "this CPU has no int8 dot-product instructions (VNNI, AMX or dotprod)"
    has_gpu = bool((row.record.get("environment") or {}).get("gpus"))
    if what in ("fp16", "bf16") and row.cell.host == "local" and not has_gpu:
        return f"this CPU path stores {what} and may compute in fp32"
    latency, before = row.metrics["latency_ms"].value, base.metrics["latency_ms"].value
    if latency is not None and before is not None and min(latency, before) < _TINY_MS:
        return f"calls this short (under {_TINY_MS} ms) are mostly overhead"
    if what == "pruned":
        return "kernels prefer certain channel counts: fewer channels are not always fewer cycles"
    return ""


def verdicts(run: RunData, items: list[Row]) -> list[Verdict]:
    """One verdict for each row that has a latency and something measured it was made from."""
    lookup: dict[tuple[object, ...], Row] = {}
    for row in items:
        lookup.setdefault((row.cell.variant, row.cell.runtime, *row.setting), row)
    found = []
    for row in items:
        base = None if row.is_reference else _base(run, row, lookup)
        if base is None:
            continue
        ratio = model.ratio(base.metrics["latency_ms"], row.metrics["latency_ms"])
        if ratio.value is None:
            continue
        what, said = change(run, row.cell.variant), outcome(ratio)
        cause = "" if said == "faster" else _cause(row, base, what)
        found.append(Verdict(row, base, what, ratio, said, cause))
    return found


def _named(items: list[Verdict]) -> str:
    """The first NAMED with their ratios, and how many more there are."""
    named = ", ".join(f"{v.row.cell.variant} {text.ratio(v.ratio, 'interval')}" for v in items[:NAMED])
    return named + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def _no_win(what: str, where: str, group: list[Verdict]) -> str:
    """One sentence about one kind of change at one place where not everything became faster."""
    wins = [v for v in group if v.win]
    parts = [f"faster: {_named(wins)}"] if wins else []
    for said in ("no measurable difference", "slower"):
        some = [v for v in group if v.outcome == said]
        if some:
            parts.append(f"{said}: {_named(some)}")
    causes = "; ".join(dict.fromkeys(v.cause for v in group if v.cause))
    title = "no win" if not wins else f"a win in {len(wins)} of {len(group)}"
    line = f"{what} on {where}: {title} ({'; '.join(parts)})."
    return line + (f" Likely cause: {causes}." if causes else "")


def _win(where: str, group: list[Verdict]) -> str:
    """``litert 3.15x to 3.17x``: the range of one kind of change that won everywhere at one place."""
    values = sorted(v.ratio.value or 0.0 for v in group)
    mark = text.mark(Quantity(1.0, provenance=model.weakest(*(v.ratio for v in group))))
    return f"{where} {mark}" + " to ".join(dict.fromkeys(f"{v:.2f}x" for v in (values[0], values[-1])))


def lines(found: list[Verdict]) -> list[str]:
    """Sentences: each kind of change and place without a full win, then one for the wins of each kind."""
    settings = {v.row.setting for v in found}
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in found:
        where = verdict.row.cell.runtime
        if len(settings) > 1:
            where += f" ({model.setting_title(verdict.row.setting)})"
        groups.setdefault((verdict.change, where), []).append(verdict)
    lost: list[tuple[int, str]] = []
    won: dict[str, list[str]] = {}
    for (what, where), group in groups.items():
        if all(v.win for v in group):
            won.setdefault(what, []).append(_win(where, group))
        else:
            lost.append((sum(v.win for v in group), _no_win(what, where, group)))
    ordered = [line for _, line in sorted(lost, key=lambda item: item[0])]
    return ordered + [f"{what}: faster on {', '.join(places)}." for what, places in won.items()]


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
