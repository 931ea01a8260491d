"""Which variant to ship: limits and an objective applied to the cells of one target, or of several at once.

Accuracy is judged on the validation set, so that the test set stays an honest estimate of the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.errors import NothingFitsError
from reports import targets as places
from reports import text
from reports.front import Front, front, knee
from reports.limits import METRICS, PESSIMISTIC, REFUSED, Constraints, Limit, Metric, judged
from reports.objective import OBJECTIVES, Candidate, Judge, Objective, parse_objective
from reports.rows import Row
from reports.targets import Target

if TYPE_CHECKING:
    from bench.store import RunData

__all__ = ["OBJECTIVES", "Choice", "Relaxed", "Target", "choose"]

FORETOLD = "predicted, not measured"
SAME_SIZE = 0.02
"""Artifacts whose sizes differ by less than this share count as equally small."""


@dataclass(frozen=True)
class Relaxed:
    """What would be chosen if ``limit`` were ``bound``: the least change that gains something.

    ``bound`` None: if there were no such limit, since nobody knows whether the candidate keeps it.
    """

    limit: Limit
    bound: float | None
    candidate: Candidate


@dataclass(frozen=True)
class Choice:
    """The answer. ``runners_up`` fit too, best first; ``tied`` are those that the objective cannot tell from the chosen one.

    ``refused`` pairs a row with its reasons. ``objective`` is None where the knee of ``curve`` was taken: accuracy
    over ``by``.
    """

    targets: tuple[Target, ...]
    constraints: Constraints
    objective: Objective | None
    by: Metric
    chosen: Candidate
    tied: tuple[Candidate, ...]
    runners_up: tuple[Candidate, ...]
    refused: tuple[tuple[Row, tuple[str, ...]], ...]
    front: Front
    curve: tuple[Candidate, ...]
    relaxed: tuple[Relaxed, ...]
    judge: Judge

    @property
    def metrics(self) -> list[Metric]:
        """What decided."""
        return self.objective.metrics if self.objective else [METRICS["accuracy"], self.by]


def choose(
    runs: Sequence[RunData],
    constraints: Constraints,
    objective: str | None = None,
    runtime: str | None = None,
    hosts: Sequence[str] = (),
    batch: int | None = None,
    items: list[Row] | None = None,
) -> Choice:
    """The best candidate by ``objective`` among those that keep ``constraints`` on every target.

    For one target a candidate is a cell; for several it is a variant, on each target with the best of its cells there
    that fit, and judged by the worst target. A limit is judged on the value, of a prediction on the worse end of its
    interval; an interval that crosses it is a warning. Candidates that the objective cannot tell from the best one (see
    :mod:`reports.verdicts`) are one choice: of those the smallest, and of those equally small (within SAME_SIZE) the most
    accurate. Without an objective: latency where accuracy has a limit, else the knee of accuracy and latency.

    Each run is one target, or as many as ``hosts`` names of its hosts; by default the run's own target if it has the
    numbers, else ``local``. ``batch`` defaults to the smallest. ``items`` are the rows of a single run, for a caller that
    has them already.

    Raises:
        UsageError: unknown objective, runtime, host or batch.
        NothingFitsError: nothing satisfies the constraints; says the nearest miss of each.
    """
    asked = _asked(objective, constraints)
    needs = asked.metrics if asked else [METRICS["accuracy"], METRICS["latency"]]
    targets = places.find(runs, constraints, needs, runtime, hosts, batch, items)
    if not asked and not any(METRICS["latency"].read(r).value for t in targets for r in t.rows):
        needs = [METRICS["accuracy"], METRICS["size"]]
    judge = Judge([t.run for t in targets], constraints.predictions)
    order = asked or Objective(((needs[1], 1.0),))
    fitting, refused = _sort_out(judge, targets, constraints, needs, order)
    if not fitting:
        raise _nothing_fits(targets, refused, constraints, needs)
    if len(targets) == 1 and not hosts:
        refused += places.elsewhere(targets[0], runs[0], runtime, items)
    curve: list[Candidate] = []
    unbeaten = front(judge, fitting)
    if asked:
        ordered, tied = _rank(judge, fitting, asked)
        relaxed = _relaxed(judge, targets, constraints, needs, asked, ordered[0])
    else:
        ordered, tied, curve = _knee(
            judge, fitting, [one for one, _ in unbeaten.members] or fitting, needs[1]
        )
        relaxed = ()
    return Choice(
        tuple(targets),
        constraints,
        asked,
        needs[-1],
        ordered[0],
        tuple(tied),
        tuple(ordered[1:]),
        tuple(refused),
        unbeaten,
        tuple(curve),
        relaxed,
        judge,
    )


def _asked(objective: str | None, constraints: Constraints) -> Objective | None:
    if objective is None:
        return parse_objective("latency") if constraints.bounds_accuracy else None
    return parse_objective(objective)


# --- what fits


def _refusals(row: Row, limits: list[Limit], needs: list[Metric], predictions: str) -> list[str]:
    """Why ``row`` cannot be chosen; empty when it can."""
    if row.status == "failed":
        return [f"failed: {row.reason or 'no reason recorded'}"]
    values = {limit.name: limit.metric.read(row) for limit in limits}
    values |= {metric.name: metric.read(row) for metric in needs}
    missing: dict[str, list[str]] = {}
    for name, quantity in values.items():
        if quantity.value is None:
            missing.setdefault(quantity.reason or row.reason or "not recorded", []).append(name)
    reasons = [f"{' and '.join(names)} not measured: {why}" for why, names in missing.items()]
    if predictions == REFUSED:
        foretold = [name for name, quantity in values.items() if quantity.provenance == "predicted"]
        if foretold:
            return [f"{' and '.join(foretold)} {FORETOLD}"]
    for limit in limits:
        quantity = limit.metric.read(row)
        if quantity.value is not None and not limit.holds(quantity):
            reasons.append(f"{limit.name} {limit.metric.show(quantity)}, wanted {limit.bound_words}")
    return reasons


Refused = list[tuple[Row, tuple[str, ...]]]


def _sort_out(
    judge: Judge,
    targets: list[Target],
    constraints: Constraints,
    needs: list[Metric],
    order: Objective,
) -> tuple[list[Candidate], Refused]:
    """The candidates that fit, and the rows that keep the others from fitting, with their reasons."""
    verdict = [
        [
            (row, tuple(_refusals(row, constraints.on(t.name), needs, constraints.predictions)))
            for row in t.rows
        ]
        for t in targets
    ]
    if len(targets) == 1:
        fitting = [Candidate((row,)) for row, reasons in verdict[0] if not reasons]
        return fitting, [(row, reasons) for row, reasons in verdict[0] if reasons]
    fitting, refused = [], []
    for variant in dict.fromkeys(row.cell.variant for t in targets for row in t.rows):
        best = []
        for place, target in enumerate(targets):
            own = [(row, reasons) for row, reasons in verdict[place] if row.cell.variant == variant]
            fit = [row for row, reasons in own if not reasons]
            alone = Judge([target.run], judge.predictions)
            if fit:
                best.append(min(fit, key=lambda row, a=alone: a.cost(Candidate((row,)), order)))  # type: ignore[misc]
            elif own:
                refused += [(row, tuple(f"on {target.name}: {r}" for r in reasons)) for row, reasons in own]
            else:
                other = next(row for t in targets for row in t.rows if row.cell.variant == variant)
                refused.append((other, (f"on {target.name}: no cell",)))
        if len(best) == len(targets):
            fitting.append(Candidate(tuple(best)))
    return fitting, refused


def _nothing_fits(
    targets: list[Target], refused: Refused, constraints: Constraints, needs: list[Metric]
) -> NothingFitsError:
    wrong = {id(row) for row, _ in refused}
    stuck = [t for t in targets if all(id(row) in wrong for row in t.rows)]
    found = _why_nothing(stuck or targets, refused, constraints, needs)
    variants = len({row.cell.variant for t in targets for row in t.rows})
    what, where = text.plural(len(targets[0].rows), "cell"), ""
    if len(targets) > 1:
        what, where = text.plural(variants, "variant"), f" on all of {text.listed([t.name for t in targets])}"
        found = f"nothing fits on {stuck[0].name}: {found}" if stuck else found
    return NothingFitsError(
        f"none of {what} satisfies the constraints{where}",
        found=found,
        todo="Relax a limit, choose another --runtime or --host, or add smaller variants to the recipe",
    )


def _why_nothing(
    targets: list[Target], refused: Refused, constraints: Constraints, needs: list[Metric]
) -> str:
    """What nobody measured, else the nearest miss of each limit, else the reasons as they are."""
    alive = [row for t in targets for row in t.rows if row.status != "failed"]
    limits = [x for x in constraints.limits if x.target in ("", *(t.name for t in targets))]
    metrics = {m.name: m for m in (*needs, *(x.metric for x in limits))}
    unknown = [m for m in metrics.values() if all(m.read(row).value is None for row in alive)]
    here = {id(row) for t in targets for row in t.rows}
    reasons = dict.fromkeys(r for row, reasons in refused if id(row) in here for r in reasons)
    if alive and unknown and len(unknown) < len(metrics):
        reason = unknown[0].read(alive[0]).reason or alive[0].reason or "not recorded"
        return f"{unknown[0].name} is not measured anywhere: {reason}"
    if limits and not unknown and not all(r.endswith(FORETOLD) for r in reasons):
        nearest = [_nearest(targets, limit) for limit in limits]
        return "; ".join([said for missed, said in nearest if missed] or [said for _, said in nearest])
    return "; ".join(list(reasons)[:5]) or "the run has no cells"


def _nearest(targets: list[Target], limit: Limit) -> tuple[bool, str]:
    """Whether all miss a limit, and the cell that comes closest to it, on the target where that is farthest."""
    worst: tuple[float, str] | None = None
    for target in targets:
        rows = [r for r in target.rows if r.status != "failed" and limit.target in ("", target.name)]
        known = []
        for row in rows:
            quantity = limit.metric.read(row)
            value = judged(quantity, limit.metric.less, limit.predictions)
            if value is not None:
                known.append((limit.miss(value), row, quantity))
        if known:
            miss, row, quantity = min(known, key=lambda item: item[0])
            where = (
                f"{row.cell.variant} on {row.cell.runtime}{'' if len(targets) == 1 else f' on {target.name}'}"
            )
            said = f"{where}: {limit.metric.show(quantity)}"
            if quantity.provenance == "predicted" and limit.predictions == PESSIMISTIC:
                said += " (of a prediction the worse end counts, if not --trust-predictions)"
            if worst is None or miss > worst[0]:
                worst = miss, said
    if worst is None:
        return True, f"{limit.words}: nothing has a value"
    missed = worst[0] > 0
    return missed, f"{limit.words}: {'missed by all, nearest' if missed else 'best'} is {worst[1]}"


# --- which of those that fit


def _smallest(judge: Judge, tied: list[Candidate], last: Sequence[Metric]) -> Candidate:
    """Of candidates that count as one: the smallest; of those equally small the most accurate, then the best by ``last``."""
    size, accuracy = METRICS["size"], METRICS["accuracy"]

    def value(candidate: Candidate, metric: Metric) -> float:
        found = judge.value(candidate, metric)
        return math.inf if found is None else found if metric.less else -found

    least = min(value(c, size) for c in tied)
    small = [c for c in tied if value(c, size) <= least * (1 + SAME_SIZE)]
    return min(
        small,
        key=lambda c: (
            -(accuracy.read(c.rows[0]).value or 0.0),
            *(value(c, m) for m in last),
            value(c, size),
        ),
    )


def _rank(
    judge: Judge, fitting: list[Candidate], objective: Objective
) -> tuple[list[Candidate], list[Candidate]]:
    """All that fit, the chosen one first and the others by objective; and those that tie with the best."""
    ordered = sorted(fitting, key=lambda c: judge.cost(c, objective))
    tied = [c for c in ordered if c is ordered[0] or judge.same(ordered[0], c, objective)]
    chosen = _smallest(judge, tied, objective.metrics)
    return [chosen, *(c for c in ordered if c is not chosen)], [c for c in tied if c is not chosen]


def _knee(
    judge: Judge, fitting: list[Candidate], unbeaten: list[Candidate], by: Metric
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """As :func:`_rank`, for the knee of the front; and the curve it is on, with the chosen one in the knee's place."""
    found, curve = knee(judge, unbeaten, by)
    metrics = (METRICS["accuracy"], by)
    tied = [c for c in fitting if c is found or all(judge.tied(found, c, m) for m in metrics)]
    chosen = _smallest(judge, tied, metrics)
    ordered = sorted(fitting, key=lambda c: judge.value(c, by) or math.inf)
    alike = [c for c in tied if c is not chosen]
    line = [chosen if c is found else c for c in curve if c is found or c is not chosen]
    return [chosen, *(c for c in ordered if c is not chosen)], alike, line


