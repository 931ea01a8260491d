"""One suite that every runtime passes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.agent.control import ALIVE
from bench.errors import UsageError, WorkerError
from bench.hosts import open_host
from bench.measure.latency import METRICS
from bench.runtimes import SUFFIXES, get, names, taking
from bench.runtimes.base import CellJob, WorkerResult
from tests.tiny import CLASSES, IMAGES, QUICK, Tiny, add_pte, make_model_file

HOST = open_host("local")


def quiet(event: str, details: dict) -> None:
    """A caller who does not want to hear of progress."""


def available(name: str):
    found = get(name)
    probe = found.probe(HOST)
    if not probe.available:
        pytest.skip(f"{probe.reason}. {probe.remedy}")
    return found


@pytest.fixture(params=names(), scope="module")
def runtime(request: pytest.FixtureRequest):
    return available(request.param)


@pytest.fixture(params=["onnxruntime", "litert", "openvino", "browser"], scope="module")
def process(request: pytest.FixtureRequest):
    """The runtimes whose worker is killed: what happens then is the worker's, not the runtime's, and takes seconds."""
    return available(request.param)


@pytest.fixture(scope="module")
def reader(runtime):
    """The runtimes that read files in a way of their own; torch-compile reads as torch does, and is slow to start."""
    if runtime.name == "torch-compile":
        pytest.skip("reads files as torch does")
    return runtime


@pytest.fixture(scope="module")
def subject(runtime, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A network in this runtime's format, with its parent's logits."""
    if runtime.format == "safetensors":
        return make_model_file(tiny, tmp_path_factory.mktemp("model-file"))
    return add_pte(tiny) if runtime.format == "pte" else tiny


def job_of(runtime, subject: Tiny, folder: Path, **options: Any) -> CellJob:
    """A cell of the subject on the runtime's first device: the CPU, where it has one."""
    return subject.job(runtime.format, folder, device=runtime.probe(HOST).devices[0], **options)


