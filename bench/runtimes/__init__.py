"""What runs artifacts: one module per runtime, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bench.runtimes.base import Runtime

RUNTIMES = {
    "torch": "bench.runtimes.torch_:TORCH",
    "onnxruntime": "bench.runtimes.onnxruntime_:RUNTIME",
    "litert": "bench.runtimes.litert:RUNTIME",
    "openvino": "bench.runtimes.openvino_:RUNTIME",
    "executorch": "bench.runtimes.executorch_:RUNTIME",
    "torch-compile": "bench.runtimes.torch_:COMPILE",
    "torch-cudagraph": "bench.runtimes.torch_:CUDA_GRAPH",
    "torch-eager": "bench.runtimes.torch_:EAGER",
    "tensorrt": "bench.runtimes.tensorrt_:RUNTIME",
    "tensorrt-dla": "bench.runtimes.tensorrt_:RUNTIME_DLA",
    "browser": "bench.runtimes.browser:WASM",
    "browser-webgpu": "bench.runtimes.browser:WEBGPU",
}
SUFFIXES = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".pt2": "pt2",
    ".pte": "pte",
    ".xml": "xml",
    ".engine": "engine",
    ".safetensors": "safetensors",
}
"""A file's ending and the format that runtimes know it by; ``.xml`` is OpenVINO's, ``.engine`` TensorRT's."""


def names() -> tuple[str, ...]:
    """All runtimes, available or not."""
    return tuple(RUNTIMES)


def get(name: str) -> Runtime:
    """The runtime of that name; importing it loads nothing heavy.

    Raises:
        UsageError: no such runtime.
    """
    if name not in RUNTIMES:
        raise UsageError(f"No runtime is called {name!r}", todo=nearest(name, RUNTIMES))
    module, _, attribute = RUNTIMES[name].partition(":")
    return cast("Runtime", getattr(importlib.import_module(module), attribute))


def taking(fmt: str) -> tuple[str, ...]:
    """The runtimes that take files of a format, those first that our own exports in it are made for."""
    takers = [name for name in RUNTIMES if fmt in get(name).formats]
    return tuple(sorted(takers, key=lambda name: get(name).format != fmt))
