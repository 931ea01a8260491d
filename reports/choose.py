"""Which variant to ship: constraints and an objective applied to a run's cells.

Accuracy is judged on the validation set, so that the test set stays an honest estimate of the choice.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import NothingFitsError, UsageError, nearest
from bench.types import Quantity
from reports import rows as model
from reports import text, verdicts
from reports.limits import (
    REFUSED,
    Constraints,
    Limit,
    judged,
    parse_constraints,
    parse_quantity,
    percent,
    validation,
)
from reports.limits import limits as active_limits
from reports.rows import Predictions, Row

if TYPE_CHECKING:
    from bench.store import RunData

__all__ = [
    "OBJECTIVES",
    "Choice",
    "Constraints",
    "choose",
    "parse_constraints",
    "parse_quantity",
]

OBJECTIVES: dict[str, tuple[str, bool]] = {
    "latency": ("latency_ms", True),
    "size": ("size_bytes", True),
    "memory": ("memory_mb", True),
    "energy": ("energy_mj", True),
    "macs": ("macs", True),
    "params": ("params", True),
    "accuracy": ("val_accuracy", False),
    "throughput": ("throughput_ips", False),
}
"""Objective -> (metric, whether less is better)."""

FORETOLD = "predicted, not measured"
SAME_SIZE = 0.02
"""Artifacts whose sizes differ by less than this share count as equally small."""


@dataclass(frozen=True)
class Choice:
    """The answer. ``runners_up`` fit too, best first; ``refused`` pairs a row with its reasons.

    ``command`` exports its file, ``folder`` all that it takes to ship it.
    """

    objective: str
    constraints: Constraints
    considered: str
    chosen: Row
    runners_up: tuple[Row, ...]
    refused: tuple[tuple[Row, tuple[str, ...]], ...]
    warnings: tuple[str, ...]
    command: str
    folder: str
    explanation: str


def _objective_quantity(row: Row, objective: str) -> Quantity:
    return validation(row) if objective == "accuracy" else row.metrics[OBJECTIVES[objective][0]]


def _refusals(row: Row, limits: list[Limit], objective: str, predictions: str) -> list[str]:
    """Why ``row`` cannot be chosen; empty when it can."""
    if row.status == "failed":
        return [f"failed: {row.reason or 'no reason recorded'}"]
    needs = [(limit.name, limit.read(row)) for limit in limits] + [
        (objective, _objective_quantity(row, objective))
    ]
    missing: dict[str, list[str]] = {}
    for name, quantity in dict(needs).items():
        if quantity.value is None:
            missing.setdefault(quantity.reason or row.reason or "not recorded", []).append(name)
    reasons = [f"{' and '.join(names)} not measured: {why}" for why, names in missing.items()]
    if predictions == REFUSED:
        foretold = [name for name, quantity in dict(needs).items() if quantity.provenance == "predicted"]
        if foretold:
            return [f"{' and '.join(foretold)} {FORETOLD}"]
    for limit in limits:
        quantity = limit.read(row)
        if quantity.value is not None and not limit.holds(quantity):
            short = limit.show(quantity)
            reasons.append(f"{limit.name} {short}, wanted {limit.bound_words}")
    return reasons


def _pick_host(run: RunData, items: list[Row], limits: list[Limit], objective: str, predictions: str) -> str:
    """The target if it has every number that is needed, else this machine, else whatever has most."""

    def counts(quantity: Quantity) -> bool:
        return quantity.value is not None and (predictions != REFUSED or quantity.provenance != "predicted")

    def known(host: str) -> bool:
        return any(
            all(counts(q) for q in (_objective_quantity(r, objective), *(x.read(r) for x in limits)))
            for r in items
            if r.cell.host == host and r.status != "failed"
        )

    hosts = list(dict.fromkeys(r.cell.host for r in items))
    target = (run.manifest.get("profile") or {}).get("name", "")
    order = [h for h in (target, "local") if h in hosts] + [h for h in hosts if h not in (target, "local")]
    return next((host for host in order if known(host)), "local" if "local" in hosts else order[0])


def _named(value: str, known: set[str], what: str) -> None:
    if value not in known:
        raise UsageError(f"no cell of this run is on the {what} {value!r}", todo=nearest(value, known))


def _equal(run: RunData, best: Row, other: Row, objective: str) -> bool:
    """Whether the objective's interval cannot tell the two apart."""
    a, b = _objective_quantity(best, objective), _objective_quantity(other, objective)
    if a.value == b.value:
        return True
    if objective == "accuracy":
        change = Predictions(run).change(best.record, other.record, "validation")
        if change.low is not None and change.high is not None:
            return change.low <= 0.0 <= change.high
        return a.low is not None and b.high is not None and a.low <= b.high
    ratio = model.ratio(
        a, b, shared=model.alike(best.record, other.record) if objective == "latency" else None
    )
    if objective in ("latency", "throughput"):
        return verdicts.outcome(ratio) == "no measurable difference"
    return ratio.low is not None and ratio.high is not None and ratio.low <= 1.0 <= ratio.high


