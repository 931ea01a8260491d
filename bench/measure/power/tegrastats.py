"""A Jetson's power as NVIDIA's ``tegrastats`` prints it, where the sensors themselves cannot be read.

Power is ``RAIL now/average`` in mW, ``RAIL 4944mW/4944mW`` since JetPack 5 (and a third number since
JetPack 7). The average goes back to the start of tegrastats, so only the first number is taken.
``GPU@37C`` is a temperature, ``RAM 2/4MB`` is memory.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure.power import jetson
from bench.measure.power.base import Clock, NoAnswer
from bench.measure.power.sampled import Feed, Sampled
from bench.runtimes.base import Probe

COMMAND = ("tegrastats", "--interval", "100")
POWER = re.compile(r"(?<!\S)([A-Za-z]\w*) (-?[0-9]{1,7})(?:mW)?(?:/-?[0-9]{1,7}(?:mW)?){1,2}(?!\S)")
FIRST_LINE = 5.0
"""Seconds to wait for the first line."""
PATIENCE = 2.0
"""Seconds that tegrastats gets to end by itself."""


def parse(line: str) -> dict[str, float]:
    """Watts of each rail of one line; empty when it shows none. ``NC`` is a channel without a rail."""
    return {name: int(now) * 1e-3 for name, now in POWER.findall(line) if name != "NC"}


class Lines:
    """The lines of a program that runs until it is stopped."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._problem = ""

    def start(self, callback: Callable[[str], None]) -> None:
        self._problem = ""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise NoAnswer(f"{self._command[0]} cannot be started: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._read, args=(self._process, callback), daemon=True)
        self._thread.start()

    @staticmethod
    def _read(process: subprocess.Popen[str], callback: Callable[[str], None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            callback(line)

    def stop(self) -> str:
        process, self._process = self._process, None
        if process is None:
            return self._problem
        status = process.poll()
        if status is not None:
            self._problem = f"{self._command[0]} ended by itself with status {status}"
        _end(process)
        if self._thread is not None:
            self._thread.join()
        if process.stdout is not None:
            process.stdout.close()
        return self._problem


def _end(process: subprocess.Popen[str]) -> None:
    """End the program's process group; with SIGKILL when it does not listen."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return


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
        super().__init__(feed or Lines(command), clock)
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
