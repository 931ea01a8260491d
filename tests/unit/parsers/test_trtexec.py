"""Logs of trtexec 8 to 11 and the files it exports."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from bench.parsers import trtexec
from bench.parsers import trtexec_exports as exports
from bench.parsers.trtexec import Timing
from tests.parser_checks import EXAMPLES, check_honest, fixture, hostile


def _log(name: str) -> trtexec.Run:
    return trtexec.parse(fixture("trtexec", name))


def test_release_8_includes_transfers_and_prints_one_percentile() -> None:
    run = _log("v82_fp16")
    assert run.version == "8.2.1" and run.passed is True and run.precision == "FP32+FP16"
    assert run.command == "/usr/src/tensorrt/bin/trtexec --onnx=net.onnx --fp16"
    assert run.latency == Timing(13.8171, 15.0342, 14.1322, 14.1104, ((99.0, 14.8823),))
    assert run.latency_includes == ("h2d", "gpu_compute", "d2h") and run.cuda_graph is False
    assert run.h2d is not None and run.h2d.mean_ms == 0.1102
    assert run.end_to_end is not None and run.end_to_end.median_ms == 14.1194
    assert run.gpu_compute is not None and run.gpu_compute.mean_ms == 14.0102
    assert (run.throughput_qps, run.walltime_s, run.gpu_compute_total_s) == (70.6945, 3.02711, 2.99818)
    assert (run.warmup_queries, run.queries, run.build_s, run.streams) == (14, 214, 77.412, 1)
    assert (run.on_dla, run.on_gpu, run.fell_back, run.dla_core) == (0, 2, (), None)
    assert (
        run.unknown
        == (
            "[03/15/2022-10:00:02] [I] [TRT] [MemUsageChange] Init CUDA: CPU +230, GPU +0, now: CPU 248, GPU 2510 (MiB)",
            "[03/15/2022-10:00:01] [I] Selected Device: NVIDIA Tegra X1",
        )[::-1]
    )


def test_dla_with_fallback_streams_and_a_graph_that_could_not_be_captured() -> None:
    run = _log("v86_dla_fallback")
    assert (run.on_dla, run.on_gpu, run.dla_core, run.streams) == (2, 3, 0, 2)
    assert run.fell_back == ("/head/Constant_1_output_0", "(Unnamed Layer* 277) [Shuffle]")
    assert run.cuda_graph_asked is True and run.cuda_graph is False
    assert run.variation_percent == 43.467 and run.parse_s == 0.0483808
    assert any(w.startswith("* Multiple inference streams") for w in run.warnings)
    assert ("Allow GPU fallback for DLA", "Enabled") in run.options
    assert run.latency is not None
    assert run.latency.percentiles_ms == ((90.0, 1.15724), (95.0, 1.27577), (99.0, 1.5897))


@pytest.mark.parametrize(("name", "version"), [("v103_no_transfers", "10.3.0"), ("v111_default", "11.1.0")])
def test_without_transfers_latency_is_gpu_time_and_the_printed_zeros_are_nothing(
    name: str, version: str
) -> None:
    run = _log(name)
    assert run.version == version and run.latency_includes == ("gpu_compute",) and run.cuda_graph is True
    assert run.h2d is None and run.d2h is None and run.latency == run.gpu_compute and run.latency is not None
    assert run.passed is True and run.engine_mib in (7.51, 25.2) and not run.unknown


def test_without_options_it_is_not_known_what_latency_includes() -> None:
    summary = fixture("trtexec", "v111_default").partition("=== Performance summary ===")[2]
    run = trtexec.parse(summary)
    assert run.latency is not None and run.latency_includes is None and run.cuda_graph is None
    assert run.h2d is not None  # printed, and nothing says that nothing was transferred


def test_before_release_10_a_captured_graph_is_not_told() -> None:
    run = trtexec.parse("[I] === Inference Options ===\n[I] CUDA Graph: Enabled\n")
    assert run.cuda_graph_asked is True and run.cuda_graph is None


def test_a_failed_build_says_why() -> None:
    run = _log("v103_failed")
    assert run.passed is False and run.latency is None and run.throughput_qps is None
    assert (
        run.errors[-1] == "Engine set up failed"
        and "Failed to parse onnx file" in run.errors
        and len(run.errors) == 6
    )
    assert 'op_type: "Tile"' in run.unknown


def test_a_log_that_was_cut_has_no_verdict() -> None:
    run = trtexec.parse(fixture("trtexec", "v82_fp16").partition("Starting inference")[0])
    assert run.passed is None and run.build_s == 77.412 and run.latency is None


@pytest.mark.parametrize(
    ("code", "version"), [(8201, "8.2.1"), (8601, "8.6.1"), (100300, "10.3.0"), (110201, "11.2.1")]
)
def test_version_numbers(code: int, version: str) -> None:
    assert trtexec.parse(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{code}] # trtexec").version == version


def test_numbers_that_are_none_stay_none() -> None:
    run = trtexec.parse(
        "[I] Throughput: inf qps\n[I] Latency: min = nan ms, max = inf ms, mean = 1 ms, median = 2 ms, percentile(99%) = nan ms"
    )
    assert run.throughput_qps is None and run.latency == Timing(None, None, 1.0, 2.0)
    assert run.unknown == ("[I] Throughput: inf qps",)


def test_times() -> None:
    times = exports.parse_times(fixture("trtexec_exports", "times"))
    assert len(times.queries) == 2 and not times.problem and not times.unknown
    assert times.queries[0] == exports.Query(0.1, 1.1, 0.05, 1.25, 211.5)


def test_profile_old_and_new() -> None:
    old, new = (exports.parse_profile(fixture("trtexec_exports", f"profile_v{n}")) for n in (8, 10))
    assert old.iterations == 625 and old.layers[1] == exports.Layer("Conv_8", 0.0, 0.0, None, 0.0)
    assert new.iterations == 41400
    assert new.layers == (exports.Layer("/conv1/Conv + /act1/Relu", 1160.78, 0.0280382, 0.027872, 100.0),)


def test_layers_with_details_and_without() -> None:
    detailed, names = (
        exports.parse_layers(fixture("trtexec_exports", f"layers_{n}")) for n in ("detailed", "names")
    )
    (layer,) = detailed.layers
    assert (layer.name, layer.kind, layer.tactic) == (
        "conv_1 + relu_1",
        "CaskConvolution",
        "sm87_xmma_fprop_f16",
    )
    assert layer.input_formats == ("Row major linear FP32",) and "FP16" in layer.output_formats[0]
    assert names.layers[0] == exports.Built("conv_1 + relu_1") and names.bindings == ("data", "prob")


@pytest.mark.parametrize("text", ["", "{}", "null", '[{ "name" : "a"b", "timeMs" : 1 }]', "[" * 50_000, "3"])
def test_a_file_of_another_form_is_a_problem(text: str) -> None:
    for parse in (exports.parse_times, exports.parse_profile, exports.parse_layers):
        assert parse(text).problem


def test_numbers_that_no_file_can_mean_are_none() -> None:
    text = json.dumps([{"computeMs": float("nan"), "h2dMs": True, "d2hMs": "1"}]).replace("true", "1e999")
    assert exports.parse_times(text).queries == (exports.Query(None, None, None, None, None),)
    assert exports.parse_times("[1, {}]").unknown == ("1", "{}")


@EXAMPLES
@given(hostile("trtexec"))
def test_hostile_log(text: str) -> None:
    check_honest(trtexec.parse(text), text, skip=("on_dla", "on_gpu"))


@EXAMPLES
@given(hostile("trtexec_exports"))
def test_hostile_exports(text: str) -> None:
    for parse in (exports.parse_times, exports.parse_profile, exports.parse_layers):
        check_honest(parse(text), text)
