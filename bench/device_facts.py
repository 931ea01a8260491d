"""What a machine says of itself, for a draft of its profile. Read through two functions, so that a host can be elsewhere.

Sources: proc(5), the kernel's cpufreq and device-tree documents, ``nvidia-smi --help-query-gpu``, and the
Jetson Linux Developer Guide (nv_tegra_release, nvpmodel.conf).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.measure import gpu
from bench.measure.environment import FEATURES
from bench.measure.system import cpuinfo, number
from bench.types import Json

Read = Callable[[str], str]
"""A file's text; empty where it cannot be read."""
Run = Callable[[Sequence[str]], str]
"""What a command prints; empty where it fails or is not there."""

CHIPS = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
"""Compute capability of a Jetson's chip, by its name in the device tree."""
GPU_CLOCKS = ("17000000.gpu", "17000000.ga10b", "17000000.gv11b", "17000000.gp10b", "57000000.gpu")
"""A Jetson's GPU under /sys/class/devfreq."""
SMI = {
    "gpu": "name",
    "gpu_memory_gb": "memory.total",
    "gpu_clock_mhz": "clocks.max.sm",
    "tdp_w": "power.default_limit",
    "compute_capability": "compute_cap",
    "gpu_driver": "driver_version",
}
MOST_CPUS = 4096
SECONDS = 20.0
"""What a command may take."""


def here() -> Json:
    """The facts of this machine; see :func:`gather`."""
    facts = gather(_read, _run)
    if "gpu" not in facts:
        facts |= _nvml()
    return facts


def there(name: str) -> tuple[Json, str]:
    """The facts of a device of the inventory, or at an address; and its address.

    Raises:
        HostUnreachable, HostRefused: it cannot be asked.
    """
    from bench.hosts import inventory, open_address
    from bench.hosts.base import CommandFailed, HostTimeout

    address = inventory.device(name).address
    host = open_address(address)

    def run(argv: Sequence[str]) -> str:
        try:
            return host.exec(argv, SECONDS).stdout
        except (CommandFailed, HostTimeout):
            return ""

    try:
        return gather(lambda path: run(["cat", "--", path]), run), address
    finally:
        host.close()


def gather(read: Read, run: Run) -> Json:
    """Name of a fact -> ``{"value", "how"}``, where ``how`` ends the sentence "read on the device with ...".

    Names: ``device``, ``arch``, ``cpu``, ``cpu_cores``, ``cpu_threads``, ``cpu_mhz``, ``cpu_features``,
    ``memory_gb`` (10^9 bytes), ``jetson_linux``, ``chip``, ``power_modes`` (list of tables as in a profile),
    and those of ``SMI``. What the device does not say is absent.
    """
    facts = {**_machine(read, run), **_cpu(read, run), **_gpu(run), **_jetson(read)}
    return {name: fact for name, fact in facts.items() if fact["value"] not in (None, "", [])}


def _fact(value: Any, how: str) -> Json:
    return {"value": value, "how": how}


def _machine(read: Read, run: Run) -> Json:
    facts = {"arch": _fact(run(["uname", "-m"]).strip(), "uname -m")}
    for path in ("/proc/device-tree/model", "/sys/class/dmi/id/product_name"):
        model = read(path).strip("\0 \n")
        if model:
            facts["device"] = _fact(model, path)
            break
    kilobytes = number(cpuinfo(read("/proc/meminfo")).get("MemTotal", "").removesuffix(" kB"))
    if kilobytes:
        facts["memory_gb"] = _fact(round(kilobytes * 1024e-9, 1), "/proc/meminfo (what Linux can use)")
    return facts


def _cpu(read: Read, run: Run) -> Json:
    text = read("/proc/cpuinfo")
    fields = cpuinfo(text)
    threads = min(len(re.findall(r"^processor\s*:", text, re.M)), MOST_CPUS)
    pairs = re.findall(r"^physical id\s*:\s*(\d+).*?^core id\s*:\s*(\d+)", text, re.M | re.S)
    names = re.findall(r"^\s*Model name:\s*(.+?)\s*$", run(["lscpu"]), re.M)
    named = fields.get("model name")
    limits = [
        number(read(f"/sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq"), 1e-3) for i in range(threads)
    ]
    fastest = max((mhz for mhz in limits if mhz), default=None)
    now = number(fields.get("cpu MHz", ""))
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": _fact(named, "/proc/cpuinfo") if named else _fact(" + ".join(names), "lscpu"),
        "cpu_cores": _fact(len(set(pairs)) or threads or None, "/proc/cpuinfo"),
        "cpu_threads": _fact(threads or None, "/proc/cpuinfo"),
        "cpu_mhz": _fact(fastest, "cpufreq/cpuinfo_max_freq")
        if fastest
        else _fact(now and round(now), "/proc/cpuinfo (the clock at that moment)"),
        "cpu_features": _fact([f for f in FEATURES if f in flags], "/proc/cpuinfo"),
    }


