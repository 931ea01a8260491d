"""TensorRT on NVIDIA GPUs: ``.engine`` files and ONNX. Not run on hardware yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.runtimes.base import Probe
from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json

if TYPE_CHECKING:
    from bench.hosts.base import Host


class TensorRt(LocalRuntime):
    name = "tensorrt"
    format = "onnx"
    formats = ("onnx", "engine")
    module = "tensorrt"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    remedy = "pip install tensorrt (NVIDIA's own index; on a Jetson it comes with JetPack)"

    def probe(self, host: Host) -> Probe:
        found = super().probe(host)
        if found.available and not nvidia_device():
            return Probe(
                False, reason="tensorrt needs an NVIDIA GPU, and this machine shows none", remedy=self.remedy
            )
        return Probe(found.available, found.version, found.reason, found.remedy, ("cuda",))

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if device == "cpu":
            return "tensorrt does not run on CPUs"
        return "" if precision in ("fp32", "fp16", "int8") else f"tensorrt does not run {precision}"

    def int8_scheme(self, environment: Json) -> str:
        return "s8s8"


RUNTIME = TensorRt()
