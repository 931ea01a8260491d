"""What recorded numbers alone tell: that both sides hold one record, and how two accuracies without their answers differ."""

from __future__ import annotations

import math
from dataclasses import replace

from bench import stats
from bench.gate.lines import Line, direction
from bench.gate.looks import ALPHA
from bench.gate.sides import Side, Subject
from bench.gate.thresholds import METRICS
from bench.measure.paired import Verdict
from bench.types import Quantity
from reports.rows import weakest


def one_record(base: Side, head: Side) -> bool:
    """Do both sides hold the same measurement, as a run and its own export do?

    All that differs from process to process is equal, with interval, count and method. The latency must be among it: its
    interval has too many digits to be met twice, where a memory in whole pages has not.
    """
    digests = {side.artifact.sha256 for side in (base, head) if side.artifact.sha256}
    latency = _known(base, "latency_ms")
    if len(digests) > 1 or latency is None or latency.low is None:
        return False
    return all(_known(base, m.key) == _known(head, m.key) for m in METRICS.values() if m.noisy)


def _known(side: Side, key: str) -> Quantity | None:
    found = side.numbers.get(key)
    return found if found is not None and found.value is not None else None


def identical(subject: Subject, name: str, gate: float, base: Side, head: Side) -> Line | None:
    """SAME where both sides hold one record (:func:`one_record`) and it has the metric; else None."""
    before, after = (_known(side, METRICS[name].key) for side in (base, head))
    if before is None or before != after or not one_record(base, head):
        return None
    unit = "ratio" if METRICS[name].relative else "points"
    change = Quantity(0.0, unit, 0.0, 0.0, before.n, before.provenance, "one record on both sides")
    note = "one record on both sides: every sample is the same"
    return Line(subject, name, "identical", gate, before, before, change, "SAME", note=note)


def unpaired(subject: Subject, gate: float, base: Quantity, head: Quantity, why: str) -> Line:
    """Two accuracies as of two independent samples (:func:`bench.stats.unpaired_accuracy`).

    REGRESSED or IMPROVED: beyond the gate and beyond chance; SAME: the interval lies inside the gate. Else INCONCLUSIVE,
    which it mostly is: without the answers to each image, few images say little.

    Args:
        base, head: fractions with the number of images.
        why: what is missing to judge them by the same images.
    """
    before, after = base.value or 0.0, head.value or 0.0
    line = Line(subject, "accuracy", "unpaired", gate, base, head, Quantity(None), "INCONCLUSIVE", note=why)
    sure = weakest(base, head)
    if not base.n or not head.n:
        change = Quantity(
            after - before, "points", provenance=sure, method="no interval: of how many images is not known"
        )
        return replace(line, change=change, note=f"{why}, and not of how many images they are")
    counts = (round(before * base.n), base.n), (round(after * head.n), head.n)
    difference, low, high, p = stats.unpaired_accuracy(*counts)
    verdict: Verdict = "INCONCLUSIVE"
    if abs(difference) > gate and p <= ALPHA:
        verdict = direction("accuracy", difference)
    elif -gate <= low and high <= gate:
        verdict = "SAME"
    method = f"{base.n} and {head.n} images as independent samples, Newcombe interval, z test p={p:.3g}"
    change = Quantity(difference, "points", low, high, min(base.n, head.n), sure, method)
    share = (counts[0][0] + counts[1][0]) / (base.n + head.n)
    variance = max(share * (1.0 - share), 1.0 / (base.n + head.n))
    seen = (1.96 + 0.84) * math.sqrt(variance * (1.0 / base.n + 1.0 / head.n))
    return replace(line, change=change, verdict=verdict, p=p, smallest=max(gate, seen))
