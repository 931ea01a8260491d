"""ExecuTorch on the CPU, with the XNNPACK kernels that its programs are lowered to."""

from __future__ import annotations

from bench.runtimes.local import LocalRuntime
from bench.types import Json


class ExecuTorch(LocalRuntime):
    name = "executorch"
    format = "pte"
    formats = ("pte",)
    module = "executorch"
    distributions = ("executorch",)
    remedy = 'pip install "edgefit[executorch]"'
    slow_start = True

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if device != "cpu":
            return f"executorch runs on the CPU here, not on {device}"
        if precision in ("int8", "fp16", "bf16"):
            return f"{precision} programs for executorch are not made yet; onnxruntime and litert run INT8"
        return "" if precision == "fp32" else f"executorch does not run {precision}"


RUNTIME = ExecuTorch()
