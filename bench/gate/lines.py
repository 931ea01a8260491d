"""One metric of one subject: how it changed, how sure that is, and what to call it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench import stats
from bench.gate.looks import ALPHA, Judged, holm
from bench.gate.sides import Answers, Side, Subject
from bench.gate.thresholds import METRICS
from bench.measure.paired import POWER, Verdict
from bench.types import Json, Quantity
from reports.rows import weakest

Mode = Literal["paired", "recorded", "exact", "answers", "unpaired", "identical"]
FAILED: Literal["FAILED"] = "FAILED"
NOT_WORSE: Literal["NOT WORSE"] = "NOT WORSE"
SESSION = 0.05
"""Relative deviation between sessions that is assumed where no history tells it. Of a small model on an idle two-core VM, medians of runs hours apart differ by about so much."""


@dataclass(frozen=True)
class Line:
    """``change`` is head / base - 1, or the difference of two accuracies; positive is more, whether better or not.

    ``mode``: ``paired`` (pairs of processes now), ``recorded`` (numbers of two times), ``exact`` (a size, or the very same
    file), ``answers`` (to the same images), ``unpaired`` (accuracies without the answers) or ``identical`` (one record on
    both sides). ``p`` is None where nothing was left to chance. ``smallest``: the least
    change that this would have shown in 80% of the cases. ``unit`` of ``base`` and ``head`` is the metric's.
    """

    subject: Subject
    metric: str
    mode: Mode
    gate: float
    base: Quantity
    head: Quantity
    change: Quantity
    verdict: Verdict | Literal["NOT WORSE", "FAILED"]
    p: float | None = None
    smallest: float | None = None
    note: str = ""

    @property
    def open(self) -> bool:
        """Could more samples still change what a gate says: pass or fail, or that it got better?"""
        beyond = abs(self.change.value or 0.0) > self.gate
        return self.verdict == "INCONCLUSIVE" or (self.verdict == NOT_WORSE and beyond)


@dataclass(frozen=True)
class Checked:
    """All lines, and what else a reader must know. ``pairs``: by subject, what was measured (:meth:`bench.gate.pairwise.Timed.raw`)."""

    lines: tuple[Line, ...]
    only_base: tuple[Subject, ...] = ()
    only_head: tuple[Subject, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    pairs: dict[str, list[Json]] = field(default_factory=dict)


def direction(name: str, change: float) -> Verdict:
    """REGRESSED or IMPROVED, by the sign of a change that stands."""
    return "REGRESSED" if (change > 0) == METRICS[name].less else "IMPROVED"


def _values(base: Side, head: Side, name: str) -> tuple[Quantity, Quantity]:
    key = METRICS[name].key
    none = Quantity.missing("not measured")
    return base.numbers.get(key, none), head.numbers.get(key, none)


def unknown(
    subject: Subject, name: str, gate: float, reason: str, known: Sequence[Quantity | None] = (None, None)
) -> Line:
    """A line of recorded numbers that cannot be judged, for this reason; ``known``: base and head, as far as they are."""
    none = Quantity.missing(reason)
    before, after = (q or none for q in known)
    return Line(subject, name, "recorded", gate, before, after, none, "INCONCLUSIVE", note=reason)


# --- exact


def exact(subject: Subject, name: str, gate: float, base: Side, head: Side, note: str = "") -> Line:
    """A size, which is known to the byte; or any metric of two files that are one."""
    before, after = _values(base, head, name)
    if base.artifact.sha256 and base.artifact.sha256 == head.artifact.sha256:
        same = Quantity(
            0.0,
            "ratio" if METRICS[name].relative else "fraction",
            0.0,
            0.0,
            provenance="measured",
            method="the same file",
        )
        return Line(
            subject,
            name,
            "exact",
            gate,
            before,
            after,
            same,
            "SAME",
            note=note or "the same file, byte for byte",
        )
    change = (after.value or 0.0) / (before.value or 1.0) - 1.0
    verdict = direction(name, change) if abs(change) > gate * (1 + 1e-9) else "SAME"
    found = Quantity(change, "ratio", change, change, provenance="measured", method="bytes of the files")
    return Line(subject, name, "exact", gate, before, after, found, verdict, note=note)


# --- accuracy


def accuracy(subject: Subject, gate: float, base: Answers, head: Answers) -> Line:
    """Two accuracies on the same images: exact McNemar test, and Agresti and Min's interval (:func:`bench.stats.paired_accuracy`).

    REGRESSED or IMPROVED: beyond the gate, and McNemar's p is small enough (which :func:`together` decides). SAME: every
    image has the same outcome, or the interval lies inside the gate. Else INCONCLUSIVE.

    Raises:
        ValueError: answers to other images.
    """
    if base.images != head.images:
        raise ValueError("the two answered different images")
    n = len(base.right)
    difference, low, high, p = stats.paired_accuracy(base.right, head.right)
    discordant = int((base.right != head.right).sum())
    verdict: Verdict = "INCONCLUSIVE"
    if abs(difference) > gate and p <= ALPHA:
        verdict = direction("accuracy", difference)
    elif discordant == 0 or (-gate <= low and high <= gate):
        verdict = "SAME"
    share = max(discordant, 1) / n
    smallest = (1.96 + 0.84) * math.sqrt(share / n)
    note = f"{discordant} of {n} images have another outcome"
    if verdict == "INCONCLUSIVE":
        note += (
            f"; {gate * 100:.3g} points want about {math.ceil(share * ((1.96 + 0.84) / gate) ** 2):,} images"
        )
    change = Quantity(
        difference,
        "fraction",
        low,
        high,
        n,
        "measured",
        f"the same {n} test images, Agresti-Min interval, exact McNemar p={p:.3g}",
    )
    before, after = (a.accuracy() for a in (base, head))
    return Line(
        subject, "accuracy", "answers", gate, before, after, change, verdict, p, max(gate, smallest), note
    )


# --- paired


def paired(
    subject: Subject, name: str, gate: float, judged: Judged, medians: tuple[Quantity, Quantity]
) -> Line:
    """From pairs of processes (:func:`bench.gate.looks.judge`); a verdict that does not stand is :func:`together`'s matter."""
    found = judged.paired
    verdict = found.verdict
    if verdict in ("REGRESSED", "IMPROVED"):
        verdict = direction(name, found.ratio - 1.0)
    change = Quantity(
        found.ratio - 1.0, "ratio", found.low - 1.0, found.high - 1.0, found.pairs, "measured",
        f"{found.pairs} pairs of processes by turns, {judged.looks} looks; signed ranks, repeated interval of {1 - ALPHA:.1%}",
    )  # fmt: skip
    return Line(subject, name, "paired", gate, *medians, change, verdict, judged.p, found.smallest)


