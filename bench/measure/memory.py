"""Peak memory of a worker: proportional set size, sampled from outside while nothing is timed."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from bench.types import Quantity

HZ = 20.0
WHOLE = "from load to the end of the steady state"
PART_WORDS = {"load": "while loading", "first": "in the first call", "steady": "in warm-up and steady state"}
KIB_PER_MB = 1000.0 / 1.024
"""KiB in a megabyte of 10^6 bytes: 976.5625."""


def proportional_set_kb(*pids: int) -> int | None:
    """PSS of processes together in KiB, from ``/proc/PID/smaps_rollup`` (proc(5)); None where none can be read.

    PSS counts a page shared by k processes as 1/k of a page, so libraries that other workers
    map as well are not counted whole.
    """
    known = [kb for kb in map(_pss_kb, pids) if kb is not None]
    return sum(known) if known else None


def _pss_kb(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        return None
    return None


class MemorySampler:
    """Samples processes about 20 times a second between :meth:`resume` and :meth:`pause`; ``peaks`` per part, in KiB.

    Reading the map of a process holds a lock in the kernel: never sample while calls are timed.
    """

    def __init__(self, *pids: int) -> None:
        self.peaks: dict[str, int] = {}
        self._pids, self._part = pids, ""
        self._running, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def peak_kb(self) -> int | None:
        """The highest of all parts, in KiB."""
        return max(self.peaks.values(), default=None)

    def note(self, kb: int | None, part: str) -> None:
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
                self.note(proportional_set_kb(*self._pids), self._part)


def parts_mb(peaks: dict[str, int], baseline_kb: int | None) -> dict[str, Quantity]:
    """Memory above the empty runtime in MB: at its highest while loading, in the first call, and after it."""
    return {
        part: replace(found, method=f"{found.method.replace(WHOLE, PART_WORDS[part])}")
        if found.value is not None
        else found
        for part in PART_WORDS
        for found in [above_baseline(peaks.get(part), baseline_kb)]
    }


def above_baseline(peak_kb: int | None, baseline_kb: int | None) -> Quantity:
    """Peak PSS minus the PSS after the runtime's import, in MB (10^6 bytes)."""
    if peak_kb is None or baseline_kb is None:
        return Quantity.missing(
            "this system does not report proportional set sizes (/proc/PID/smaps_rollup)", "MB"
        )
    if peak_kb < baseline_kb:
        return Quantity.missing("another process came to share the runtime's libraries during the cell", "MB")
    return Quantity(
        value=(peak_kb - baseline_kb) / KIB_PER_MB,
        unit="MB",
        n=1,
        provenance="measured",
        method=f"peak proportional set size {WHOLE} (one process), minus that after the runtime's import",
    )


def device_memory(device: str, held_mb: float | None, allocated_mb: float | None) -> Quantity:
    """Memory of the GPU in MB: what NVML says the process holds, else what the runtime's allocator took at its highest."""
    if device == "cpu":
        return Quantity.missing("runs on the CPU", "MB")
    if held_mb is not None:
        method = "memory the process holds after the timing, its context included (NVML)"
        return Quantity(held_mb, "MB", n=1, provenance="measured", method=method)
    if allocated_mb is not None:
        method = "most that the runtime's allocator reserved by the first call, without its context"
        return Quantity(allocated_mb, "MB", n=1, provenance="measured", method=method)
    return Quantity.missing("NVML does not see the process, and the runtime does not say", "MB")
