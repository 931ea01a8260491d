"""The Pareto front of candidates in all metrics, its knee, and what a limit costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.limits import METRICS, Metric
from reports.objective import Candidate, Judge

AXES = ("accuracy", "latency", "size", "memory", "energy")
"""What a front is of, as far as every candidate has a value."""


@dataclass(frozen=True)
class Front:
    """``members``: candidates that no other beats; each with those that cannot be told from it in any metric."""

    metrics: tuple[Metric, ...]
    members: tuple[tuple[Candidate, tuple[Candidate, ...]], ...]


def front(judge: Judge, candidates: Sequence[Candidate]) -> Front:
    """The candidates that no other beats or equals in every metric and beats in one, from the cheapest in latency.

    Those that no metric tells apart are one choice: the smallest, with the others beside it.
    """
    import numpy as np

    metrics = tuple(
        METRICS[name]
        for name in AXES
        if candidates and all(judge.value(c, METRICS[name]) is not None for c in candidates)
    )
    if not metrics:
        return Front((), ())
    worth = np.array(
        [[(judge.value(c, m) or 0.0) * (1 if m.less else -1) for m in metrics] for c in candidates]
    )
    beaten = [bool(((worth <= one).all(1) & (worth < one).any(1)).any()) for one in worth]
    kept = [c for c, lost in zip(candidates, beaten, strict=True) if not lost]
    groups: list[tuple[Candidate, list[Candidate]]] = []
    for candidate in sorted(kept, key=lambda c: judge.value(c, METRICS["size"]) or math.inf):
        like = next((g for g in groups if all(judge.tied(g[0], candidate, m) for m in metrics)), None)
        if like:
            like[1].append(candidate)
        else:
            groups.append((candidate, []))
    first = next((m for m in metrics if m.name != "accuracy"), metrics[0])
    groups.sort(key=lambda g: judge.value(g[0], first) or math.inf)
    return Front(metrics, tuple((one, tuple(others)) for one, others in groups))


def price(judge: Judge, candidates: Sequence[Candidate]) -> Metric | None:
    """What accuracy is weighed against: latency, or the first other metric that every candidate has."""
    costs = [METRICS[name] for name in AXES[1:]]
    return next((m for m in costs if all((judge.value(c, m) or 0.0) > 0 for c in candidates)), None)


def knee(judge: Judge, candidates: Sequence[Candidate], by: Metric) -> tuple[Candidate, list[Candidate]]:
    """The candidate at the knee of accuracy over the logarithm of ``by``, and that front from cheap to dear.

    The point farthest above the line between the front's two ends (Das 1999, On characterizing the "knee" of the
    Pareto curve based on normal-boundary intersection, Structural Optimization 18). Where none is above it, and of two
    points alone, the most accurate.
    """
    accuracy = METRICS["accuracy"]

    def worth(candidate: Candidate) -> float:
        return judge.value(candidate, accuracy) or 0.0

    def dear(candidate: Candidate) -> float:
        return math.log(judge.value(candidate, by) or math.inf)

    curve: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (dear(c), -worth(c))):
        if not curve or worth(candidate) > worth(curve[-1]):
            curve.append(candidate)
    wide, high = dear(curve[-1]) - dear(curve[0]), worth(curve[-1]) - worth(curve[0])
    if len(curve) < 3 or wide <= 0:
        return curve[-1], curve

    def above(candidate: Candidate) -> float:
        return (worth(candidate) - worth(curve[0])) / high - (dear(candidate) - dear(curve[0])) / wide

    return max(curve, key=lambda c: (above(c), worth(c))), curve
