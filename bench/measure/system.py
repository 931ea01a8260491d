"""What Linux says of a machine in /proc and /sys: small files into numbers.

Every function takes the root of the file system, so that a test (or a chroot) can stand in for a
machine. What is absent, unreadable or nonsense is None, never 0 and never an exception. Units are
seconds, MHz and MB (10^6 bytes). Formats: proc(5), cgroups(7), and the kernel's admin guide.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
CPUS = "sys/devices/system/cpu"
TICK = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
"""Seconds per unit of the times in /proc/stat and /proc/PID/stat."""
MOST_CPUS = 1 << 16
UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number of bytes near 2^63."""


def read(path: Path) -> str:
    """The text of a small file without the space around it; empty when it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def integer(text: str) -> int | None:
    """A decimal count of at most 20 digits, as the kernel writes them (unsigned, 64 bits)."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def number(text: str, scale: float = 1.0) -> float | None:
    """A finite number times ``scale``."""
    try:
        value = float(text) * scale
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cpuinfo(text: str) -> dict[str, str]:
    """The first value of every field of ``/proc/cpuinfo`` (or another file of ``key: value`` lines)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def counters(text: str) -> dict[str, int]:
    """``key value`` lines, such as a cgroup's ``cpu.stat``."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        count = integer(value)
        if count is not None:
            found.setdefault(key, count)
    return found


