"""The places that a choice is for: a host of a run at one batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.errors import NothingFitsError, UsageError, nearest
from bench.types import Quantity
from reports import rows as model
from reports.limits import REFUSED, Constraints, Limit, Metric
from reports.rows import Row

if TYPE_CHECKING:
    from bench.store import RunData


@dataclass(frozen=True)
class Target:
    """A place to ship to: a host of a run at one batch size, and its rows. ``asked``: somebody named the host."""

    name: str
    run: RunData
    host: str
    batch: int
    rows: tuple[Row, ...]
    asked: bool = False

    @property
    def wanted(self) -> str:
        """The device that the run was made for."""
        return str((self.run.manifest.get("profile") or {}).get("name", ""))


def _named(value: str, known: set[str], what: str) -> None:
    if value not in known:
        raise UsageError(f"no cell of this run is on the {what} {value!r}", todo=nearest(value, known))


def find(
    runs: Sequence[RunData],
    constraints: Constraints,
    needs: list[Metric],
    runtime: str | None,
    hosts: Sequence[str],
    batch: int | None,
    items: list[Row] | None,
) -> list[Target]:
    found: list[tuple[RunData, str, list[Row]]] = []
    everywhere = [(run, model.rows(run) if items is None else items) for run in runs]
    empty = next((run for run, rows in everywhere if not rows), None)
    if empty is not None:
        raise NothingFitsError(
            f"the run {empty.path} has no measured cells", todo="Finish it with: bench run"
        )
    every = [row for _, rows in everywhere for row in rows]
    if runtime is not None:
        _named(runtime, {r.cell.runtime for r in every}, "runtime")
    for host in hosts:
        _named(host, {r.cell.host for r in every}, "host")
    for run, rows in everywhere:
        inside = [r for r in rows if runtime in (None, r.cell.runtime)]
        here = {r.cell.host for r in inside}
        limits = list(constraints.limits)
        chosen = [h for h in hosts if h in here] or [_pick_host(run, inside, limits, needs, constraints)]
        found += [(run, host, [r for r in inside if r.cell.host == host]) for host in chosen]
    names = [host for _, host, _ in found]
    targets = [
        replace(_target(run, host, rows, batch, names.count(host) > 1), asked=host in hosts)
        for run, host, rows in found
    ]
    known = [t.name for t in targets]
    for limit in constraints.limits:
        if limit.target and limit.target not in known:
            raise UsageError(
                f"the limit {limit.words!r} is on a target that is not compared",
                found=f"targets {', '.join(known)}",
                todo="Add a host with --host, or another run by naming it too",
            )
    return targets


def _target(run: RunData, host: str, rows: list[Row], batch: int | None, shared: bool) -> Target:
    sizes = {r.cell.batch for r in rows}
    if batch is not None and batch not in sizes:
        raise UsageError(f"no cell of this run has batch {batch} on {host}", found=f"batches {sorted(sizes)}")
    size = batch if batch is not None else min(sizes, default=1)
    name = f"{run.path.name}/{host}" if shared else host
    return Target(name, run, host, size, tuple(r for r in rows if r.cell.batch == size))


def _pick_host(
    run: RunData, rows: list[Row], limits: list[Limit], needs: list[Metric], constraints: Constraints
) -> str:
    """The run's target if it has every number that is needed, else this machine, else whatever has them, else this machine."""

    def counts(quantity: Quantity) -> bool:
        return quantity.value is not None and (
            constraints.predictions != REFUSED or quantity.provenance != "predicted"
        )

    def known(host: str) -> bool:
        metrics = [*needs, *(limit.metric for limit in limits if limit.target in ("", host))]
        return any(
            all(counts(m.read(r)) for m in metrics)
            for r in rows
            if r.cell.host == host and r.status != "failed"
        )

    hosts = list(dict.fromkeys(r.cell.host for r in rows))
    wanted = (run.manifest.get("profile") or {}).get("name", "")
    order = [h for h in (wanted, "local") if h in hosts] + [h for h in hosts if h not in (wanted, "local")]
    return next((host for host in order if known(host)), "local" if "local" in hosts else order[0])


def elsewhere(
    target: Target, run: RunData, runtime: str | None, items: list[Row] | None
) -> list[tuple[Row, tuple[str, ...]]]:
    """What failed or was skipped on the run's target, where another host is compared: nobody should wonder where it has gone."""
    rows = model.rows(run) if items is None else items
    return [
        (r, (f"{r.status}: {r.reason or 'no reason recorded'}",))
        for r in rows
        if r.status != "ok"
        and r.cell.host == target.wanted != target.host
        and runtime in (None, r.cell.runtime)
    ]
