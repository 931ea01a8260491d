"""ONNX Runtime Web in the system's Chromium: WebAssembly, and WebGPU (not run on hardware yet)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.agent.browser import package
from bench.measure.latency import UNITS
from bench.runtimes.base import CellJob, Probe, WorkerResult
from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json, Notify, Quantity

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.measure.power import EnergySource
    from bench.runtimes.worker import Worker

INSTALL = "bench runtimes install browser"
NO_METER = "no power meter: a model of one program's load says nothing of a browser's many processes"


class Browser(LocalRuntime):
    """A page that times itself, in a fresh browser for each process of the protocol."""

    name = "browser"
    provider = "wasm"
    format = "onnx"
    formats = ("onnx",)
    module = "playwright"
    travels = False
    distributions = ("playwright",)
    remedy = 'pip install "edgefit[browser]"'

    def probe(self, host: Host) -> Probe:
        found = super().probe(host)
        if not found.available:
            return found
        if package.chromium() is None:
            return Probe(
                False,
                reason="neither Chromium nor Chrome is on the PATH",
                remedy=f"Install one (on Debian: apt install chromium) or name it in {package.VARIABLE}",
            )
        if package.missing(self.provider):
            return Probe(
                False, reason=f"{package.NAME} {package.VERSION} is not installed", remedy=f"Run: {INSTALL}"
            )
        return self._present()

    def _present(self) -> Probe:
        return Probe(True, version=package.VERSION, devices=("cpu",))

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if precision in ("fp16", "bf16"):
            return f"WebAssembly has no {precision} arithmetic: no gain"
        return "" if precision in ("fp32", "int8") else f"{self.name} does not run {precision}"

    def int8_scheme(self, environment: Json) -> str:
        """8-bit weights on every CPU: WebAssembly's kernels add 16-bit products in 32 bits, which do not saturate."""
        return "u8s8"

    def measure(
        self,
        job: CellJob,
        host: Host,
        notify: Notify,
        worker: Worker | None = None,
        energy: EnergySource | None = None,
    ) -> WorkerResult:
        """See :meth:`bench.runtimes.base.Runtime.measure`. Energy is left to instruments."""
        modelled = energy is not None and energy.name == "codecarbon"
        found = super().measure(job, host, notify, worker, None if modelled else energy)
        if not modelled or found.samples is None:
            return found
        energy_mj = Quantity.missing(NO_METER, UNITS["energy_mj"])
        return replace(found, metrics={**found.metrics, "energy_mj": energy_mj})


class BrowserWebGpu(Browser):
    """The same page on the GPU."""

    name = "browser-webgpu"
    provider = "webgpu"

    def _present(self) -> Probe:
        if not nvidia_device() and not list(Path("/dev/dri").glob("renderD*")):
            return Probe(
                False,
                reason="WebGPU needs a GPU, and this machine shows none",
                remedy="Measure on a machine that has one",
            )
        return Probe(True, version=package.VERSION, devices=("webgpu",))

    def refuse(self, precision: str, environment: Json, device: str = "webgpu") -> str:
        if precision == "int8":
            return "ONNX Runtime's WebGPU provider has no kernels for QDQ INT8: they would run in WebAssembly"
        if precision == "bf16":
            return "WebGPU has no BF16"
        return "" if precision in ("fp32", "fp16") else f"{self.name} does not run {precision}"


WASM, WEBGPU = Browser(), BrowserWebGpu()