# --- recorded


def recorded(
    subject: Subject, name: str, gate: float, base: Side, head: Side, session: tuple[float, int] | None = None
) -> Line:
    """From numbers of two times: the spread between processes of each, and the one between sessions.

    Student's interval of the difference of the means of logarithms, Welch's degrees of freedom (Biometrika 34, 1947).

    Args:
        session: relative deviation between sessions and how many told it; None: SESSION is assumed.
    """
    before, after = _values(base, head, name)
    missing = next(
        (
            f"{who}: {q.reason or 'not recorded'}"
            for who, q in (("base", before), ("head", after))
            if not q.value
        ),
        "",
    )
    none = Line(
        subject,
        name,
        "recorded",
        gate,
        before,
        after,
        Quantity.missing(missing),
        "INCONCLUSIVE",
        note=missing,
    )
    if missing:
        return none
    centre = math.log((after.value or 1.0) / (before.value or 1.0))
    parts = [_error(side, METRICS[name].key, q) for side, q in ((base, before), (head, after))]
    if any(part is None for part in parts):
        change = Quantity(math.expm1(centre), "ratio", provenance="measured", method="no spread was recorded")
        return replace(
            none, change=change, note="one process each: nothing is known of the spread between processes"
        )
    deviation, sessions = session or (SESSION, 0)
    parts += [(deviation**2, max(sessions - 1, 1) if sessions else 1000)] * 2
    low, high, p, seen = _welch(centre, [part for part in parts if part])
    verdict: Verdict = "INCONCLUSIVE"
    if (low > 0 or high < 0) and abs(math.expm1(centre)) > gate:
        verdict = direction(name, centre)
    elif math.log1p(-gate) <= low and high <= math.log1p(gate):
        verdict = "SAME"
    told = (
        f"{sessions} sessions differ by {deviation:.1%}"
        if sessions
        else f"{deviation:.0%} between sessions assumed"
    )
    method = f"means of processes at two times; {told}; t interval of {1 - ALPHA:.1%}"
    sure = weakest(before, after)
    change = Quantity(math.expm1(centre), "ratio", math.expm1(low), math.expm1(high), None, sure, method)
    return Line(subject, name, "recorded", gate, before, after, change, verdict, p, max(gate, seen), told)