@pytest.fixture(scope="module")
def measured(runtime, subject: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[WorkerResult, list]:
    """One cell measured to its end, and what it reported on the way."""
    heard: list = []
    job = job_of(runtime, subject, tmp_path_factory.mktemp("cell"))
    if runtime.name == "torch-compile":  # compiles for longer than this on two cores, and says that it lives
        job = replace(job, protocol=replace(job.protocol, timeout_seconds=ALIVE + 10))
    result = runtime.measure(job, HOST, lambda event, details: heard.append((event, details)))
    return result, heard


def test_the_probe_names_a_version_and_the_devices(runtime) -> None:
    probe = runtime.probe(HOST)
    assert probe.available and probe.version[0].isdigit() and not probe.reason
    devices = {"torch-cudagraph": "cuda", "tensorrt": "cuda", "browser-webgpu": "webgpu"}
    assert probe.devices[0] == devices.get(runtime.name, "cpu")


def test_a_cuda_graph_wants_a_gpu(monkeypatch: pytest.MonkeyPatch, tiny: Tiny, tmp_path: Path) -> None:
    graph = get("torch-cudagraph")
    monkeypatch.setattr(type(graph), "accelerators", lambda self: ())
    probe = graph.probe(HOST)
    assert not probe.available and "NVIDIA GPU" in probe.reason and probe.remedy
    result = graph.measure(tiny.job("pt2", tmp_path), HOST, quiet)
    assert result.status == "failed" and "not on cpu" in result.reason


def test_probing_imports_no_runtime() -> None:
    code = (
        "import sys; from bench.runtimes import get, names; from bench.hosts import open_host\n"
        "[get(n).probe(open_host('local')) for n in names()]\n"
        "print([m for m in ('torch', 'onnxruntime', 'ai_edge_litert', 'openvino', 'executorch', 'playwright', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_a_reason_and_a_remedy(runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    probe = runtime.probe(HOST)
    assert not probe.available and "not installed" in probe.reason and "pip install" in probe.remedy


def test_logits_are_those_of_the_parent(measured, subject: Tiny) -> None:
    result, _ = measured
    assert result.status == "ok", result.reason
    logits = np.load(result.outputs)
    assert logits.dtype == np.float32 and logits.shape == (IMAGES, CLASSES)
    np.testing.assert_allclose(logits, subject.logits, atol=1e-4)


def test_every_metric_is_there_or_says_why_not(measured) -> None:
    result, _ = measured
    assert tuple(result.metrics) == tuple(METRICS)
    for name, quantity in result.metrics.items():
        if quantity.value is None:
            assert quantity.reason, name
        else:
            assert quantity.value > 0 and quantity.provenance and quantity.method, name
    for name in ("latency_ms", "throughput_ips", "first_call_ms", "load_ms", "memory_mb", "size_bytes"):
        assert result.metrics[name].value is not None, result.metrics[name].reason
    assert result.metrics["energy_mj"].value is None


def test_raw_samples_are_kept_and_give_the_latency(measured) -> None:
    result, _ = measured
    samples = np.load(result.samples)
    latency = result.metrics["latency_ms"]
    assert samples.dtype == np.float64 and latency.n == len(samples) >= QUICK.min_runs
    assert latency.value == pytest.approx(np.median(samples) * 1e3)
    assert latency.low <= latency.value <= latency.high
    assert len(np.load(result.warmup)) > 0
    assert result.stopped in ("interval", "cap")


def test_phases_are_told_and_timed(measured) -> None:
    result, heard = measured
    phases = [details["name"] for event, details in heard if event == "phase"]
    assert phases == ["inputs", "load", "first", "warmup", "steady", "settled", "predict"]
    assert {"start", "load", "first", "warmup", "steady", "predict", "total"} <= set(result.seconds)
    assert result.seconds["total"] >= sum(v for k, v in result.seconds.items() if k != "total") * 0.9
    assert result.runtime["version"] and result.runtime["copies"] and result.runtime["clock"]


def test_batch_and_threads_are_honoured(reader, subject: Tiny, tmp_path: Path) -> None:
    job = job_of(reader, subject, tmp_path, batch=4, threads=2)
    result = reader.measure(job, HOST, quiet)
    assert result.status == "ok", result.reason
    latency, throughput = result.metrics["latency_ms"], result.metrics["throughput_ips"]
    assert throughput.value == pytest.approx(4e3 / latency.value)
    # Our listening thread and the caller's are two; a second compute thread makes three.
    assert result.runtime.get("threads") == 2 or result.runtime["os_threads"] >= 3
    np.testing.assert_allclose(np.load(result.outputs), subject.logits, atol=1e-4)


def test_a_corrupt_artifact_fails_with_a_reason(reader, subject: Tiny, tmp_path: Path) -> None:
    path = tmp_path / f"corrupt.{reader.format}"
    path.write_bytes(b"not a model" * 100)
    result = reader.measure(job_of(reader, subject, tmp_path / "out", path=path), HOST, quiet)
    assert result.status == "failed"
    assert result.reason.startswith("load: ") and "Traceback" not in result.reason
    assert result.metrics["latency_ms"].value is None and result.metrics["latency_ms"].reason == result.reason


def test_a_missing_file_fails_with_a_reason(process, tiny: Tiny, tmp_path: Path) -> None:
    job = tiny.job(process.format, tmp_path, path=tmp_path / "gone.bin")
    result = process.measure(job, HOST, quiet)
    assert result.status == "failed" and "there is no file gone.bin" in result.reason


def test_a_wrong_input_shape_fails_with_a_reason(reader, subject: Tiny, tmp_path: Path) -> None:
    artifact = subject.artifact(reader.format)
    spec = artifact.inputs[0]
    wrong = replace(spec, shape=tuple(32 if d == 12 else d for d in spec.shape))
    job = job_of(reader, subject, tmp_path, artifact=replace(artifact, inputs=(wrong,)))
    result = reader.measure(job, HOST, quiet)
    assert result.status == "failed" and "description says" in result.reason and "32" in result.reason


def test_a_crash_costs_one_cell(process, tiny: Tiny, tmp_path: Path) -> None:
    worker = process.start(HOST)

    def crash(event: str, details: dict) -> None:
        if details.get("name") == "warmup":
            os.kill(worker.pid, signal.SIGSEGV)

    with pytest.raises(WorkerError, match="SIGSEGV"):
        process.measure(tiny.job(process.format, tmp_path), HOST, crash, worker=worker)
    assert not worker.alive


def test_a_hang_is_ended(process, tiny: Tiny, tmp_path: Path) -> None:
    worker = process.start(HOST)

    def hang(event: str, details: dict) -> None:
        if details.get("name") == "warmup":
            os.kill(worker.pid, signal.SIGSTOP)

    job = tiny.job(process.format, tmp_path, protocol=replace(QUICK, timeout_seconds=1.0))
    worker.ready()
    with pytest.raises(WorkerError, match="silent for 1 s"):
        process.measure(job, HOST, hang, worker=worker)
    assert not worker.alive


@pytest.mark.parametrize("form", ["xml", "tflite"])
def test_openvino_takes_other_formats_too(form: str, tiny: Tiny, tmp_path: Path) -> None:
    runtime = available("openvino")
    artifact, path = tiny.artifact("tflite" if form == "tflite" else "onnx"), tiny.path(form)
    if form == "xml":
        import openvino

        path = tmp_path / "tiny.xml"
        openvino.save_model(openvino.Core().read_model(tiny.path("onnx")), path, compress_to_fp16=False)
    result = runtime.measure(tiny.job("onnx", tmp_path, artifact=artifact, path=path), HOST, quiet)
    assert result.status == "ok", result.reason
    assert result.runtime["inference_precision"] == "f32"
    np.testing.assert_allclose(np.load(result.outputs), tiny.logits, atol=1e-4)


def test_every_runtime_takes_the_format_made_for_it_and_every_format_has_a_taker() -> None:
    assert all(get(n).format in get(n).formats for n in names())
    assert {fmt: taking(fmt)[0] for fmt in SUFFIXES.values()} == {
        "onnx": "onnxruntime",
        "tflite": "litert",
        "pt2": "torch",
        "pte": "executorch",
        "xml": "openvino",
        "engine": "tensorrt",
        "safetensors": "torch-eager",
    }


def test_refusals_are_reasons(runtime) -> None:
    environment = {"cpu": {"arch": "x86_64", "features": ["avx2"]}}
    device = runtime.probe(HOST).devices[0]
    assert runtime.refuse("fp32", environment, device) == ""
    assert "fp4" in runtime.refuse("fp4", environment, device)


@pytest.mark.parametrize(
    ("name", "precision", "device", "runs"),
    [
        ("onnxruntime", "int8", "cpu", True),
        ("onnxruntime", "fp16", "cpu", False),
        ("onnxruntime", "fp16", "cuda", True),
        ("onnxruntime", "bf16", "cpu", False),
        ("litert", "int8", "cpu", True),
        ("litert", "fp16", "cpu", True),
        ("litert", "bf16", "cpu", False),
        ("torch", "bf16", "cpu", True),
        ("torch", "fp16", "cpu", False),
        ("torch", "fp16", "cuda", True),
        ("torch", "int8", "cpu", False),
        ("openvino", "int8", "cpu", True),
        ("openvino", "fp16", "cpu", False),
        ("executorch", "fp32", "cpu", True),
        ("executorch", "int8", "cpu", False),
        ("torch-eager", "bf16", "cpu", False),
        ("torch-compile", "bf16", "cpu", True),
        ("tensorrt", "fp16", "cuda", True),
        ("tensorrt", "fp16", "cpu", False),
        ("browser", "int8", "cpu", True),
        ("browser", "fp16", "cpu", False),
        ("browser-webgpu", "fp16", "webgpu", True),
        ("browser-webgpu", "int8", "webgpu", False),
    ],
)
def test_precisions(name: str, precision: str, device: str, runs: bool) -> None:
    assert (get(name).refuse(precision, {}, device) == "") is runs


@pytest.mark.parametrize(
    ("arch", "features", "scheme"),
    [
        ("x86_64", ["avx2"], "u8s8-7bit"),
        ("x86_64", ["avx2", "avx_vnni"], "u8s8"),
        ("x86_64", ["avx512f", "avx512_vnni"], "u8s8"),
        ("aarch64", ["asimd"], "u8s8"),
    ],
)
def test_the_int8_scheme_follows_the_cpu(arch: str, features: list, scheme: str) -> None:
    environment = {"cpu": {"arch": arch, "features": features}}
    assert get("onnxruntime").int8_scheme(environment) == scheme
    assert get("litert").int8_scheme(environment) == "litert"
    assert (
        get("browser").int8_scheme(environment) == "u8s8"
    )  # WebAssembly's kernels do not saturate on any CPU


def test_an_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="onnxruntime"):
        get("onnxruntme")
