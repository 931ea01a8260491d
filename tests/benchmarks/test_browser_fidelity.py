"""Our median in the browser against a page written by hand: same file, one thread, pairs of fresh browsers by turns."""

from __future__ import annotations

import functools
import http.server
import importlib
import random
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.agent.browser import package
from bench.hosts import open_host
from bench.measure.artifact import open_artifact
from bench.measure.turns import by_turns, ratio
from bench.runtimes import get
from bench.runtimes.base import CellJob
from bench.types import Notify, Protocol

torch = pytest.importorskip("torch")
_probe = get("browser").probe(open_host("local"))
pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(not _probe.available, reason=f"{_probe.reason}. {_probe.remedy}"),
]
PAIRS = 10
LOW, HIGH = 0.95, 1.05
MODELS = {"mobilenet_v3_small": (96, 8.0, 0.2), "resnet18": (224, 12.0, 0.5)}
"""Side of the image in pixels, seconds of timing of each side and of a turn."""
PAGE = """<!doctype html>
<script type="module">
import * as ort from './ort.wasm.min.mjs';
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create('model.onnx', {executionProviders: ['wasm']});
const data = Float32Array.from({length: 3 * SIDE * SIDE}, () => 2 * Math.random() - 1);
const feeds = {[session.inputNames[0]]: new ort.Tensor('float32', data, [1, 3, SIDE, SIDE])};
window.turn = async (milliseconds) => {
  const took = [], end = performance.now() + milliseconds;
  while (performance.now() < end) {
    const start = performance.now();
    await session.run(feeds);
    took.push(performance.now() - start);
  }
  return took;
};
</script>
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """A folder, with the headers that give a page the finer clock."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """One model with random weights; its batch norms have seen images, so that no branch folds away."""
    import torchvision

    size, *_ = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    net = getattr(torchvision.models, request.param)(weights=None).train()
    with torch.no_grad():
        for _ in range(4):
            net(torch.randn(4, 3, size, size))
    example, path = (torch.randn(1, 3, size, size),), folder / "model.onnx"
    torch.onnx.export(net.eval(), example, path, dynamo=True, external_data=False, verbose=False)
    for name in package.files("wasm"):
        shutil.copy(Path(package.folder()) / name, folder / name)
    (folder / "hand.html").write_text(PAGE.replace("SIDE", str(size)))
    return request.param, path


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hand.html"
        server.shutdown()


def by_hand(address: str, seconds: float, turn: float, notify: Notify) -> list[np.ndarray]:
    """The samples of each turn of the page written by hand."""
    api = importlib.import_module("playwright.sync_api")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=package.chromium())
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("window.turn")
        page.evaluate("turn(1500)")
        notify("phase", {"name": "steady"})
        turns, measured = [], 0.0
        while measured < seconds:
            turns.append(np.array(page.evaluate(f"turn({turn * 1e3})")) * 1e-3)
            measured += max(turn, float(turns[-1].sum()))
            notify("turn", {"n": len(turns)})
        browser.close()
    return turns


def ours(path: Path, folder: Path, seconds: float, turn: float, notify: Notify) -> list[np.ndarray]:
    """The samples of each turn of our cell."""
    opened = open_artifact(path, "browser")
    protocol = Protocol(processes=1, half_width=1e-9, max_seconds=seconds, warmup_seconds=0.5)
    job = CellJob(opened.artifact, path, folder, protocol=protocol, predict=False, turn_seconds=turn)
    result = opened.runtime.measure(job, open_host("local"), notify)
    assert result.samples is not None, result.reason
    return [t for t in np.split(np.load(result.samples), result.runtime["turns"]) if len(t)]


def test_our_median_is_that_of_a_page_written_by_hand(model: tuple[str, Path], tmp_path: Path) -> None:
    name, path = model
    _, seconds, turn = MODELS[name]
    draw, ratios, medians = random.Random(0), [], []
    with served(path.parent) as address:
        for _ in range(PAIRS):
            order = ["hand", "ours"] if draw.random() < 0.5 else ["ours", "hand"]
            work = {
                "hand": functools.partial(by_hand, address, seconds, turn),
                "ours": functools.partial(ours, path, tmp_path, seconds, turn),
            }
            found = by_turns(work, order)
            ratios.append(ratio(found["hand"], found["ours"]))
            print(f"{name}: {ratios[-1]:.3f}")
            medians.append(float(np.median(np.concatenate(found["hand"]))) * 1e3)
    centre = statistics.median(ratios)
    told = f"{name} in the browser against a page by hand: {centre:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {PAIRS} pairs, {statistics.median(medians):.3g} ms"
    print(told)
    assert LOW <= centre <= HIGH, told
