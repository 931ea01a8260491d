"""Android's ``dumpsys battery``, ``dumpsys thermalservice`` and ``dumpsys power``.

Format and numbers after AOSP, frameworks/base: BatteryService.java, ThermalManagerService.java, PowerManagerService.java, and
hardware/interfaces, android/hardware/thermal/TemperatureType.aidl.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import COLDEST_C, HOTTEST_C, Convert, Text, flag, integer, number, whole

BATTERY_STATUS = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
BATTERY_HEALTH = {
    1: "unknown",
    2: "good",
    3: "overheat",
    4: "dead",
    5: "over voltage",
    6: "failure",
    7: "cold",
}
THROTTLING = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
SENSOR_KINDS = {
    0: "CPU",
    1: "GPU",
    2: "battery",
    3: "skin",
    4: "USB port",
    5: "power amplifier",
    9: "NPU",
    10: "TPU",
    11: "display",
    12: "modem",
    13: "SoC",
    14: "WiFi",
    15: "camera",
    16: "flashlight",
    17: "speaker",
    18: "ambient",
    19: "pogo",
}
"""Types that are temperatures: 6 to 8 are the battery current limit's voltage, current and charge, -1 is anything."""

_BATTERY: dict[str, tuple[str, Convert]] = {
    "ac powered": ("ac", flag),
    "usb powered": ("usb", flag),
    "wireless powered": ("wireless", flag),
    "dock powered": ("dock", flag),
    "max charging current": ("max_charging_current_ua", integer),
    "max charging voltage": ("max_charging_voltage_uv", integer),
    "charge counter": ("charge_counter_uah", integer),
    "status": ("status_code", whole),
    "health": ("health_code", whole),
    "present": ("present", flag),
    "level": ("level", whole),
    "scale": ("scale", whole),
    "voltage": ("voltage_mv", whole),
    "temperature": ("temperature_tenths_c", integer),
    "technology": ("technology", str),
}
_KEY_VALUE = re.compile(r"  ([A-Z]?[\w ()-]{1,60}): ?(.*)")
_SENSOR = re.compile(r"Temperature\{mValue=([^,}]*), mType=([^,}]*), mName=([^,}]*), mStatus=([^,}]*)\}")
_COOLER = re.compile(r"CoolingDevice\{mValue=([^,}]*), mType=([^,}]*), mName=([^,}]*)\}")
_THERMAL_STATUS = re.compile(r"Thermal Status: ([0-9]{1,2})")
_THERMAL_KNOWN = re.compile(
    r"IsStatusOverride: \w+|HAL Ready: \w+|HAL connection:|ThermalHAL .*|\t?callbacks: .*|ThermalEventListeners:|ThermalStatusListeners:"
)
_DISPLAY = re.compile(r"Display Power: state=(\w+)")
_WAKEFULNESS = re.compile(r"mWakefulness(?:Raw)?=(\w+)")
_POWER_FLAG = re.compile(r"(\w+)=(true|false)")
_POWER_FLAGS = {
    "mIsPowered": "plugged_in",
    "mStayOn": "stay_on",
    "mInteractive": "interactive",
    "mHalInteractiveModeEnabled": "interactive",
    "mBatterySaverEnabled": "saver",
    "mLowPowerModeEnabled": "saver",
    "mDeviceIdleMode": "idle_mode",
}


@dataclass(frozen=True)
class Battery:
    """``level`` of ``scale``; ``updates_stopped``: someone has frozen the values with ``dumpsys battery set``, they are no measurement."""

    ac: bool | None = None
    usb: bool | None = None
    wireless: bool | None = None
    dock: bool | None = None
    max_charging_current_ua: int | None = None
    max_charging_voltage_uv: int | None = None
    charge_counter_uah: int | None = None
    status_code: int | None = None
    health_code: int | None = None
    present: bool | None = None
    level: int | None = None
    scale: int | None = None
    voltage_mv: int | None = None
    temperature_tenths_c: int | None = None
    technology: str | None = None
    updates_stopped: bool = False
    unknown: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def status(self) -> str | None:
        return BATTERY_STATUS.get(self.status_code) if self.status_code is not None else None

    @property
    def health(self) -> str | None:
        return BATTERY_HEALTH.get(self.health_code) if self.health_code is not None else None

    @property
    def temperature_c(self) -> float | None:
        """Printed in tenths of a degree."""
        return None if self.temperature_tenths_c is None else self.temperature_tenths_c / 10

    @property
    def plugged_in(self) -> bool | None:
        """Whether anything powers the phone; None when a source that is printed could not be read."""
        sources = (self.ac, self.usb, self.wireless, self.dock)
        return True if True in sources else None if self.ac is None or self.usb is None else False


