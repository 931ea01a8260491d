"""The browser runtime with a real Chromium: what is fed, weighed and ended, and that the page reaches nothing else."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bench.agent import inputs
from bench.errors import WorkerError
from bench.hosts import open_host
from bench.runtimes import get
from bench.runtimes.base import WorkerResult
from bench.runtimes.worker import Worker
from bench.types import Artifact, Preprocess
from tests.integration.test_worker import gone, make_onnx, quiet
from tests.tiny import CLASSES, QUICK, Tiny

HOST = open_host("local")
BROWSER = get("browser")
_probe = BROWSER.probe(HOST)
pytestmark = pytest.mark.skipif(not _probe.available, reason=f"{_probe.reason}. {_probe.remedy}")


def make_identity(path: Path, shape: list[int | str]) -> Path:
    """An ONNX file that gives back its input, flattened."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(("layout", "channels"), [("NCHW", 3), ("NHWC", 3), ("NCHW", 1)])
def test_the_page_feeds_the_same_bits_as_the_worker(
    layout: str, channels: int, tiny: Tiny, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 12, 10, channels), dtype=np.uint8)
    images[0, :, :, 0].flat[:] = np.arange(120)  # with the next line every value of a byte
    images[1, :, :, 0].flat[:] = np.arange(136, 256)
    np.save(tmp_path / "images.npy", images)
    mean, std = rng.uniform(0.1, 0.6, channels), rng.uniform(0.1, 0.4, channels)
    preprocess = Preprocess(12, 10, channels, mean=tuple(mean), std=tuple(std))
    shape = (channels, 12, 10) if layout == "NCHW" else (12, 10, channels)
    spec = replace(tiny.artifact("onnx").inputs[0], shape=(None, *shape), layout=layout)
    path = make_identity(tmp_path / "identity.onnx", ["n", *shape])
    artifact = replace(tiny.artifact("onnx"), inputs=(spec,), preprocess=preprocess)
    job = tiny.job("onnx", tmp_path / "out", artifact=artifact, path=path, images=tmp_path / "images.npy")
    result = BROWSER.measure(job, HOST, quiet)
    assert result.status == "ok", result.reason
    table = {"mean": list(mean), "std": list(std)}
    wanted = inputs.to_input(
        images, table, {"name": "x", "shape": [None, *shape], "dtype": "float32", "layout": layout}
    )
    np.testing.assert_array_equal(np.load(result.outputs), wanted.reshape(len(images), -1))


class Model:
    """A stand-in for the model of a CPU's load; it is never asked."""

    name, covers, devices, shortest, idle_seconds = "codecarbon", "everything", ("cpu",), 0.0, 0.0


@dataclass(frozen=True)
class Measured:
    """A cell measured to its end; the processes and the folder that its worker had."""

    result: WorkerResult
    pids: tuple[int, ...]
    folder: Path
    weighed: tuple[bytes, ...]


@pytest.fixture(scope="module")
def measured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    worker, kinds = BROWSER.start(HOST), []
    folder = folder_of(worker)

    def look(event: str, details: dict) -> None:
        if details.get("name") == "steady":
            kinds.extend(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in worker.weighed)

    job = tiny.job("onnx", tmp_path_factory.mktemp("cell"))
    result = BROWSER.measure(job, HOST, look, worker=worker, energy=Model())
    assert result.status == "ok", result.reason
    return Measured(result, worker.pids, folder, tuple(kinds))


def folder_of(worker: Worker) -> Path:
    """The worker's own folder for temporary files, in which the browser keeps its profile."""
    until = time.monotonic() + 10.0
    said = Path(f"/proc/{worker.pid}/environ")
    while not (environment := said.read_bytes()):  # Linux fills it a moment after exec
        assert time.monotonic() < until, "the worker's process never had an environment"
        time.sleep(0.01)
    folder = next(e for e in environment.split(b"\0") if e.startswith(b"TMPDIR="))
    return Path(folder.decode().partition("=")[2])


def test_short_calls_share_a_sample_and_give_no_percentiles(measured: Measured) -> None:
    said, metrics = measured.result.runtime, measured.result.metrics
    assert said["cross_origin_isolated"] and 4 <= said["clock_step_us"] <= 6
    calls = said["calls_per_sample"]
    assert calls > 1 and metrics["latency_ms"].value * calls >= 0.3
    assert f"mean of {calls} calls" in metrics["p99_ms"].reason


def test_energy_is_left_to_instruments(measured: Measured) -> None:
    assert "no power meter" in measured.result.metrics["energy_mj"].reason


def test_the_page_is_weighed_and_not_the_worker(measured: Measured) -> None:
    assert measured.weighed and all(b"--type=renderer" in kind for kind in measured.weighed)
    assert measured.result.metrics["memory_mb"].value > 0


def test_a_finished_cell_leaves_no_browser(measured: Measured) -> None:
    assert len(measured.pids) > 3 and all(gone(pid) for pid in measured.pids)
    assert not measured.folder.exists()


