"""``tegrastats`` of JetPack 4 (Nano, TX2, Xavier), 5 and 6 (Orin) and 7 (Thor, Orin).

Fields after NVIDIA's *Jetson Linux Developer Guide*, "Tegrastats Utility" (r32.5 to r38.4). ``RAIL now/average`` is power in mW, since
JetPack 5 with the unit (``VDD_IN 4946mW/4946mW``), since Jetson Linux 39 with a peak as third; ``GPU@37C`` is a temperature, since
39 with a peak as second. Averages and peaks go back to the start of tegrastats: only the first number is the present.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.parsers.text import MAX_LINE, Text, celsius, percent, whole

N = "[0-9]{1,9}"
SIGNED = f"-?{N}"
CLOCK = rf"(?:{N}|\[(?:{N}|off)(?:,\s*(?:{N}|off))*\])"
BARE = r"APE|VIC_FREQ|MSENC|NVENC[0-9]?|NVDEC[0-9]?|NVJPG[0-9]?|OFA"
"""Engines whose bare number is a clock in MHz: ``APE 150``."""
NO_RAIL = "NC"
"""A channel of the power monitor that is not connected."""
THRESHOLD = "PMIC"
"""This sensor tells which threshold is crossed (100: none), not a temperature (Linux, drivers/thermal/max77620_thermal.c)."""


@dataclass(frozen=True)
class Core:
    """One CPU core; load in percent of its present clock."""

    index: int
    online: bool
    load_percent: int | None = None
    clock_mhz: int | None = None


@dataclass(frozen=True)
class Engine:
    """GPU (GR3D_FREQ), memory (EMC_FREQ), video and vision engines; the GPU has one clock per cluster since Orin."""

    on: bool = True
    load_percent: int | None = None
    clocks_mhz: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Power:
    """One rail. Only ``now_mw`` is the present; the others go back to the start of tegrastats."""

    now_mw: int
    average_mw: int | None = None
    peak_mw: int | None = None


@dataclass(frozen=True)
class Sample:
    """One line. ``stamp`` is the board's local time as printed, MM-DD-YYYY HH:MM:SS; ``dropped`` was printed but measured by nobody."""

    stamp: str | None = None
    ram_used_mb: int | None = None
    ram_total_mb: int | None = None
    swap_used_mb: int | None = None
    swap_total_mb: int | None = None
    cores: tuple[Core, ...] = ()
    engines: dict[str, Engine] = field(default_factory=dict)
    temperatures_c: dict[str, float] = field(default_factory=dict)
    power: dict[str, Power] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def gpu_load_percent(self) -> int | None:
        """None on JetPack 7's Thor, which prints clocks only."""
        return self.engines["GR3D_FREQ"].load_percent if "GR3D_FREQ" in self.engines else None

    @property
    def understood(self) -> bool:
        """Whether the line is one of tegrastats at all."""
        return self.ram_used_mb is not None or bool(self.cores or self.engines or self.power)


@dataclass(frozen=True)
class Log:
    """The samples of a whole log; ``unknown`` are lines that are none."""

    samples: tuple[Sample, ...]
    unknown: tuple[str, ...]
    truncated: bool


