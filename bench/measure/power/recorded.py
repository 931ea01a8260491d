"""Energy of a machine elsewhere: the agent wrote down what its sensors said, the sources here read it again.

A source is given a root with the recorded files, and a clock and a feed that go through the recording.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.hosts.captured import write
from bench.measure.power.base import Clock, EnergySource, Reading, no_reading
from bench.measure.power.ina3221 import Ina3221
from bench.measure.power.rapl import Rapl
from bench.measure.power.sampled import Feed
from bench.measure.power.tegrastats import COMMAND, Tegrastats
from bench.measure.power.window import Window
from bench.types import Json

PERIOD = 0.1
"""Seconds between two samples of the recording."""


class Replay:
    """A clock and a feed over the rows ``[second, line or {file: text}]`` of a recording."""

    def __init__(self, recording: Json, root: Path) -> None:
        self._rows = [r for r in recording.get("rows", ()) if isinstance(r, list) and len(r) == 2]
        self._problem, self._root = str(recording.get("problem", "")), root
        self._callback: Callable[[str], None] | None = None
        self._now, self._next = 0.0, 0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float, /) -> None:
        self._go(self._now + seconds)

    def start(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    def stop(self) -> str:
        self._callback = None
        return self._problem

    def window(self, source: EnergySource, begin: float, end: float) -> Reading:
        """What the source makes of the recording from one second to another."""
        if not any(begin <= row[0] <= end for row in self._rows):
            why = self._problem or "the sensor said nothing"
            return no_reading(source, f"no sample: {why}", end - begin)
        self._next = 0
        # the window's first sample was taken just before it opened
        while self._next < len(self._rows) and self._rows[self._next][0] < begin:
            self._show(self._rows[self._next][1])
            self._next += 1
        self._now = begin
        source.start()
        self._go(end)
        return source.stop()

    def _go(self, until: float) -> None:
        while self._next < len(self._rows) and self._rows[self._next][0] <= until:
            second, said = self._rows[self._next]
            self._next += 1
            self._now = max(self._now, float(second))
            self._show(said)
            if self._callback is not None:
                self._callback(said if isinstance(said, str) else "")
        self._now = max(self._now, until)

    def _show(self, said: object) -> None:
        if isinstance(said, dict):
            write(self._root, said)


@dataclass(frozen=True)
class Meter:
    """The source of a machine elsewhere, and what the agent must record for it (its ``sensor``)."""

    name: str
    make: Callable[[Path, Clock, Feed], EnergySource]
    sensor: Json
    shortest: float
    reason: str = ""

    def replay(self, recording: Json, files: Json) -> Window | None:
        """The windows ``before``, ``steady`` and ``after`` of a recording; ``files`` are those the machine was known by."""
        windows = recording.get("windows", {})
        if self.reason or "steady" not in windows or len(windows["steady"]) != 2:
            return None
        with tempfile.TemporaryDirectory(prefix="edgefit-") as folder:
            root = Path(folder)
            write(root, files)
            clock = Replay(recording, root)
            source = self.make(root, clock, clock)
            found: dict[str, Reading | None] = {}
            for name in ("before", "steady", "after"):
                ends = windows.get(name, ())
                found[name] = clock.window(source, *ends) if len(ends) == 2 else None
            source.close()
        gross = found["steady"] or no_reading(source, "the window was not recorded")
        return Window(gross, found["before"], found["after"])


def meter(files: Json, programs: list[str], device: str, root: Path) -> Meter:
    """The best energy source of a machine, by its files laid out at ``root`` and the programs it has."""
    reasons = []
    for make in (_rapl, _ina3221):
        source = make(root)
        if device not in source.devices:
            continue
        probe = source.probe()
        if probe.available:
            names = [str(f.relative_to(root)) for f in source.files()]
            sensor = {"files": names, "period": PERIOD, "idle_seconds": source.idle_seconds}
            return Meter(source.name, make, sensor, source.shortest)
        reasons.append(probe.reason)
    if COMMAND[0] in programs:
        known = _tegrastats(root)
        sensor = {"command": list(COMMAND), "period": PERIOD, "idle_seconds": known.idle_seconds}
        return Meter(known.name, _tegrastats, sensor, known.shortest)
    reasons.append("there is no tegrastats")
    return Meter(
        "none", _rapl, {}, 0.0, f"no energy source for {device} on the device: " + "; ".join(reasons)
    )


def _rapl(root: Path, *clock_and_feed: object) -> Rapl:
    return Rapl(root, *clock_and_feed)  # type: ignore[arg-type]


def _ina3221(root: Path, *clock_and_feed: object) -> Ina3221:
    return Ina3221(root, *clock_and_feed)  # type: ignore[arg-type]


def _tegrastats(root: Path, *clock_and_feed: object) -> Tegrastats:
    return Tegrastats(root, *clock_and_feed)  # type: ignore[arg-type]