def _relaxed(
    judge: Judge,
    targets: list[Target],
    constraints: Constraints,
    needs: list[Metric],
    objective: Objective,
    chosen: Candidate,
) -> tuple[Relaxed, ...]:
    """For each limit, the least that it must give for something better than the chosen one to fit."""
    found = []
    for limit in constraints.limits:
        rest = replace(constraints, limits=tuple(x for x in constraints.limits if x is not limit))
        candidates, _ = _sort_out(judge, targets, rest, needs, objective)
        better = [
            (_needed(judge, targets, limit, candidate), candidate)
            for candidate in candidates
            if judge.cost(candidate, objective) < judge.cost(chosen, objective)
            and not judge.same(chosen, candidate, objective)
        ]
        known = [(bound, one) for bound, one in better if bound is not None and not limit.allows(bound)]
        unknown = [one for bound, one in better if bound is None]
        if known:
            bound, candidate = min(known, key=lambda b: (limit.miss(b[0]), judge.cost(b[1], objective)))
            found.append(Relaxed(limit, bound, candidate))
        elif unknown:
            found.append(Relaxed(limit, None, min(unknown, key=lambda one: judge.cost(one, objective))))
    return tuple(found)


def _needed(judge: Judge, targets: list[Target], limit: Limit, candidate: Candidate) -> float | None:
    """What of the limit's metric ``candidate`` has where it is farthest beyond; None where that is not known."""
    inside = [
        Candidate((row,))
        for target, row in zip(targets, candidate.rows, strict=True)
        if limit.target in ("", target.name)
    ]
    alone = Judge(judge.runs[:1], judge.predictions)
    values = [alone.value(c, limit.metric) for c in inside]
    known = [v for v in values if v is not None]
    return max(known, key=limit.miss) if known and len(known) == len(values) else None
