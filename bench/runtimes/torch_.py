"""PyTorch: a torch.export program, run eagerly."""

from __future__ import annotations

from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json


class Torch(LocalRuntime):
    name = "torch"
    format = "pt2"
    module = "torch"
    distributions = ("torch",)
    remedy = "pip install torch"
    slow_start = True

    def accelerators(self) -> tuple[str, ...]:
        return ("cuda",) if nvidia_device() and "+cpu" not in self._version() else ()

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if precision == "int8":
            return "torch runs INT8 only through a backend of its own; onnxruntime and litert run these files"
        if precision == "fp16" and device == "cpu":
            return "FP16 on the CPU is emulated by torch: no gain; use bf16"
        return "" if precision in ("fp32", "fp16", "bf16") else f"torch does not run {precision}"


RUNTIME = Torch()