def _gpu(run: Run) -> Json:
    """The first NVIDIA GPU, as nvidia-smi has it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI.values())}", "--format=csv,noheader,nounits"]
    values = [value.strip() for value in run(command).partition("\n")[0].split(",")]
    if len(values) != len(SMI):
        return {}
    said = {name: value for name, value in zip(SMI, values, strict=True) if not value.startswith("[")}
    facts: Json = {name: _fact(value, "nvidia-smi") for name, value in said.items()}
    for name, scale in (
        ("gpu_memory_gb", 1.048576e-3),
        ("gpu_clock_mhz", 1.0),
        ("tdp_w", 1.0),
    ):  # MiB, MHz, W
        if name in said:
            value = number(said[name], scale)
            facts[name] = _fact(value and round(value, 1), "nvidia-smi")
    return facts


def _nvml() -> Json:
    found, _ = gpu.describe()
    if not found:
        return {}
    first = found[0]
    memory = first["memory_mb"]
    facts = {
        "gpu": first["name"],
        "gpu_memory_gb": memory and round(memory * 1e-3, 1),
        "gpu_clock_mhz": first["max_sm_mhz"],
        "tdp_w": first["default_power_limit_w"],
        "gpu_driver": first["driver"],
    }
    return {name: _fact(value, "NVML") for name, value in facts.items() if value}


def _jetson(read: Read) -> Json:
    facts: Json = {}
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read("/etc/nv_tegra_release"))
    if release:
        facts["jetson_linux"] = _fact(f"R{release[1]}.{release[2]}", "/etc/nv_tegra_release")
    compatible = read("/proc/device-tree/compatible")
    chip = next((name for name in CHIPS if f"nvidia,{name}" in compatible.split("\0")), "")
    if not chip:
        return facts
    facts["chip"] = _fact(chip, "/proc/device-tree/compatible")
    facts["compute_capability"] = _fact(CHIPS[chip], f"/proc/device-tree/compatible ({chip})")
    for name in GPU_CLOCKS:
        hertz = number(read(f"/sys/class/devfreq/{name}/max_freq"), 1e-6)
        if hertz:
            facts["gpu_clock_mhz"] = _fact(hertz, f"/sys/class/devfreq/{name}/max_freq (in its power mode)")
            break
    facts["power_modes"] = _fact(power_modes(read("/etc/nvpmodel.conf")), "/etc/nvpmodel.conf")
    return facts


def power_modes(text: str) -> list[Json]:
    """The modes of an nvpmodel.conf: ``id``, ``name``, ``cpu_cores`` and the clocks in MHz that are held below the maximum."""
    modes = []
    for block in re.split(r"^\s*<\s*POWER_MODEL\s+", text, flags=re.M)[1:]:
        head = re.match(r"ID=(\d{1,4})\s+NAME=([^\s>]+)", block)
        if not head:
            continue
        body = block.partition("<")[0]
        mode: Json = {"id": int(head[1]), "name": head[2]}
        cores = len(re.findall(r"^CPU_ONLINE\s+CORE_\d+\s+1\b", body, re.M))
        mode |= {"cpu_cores": cores} if cores else {}
        # kHz for CPUs, Hz for the rest; -1 and 0 (EMC) are the maximum
        for key, unit, scale in (
            ("cpu_mhz", r"CPU_(?!ONLINE)\w+", 1e-3),
            ("gpu_mhz", "GPU", 1e-6),
            ("memory_mhz", "EMC", 1e-6),
            ("dla_mhz", r"DLA0?_CORE", 1e-6),
        ):
            limits = [
                float(found) for found in re.findall(rf"^{unit}\s+MAX_FREQ\s+(\d{{1,12}})\b", body, re.M)
            ]
            if any(limits):
                mode[key] = round(max(limits) * scale, 3)
        modes.append(mode)
    return modes


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except (OSError, ValueError):
        return ""


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
