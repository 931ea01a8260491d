"""Do our intervals hold what they promise on this machine, and do our instruments disturb what they measure?"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hosts import open_host
from bench.measure import paired, selftest
from bench.measure.artifact import open_artifact
from bench.measure.power import open_source
from bench.measure.processes import measure_processes
from bench.runtimes import listener
from bench.runtimes.base import CellJob
from bench.stats import mean_interval
from bench.types import Protocol, Quantity

HOST = open_host("local")
REPEATS, HELD = 40, 36
COMPARISONS, FALSE = 20, 1
SAMPLER_PAIRS = 40


def quiet(event: str, info: dict) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path) -> CellJob:
    path = selftest.standard_model(tmp_path)
    artifact, _ = open_artifact(path, "onnxruntime")
    return CellJob(artifact, path, tmp_path, protocol=Protocol(), predict=False)


def measure(job: CellJob) -> Quantity:
    _, runtime = open_artifact(job.path, "onnxruntime")
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
        f"{document['between_processes']['value']:.1%}, smallest effect {document['smallest_effect']['value']:.1%}"
    )
    print(told)
    assert alarms < FALSE, told


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_sampling_memory_and_power_costs_less_than_one_percent(
    job: CellJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runtime = open_artifact(job.path, "onnxruntime")
    once = replace(job, protocol=Protocol(processes=1, max_seconds=1.0))
    source = open_source("cpu")
    source.prepare()

    def sampled() -> float:
        return float(
            runtime.measure(once, HOST, quiet, energy=source).metrics["latency_ms"].value or math.nan
        )

    def bare() -> float:
        with monkeypatch.context() as patch:
            patch.setattr(listener.MemorySampler, "resume", lambda self, part: None)
            return float(runtime.measure(once, HOST, quiet).metrics["latency_ms"].value or math.nan)

    sides: dict[str, tuple[Callable[[], float], list[float]]] = {"base": (bare, []), "head": (sampled, [])}
    for _, side in paired.order(SAMPLER_PAIRS, seed=1):
        timed, kept = sides[side]
        kept.append(timed())
    source.close()
    logs = [math.log(h / b) for b, h in zip(sides["base"][1], sides["head"][1], strict=True)]
    _, low, high = mean_interval(logs)
    ratio = math.exp(statistics.median(logs))
    told = f"with sampling / without: {ratio:.4f} (median of {SAMPLER_PAIRS} pairs; mean's interval {math.exp(low):.3f} to {math.exp(high):.3f})"
    print(told)
    assert abs(ratio - 1) < 0.01, told
