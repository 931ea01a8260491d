"""``adb devices -l`` and ``adb shell getprop``.

States after AOSP, packages/modules/adb, adb.h and transport.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.parsers.text import Text

READY = "device"
STATES = (
    "no permissions",
    "device",
    "offline",
    "unauthorized",
    "authorizing",
    "connecting",
    "bootloader",
    "recovery",
    "rescue",
    "sideload",
    "host",
    "detached",
    "unknown",
)
_LINE = re.compile(rf"(\S+)\s+({'|'.join(STATES)})(?:(?= )|(?=\s*$))(.*)")
_FACT = re.compile(r"(\w+):(\S+)")
_CHATTER = re.compile(r"List of devices attached|\* daemon .*|adb server .*")
_PROPERTY = re.compile(r"\[([^\]]+)\]: \[(.*)\]")


@dataclass(frozen=True)
class Device:
    """One line: ``state`` is ``device`` for a phone that can be used; ``hint`` is what adb adds to "no permissions"."""

    serial: str
    state: str
    facts: dict[str, str]
    hint: str = ""

    @property
    def ready(self) -> bool:
        return self.state == READY

    @property
    def model(self) -> str | None:
        """The model, where adb prints it: blanks are underscores."""
        return self.facts.get("model")


@dataclass(frozen=True)
class Devices:
    """All phones and emulators that the adb server sees."""

    devices: tuple[Device, ...]
    unknown: tuple[str, ...]
    truncated: bool


@dataclass(frozen=True)
class Properties:
    """Properties by name, as text; a value may be empty and may span lines."""

    values: dict[str, str]
    unknown: tuple[str, ...]
    truncated: bool


def parse_devices(text: str) -> Devices:
    """``adb devices`` or ``adb devices -l``."""
    source, devices = Text(text), []
    for line in map(str.rstrip, source.lines):
        match = _LINE.fullmatch(line)
        if match is None:
            if not _CHATTER.fullmatch(line):
                source.left(line)
            continue
        serial, state, rest = match.groups()
        refused = state == "no permissions"
        devices.append(
            Device(
                serial,
                state,
                {} if refused else dict(_FACT.findall(rest)),
                rest.strip(" ;") if refused else "",
            )
        )
    return Devices(tuple(devices), tuple(source.unknown), source.truncated)


def parse_properties(text: str) -> Properties:
    """``getprop`` without a name: ``[ro.product.model]: [Pixel 8]``."""
    source, values = Text(text), dict[str, str]()
    start: list[str] = []
    for line in source.lines:
        match = _PROPERTY.fullmatch(line)
        if match:
            for part in start:
                source.left(part)
            values[match[1]], start = match[2], []
        elif start and line.endswith("]"):
            name, _, value = "\n".join([*start, line]).partition("]: [")
            values[name[1:]], start = value[:-1], []
        elif start or (line.startswith("[") and "]: [" in line):
            start.append(line)
        else:
            source.left(line)
    for part in start:
        source.left(part)
    return Properties(values, tuple(source.unknown), source.truncated)
