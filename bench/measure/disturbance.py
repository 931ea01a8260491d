"""What disturbed a timing: the machine's own counters, read once before and once after it.

Nothing is sampled while calls are timed. Counters that only grow (CPU time, stolen time, throttle
events, time held back) cover the whole window with two readings; clocks are the two moments only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import system
from bench.measure.gpu import HARMLESS, Nvml
from bench.measure.system import ROOT, TICK, CpuTime, read
from bench.types import Json

SHORTEST = 0.2
"""Seconds: the kernel counts CPU time in ticks of 10 ms, so shares of a shorter window are mostly rounding."""
TAKEN = 0.02
"""Share of the wanted CPU time that may be lost (to the hypervisor, to waiting for a CPU) without a mark.
Lost time lengthens calls by at most its share; twice the 1% to which the median is known by default."""
OTHERS = 0.05
"""Share of the machine that other processes may use: they take cache, memory bandwidth and turbo, not our CPUs."""
OTHERS_CORES = 1.0
"""... and at most this many cores, however many there are."""
SLOWER = 0.05
"""Relative fall of the fastest core's clock; two readings on a steady clock differ by 1-2%."""
STALLED = 0.01
"""Share of the window in which something waited for memory (swap, reclaim), or a GPU's clock was held down."""
VIRTUAL = "the clock is not visible inside a virtual machine"


@dataclass(frozen=True)
class Snapshot:
    """The machine's counters at one moment; what could not be read is None or empty."""

    at: float
    cpu: CpuTime | None
    own: float | None
    waited: float | None
    mhz: tuple[float, ...]
    throttles: dict[str, int]
    pressure: dict[str, float | None]
    quota_waited: float | None
    hypervisor: str | None
    undervoltage: bool | None = None
    gpus: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class Disturbance:
    """What happened to the machine during one timing. None: see ``unread`` for the reason.

    Attributes:
        seconds: between the two snapshots.
        cores: CPUs that this process may use; the shares are of these.
        own_cores: CPUs' worth of time that the worker itself used.
        other_cores: the same of everything else, the kernel and our own engine included.
        steal_share: time taken by the hypervisor, of the time somebody wanted a CPU.
        waited_share: time the worker's threads were ready but had no CPU, of the time they wanted one.
        cpu_pressure, memory_pressure: share of the window in which some task of the machine waited
            for a CPU (the worker's niced neighbours count too, so this is never a mark) or for memory.
        quota_seconds: time that a CPU quota of the control group held everything back; None without a quota.
        mhz_before, mhz_after: the fastest core's clock at the two moments.
        throttles: heat events of the most affected CPU.
        undervoltage: the supply was too weak at either moment (Raspberry Pi).
        gpus: per GPU ``sm_mhz_before``, ``sm_mhz_after``, ``reasons`` (at either moment), and
            ``held_share`` by power and heat, of the window.
        unread: what is not known -> why.
        marks: what a reader of the number must know, one sentence each; empty: nothing was seen.
    """

    seconds: float
    cores: int | None
    own_cores: float | None
    other_cores: float | None
    steal_share: float | None
    waited_share: float | None
    cpu_pressure: float | None
    memory_pressure: float | None
    quota_seconds: float | None
    mhz_before: float | None
    mhz_after: float | None
    throttles: int | None
    undervoltage: bool | None
    gpus: tuple[Json, ...]
    unread: dict[str, str]
    marks: tuple[str, ...] = ()


def snapshot(
    *pids: int,
    nvml: Nvml | None = None,
    root: Path = ROOT,
    cpus: Collection[int] | None = None,
) -> Snapshot:
    """Read the counters: about a millisecond on two cores, some 50 us more per CPU; with ``nvml`` some ms more.

    Args:
        pids: the worker's processes, whose CPU time is its own; none: this process.
        nvml: an open :class:`bench.measure.gpu.Nvml`, for cells that run on a GPU.
        root: where /proc and /sys are.
        cpus: the CPUs to look at; default: those this process may run on (its cpuset).
    """
    pids = pids or (os.getpid(),)
    if cpus is None and hasattr(os, "sched_getaffinity"):
        cpus = os.sched_getaffinity(0)
    text = read(root / "proc/cpuinfo")
    return Snapshot(
        at=time.perf_counter(),
        cpu=system.cpu_time(read(root / "proc/stat"), cpus),
        own=_total(system.process_cpu(pid, root) for pid in pids),
        waited=_total(system.process_waited(pid, root) for pid in pids),
        mhz=system.core_mhz(root, text),
        throttles=system.throttle_counts(root),
        pressure={k: system.pressure(read(root / f"proc/pressure/{k}")) for k in ("cpu", "memory")},
        quota_waited=system.quota_waited(root),
        hypervisor=system.hypervisor(root, text),
        undervoltage=system.undervoltage(root),
        gpus=nvml.state() if nvml else [],
    )


