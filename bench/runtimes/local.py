"""What the runtimes of this machine share: probing by metadata, measuring through a worker."""

from __future__ import annotations

import abc
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure.latency import METRICS, PERCENTILES, UNITS, all_missing, images_timed, latency, once_ms
from bench.measure.memory import above_baseline, device_memory, parts_mb
from bench.measure.power import per_image
from bench.runtimes.base import CellJob, Probe, WorkerResult
from bench.runtimes.shipped import shipped_files
from bench.runtimes.worker import Worker, run_cell
from bench.types import Json, Notify, Quantity, to_json

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.measure.power import EnergySource
    from bench.runtimes.listener import Observed
    from bench.runtimes.remote import Machine

VNNI = ("avx512_vnni", "avx_vnni")


class LocalRuntime(abc.ABC):
    """A Python package that runs artifacts in our worker. Subclasses name it and say what it refuses."""

    name = ""
    format = ""
    formats: tuple[str, ...] = ()
    module = ""
    distributions: tuple[str, ...] = ()
    """Names under which the package is published; the first is the one to install."""
    remedy = ""
    programs: tuple[str, ...] = ()
    """What may stand in for the package on another machine."""
    slow_start = False
    travels = True
    """Does the agent bring it to another machine?"""

    def probe(self, host: Host) -> Probe:
        """See :meth:`bench.runtimes.base.Runtime.probe`."""
        if host.name != "local":
            return Probe(False, reason=f"{self.name} runs on this machine only, not on {host.name}")
        if importlib.util.find_spec(self.module) is None:
            missing = f"the package {self.distributions[0]} is not installed"
            return Probe(False, reason=missing, remedy=f"Install it with: {self.remedy}")
        return Probe(True, version=self._version(), devices=("cpu", *self.accelerators()))

    def there(self, machine: Machine) -> Probe:
        """The same of a machine elsewhere, by what its agent saw."""
        seen = machine.seen
        if self.module not in seen["modules"]:
            missing = f"the package {self.distributions[0]} is not installed on {machine.name}"
            return Probe(False, reason=missing, remedy=f"Install it there, for example with: {self.remedy}")
        found = [seen["own"]["packages"][d] for d in self.distributions if d in seen["own"]["packages"]]
        return Probe(True, version=found[0] if found else "unknown", devices=("cpu",))

    def worker_there(self, machine: Machine) -> str:
        """The agent's backend for it there (:data:`bench.agent.backends.BACKENDS`)."""
        return self.name

    def _version(self) -> str:
        for distribution in self.distributions:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "unknown"

    def accelerators(self) -> tuple[str, ...]:
        """Devices besides the CPU that package and machine seem to have; the worker finds out for sure."""
        return ()

    @abc.abstractmethod
    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        """See :meth:`bench.runtimes.base.Runtime.refuse`."""

    def int8_scheme(self, environment: Json) -> str:
        """See :meth:`bench.runtimes.base.Runtime.int8_scheme`."""
        return u8s8(environment)

    def start(self, host: Host, threads: int = 1, cpus: tuple[int, ...] = ()) -> Worker:
        """See :meth:`bench.runtimes.base.Runtime.start`."""
        return Worker(host, self.name, threads, cpus)

    def measure(
        self,
        job: CellJob,
        host: Host,
        notify: Notify,
        worker: Worker | None = None,
        energy: EnergySource | None = None,
    ) -> WorkerResult:
        """See :meth:`bench.runtimes.base.Runtime.measure`."""
        if energy is not None and job.device not in energy.devices:
            energy = None
        raw, listener, seconds = run_cell(job, self.name, host, notify, worker, energy)
        return worker_result(raw, job, listener.observed(), seconds)


def worker_result(raw: Json, job: CellJob, seen: Observed, seconds: dict[str, float]) -> WorkerResult:
    """What a worker measured (its ``result.json``) and what was seen around it, as quantities."""

    def array(key: str) -> Path | None:
        return job.outdir / raw[key] if raw.get(key) else None

    samples = array("samples")
    metrics = all_missing(raw["reason"] or "not measured")
    metrics.update(
        load_ms=once_ms(raw.get("load_seconds"), "load"),
        first_call_ms=once_ms(raw.get("first_call_seconds"), "first call"),
        size_bytes=_size(job),
    )
    if samples is not None:
        metrics.update(_timed(samples, job, seen, raw["runtime"]))
        metrics["memory_mb"] = above_baseline(max(seen.peaks.values(), default=None), raw.get("baseline_kb"))
        allocated = raw["runtime"].get("device_memory_mb")
        metrics["device_memory_mb"] = device_memory(job.device, seen.device_mb, allocated)
    return WorkerResult(
        status=raw["status"],
        reason=raw["reason"],
        metrics={name: metrics[name] for name in METRICS},
        samples=samples,
        warmup=array("warmup"),
        outputs=array("outputs"),
        stopped=raw["stopped"],
        seconds={**raw["seconds"], **seconds},
        runtime={
            **raw["runtime"],
            "baseline_kb": raw.get("baseline_kb"),
            "predict_batch": raw.get("predict_batch"),
            "energy": seen.window.to_json() if seen.window else None,
            "disturbance": to_json(seen.disturbance),
            "memory_parts_mb": to_json(parts_mb(seen.peaks, raw.get("baseline_kb"))),
        },
        notes=tuple(raw["notes"]),
        window=seen.window,
    )


def _size(job: CellJob) -> Quantity:
    if not job.path.is_file():
        return Quantity.missing(f"there is no file {job.path.name}", UNITS["size_bytes"])
    files = shipped_files(job.path)
    size = sum(f.stat().st_size for f in files)
    what = "file" if len(files) == 1 else f"{len(files)} files"
    return Quantity(size, "bytes", size, size, 1, "measured", f"size of the artifact's {what} as shipped")


def _timed(samples: Path, job: CellJob, seen: Observed, said: Json) -> dict[str, Quantity]:
    import numpy as np

    values = np.load(samples, allow_pickle=False)
    found = latency(values, job.batch)
    if said.get("calls_per_sample", 1) > 1:
        reason = f"each sample is the mean of {said['calls_per_sample']} calls, which the runtime's clock cannot tell apart"
        found |= {name: Quantity.missing(reason, "ms") for name in PERCENTILES}
    if seen.window is not None:
        found["energy_mj"] = per_image([seen.window], [images_timed(len(values), job.batch, said)])
    else:
        reason = seen.no_energy or f"no energy source that counts {job.device} was given"
        found["energy_mj"] = Quantity.missing(reason, UNITS["energy_mj"])
    return found


def u8s8(environment: Json) -> str:
    """U8 activations with S8 weights; 7-bit weights where x86 has no VNNI.

    Without VNNI the kernels add pairs of 8-bit products in 16 bits, which saturate (onnxruntime's
    documentation, *Quantize ONNX models*, section on U8S8 saturation).
    """
    cpu = environment.get("cpu", {})
    x86 = cpu.get("arch") in ("x86_64", "AMD64", "i686")
    return "u8s8-7bit" if x86 and not set(VNNI) & set(cpu.get("features", ())) else "u8s8"


def nvidia_device() -> bool:
    """Is the driver of an NVIDIA GPU loaded? (Desktop and server: /proc/driver; Jetson: /dev/nvhost-gpu.)"""
    return any(Path(p).exists() for p in ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvhost-gpu"))
