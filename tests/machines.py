"""Stand-ins for machines nobody has here: the files of /proc, /sys and /etc, and NVML, as they would answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

CPU = "sys/devices/system/cpu"


def stat(*cpus: tuple[int, ...]) -> str:
    """``/proc/stat`` of CPUs given as (user, nice, system, idle, iowait, irq, softirq, steal) in ticks."""
    total = tuple(sum(column) for column in zip(*cpus, strict=True))
    rows = [("cpu", total), *((f"cpu{i}", row) for i, row in enumerate(cpus))]
    lines = (f"{name} {' '.join(map(str, row))} 0 0" for name, row in rows)
    return "\n".join(lines) + "\nintr 1 2 3\nctxt 4\nbtime 5\n"


def process(pid: int, user: int, system: int, name: str = "python") -> dict[str, str]:
    """A process that used so many ticks."""
    line = f"{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 1 0 0 0 0"
    return {f"proc/{pid}/stat": line, f"proc/{pid}/comm": name}


def cpuinfo(cores: int = 4, mhz: float = 3000.0, flags: str = "fpu avx avx2 fma avx512_vnni") -> str:
    return "\n".join(
        f"processor\t: {i}\nmodel name\t: Example CPU\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n"
        for i in range(cores)
    )


def desktop() -> dict[str, str]:
    """A quiet x86 desktop as it comes: powersave under intel_pstate, turbo and SMT on."""
    files = {
        "proc/cpuinfo": cpuinfo(),
        "proc/stat": stat(*[(100, 0, 50, 9000, 10, 1, 1, 0)] * 4),
        "proc/loadavg": "0.10 0.20 0.30 1/200 4242",
        "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 1000 kB\nSwapFree: 1000 kB\n",
        "proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-3\n",
        "proc/self/cgroup": "0::/user.slice/shell.scope\n",
        "proc/self/smaps_rollup": "00-ff ---p 00000000 00:00 0 [rollup]\nRss: 10 kB\nPss: 8 kB\n",
        "proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n",
        "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0 total=0\n",
        "sys/fs/cgroup/user.slice/shell.scope/cpu.max": "max 100000",
        f"{CPU}/smt/active": "1",
        f"{CPU}/intel_pstate/no_turbo": "0",
        "sys/class/dmi/id/sys_vendor": "Example",
        "sys/class/dmi/id/product_name": "Tower 1",
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
        "sys/class/thermal/thermal_zone0/temp": "45000",
        "sys/class/thermal/thermal_zone1/type": "PMIC-Die",
        "sys/class/thermal/thermal_zone1/temp": "100000",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm",
    }
    for i in range(4):
        files |= {
            f"{CPU}/cpu{i}/cpufreq/scaling_governor": "powersave",
            f"{CPU}/cpu{i}/cpufreq/scaling_driver": "intel_pstate",
            f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": "3000000",
            f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq": "4200000",
            f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i % 2},{i % 2 + 2}",
            f"{CPU}/cpu{i}/thermal_throttle/core_throttle_count": "0",
            f"{CPU}/cpu{i}/thermal_throttle/package_throttle_count": "0",
        }
    return files


def virtual() -> dict[str, str]:
    """A cloud machine whose neighbours took 10% of its time."""
    return {
        **{k: v for k, v in desktop().items() if not k.startswith((CPU, "sys/class/thermal"))},
        "proc/cpuinfo": cpuinfo(flags="fpu avx2 fma hypervisor"),
        "proc/stat": stat(*[(900, 0, 0, 9000, 0, 0, 0, 100)] * 2),
        "sys/class/dmi/id/sys_vendor": "QEMU",
        "sys/class/dmi/id/product_name": "Standard PC",
    }


def jetson() -> dict[str, str]:
    """A Jetson in one of its smaller power modes."""
    files = {
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimdhp asimddp\nCPU implementer : 0x4e\nCPU part : 0x004\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Xavier\0",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nX 1\n< POWER_MODEL ID=2 NAME=MODE_15W >\n",
        "sys/class/thermal/thermal_zone0/type": "CPU-therm",
        "sys/class/thermal/thermal_zone0/temp": "91500",
    }
    for i in range(2):
        files |= {
            f"{CPU}/cpu{i}/cpufreq/scaling_governor": "schedutil",
            f"{CPU}/cpu{i}/cpufreq/scaling_driver": "tegra194",
            f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": str(1190400 + i),
            f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq": "2265600",
        }
    return files


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write the files below ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class StandInNvml:
    """The part of ``pynvml`` that we call, for one card. ``refused`` functions answer with an error."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1

    def __init__(self, *refused: str, **answers: Any) -> None:
        self.closed = False
        self._refused = refused
        self._answers = {
            "nvmlInit": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "card",
            "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetName": "Example GPU",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=8e9),
            "nvmlDeviceGetClockInfo": 1200,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetTemperature": 50,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1,
            "nvmlDeviceGetEnforcedPowerLimit": 300_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": 350_000,
            "nvmlDeviceGetPersistenceMode": 0,
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=0),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=77, usedGpuMemory=512_000_000)],
        } | answers

    def nvmlShutdown(self) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name in self._refused:
                raise self.NVMLError(f"{name} is not supported")
            return self._answers[name]

        return call
