"""ONNX Runtime: the CPU provider, and the CUDA and TensorRT providers of onnxruntime-gpu."""

from __future__ import annotations

import importlib.metadata

from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json


class OnnxRuntime(LocalRuntime):
    name = "onnxruntime"
    format = "onnx"
    formats = ("onnx",)
    module = "onnxruntime"
    distributions = ("onnxruntime", "onnxruntime-gpu")
    remedy = "pip install onnxruntime"

    def accelerators(self) -> tuple[str, ...]:
        """CUDA and TensorRT with onnxruntime-gpu; whether TensorRT's libraries load, the worker finds out."""
        try:
            importlib.metadata.version("onnxruntime-gpu")
        except importlib.metadata.PackageNotFoundError:
            return ()
        return ("cuda", "tensorrt") if nvidia_device() else ()

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if precision == "bf16":
            return "onnxruntime has hardly any BF16 kernels"
        if precision == "fp16" and device == "cpu":
            return "the CPU provider computes FP16 by casting to FP32: no gain"
        if precision not in ("fp32", "fp16", "int8"):
            return f"onnxruntime does not run {precision}"
        return ""


RUNTIME = OnnxRuntime()