def _total(found: Iterable[float | None]) -> float | None:
    """Of what is known; None where nothing is."""
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if known else None


def compare(before: Snapshot, after: Snapshot) -> Disturbance:
    """What the window between two snapshots saw, and the marks it earns. Microseconds; reads nothing.

    A mark is set when the hypervisor took, or the worker waited for a CPU, more than ``TAKEN`` of
    the time wanted; others used more than ``OTHERS`` of the machine (at most ``OTHERS_CORES``); the fastest
    clock fell by more than ``SLOWER``; memory stalled for more than ``STALLED``; a GPU was held back for more than
    ``STALLED``; any throttle event; any time held back by a quota. One tick of rounding is allowed for.
    """
    window = after.at - before.at
    unread: dict[str, str] = {}
    found = Disturbance(
        seconds=window,
        cores=after.cpu.cpus if after.cpu else None,
        **_cpu_shares(before, after, window, unread),
        **_clocks(before, after, unread),
        undervoltage=_undervoltage(before, after, unread),
        gpus=tuple(_gpu(b, a, window) for b, a in zip(before.gpus, after.gpus, strict=False)),
        unread=unread,
    )
    return Disturbance(**{**vars(found), "marks": _marks(found)})


def _cpu_shares(before: Snapshot, after: Snapshot, window: float, unread: dict[str, str]) -> Json:
    found: Json = dict.fromkeys(
        (
            "own_cores",
            "other_cores",
            "steal_share",
            "waited_share",
            "cpu_pressure",
            "memory_pressure",
            "quota_seconds",
        )
    )
    if window < SHORTEST:
        return found | _note(unread, found, f"the timing was shorter than {SHORTEST} s")
    own, waited = _grown(before.own, after.own), _grown(before.waited, after.waited)
    for kind in ("cpu", "memory"):
        stalled = _grown(before.pressure.get(kind), after.pressure.get(kind))
        if stalled is None:
            unread[f"{kind}_pressure"] = f"/proc/pressure/{kind} is not there (CONFIG_PSI)"
        else:
            found[f"{kind}_pressure"] = min(1.0, stalled / window)
    found["quota_seconds"] = _grown(before.quota_waited, after.quota_waited)
    if found["quota_seconds"] is None:
        unread["quota_seconds"] = "no CPU quota is set, or its counters cannot be read"
    if own is None:
        _note(unread, ("own_cores", "other_cores", "waited_share"), "the worker's CPU time cannot be read")
    else:
        found["own_cores"] = own / window
        if waited is None:
            unread["waited_share"] = "/proc/PID/task/*/schedstat cannot be read"
        elif own + waited > 0:
            found["waited_share"] = waited / (own + waited)
        else:
            unread["waited_share"] = "the worker wanted no CPU"
    return found | _machine_shares(before, after, own, window, unread)


def _machine_shares(
    before: Snapshot, after: Snapshot, own: float | None, window: float, unread: dict[str, str]
) -> Json:
    first, last = before.cpu, after.cpu
    if first is None or last is None or first.cpus != last.cpus:
        return _note(unread, ("other_cores", "steal_share"), "the CPUs' time in /proc/stat cannot be read")
    busy, stolen = max(0.0, last.busy - first.busy), max(0.0, last.stolen - first.stolen)
    found: Json = {}
    if own is not None:
        found["other_cores"] = max(0.0, busy - own) / window
    if not last.reported(after.hypervisor):
        unread["steal_share"] = "this hypervisor reports no stolen time"
    elif busy + stolen > 0:
        found["steal_share"] = stolen / (busy + stolen)
    else:
        unread["steal_share"] = "nobody wanted a CPU"
    return found