@dataclass(frozen=True)
class Sensor:
    """One temperature; ``throttling`` is the severity that this sensor asks for, 0 (none) to 6 (shutdown)."""

    name: str
    kind: str
    celsius: float
    throttling: int | None


@dataclass(frozen=True)
class Cooler:
    """One cooling device; ``state`` 0 is not in use, what higher ones mean is the vendor's."""

    name: str
    state: int


@dataclass(frozen=True)
class Thermal:
    """``status`` is the phone's severity, 0 to 6. ``sensors`` are read now; ``cached`` may be hours old."""

    status: int | None
    sensors: tuple[Sensor, ...]
    cached: tuple[Sensor, ...]
    coolers: tuple[Cooler, ...]
    unknown: tuple[str, ...]
    truncated: bool

    @property
    def severity(self) -> str | None:
        return THROTTLING[self.status] if self.status is not None and self.status < len(THROTTLING) else None


@dataclass(frozen=True)
class Power:
    """``display`` as printed (ON, OFF, DOZE); ``wakefulness`` is Awake, Asleep, Dreaming or Dozing.

    ``dumpsys power`` prints thousands of facts: what is not asked for here is passed over, not collected in ``unknown``.
    """

    display: str | None = None
    wakefulness: str | None = None
    plugged_in: bool | None = None
    stay_on: bool | None = None
    interactive: bool | None = None
    saver: bool | None = None
    idle_mode: bool | None = None
    truncated: bool = False

    @property
    def screen_on(self) -> bool | None:
        """From the display's state, else from the wakefulness; None when neither is printed."""
        if self.display is not None:
            return self.display == "ON"
        return None if self.wakefulness is None else self.wakefulness == "Awake"


def parse_battery(text: str) -> Battery:
    """``dumpsys battery``; vendors' lines after the service's own block go to ``unknown``."""
    source, found = Text(text), dict[str, Any]()
    inside = False
    for line in source.lines:
        match = _KEY_VALUE.fullmatch(line.rstrip())
        name, convert = _BATTERY.get(match[1].lower(), ("", str)) if match else ("", str)
        value = convert(match[2].strip()) if match and name else None
        if line.strip() == "Current Battery Service state:":
            inside = True
        elif inside and "UPDATES STOPPED" in line:
            found["updates_stopped"] = True
        elif inside and name and value not in (None, "") and name not in found:
            # the first one is the service's own; vendors repeat keys below
            found[name] = value
        else:
            source.left(line)
    return Battery(**found, unknown=tuple(source.unknown), truncated=source.truncated)


def parse_thermal(text: str) -> Thermal:
    """``dumpsys thermalservice``."""
    source, status, section = Text(text), None, ""
    sensors: dict[str, list[Sensor]] = {"cached": [], "now": []}
    coolers: list[Cooler] = []
    for line in map(str.strip, source.lines):
        if match := _THERMAL_STATUS.fullmatch(line):
            status = int(match[1])
        elif line.endswith(":") and not line.startswith("Thermal"):
            titles = {"Cached temperatures:": "cached", "Current temperatures from HAL:": "now"}
            section = titles.get(line, "coolers" if line.startswith("Current cooling devices") else "other")
        elif section in sensors and (sensor := _sensor(line)):
            sensors[section].append(sensor)
        elif section == "coolers" and (cooler := _cooler(line)):
            coolers.append(cooler)
        elif section != "other" and not _THERMAL_KNOWN.fullmatch(line):
            source.left(line)
    return Thermal(
        status,
        tuple(sensors["now"]),
        tuple(sensors["cached"]),
        tuple(coolers),
        tuple(source.unknown),
        source.truncated,
    )


def _sensor(line: str) -> Sensor | None:
    """None for what is no temperature: battery limits, vendors' own types, a value that no phone can have."""
    match = _SENSOR.fullmatch(line)
    value = number(match[1]) if match else None
    code = integer(match[2]) if match else None
    kind = SENSOR_KINDS.get(code) if code is not None else None
    if match is None or value is None or kind is None or not COLDEST_C <= value <= HOTTEST_C:
        return None
    return Sensor(match[3], kind, value, whole(match[4]))


def _cooler(line: str) -> Cooler | None:
    match = _COOLER.fullmatch(line)
    state = whole(match[1]) if match else None
    return Cooler(match[3], state) if match and state is not None else None


def parse_power(text: str) -> Power:
    """``dumpsys power``."""
    source, found = Text(text), dict[str, Any]()
    for line in map(str.strip, source.lines):
        if match := _DISPLAY.match(line):
            found["display"] = match[1]
        elif match := _WAKEFULNESS.fullmatch(line):
            found.setdefault("wakefulness", match[1])
        elif (match := _POWER_FLAG.fullmatch(line)) and match[1] in _POWER_FLAGS:
            found[_POWER_FLAGS[match[1]]] = match[2] == "true"
    return Power(**found, truncated=source.truncated)