def _warnings(row: Row, limits: list[Limit], objective: str) -> list[str]:
    found = []
    for limit in limits:
        quantity = limit.read(row)
        if limit.crossed(quantity):
            found.append(f"the interval of {limit.name}, {limit.show(quantity)}, crosses the limit")
    needs = {limit.name: limit.read(row) for limit in limits} | {
        objective: _objective_quantity(row, objective)
    }
    for name, quantity in needs.items():
        if quantity.provenance in ("estimated", "predicted"):
            found.append(f"{name} is {quantity.provenance}, not measured")
    missing = row.metrics["val_accuracy"]
    if missing.value is None and any("accuracy" in name for name in needs):
        found.append(
            f"no validation accuracy ({missing.reason}): the test set was used and cannot test this choice"
        )
    return found


def _nearest_misses(candidates: list[Row], limits: list[Limit]) -> str:
    """For each constraint, the cell that comes closest and by how much."""
    lines = []
    for limit in limits:
        known = [(limit.miss(q.value), r, q) for r in candidates if (q := limit.read(r)).value is not None]
        if not known:
            lines.append(f"{limit.words}: nothing has a value")
            continue
        miss, row, quantity = min(known, key=lambda item: item[0])
        where = f"{row.cell.variant} on {row.cell.runtime}: {limit.show(quantity)}"
        lines.append(f"{limit.words}: {'missed by all, nearest' if miss > 0 else 'best'} is {where}")
    return "; ".join(lines)


def _nothing_fits(
    candidates: list[Row], refused: list[tuple[Row, tuple[str, ...]]], limits: list[Limit]
) -> NothingFitsError:
    alive = [row for row in candidates if row.status != "failed"]
    foretold = all(any(r.endswith(FORETOLD) for r in reasons) for _, reasons in refused)
    if (
        not foretold
        and limits
        and any(limit.read(row).value is not None for row in alive for limit in limits)
    ):
        found = _nearest_misses(alive, limits)
    else:
        reasons = dict.fromkeys(reason for _, reasons in refused for reason in reasons)
        found = "; ".join(list(reasons)[:5]) or "the run has no cells"
    return NothingFitsError(
        f"none of {text.plural(len(candidates), 'cell')} satisfies the constraints",
        found=found,
        todo="Relax a limit, choose another --runtime or --host, or add smaller variants to the recipe",
    )


