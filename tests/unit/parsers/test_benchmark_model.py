"""benchmark_model of TensorFlow Lite and LiteRT: its text, its tables, its result file."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.parsers import benchmark_model, benchmark_result
from bench.parsers.benchmark_model import Applied, Delegation, Stats
from bench.parsers.benchmark_result import Result
from bench.parsers.op_profile import Kind, Op
from tests.parser_checks import EXAMPLES, check_honest, fixture, hostile


def _log(name: str) -> benchmark_model.Run:
    return benchmark_model.parse(fixture("benchmark_model", name))


def test_the_last_count_line_before_the_timings_is_the_measured_one() -> None:
    run = _log("logcat_xnnpack")
    assert run.inference == Stats(25, 187533, 140990, 140071, 195121, 145528, 13583, 140545, 141253, 187533)
    assert run.warmup is not None and run.warmup.count == 3
    assert (run.init_us, run.first_inference_us, run.warmup_avg_us, run.inference_avg_us) == (
        92318,
        235158,
        211669,
        145528,
    )
    assert (run.model_mb, run.session_ms, run.init_mb, run.overall_mb, run.peak_mb) == (
        3.06409,
        92.318,
        54.2852,
        73.4102,
        None,
    )
    assert run.graph == "/data/local/tmp/best_int8.tflite" and ("Num threads", "4") in run.parameters
    assert run.delegations == (Delegation("TfLiteXNNPackDelegate", 539, 548, 19, "subgraph 0"),)
    assert run.delegations[0].fell_back is True and not run.unknown


def test_delegates_wholly_partly_and_not_applied_and_numbers_in_e_notation() -> None:
    run = _log("gpu_and_nnapi_enotation")
    assert [d.fell_back for d in run.delegations] == [False, True] and run.delegations[
        1
    ].graph == "the whole graph"
    assert run.applied == (
        Applied("GPU", "completely"),
        Applied("NNAPI", "partially", 3),
        Applied("Hexagon", "not"),
    )
    assert run.warmup == Stats(1, None, 9992420.0) and run.warmup_avg_us == 9992420.0
    assert run.inference is not None and run.inference.avg_us == 8459.69 and run.inference.median_us is None
    assert run.peak_mb == 31.4297 and not run.unknown


def test_an_old_delegate_line_does_not_tell_the_total() -> None:
    run = benchmark_model.parse(
        "INFO: Replacing 1 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding 1 partitions."
    )
    assert run.delegations == (Delegation("TfLiteGpuDelegateV2", 1, None, 1, None),)
    assert run.delegations[0].fell_back is None


def test_runs_that_all_took_the_same_have_one_number() -> None:
    run = benchmark_model.parse("Running benchmark for at least 1 iterations\ncount=3 curr=57(all same)\n")
    assert run.warmup == Stats(3, curr_us=57.0)


def test_the_form_of_2019() -> None:
    run = _log("old_2019")
    assert (run.init_us, run.warmup_avg_us, run.inference_avg_us, run.first_inference_us) == (
        38467,
        83235,
        79760.9,
        None,
    )
    assert (
        run.inference is not None
        and run.inference.avg_us == 79732
        and run.warmup is not None
        and run.warmup.count == 7
    )
    assert run.session_ms == 38.467 and run.unknown == ("resolved reporter",)


def test_a_run_that_was_cut_has_a_warmup_but_no_inference() -> None:
    run = _log("cut_after_warmup")
    assert run.inference is None and run.inference_avg_us is None
    assert run.warmup is not None and run.warmup.avg_us == 60125.5


def test_errors_are_told() -> None:
    run = _log("gpu_failed")
    assert run.errors[1] == "Failed to apply GPU delegate." and run.inference is None and len(run.errors) == 3


def test_profile_with_titles() -> None:
    run = _log("op_profile")
    assert run.profile is not None and not run.unknown
    assert [op.kind for op in run.profile.initialization] == ["AllocateTensors"]
    assert run.profile.initialization[0].memory_kb == 452.0
    assert run.profile.ops[0] == Op("CONV_2D", "[conv1]:0", 21.267, 21.278, 64.340, 0.0, 1)
    assert [op.name for op in run.profile.ops] == [
        "[conv1]:0",
        "Delegate/Fully Connected (NC, F32) GEMM:1",
        "[conv2]:2",
    ]
    assert run.profile.kinds[0] == Kind("CONV_2D", 2, 31.689, 95.821, 0.0, 2)
    assert run.inference is not None and run.inference.count == 50 and run.inference.first_us == 33228


def test_profile_without_titles_and_with_a_start_column() -> None:
    run = _log("op_profile_untitled")
    assert run.profile is not None and [op.kind for op in run.profile.ops] == ["FULLY_CONNECTED", "TANH"]
    assert run.profile.ops[0].first_ms == 0.030 and run.profile.ops[0].avg_ms == 0.016
    assert [kind.count for kind in run.profile.kinds] == [1, 1] and not run.unknown


def test_litert_in_cpp_prints_milliseconds_and_count_lines() -> None:
    run = _log("litert_cpp")
    assert run.results is not None and run.results.avg_ms == 1.24 and run.results.runs == 805
    assert (run.results.init_ms, run.results.first_ms, run.results.std_ms, run.results.median_ms) == (
        812.4,
        2.1,
        0.02,
        None,
    )
    assert (run.results.init_mb, run.results.overall_mb, run.results.peak_mb) == (31.2, 33.7, None)
    assert run.inference is not None and run.inference.median_us == 1240 and run.inference_avg_us is None
    assert run.delegations[0].fell_back is False and run.unknown == (
        "INFO: [benchmark_litert_model.cc:121] Loading model from: /data/local/tmp/net.tflite",
    )


def test_litert_in_python() -> None:
    run = _log("litert_python")
    assert run.results is not None and run.results.fully_accelerated is True
    assert (run.results.median_ms, run.results.p5_ms, run.results.p95_ms, run.results.warmup_runs) == (
        0.39,
        0.38,
        0.45,
        5,
    )
    assert run.inference is None and len(run.unknown) == 2


def test_broken_numbers_are_not_invented() -> None:
    run = benchmark_model.parse(
        "count=nan avg=1\ncount=5 first=inf avg=1e999 min=3\nInference timings in us: Init: nan, First inference: 1, Warmup (avg): 2, Inference (avg): -nan"
    )
    assert run.inference == Stats(5, min_us=3.0) and run.inference_avg_us is None and run.init_us is None
    assert len(run.unknown) == 2


def _field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    encoded = b""
    while value > 0x7F:
        encoded, value = encoded + bytes([value & 0x7F | 0x80]), value >> 7
    return bytes([number << 3]) + encoded + bytes([value])


def _result_file() -> bytes:
    latency = b"".join(_field(n, v) for n, v in ((1, 1.5), (2, 1.25), (5, 1.375), (8, 92.5), (9, 235.25)))
    memory = _field(1, 55588) + _field(2, 75172) + _field(3, 31.5)
    misc = _field(1, 3.0) + _field(2, 300) + _field(3, 7) + _field(4, 462.25)
    return _field(1, b"run") + _field(2, latency) + _field(3, memory) + _field(4, misc)


def test_the_result_file_is_decoded() -> None:
    assert benchmark_result.parse(_result_file()) == Result(
        name="run",
        avg_ms=1.5,
        min_ms=1.25,
        median_ms=1.375,
        init_ms=92.5,
        first_inference_ms=235.25,
        init_footprint_kb=55588,
        overall_footprint_kb=75172,
        peak_mb=31.5,
        model_mb=3.0,
        runs=300,
        warmup_runs=7,
        input_mb_per_s=462.25,
    )


def test_newer_fields_and_values_that_are_none_are_named() -> None:
    latency = _field(1, float("nan")) + _field(11, 4.0) + _field(2, 7)
    result = benchmark_result.parse(_field(2, latency) + _field(9, 1))
    assert result.avg_ms is None and result.min_ms is None and not result.problem
    assert result.unknown == (
        "LatencyMetrics field 1",
        "LatencyMetrics field 11",
        "LatencyMetrics field 2",
        "BenchmarkResult field 9",
    )


@pytest.mark.parametrize(
    "data", [_result_file()[:-3], b"\xff" * 20, b"\x0b", b"\x12\x7f\x01", b"x" * 2_000_000]
)
def test_a_damaged_file_is_a_problem(data: bytes) -> None:
    result = benchmark_result.parse(data)
    assert result.problem and result.avg_ms is None and result.runs is None


def test_a_negative_number_is_read_as_such() -> None:
    size = _field(1, (1 << 64) - 12)
    assert benchmark_result.parse(_field(3, size)).init_footprint_kb == -12


@EXAMPLES
@given(hostile("benchmark_model"))
def test_hostile_text(text: str) -> None:
    check_honest(benchmark_model.parse(text), text)


@EXAMPLES
@given(st.binary(max_size=80), st.integers(0, len(_result_file())), st.integers(0, 20))
def test_hostile_bytes(noise: bytes, start: int, size: int) -> None:
    whole = _result_file()
    for data in (noise, whole[:start] + noise + whole[start + size :], whole[:start]):
        result = benchmark_result.parse(data)
        for name in ("avg_ms", "min_ms", "peak_mb", "model_mb"):
            value = getattr(result, name)
            assert value is None or struct.pack("<f", value) in data
