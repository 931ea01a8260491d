"""The machine and the software a number was taken on. Nothing heavy is imported; answers in a fraction of a second."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.agent import look
from bench.measure import gpu, system
from bench.measure.system import ROOT, cpu_quota, cpuinfo, number, read, undervoltage
from bench.types import Json

__all__ = ["FEATURES", "PACKAGES", "cpu_quota", "cpuinfo", "describe", "hardware"]

FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "svei8mm",
    "sme",
    "sme2",
)
"""CPU features, by their names in /proc/cpuinfo, that decide which kernels a runtime picks.

For INT8: 16-bit sums that saturate on plain avx2 and avx512bw; 32-bit dot products with avx512_vnni,
avx_vnni, avx_vnni_int8 (signed by signed), amx_int8, asimddp (SDOT, UDOT), i8mm, svei8mm and sme.
"""
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
    "openvino",
    "executorch",
    "torch-pruning",
    "tensorrt",
    "codecarbon",
    "mlcommons-loadgen",
    "nvidia-ml-py",
    "numpy",
)


def describe(folder: Path | None = None, root: Path = ROOT, own: Json | None = None) -> Json:
    """What is recorded with every measurement.

    Keys: ``cpu`` (model, arch, cores, physical_cores, smt, features, driver, governor, turbo, mhz,
    core_mhz, max_mhz, cpuset, cgroup_cpus), ``memory`` (total_mb, available_mb, swap_used_mb,
    cgroup_mb), ``machine`` (model, hypervisor, steal_share_since_boot, power_mode, on_battery, undervoltage),
    ``temperatures_c`` (zone -> value), ``load`` (1, 5, 15 minutes), ``os``, ``python``, ``packages``
    (name -> version), ``gpus`` (list, see :meth:`bench.measure.gpu.Nvml.describe`) or
    ``gpus_reason``, ``git`` (commit, dirty) of ``folder`` (default: the current one) or None. What
    cannot be read is None. ``root`` is where /proc, /sys and /etc are. Of a machine elsewhere, ``own`` is what
    :func:`bench.agent.look.own` said there, and ``root`` holds the files that were read there.
    """
    gpus, reason = gpu.describe() if own is None else ([], "GPUs are not read over a network")
    own = look.own(PACKAGES) if own is None else own
    text = read(root / "proc/cpuinfo")
    found: Json = {
        "cpu": _cpu(root, text, own),
        "memory": _memory(root),
        "machine": _machine(root, text),
        "temperatures_c": system.temperatures(root),
        "load": _load(root),
        **{key: own[key] for key in ("os", "python", "packages")},
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


def _cpu(root: Path, text: str, own: Json) -> Json:
    fields = cpuinfo(text)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    folders = system.cpu_folders(root)
    clocks = system.core_mhz(root, text)
    limits = [number(read(f / "cpufreq/cpuinfo_max_freq"), 1e-3) for f in folders]
    drivers = {read(f / "cpufreq/scaling_driver") for f in folders} - {""}
    governors = {read(f / "cpufreq/scaling_governor") for f in folders} - {""}
    siblings = {read(f / "topology/thread_siblings_list") for f in folders} - {""}
    return {
        "model": _cpu_model(fields, own["processor"]),
        "arch": own["arch"],
        "cores": own["cores"],
        "physical_cores": len(siblings) or None,
        "smt": {"1": True, "0": False}.get(read(root / system.CPUS / "smt/active")),
        "features": [f for f in FEATURES if f in flags],
        "driver": ", ".join(sorted(drivers)) or None,
        "governor": ", ".join(sorted(governors)) or None,
        "turbo": turbo(root),
        "mhz": clocks[0] if clocks else None,
        "core_mhz": [round(mhz) for mhz in clocks],
        "max_mhz": max((mhz for mhz in limits if mhz is not None), default=None),
        "cpuset": cpuinfo(read(root / "proc/self/status")).get("Cpus_allowed_list") or None,
        "cgroup_cpus": system.cpu_limit(root)[0],
    }


def _cpu_model(fields: dict[str, str], processor: str) -> str | None:
    """ARM kernels give numbers instead of a name (MIDR_EL1: implementer and part)."""
    arm = " ".join(fields[k] for k in ("CPU implementer", "CPU part") if k in fields)
    named = fields.get("model name") or fields.get("Model") or processor
    return named or (f"ARM {arm}" if arm else None)


def turbo(root: Path = ROOT) -> bool | None:
    """May the CPU exceed its nominal clock (turbo, boost)? None where the kernel does not say."""
    answer = {"0": True, "1": False}.get(read(root / system.CPUS / "intel_pstate/no_turbo"))
    if answer is None:
        answer = {"1": True, "0": False}.get(read(root / system.CPUS / "cpufreq/boost"))
    return answer


def _memory(root: Path) -> Json:
    fields = cpuinfo(read(root / "proc/meminfo"))

    def megabytes(key: str) -> float | None:
        return number(fields.get(key, "").removesuffix(" kB"), 1.024e-3)

    total, free = megabytes("SwapTotal"), megabytes("SwapFree")
    return {
        "total_mb": megabytes("MemTotal"),
        "available_mb": megabytes("MemAvailable"),
        "swap_used_mb": None if total is None or free is None else total - free,
        "cgroup_mb": system.memory_limit_mb(root),
    }


def _machine(root: Path, text: str) -> Json:
    time, below = system.cpu_time(read(root / "proc/stat")), system.hypervisor(root, text)
    model = read(root / "proc/device-tree/model").strip("\0") or read(root / "sys/class/dmi/id/product_name")
    return {
        "model": model or None,
        "hypervisor": below,
        "steal_share_since_boot": time.stolen_share if time and time.reported(below) else None,
        "power_mode": power_mode(root),
        "on_battery": _on_battery(root),
        "undervoltage": undervoltage(root),
    }


def power_mode(root: Path = ROOT) -> str | None:
    """Jetson's mode as nvpmodel last set it, or the firmware's profile (``balanced``, ...) of a laptop.

    nvpmodel keeps ``pmode:0002`` in its status file and the modes' names in its configuration
    (Jetson Linux Developer Guide, *Power Model Editor*); asking the tool itself takes a second.
    """
    digits = re.search(r"pmode:0*([0-9]{1,4})", read(root / "var/lib/nvpmodel/status"))
    if not digits:
        return read(root / "sys/firmware/acpi/platform_profile") or None
    pattern = rf"POWER_MODEL\s+ID={digits[1]}\s+NAME=(\S+)"
    named = re.search(pattern, read(root / "etc/nvpmodel.conf"))
    return named[1].rstrip(">") if named else f"nvpmodel {digits[1]}"


def _on_battery(root: Path) -> bool | None:
    supplies = list((root / "sys/class/power_supply").glob("*/online"))
    online = [read(f) for f in supplies if read(f.parent / "type") == "Mains"]
    return all(value == "0" for value in online) if online else None


def _load(root: Path) -> list[float] | None:
    found = [number(value) for value in read(root / "proc/loadavg").split()[:3]]
    loads = [round(value, 2) for value in found if value is not None]
    return loads if len(loads) == 3 else None


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
