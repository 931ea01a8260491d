"""A machine elsewhere as its files: what the agent read there, laid out so that what reads /proc and /sys here reads it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

CPU = "sys/devices/system/cpu"
FILES = (
    "proc/cpuinfo", "proc/meminfo", "proc/stat", "proc/loadavg", "proc/self/status", "proc/self/cgroup",
    "proc/device-tree/model", "proc/device-tree/compatible", "proc/device-tree/hypervisor/compatible",
    "etc/nv_tegra_release", "etc/nvpmodel.conf", "var/lib/nvpmodel/status", "etc/os-release",
    f"{CPU}/cpu[0-9]*/cpufreq/*", f"{CPU}/cpu[0-9]*/topology/thread_siblings_list", f"{CPU}/smt/active",
    f"{CPU}/intel_pstate/no_turbo", f"{CPU}/cpufreq/boost", "sys/class/dmi/id/product_name",
    "sys/hypervisor/type", "sys/firmware/acpi/platform_profile", "sys/class/power_supply/*/online",
    "sys/class/power_supply/*/type", "sys/class/thermal/thermal_zone*/type", "sys/class/thermal/thermal_zone*/temp",
    "sys/class/hwmon/hwmon*/name", "sys/class/hwmon/hwmon*/temp*_input", "sys/class/hwmon/hwmon*/temp*_label",
    "sys/class/hwmon/hwmon*/in0_lcrit_alarm", "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    "sys/class/powercap/intel-rapl:*/name", "sys/class/powercap/intel-rapl:*/energy_uj",
    "sys/class/powercap/intel-rapl:*/max_energy_range_uj", "sys/bus/i2c/drivers/ina3221/*-004*/hwmon/hwmon*/*_label",
    "sys/bus/i2c/drivers/ina3221/*-004*/hwmon/hwmon*/*_input", "sys/bus/i2c/drivers/ina3221x/*-004*/iio:device*/rail_name_*",
    "sys/bus/i2c/drivers/ina3221x/*-004*/iio:device*/in_power*_input",
)  # fmt: skip
"""What :func:`bench.measure.environment.describe` and the energy sources read."""
COUNTERS = (
    "proc/stat", "proc/cpuinfo", "proc/pressure/*", "proc/{pid}/stat", "proc/{pid}/task/*/schedstat", "proc/self/cgroup",
    f"{CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq", f"{CPU}/cpu[0-9]*/thermal_throttle/*", "sys/fs/cgroup/cpu.stat",
    "sys/fs/cgroup/cpu.max", "sys/class/hwmon/hwmon*/name", "sys/class/hwmon/hwmon*/in0_lcrit_alarm",
    "sys/class/thermal/thermal_zone*/type", "sys/class/thermal/thermal_zone*/temp", "proc/device-tree/hypervisor/compatible",
    "sys/hypervisor/type",
)  # fmt: skip
"""What :func:`bench.measure.disturbance.snapshot` reads of a worker ``{pid}``."""


@contextlib.contextmanager
def laid_out(files: Mapping[str, object]) -> Iterator[Path]:
    """A temporary root that holds these files (path without the leading ``/`` -> text)."""
    with tempfile.TemporaryDirectory(prefix="edgefit-") as folder:
        root = Path(folder)
        write(root, files)
        yield root


def write(root: Path, files: Mapping[str, object]) -> None:
    """Write files below ``root``; a path that would leave it, or that clashes with another, is passed over."""
    for name, text in files.items():
        parts = PurePosixPath(name).parts
        if not isinstance(text, str) or not parts or ".." in parts or parts[0] == "/" or "\0" in name:
            continue
        path = root.joinpath(*parts)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
