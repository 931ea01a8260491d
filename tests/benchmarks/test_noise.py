"""Do our intervals hold what they promise on this machine, and do our instruments disturb what they measure?"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.agent.memory import MemorySampler
from bench.hosts import open_host
from bench.measure import paired, selftest
from bench.measure.artifact import open_artifact
from bench.measure.power import open_source
from bench.measure.processes import measure_processes
from bench.measure.turns import TURN_SECONDS
from bench.runtimes.base import CellJob
from bench.stats import mean_interval
from bench.types import Protocol, Quantity

HOST = open_host("local")
REPEATS, HELD = 40, 36
COMPARISONS, FALSE = 20, 1
SAMPLED_PROCESSES = 4


def quiet(event: str, info: dict) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path) -> CellJob:
    path = selftest.standard_model(tmp_path)
    artifact = open_artifact(path, "onnxruntime").artifact
    return CellJob(artifact, path, tmp_path, protocol=Protocol(), predict=False)


def measure(job: CellJob) -> Quantity:
    runtime = open_artifact(job.path, "onnxruntime").runtime
    return measure_processes(runtime, job, HOST, quiet).metrics["latency_ms"]


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_the_interval_holds_the_next_median(job: CellJob) -> None:
    found = [measure(job) for _ in range(REPEATS + 1)]
    inside = [a.low <= b.value <= a.high for a, b in itertools.pairwise(found)]  # type: ignore[operator]
    arms = [(q.high - q.low) / 2 / q.value for q in found]  # type: ignore[operator]
    values = [q.value or math.nan for q in found]
    told = (
        f"{sum(inside)} of {REPEATS} next medians inside the stated interval; half-width {statistics.median(arms):.1%} "
        f"(median), medians from {min(values):.3f} to {max(values):.3f} ms"
    )
    print(told)
    assert sum(inside) >= HELD, told


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_a_program_is_not_called_slower_than_itself() -> None:
    document = selftest.measure_self(None, "", 1, COMPARISONS, paired.LEAST_PAIRS, paired.GATE, 0, quiet)
    alarms = round(document["false_alarms"]["value"] * COMPARISONS)
    told = (
        f"{alarms} false alarms in {COMPARISONS} comparisons; between processes "
        f"{document['between_processes']['value']:.1%}, by turns {document['by_turns']['value']:.1%}, "
        f"smallest effect {document['smallest_effect']['value']:.1%}; "
        f"{[c['verdict'] for c in document['comparisons']].count('SAME')} SAME"
    )
    print(told)
    assert alarms < FALSE, told


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_sampling_memory_and_power_costs_less_than_one_percent(job: CellJob) -> None:
    """Sampling is on in every other turn of one process; in a cell, memory is not even sampled in the steady state."""
    runtime = open_artifact(job.path, "onnxruntime").runtime
    source = open_source("cpu")
    source.prepare()
    ratios: list[float] = []
    for _ in range(SAMPLED_PROCESSES):
        with runtime.start(HOST) as worker, contextlib.closing(MemorySampler(worker.pid)) as sampler:
            numbers = itertools.count()

            def switch(event: str, info: dict, numbers=numbers, sampler=sampler) -> None:
                if event != "turn":
                    return
                if next(numbers) % 2 == 0:
                    sampler.resume("steady")
                    source.start()
                else:
                    sampler.pause()
                    source.stop()

            protocol = Protocol(processes=1, max_seconds=10.0, half_width=1e-9)
            result = runtime.measure(
                replace(job, protocol=protocol, turn_seconds=TURN_SECONDS), HOST, switch, worker
            )
        assert result.samples is not None
        turns = np.split(np.load(result.samples), result.runtime["turns"])[:-1]
        medians = [float(np.median(turn)) for turn in turns]
        ratios += [on / off for off, on in zip(medians[::2], medians[1::2], strict=False)]
    source.close()
    _, low, high = mean_interval([math.log(r) for r in ratios])
    ratio = statistics.median(ratios)
    told = (
        f"with sampling / without: {ratio:.4f} (median of {len(ratios)} pairs of turns in {SAMPLED_PROCESSES} "
        f"processes; interval of the mean {math.exp(low):.4f} to {math.exp(high):.4f})"
    )
    print(told)
    assert abs(ratio - 1) < 0.01, told
