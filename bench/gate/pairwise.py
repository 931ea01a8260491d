"""Both artifacts measured now, on this machine, by turns: pairs of processes until the question is answered or the budget is spent."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.errors import EdgefitError
from bench.gate.lines import FAILED, Line, one_sided, paired, together
from bench.gate.looks import LOOKS, judge
from bench.gate.sides import Side, Subject
from bench.hosts import open_host
from bench.measure.artifact import pick_runtime
from bench.measure.turns import Order, TimedPair, orders, time_pair
from bench.runtimes.base import CellJob
from bench.types import Json, Notify, Protocol, Quantity

PROTOCOL = Protocol(processes=1, max_seconds=0.6, warmup_seconds=0.1, timeout_seconds=120.0)
"""Of each process. Pairs differ more than longer processes would tell, so more and shorter ones say more in the same time."""
BUDGET = 180.0
"""Seconds for all subjects together."""
METRIC_UNITS = {"latency": "ms", "throughput": "images/s", "memory": "MB"}


@dataclass
class Timed:
    """One subject, its pairs of processes so far and the noisy metrics that are asked of it."""

    subject: Subject
    gates: Mapping[str, float]
    measure: Callable[[Order], TimedPair]
    order: Sequence[Order]
    pairs: list[TimedPair] = field(default_factory=list)
    failed: str = ""

    def measure_to(self, n: int) -> None:
        """Measure until there are ``n`` pairs. A side that fails ends it, with its reason."""
        try:
            while len(self.pairs) < n:
                self.pairs.append(self.measure(self.order[len(self.pairs)]))
        except EdgefitError as error:
            self.failed = str(error)

    def raw(self) -> list[Json]:
        """Each pair as it was measured: who began, the ratio, and the median of each turn."""
        return [
            {"first": order[0], "ratio": pair.ratio, "base_turns_ms": pair.turns[0], "head_turns_ms": pair.turns[1],
             "memory_mb": [q.value for q in pair.memory or ()]}
            for order, pair in zip(self.order, self.pairs, strict=False)
        ]  # fmt: skip

    def lines(self) -> list[Line]:
        """What the pairs tell of each metric."""
        return [self._line(name, gate) for name, gate in self.gates.items()]

    def _line(self, name: str, gate: float) -> Line:
        nothing = Quantity.missing(self.failed or "not measured within the budget")
        none = Line(
            self.subject, name, "paired", gate, nothing, nothing, nothing, "INCONCLUSIVE", note=nothing.reason
        )
        if self.failed:
            return replace(none, verdict=FAILED)
        if len(self.pairs) < LOOKS[0]:
            return none
        sides = [_sides(name, self.subject.batch, pair) for pair in self.pairs]
        absent = next((q.reason or "it is 0" for pair in sides for q in pair if not q.value), "")
        if absent:
            nothing = Quantity.missing(absent)
            return replace(none, base=nothing, head=nothing, change=nothing, verdict=FAILED, note=absent)
        both = [[q.value or 0.0 for q in side] for side in zip(*sides, strict=True)]
        ratios = [h / b for b, h in zip(*both, strict=True)]
        if name in ("latency", "throughput"):  # of neighbouring turns, which says more than of the medians
            ratios = [p.ratio if name == "latency" else 1.0 / p.ratio for p in self.pairs]
        judged = judge(ratios, gate)
        return paired(self.subject, name, gate, judged, _parted(both, judged.paired.ratio, sides[0][0].unit))


def _parted(both: Sequence[Sequence[float]], ratio: float, unit: str) -> tuple[Quantity, Quantity]:
    """Base and head of all pairs: their middle, parted by the ratio of the pairs.

    The medians of each side's processes would be of different moods of the machine, and need not differ as the pairs do.
    """
    middle = math.exp(statistics.median((math.log(b) + math.log(h)) / 2 for b, h in zip(*both, strict=True)))
    method = "geometric mean of each pair, the median of all, parted by the ratio of the pairs"
    base, head = (
        Quantity(middle * ratio**half, unit, n=len(both[0]), provenance="measured", method=method)
        for half in (-0.5, 0.5)
    )
    return base, head


def _sides(name: str, batch: int, pair: TimedPair) -> tuple[Quantity, Quantity]:
    """The metric in the two processes of a pair, base and head."""
    if name == "memory":
        return pair.memory or (Quantity.missing("not measured"), Quantity.missing("not measured"))
    base, head = (
        Quantity(batch * 1e3 / ms if name == "throughput" else ms, METRIC_UNITS[name], provenance="measured")
        for ms in (pair.base_ms, pair.head_ms)
    )
    return base, head


def open_pairs(
    subject: Subject, base: Side, head: Side, gates: Mapping[str, float], folder: Path, seed: int = 0
) -> Timed:
    """Make ready to measure two files by turns; ``folder`` is theirs while they are measured.

    Raises:
        UsageError, MissingError: see :func:`bench.measure.artifact.pick_runtime`.
    """
    host = open_host("local")
    sides = {}
    for name, side in (("base", base), ("head", head)):
        assert side.path is not None
        (outdir := folder / name).mkdir(parents=True)
        runtime, device = pick_runtime(side.artifact, subject.runtime)
        job = CellJob(
            side.artifact, side.path, outdir, subject.batch, subject.threads, device, PROTOCOL, predict=False
        )
        sides[name] = (runtime, job)
    return Timed(subject, gates, lambda order: time_pair(sides, order, host), orders(LOOKS[-1], seed))


def measure(timed: Sequence[Timed], others: Sequence[Line], budget: float, notify: Notify) -> list[Line]:
    """Measure all subjects, look after look, until each question is answered or ``budget`` seconds are spent.

    Args:
        others: lines that are judged together with these (accuracy, size), for Holm's procedure.

    Returns:
        The lines of the subjects, before :func:`bench.gate.lines.together`.
    """
    start, measured = time.monotonic(), 0
    for n in LOOKS:
        for one in [t for t in timed if not t.failed and _open(t, timed, others)]:
            spent, more = time.monotonic() - start, n - len(one.pairs)
            if measured and spent * (1 + more / measured) > budget:
                continue
            notify("item", {"name": f"{one.subject.label}: pairs {len(one.pairs) + 1} to {n}", "done": False})
            one.measure_to(n)
            measured += more
    return [line for one in timed for line in one.lines()]


def _open(one: Timed, timed: Sequence[Timed], others: Sequence[Line]) -> bool:
    """Could more pairs of this subject still answer something?"""
    if not one.pairs:
        return True
    judged = one_sided(together([*others, *(line for t in timed for line in t.lines())]))
    return any(line.open for line in judged if line.subject == one.subject and line.mode == "paired")
