"""The vendors' tools on a phone: their command lines, and what their reports become."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import WorkerError
from bench.parsers.odpm import parse_energies
from bench.runtimes import phone
from bench.runtimes.base import CellJob
from bench.runtimes.phone_tools import (
    COMPILED,
    MOST_EXECUTIONS,
    PERF_TEST,
    RUNNER,
    TFLITE,
    TRIAL,
    Figures,
    Tool,
    command,
    executions,
    figures,
    kind_of,
    lacking,
)
from bench.types import Artifact, Protocol, TensorSpec

FIXTURES = Path(__file__).parents[1] / "fixtures_tools"
PROTOCOL = Protocol(max_seconds=0.6, min_runs=50, timeout_seconds=120.0, warmup_seconds=0.3)
INPUT = TensorSpec("x", (1, 8, 8, 3), layout="NHWC")


def tool(kind: str) -> Tool:
    return Tool(kind, f"/data/local/tmp/{kind}", "abc")


def line(kind: str, accelerator: str = "cpu", batch: int = 1) -> list[str]:
    return command(tool(kind), "/m", "/r", 4, accelerator, PROTOCOL, batch, (INPUT,))


def test_benchmark_model_is_told_threads_times_and_the_delegate() -> None:
    found = line(TFLITE)
    assert found[0] == "/data/local/tmp/benchmark_model"
    assert {
        "--graph=/m",
        "--num_threads=4",
        "--num_runs=50",
        "--min_secs=0.6",
        "--result_file_path=/r",
    } <= set(found)
    assert "--use_xnnpack=true" in found and "--use_xnnpack=false" in line(TFLITE, "no-xnnpack")
    assert "--use_gpu=true" in line(TFLITE, "gpu") and "--use_nnapi=true" in line(TFLITE, "nnapi")
    assert "--use_npu=true" in line(COMPILED, "npu")


def test_onnxruntime_perf_test_is_told_threads_and_the_provider() -> None:
    found = line(PERF_TEST, "xnnpack")
    assert found[-2:] == ["/m", "/r"] and "-I" in found
    options = dict(itertools.pairwise(found))
    assert (options["-x"], options["-e"], options["-m"], options["-t"]) == ("4", "xnnpack", "duration", "1")


def test_what_a_tool_does_not_run_on_is_refused_with_what_it_does() -> None:
    with pytest.raises(WorkerError, match="cpu, no-xnnpack, gpu, nnapi"):
        line(TFLITE, "npu")


def test_another_batch_is_a_shape_where_the_tool_takes_one() -> None:
    assert "--input_layer_shape=2,8,8,3" in line(TFLITE, batch=2)
    for kind in (COMPILED, PERF_TEST):
        with pytest.raises(WorkerError, match="batch"):
            line(kind, batch=2)


def test_the_two_tools_of_one_name_are_told_apart_by_their_options() -> None:
    assert kind_of("benchmark_model", "--use_xnnpack=true\tbool") == TFLITE
    assert kind_of("android_arm64_benchmark_model", "--use_npu=false\tbool") == COMPILED
    assert kind_of("onnxruntime_perf_test", "") == PERF_TEST
    assert kind_of("executor_runner", "") == kind_of("xnn_executor_runner", "") == RUNNER


FREE = TensorSpec("x", (None, 3, 32, 48))


def test_executor_runner_is_told_threads_calls_and_the_batch() -> None:
    found = command(tool(RUNNER), "/m", "/r", 2, "cpu", PROTOCOL, 1, (FREE,), often=90)
    assert found[1:] == [
        "--model_path=/m",
        "--cpu_threads=2",
        "--num_executions=90",
        "--input_shapes=1x3x32x48",
    ]
    both = command(tool(RUNNER), "/m", "/r", 2, "cpu", PROTOCOL, 8, (FREE, TensorSpec("y", (8, 5))))
    assert both[-1] == "--input_shapes=8x3x32x48,8x5"
    with pytest.raises(WorkerError, match="does not run on 'gpu'"):
        line(RUNNER, "gpu")


def test_an_executor_runner_that_cannot_be_told_the_batch_is_refused() -> None:
    assert (
        lacking(RUNNER, "    -cpu_threads (Threads) type: int32\n    -input_shapes (Shapes) type: string")
        == ()
    )
    assert lacking(RUNNER, "    -cpu_threads (Threads; see input_shapes) type: int32") == ("input_shapes",)
    assert lacking(TFLITE, "") == ()
    old = Tool(RUNNER, "/data/local/tmp/executor_runner", "abc", ("input_shapes",))
    with pytest.raises(WorkerError, match="without --input_shapes a program with a free batch") as caught:
        command(old, "/m", "/r", 1, "cpu", PROTOCOL, 1, (FREE,))
    assert "newer ExecuTorch" in (caught.value.todo or "")


@pytest.mark.parametrize("inputs", [(), (TensorSpec("x", (None, 3, None, 8)),), (FREE, TensorSpec("y", ()))])
def test_an_input_of_unknown_shape_is_refused(inputs: tuple[TensorSpec, ...]) -> None:
    with pytest.raises(WorkerError, match="shape of every input"):
        command(tool(RUNNER), "/m", "/r", 1, "cpu", PROTOCOL, 1, inputs)


def test_a_program_of_one_batch_is_not_run_with_another() -> None:
    with pytest.raises(WorkerError, match="batch 1 only, not 4"):
        command(tool(RUNNER), "/m", "/r", 1, "cpu", PROTOCOL, 4, (TensorSpec("x", (1, 3, 8, 8)),))


@pytest.mark.parametrize(
    ("ms", "calls"),
    [(4.0, 225), (100.0, 75), (0.01, MOST_EXECUTIONS), (6000.0, 20), (90_000.0, TRIAL), (None, TRIAL)],
)
def test_executor_runner_calls_for_its_share_of_the_time_and_half_as_long_to_warm_up(
    ms: float | None, calls: int
) -> None:
    assert executions(Figures(avg_ms=ms), PROTOCOL) == calls


def read(kind: str, folder: str, name: str) -> Figures:
    return figures(tool(kind), (FIXTURES / folder / f"{name}.txt").read_text())


def test_a_log_in_e_notation_becomes_milliseconds() -> None:
    found = read(TFLITE, "benchmark_model", "gpu_and_nnapi_enotation")
    assert (found.avg_ms, found.min_ms, found.max_ms, found.runs) == (8.45969, 8.301, 9.12, 118)
    assert (found.init_ms, found.first_ms, found.memory_mb) == (25.558, 9992.42, 17.1016)
    assert found.half_width == pytest.approx(1.96 * 0.101 / 118**0.5 / 8.45969)


def test_a_delegate_that_left_nodes_to_others_is_a_note() -> None:
    notes = read(TFLITE, "benchmark_model", "gpu_and_nnapi_enotation").notes
    assert any("TfLiteNnapiDelegate took 5 of 64 nodes; the rest fell back to the CPU" in n for n in notes)
    assert any("Hexagon was asked for and not used" in n for n in notes)
    assert not any("TfLiteGpuDelegateV2" in n for n in notes)


def test_the_block_of_the_newer_tool_is_read_too() -> None:
    found = read(COMPILED, "benchmark_model", "litert_cpp")
    assert found.avg_ms == pytest.approx(1.2419) and found.runs == 805 and found.calls == 805 + 402
    assert (found.init_ms, found.memory_mb) == (812.4, 33.7)


def test_perf_test_becomes_milliseconds_and_megabytes() -> None:
    found = read(PERF_TEST, "onnxruntime_perf_test", "newest")
    assert found.avg_ms == pytest.approx(98.961997) and found.runs == 5 and found.calls == 6
    assert found.init_ms == pytest.approx(217.932) and found.memory_mb == pytest.approx(271.122432)


def test_the_calls_after_the_warm_up_are_executor_runners_figures() -> None:
    found = read(RUNNER, "executor_runner", "new_logcat")
    assert found.avg_ms == pytest.approx(1.3) and (found.min_ms, found.max_ms, found.runs) == (1.25, 1.35, 4)
    assert found.std_ms == pytest.approx(0.0408248) and found.calls == 6
    assert (found.init_ms, found.first_ms, found.memory_mb) == (12.345678, 9.504219, None)
    assert any("ones" in note for note in found.notes) and any("first third" in note for note in found.notes)
    assert not any("threads" in note or "the log has" in note for note in found.notes)


def test_an_executor_runner_without_single_calls_has_the_mean_of_all() -> None:
    found = read(RUNNER, "executor_runner", "total_only_logcat")
    assert found.avg_ms == pytest.approx(198.437512 / 25) and found.runs == found.calls == 25
    assert (found.std_ms, found.first_ms, found.init_ms) == (None, None, None)
    assert any("in the mean" in note for note in found.notes)


def test_calls_that_the_phones_log_has_lost_are_told() -> None:
    found = read(RUNNER, "executor_runner", "lost_lines_raw")
    assert found.avg_ms == 0.828125 and found.runs == 3 and found.first_ms is None
    assert "the log has 3 of the 1000 calls" in found.notes
    assert not any("thread pool" in note for note in found.notes)  # its line may be among the lost


def test_an_executor_runner_without_threads_or_with_a_tracer_is_told() -> None:
    notes = read(RUNNER, "executor_runner", "tracer_posix").notes
    assert any("without a thread pool" in note for note in notes)
    assert any("traces every operator" in note for note in notes)
    assert not any("traces" in note for note in read(RUNNER, "executor_runner", "new_logcat").notes)


def test_an_executor_runner_that_fails_or_logs_nothing_says_why() -> None:
    text = (FIXTURES / "executor_runner" / "no_backend.txt").read_text()
    found = figures(tool(RUNNER), text, status=134)
    assert "status 134: Backend XnnpackBackend is not registered" in found.problem
    assert "EXECUTORCH_ENABLE_LOGGING" in figures(tool(RUNNER), "OutputX 0: tensor(sizes=[1], [1.])").problem
    assert "no mean" in read(RUNNER, "executor_runner", "oldest_posix").problem


def test_a_run_that_failed_or_printed_no_mean_says_why() -> None:
    assert "not supported by GPU delegate" in read(TFLITE, "benchmark_model", "gpu_failed").problem
    assert "status 139" in figures(tool(TFLITE), "INFO: STARTING!\nSegmentation fault", status=139).problem
    assert "no message" in figures(tool(PERF_TEST), "").problem


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.binary(max_size=200), st.sampled_from([TFLITE, COMPILED, PERF_TEST, RUNNER]))
def test_any_output_is_figures_or_a_problem(said: str, proto: bytes, kind: str) -> None:
    found = figures(tool(kind), said, proto)
    assert bool(found.problem) != bool(found.avg_ms)


def job(tmp_path: Path) -> CellJob:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"12345")
    return CellJob(Artifact("tflite", "0" * 64, 5, "m.tflite"), path, tmp_path)


def test_several_processes_give_an_interval_that_holds_their_means(tmp_path: Path) -> None:
    runs = [Figures(avg_ms=a, std_ms=0.1, runs=400, init_ms=2.0, memory_mb=3.0) for a in (1.00, 1.02, 1.05)]
    found = phone.summed_up(runs, job(tmp_path), tool(TFLITE))
    latency = found["latency_ms"]
    assert latency.value == 1.02 and latency.low < 1.00 < 1.05 < latency.high and latency.n == 3
    assert "n: 400, 400, 400" in latency.method and latency.provenance == "measured"
    assert found["throughput_ips"].value == pytest.approx(1000 / 1.02)
    assert found["first_call_ms"].value is None and found["p99_ms"].value is None
    assert found["size_bytes"].value == 5


def test_one_process_has_the_interval_of_its_calls_and_says_so(tmp_path: Path) -> None:
    found = phone.summed_up([Figures(avg_ms=2.0, std_ms=0.2, runs=100)], job(tmp_path), tool(TFLITE))
    latency = found["latency_ms"]
    assert (latency.low, latency.high) == (pytest.approx(2 - 0.0392), pytest.approx(2 + 0.0392))
    assert "one process" in latency.method and "standard deviation" in latency.method
    bare = phone.summed_up([Figures(avg_ms=2.0, runs=100)], job(tmp_path), tool(PERF_TEST))
    assert bare["latency_ms"].low is None and "no interval" in bare["throughput_ips"].reason


def test_energy_is_what_all_rails_took_between_two_readings() -> None:
    first = "t=1000\nCH0(T=1000)[CPU], 5000000\nt=1000\nCH0(T=1001)[GPU], 100\n"
    later = "t=3000\nCH0(T=3000)[CPU], 6500000\nt=3000\nCH0(T=3001)[GPU], 500100\n"
    assert phone._spent(parse_energies(first), parse_energies(later)) == (pytest.approx(2.0), 2.0)
    assert phone._spent(parse_energies(first), parse_energies(first)) is None
    went_back = later.replace("6500000", "4")
    assert phone._spent(parse_energies(first), parse_energies(went_back)) is None


def test_energy_per_image_has_an_interval_or_a_reason() -> None:
    found = phone._energy([0.0010, 0.0011], 2, "")
    assert found.low < 1.0 < 1.1 < found.high and found.unit == "mJ/image" and "less idle" in found.method
    assert "at rest" in phone._energy([0.001, -0.001], 2, "").reason
    assert phone._energy([0.001], 2, "").value is None
    assert phone._energy([], 2, "no monitors").reason == "no monitors"
