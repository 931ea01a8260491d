"""LiteRT (TensorFlow Lite) on the CPU with XNNPACK."""

from __future__ import annotations

import importlib.util

from bench.runtimes.local import LocalRuntime
from bench.types import Json


class LiteRt(LocalRuntime):
    name = "litert"
    format = "tflite"
    formats = ("tflite",)
    distributions = ("ai-edge-litert", "tflite-runtime")
    remedy = 'pip install "edgefit[litert]"'

    @property
    def module(self) -> str:  # type: ignore[override]
        """``ai_edge_litert``, or its predecessor where only that is installed (Python <= 3.11)."""
        if importlib.util.find_spec("ai_edge_litert") is None and importlib.util.find_spec("tflite_runtime"):
            return "tflite_runtime"
        return "ai_edge_litert"

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if device != "cpu":
            return f"litert runs on the CPU here, not on {device}"
        return "" if precision in ("fp32", "fp16", "int8") else f"litert does not run {precision}"

    def int8_scheme(self, environment: Json) -> str:
        return "litert"


RUNTIME = LiteRt()
