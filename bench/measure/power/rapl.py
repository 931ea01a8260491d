"""CPU packages through the kernel's RAPL counters (docs.kernel.org, *Power Capping Framework*; Intel and AMD).

Only package zones are added up: core, uncore and dram zones lie inside one (Intel SDM volume 3B,
*RAPL domains*), ``psys`` around it. Memory, where the processor counts it, is reported apart.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure.power.base import (
    Clock,
    NoAnswer,
    Reading,
    no_reading,
    read_number,
    read_text,
    too_short,
)
from bench.measure.power.sampled import Feed, Ticker
from bench.runtimes.base import Probe

FOLDER = "sys/class/powercap"
MICRO = 1e-6
UPDATE = 1e-3
"""Seconds between two updates of the counters (Intel SDM volume 3B: approximately 1 ms)."""
LOOK = 10.0
"""Seconds between two looks at the counters: they wrap at 65 kJ or more, which takes a minute at 1 kW."""
MOST_WATTS = 5000.0
"""More than any package draws: the counter was reset (suspend), it has not wrapped."""
MIRROR_UJ = 1_000_000
"""Some multi-die AMD processors show one counter under several names (codecarbon's issue 1274)."""
REMEDY = (
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj   # until the next boot; for good:\n"
    """echo 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"' """
    "| sudo tee /etc/udev/rules.d/70-powercap.rules"
)


@dataclass(frozen=True)
class Zone:
    """One counter of microjoules that goes back to 0 after ``largest``."""

    name: str
    file: Path
    largest: int


def zones(root: Path) -> tuple[list[Zone], list[Zone]]:
    """The package zones and the memory zones inside them. Raises NoAnswer when one cannot be read."""
    packages: list[Zone] = []
    memory: list[Zone] = []
    seen: list[int] = []
    for folder in sorted((root / FOLDER).glob("intel-rapl:*")):
        found = re.fullmatch(r"intel-rapl:\d+(:\d+)?", folder.name)
        name = read_text(folder / "name") if found else ""
        inner = bool(found and found[1])
        if not (name == "dram" if inner else name.startswith("package")):
            continue
        zone = Zone(name, folder / "energy_uj", read_number(folder / "max_energy_range_uj"))
        value = read_number(zone.file)
        if inner:
            memory.append(zone)
        elif not any(value and abs(value - other) < MIRROR_UJ for other in seen):
            packages.append(zone)
            seen.append(value)
    return packages, memory


class Counter:
    """Joules a zone has counted since it was made, over any number of wraps that :meth:`look` saw."""

    def __init__(self, zone: Zone, clock: Clock) -> None:
        self.zone, self._clock = zone, clock
        self.joules = 0.0
        self._value, self._time = read_number(zone.file), clock.monotonic()

    def look(self) -> None:
        """Take in what has been counted since the last look. Raises NoAnswer."""
        value, now = read_number(self.zone.file), self._clock.monotonic()
        moved = value - self._value
        if moved < 0:
            moved += self.zone.largest
        if value < 0 or moved < 0 or moved * MICRO > MOST_WATTS * max(now - self._time, 1.0):
            raise NoAnswer(f"the counter of {self.zone.name} jumped from {self._value} to {value} uJ")
        self.joules += moved * MICRO
        self._value, self._time = value, now


class Rapl:
    """Energy of all CPU packages."""

    name = "rapl"
    devices = ("cpu",)
    shortest = 0.2
    idle_seconds = 0.5

    def __init__(self, root: Path = Path("/"), clock: Clock = time, feed: Feed | None = None) -> None:
        self._root, self._clock, self._feed = root, clock, feed or Ticker(LOOK)
        self.covers = "CPU package"
        self._zones: tuple[list[Zone], list[Zone]] | None = None
        self._counters: list[Counter] = []
        self._begin: float | None = None
        self._problem = ""
        self._lock = threading.Lock()

    def probe(self) -> Probe:
        try:
            packages, _ = zones(self._root)
        except NoAnswer as error:
            remedy = (
                REMEDY if "permission" in str(error) else "Reload the driver: sudo modprobe intel_rapl_msr"
            )
            return Probe(False, reason=f"RAPL: {error}", remedy=remedy)
        if not packages:
            reason = f"there are no RAPL counters in /{FOLDER}"
            return Probe(
                False,
                reason=reason,
                remedy="On bare-metal x86: sudo modprobe intel_rapl_msr; virtual machines have none",
            )
        return Probe(True, version="powercap", devices=self.devices)

    def prepare(self) -> None:
        if self._zones is not None:
            return
        try:
            self._zones = zones(self._root)
        except NoAnswer as error:
            self._problem = str(error)
            return
        count = len(self._zones[0])
        self.covers = "CPU package" if count == 1 else f"{count} CPU packages"

    def files(self) -> tuple[Path, ...]:
        """What is read at each look."""
        self.prepare()
        return tuple(zone.file for kind in self._zones or () for zone in kind)

    def start(self) -> None:
        self._problem, self._counters = "", []
        self.prepare()
        self._begin = self._clock.monotonic()
        if self._problem or self._zones is None:
            return
        try:
            self._counters = [Counter(zone, self._clock) for kind in self._zones for zone in kind]
        except NoAnswer as error:
            self._problem = str(error)
            return
        self._feed.start(self._look)

    def _look(self, _: str = "") -> None:
        with self._lock:
            try:
                for counter in self._counters:
                    counter.look()
            except NoAnswer as error:
                self._problem = self._problem or str(error)

    def stop(self) -> Reading:
        if self._begin is None:
            return no_reading(self, "no window was opened")
        self._look()
        seconds, self._begin = self._clock.monotonic() - self._begin, None
        self._feed.stop()
        packages, memory = self._zones or ([], [])
        joules = sum(c.joules for c in self._counters if c.zone in packages)
        reason = self._problem or too_short(self, seconds)
        if not reason and joules <= 0:
            reason = f"the counters in /{FOLDER} did not move" if packages else self.probe().reason
        if reason:
            return no_reading(self, reason, seconds)
        parts = {"dram": sum(c.joules for c in self._counters if c.zone in memory)} if memory else {}
        names = ", ".join(zone.name for zone in packages)
        return Reading(
            self.name,
            self.covers,
            joules,
            seconds,
            int(seconds / UPDATE),
            "measured",
            names,
            f"RAPL energy counters ({names}), all processes, memory not included",
            parts,
        )

    def close(self) -> None:
        if self._begin is not None:
            self.stop()
