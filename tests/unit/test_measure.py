"""The parts around the worker: the timing loop's decisions, quantities, environment, accuracy, energy."""

from __future__ import annotations

import ast
import math
import socket
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench.agent
from bench.agent import inputs, timing
from bench.agent.memory import MemorySampler, memory_kb
from bench.measure import environment
from bench.measure.accuracy import accuracy_quantity, metrics
from bench.measure.environment import cpu_quota, cpuinfo, describe
from bench.measure.latency import all_missing, latency
from bench.measure.memory import above_baseline, parts_mb
from bench.measure.power import CodeCarbon

AGENT = sorted(Path(bench.agent.__file__).parent.rglob("*.py"))


# The worker's source


@pytest.mark.parametrize("path", AGENT, ids=lambda p: p.name)
def test_the_agent_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    future = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
              for alias in node.names}  # fmt: skip
    assert path.name == "__init__.py" or "annotations" in future


@pytest.mark.parametrize("path", AGENT, ids=lambda p: p.name)
def test_the_agent_imports_only_the_standard_library_and_numpy(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = {str(node.module).partition(".")[0]}
        else:
            continue
        assert roots <= {*sys.stdlib_module_names, "numpy"}, f"{path.name}:{node.lineno}"


# The timing loop


@settings(deadline=None)
@given(st.integers(6, 100_000))
def test_the_ranks_enclose_the_median_at_95_percent(n: int) -> None:
    from scipy.stats import binom

    low, high = timing.median_ranks(n)
    assert 0 <= low < high <= n - 1
    coverage = binom.cdf(high, n, 0.5) - binom.cdf(low, n, 0.5)
    assert coverage >= 0.94


def test_too_few_samples_have_no_interval() -> None:
    assert timing.median_ranks(5) is None
    assert timing.half_width(array("d", [1.0] * 5)) == math.inf


class Clock:
    """The timing loop's clock: it goes on when a test says so, whatever else this machine is doing."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def after(self, seconds: float, value: Callable[[], float]) -> Callable[[], float]:
        """A call that takes so long and reports ``value()``."""

        def call() -> float:
            self.now += seconds
            return value()

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_a_quiet_machine_stops_at_the_interval_a_noisy_one_at_the_cap(clock: Clock) -> None:
    rng = np.random.default_rng(0)
    quiet = clock.after(0.001, lambda: 1.0 + 0.001 * rng.standard_normal())
    noisy = clock.after(0.001, lambda: float(rng.exponential()))

    samples, stopped = timing.steady(quiet, 0.01, 30, 5.0, lambda *_: None)
    assert stopped == "interval" and len(samples) >= 30
    samples, stopped = timing.steady(noisy, 0.0001, 30, 0.2, lambda *_: None)
    assert stopped == "cap" and len(samples) == pytest.approx(200, abs=2)


def test_a_slow_model_still_gets_an_interval(clock: Clock) -> None:
    samples, stopped = timing.steady(clock.after(0.02, lambda: 0.02), 0.01, 50, 0.01, lambda *_: None)
    assert stopped == "cap" and len(samples) == 6


def test_a_rest_is_not_counted_as_time_measured(clock: Clock) -> None:
    rests: list[int] = []

    def rest(n: int) -> None:
        rests.append(n)
        clock.now += 0.2

    changing = clock.after(0.005, lambda: clock.now)  # never twice the same: the interval never closes
    begin = clock.now
    _samples, stopped = timing.steady(changing, 1e-9, 6, 0.3, lambda *_: None, turn_seconds=0.05, rest=rest)
    measured = clock.now - begin - 0.2 * len(rests)
    assert stopped == "cap" and measured == pytest.approx(0.3, abs=0.006)
    assert len(rests) == 5 and np.diff([0, *rests]) == pytest.approx(10, abs=1)


def test_warm_up_goes_on_while_calls_get_faster(clock: Clock) -> None:
    begin = clock.now
    drifting = clock.after(0.002, lambda: math.exp(-(clock.now - begin) * 20))
    samples, settled = timing.warm_up(drifting, 0.06, 0.02)
    assert not settled and len(samples) == pytest.approx(90, abs=10)  # three times what was asked for
    samples, settled = timing.warm_up(clock.after(0.002, lambda: 1.0), 0.06, 0.02)
    assert settled and len(samples) == pytest.approx(30, abs=4)


# What goes in and comes out


@settings(deadline=None)
@given(st.floats(0.001, 1.0), st.integers(-128, 127))
def test_quantising_inverts_dequantising(scale: float, zero_point: int) -> None:
    spec = {"dtype": "int8", "scale": scale, "zero_point": zero_point}
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, -1)
    values = inputs.to_logits(codes, spec, 1)
    np.testing.assert_array_equal(inputs.quantise(values, spec), codes)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_are_normalised_and_laid_out(layout: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    preprocess = {"height": 4, "width": 5, "channels": 3, "mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0]}
    shape = [None, 3, 4, 5] if layout == "NCHW" else [None, 4, 5, 3]
    values = inputs.to_input(images, preprocess, {"dtype": "float32", "layout": layout, "shape": shape})
    assert list(values.shape[1:]) == shape[1:] and values.flags.c_contiguous
    pixel = values[1, 2, 3, 4] if layout == "NCHW" else values[1, 3, 4, 2]
    assert pixel == pytest.approx((images[1, 3, 4, 2] / 255 - 0.3) / 2.0, rel=1e-5)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9))
def test_batches_have_the_asked_size_even_of_few_images(n: int, batch: int) -> None:
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    picked = inputs.pick_batches(images, batch)
    assert 1 <= len(picked) <= 8 and all(p.shape == (batch, 1, 1, 1) for p in picked)


def test_a_batch_that_is_swallowed_is_refused() -> None:
    with pytest.raises(inputs.Refused, match="batch of 4"):
        inputs.to_logits(np.zeros((1, 40), np.float32), {}, 4)


# Quantities


def test_percentiles_only_where_the_samples_support_them() -> None:
    rng = np.random.default_rng(0)
    few, many = (latency(rng.permutation(np.linspace(0.001, 0.002, n)), 8) for n in (60, 2000))
    assert few["latency_ms"].value == pytest.approx(1.5)
    assert few["p99_ms"].value is None and "60 samples" in few["p99_ms"].reason
    assert many["p99_ms"].low <= many["p99_ms"].value <= many["p99_ms"].high
    assert few["throughput_ips"].value == pytest.approx(8 / 0.0015)
    assert few["throughput_ips"].low == pytest.approx(8e3 / few["latency_ms"].high)
    drifting = latency(np.linspace(0.001, 0.002, 2000), 8)  # neighbours say the same thing twice
    width = drifting["latency_ms"].high - drifting["latency_ms"].low
    assert width > 5 * (many["latency_ms"].high - many["latency_ms"].low)
    assert drifting["p99_ms"].value is None


def test_everything_missing_has_reasons_and_units() -> None:
    found = all_missing("no board")
    assert all(q.value is None and q.reason == "no board" and q.unit for q in found.values())


def test_memory_is_above_the_baseline_or_missing() -> None:
    assert above_baseline(3000, 2000).value == pytest.approx(1.024)
    assert above_baseline(None, 2000).value is None
    assert above_baseline(1000, 2000).value is None


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_the_sampler_sees_a_process_grow_only_while_it_runs() -> None:
    code = "import sys; print(1, flush=True); sys.stdin.readline(); x = b'x' * 40_000_000; print(2, flush=True); sys.stdin.readline()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    before = memory_kb(child.pid)
    sampler = MemorySampler(child.pid)
    time.sleep(0.15)
    assert sampler.peak_kb is None
    sampler.resume("load")
    print(file=child.stdin, flush=True)
    child.stdout.readline()
    time.sleep(0.3)
    sampler.close()
    child.communicate()
    assert sampler.peak_kb - before > 35_000
    parts = parts_mb(sampler.peaks, before)
    assert parts["load"].value > 35 and "while loading" in parts["load"].method
    assert parts["first"].value is None and parts["steady"].value is None


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux only")
def test_memory_of_a_process_does_not_depend_on_who_else_has_its_files(tmp_path: Path) -> None:
    (shared := tmp_path / "library").write_bytes(b"x" * 20_000_000)
    code = "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); len(m[:]); print(1, flush=True); sys.stdin.readline()"

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", code, shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        child.stdout.readline()
        return child

    one = start()
    alone = memory_kb(one.pid)
    other = start()
    beside, both = memory_kb(one.pid), memory_kb(one.pid, other.pid)
    for child in (one, other):
        child.communicate()
    assert abs(beside - alone) < 1_000 and alone > 20_000
    assert both < alone + beside - 15_000  # what they share counts once


# The environment


def test_the_environment_is_complete(tmp_path: Path) -> None:
    found = describe(tmp_path)
    assert found["cpu"]["cores"] >= 1 and found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["numpy"] == np.__version__
    assert found["gpus"] or found["gpus_reason"]
    assert found["git"] is None


def test_what_identifies_the_hardware_does_not_change_by_itself() -> None:
    first = environment.hardware(describe())
    later = describe()
    later["cpu"]["mhz"] = 800.0
    assert environment.hardware(later) == first and first["model"]


def test_the_environment_imports_no_runtime() -> None:
    code = "import sys; from bench.measure.environment import describe; describe(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000", None), ("150000 100000", 1.5), ("", None), ("50000", 0.5)]
)
def test_the_cgroup_limit(text: str, cpus: float | None) -> None:
    assert cpu_quota(text) == cpus


def test_cpuinfo_takes_the_first_core() -> None:
    assert cpuinfo("model name\t: A\nflags\t: x y\n\nmodel name\t: B\n") == {
        "model name": "A",
        "flags": "x y",
    }


# Accuracy


def logits_of(answers: list[int], classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[answers] * 5


def test_metrics_of_a_known_confusion() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    found = metrics(logits_of([0, 0, 0, 1, 1, 0, 2], 3), labels, ["a", "b", "c"])
    assert found["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert found["accuracy"] == pytest.approx(5 / 7)
    first = found["per_class"][0]
    assert (first["n"], first["precision"], first["recall"], first["f1"]) == (4, 0.75, 0.75, 0.75)
    assert first["recall_low"] < 0.75 < first["recall_high"]
    assert found["balanced_accuracy"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert found["top5"] is None and 0.5 < found["auc_roc"] <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    from scipy.special import softmax
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score, top_k_accuracy_score

    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(8), rng.integers(0, 8, 60)])
    logits = rng.standard_normal((68, 8)).astype(np.float32)
    found, answers = metrics(logits, labels, list("abcdefgh")), logits.argmax(1)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, answers, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    scores = softmax(logits.astype(np.float64), axis=1)
    assert found["auc_roc"] == pytest.approx(
        roc_auc_score(labels, scores, multi_class="ovr", average="macro")
    )


def test_a_class_without_images_leaves_gaps_with_a_reason() -> None:
    found = metrics(logits_of([0, 1, 1], 3), np.array([0, 1, 0]), ["a", "b", "c"])
    absent = found["per_class"][2]
    assert absent["n"] == 0 and absent["recall"] is None and absent["recall_low"] is None
    assert found["auc_roc"] is None and "1 of 3" in found["auc_roc_reason"]


@pytest.mark.parametrize(
    "labels", [np.array([0, 3]), np.array([-1, 0]), np.array([0]), np.array([], dtype=int)]
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError):
        metrics(logits_of([0, 1], 3), labels, ["a", "b", "c"])


def test_accuracy_has_a_wilson_interval() -> None:
    found = accuracy_quantity(90, 100, "top-1 on test")
    assert found.value == 0.9 and found.n == 100 and found.provenance == "measured"
    assert (round(found.low, 4), round(found.high, 4)) == (0.8256, 0.9448)  # Newcombe 1998, method 3
    assert accuracy_quantity(0, 0, "m").value is None


# Energy


def test_without_codecarbon_energy_is_missing_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = CodeCarbon()
    probe = source.probe()
    assert not probe.available and "pip install" in probe.remedy
    source.start()
    reading = source.stop()
    source.close()
    assert reading.joules is None and "pip install" in reading.reason


def test_codecarbon_reads_a_window_offline_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("codecarbon")
    calls: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        calls.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings_file = tmp_path / ".codecarbon.config"
    settings_file.write_text(
        "[codecarbon]\noutput_methods=csv,api\nsave_to_file=true\nsave_to_api=true\n"
        "emissions_endpoint=http://localhost:9\nelectricitymaps_api_token=abc\npue=7\n"
    )
    source = CodeCarbon()
    source.prepare()
    source.start()
    deadline = time.perf_counter() + 0.4
    while time.perf_counter() < deadline:
        pass
    reading = source.stop()
    source.close()
    assert reading.joules is not None and reading.joules > 0, reading.reason
    assert "codecarbon" in reading.method and reading.mode in reading.method
    assert reading.provenance == ("measured" if "RAPL" in reading.method else "estimated")
    assert not calls and [p.name for p in tmp_path.iterdir()] == [settings_file.name]
    assert "codecarbon" not in "".join(capfd.readouterr())


def test_a_window_too_short_for_the_kernels_ticks_is_missing() -> None:
    pytest.importorskip("codecarbon")
    source = CodeCarbon()
    source.start()
    reading = source.stop()
    source.close()
    assert reading.joules is None and "too short" in reading.reason
