"""Energy from samples of power: a clockwork that reads a sensor, and the integral of what it answered."""

from __future__ import annotations

import abc
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from bench.measure.power.base import Clock, NoAnswer, Reading, no_reading, too_short
from bench.runtimes.base import Probe

GAP_PERIODS = 3.5
"""A sensor that is silent for more periods than this (three samples are missing) has left a gap."""
MOST_GAPS = 0.1
"""The share of a window that gaps may take and be bridged by a straight line; more, and there is no reading."""


@dataclass(frozen=True)
class Integral:
    """``bridged``: seconds of the window in which the sensor was silent and a straight line stands in."""

    joules: float
    seconds: float
    bridged: float


def integrate(samples: Sequence[tuple[float, float]], begin: float, end: float, period: float) -> Integral:
    """Energy of a window from samples of power: trapezoids, the outermost samples held to the window's ends.

    Power that changes in steps is off by at most the sampling interval times the height of each step.

    Args:
        samples: (second, watts), at least one, in order of time.
        begin, end: the window, on the samples' clock.
        period: seconds between samples when all is well.
    """
    times = [begin, *(t for t, _ in samples), end]
    watts = [samples[0][1], *(w for _, w in samples), samples[-1][1]]
    parts = [(b - a, (v + w) / 2) for (a, b), (v, w) in zip(pairwise(times), pairwise(watts), strict=True)]
    gaps = math.fsum(length for length, _ in parts if length > GAP_PERIODS * period)
    return Integral(math.fsum(length * mean for length, mean in parts), end - begin, gaps)


class Feed(Protocol):
    """Calls back with what a sensor says, or when it is time to read it, from a thread of its own."""

    def start(self, callback: Callable[[str], None]) -> None:
        """Raises NoAnswer when it cannot."""

    def stop(self) -> str:
        """The thread has ended; returns what went wrong, if anything."""


class Ticker:
    """Calls back (with an empty text) every ``period`` seconds; ticks that were missed stay missed."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, callback: Callable[[str], None]) -> None:
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, args=(callback,), daemon=True)
        self._thread.start()

    def _run(self, callback: Callable[[str], None]) -> None:
        due = time.monotonic() + self._period
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            callback("")
            due = max(due + self._period, time.monotonic())

    def stop(self) -> str:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return ""


class Sampled(abc.ABC):
    """The part of a source that integrates power over time. Subclasses read the sensor in :meth:`watts`."""

    name = ""
    covers = ""
    mode = ""
    method = ""
    devices: tuple[str, ...] = ()
    period = 0.1
    shortest = 1.0
    idle_seconds = 1.25
    """Longer than ``shortest``: a window of a program's lines begins with its first line."""
    polled = True
    """Is the sensor read by us (then also at both ends of a window), or does the feed say its values?"""

    def __init__(self, feed: Feed, clock: Clock) -> None:
        self._feed, self._clock = feed, clock
        self._samples: list[tuple[float, float]] = []
        self._begin: float | None = None
        self._problem = ""

    @abc.abstractmethod
    def watts(self, said: str) -> float:
        """One sample, from the sensor itself or from what the feed said. Raises NoAnswer."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """See :meth:`EnergySource.probe`."""

    def prepare(self) -> None:  # noqa: B027 (most sensors need no preparation)
        """Nothing to find, unless a subclass says so. Raises nothing."""

    def _take(self, said: str) -> None:
        try:
            value = self.watts(said)
        except NoAnswer as error:
            self._problem = str(error)
            return
        self._samples.append((self._clock.monotonic(), value))

    def start(self) -> None:
        """See :meth:`EnergySource.start`."""
        self._samples, self._problem = [], ""
        self.prepare()
        self._begin = self._clock.monotonic()
        if self.polled:
            self._take("")
        try:
            self._feed.start(self._take)
        except NoAnswer as error:
            self._problem = str(error)

    def stop(self) -> Reading:
        """See :meth:`EnergySource.stop`."""
        if self._begin is None:
            return no_reading(self, "no window was opened")
        if self.polled:
            self._take("")
        begin, end, self._begin = self._begin, self._clock.monotonic(), None
        problem = self._feed.stop() or self._problem
        samples = [s for s in self._samples if begin <= s[0] <= end]
        short = too_short(self, end - begin)
        if short or not samples:
            return no_reading(
                self, short or f"no sample: {problem or 'the sensor said nothing'}", end - begin
            )
        found = integrate(samples, begin, end, self.period)
        if found.bridged > MOST_GAPS * found.seconds:
            why = f"the sensor was silent for {found.bridged:.1f} of {found.seconds:.1f} s"
            return no_reading(self, f"{why} ({problem})" if problem else why, found.seconds)
        method = self.method
        if found.bridged:
            method += (
                f", {found.bridged:.1f} s without samples bridged ({problem or 'the sensor was silent'})"
            )
        return Reading(
            self.name, self.covers, found.joules, found.seconds, len(samples), "measured", self.mode, method
        )

    def close(self) -> None:
        """See :meth:`EnergySource.close`."""
        if self._begin is not None:
            self.stop()
