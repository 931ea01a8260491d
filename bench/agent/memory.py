"""Memory of processes, now and at its highest, never sampled while calls are timed."""

from __future__ import annotations

import threading
from typing import Dict, Optional

HZ = 20.0
SAMPLED = {"load": "load", "first": "first", "warmup": "steady"}
"""Phases of a worker in which memory is sampled from outside, and the part of the work they count to."""
ENDED = {"first": "load", "warmup": "first", "steady": "steady", "settled": "steady", "predict": "steady"}
"""Where a phase begins, the part of the work that has just ended."""


def memory_kb(*pids: int) -> Optional[int]:
    """What processes hold together (none named: this one) in KiB, from ``/proc/PID/smaps_rollup`` (proc(5)); None where none can be read.

    Of one process, the resident set: the proportional set size it would have alone. PSS divides a page by the processes that map it at
    that moment, so where others have the runtime's library too it shrinks (the same file took 15.1 MB above the empty onnxruntime
    alone, 10.3 and 8.7 beside one and two others; by the resident set 15.0 each time). Of several processes, PSS: what they
    share counts once.
    """
    field = "Rss:" if len(pids) < 2 else "Pss:"
    found = [_read_kb(pid, field) for pid in pids or ("self",)]
    known = [kb for kb in found if kb is not None]
    return sum(known) if known else None


def _read_kb(pid: object, field: str) -> Optional[int]:
    try:
        with open("/proc/%s/smaps_rollup" % pid) as file:
            for line in file:
                if line.startswith(field):
                    return int(line.split()[1])
    except OSError:
        return None
    return None


class MemorySampler:
    """Samples processes about 20 times a second between :meth:`resume` and :meth:`pause`; ``peaks`` per part, in KiB.

    Reading the map of a process holds a lock in the kernel: never sample while calls are timed.
    """

    def __init__(self, *pids: int) -> None:
        self.peaks: Dict[str, int] = {}
        self._pids, self._part = pids, ""
        self._running, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def peak_kb(self) -> Optional[int]:
        """The highest of all parts, in KiB."""
        return max(self.peaks.values(), default=None)

    def enter(self, phase: str, kb: Optional[int]) -> None:
        """A worker begins a phase: ``kb`` (its own reading) counts to the part that ended, and this one is sampled or not."""
        if phase in ENDED:
            self.note(kb, ENDED[phase])
        if phase in SAMPLED:
            self.resume(SAMPLED[phase])
        else:
            self.pause()

    def note(self, kb: Optional[int], part: str) -> None:
        """Take in a value of a part of the work, for instance one that the process measured itself."""
        if kb is not None:
            self.peaks[part] = max(self.peaks.get(part, 0), kb)

    def resume(self, part: str) -> None:
        self._part = part
        self._running.set()

    def pause(self) -> None:
        self._running.clear()

    def close(self) -> None:
        self._closing.set()
        self._running.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._running.wait()
            if self._closing.wait(1.0 / HZ):
                return
            if self._running.is_set():
                self.note(memory_kb(*self._pids), self._part)
