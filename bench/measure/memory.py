"""Peak memory of a worker (:mod:`bench.agent.memory`) as quantities."""

from __future__ import annotations

from dataclasses import replace

from bench.types import Quantity

WHOLE = "from load to the end of the steady state"
PART_WORDS = {"load": "while loading", "first": "in the first call", "steady": "in warm-up and steady state"}
KIB_PER_MB = 1000.0 / 1.024
"""KiB in a megabyte of 10^6 bytes: 976.5625."""


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
    """The peak minus what was held after the runtime's import, in MB (10^6 bytes)."""
    if peak_kb is None or baseline_kb is None:
        return Quantity.missing(
            "this system does not tell what a process holds (/proc/PID/smaps_rollup)", "MB"
        )
    if peak_kb < baseline_kb:
        return Quantity.missing("less was held during the cell than with the runtime alone", "MB")
    return Quantity(
        value=(peak_kb - baseline_kb) / KIB_PER_MB,
        unit="MB",
        n=1,
        provenance="measured",
        method=f"peak resident set {WHOLE}, minus that after the runtime's import",
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
