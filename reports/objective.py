"""What to make best: one metric, or several with weights; and whether two candidates can be told apart by it.

Several metrics are a weighted product, as in the reward of MnasNet (Tan et al. 2019, accuracy * latency^-0.07):
``accuracy + 0.07*latency`` gains as much by 1% more accuracy as by a latency of 1/1.01^(1/0.07). A product needs
no scale for each metric, and no candidate that is added or left out changes the order of the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UsageError, nearest
from bench.types import Quantity
from reports import rows as model
from reports import verdicts
from reports.limits import METRICS, PESSIMISTIC, Metric, judged
from reports.rows import Predictions, Row

if TYPE_CHECKING:
    from bench.store import RunData

OBJECTIVES = {name: metric for name, metric in METRICS.items() if name != "drop"}
_TERM = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)\s*\*\s*)?([\w-]+?)\s*")


@dataclass(frozen=True)
class Objective:
    """Metrics and their weights, all positive."""

    terms: tuple[tuple[Metric, float], ...]

    @property
    def words(self) -> str:
        return " + ".join(m.name if w == 1.0 else f"{w:g}*{m.name}" for m, w in self.terms)

    @property
    def metrics(self) -> list[Metric]:
        return [metric for metric, _ in self.terms]


def parse_objective(typed: str) -> Objective:
    """``latency``, or ``accuracy + 0.07*latency``.

    Raises:
        UsageError: an unknown metric, one named twice, or a weight that is not above 0.
    """
    terms: dict[str, tuple[Metric, float]] = {}
    for part in typed.split("+"):
        found = _TERM.fullmatch(part)
        if not found:
            raise UsageError(
                f"{part.strip()!r} is no part of an objective", todo="Write it as 'accuracy + 0.07*latency'"
            )
        weight, name = float(found[1] or 1.0), found[2]
        if name not in OBJECTIVES:
            raise UsageError(f"there is no objective {name!r}", todo=nearest(name, OBJECTIVES))
        if weight <= 0 or not math.isfinite(weight):
            raise UsageError(f"the weight of {name} must be above 0", found=part.strip())
        if name in terms:
            raise UsageError(f"{name} is in the objective twice", found=typed)
        terms[name] = OBJECTIVES[name], weight
    return Objective(tuple(terms.values()))


@dataclass(frozen=True)
class Candidate:
    """What would be shipped: one row for each target, all of one variant."""

    rows: tuple[Row, ...]

    @property
    def variant(self) -> str:
        return self.rows[0].cell.variant


class Judge:
    """Compares candidates over ``runs``, the run of each target, by the worst of their rows.

    ``predictions`` says what a predicted value counts as (see :class:`reports.limits.Constraints`).
    """

    def __init__(self, runs: Sequence[RunData], predictions: str = PESSIMISTIC) -> None:
        self.runs, self.predictions = runs, predictions
        self._read = {id(run): Predictions(run) for run in runs}

    def worst(self, candidate: Candidate, metric: Metric) -> int:
        """The place of the target where ``metric`` is worst, or missing."""

        def badness(place: int) -> float:
            value = judged(metric.read(candidate.rows[place]), metric.less, self.predictions)
            return math.inf if value is None else value if metric.less else -value

        return max(range(len(candidate.rows)), key=badness)

    def quantity(self, candidate: Candidate, metric: Metric) -> Quantity:
        """``metric`` at the target where it is worst."""
        return metric.read(candidate.rows[self.worst(candidate, metric)])

    def value(self, candidate: Candidate, metric: Metric) -> float | None:
        """What that counts as."""
        return judged(self.quantity(candidate, metric), metric.less, self.predictions)

    def cost(self, candidate: Candidate, objective: Objective) -> float:
        """The logarithm of the weighted product; less is better, infinite where a value is missing."""
        total = 0.0
        for metric, weight in objective.terms:
            value = self.value(candidate, metric)
            if value is None or value <= 0:
                return math.inf
            total += weight * math.log(value) * (1.0 if metric.less else -1.0)
        return total

    def difference(self, a: Candidate, b: Candidate, metric: Metric) -> Quantity:
        """``a / b`` where each is worst, or b's accuracy minus a's on the same images; no interval where none is known."""
        i, j = self.worst(a, metric), self.worst(b, metric)
        one, other = a.rows[i], b.rows[j]
        left, right = metric.read(one), metric.read(other)
        if metric.name == "accuracy":
            if self.runs[i] is self.runs[j]:
                found = self._read[id(self.runs[i])].change(one.record, other.record, "validation")
                if found.value is not None:
                    return found
            return _apart(left, right)
        timed = metric.kind in ("latency", "rate")
        shared = model.alike(one.record, other.record) if metric.name == "latency" and i == j else None
        return model.ratio(left, right, "" if timed else "ratio of values", shared=shared)

    def tied(self, a: Candidate, b: Candidate, metric: Metric) -> bool:
        """Whether nothing shows that the two differ in ``metric``."""
        if self.quantity(a, metric).value == self.quantity(b, metric).value:
            return True
        found = self.difference(a, b, metric)
        if metric.kind in ("latency", "rate") and found.low is None and found.value is not None:
            return 1.0 / (1.0 + verdicts.NOISE) <= found.value <= 1.0 + verdicts.NOISE
        if metric.kind in ("latency", "rate"):
            return verdicts.outcome(found) == verdicts.SAME
        none = 0.0 if metric.name == "accuracy" else 1.0
        return found.low is not None and found.high is not None and found.low <= none <= found.high

    def same(self, a: Candidate, b: Candidate, objective: Objective) -> bool:
        """Whether the objective cannot tell ``b`` from ``a``.

        Of several metrics the intervals count in quadrature: the logarithm of the product is a sum.
        """
        if len(objective.terms) == 1:
            return self.tied(a, b, objective.terms[0][0])
        arms = [weight * self._arm(a, b, metric) for metric, weight in objective.terms]
        return abs(self.cost(b, objective) - self.cost(a, objective)) <= math.hypot(*arms)

    def _arm(self, a: Candidate, b: Candidate, metric: Metric) -> float:
        """Half the interval of a metric's logarithm, at least what :mod:`reports.verdicts` asks of latencies; 0 where there is none."""
        found, base = self.difference(a, b, metric), self.quantity(a, metric).value
        if found.low is None or found.high is None or not base:
            return 0.0
        if metric.name == "accuracy":
            return (found.high - found.low) / 2 / base
        arm = math.log(found.high / found.low) / 2 if found.low > 0 else math.inf
        if metric.kind not in ("latency", "rate"):
            return arm
        return max(arm, math.log1p(verdicts.GATE if found.method == model.BETWEEN else verdicts.NOISE))


def _apart(left: Quantity, right: Quantity) -> Quantity:
    """A difference of two accuracies that share no images."""
    if left.value is None or right.value is None:
        return Quantity.missing("not measured")
    value = right.value - left.value
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return Quantity(value)
    arm = math.hypot(left.high - left.low, right.high - right.low) / 2
    return Quantity(value, "", value - arm, value + arm, right.n, model.weakest(left, right), "not paired")
