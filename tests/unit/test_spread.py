"""Intervals over few processes, with what the run's other cells say about the machine."""

from __future__ import annotations

import math

import pytest

from bench import stats
from bench.types import Json, Quantity
from reports.spread import steadied


def cell(
    latencies: list[float], runtime: str = "onnxruntime", memory: float | None = 10.0, half_width: float = 0.0
) -> Json:
    values = [{"latency_ms": v, "memory_mb": memory} for v in latencies]
    return {
        "cell": {"runtime": runtime, "host": "local", "batch": 4},
        "runtime": {"processes": [{"values": v, "half_width": half_width} for v in values]}
        if len(latencies) > 1
        else {},
    }


def metrics(latencies: list[float]) -> dict[str, Quantity]:
    if len(latencies) > 1:
        value, low, high = stats.process_interval(latencies)
        latency = Quantity(value, "ms", low, high, len(latencies), "measured", f"median; {stats.NEXT_RUN}")
    else:
        latency = Quantity(latencies[0], "ms", latencies[0], latencies[0], 100, "measured", "median")
    images = 4e3 / latencies[0]
    throughput = Quantity(images, "images/s", 0.1, 1e9, len(latencies), "measured")
    return {"latency_ms": latency, "throughput_ips": throughput, "memory_mb": Quantity(10.0, "MB")}


def steady(cells: list[list[float]], runtimes: list[str] | None = None) -> list[dict[str, Quantity]]:
    names = runtimes or ["onnxruntime"] * len(cells)
    return steadied([cell(c, r) for c, r in zip(cells, names, strict=True)], [metrics(c) for c in cells])


PAIRS = [[1.0, 1.05], [2.0, 2.04], [3.0, 3.2], [5.0, 5.1]]


def test_two_processes_get_an_interval_from_the_other_cells() -> None:
    before, after = metrics(PAIRS[0])["latency_ms"], steady(PAIRS)[0]["latency_ms"]
    assert after.value == before.value and after.low < after.value < after.high
    assert after.high / after.low < 1.25 < 1.8 < before.high / before.low
    assert stats.NEXT_RUN in after.method and "3 other cells" in after.method


def test_no_interval_is_narrower_than_the_calls_of_its_processes_say() -> None:
    records = [cell(c, half_width=0.2 if c is PAIRS[0] else 0.0) for c in PAIRS]
    wide, *others = (q["latency_ms"] for q in steadied(records, [metrics(c) for c in PAIRS]))
    assert wide.high / wide.low == pytest.approx(math.exp(2 * 0.2))
    assert others == [q["latency_ms"] for q in steady(PAIRS)[1:]]


def test_throughput_follows_the_latency() -> None:
    found = steady(PAIRS)[0]
    latency, throughput = found["latency_ms"], found["throughput_ips"]
    assert throughput.low == pytest.approx(4e3 / latency.high)
    assert throughput.high == pytest.approx(4e3 / latency.low)


def test_a_cell_that_differs_more_than_the_others_keeps_a_wider_interval() -> None:
    found = [q["latency_ms"] for q in steady([*PAIRS, *PAIRS, *PAIRS, *PAIRS, [4.0, 6.0]])]
    assert found[-1].high / found[-1].low > 1.08 * found[1].high / found[1].low


def test_single_processes_other_runtimes_and_too_few_cells_are_left_alone() -> None:
    single = steady([[1.0], *PAIRS])[0]["latency_ms"]
    assert (single.low, single.high) == (1.0, 1.0)
    lonely = [[1.0, 1.05], [2.0, 2.04]]
    assert [q["latency_ms"] for q in steady(lonely)] == [metrics(c)["latency_ms"] for c in lonely]
    apart = steady([[1.0, 1.05], *PAIRS[1:]], ["torch", *["onnxruntime"] * 3])
    assert apart[0]["latency_ms"] == metrics([1.0, 1.05])["latency_ms"]


def test_what_one_process_does_not_know_is_left_alone() -> None:
    records = [cell(c, memory=None) for c in PAIRS]
    found = steadied(records, [metrics(c) for c in PAIRS])
    assert found[0]["memory_mb"] == Quantity(10.0, "MB")