def _error(side: Side, key: str, quantity: Quantity) -> tuple[float, float] | None:
    """(variance of the logarithm, degrees of freedom) of a recorded number: from its processes, else from its interval."""
    values = side.processes.get(key) or []
    if key == "throughput_ips":  # of one stream: images over latency
        values = values or side.processes.get("latency_ms") or []
    if len(values) > 1:
        logs = [math.log(v) for v in values]
        mean = sum(logs) / len(logs)
        return sum((x - mean) ** 2 for x in logs) / (len(logs) - 1) / len(logs), len(logs) - 1
    if quantity.low and quantity.high and stats.NEXT_RUN in quantity.method:
        return (math.log(quantity.high / quantity.low) / 2 / 1.96) ** 2, 1000
    return None


def _welch(centre: float, parts: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """(low, high, two-sided p, change seen with a power of 80%) of a difference whose variance has these parts."""
    from scipy.special import stdtr, stdtrit

    variance = sum(v for v, _ in parts) or 1e-12
    freedom = variance**2 / (sum(v * v / f for v, f in parts) or 1e-18)
    error = math.sqrt(variance)
    arm = float(stdtrit(freedom, 1.0 - ALPHA / 2.0)) * error
    seen = arm + float(stdtrit(freedom, POWER)) * error
    return centre - arm, centre + arm, 2.0 * float(stdtr(freedom, -abs(centre) / error)), math.expm1(seen)


# --- together


def together(lines: Sequence[Line], alpha: float = ALPHA) -> list[Line]:
    """Changes that Holm's procedure over all lines does not let stand become INCONCLUSIVE.

    SAME needs no such care: to pass wrongly, the check must be wrong about the very thing that changed (an
    intersection-union test; Berger, Technometrics 24, 1982).
    """
    stands = holm({i: line.p for i, line in enumerate(lines) if line.p is not None}, alpha)
    return [
        replace(
            line,
            verdict="INCONCLUSIVE",
            note=f"p={line.p:.2g} is too large beside {len(lines) - 1} others (Holm)",
        )
        if line.verdict in ("REGRESSED", "IMPROVED") and line.p is not None and i not in stands
        else line
        for i, line in enumerate(lines)
    ]


def one_sided(lines: Sequence[Line]) -> list[Line]:
    """What a gate asks: is it worse? An INCONCLUSIVE line whose interval ends inside the limit on the worse side is NOT WORSE.

    A test of non-inferiority by an interval (Committee for Proprietary Medicinal Products, *Points to consider on switching between
    superiority and non-inferiority*, Br. J. Clin. Pharmacol. 52, 2001). A program that is worse by more than the limit passes
    no more often than its interval fails to cover; like SAME it needs no care for the number of lines.
    """
    return [
        replace(line, verdict=NOT_WORSE, note="")
        if line.verdict == "INCONCLUSIVE" and _worst(line) <= line.gate
        else line
        for line in lines
    ]


def _worst(line: Line) -> float:
    """How much worse the metric may have got, by its interval; infinite where nothing is known."""
    end = line.change.high if METRICS[line.metric].less else line.change.low
    return math.inf if end is None else end if METRICS[line.metric].less else -end
