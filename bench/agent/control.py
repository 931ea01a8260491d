"""The worker's line to the engine: events out, one JSON per line; the job and the go-aheads in.

The runtime may print what it likes: everything but events goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import sys
import threading
from typing import IO, Any, Callable, Dict, Iterator, Optional, Sequence

from .memory import memory_kb

Json = Dict[str, Any]
ORPHANED = 4
ALIVE, MOST_ALIVE = 20.0, 90
"""Seconds between two signs of life, and how many are given: what hangs is ended after that."""


def orphaned() -> None:
    """Nobody is listening any more: end, and remove the folder that the engine made for this worker."""
    shutil.rmtree(os.environ.get("EDGEFIT_FOLDER", ""), ignore_errors=True)
    os._exit(ORPHANED)


def pin(cpus: str) -> None:
    """Stay on these CPUs (``0,2``); done before the runtime makes its threads, which inherit it."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(c) for c in cpus.split(",")})


def os_threads() -> Optional[int]:
    """Threads of this process, the one that listens included, or None where the system does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


class Events:
    """Takes stdout for events; what else is written to stdout goes to stderr from now on.

    Attributes:
        weighed: gives the processes whose memory phases tell; none: this one.
    """

    def __init__(self) -> None:
        self.weighed: Callable[[], Sequence[int]] = tuple
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def emit(self, event: str, **details: Any) -> None:
        try:
            self._out.write(json.dumps(dict(event=event, **details)) + "\n")
            self._out.flush()
        except BrokenPipeError:
            orphaned()

    @contextlib.contextmanager
    def alive(self, doing: str) -> Iterator[None]:
        """Say every ``ALIVE`` seconds, for half an hour at most, that something long is under way."""
        ended = threading.Event()

        def tell() -> None:
            for n in range(1, MOST_ALIVE + 1):
                if ended.wait(ALIVE):
                    return
                self.emit("log", text="%s, %d s so far" % (doing, n * ALIVE))

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def phase(self, name: str, **details: Any) -> None:
        self.emit("phase", name=name, memory_kb=self.memory_kb(), **details)

    def memory_kb(self) -> Optional[int]:
        """What the weighed processes hold, in KiB."""
        return memory_kb(*self.weighed())


class Control:
    """Reads lines from stdin in a thread that sleeps in the kernel; end of file ends the process.

    So a worker whose engine was killed, even with SIGKILL, never outlives it.
    """

    def __init__(self) -> None:
        self._lines: "queue.Queue[str]" = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in iter(sys.stdin.readline, ""):
            self._lines.put(line)
        orphaned()

    def line(self) -> str:
        return self._lines.get()