def choose(
    run: RunData,
    constraints: Constraints,
    objective: str = "latency",
    runtime: str | None = None,
    host: str | None = None,
    batch: int | None = None,
    items: list[Row] | None = None,
) -> Choice:
    """The cell that is best at ``objective`` among those that satisfy ``constraints``.

    A limit is judged on the value, of a prediction on the worse end of its interval; an interval that crosses it is a
    warning. Where the objective cannot
    tell cells apart (see :mod:`reports.verdicts`), the smallest artifact wins, and of those equally small
    (within SAME_SIZE) the most accurate. Only cells of one host and one batch size are compared:
    ``host`` defaults to the run's target if it has the numbers, else ``local``; ``batch`` to the smallest.
    ``items`` are the run's rows, for a caller that has them already.

    Raises:
        UsageError: unknown objective, runtime, host or batch.
        NothingFitsError: no cell satisfies the constraints; says the nearest miss of each.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"there is no objective {objective!r}", todo=nearest(objective, OBJECTIVES))
    items = model.rows(run) if items is None else items
    if not items:
        raise NothingFitsError("the run has no measured cells", todo="Finish it with: bench run")
    limits = list(active_limits(constraints))
    if runtime is not None:
        _named(runtime, {r.cell.runtime for r in items}, "runtime")
    if host is not None:
        _named(host, {r.cell.host for r in items}, "host")
    inside = [r for r in items if runtime in (None, r.cell.runtime)]
    place = host or _pick_host(run, inside, limits, objective, constraints.predictions)
    candidates = [r for r in inside if r.cell.host == place]
    sizes = {r.cell.batch for r in candidates}
    if batch is not None and batch not in sizes:
        raise UsageError(
            f"no cell of this run has batch {batch} on {place}", found=f"batches {sorted(sizes)}"
        )
    size = batch if batch is not None else min(sizes, default=1)
    candidates = [r for r in candidates if r.cell.batch == size]
    verdict = [(r, tuple(_refusals(r, limits, objective, constraints.predictions))) for r in candidates]
    fitting = [r for r, reasons in verdict if not reasons]
    refused = [(r, reasons) for r, reasons in verdict if reasons]
    if not fitting:
        raise _nothing_fits(candidates, refused, limits)
    elsewhere = [] if host else [r for r in inside if r.status != "ok" and r.cell.host != place]
    refused += [(r, (f"{r.status}: {r.reason or 'no reason recorded'}",)) for r in elsewhere]
    ordered, tied = _rank(run, fitting, objective, constraints.predictions)
    return _choice(run, constraints, objective, f"{place}, batch {size}", ordered, tied, refused, limits)


def _rank(run: RunData, fitting: list[Row], objective: str, predictions: str) -> tuple[list[Row], list[Row]]:
    """All that fit, the chosen one first and the others by objective; and those that tie with the best."""
    sign = 1.0 if OBJECTIVES[objective][1] else -1.0

    def cost(row: Row) -> float:
        value = judged(_objective_quantity(row, objective), sign > 0, predictions)
        return math.inf if value is None else sign * value

    def bytes_of(row: Row) -> float:
        value = row.metrics["size_bytes"].value
        return math.inf if value is None else value

    ordered = sorted(fitting, key=cost)
    tied = [row for row in ordered if row is ordered[0] or _equal(run, ordered[0], row, objective)]
    least = min(bytes_of(row) for row in tied)
    small = [row for row in tied if bytes_of(row) <= least * (1 + SAME_SIZE)]
    chosen = min(small, key=lambda row: (-(validation(row).value or 0.0), cost(row), bytes_of(row)))
    return [chosen, *(row for row in ordered if row is not chosen)], [
        row for row in tied if row is not chosen
    ]


def _choice(
    run: RunData,
    constraints: Constraints,
    objective: str,
    considered: str,
    ordered: list[Row],
    tied: list[Row],
    refused: list[tuple[Row, tuple[str, ...]]],
    limits: list[Limit],
) -> Choice:
    chosen = ordered[0]
    name = chosen.cell.variant
    words = [str(run.path), "--variant", name, "--runtime", chosen.cell.runtime]
    words += [] if chosen.cell.host == "local" else ["--host", chosen.cell.host]
    words += ["--output", f"deploy/{name}"]
    target, place = (run.manifest.get("profile") or {}).get("name", ""), chosen.cell.host
    apart = constraints.predictions == REFUSED and target not in ("", "local", place)
    elsewhere = [f"this is the best on {place}, which is not {target}"] if apart else []
    command = shlex.join(["bench", "export", *words])
    folder = shlex.join(["bench", "export", str(run.path), "--chosen", "--output", f"deploy/{name}"])
    return Choice(
        objective,
        constraints,
        considered,
        chosen,
        tuple(ordered[1:]),
        tuple(refused),
        (*elsewhere, *_warnings(chosen, limits, objective)),
        command,
        folder,
        _explain(run, chosen, objective, considered, len(ordered), len(refused), tied, limits),
    )


def _explain(
    run: RunData,
    chosen: Row,
    objective: str,
    considered: str,
    fitting: int,
    refused: int,
    tied: list[Row],
    limits: list[Limit],
) -> str:
    """One paragraph a person can repeat to someone else."""
    value = show_objective(chosen, objective)
    asked = " and ".join(limit.words for limit in limits) or "no constraints"
    out = [
        f"{chosen.cell.variant} on {chosen.cell.runtime} has the best {objective} ({value}) of the "
        f"{text.plural(fitting, 'cell')} that fit ({asked}); {refused} were refused."
    ]
    if tied:
        names = ", ".join(f"{r.cell.variant} on {r.cell.runtime}" for r in tied[:4])
        more = f" and {len(tied) - 4} more" if len(tied) > 4 else ""
        out = [
            f"{chosen.cell.variant} on {chosen.cell.runtime} is the smallest of {len(tied) + 1} cells whose "
            f"{objective} cannot be told from the best ({value}); tied: {names}{more}. "
            f"{text.plural(fitting, 'cell')} fit ({asked}); {refused} were refused."
        ]
    faster, smaller = chosen.relative["x_faster"], chosen.relative["x_smaller"]
    if not chosen.is_reference and faster.value is not None and smaller.value is not None:
        reference = run.manifest.get("reference", "")
        out.append(
            f"Against {reference}: {text.ratio(faster, 'interval')} faster, {text.ratio(smaller)} smaller."
        )
    test = chosen.metrics["accuracy"]
    if test.value is not None:
        out.append(
            f"Decided on the validation set; accuracy on the test set, not used here, is {percent(test)}."
        )
    target = (run.manifest.get("profile") or {}).get("name", "")
    place = considered.split(",")[0]
    if target not in ("", "local", place):
        out.append(f"Compared on {place}: nothing comparable is known for {target}.")
    return " ".join(out)


def show_objective(row: Row, objective: str) -> str:
    quantity = _objective_quantity(row, objective)
    if objective == "accuracy":
        return percent(quantity)
    if objective == "size":
        return text.size(quantity)
    if objective in ("macs", "params"):
        return text.count(quantity)
    return f"{text.interval(quantity)} {quantity.unit}".strip()
