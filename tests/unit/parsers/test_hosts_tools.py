"""benchmark_app of OpenVINO and onnxruntime_perf_test."""

from __future__ import annotations

import pytest
from hypothesis import given

from bench.parsers import benchmark_app, onnxruntime_perf_test
from tests.parser_checks import EXAMPLES, check_honest, fixture, hostile

TO_MILLI = (1000.0,)
"""Microseconds in the text, milliseconds in the result."""


def _log(name: str) -> benchmark_app.Run:
    return benchmark_app.parse(fixture("benchmark_app", name))


def test_microseconds_since_2026_become_milliseconds() -> None:
    run = _log("python_2026_sync_us")
    latencies = (run.median_ms, run.average_ms, run.min_ms, run.max_ms)
    assert latencies == pytest.approx((0.05821, 0.06555, 0.04662, 1.13026))
    assert (run.count, run.duration_ms, run.throughput_fps, run.first_ms) == (50, 5.21, 9598.74, 1.95)
    assert (run.read_ms, run.compile_ms, run.compile_ram_kb) == (33.42, 84.09, 109460)
    assert (run.api, run.hint, run.devices, run.requests, run.filling_included) == (
        "sync",
        "LATENCY",
        "CPU",
        None,
        False,
    )
    assert (
        run.version == "2026.4.1-22982-e213a147257-releases/2026/4"
        and run.threads == 2
        and run.streams == "1"
    )
    assert run.unknown == ("[ INFO ] CPU",) and len(run.warnings) == 1


def test_a_percentile_is_no_median_and_groups_are_passed_over() -> None:
    run = _log("python_2024_async")
    assert run.median_ms is None and run.percentiles_ms == ((95, 92.86),) and run.average_ms == 96.95
    assert (run.api, run.requests, run.hint, run.devices) == ("async", 12, "THROUGHPUT", "CPU, GPU.0")
    assert run.filling_included is True and run.throughput_fps == 123.43


def test_cpp_and_the_form_of_2021() -> None:
    cpp, old = _log("cpp_2022"), _log("python_2021")
    assert (cpp.median_ms, cpp.average_ms, cpp.min_ms, cpp.max_ms) == (67.31, 67.62, 38.95, 102.53)
    assert cpp.filling_included is False and cpp.requests == 4 and not cpp.unknown
    assert (old.median_ms, old.average_ms, old.count, old.throughput_fps) == (67.31, None, 3548, 59.09)


def test_a_failure_has_errors_and_no_numbers() -> None:
    run = _log("failed")
    assert run.errors and run.count is None and run.throughput_fps is None and len(run.unknown) == 1


def test_perf_test_new() -> None:
    run = onnxruntime_perf_test.parse(fixture("onnxruntime_perf_test", "new"))
    assert (run.session_s, run.first_ms, run.total_s, run.requests, run.average_ms) == (
        0.0102016,
        2,
        0.185739,
        100,
        1.85739,
    )
    assert (run.run_s, run.per_second, run.cpu_percent, run.peak_bytes, run.runs) == (
        0.18581,
        538.184,
        96,
        36696064,
        100,
    )
    assert (run.min_s, run.max_s, run.p50_s, run.p90_s) == (0.00183404, 0.00190312, 0.00185674, 0.00187215)
    assert (run.p95_s, run.p99_s, run.p999_s) == (0.00187393, 0.00190312, 0.00190312)
    assert run.settings[0] == "Setting intra_op_num_threads to 1" and not run.unknown


def test_perf_test_old_and_newest() -> None:
    old = onnxruntime_perf_test.parse(fixture("onnxruntime_perf_test", "old"))
    assert (old.total_s, old.requests, old.average_ms, old.session_s, old.p50_s) == (
        0.185739,
        100,
        1.85739,
        None,
        None,
    )
    newest = onnxruntime_perf_test.parse(fixture("onnxruntime_perf_test", "newest"))
    assert newest.average_ms == 98.961997 and newest.min_s == 9.58204e-05 and not newest.unknown


def test_perf_test_of_an_older_result_file_and_a_failure() -> None:
    run = onnxruntime_perf_test.parse(
        "P50 Latency is 0.0018sec\nthere is no test data for model x\nAvg CPU usage: nan %"
    )
    assert run.p50_s == 0.0018 and run.errors == ("there is no test data for model x",)
    assert run.cpu_percent is None and run.unknown == ("Avg CPU usage: nan %",)


@EXAMPLES
@given(hostile("benchmark_app"))
def test_hostile_benchmark_app(text: str) -> None:
    check_honest(benchmark_app.parse(text), text, scales=TO_MILLI)


@EXAMPLES
@given(hostile("onnxruntime_perf_test"))
def test_hostile_perf_test(text: str) -> None:
    check_honest(onnxruntime_perf_test.parse(text), text)
