"""Our median against each runtime's own tool: same file, threads and batch, interleaved pairs of fresh processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from bench.hosts import open_host
from bench.measure.artifact import open_artifact
from bench.runtimes.base import CellJob
from bench.types import Protocol

torch = pytest.importorskip("torch")
PAIRS = 10
SECONDS = 2.0
LOW, HIGH = 0.98, 1.02
BIN = Path(sys.executable).parent
MODELS = {"resnet18": 224, "mobilenet_v3_small": 96}
TOOLS = {
    "onnxruntime": ("onnx", "a bare loop"),
    "torch": ("pt2", "a bare loop"),
    "openvino": ("onnx", "benchmark_app -api sync"),
    "litert": ("tflite", "litert-benchmark"),
}
ORT_LOOP = """
import numpy as np, onnxruntime as ort, statistics, sys, time
options = ort.SessionOptions(); options.intra_op_num_threads = 1; options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
tensor = session.get_inputs()[0]
feed = {tensor.name: np.random.default_rng(0).normal(size=tensor.shape).astype(np.float32)}
call = lambda: session.run(None, feed)
"""
TORCH_LOOP = """
import statistics, sys, time, torch
torch.set_num_threads(1)
module = torch.export.load(sys.argv[1]).module()
image = torch.randn(1, 3, int(sys.argv[2]), int(sys.argv[2]))
torch.inference_mode().__enter__()
call = lambda: module(image)
"""
LOOP = """
end = time.perf_counter() + 0.5
while time.perf_counter() < end: call()
took, end = [], time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < end:
    start = time.perf_counter(); call(); took.append(time.perf_counter() - start)
print(statistics.median(took) * 1e3)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every model in every format, exported by the libraries themselves.

    The weights are random but the batch norms have seen images, so that no branch folds away.
    """
    import torchvision

    folder = tmp_path_factory.mktemp("models")
    found = {}
    for name, size in MODELS.items():
        torch.manual_seed(0)
        net = getattr(torchvision.models, name)(weights=None).train()
        with torch.no_grad():
            for _ in range(4):
                net(torch.randn(4, 3, size, size))
        net.eval()
        example = (torch.randn(1, 3, size, size),)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            torch.onnx.export(
                net, example, folder / f"{name}.onnx", dynamo=True, external_data=False, verbose=False
            )
            torch.export.save(torch.export.export(net, example), folder / f"{name}.pt2")
            with contextlib.suppress(ImportError):
                import litert_torch

                litert_torch.convert(net, example).export(str(folder / f"{name}.tflite"))
        found |= {(name, p.suffix[1:]): p for p in folder.glob(f"{name}.*")}
    return found


def theirs(runtime: str, path: Path, size: int, folder: Path) -> float:
    """Median of one call in ms by the runtime's own tool, in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if runtime in ("onnxruntime", "torch"):
        loop = (ORT_LOOP if runtime == "onnxruntime" else TORCH_LOOP) + LOOP
        return float(_output([sys.executable, "-c", loop, str(path), str(size), str(SECONDS)], env))
    if runtime == "openvino":
        command = [str(BIN / "benchmark_app"), "-m", str(path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        command += ["-nthreads", "1", "-t", str(int(SECONDS)), "-infer_precision", "f32"]
        found = re.search(r"Median:\s+([\d.]+) ms", _output(command, env))
        assert found, "benchmark_app printed no median"
        return float(found[1])
    result = folder / "litert.json"
    runs = str(max(20, int(SECONDS * 1e3 / (60 if size > 200 else 2))))
    command = [str(BIN / "litert-benchmark"), "--model", str(path), "--num_threads", "1", "--num_runs", runs]
    _output([*command, "--warmup_runs", "20", "--result_json", str(result)], env)
    return _median(json.loads(result.read_text()))


def _median(document: dict) -> float:
    flat = {
        k: v
        for part in (document, *(v for v in document.values() if isinstance(v, dict)))
        for k, v in part.items()
    }
    return float(
        next(v for k, v in flat.items() if re.search(r"p50|median", k) and isinstance(v, (int, float)))
    )


def _output(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def ours(runtime: str, path: Path, folder: Path) -> float:
    artifact, chosen = open_artifact(path, runtime)
    protocol = Protocol(processes=1, half_width=0.001, max_seconds=SECONDS, warmup_seconds=0.5)
    job = CellJob(artifact, path, folder, protocol=protocol, predict=False)
    result = chosen.measure(job, open_host("local"), lambda *_: None)
    assert result.status == "ok", result.reason
    value = result.metrics["latency_ms"].value
    assert value is not None
    return value


@pytest.mark.benchmark
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runtime", TOOLS)
def test_our_median_is_that_of_the_runtimes_own_tool(
    runtime: str, model: str, files: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    suffix, tool = TOOLS[runtime]
    path = files.get((model, suffix))
    if path is None:
        pytest.skip(f"{runtime} or its converter is not installed")
    draw = random.Random(0)
    ratios, medians = [], []
    for _ in range(PAIRS):
        sides = {
            "ours": lambda: ours(runtime, path, tmp_path),
            "theirs": lambda: theirs(runtime, path, MODELS[model], tmp_path),
        }
        order = draw.sample(sorted(sides), 2)
        found = {side: sides[side]() for side in order}
        ratios.append(found["ours"] / found["theirs"])
        medians.append(found["theirs"])
    ratio = statistics.median(ratios)
    told = f"{model} on {runtime} against {tool}: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {PAIRS} pairs, {statistics.median(medians):.3g} ms"
    print(told)
    assert LOW <= ratio <= HIGH, told
