"""OpenVINO on the CPU: the same ONNX files as onnxruntime, and its own, and TensorFlow Lite's."""

from __future__ import annotations

from bench.runtimes.local import LocalRuntime
from bench.types import Json


class OpenVino(LocalRuntime):
    name = "openvino"
    format = "onnx"
    formats = ("onnx", "xml", "tflite")
    module = "openvino"
    distributions = ("openvino",)
    remedy = 'pip install "edgefit[openvino]"'

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if device != "cpu":
            return f"openvino runs on the CPU here, not on {device}"
        if precision in ("fp16", "bf16"):
            return f"float layers are inferred in float32 here (INFERENCE_PRECISION_HINT f32): {precision} gains nothing"
        return "" if precision in ("fp32", "int8") else f"openvino does not run {precision}"


RUNTIME = OpenVino()
