"""A runtime lent to a step: pruning to a latency and the quantization ladder time their candidates with it.

The ratio of two files comes from pairs of fresh processes timed by turns (:mod:`bench.measure.turns`): the candidate and its
parent meet the same neighbours and clocks, so a few seconds tell what minutes apart would not.
"""

from __future__ import annotations

import math
import platform
import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.errors import EdgefitError, MissingError, UsageError, nearest
from bench.measure.environment import hardware
from bench.measure.turns import orders, time_pair
from bench.runtimes.base import CellJob
from bench.stats import mean_interval
from bench.types import ExportResult, Json, Profile, Protocol, Quantity, Target, digest
from hardware_profiles.predict import Setting

PAIRS = 3
PROTOCOL = Protocol(max_seconds=1.0, warmup_seconds=0.2)
"""Of each process of a candidate: short, since many candidates are timed; the cells measure the chosen ones at length."""


def open_target(runtime: str, machine: Json, protocol: Protocol | None = None, pairs: int = PAIRS) -> Target:
    """The named runtime of this machine, ready to time.

    Args:
        machine: ``bench.measure.environment.describe()``; decides the INT8 scheme.
        protocol: of the run: its first batch size and thread count, and its CPUs, are those of the candidates too.

    Raises:
        UsageError: there is no such runtime.
        MissingError: it is not installed here; says what to do.
    """
    from bench import runtimes
    from bench.hosts import open_host

    if runtime not in runtimes.names():
        raise UsageError(
            f"There is no runtime {runtime!r} to time on", todo=nearest(runtime, runtimes.names())
        )
    lent, host = runtimes.get(runtime), open_host("local")
    probe = lent.probe(host)
    if not probe.available:
        raise MissingError(
            f"A step wants to time its candidates on {runtime}, which is not here", probe.reason, probe.remedy
        )

    given = protocol or Protocol()
    batch, threads = given.batches[0], given.threads[0]
    timing = replace(PROTOCOL, cpus=given.cpus)

    def ratio(base: ExportResult, head: ExportResult) -> Quantity:
        with tempfile.TemporaryDirectory() as folder:
            sides = {}
            for side, made in (("base", base), ("head", head)):
                (outdir := Path(folder) / side).mkdir()
                job = CellJob(made.artifact, made.path, outdir, batch, threads, "cpu", timing, predict=False)
                sides[side] = (lent, job)
            found = [time_pair(sides, order, host).ratio for order in orders(pairs, seed=0)]
        return _ratio(found, runtime, threads, batch)

    return Target(
        runtime,
        lent.format,
        lent.int8_scheme(machine),
        ratio,
        digest(hardware(machine)),
        partial(_foretold, Setting(runtime, "fp32", batch, threads)),
    )


@cache
def _alike() -> Profile | None:
    """A device with a processor of this machine's kind: what differs between them is nearly the same factor for all nets."""
    from hardware_profiles.load import every

    ours = "arm-cpu" if platform.machine().lower() in ("aarch64", "arm64") else "x86-cpu"
    return next((profile for profile in every() if profile.kind == ours), None)


def _foretold(setting: Setting, net: Any, shape: tuple[int, int, int]) -> float | None:
    """Milliseconds that the runtime is predicted to take for a torch module on such a processor; None where it is not predicted."""
    from hardware_profiles.predict import predict, read_graph

    try:
        alike = _alike()
        if alike is None:
            return None
        return predict(read_graph(net, *shape), alike, setting).latency_ms.value
    except EdgefitError:
        return None


def _ratio(found: list[float], runtime: str, threads: int, batch: int) -> Quantity:
    centre, low, high = mean_interval([math.log(r) for r in found])
    return Quantity(
        math.exp(centre),
        "ratio",
        math.exp(low),
        math.exp(high),
        len(found),
        "measured",
        f"latency ratio on {runtime}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}: pairs of processes by turns, t interval",
    )