class _Line:
    """Collects the words of one line."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.cores: list[Core] = []
        self.engines: dict[str, Engine] = {}
        self.temperatures: dict[str, float] = {}
        self.power: dict[str, Power] = {}
        self.dropped: list[str] = []
        self.unknown: list[str] = []

    def stamp(self, match: re.Match[str]) -> bool:
        self.values["stamp"] = match[1]
        return True

    def ram(self, match: re.Match[str]) -> bool:
        self.values.update(ram_used_mb=int(match[1]), ram_total_mb=int(match[2]))
        return True

    def swap(self, match: re.Match[str]) -> bool:
        self.values.update(swap_used_mb=int(match[1]), swap_total_mb=int(match[2]))
        return True

    def nothing(self, match: re.Match[str]) -> bool:
        return True

    def cpus(self, match: re.Match[str]) -> bool:
        shared = whole(match[2] or "")
        for index, text in enumerate(match[1].split(",")):
            entry = re.fullmatch(rf"\s*(?:(off)|({N})%(?:@({N}))?)\s*", text)
            load = percent(entry[2]) if entry and entry[2] else None
            if entry is None or (entry[2] and load is None):
                self.unknown.append(f"CPU {index}: {text}")
            elif entry[1]:
                self.cores.append(Core(index, False))
            else:
                self.cores.append(Core(index, True, load, whole(entry[3]) if entry[3] else shared))
        return True

    def engine(self, match: re.Match[str]) -> bool:
        name, off, load, clock = match.groups()
        value = percent(load) if load else None
        if load and value is None:
            return False
        clocks = tuple(whole(part.strip()) for part in clock.strip("[]").split(",")) if clock else ()
        self.engines[name] = Engine(not off, value, clocks)
        return True

    def temperature(self, match: re.Match[str]) -> bool:
        name, value = match[1], celsius(match[2])
        if name == THRESHOLD or value is None:
            self.dropped.append(match[0])
        else:
            self.temperatures[name] = value
        return True

    def rail(self, match: re.Match[str]) -> bool:
        name, now, average, peak = match.groups()
        if name == NO_RAIL:
            self.dropped.append(match[0])
        else:
            self.power[name] = Power(int(now), _int(average), _int(peak))
        return True

    def sample(self) -> Sample:
        return Sample(
            **self.values,
            cores=tuple(self.cores),
            engines=self.engines,
            temperatures_c=self.temperatures,
            power=self.power,
            dropped=tuple(self.dropped),
            unknown=tuple(self.unknown),
        )


def _int(text: str | None) -> int | None:
    return int(text) if text else None


_RULES: tuple[tuple[re.Pattern[str], Callable[[_Line, re.Match[str]], bool]], ...] = tuple(
    (re.compile(pattern + r"(?!\S)"), take)
    for pattern, take in (
        (r"([0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2})", _Line.stamp),
        (rf"RAM ({N})/({N})MB(?: \(lfb {N}x{N}[kM]B\))?", _Line.ram),
        (rf"SWAP ({N})/({N})MB(?: \(cached {N}MB\))?", _Line.swap),
        (rf"IRAM {N}/{N}kB ?\(lfb {N}kB\)", _Line.nothing),
        (rf"MTS fg {N}% bg {N}%", _Line.nothing),
        (rf"CPU \[([^\]]*)\](?:@({N}))?", _Line.cpus),
        (rf"([A-Z]\w*) (?:(off)|({N})%(?:@({CLOCK}))?)", _Line.engine),
        (rf"([A-Z]\w*) ()()@({CLOCK})", _Line.engine),
        (rf"([A-Z]\w*) ()()\[{N}%(?:,{N}%)*\]@({N})", _Line.engine),
        (rf"({BARE}) ()()({N})", _Line.engine),
        (rf"(\w+)@({SIGNED}(?:\.[0-9]{{1,9}})?)C(?:/{SIGNED}(?:\.[0-9]{{1,9}})?C)?", _Line.temperature),
        (rf"([A-Za-z]\w*) ({SIGNED})(?:mW)?/({SIGNED})(?:mW)?(?:/({SIGNED})(?:mW)?)?", _Line.rail),
        (rf"([A-Za-z]\w*) ({SIGNED})mW()()", _Line.rail),
    )
)
_WORD = re.compile(r"\S+")


def parse_line(line: str) -> Sample:
    """One line; words that are not understood are in ``unknown``, and a line of more than 16,000 characters is one such word."""
    if len(line) > MAX_LINE:
        return Sample(unknown=(line,))
    state, position = _Line(), 0
    while True:
        word = _WORD.search(line, position)
        if word is None:
            return state.sample()
        for pattern, take in _RULES:
            match = pattern.match(line, word.start())
            if match and take(state, match):
                position = match.end()
                break
        else:
            state.unknown.append(word[0])
            position = word.end()


def parse(text: str) -> Log:
    """A log of ``tegrastats --logfile``, or what it wrote to a pipe."""
    source, samples = Text(text), []
    for line in source.lines:
        sample = parse_line(line)
        if sample.understood:
            samples.append(sample)
        else:
            source.left(line)
    return Log(tuple(samples), tuple(source.unknown), source.truncated)
