"""``nvpmodel -q`` (also with ``--verbose``) and the modes of ``/etc/nvpmodel.conf``, JetPack 4 to 7.

Format after NVIDIA's *Jetson Linux Developer Guide*, "Power Mode Controls". The query prints ``NV Power Mode: 15W`` and, on the next
line, the mode's number; ``NV Fan Mode:quiet`` up to JetPack 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Text, whole

_MODE = re.compile(r"(?:NVPM VERB: Current mode: )?NV Power Mode: ?(.+)")
_FAN = re.compile(r"NV Fan Mode: ?(\S+)")
_PARAMETER = re.compile(r"NVPM VERB: PARAM (\S+): ARG (\S+): PATH (\S+?):? REAL_VAL: (\S+) CONF_VAL: (\S+)")
_PROBLEM = re.compile(r"NVPM (?:ERROR|WARN): (.*)")
_CHATTER = re.compile(r"NVPM VERB: (?:Config file: |parsing done for ).*")
_HEAD = re.compile(r"(?:NVPM VERB: POWER_MODEL: |<\s*POWER_MODEL )ID=([0-9]{1,4}) NAME=([^\s>]+)\s*>?")
_DEFAULT = re.compile(r"<\s*PM_CONFIG DEFAULT=([0-9]{1,4})(?: [^>]*)?>")
_SECTION = re.compile(r"<[^<>]*>")
_SETTING = re.compile(r"(\w+)\s+(\w+)\s+(-?\w+)\s*(?:#.*)?")
_PATH = re.compile(r"\w+\s+/\S+\s*(?:#.*)?")


@dataclass(frozen=True)
class Parameter:
    """What a mode sets and what is in force, both as printed: their unit is that of the file (kHz for CPU, Hz for GPU and memory)."""

    name: str
    argument: str
    path: str
    real: str
    configured: str


@dataclass(frozen=True)
class Query:
    """The mode in force; ``problems`` are NVPM ERROR and WARN lines (without root some files cannot be read)."""

    mode: str | None
    mode_id: int | None
    fan_mode: str | None
    parameters: tuple[Parameter, ...]
    problems: tuple[str, ...]
    unknown: tuple[str, ...]
    truncated: bool


@dataclass(frozen=True)
class Mode:
    """One mode and its settings: (parameter, argument, value as written; -1 means no cap)."""

    mode_id: int
    name: str
    settings: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Modes:
    """All modes of a board; ``default_id`` is the one after flashing."""

    modes: tuple[Mode, ...]
    default_id: int | None
    unknown: tuple[str, ...]
    truncated: bool


def parse_query(text: str) -> Query:
    """Output of ``nvpmodel -q`` or ``nvpmodel -q --verbose``."""
    source, found = Text(text), dict[str, Any]()
    parameters: list[Parameter] = []
    problems: list[str] = []
    after_mode = False
    for line in map(str.strip, source.lines):
        number = whole(line) if after_mode else None
        after_mode = False
        if number is not None:
            found["mode_id"] = number
        elif match := _MODE.fullmatch(line):
            # a number belongs to the mode named just before it
            found.update(mode=match[1], mode_id=None)
            after_mode = True
        elif match := _FAN.fullmatch(line):
            found["fan_mode"] = match[1]
        elif match := _PARAMETER.fullmatch(line):
            parameters.append(Parameter(*match.groups()))
        elif match := _PROBLEM.fullmatch(line):
            problems.append(match[1])
        elif not _CHATTER.fullmatch(line):
            source.left(line)
    return Query(
        found.get("mode"),
        found.get("mode_id"),
        found.get("fan_mode"),
        tuple(parameters),
        tuple(problems),
        tuple(source.unknown),
        source.truncated,
    )


def parse_modes(text: str) -> Modes:
    """``/etc/nvpmodel.conf``, or the output of ``nvpmodel -p --verbose``."""
    source, default = Text(text), None
    modes: list[tuple[int, str, list[tuple[str, str, str]]]] = []
    in_mode = False
    for line in map(str.strip, source.lines):
        if not line or line.startswith("#") or _CHATTER.fullmatch(line):
            continue
        if match := _HEAD.fullmatch(line):
            modes.append((int(match[1]), match[2], []))
            in_mode = True
        elif _SECTION.fullmatch(line):
            match = _DEFAULT.fullmatch(line)
            default = int(match[1]) if match else default
            in_mode = False
        elif in_mode and (match := _SETTING.fullmatch(line)):
            modes[-1][2].append((match[1], match[2], match[3]))
        elif in_mode or not _PATH.fullmatch(line):
            source.left(line)
    return Modes(
        tuple(Mode(number, name, tuple(settings)) for number, name, settings in modes),
        default,
        tuple(source.unknown),
        source.truncated,
    )
