"""One small class per runtime, one module each: load a file, feed a batch, call, fetch.

The constructor imports the runtime; until then nothing heavy is loaded.
"""

from __future__ import annotations

import importlib
from typing import Callable, Dict

from .base import Backend, Json

__all__ = ["BACKENDS", "Backend", "Json"]


def _lazy(module: str, name: str) -> Callable[[], Backend]:
    def make() -> Backend:
        backend: Backend = getattr(importlib.import_module("." + module, __name__), name)()
        return backend

    return make


BACKENDS: Dict[str, Callable[[], Backend]] = {
    "torch": _lazy("torch_", "Torch"),
    "torch-compile": _lazy("torch_", "TorchCompile"),
    "torch-cudagraph": _lazy("torch_", "TorchCudaGraph"),
    "torch-eager": _lazy("torch_", "TorchEager"),
    "onnxruntime": _lazy("onnxruntime_", "OnnxRuntime"),
    "litert": _lazy("litert", "LiteRt"),
    "openvino": _lazy("openvino_", "OpenVino"),
    "executorch": _lazy("executorch_", "ExecuTorch"),
    "tensorrt": _lazy("tensorrt_", "TensorRt"),
    "tensorrt-dla": _lazy("tensorrt_", "TensorRt"),
    "browser": _lazy("browser", "BrowserWasm"),
    "browser-webgpu": _lazy("browser", "BrowserWebGpu"),
    "trtexec": _lazy("trtexec", "Trtexec"),
}
