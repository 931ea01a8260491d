"""Reads what the engine asks for, again and again, while a window is open; nothing is interpreted here."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional

from .lines import Lines
from .look import placed, text_of

Json = Dict[str, Any]
FIRST_LINE = 5.0
MOST_ROWS = 200_000


class Sensor:
    """Rows ``[second, {file: text} or line]`` of this machine's monotonic clock, from files or a program's lines."""

    def __init__(self, asked: Json) -> None:
        self.files: List[str] = asked.get("files", [])
        self.command: List[str] = asked.get("command", [])
        self.period = float(asked.get("period", 0.1))
        self.rows: List[Any] = []
        self.windows: Dict[str, List[float]] = {}
        self.problem = ""
        self._end: Optional[Callable[[], None]] = None
        self._window = ""

    def start(self, window: str) -> None:
        """Open a window; returns when its first sample is there."""
        self._window, first = window, len(self.rows)
        if self.command:
            self._end = self._follow()
            limit = time.monotonic() + FIRST_LINE
            while len(self.rows) == first and not self.problem and time.monotonic() < limit:
                time.sleep(0.005)
        elif self.files:
            self._take()
            self._end = self._poll()
        self.windows[window] = [time.monotonic()]

    def stop(self) -> None:
        """Close the window that is open; harmless when none is."""
        if not self._window:
            return
        if self.files and not self.command:
            self._take()
        self.windows[self._window].append(time.monotonic())
        self._window = ""
        if self._end is not None:
            self._end()
            self._end = None

    def _take(self, line: Optional[str] = None) -> None:
        if len(self.rows) < MOST_ROWS:
            said = line if line is not None else {f: text_of(placed(f)) for f in self.files}
            self.rows.append([time.monotonic(), said])

    def _poll(self) -> Callable[[], None]:
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(self.period):
                self._take()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join()

        return end

    def _follow(self) -> Optional[Callable[[], None]]:
        lines = Lines(self.command)
        try:
            lines.start(lambda line: self._take(line.rstrip("\n")[:4096]))
        except OSError as error:
            self.problem = "%s cannot be started: %s" % (self.command[0], error.strerror)
            return None

        def end() -> None:
            self.problem = lines.stop() or self.problem

        return end

    def to_json(self) -> Json:
        return {"rows": self.rows, "windows": self.windows, "problem": self.problem}
