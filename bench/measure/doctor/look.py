"""A look at this machine, for `bench doctor`: everything it judges, read once. Nothing here grades."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import disturbance, environment, gpu, power, system
from bench.measure.system import ROOT, read
from bench.runtimes.base import Probe
from bench.types import Json

SECONDS = 0.5
"""How long the machine is watched."""
READINGS = 500
EXTRAS = {"mlcommons-loadgen": ("mlperf_loadgen", "loadgen")}
"""Optional packages besides the runtimes and energy sources: module, extra of our package."""


@dataclass(frozen=True)
class Timer:
    """The clock that times: its source, the cost of a reading and its smallest step, both in ns."""

    source: str
    available: tuple[str, ...]
    reading_ns: float
    step_ns: float


@dataclass(frozen=True)
class Look:
    """What was read.

    Attributes:
        environment: :func:`bench.measure.environment.describe`.
        window: what happened during ``SECONDS`` of doing nothing.
        busiest: (process id, name, cores used) of the busiest other processes, busiest first.
        throttles: heat events since boot of the most affected CPU; None: not counted.
        quota_file: the file that limits our CPUs, and whether we may write it.
        probes: (kind, name, probe), kind being ``runtime``, ``package``, ``cpu energy`` or
            ``cuda energy``.
        gpu_users: (GPU's index, process id) of what computes there.
        nvidia: is the driver of an NVIDIA GPU loaded?
        free_gb: room on the file system of the present folder, in GB (10^9 bytes).
        smaps: can a worker's memory be read?
        superuser: commands need no ``sudo``.
    """

    environment: Json
    window: disturbance.Disturbance
    busiest: tuple[tuple[int, str, float], ...]
    throttles: int | None
    quota_file: Path | None
    quota_writable: bool
    probes: tuple[tuple[str, str, Probe], ...]
    gpu_users: tuple[tuple[int, int], ...]
    nvidia: bool
    timer: Timer
    free_gb: float
    smaps: bool
    superuser: bool


def look_around(root: Path = ROOT, folder: Path | None = None, seconds: float = SECONDS) -> Look:
    """Look at the machine for ``seconds``, asleep; everything else takes a few tenths of a second."""
    from bench.runtimes.local import nvidia_device

    folder = folder or Path.cwd()
    window, busiest = _watch(root, seconds)
    nvidia = nvidia_device()
    quota_file = system.cpu_limit(root)[1]
    return Look(
        environment=environment.describe(folder, root),
        window=window,
        busiest=busiest,
        throttles=max(system.throttle_counts(root).values(), default=None),
        quota_file=quota_file,
        quota_writable=quota_file is not None and os.access(quota_file, os.W_OK),
        probes=(*_runtimes(), *_packages(), *_energy(root, ("cpu", "cuda") if nvidia else ("cpu",))),
        gpu_users=_gpu_users(),
        nvidia=nvidia,
        timer=_timer(root),
        free_gb=shutil.disk_usage(folder).free / 1e9,
        smaps="Pss:" in read(root / "proc/self/smaps_rollup"),
        superuser=hasattr(os, "geteuid") and os.geteuid() == 0,
    )


def _watch(root: Path, seconds: float) -> tuple[disturbance.Disturbance, tuple[tuple[int, str, float], ...]]:
    first, before = _cpu_by_process(root), disturbance.snapshot(root=root)
    time.sleep(seconds)
    after, last = disturbance.snapshot(root=root), _cpu_by_process(root)
    used = ((pid, last[pid] - spent) for pid, spent in first.items() if pid in last and pid != os.getpid())
    busy = sorted(((cpu / seconds, pid) for pid, cpu in used if cpu > 2 * system.TICK), reverse=True)[:3]
    names = tuple((pid, read(root / f"proc/{pid}/comm") or "?", cores) for cores, pid in busy)
    return disturbance.compare(before, after), names


def _cpu_by_process(root: Path) -> dict[int, float]:
    try:
        pids = [int(p.name) for p in (root / "proc").iterdir() if system.integer(p.name) is not None]
    except OSError:
        return {}
    times = ((pid, system.process_cpu(pid, root)) for pid in pids)
    return {pid: spent for pid, spent in times if spent is not None}


def _timer(root: Path) -> Timer:
    """Readings in a row: the quietest of a few series gives the cost of one, their smallest distance the step."""
    series = [[time.perf_counter_ns() for _ in range(READINGS)] for _ in range(5)]
    steps = {b - a for values in series for a, b in itertools.pairwise(values)} - {0}
    sources = root / "sys/devices/system/clocksource/clocksource0"
    return Timer(
        source=read(sources / "current_clocksource"),
        available=tuple(read(sources / "available_clocksource").split()),
        reading_ns=min(values[-1] - values[0] for values in series) / (READINGS - 1),
        step_ns=float(min(steps)) if steps else time.get_clock_info("perf_counter").resolution * 1e9,
    )


def _runtimes() -> list[tuple[str, str, Probe]]:
    from bench import runtimes
    from bench.hosts import open_host

    host = open_host("local")
    return [("runtime", name, runtimes.get(name).probe(host)) for name in runtimes.names()]


def _packages() -> list[tuple[str, str, Probe]]:
    found = []
    for name, (module, extra) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            remedy = f'Install it with: pip install "edgefit[{extra}]"'
            probe = Probe(False, reason=f"the package {name} is not installed", remedy=remedy)
        else:
            probe = Probe(True, version=importlib.metadata.version(name))
        found.append(("package", name, probe))
    return found


def _energy(root: Path, devices: tuple[str, ...]) -> list[tuple[str, str, Probe]]:
    """Every energy source of these devices."""
    return [(f"{d} energy", name, probe) for d in devices for name, probe in power.probes(d, root)]


def _gpu_users() -> tuple[tuple[int, int], ...]:
    nvml, _ = gpu.open_nvml()
    if nvml is None:
        return ()
    try:
        return tuple(nvml.processes())
    finally:
        nvml.close()
