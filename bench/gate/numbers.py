"""What recorded numbers alone tell: that both sides hold one record, and how two accuracies without their answers differ."""

from __future__ import annotations

from bench.gate.lines import Line, unknown
from bench.gate.sides import Side, Subject
from bench.gate.thresholds import METRICS
from bench.types import Quantity


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
    unit = "ratio" if METRICS[name].relative else "fraction"
    change = Quantity(0.0, unit, 0.0, 0.0, before.n, before.provenance, "one record on both sides")
    note = "one record on both sides: every sample is the same"
    return Line(subject, name, "identical", gate, before, before, change, "SAME", note=note)


def known(subject: Subject, name: str, gate: float, base: Side, head: Side) -> Line | None:
    """What needs no comparison: one record on both sides, or a base that is a file and has no number; else None."""
    if base.path is not None and METRICS[name].key not in base.numbers:
        why = f"{name} is compared as recorded only, and the file of the base has no record (a run or a baseline has)"
        return unknown(subject, name, gate, why)
    return identical(subject, name, gate, base, head)
