"""What an Android phone says of itself, and what of that disturbs a measurement.

Sources: ``getprop``, ``dumpsys battery | thermalservice | power`` (see :mod:`bench.parsers.adb`, :mod:`bench.parsers.dumpsys`),
/proc and /sys as far as a shell of adb may read them.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from bench.hosts.adb_client import HOME
from bench.hosts.captured import CPU, laid_out
from bench.parsers.adb import parse_properties
from bench.parsers.dumpsys import THROTTLING, parse_battery, parse_power, parse_thermal
from bench.parsers.odpm import Energies, parse_energies
from bench.parsers.text import number
from bench.types import Json

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.hosts.inventory import Device

WORKSPACE = f"{HOME}/edgefit"
SECONDS = 30.0
FILES = (
    f"{CPU}/possible", "proc/cpuinfo", "proc/meminfo", "proc/stat", "proc/loadavg", "proc/self/status", "proc/version",
    f"{CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq", f"{CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq",
    f"{CPU}/cpu[0-9]*/cpufreq/scaling_governor", f"{CPU}/cpu[0-9]*/cpufreq/scaling_driver",
    "sys/class/thermal/thermal_zone*/type", "sys/class/thermal/thermal_zone*/temp",
)  # fmt: skip
READ = """word=$1; shift
for pattern in "$@"; do for path in /$pattern; do
  [ -f "$path" ] && [ -r "$path" ] && { printf '%s %s\\n' "$word" "${path#/}"; head -c 100000 "$path"; printf '\\n'; }
done; done 2>/dev/null
printf '%s uname\\n' "$word"; uname -r; printf '%s arch\\n' "$word"; uname -m
printf '%s getprop\\n' "$word"; getprop"""
ASK = 'for name in battery thermalservice power; do printf "%s %s\\n" "$1" "$name"; dumpsys "$name"; done 2>/dev/null'
METERS = "cat /sys/bus/iio/devices/iio:device*/energy_value"
SIZE = 'mkdir -p -- "$1" && du -sk -- "$1"'
PROPERTIES = {
    "manufacturer": ("ro.product.manufacturer",),
    "model": ("ro.product.model",),
    "soc": ("ro.soc.model", "ro.board.platform"),
    "android": ("ro.build.version.release",),
    "security_patch": ("ro.build.version.security_patch",),
    "abi": ("ro.product.cpu.abi",),
}


def folder_of(device: Device) -> str:
    """Our folder on a phone; one that the inventory names for a home folder has no meaning there."""
    return device.workspace if device.workspace.startswith("/") else WORKSPACE


def clean(host: Host, folder: str, days: float) -> Json:
    """Remove files that were written so many days ago: ``freed_bytes``, ``left_bytes``. Raises as :meth:`bench.hosts.base.Host.exec`."""
    age = ["-mmin", f"+{round(days * 1440)}"] if days else []
    before = _bytes(host, folder)
    host.exec(["find", folder, "-type", "f", *age, "-exec", "rm", "-f", "--", "{}", "+"], SECONDS)
    left = _bytes(host, folder)
    return {"freed_bytes": max(0, before - left), "left_bytes": left}


def _bytes(host: Host, folder: str) -> int:
    told = host.exec(["sh", "-c", SIZE, "sh", folder], SECONDS).stdout.split()
    return 1024 * int(told[0]) if told and told[0].isdecimal() else 0


def describe(host: Host) -> Json:
    """As :func:`bench.measure.environment.describe`, and ``phone``: what ``PROPERTIES`` names, ``cores_max_mhz``, ``state``.

    Raises as :meth:`bench.hosts.base.Host.exec`.
    """
    from bench.measure import environment
    from bench.measure.system import cpu_list

    word = f"edgefit-{secrets.token_hex(8)}"
    parts = _parts(host.exec(["sh", "-c", READ, "sh", word, *FILES], SECONDS, check=False).stdout, word)
    said = parse_properties(parts.pop("getprop", "")).values
    known = {
        name: next((said[key] for key in keys if said.get(key)), None) for name, keys in PROPERTIES.items()
    }
    release, arch = (parts.pop(name, "").strip() for name in ("uname", "arch"))
    # /proc/cpuinfo leaves out cores that sleep
    cores = len(cpu_list(parts.get(f"{CPU}/possible", "").strip()))
    own = {
        "arch": arch,
        "cores": cores,
        "processor": known["soc"] or "",
        "os": {"system": "Android", "release": release, "name": f"Android {known['android'] or '?'}"},
        "python": "",
        "packages": {},
    }
    with laid_out({name: text.rstrip("\n") for name, text in parts.items()}) as root:
        found = environment.describe(root=root, own=own)
    found["machine"] |= {"model": known["model"]}
    clocks = [_mhz(parts.get(f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq", "")) for i in range(cores)]
    return found | {"phone": {**known, "cores_max_mhz": clocks, "state": state(host)}}


def state(host: Host) -> Json:
    """What changes while a phone is measured: ``battery_level`` (0 to 1), ``charging``, ``battery_c``, ``thermal_status`` (0 to 6),
    ``sensors_c``, ``screen_on``, ``saver``. What it does not say is None.

    Raises as :meth:`bench.hosts.base.Host.exec`.
    """
    word = f"edgefit-{secrets.token_hex(8)}"
    parts = _parts(host.exec(["sh", "-c", ASK, "sh", word], SECONDS, check=False).stdout, word)
    battery = parse_battery(parts.get("battery", ""))
    thermal = parse_thermal(parts.get("thermalservice", ""))
    power = parse_power(parts.get("power", ""))
    level, scale = battery.level, battery.scale
    return {
        "battery_level": level / scale if level is not None and scale else None,
        "charging": None if battery.status is None else battery.status == "charging",
        "plugged_in": battery.plugged_in,
        "battery_c": battery.temperature_c,
        "thermal_status": thermal.status,
        "sensors_c": {sensor.name: sensor.celsius for sensor in thermal.sensors},
        "screen_on": power.screen_on,
        "saver": power.saver,
    }


def warnings(found: Json) -> list[str]:
    """What of a :func:`state` disturbs a measurement, one sentence each."""
    told = []
    if found["screen_on"]:
        told.append("the screen is on: it takes power and warms the phone (adb shell input keyevent SLEEP)")
    if found["charging"]:
        told.append("the battery is charging, which warms the phone")
    if found["saver"]:
        told.append("the battery saver is on and slows the phone down")
    if status := found["thermal_status"]:
        name = THROTTLING[status] if status < len(THROTTLING) else str(status)
        told.append(f"the phone is hot: its thermal status is {name} ({status}), so it may be throttled")
    return told


def energies(host: Host) -> tuple[Energies, str]:
    """A reading of the power monitors (Pixel 6 and later), or why there is none. Raises as :meth:`bench.hosts.base.Host.exec`."""
    done = host.exec(["sh", "-c", METERS], SECONDS, check=False)
    found = parse_energies(done.stdout)
    if found.rails:
        return found, ""
    if "Permission denied" in done.stderr:
        return found, "the phone has power monitors (ODPM), but a shell of adb may not read them"
    return found, "the phone has no power monitors that a shell of adb sees (ODPM: Pixel 6 and later)"


def _parts(text: str, word: str) -> dict[str, str]:
    """What stands behind each line ``WORD NAME``."""
    parts: dict[str, str] = {}
    for chunk in text.split(f"{word} ")[1:]:
        name, _, body = chunk.partition("\n")
        parts[name] = body
    return parts


def _mhz(text: str) -> float | None:
    khz = number(text.strip())
    return None if khz is None else khz / 1000
