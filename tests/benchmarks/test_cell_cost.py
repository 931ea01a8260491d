"""What one cell costs beyond warm-up, steady state and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hosts import open_host
from bench.measure.power import CodeCarbon
from bench.runtimes import get, names
from tests.tiny import Tiny

LIMIT = 2.5
HOST = open_host("local")


@pytest.mark.benchmark
@pytest.mark.parametrize("name", names())
def test_the_cost_of_a_cell(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """The worker is started ahead, as the pipeline does while it exports or reads predictions."""
    runtime, energy = get(name), CodeCarbon()
    if not runtime.probe(HOST).available:
        pytest.skip(f"{name} is not installed")
    energy.prepare()
    worker = runtime.start(HOST)
    worker.ready()
    result = runtime.measure(
        tiny.job(runtime.format, tmp_path), HOST, lambda event, details: None, worker=worker, energy=energy
    )
    energy.close()
    assert result.status == "ok", result.reason
    seconds = result.seconds
    cost = seconds["total"] - seconds["warmup"] - seconds["steady"] - seconds["predict"]
    assert cost <= LIMIT, f"{cost:.2f} s: {seconds}"
