"""The machine and the software a number was taken on. Nothing heavy is imported; answers in a fraction of a second."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.types import Json

FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""CPU features that decide which kernels a runtime picks."""
PACKAGES = (
    "edgefit",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "ai-edge-litert",
    "tflite-runtime",
    "litert-torch",
    "ai-edge-quantizer",
    "torch-pruning",
    "tensorrt",
    "codecarbon",
    "numpy",
)
CPU_FOLDER = Path("/sys/devices/system/cpu")


def describe(folder: Path | None = None) -> Json:
    """What is recorded with every measurement.

    Keys: ``cpu`` (model, arch, cores, physical_cores, smt, features, governor, mhz, max_mhz,
    cgroup_cpus), ``memory`` (total_mb, available_mb, cgroup_mb), ``load`` (1, 5, 15 minutes), ``os``,
    ``python``, ``packages`` (name -> version), ``gpus`` (list) or ``gpus_reason``, ``git`` (commit,
    dirty) of ``folder`` (default: the current one) or None. What cannot be read is None.
    """
    gpus, reason = _gpus()
    found: Json = {
        "cpu": _cpu(),
        "memory": _memory(),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "os": {"system": platform.system(), "release": platform.release(), "name": _os_name()},
        "python": platform.python_version(),
        "packages": _packages(),
        "gpus": gpus,
        "git": _git(folder or Path.cwd()),
    }
    if reason:
        found["gpus_reason"] = reason
    return found


def hardware(environment: Json) -> Json:
    """The part of :func:`describe` that stays the same on one machine: what makes two measurements comparable."""
    cpu = environment["cpu"]
    gpus = [gpu.get("name") for gpu in environment.get("gpus", ())]
    return {key: cpu.get(key) for key in ("model", "arch", "cores", "features")} | {"gpus": gpus}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str, scale: float = 1.0) -> float | None:
    try:
        return float(text) * scale
    except ValueError:
        return None


def _cpu() -> Json:
    fields = cpuinfo(_read(Path("/proc/cpuinfo")))
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    frequency = CPU_FOLDER / "cpu0/cpufreq"
    mhz = _number(_read(frequency / "scaling_cur_freq"), 1e-3) or _number(fields.get("cpu MHz", ""))
    return {
        "model": fields.get("model name") or fields.get("Model") or platform.processor() or None,
        "arch": platform.machine(),
        "cores": len(allowed),
        "physical_cores": _physical_cores(),
        "smt": {"1": True, "0": False}.get(_read(CPU_FOLDER / "smt/active")),
        "features": [f for f in FEATURES if f in flags],
        "governor": _read(frequency / "scaling_governor") or None,
        "mhz": mhz,
        "max_mhz": _number(_read(frequency / "cpuinfo_max_freq"), 1e-3),
        "cgroup_cpus": cpu_quota(_read(Path("/sys/fs/cgroup/cpu.max"))),
    }


def cpuinfo(text: str) -> dict[str, str]:
    """The first value of every field of ``/proc/cpuinfo``."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def cpu_quota(text: str) -> float | None:
    """CPUs that cgroup v2's ``cpu.max`` (``quota period`` in microseconds, or ``max``) allows; None: no limit."""
    quota, _, period = text.partition(" ")
    limit, length = _number(quota), _number(period or "100000")
    return limit / length if limit and length else None


def _physical_cores() -> int | None:
    siblings = {_read(p) for p in CPU_FOLDER.glob("cpu[0-9]*/topology/thread_siblings_list")}
    return len(siblings - {""}) or None


def _memory() -> Json:
    fields = cpuinfo(_read(Path("/proc/meminfo")))

    def megabytes(key: str) -> float | None:
        return _number(fields.get(key, "").removesuffix(" kB"), 1.024e-3)

    limit = _number(_read(Path("/sys/fs/cgroup/memory.max")), 1e-6)
    return {"total_mb": megabytes("MemTotal"), "available_mb": megabytes("MemAvailable"), "cgroup_mb": limit}


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.platform(terse=True)


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _gpus() -> tuple[list[Json], str]:
    """NVIDIA GPUs through NVML (nvidia-ml-py), or none and the reason."""
    if importlib.util.find_spec("pynvml") is None:
        return [], "nvidia-ml-py is not installed"
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return [_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())], ""
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, driver: str) -> Json:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    queries: dict[str, Any] = {
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    found: Json = {
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "driver": driver,
        "memory_mb": nvml.nvmlDeviceGetMemoryInfo(handle).total / 1e6,
    }
    for key, query in queries.items():
        try:
            found[key] = query()
        except nvml.NVMLError:
            found[key] = None  # not every card answers everything
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _git(folder: Path) -> Json | None:
    """Commit and dirtiness of the working tree around ``folder``; None outside one or without git."""
    if shutil.which("git") is None:
        return None
    commit = _git_output(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    status = _git_output(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git_output(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
