"""TensorRT on a board elsewhere, by its Python bindings or by trtexec: all of it stand-ins, nothing here has seen a GPU."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.hosts.local import LocalHost
from bench.hosts.workspace import Workspace
from bench.runtimes.base import CellJob, WorkerResult
from bench.runtimes.remote import Machine
from bench.store import file_sha256
from bench.types import Artifact, Preprocess, Protocol, TensorSpec
from tests.standin_jetson import Jetson
from tests.standins import flat_onnx

pytest.importorskip("onnxruntime")
STANDINS = Path(__file__).parents[1] / "standins"
QUICK = Protocol(half_width=0.05, min_runs=20, max_seconds=0.2, warmup_seconds=0.06, timeout_seconds=60)


def quiet(event: str, details: dict) -> None:
    """Nobody listens."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    made = Jetson(tmp_path / "board")
    for key, value in made.environ.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


class Trtexec:
    """The stand-in on the board; ``calls`` are its options, those of ``--help`` left out."""

    def __init__(self, board: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = board.bin, monkeypatch
        program = board.bin / "trtexec"
        shutil.copy(STANDINS / "trtexec.py", program)
        program.write_text(f"#!{sys.executable} -IS\n{program.read_text()}")
        program.chmod(0o755)

    def claims(self, version: str) -> None:
        self._patch.setenv("EDGEFIT_STANDIN_TRTEXEC", version)

    @property
    def calls(self) -> list[list[str]]:
        found = [json.loads(line) for line in (self._folder / "trtexec.log").read_text().splitlines()]
        return [c for c in found if c != ["--help"]]


@pytest.fixture
def tool(board: Jetson, monkeypatch: pytest.MonkeyPatch) -> Trtexec:
    return Trtexec(board, monkeypatch)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"), patience=0.0)


def a_job(folder: Path, precision: str = "fp16", device: str = "cuda", **changes: object) -> CellJob:
    folder.mkdir(parents=True)
    path = flat_onnx(folder / "net.onnx")
    images = folder / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8))
    artifact = Artifact(
        "onnx", file_sha256(path), path.stat().st_size, path.name, precision,
        inputs=(TensorSpec("x", (None, 3, 4, 4), layout="NCHW"),),
        outputs=(TensorSpec("y", (None, 48), layout="NC"),),
        preprocess=Preprocess(4, 4, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )  # fmt: skip
    job = CellJob(artifact, path, folder, device=device, images=images, protocol=QUICK)
    return replace(job, **changes)


def measured(place: Workspace, job: CellJob) -> WorkerResult:
    return Machine.reach(place).runtime("tensorrt").measure(job, place.host, quiet)


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.2.1", ["--explicitBatch", "--buildOnly", "--fp16"]),
        ("10.3.0", ["--skipInference", "--fp16"]),
        ("11.1.0", ["--skipInference"]),
    ],
)
def test_trtexec_of_every_version_gives_gpu_seconds_a_query(
    tool: Trtexec, place: Workspace, tmp_path: Path, version: str, flags: list[str]
) -> None:
    tool.claims(version)
    result = measured(place, a_job(tmp_path / "cell", batch=2))
    assert result.status == "ok", result.reason
    built, ran = tool.calls
    assert [o for o in built if "=" not in o] == flags and "--shapes=x:2x3x4x4" in built
    assert "--shapes=x:2x3x4x4" in ran and "--warmUp=60" in ran and "--duration=1" in ran
    samples = np.load(result.samples)
    np.testing.assert_allclose(samples, 2e-3)  # no warm-up, no transfers, no graph
    assert len(samples) == 500 and result.metrics["latency_ms"].value == pytest.approx(2.0)
    assert result.runtime["latency_includes"] == "GPU compute only" and result.stopped == "cap"
    assert "trtexec" in result.runtime["clock"] and result.runtime["name"] == "tensorrt"
    assert result.runtime["engine"]["build_seconds"] == 0.25
    for name in ("accuracy", "memory_mb", "energy_mj", "first_call_ms"):
        assert result.metrics[name].value is None and "trtexec" in result.metrics[name].reason, name


@pytest.mark.parametrize(("version", "there"), [("8.5.2", True), ("10.8.0", False)])
def test_the_dla_is_a_runtime_of_its_own_where_the_release_drives_one(
    tool: Trtexec, place: Workspace, tmp_path: Path, version: str, there: bool
) -> None:
    tool.claims(version)
    runtime = Machine.reach(place).runtime("tensorrt-dla")
    found = runtime.probe(place.host)
    assert found.available is there
    if not there:
        assert f"no DLA that TensorRT {version} drives" in found.reason and "tensorrt" in found.remedy
        return
    assert found.devices == ("dla0",)
    assert "FP16 and INT8" in runtime.refuse("fp32", {}, "dla0")
    result = runtime.measure(a_job(tmp_path / "cell", device=found.devices[0]), place.host, quiet)
    assert result.status == "ok" and result.runtime["name"] == "tensorrt-dla", result.reason
    assert all("--useDLACore=0" in call for call in tool.calls)


