"""A Pixel's power monitors (ODPM): ``/sys/bus/iio/devices/iio:device*/energy_value`` and ``enabled_rails``.

Format after the kernel of Pixel 6 and later, drivers/iio/power/odpm.c: ``t=`` is when the file was read, ``CH3(T=349894)[S2M_VDD_CPUCL2], 30203502`` the
energy of a rail since boot in microwatt seconds (microjoules) as of T; both times in ms since boot. Power is a difference of two readings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.parsers.text import Text

_READ = re.compile(r"t=([0-9]{1,18})")
_RAIL = re.compile(r"CH([0-9]{1,3})\(T=([0-9]{1,18})\)\[([^\]]{1,80})\], ?([0-9]{1,18})")
_ENABLED = re.compile(r"CH([0-9]{1,3})\[([^\]]{1,80})\]:(.*)")


@dataclass(frozen=True)
class Rail:
    """Energy of one rail since boot; ``device`` counts the ``t=`` lines, since several files come as one text."""

    device: int
    channel: int
    name: str
    at_ms: int
    energy_uws: int


@dataclass(frozen=True)
class Energies:
    """One reading of one or more monitors; ``read_ms`` has a time for each."""

    read_ms: tuple[int, ...]
    rails: tuple[Rail, ...]
    unknown: tuple[str, ...]
    truncated: bool


@dataclass(frozen=True)
class Enabled:
    """What is measured: (channel, rail, subsystem)."""

    rails: tuple[tuple[int, str, str], ...]
    unknown: tuple[str, ...]
    truncated: bool


def parse_energies(text: str) -> Energies:
    """``cat /sys/bus/iio/devices/iio:device*/energy_value``; a rail before any ``t=`` line belongs to device 0."""
    source, times, rails = Text(text), list[int](), list[Rail]()
    for line in map(str.strip, source.lines):
        if match := _READ.fullmatch(line):
            times.append(int(match[1]))
        elif match := _RAIL.fullmatch(line):
            device = max(len(times) - 1, 0)
            rails.append(Rail(device, int(match[1]), match[3], int(match[2]), int(match[4])))
        else:
            source.left(line)
    return Energies(tuple(times), tuple(rails), tuple(source.unknown), source.truncated)


def parse_enabled(text: str) -> Enabled:
    """``cat .../enabled_rails``: ``CH3[S2M_VDD_CPUCL2]:CPU``."""
    source, rails = Text(text), list[tuple[int, str, str]]()
    for line in map(str.strip, source.lines):
        match = _ENABLED.fullmatch(line)
        if match:
            rails.append((int(match[1]), match[2], match[3].strip()))
        else:
            source.left(line)
    return Enabled(tuple(rails), tuple(source.unknown), source.truncated)


def watts(before: Energies, after: Energies) -> dict[tuple[int, str], float]:
    """Mean power in W of each rail between two readings; rails without progress of their clock are left out."""
    old = {(rail.device, rail.name): rail for rail in before.rails}
    found = {}
    for rail in after.rails:
        was = old.get((rail.device, rail.name))
        if was and rail.at_ms > was.at_ms and rail.energy_uws >= was.energy_uws:
            found[rail.device, rail.name] = (
                (rail.energy_uws - was.energy_uws) * 1e-3 / (rail.at_ms - was.at_ms)
            )
    return found
