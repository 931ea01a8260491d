"""The Pareto front of candidates in all metrics, its knee, and what a limit costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.limits import METRICS, Metric
from reports.objective import Candidate, Judge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AXES = ("accuracy", "latency", "size", "memory", "energy")
"""What a front is of, as far as every candidate has a value."""


@dataclass(frozen=True)
class Front:
    """``members``: candidates that no other beats; each with those that cannot be told from it in any metric."""

    metrics: tuple[Metric, ...]
    members: tuple[tuple[Candidate, tuple[Candidate, ...]], ...]


def front(judge: Judge, candidates: Sequence[Candidate]) -> Front:
    """The candidates that no other beats: none is as good in every metric and better in one, beyond what chance explains.

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
    left = [(c, w) for c, w, lost in zip(candidates, worth, beaten, strict=True) if not lost]
    kept = _unbeaten(judge, metrics, left)
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


def _unbeaten(
    judge: Judge, metrics: Sequence[Metric], left: list[tuple[Candidate, NDArray[np.float64]]]
) -> list[Candidate]:
    """Those of a front by values whose every advantage over another one is more than chance.

    To be tied is not transitive, so three could beat each other in a ring: of such all stay.
    """

    def beats(a: int, b: int) -> bool:
        (one, w), (other, v) = left[a], left[b]
        told = [(m, w[i] < v[i]) for i, m in enumerate(metrics) if w[i] != v[i]]
        if not any(better for _, better in told):
            return False
        worse = any(not better and not judge.tied(one, other, m) for m, better in told)
        return not worse and any(better and not judge.tied(one, other, m) for m, better in told)

    places = range(len(left))
    by = {b: {a for a in places if a != b and beats(a, b)} for b in places}
    kept: set[int] = set()
    rest = set(places)
    while rest:
        free = {b for b in rest if not by[b] & rest} or set(rest)
        kept |= free
        rest -= free
        rest -= {b for b in rest if by[b] & kept}
    return [left[i][0] for i in sorted(kept)]


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