def test_int8_is_as_accurate_as_in_onnxruntime(tiny: Tiny, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    images = np.load(tiny.images)
    pre = tiny.artifact("onnx").preprocess
    values = ((images / np.float32(255) - np.float32(pre.mean)) / np.float32(pre.std)).transpose(0, 3, 1, 2)

    class Reader(quantization.CalibrationDataReader):
        """Every image once."""

        def __init__(self) -> None:
            name = _input_name(tiny.path("onnx"))
            self._rows = iter([{name: values[i : i + 1].astype(np.float32)} for i in range(len(values))])

        def get_next(self) -> dict | None:
            return next(self._rows, None)

    path = tmp_path / "int8.onnx"
    kinds = quantization.QuantType
    quantization.quantize_static(
        str(tiny.path("onnx")), str(path), Reader(), activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
        per_channel=True, quant_format=quantization.QuantFormat.QDQ,
    )  # fmt: skip
    artifact = replace(tiny.artifact("onnx"), precision="int8", scheme="u8s8")
    result = BROWSER.measure(tiny.job("onnx", tmp_path / "out", artifact=artifact, path=path), HOST, quiet)
    assert result.status == "ok", result.reason
    native = get("onnxruntime").measure(
        tiny.job("onnx", tmp_path / "native", artifact=artifact, path=path, exact=True), HOST, quiet
    )
    spread = float(np.ptp(np.load(native.outputs)))
    np.testing.assert_allclose(np.load(result.outputs), np.load(native.outputs), atol=0.02 * spread)


def _input_name(path: Path) -> str:
    import onnx

    return str(onnx.load(str(path)).graph.input[0].name)


def test_a_file_made_elsewhere_is_described_and_timed(tmp_path: Path, tiny: Tiny) -> None:
    weight = np.random.default_rng(0).standard_normal((432, CLASSES)).astype(np.float32)
    path = make_onnx(tmp_path / "foreign.onnx", weight)
    unknown = Artifact("onnx", "", path.stat().st_size, path.name)
    job = tiny.job("onnx", tmp_path / "a", path=path, artifact=unknown, images=None)
    found = BROWSER.measure(replace(job, describe=True), HOST, quiet)
    assert found.runtime["inputs"] == [{"name": "x", "shape": [None, 3, 12, 12], "dtype": "float32"}]
    assert found.runtime["outputs"][0]["shape"] == [None, CLASSES]
    assert BROWSER.measure(job, HOST, quiet).metrics["latency_ms"].value > 0


def test_scenarios_that_call_at_given_times_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    load = {"scenario": "streams", "streams": 1, "seconds": 1.0}
    result = BROWSER.measure(tiny.job("onnx", tmp_path, load=load), HOST, quiet)
    assert result.status == "failed" and "makes its calls by itself" in result.reason


# --- ends


@pytest.mark.parametrize("phase", ["load", "warmup"])
def test_an_interrupt_leaves_no_browser(phase: str, tiny: Tiny, tmp_path: Path) -> None:
    worker = BROWSER.start(HOST)
    folder = folder_of(worker)

    def interrupt(event: str, details: dict) -> None:
        if details.get("name") == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BROWSER.measure(tiny.job("onnx", tmp_path), HOST, interrupt, worker=worker)
    assert len(worker.pids) > 3 and all(gone(pid) for pid in worker.pids)
    assert not folder.exists()


def test_a_page_that_crashes_is_a_reason(tiny: Tiny, tmp_path: Path) -> None:
    worker = BROWSER.start(HOST)

    def crash(event: str, details: dict) -> None:
        if details.get("name") == "warmup":
            for pid in worker.weighed:
                os.kill(pid, signal.SIGKILL)

    job = tiny.job("onnx", tmp_path, protocol=replace(QUICK, timeout_seconds=30.0))
    try:
        result = BROWSER.measure(job, HOST, crash, worker=worker)
        assert result.status == "failed" and "crash" in result.reason.lower()
    except WorkerError as error:
        pytest.fail(f"the worker went with its page: {error}")
    assert all(gone(pid) for pid in worker.pids)


# --- the page alone


@pytest.fixture
def neighbour() -> Iterator[tuple[str, list[str]]]:
    """Another server on this machine: its address, and who asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Cross-Origin-Resource-Policy", "cross-origin")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/model.onnx", asked
        server.shutdown()


def test_the_page_reaches_its_own_server_and_nothing_else(neighbour: tuple[str, list[str]]) -> None:
    from bench.agent.browser.page import Page, PageError

    page, (address, asked) = Page("wasm", 1), neighbour
    try:
        for outside in (address, "https://example.com/model.onnx"):
            with pytest.raises(PageError, match="fetch"):
                page.ask("load", outside)
        assert asked == []
        with pytest.raises(PageError, match="404"):
            page.ask("load", page.server.address("gone.onnx"))
    finally:
        page.close()
