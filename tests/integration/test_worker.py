"""The worker as a process: its events, its end in every way it can end, and alone on a device."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bench.agent
from bench.errors import WorkerError
from bench.hosts import open_host
from bench.runtimes import get
from bench.runtimes.worker import Worker, job_json
from bench.types import Artifact
from tests.tiny import CLASSES, QUICK, Tiny

pytest.importorskip("onnxruntime")
HOST = open_host("local")
ORT = get("onnxruntime")


def quiet(event: str, details: dict) -> None:
    """A caller who does not want to hear of progress."""


def gone(pid: int, within: float = 10.0) -> bool:
    """Did the process end in time? A zombie has ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def make_onnx(path: Path, weight: np.ndarray, batch: int | str = "n") -> Path:
    """An ONNX file that multiplies (batch, 3, 12, 12), flattened, with ``weight``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((432, CLASSES)).astype(np.float32)


def test_the_agent_runs_alone_from_its_folder(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(Path(bench.agent.__file__).parent, tmp_path / "agent")
    job = tiny.job("onnx", tmp_path / "out")
    (tmp_path / "job.json").write_text(json.dumps(job_json(job, "onnxruntime")))
    command = [sys.executable, "-m", "agent", "job.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {"event": "done", "status": "ok", "reason": ""}
    assert json.loads((tmp_path / "out/result.json").read_text())["status"] == "ok"
    np.testing.assert_allclose(np.load(tmp_path / "out/outputs.npy"), tiny.logits, atol=1e-4)


def test_a_failed_job_ends_with_status_3(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny.job("onnx", tmp_path / "out", path=tmp_path / "gone.onnx")
    (tmp_path / "job.json").write_text(json.dumps(job_json(job, "onnxruntime")))
    command = [sys.executable, "-m", "bench.agent", str(tmp_path / "job.json")]
    root = Path(bench.agent.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and "gone.onnx" in done.stdout


def test_a_started_worker_is_used_and_a_dead_one_replaced(tiny: Tiny, tmp_path: Path) -> None:
    worker = ORT.start(HOST)
    worker.ready()
    result = ORT.measure(tiny.job("onnx", tmp_path / "a"), HOST, quiet, worker=worker)
    assert result.status == "ok" and result.seconds["start"] < 0.1 and gone(worker.pid)

    dead = ORT.start(HOST)
    os.kill(dead.pid, signal.SIGKILL)
    assert gone(dead.pid)
    assert ORT.measure(tiny.job("onnx", tmp_path / "b"), HOST, quiet, worker=dead).status == "ok"


def test_a_worker_with_other_threads_is_replaced(tiny: Tiny, tmp_path: Path) -> None:
    worker = ORT.start(HOST, threads=1)
    result = ORT.measure(tiny.job("onnx", tmp_path, threads=2), HOST, quiet, worker=worker)
    assert result.status == "ok" and result.runtime["os_threads"] >= 3
    assert gone(worker.pid)


@pytest.mark.parametrize("phase", ["load", "steady", "predict"])
def test_an_interrupt_leaves_no_process(phase: str, tiny: Tiny, tmp_path: Path) -> None:
    worker = ORT.start(HOST)

    def interrupt(event: str, details: dict) -> None:
        if details.get("name") == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ORT.measure(tiny.job("onnx", tmp_path), HOST, interrupt, worker=worker)
    assert gone(worker.pid)


def test_a_killed_engine_takes_its_worker_along(tmp_path: Path) -> None:
    code = (
        "import time; from bench.runtimes import get; from bench.hosts import open_host\n"
        "w = get('onnxruntime').start(open_host('local')); w.ready(); print(w.pid, flush=True); time.sleep(60)"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    pid = int(engine.stdout.readline())
    assert Path(f"/proc/{pid}").exists() and len(list(tmp_path.iterdir())) == 1
    engine.kill()
    engine.wait()
    engine.stdout.close()
    assert gone(pid) and not list(tmp_path.iterdir())


def test_the_last_words_of_a_worker_that_cannot_start() -> None:
    with (
        Worker(HOST, "no-such-runtime") as worker,
        pytest.raises(WorkerError, match="no-such-runtime") as caught,
    ):
        worker.ready()
    assert "ended with status 1" in str(caught.value)


def test_non_finite_outputs_fail(tiny: Tiny, tmp_path: Path, weight: np.ndarray) -> None:
    weight[0, 0] = np.nan
    path = make_onnx(tmp_path / "nan.onnx", weight)
    result = ORT.measure(tiny.job("onnx", tmp_path / "out", path=path), HOST, quiet)
    assert result.status == "failed" and "non-finite" in result.reason


def test_a_fixed_batch_is_kept_or_refused(tiny: Tiny, tmp_path: Path, weight: np.ndarray) -> None:
    path = make_onnx(tmp_path / "fixed.onnx", weight, batch=3)
    artifact = replace(tiny.artifact("onnx"), inputs=())
    refused = ORT.measure(tiny.job("onnx", tmp_path / "a", path=path, artifact=artifact), HOST, quiet)
    assert refused.status == "failed" and "fixed batch of 3" in refused.reason
    result = ORT.measure(tiny.job("onnx", tmp_path / "b", path=path, artifact=artifact, batch=3), HOST, quiet)
    assert result.status == "ok", result.reason
    pixels = (np.load(tiny.images) / np.float32(255) - artifact.preprocess.mean) / artifact.preprocess.std
    expected = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1) @ weight
    np.testing.assert_allclose(np.load(result.outputs), expected, rtol=1e-4, atol=1e-3)


def test_a_file_made_elsewhere_is_timed_on_random_values(
    tmp_path: Path, tiny: Tiny, weight: np.ndarray
) -> None:
    path = make_onnx(tmp_path / "foreign.onnx", weight)
    unknown = Artifact("onnx", "", path.stat().st_size, path.name)
    job = tiny.job("onnx", tmp_path / "out", path=path, artifact=unknown, images=None)
    result = ORT.measure(job, HOST, quiet)
    assert result.status == "ok", result.reason
    assert result.outputs is None and any("random values" in note for note in result.notes)


def test_images_of_another_size_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", np.zeros((4, 16, 16, 3), np.uint8))
    result = ORT.measure(tiny.job("onnx", tmp_path / "out", images=tmp_path / "big.npy"), HOST, quiet)
    assert result.status == "failed" and "(16, 16, 3)" in result.reason and "(12, 12, 3)" in result.reason


def test_the_cap_ends_a_noisy_cell(tiny: Tiny, tmp_path: Path) -> None:
    impossible = replace(QUICK, half_width=1e-9)
    result = ORT.measure(tiny.job("onnx", tmp_path, protocol=impossible), HOST, quiet)
    assert result.stopped == "cap" and result.seconds["steady"] < 2


def test_the_engine_sleeps_while_a_cell_is_timed(tiny: Tiny, tmp_path: Path) -> None:
    used: dict[str, float] = {}

    def listen(event: str, details: dict) -> None:
        if event == "phase":
            used[details["name"]] = time.process_time()

    protocol = replace(QUICK, max_seconds=2.0, half_width=1e-9)
    result = ORT.measure(tiny.job("onnx", tmp_path, protocol=protocol), HOST, listen)
    assert result.seconds["steady"] > 1.9
    assert used["settled"] - used["steady"] < 0.01 * result.seconds["steady"]


def test_an_energy_source_frames_the_steady_state(tiny: Tiny, tmp_path: Path) -> None:
    from bench.measure.power import Reading

    heard: list[str] = []
    joules = iter([0.01, 2.0, 0.03])

    class Meter:
        """A stand-in whose windows all last one second: idle, work, idle."""

        name, covers, devices, shortest, idle_seconds = "meter", "everything", ("cpu",), 0.0, 0.01

        def start(self) -> None:
            heard.append("start")

        def stop(self) -> Reading:
            heard.append("stop")
            return Reading("meter", "everything", next(joules), 1.0, 1, "measured", method="a meter")

    def listen(event: str, details: dict) -> None:
        if event == "phase":
            heard.append(details["name"])

    result = ORT.measure(tiny.job("onnx", tmp_path), HOST, listen, energy=Meter())
    assert heard[:2] == ["start", "stop"]  # idle, before the worker has its job
    assert heard[heard.index("warmup") :][:7] == [
        "warmup",
        "start",
        "steady",
        "stop",
        "start",
        "stop",
        "settled",
    ]
    energy = result.metrics["energy_mj"]
    assert energy.value == pytest.approx((2.0 - 0.02) * 1e3 / len(np.load(result.samples)))
    assert (energy.unit, energy.provenance, energy.n) == ("mJ/image", "measured", 1)
    assert result.runtime["energy"]["idle_before"]["watts"] == 0.01