def _clocks(before: Snapshot, after: Snapshot, unread: dict[str, str]) -> Json:
    found: Json = {"mhz_before": None, "mhz_after": None, "throttles": None}
    if after.hypervisor is not None:
        _note(unread, found, VIRTUAL)
        return found
    if before.mhz and after.mhz:
        found |= {"mhz_before": max(before.mhz), "mhz_after": max(after.mhz)}
    else:
        _note(unread, ("mhz_before", "mhz_after"), "neither /proc/cpuinfo nor cpufreq shows the clock")
    events = [after.throttles[k] - n for k, n in before.throttles.items() if k in after.throttles]
    if events:
        found["throttles"] = max(0, *events)
    else:
        unread["throttles"] = "the kernel counts no throttle events (only x86 does)"
    return found


def _gpu(before: Json, after: Json, window: float) -> Json:
    reasons = None
    if before["reasons"] is not None and after["reasons"] is not None:
        reasons = sorted({*before["reasons"], *after["reasons"]} - set(HARMLESS))
    held = {what: _grown(before["held"][what], after["held"][what]) for what in after["held"]}
    return {
        "sm_mhz_before": before["sm_mhz"],
        "sm_mhz_after": after["sm_mhz"],
        "reasons": reasons,
        "held_share": {k: None if v is None or window <= 0 else v / window for k, v in held.items()},
    }


def _marks(d: Disturbance) -> tuple[str, ...]:
    tick = TICK / d.seconds if d.seconds > 0 else 1.0
    marks = []
    if d.steal_share is not None and d.steal_share > TAKEN + tick / max(_wanted(d), tick):
        marks.append(f"the hypervisor took {d.steal_share:.0%} of the CPU time during the timing")
    if d.waited_share is not None and d.waited_share > TAKEN:
        marks.append(f"the worker waited for a CPU for {d.waited_share:.0%} of its time")
    allowed = min(OTHERS_CORES, OTHERS * (d.cores or 1)) + 2 * tick
    if d.other_cores is not None and d.other_cores > allowed:
        marks.append(f"other processes used {d.other_cores:.1f} of {d.cores} cores")
    if d.quota_seconds:
        marks.append(f"a CPU quota of the control group held the worker back for {d.quota_seconds:.2f} s")
    if d.memory_pressure is not None and d.memory_pressure > STALLED:
        marks.append(f"processes waited for memory {d.memory_pressure:.0%} of the time")
    if d.throttles:
        marks.append(f"the CPU throttled {d.throttles} time{'s' * (d.throttles > 1)} from heat")
    if d.undervoltage:
        marks.append("the power supply was too weak: the board caps its clock then")
    if d.mhz_before and d.mhz_after and d.mhz_after < d.mhz_before * (1 - SLOWER):
        marks.append(f"the CPU's clock fell from {d.mhz_before:.0f} to {d.mhz_after:.0f} MHz")
    return (*marks, *(mark for index, gpu in enumerate(d.gpus) for mark in _gpu_marks(index, gpu)))


def _gpu_marks(index: int, gpu: Json) -> list[str]:
    known = {what: share for what, share in gpu["held_share"].items() if share is not None}
    if known:
        return [
            f"{what} held GPU {index}'s clock back for {share:.0%} of the timing"
            for what, share in known.items()
            if share > STALLED
        ]
    return [f"GPU {index}'s clock was held back: {', '.join(gpu['reasons'])}"] if gpu["reasons"] else []


def _wanted(d: Disturbance) -> float:
    """CPUs' worth of time that somebody wanted, from what was got and the share that was stolen."""
    got = (d.own_cores or 0.0) + (d.other_cores or 0.0)
    return got / (1 - d.steal_share) if d.steal_share is not None and d.steal_share < 1 else got


def _undervoltage(before: Snapshot, after: Snapshot, unread: dict[str, str]) -> bool | None:
    seen = [s.undervoltage for s in (before, after) if s.undervoltage is not None]
    if not seen:
        unread["undervoltage"] = "only a Raspberry Pi says whether its supply is strong enough"
    return any(seen) if seen else None


def _grown(before: float | None, after: float | None) -> float | None:
    """How much a counter grew; counters that went back (a sleeping CPU's may) have not grown."""
    return None if before is None or after is None else max(0.0, after - before)


def _note(unread: dict[str, str], names: Collection[str], reason: str) -> Json:
    unread.update(dict.fromkeys(names, reason))
    return {}
