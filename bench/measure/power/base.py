"""What all energy sources share: the interface, a reading, and files of sysfs.

A source is asked for whole windows of time: ``start()``, then ``stop()``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.runtimes.base import Probe
from bench.types import Provenance


class NoAnswer(Exception):
    """A sensor that cannot be read just now, and why."""


class Clock(Protocol):
    """The part of the module ``time`` that sources use."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass(frozen=True)
class Reading:
    """What a source counted in one window. Missing is ``joules`` None with a ``reason``, never 0.

    Attributes:
        covers: what is counted, such as ``GPU 0`` or ``Jetson module (VDD_IN)``.
        seconds: length of the window, between the readings of its two ends.
        updates: answers of the sensor that were used; of a counter, how often it moved by its known rate.
        mode: which of its ways the source used.
        parts: joules counted apart and not in ``joules`` (memory).
    """

    source: str
    covers: str
    joules: float | None
    seconds: float
    updates: int = 0
    provenance: Provenance | None = None
    mode: str = ""
    method: str = ""
    parts: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def watts(self) -> float | None:
        """Mean power of the window."""
        return None if self.joules is None else self.joules / self.seconds


class EnergySource(Protocol):
    """Something that says how much energy a window took. One window at a time; never raises for a sensor."""

    @property
    def name(self) -> str:
        """``nvml``, ``nvml-power``, ``rapl``, ``ina3221``, ``tegrastats``, ``codecarbon``."""

    @property
    def covers(self) -> str:
        """What it counts; complete once prepared."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The compute devices whose work it counts: ``cpu``, ``cuda``, ``tensorrt``."""

    @property
    def shortest(self) -> float:
        """Seconds: a shorter window is refused, because the sensor moves too rarely."""

    @property
    def idle_seconds(self) -> float:
        """Length of the idle windows before and after a measurement; 0 for a model, from which none is subtracted."""

    def probe(self) -> Probe:
        """Is it there? If not: why, and what to do. Cheap; leaves nothing running."""

    def prepare(self) -> None:
        """Find the sensors once; called by the first :meth:`start` if nobody did."""

    def start(self) -> None:
        """Open a window."""

    def stop(self) -> Reading:
        """Close the window."""

    def close(self) -> None:
        """End the source: threads, processes and handles are gone. Harmless twice."""


def no_reading(source: EnergySource, reason: str, seconds: float = 0.0) -> Reading:
    """A window without a figure."""
    return Reading(source.name, source.covers, None, seconds, reason=reason)


def too_short(source: EnergySource, seconds: float) -> str:
    """Why a window of so many seconds is refused; empty when it is not."""
    if seconds >= source.shortest:
        return ""
    return f"the window of {seconds:.2f} s is too short for {source.name}: at least {source.shortest:g} s are needed"


def read_text(path: Path) -> str:
    """The stripped text of a file of sysfs or the device tree. Raises NoAnswer with the reason."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except PermissionError as error:
        raise NoAnswer(f"no permission to read {path}") from error
    except OSError as error:
        raise NoAnswer(f"{path} cannot be read: {error.strerror or error}") from error


def read_number(path: Path) -> int:
    """The number a file of sysfs begins with. Raises NoAnswer with the reason."""
    text = read_text(path)
    try:
        return int(text.split()[0])
    except (ValueError, IndexError) as error:
        raise NoAnswer(f"{path} holds no number but {text[:40]!r}") from error
