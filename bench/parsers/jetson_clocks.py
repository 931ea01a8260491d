"""``jetson_clocks --show``, JetPack 4 to 7: clocks and their limits, governor, what is online, fan, power mode.

Units after the script itself, which prints files of the kernel: CPU clocks in kHz (cpufreq), those of GPU, memory, DLA and PVA in Hz
(devfreq and clk). Without root it prints an error only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Text, flag, whole

_HEAD = re.compile(r"SOC family:(\S*)\s+Machine:(.*)")
_ONLINE = re.compile(r"Online CPUs: ([0-9,-]*)(?:, Offline CPUs: ?([0-9,-]*))?")
_CPU = re.compile(r"cpu([0-9]{1,4}):\s+(.*?)(?: IdleStates:(.*))?")
_CLOCK = re.compile(r"(\w[\w-]*):?\s+((?:\w+=\S*(?:\s+|$))+)")
_FAN = re.compile(r"FAN Dynamic Speed [Cc]ontrol=(\S*)\s+(\w+)=([0-9]{1,9})")
_OLD_FAN = re.compile(r"Fan: (?:PWM|speed)=([0-9]{1,9})")
_MODE = re.compile(r"NV Power Mode: ?(.+)")
_TPCS = re.compile(r"Active GPU TPCs: ([0-9]{1,4})")
_PROBLEM = re.compile(r"(?:Error[!:]|WARNING!|Can't access Fan!).*")
_CHATTER = re.compile(r"CPU Cluster Switching: .*")
_PAIR = re.compile(r"(\w+)=(\S*)")


@dataclass(frozen=True)
class Cpu:
    """One core's limits and present clock. ``idle_states`` is None where not printed, else whether each is allowed."""

    index: int
    online: bool | None
    governor: str | None
    min_khz: int | None
    max_khz: int | None
    now_khz: int | None
    idle_states: dict[str, bool] | None


@dataclass(frozen=True)
class Clock:
    """Limits and present clock of GPU, EMC (memory), a DLA or a PVA; ``override``: the memory clock is pinned."""

    online: bool | None
    min_hz: int | None
    max_hz: int | None
    now_hz: int | None
    override: bool | None


@dataclass(frozen=True)
class Fan:
    """One value of the fan: ``name`` as printed (``hwmon0_pwm1``), ``value`` of 255; ``control`` is who drives it."""

    control: str | None
    name: str
    value: int


@dataclass(frozen=True)
class Shown:
    """Everything that ``jetson_clocks --show`` says."""

    soc: str | None
    machine: str | None
    online_cpus: str | None
    offline_cpus: str | None
    cpus: tuple[Cpu, ...]
    clocks: dict[str, Clock]
    active_tpcs: int | None
    fans: tuple[Fan, ...]
    power_mode: str | None
    problems: tuple[str, ...]
    unknown: tuple[str, ...]
    truncated: bool

    @property
    def pinned(self) -> bool | None:
        """Whether every online core and the GPU run at one fixed clock; None where something of that is not printed."""
        cores = [(c.min_khz, c.max_khz) for c in self.cpus if c.online is not False]
        gpus = [(c.min_hz, c.max_hz) for name, c in self.clocks.items() if name in ("GPU", "gpu-gpc-0")]
        limits = cores + gpus
        if not cores or not gpus or any(None in pair for pair in limits):
            return None
        return all(low == high for low, high in limits)


def parse(text: str) -> Shown:
    """Output of ``jetson_clocks --show``."""
    source, found = Text(text), dict[str, Any]()
    cpus: list[Cpu] = []
    clocks: dict[str, Clock] = {}
    fans: list[Fan] = []
    problems: list[str] = []
    for line in map(str.strip, source.lines):
        if match := _CPU.fullmatch(line):
            cpus.append(_cpu(match))
        elif match := _FAN.fullmatch(line):
            fans.append(Fan(match[1] or None, match[2], int(match[3])))
        elif match := _OLD_FAN.fullmatch(line):
            fans.append(Fan(None, "fan", int(match[1])))
        elif match := _HEAD.fullmatch(line):
            found.update(soc=match[1] or None, machine=match[2].strip() or None)
        elif match := _ONLINE.fullmatch(line):
            found.update(online=match[1] or None, offline=match[2] or None)
        elif match := _MODE.fullmatch(line):
            found["mode"] = match[1]
        elif match := _TPCS.fullmatch(line):
            found["tpcs"] = int(match[1])
        elif _PROBLEM.fullmatch(line):
            problems.append(line)
        elif "Freq=" in line and (match := _CLOCK.fullmatch(line)):
            clocks[match[1]] = _clock(match[2])
        elif not _CHATTER.fullmatch(line):
            source.left(line)
    return Shown(
        found.get("soc"),
        found.get("machine"),
        found.get("online"),
        found.get("offline"),
        tuple(cpus),
        clocks,
        found.get("tpcs"),
        tuple(fans),
        found.get("mode"),
        tuple(problems),
        tuple(source.unknown),
        source.truncated,
    )


def _cpu(match: re.Match[str]) -> Cpu:
    said = dict(_PAIR.findall(match[2]))
    states = {name: flag(value) for name, value in _PAIR.findall(match[3])} if match[3] is not None else None
    return Cpu(
        int(match[1]),
        flag(said.get("Online", "")),
        said.get("Governor") or said.get("Gonvernor") or None,  # so spelt on the TX1
        whole(said.get("MinFreq", "")),
        whole(said.get("MaxFreq", "")),
        whole(said.get("CurrentFreq", "")),
        {name: value for name, value in states.items() if value is not None} if states is not None else None,
    )


def _clock(pairs: str) -> Clock:
    said = dict(_PAIR.findall(pairs))
    return Clock(
        flag(said.get("Online", "")),
        whole(said.get("MinFreq", "")),
        whole(said.get("MaxFreq", "")),
        whole(said.get("CurrentFreq", "")),
        flag(said.get("FreqOverride", "")),
    )
