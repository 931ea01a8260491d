"""ONNX Runtime Web in Chromium: WebAssembly, and WebGPU. The page makes and times the calls."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ..browser import clock
from ..browser.page import Page
from ..inputs import Refused, input_type, to_input
from .base import Backend, Json, dims

BLOCK_SECONDS = 0.05
"""The page is asked for so much timing at once."""
PILOT_SECONDS = 0.01


class Pixels(NamedTuple):
    """8-bit images that the page itself makes the input's float32 of."""

    images: np.ndarray
    mean: List[float]
    std: List[float]
    channels_first: bool


class BrowserWasm(Backend):
    """WebAssembly with SIMD; threads in a page that is cross-origin isolated."""

    provider = "wasm"
    own_loop = True
    clock = "the page's performance.now"
    copies = "input copied into WebAssembly's memory and output out of it, inside the timed call"

    def __init__(self) -> None:
        super().__init__()
        self._open(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self._took = 0.0

    def _open(self, threads: int) -> None:
        self._page = Page(self.provider, threads)
        self._threads = threads
        self.version = str(self._page.facts["version"])

    def load(self, path: str, threads: int, device: str) -> Optional[float]:
        if threads != self._threads:  # a worker is told at its start; a job run by hand is not
            self.close()
            self._open(threads)
        facts = self._page.facts
        if facts["threads"] != threads:
            raise Refused(
                f"the page has {facts['threads']} threads, not {threads}: it is not cross-origin isolated"
            )
        found = self._page.ask("load", self._page.server.put("model.onnx", path))
        self._page.server.drop("model.onnx")
        self._inputs, self._outputs = found["inputs"], found["outputs"]
        if not facts["sandbox"]:
            self.notes.append("the browser ran without its sandbox, as it does for root")
        return float(found["took"]) * 1e-3

    def inputs(self) -> List[Json]:
        return _described(self._inputs)

    def outputs(self) -> List[Json]:
        return _described(self._outputs)

    def to_input(self, images: np.ndarray, preprocess: Json, spec: Json) -> Any:
        """float32 is made in the page, bit for bit as here; other types here."""
        to_input(images[:1], preprocess, spec)  # refuses what cannot be fed
        if input_type(spec) != np.float32:
            return to_input(images, preprocess, spec)
        channels = images.shape[3]
        mean, std = (
            np.broadcast_to(np.asarray(preprocess[k], np.float32), channels).tolist() for k in ("mean", "std")
        )
        return Pixels(np.ascontiguousarray(images), mean, std, spec["layout"] == "NCHW")

    def feed(self, prepared: Any) -> None:
        self._feed([prepared])

    def _feed(self, batches: Sequence[Union[np.ndarray, Pixels]]) -> None:
        server, messages = self._page.server, []
        for number, batch in enumerate(batches):
            values = batch.images if isinstance(batch, Pixels) else batch
            address = server.put(f"batch{number}", values.tobytes())
            messages.append({**_message(batch), "address": address})
        self._page.ask("feed", messages)
        for number in range(len(batches)):
            server.drop(f"batch{number}")

    def call(self) -> None:
        self._took = float(self._page.ask("call")) * 1e-3

    def took(self) -> Optional[float]:
        return self._took

    def stream(self, prepared: Sequence[Any]) -> Callable[[], Sequence[float]]:
        self._feed(prepared)
        tick = self._page.facts["tick"]
        pilot = [t * 1e-3 for t in self._page.ask("block", PILOT_SECONDS * 1e3, 1)]
        self.calls_per_sample = clock.calls_per_sample(clock.typical(pilot, tick), tick)

        def block() -> List[float]:
            return [t * 1e-3 for t in self._page.ask("block", BLOCK_SECONDS * 1e3, self.calls_per_sample)]

        return block

    def fetch(self) -> np.ndarray:
        return self._page.output()

    def info(self) -> Json:
        facts = self._page.facts
        return {
            "providers": [self.provider],
            "threads": facts["threads"],
            "browser": facts["browser"],
            "cross_origin_isolated": facts["isolated"],
            "clock_step_us": round(facts["tick"] * 1e6, 3),
        }

    def others(self) -> List[int]:
        return self._page.pids

    def weighed(self) -> List[int]:
        return self._page.weighed

    def close(self) -> None:
        self._page.close()


class BrowserWebGpu(BrowserWasm):
    """WebGPU; what it has no kernel for runs in WebAssembly."""

    provider = "webgpu"
    copies = "input copied to the GPU and output back, inside the timed call"

    def load(self, path: str, threads: int, device: str) -> Optional[float]:
        if not self._page.facts["gpu"]:
            raise Refused(f"{self._page.facts['browser']} finds no WebGPU adapter on this machine")
        return super().load(path, threads, device)

    def info(self) -> Json:
        return {**super().info(), "gpu": self._page.facts["gpu"]}


def _described(found: Sequence[Json]) -> List[Json]:
    return [{**spec, "shape": dims(spec["shape"])} for spec in found]


def _message(batch: Union[np.ndarray, Pixels]) -> Dict[str, Any]:
    """What the page must know of a batch beside its bytes."""
    if not isinstance(batch, Pixels):
        return {"dtype": batch.dtype.name, "shape": list(batch.shape), "pixels": None}
    n, height, width, channels = batch.images.shape
    first = batch.channels_first
    shape = [n, channels, height, width] if first else [n, height, width, channels]
    pixels = {"mean": batch.mean, "std": batch.std, "first": height * width if first else 0}
    return {"dtype": "float32", "shape": shape, "pixels": pixels}
