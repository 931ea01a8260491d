"""The doctor's checks of memory, heat, power modes, the timer and the disk."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure.disturbance import STALLED
from bench.measure.doctor.findings import PROCESSES, Finding, Grade, count, set_command, sudo
from bench.measure.doctor.look import Look
from bench.measure.system import CPUS
from bench.types import Json

HOT, TOO_HOT = 85.0, 95.0
"""Degrees Celsius: processors slow themselves down from about 95 to 105, boards from about 85."""
GOOD_TIMERS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource")
SLOW_READING_NS = 1000.0
LITTLE_MB, FEW_MB = 1000.0, 4000.0
LITTLE_GB, FEW_GB = 1.0, 5.0
SLOW_PROFILES = ("low-power", "quiet", "cool")


def memory(look: Look) -> Iterator[Finding]:
    """Too little memory means reclaim and swap during a timing."""
    found = look.environment["memory"]
    free = min((v for v in (found["available_mb"], found["cgroup_mb"]) if v is not None), default=None)
    if free is None:
        yield Finding("memory", "warning", "not known", "This system has no /proc/meminfo")
    else:
        grade: Grade = "problem" if free < LITTLE_MB else "warning" if free < FEW_MB else "ok"
        text = f"{free / 1e3:.1f} GB available" + (
            " within the limit of the group" if _limited(found) else ""
        )
        yield Finding("memory", grade, text, command="" if grade == "ok" else PROCESSES.format("-rss"))
    stalled, swapped = look.window.memory_pressure, found["swap_used_mb"]
    if stalled is not None and stalled > STALLED:
        text = f"something waited for memory {stalled:.0%} of the time just now"
        yield Finding("memory", "problem", text, command=PROCESSES.format("-rss"))
    if swapped is not None and swapped > 100:
        text = f"{swapped / 1e3:.1f} GB are swapped out: a first touch reads the disk"
        command = f"{sudo(look)}swapoff -a && {sudo(look)}swapon -a"
        yield Finding("swap", "warning", text, command=command)


def _limited(found: Json) -> bool:
    limit = found["cgroup_mb"]
    return limit is not None and (found["available_mb"] is None or limit < found["available_mb"])


def heat(look: Look) -> Iterator[Finding]:
    """Hot now, or slowed by heat since boot."""
    zones = look.environment["temperatures_c"]
    watch = "watch -n 5 'grep . /sys/class/thermal/thermal_zone*/temp'"
    if zones:
        name, hottest = max(zones.items(), key=lambda pair: pair[1])
        grade: Grade = "problem" if hottest >= TOO_HOT else "warning" if hottest >= HOT else "ok"
        todo = "" if grade == "ok" else "Let it cool down, or cool it better; watch it with:"
        text = f"{hottest:.0f} \N{DEGREE SIGN}C at the hottest ({name})"
        yield Finding("temperature", grade, text, todo, watch if todo else "")
    if look.throttles:
        text = f"heat slowed the CPU {count(look.throttles, 'time')} since boot"
        command = f"grep . /{CPUS}/cpu*/thermal_throttle/*_throttle_count"
        yield Finding("throttling", "warning", text, "Cool it better; whether it goes on:", command)


def power_mode(look: Look) -> Iterator[Finding]:
    """A board's or laptop's own power modes, and the battery."""
    about = look.environment["machine"]
    mode = about["power_mode"]
    if mode is not None:
        jetson = "jetson" in (about["model"] or "").lower()
        if jetson and not mode.startswith("MAXN"):
            text = f"{mode}: clocks and cores are capped (fine if that is how it ships)"
            command = f"{sudo(look)}nvpmodel -m 0 && {sudo(look)}jetson_clocks"
            yield Finding("power mode", "warning", text, command=command)
        elif mode in SLOW_PROFILES:
            command = set_command(look, "performance", "sys/firmware/acpi/platform_profile")
            yield Finding("power mode", "warning", f"{mode}: the firmware caps the clock", command=command)
        else:
            yield Finding("power mode", "ok", mode)
    if about["on_battery"]:
        yield Finding("power supply", "problem", "on battery: clocks are capped and fall", "Plug it in")
    if about["undervoltage"]:
        text = "too weak (undervoltage): the board caps its clock"
        command = "grep . /sys/class/hwmon/hwmon*/in0_lcrit_alarm"
        yield Finding(
            "power supply", "problem", text, "Use the board's own supply and cable; then 0:", command
        )


def timer(look: Look) -> Iterator[Finding]:
    """The clock that times."""
    found = look.timer
    text = (
        f"{found.source or 'clock'}: {found.reading_ns:.0f} ns per reading, steps of {found.step_ns:.0f} ns"
    )
    slow = found.reading_ns > SLOW_READING_NS
    if not slow and found.source in ("", *GOOD_TIMERS):
        yield Finding("timer", "ok", text)
        return
    text += ": short calls are mostly the clock's own cost"
    better = next((name for name in GOOD_TIMERS if name in found.available and name != found.source), None)
    if better is None:
        yield Finding("timer", "warning", text, "Measure larger batches; the kernel offers no better clock")
        return
    place = "sys/devices/system/clocksource/clocksource0/current_clocksource"
    yield Finding("timer", "problem" if slow else "warning", text, command=set_command(look, better, place))


def disk(look: Look) -> Iterator[Finding]:
    """Room for variants and samples."""
    grade: Grade = "problem" if look.free_gb < LITTLE_GB else "warning" if look.free_gb < FEW_GB else "ok"
    command = "du -xhd 2 . | sort -h | tail -n 10"
    text = f"{look.free_gb:.1f} GB free here"
    yield Finding("disk", grade, text, command="" if grade == "ok" else command)


def process_memory(look: Look) -> Iterator[Finding]:
    """Peak memory needs a file that some kernels leave out."""
    if look.smaps:
        yield Finding("process memory", "ok", "resident sets can be read")
        return
    text = "/proc/PID/smaps_rollup cannot be read: memory_mb will be missing"
    todo = "It needs Linux 4.14 with CONFIG_PROC_PAGE_MONITOR; is it in this kernel?"
    command = "zgrep CONFIG_PROC_PAGE_MONITOR /proc/config.gz /boot/config-$(uname -r)"
    yield Finding("process memory", "problem", text, todo, command)


CHECKS = (memory, heat, power_mode, timer, disk, process_memory)