def test_trtexec_builds_once_and_again_when_the_engine_is_damaged(
    tool: Trtexec, place: Workspace, tmp_path: Path
) -> None:
    tool.claims("10.3.0")
    cached = []
    for n in range(3):
        cached.append(measured(place, a_job(tmp_path / f"cell{n}")).runtime["engine"]["cached"])
        if n == 1:
            (plan,) = (tmp_path / "ws" / "engines").glob("*/plan.engine")
            plan.write_bytes(b"cut")
    assert cached == [False, True, False]


def test_trtexec_on_a_dla_counts_what_fell_back(tool: Trtexec, place: Workspace, tmp_path: Path) -> None:
    tool.claims("8.5.2")
    result = measured(place, a_job(tmp_path / "cell", device="dla1"))
    engine = result.runtime["engine"]
    assert (engine["on_dla"], engine["on_gpu"], engine["fell_back"]) == (1, 1, ["y"])
    assert all("--useDLACore=1" in call for call in tool.calls)


def test_figures_that_would_mean_something_else_are_refused(
    tool: Trtexec, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.claims("11.1.0")
    monkeypatch.setenv("EDGEFIT_STANDIN_IGNORES", "1")
    result = measured(place, a_job(tmp_path / "cell"))
    assert result.status == "failed" and "data transfers" in result.reason
    assert result.metrics["latency_ms"].value is None


def test_a_build_that_fails_says_why_and_leaves_nothing(
    tool: Trtexec, place: Workspace, tmp_path: Path
) -> None:
    tool.claims("10.3.0")
    job = a_job(tmp_path / "cell")
    job.path.write_bytes(b"no onnx")
    job = replace(job, artifact=replace(job.artifact, sha256=file_sha256(job.path)))
    result = measured(place, job)
    assert result.status == "failed" and "Failed to parse onnx file" in result.reason
    assert not list((tmp_path / "ws" / "engines").iterdir())


def test_the_probe_says_version_and_the_boards_devices(
    board: Jetson, tool: Trtexec, place: Workspace
) -> None:
    tool.claims("8.5.2")
    probe = Machine.reach(place).runtime("tensorrt").probe(place.host)
    assert (probe.available, probe.version, probe.devices) == (True, "8.5.2", ("cuda", "dla0", "dla1"))
    (board.files / "proc/device-tree/compatible").write_text("nvidia,p3767-0001\0nvidia,tegra234\0")
    assert Machine.reach(place).runtime("tensorrt").probe(place.host).devices == ("cuda", "dla0")
    tool.claims("11.1.0")
    assert Machine.reach(place).runtime("tensorrt").probe(place.host).devices == ("cuda",)


def test_without_bindings_and_trtexec_the_probe_says_both(board: Jetson, place: Workspace) -> None:
    probe = Machine.reach(place).runtime("tensorrt").probe(place.host)
    assert not probe.available and "not installed" in probe.reason and "no trtexec" in probe.reason


def with_bindings(folder: Path, version: str) -> str:
    """A Python whose ``tensorrt`` is the stand-in, of a version; its executable."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "standin.pth").write_text(f"{sysconfig.get_path('purelib')}\n{STANDINS}\n")
    (site / f"tensorrt-{version}.dist-info").mkdir()
    (site / f"tensorrt-{version}.dist-info" / "METADATA").write_text(f"Name: tensorrt\nVersion: {version}\n")
    return str(folder / "bin" / "python")


def test_bindings_measure_with_accuracy_and_come_before_trtexec(
    tool: Trtexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFIT_STANDIN_TENSORRT", "8.6.1")
    place = Workspace(LocalHost(), with_bindings(tmp_path / "venv", "8.6.1"), str(tmp_path / "ws"))
    assert Machine.reach(place).runtime("tensorrt").probe(place.host).version == "8.6.1"
    job = a_job(tmp_path / "cell")
    result = measured(place, job)
    assert result.status == "ok", result.reason
    images = np.load(job.images).astype(np.float32)
    expected = ((images / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(5, 48)
    np.testing.assert_allclose(np.load(result.outputs), expected, atol=1e-5)
    assert "CUDA events" in result.runtime["clock"] and result.runtime["engine"]["cached"] is False
    again = measured(place, a_job(tmp_path / "again", device="dla0"))
    assert again.runtime["engine"]["on_dla"] == 1


def test_bindings_without_named_tensors_leave_it_to_trtexec(
    tool: Trtexec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.claims("8.2.1")
    place = Workspace(LocalHost(), with_bindings(tmp_path / "venv", "8.2.1"), str(tmp_path / "ws"))
    result = measured(place, a_job(tmp_path / "cell"))
    assert result.status == "ok" and "trtexec" in result.runtime["clock"]
