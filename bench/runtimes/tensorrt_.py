"""TensorRT on NVIDIA GPUs and DLAs: ``.engine`` files and ONNX, built where it runs. Not run on hardware yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.agent import look
from bench.hosts import jetson
from bench.runtimes import trtexec_
from bench.runtimes.base import Probe
from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.runtimes.remote import Machine

DLA = "dla0"


def _devices(version: str, files: Json) -> tuple[str, ...]:
    """``cuda``, and ``dla0``, ``dla1`` where board and release have them; ``files`` of the machine, by path."""
    cores = jetson.dla_cores(files)
    if cores:
        from bench.agent.backends.tensorrt_rules import has_dla

        cores = cores if has_dla(version) else 0
    return ("cuda", *(f"dla{i}" for i in range(cores)))


class TensorRt(LocalRuntime):
    name = "tensorrt"
    format = "onnx"
    formats = ("onnx", "engine")
    module = "tensorrt"
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    programs = trtexec_.PROGRAMS
    remedy = "pip install tensorrt (NVIDIA's own index; on a Jetson it comes with JetPack)"

    def probe(self, host: Host) -> Probe:
        found = super().probe(host)
        if found.available and not nvidia_device():
            return Probe(
                False, reason="tensorrt needs an NVIDIA GPU, and this machine shows none", remedy=self.remedy
            )
        board = look.text_of(look.placed(jetson.COMPATIBLE)) or ""
        devices = _devices(found.version, {jetson.COMPATIBLE: board})
        return Probe(found.available, found.version, found.reason, found.remedy, devices)

    def there(self, machine: Machine) -> Probe:
        """By the Python bindings, where they are new enough, else by trtexec. A DLA where board and release have one."""
        found = super().there(machine)
        if self.worker_there(machine) == trtexec_.WORKER:
            found = Probe(True, version=trtexec_.version(machine))
        elif not found.available:
            return Probe(False, reason=f"{found.reason}, and there is no trtexec", remedy=found.remedy)
        return Probe(True, version=found.version, devices=_devices(found.version, machine.seen["files"]))

    def worker_there(self, machine: Machine) -> str:
        from bench.agent.backends.tensorrt_rules import NAMED_TENSORS, parts

        bindings = super().there(machine)
        number = parts(bindings.version)
        if bindings.available and not (number and number < NAMED_TENSORS):
            return TensorRt.name
        return trtexec_.WORKER if trtexec_.version(machine) else TensorRt.name

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if device == "cpu":
            return "tensorrt does not run on CPUs"
        if device.startswith("dla") and precision == "fp32":
            return "a DLA computes in FP16 and INT8, not in FP32"
        return "" if precision in ("fp32", "fp16", "int8") else f"tensorrt does not run {precision}"

    def int8_scheme(self, environment: Json) -> str:
        return "s8s8"


class TensorRtDla(TensorRt):
    """The same on the first DLA of a Jetson; layers that it does not take run on the GPU, and are counted."""

    name = "tensorrt-dla"

    def probe(self, host: Host) -> Probe:
        return _on_dla(super().probe(host))

    def there(self, machine: Machine) -> Probe:
        return _on_dla(super().there(machine))


def _on_dla(found: Probe) -> Probe:
    if found.available and DLA not in found.devices:
        reason = f"this board has no DLA that TensorRT {found.version} drives"
        return Probe(False, reason=reason, remedy="Measure with tensorrt, on its GPU")
    return replace(found, devices=(DLA,)) if found.available else found


RUNTIME = TensorRt()
RUNTIME_DLA = TensorRtDla()
