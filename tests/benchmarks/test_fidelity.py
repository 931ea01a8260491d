"""Our median against each runtime's own tool: same file, threads and batch, pairs of fresh processes.

The two of a pair alternate: one is stopped (SIGSTOP) while the other works, so that both meet the same moods of the machine.
A call that is stopped half way is a slow sample, for either side alike; turns are of twenty calls or more, so that the medians bear it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from bench.hosts import open_host
from bench.measure.artifact import open_artifact
from bench.runtimes.base import CellJob
from bench.types import Protocol

torch = pytest.importorskip("torch")
PAIRS = 10
LOW, HIGH = 0.98, 1.02
BIN = Path(sys.executable).parent
MODELS = {"resnet18": (224, 24.0, 2.0), "mobilenet_v3_small": (96, 10.0, 0.2)}
"""Side of the image in pixels, seconds of timing (half of them stopped) and of a turn."""
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
mode = torch.inference_mode()  # its guard ends with it
mode.__enter__()
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
    for name, (size, *_) in MODELS.items():
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


def command(runtime: str, path: Path, size: int, seconds: float, result: Path) -> list[str]:
    """The runtime's own tool, timing one call after the other for so long."""
    if runtime in ("onnxruntime", "torch"):
        loop = (ORT_LOOP if runtime == "onnxruntime" else TORCH_LOOP) + LOOP
        return [sys.executable, "-c", loop, str(path), str(size), str(seconds)]
    if runtime == "openvino":
        found = [str(BIN / "benchmark_app"), "-m", str(path), "-d", "CPU", "-api", "sync", "-hint", "none"]
        return [*found, "-nthreads", "1", "-t", str(int(seconds)), "-infer_precision", "f32"]
    runs = str(int(seconds / 2 / (0.04 if size > 200 else 0.001)))
    found = [str(BIN / "litert-benchmark"), "--model", str(path), "--num_threads", "1", "--num_runs", runs]
    return [*found, "--warmup_runs", "20", "--result_json", str(result)]


def median(runtime: str, output: str, result: Path) -> float:
    """What the tool found, in ms."""
    if runtime == "litert":
        return _median(json.loads(result.read_text()))
    if runtime != "openvino":
        return float(output)
    found = re.search(r"Median:\s+([\d.]+) (ms|us)", output)  # below a millisecond it changes the unit
    assert found, output[-2000:]
    return float(found[1]) * {"ms": 1.0, "us": 1e-3}[found[2]]


def _median(document: dict) -> float:
    flat = {
        k: v
        for part in (document, *(v for v in document.values() if isinstance(v, dict)))
        for k, v in part.items()
    }
    return float(
        next(v for k, v in flat.items() if re.search(r"p50|median", k) and isinstance(v, (int, float)))
    )


def alternate(pids: list[int], turn: float, done: threading.Event) -> None:
    """One of the two works while the other is stopped, until either is done."""
    for working, stopped in itertools.cycle([pids, pids[::-1]]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGSTOP)
            os.kill(working, signal.SIGCONT)
        if done.wait(turn):
            break
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def pair(runtime: str, path: Path, model: str, folder: Path, swap: bool) -> tuple[float, float]:
    """Medians of one call in ms: ours and the tool's."""
    size, seconds, turn = MODELS[model]
    opened = open_artifact(path, runtime)
    artifact, chosen = opened.artifact, opened.runtime
    protocol = Protocol(processes=1, half_width=1e-9, max_seconds=seconds, warmup_seconds=0.5)
    job = CellJob(artifact, path, folder, protocol=protocol, predict=False)
    result, host, done = folder / "litert.json", open_host("local"), threading.Event()
    tool = subprocess.Popen(
        command(runtime, path, size, seconds, result), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip
    with chosen.start(host) as worker, ThreadPoolExecutor(3) as pool:
        pids = [worker.pid, tool.pid][:: -1 if swap else 1]
        turns = pool.submit(alternate, pids, turn, done)
        sides = [
            pool.submit(chosen.measure, job, host, lambda *_: None, worker),
            pool.submit(tool.communicate),
        ]
        wait(sides, return_when="FIRST_COMPLETED")
        done.set()
        turns.result()
        measured, (output, _) = (side.result() for side in sides)
    assert tool.returncode == 0, output[-2000:]
    value = measured.metrics["latency_ms"].value
    assert value is not None, measured.reason
    return value, median(runtime, output, result)


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
    pairs = [pair(runtime, path, model, tmp_path, draw.random() < 0.5) for _ in range(PAIRS)]
    ratios = [ours / theirs for ours, theirs in pairs]
    ratio, theirs = statistics.median(ratios), statistics.median(t for _, t in pairs)
    told = f"{model} on {runtime} against {tool}: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {PAIRS} pairs, {theirs:.3g} ms"
    print(told)
    assert LOW <= ratio <= HIGH, told