def cpu_list(text: str) -> frozenset[int]:
    """The kernel's list format: ``0-3,8``."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low, high = integer(first), integer(last if dash else first)
        if low is not None and high is not None and low <= high < MOST_CPUS:
            found.update(range(low, high + 1))
    return frozenset(found)


@dataclass(frozen=True)
class CpuTime:
    """Seconds since boot, summed over ``cpus`` CPUs: worked, taken by the hypervisor, and neither."""

    cpus: int
    busy: float
    stolen: float
    idle: float

    @property
    def stolen_share(self) -> float | None:
        """Stolen time as a share of the time that somebody wanted a CPU."""
        wanted = self.busy + self.stolen
        return self.stolen / wanted if wanted > 0 else None

    def reported(self, hypervisor: str | None) -> bool:
        """Is stolen time counted at all? A hypervisor that has never taken any most likely does not say."""
        return hypervisor is None or self.stolen > 0


def cpu_time(text: str, cpus: Collection[int] | None = None) -> CpuTime | None:
    """``/proc/stat``, over the CPUs named (default, and when none of them is there: all).

    The fields are user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user
    time (proc(5)).
    """
    rows: dict[int, list[int]] = {}
    for line in text.splitlines():
        name, *values = line.split()[:9] or [""]
        index = integer(name[3:]) if name.startswith("cpu") else None
        ticks = [integer(value) for value in values]
        known = [tick for tick in ticks if tick is not None]
        if index is not None and len(known) == len(ticks) >= 4:
            rows[index] = known + [0] * (8 - len(known))
    chosen = [row for index, row in rows.items() if cpus is None or index in cpus] or list(rows.values())
    if not chosen:
        return None
    user, nice, system, idle, wait, irq, soft, steal = (sum(column) * TICK for column in zip(*chosen))  # noqa: B905 (rows of 8)
    return CpuTime(len(chosen), user + nice + system + irq + soft, steal, idle + wait)


def process_cpu(pid: int, root: Path = ROOT) -> float | None:
    """CPU seconds (user + system, all threads) that a process has used, from ``/proc/PID/stat``."""
    _, _, after = read(root / f"proc/{pid}/stat").rpartition(")")  # the name may hold spaces and brackets
    fields = after.split()
    user, system = (integer(fields[i]) if len(fields) > i else None for i in (11, 12))
    return None if user is None or system is None else (user + system) * TICK


def process_waited(pid: int, root: Path = ROOT) -> float | None:
    """Seconds that a process's threads were ready to run and had no CPU (``/proc/PID/task/*/schedstat``).

    The second field of each file, in ns (the kernel's *Scheduler Statistics*).
    """
    total = None
    for task in _children(root / f"proc/{pid}/task"):
        fields = read(task / "schedstat").split()
        waited = integer(fields[1]) if len(fields) > 1 else None
        if waited is not None:
            total = (total or 0.0) + waited * 1e-9
    return total


def pressure(text: str) -> float | None:
    """Seconds during which some task was stalled: ``total`` (in us) of the ``some`` line of ``/proc/pressure/*``."""
    for line in text.splitlines():
        if line.startswith("some "):
            total = integer(line.rpartition("total=")[2])
            return None if total is None else total * 1e-6
    return None


def core_mhz(root: Path = ROOT, text: str | None = None) -> tuple[float, ...]:
    """The present clock of every CPU in MHz; empty where it is not shown.

    x86 answers in ``/proc/cpuinfo`` (``text``, if already read) in one go; other kernels in cpufreq.
    """
    lines = (read(root / "proc/cpuinfo") if text is None else text).splitlines()
    shown = [number(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    if not shown:
        shown = [number(read(f / "cpufreq/scaling_cur_freq"), 1e-3) for f in cpu_folders(root)]
    return tuple(mhz for mhz in shown if mhz is not None and mhz > 0)


def cpu_folders(root: Path = ROOT) -> list[Path]:
    """``/sys/devices/system/cpu/cpuN``, in the order of N."""
    folders = [
        p for p in _children(root / CPUS) if p.name.startswith("cpu") and integer(p.name[3:]) is not None
    ]
    return sorted(folders, key=lambda p: int(p.name[3:]))


def throttle_counts(root: Path = ROOT) -> dict[str, int]:
    """How often each CPU and package was slowed by heat since boot; empty where the kernel does not count."""
    found = {}
    for folder in cpu_folders(root):
        for scope in ("core", "package"):
            count = integer(read(folder / f"thermal_throttle/{scope}_throttle_count"))
            if count is not None:
                found[f"{folder.name} {scope}"] = count
    return found


def hypervisor(root: Path = ROOT, text: str | None = None) -> str | None:
    """The hypervisor below this system, ``unknown`` if it hides its name; None on bare metal.

    x86 has a CPU flag for it (CPUID 1, ECX bit 31); elsewhere the firmware's names must do.
    """
    flags = cpuinfo(read(root / "proc/cpuinfo") if text is None else text).get("flags", "").split()
    if flags and "hypervisor" not in flags:
        return None
    vendor, product = (read(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    shown = " ".join(dict.fromkeys(part for part in (vendor, product) if part))
    named = (
        read(root / "sys/hypervisor/type")
        or read(root / "proc/device-tree/hypervisor/compatible").strip("\0")
        or (shown if flags or _virtual_name(vendor, product) else "")
    )
    return named or ("unknown" if flags else None)


def _virtual_name(vendor: str, product: str) -> bool:
    if "metal" in product:
        return False
    known = ("QEMU", "KVM", "VMware", "Xen", "Amazon EC2", "Google", "Virtual Machine", "Parallels")
    return any(name in f"{vendor} {product}" for name in known)


def cgroup_folders(controller: str, root: Path = ROOT) -> list[Path]:
    """This process's control groups of ``cpu`` or ``memory``, from its own up to the root's (v1 or v2).

    In a container the path in ``/proc/self/cgroup`` may be the host's and not be there: the
    container's own group is then mounted at the top.
    """
    base, inside = root / "sys/fs/cgroup", ""
    for line in read(root / "proc/self/cgroup").splitlines():
        ident, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            mounted = [root / "sys/fs/cgroup" / name for name in (names, controller)]
            base, inside = next((m for m in mounted if m.is_dir()), mounted[0]), path
            break
        if ident == "0" and not names:
            inside = path
    leaf = base / inside.strip("/")
    if ".." in leaf.parts or not leaf.is_dir():
        leaf = base
    return [leaf, *(p for p in leaf.parents if p.is_relative_to(base))]


def cpu_quota(text: str) -> float | None:
    """CPUs that cgroup v2's ``cpu.max`` (``quota period`` in microseconds, or ``max``) allows; None: no limit."""
    quota, _, period = text.partition(" ")
    limit, length = number(quota), number(period or "100000")
    return limit / length if limit and length and limit > 0 and length > 0 else None


def cpu_limit(root: Path = ROOT) -> tuple[float | None, Path | None]:
    """The tightest CPU quota above this process, in CPUs, and the file that sets it; None: no limit."""
    found = []
    for folder in cgroup_folders("cpu", root):
        for file, text in (
            (folder / "cpu.max", read(folder / "cpu.max")),
            (
                folder / "cpu.cfs_quota_us",
                f"{read(folder / 'cpu.cfs_quota_us')} {read(folder / 'cpu.cfs_period_us')}",
            ),
        ):
            quota = cpu_quota(text.strip())
            if quota is not None:
                found.append((quota, file))
    return min(found, default=(None, None), key=lambda pair: pair[0])


def memory_limit_mb(root: Path = ROOT) -> float | None:
    """The tightest memory limit of the control groups above this process, in MB; None: no limit."""
    limits = [
        integer(read(folder / name))
        for folder in cgroup_folders("memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((limit * 1e-6 for limit in limits if limit is not None and limit < UNLIMITED), default=None)


def quota_waited(root: Path = ROOT) -> float | None:
    """Seconds that CPU quotas above this process have held it back since they were set; None without any quota.

    ``throttled_usec`` of cgroup v2's ``cpu.stat``, ``throttled_time`` (ns) of v1's.
    """
    if cpu_limit(root)[0] is None:
        return None
    found = []
    for folder in cgroup_folders("cpu", root):
        stat = counters(read(folder / "cpu.stat"))
        if "throttled_usec" in stat:
            found.append(stat["throttled_usec"] * 1e-6)
        elif "throttled_time" in stat:
            found.append(stat["throttled_time"] * 1e-9)
    return max(found, default=None)


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius by the name of the thermal zone; the hottest where several have one name.

    Jetson's ``PMIC-Die`` always says 100 and is left out.
    """
    found: dict[str, float] = {}
    for zone in _children(root / "sys/class/thermal"):
        if not zone.name.startswith("thermal_zone"):
            continue
        name, celsius = read(zone / "type") or zone.name, number(read(zone / "temp"), 1e-3)
        if celsius is not None and -40 < celsius < 150 and not name.startswith("PMIC"):
            found[name] = max(celsius, found.get(name, celsius))
    return found


def undervoltage(root: Path = ROOT) -> bool | None:
    """Whether a Raspberry Pi's supply is too weak, which caps its clock; None on other boards.

    The firmware's alarm as the kernel polls it every two seconds (Linux, *Kernel driver raspberrypi-hwmon*).
    """
    for sensor in _children(root / "sys/class/hwmon"):
        if read(sensor / "name") == "rpi_volt":
            alarm = integer(read(sensor / "in0_lcrit_alarm"))
            return None if alarm is None else alarm != 0
    return None


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return
