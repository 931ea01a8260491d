"""A Jetson's power as NVIDIA's ``tegrastats`` prints it, where the sensors themselves cannot be read.

Power is ``RAIL now/average`` in mW, ``RAIL 4944mW/4944mW`` since JetPack 5 (and a third number since
JetPack 7). The average goes back to the start of tegrastats, so only the first number is taken.
``GPU@37C`` is a temperature, ``RAM 2/4MB`` is memory.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.agent.lines import Lines
from bench.measure.power import jetson
from bench.measure.power.base import Clock, NoAnswer
from bench.measure.power.sampled import Feed, Sampled
from bench.runtimes.base import Probe

COMMAND = ("tegrastats", "--interval", "100")
POWER = re.compile(r"(?<!\S)([A-Za-z]\w*) (-?[0-9]{1,7})(?:mW)?(?:/-?[0-9]{1,7}(?:mW)?){1,2}(?!\S)")
FIRST_LINE = 5.0
"""Seconds to wait for the first line."""


def parse(line: str) -> dict[str, float]:
    """Watts of each rail of one line; empty when it shows none. ``NC`` is a channel without a rail."""
    return {name: int(now) * 1e-3 for name, now in POWER.findall(line) if name != "NC"}


class _Lines(Lines):
    """A feed of :class:`bench.measure.power.sampled.Sampled`."""

    def start(self, callback: Callable[[str], None]) -> None:
        """Raises NoAnswer when the program cannot be started."""
        try:
            super().start(callback)
        except OSError as error:
            raise NoAnswer(f"{self._command[0]} cannot be started: {error.strerror or error}") from error


class Tegrastats(Sampled):
    """Input power of a Jetson module; the program runs only while a window is open."""

    name = "tegrastats"
    covers = "Jetson module"
    mode = "tegrastats"
    method = "tegrastats, ten lines a second, present power integrated"
    devices = ("cpu", "cuda", "tensorrt")
    polled = False

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Clock = time,
        feed: Feed | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        super().__init__(feed or _Lines(command), clock)
        self._root, self._program = root, command[0]
        self._rails: tuple[str, ...] = ()

    def probe(self) -> Probe:
        if shutil.which(self._program) is None:
            return Probe(False, reason="there is no tegrastats, which comes with a Jetson's JetPack")
        return Probe(True, version=jetson.model(self._root), devices=self.devices)

    def start(self) -> None:
        """Returns when the first line has come, so that the whole window is sampled."""
        super().start()
        deadline = self._clock.monotonic() + FIRST_LINE
        while not (self._samples or self._problem) and self._clock.monotonic() < deadline:
            self._clock.sleep(0.005)
        self._begin = self._samples[0][0] if self._samples else self._clock.monotonic()

    def watts(self, said: str) -> float:
        rails = parse(said)
        if not rails:
            raise NoAnswer(f"tegrastats showed no power but {said.strip()[:80]!r}; it may need root (sudo)")
        if not self._rails:
            self._rails, self.covers = jetson.choose(rails, self._root)
        try:
            values = [rails[name] for name in self._rails]
        except KeyError as error:
            raise NoAnswer(f"tegrastats showed no {error.args[0]}") from error
        if min(values) < 0 or sum(values) <= 0:
            shown = ", ".join(f"{name} {rails[name] * 1e3:g} mW" for name in self._rails)
            raise NoAnswer(f"tegrastats showed {shown}")
        return sum(values)
