"""The lines of a program that runs until it is stopped, such as a vendor's monitor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import Callable, Optional, Sequence

PATIENCE = 2.0
"""Seconds that the program gets to end by itself."""


class Lines:
    """Calls back with each line, from a thread of its own, between :meth:`start` and :meth:`stop`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: "Optional[subprocess.Popen[str]]" = None
        self._thread: Optional[threading.Thread] = None
        self._problem = ""

    def start(self, callback: Callable[[str], None]) -> None:
        """Raises OSError when the program cannot be started."""
        self._problem = ""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            errors="replace",
            start_new_session=True,
        )
        self._thread = threading.Thread(target=_read, args=(self._process, callback), daemon=True)
        self._thread.start()

    def stop(self) -> str:
        """End the program; returns what went wrong, if anything."""
        process, self._process = self._process, None
        if process is None:
            return self._problem
        status = process.poll()
        if status is not None:
            self._problem = "%s ended by itself with status %d" % (self._command[0], status)
        _end(process)
        if self._thread is not None:
            self._thread.join()
        if process.stdout is not None:
            process.stdout.close()
        return self._problem


def _read(process: "subprocess.Popen[str]", callback: Callable[[str], None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        callback(line)


def _end(process: "subprocess.Popen[str]") -> None:
    """End the program's process group; with SIGKILL when it does not listen."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return
