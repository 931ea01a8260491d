"""One cell from several fresh processes: measured one after the other, their figures put together.

Two processes of one program differ by more than the calls of one process tell (where their memory fell, what the other
guests of the machine did), so only several of them say how sure a median is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure.latency import PERCENTILES, images_timed, throughput
from bench.measure.modes import modes
from bench.measure.power import per_image
from bench.measure.power.codecarbon import carbon
from bench.runtimes.base import CellJob, Runtime, WorkerResult
from bench.stats import NEXT_RUN, process_interval
from bench.types import Json, Notify, Quantity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.hosts.base import Host
    from bench.measure.power import EnergySource
    from bench.runtimes.worker import Worker

ONCE = ("first_call_ms", "load_ms", "memory_mb", "device_memory_mb")
VARYING = ("latency_ms", *PERCENTILES, *ONCE, "energy_mj")


def measure_processes(
    runtime: Runtime,
    job: CellJob,
    host: Host,
    notify: Notify,
    start: Callable[[int], Worker | None] = lambda _: None,
    energy: EnergySource | None = None,
) -> WorkerResult:
    """Measure a cell in ``job.protocol.processes`` fresh processes; the first also predicts.

    Args:
        start: ``start(i)`` gives the worker of process i, when one was started ahead.

    A process that the machine disturbed (see :func:`bench.measure.disturbance.compare`) is measured again, up to half as
    many times as there are processes; what is left out is counted in the notes, what must be kept marks the cell.

    Returns:
        One result: ``samples`` is an ``.npz`` with an array ``process_0``, ... of each (seconds per call). When a process
        fails, its result is the cell's.

    Raises:
        WorkerError: see :meth:`bench.runtimes.base.Runtime.measure`.
    """
    count = job.protocol.processes
    share = replace(job.protocol, max_seconds=job.protocol.max_seconds / count)
    good: list[WorkerResult] = []
    disturbed: list[WorkerResult] = []
    outputs: Path | None = None
    for i in range(count + count // 2):
        notify("process", {"n": len(good) + 1, "of": count})
        folder = job.outdir / f"process_{i}"
        folder.mkdir(parents=True, exist_ok=True)
        own = replace(job, outdir=folder, predict=job.predict and i == 0, protocol=share)
        result = runtime.measure(own, host, notify, worker=start(i), energy=energy)
        if result.status != "ok":
            return result
        outputs = outputs or result.outputs
        (disturbed if marks(result) and count > 1 else good).append(result)
        if len(good) == count:
            break
    kept = good + disturbed[: count - len(good)]
    return replace(combine(kept, job, disturbed[count - len(good) :]), outputs=outputs)


def marks(result: WorkerResult) -> tuple[str, ...]:
    """What disturbed the machine while a process was timed, one sentence each."""
    return tuple((result.runtime.get("disturbance") or {}).get("marks", ()))


def combine(
    results: Sequence[WorkerResult], job: CellJob, dropped: Sequence[WorkerResult] = ()
) -> WorkerResult:
    """The figures of a cell from those of its processes (all of them ok); ``dropped`` are only told of."""
    import numpy as np

    first = results[0]
    arrays = [np.load(r.samples, allow_pickle=False) for r in results if r.samples is not None]
    samples = job.outdir / "samples.npz"
    np.savez(samples, **{f"process_{i}": a for i, a in enumerate(arrays)})
    metrics = dict(first.metrics)
    if len(results) > 1:
        metrics["latency_ms"] = _over(
            results, "latency_ms", max(map(_half_width, results)), f"n calls: {_counts(arrays)}"
        )
        metrics |= {name: _over(results, name) for name in (*PERCENTILES, *ONCE) if name in metrics}
        metrics["throughput_ips"] = throughput(metrics["latency_ms"], job.batch)
        if all(r.window is not None for r in results):
            metrics["energy_mj"] = per_image(
                [r.window for r in results if r.window is not None],
                [images_timed(len(a), job.batch, r.runtime) for a, r in zip(arrays, results, strict=True)],
            )
    metrics["carbon_ug"] = _carbon(metrics["energy_mj"])
    return replace(
        first,
        metrics=metrics,
        samples=samples,
        stopped="interval" if all(r.stopped == "interval" for r in results) else "cap",
        seconds=_sum([r.seconds for r in results]),
        runtime={**first.runtime, "processes": [_own(r, a) for r, a in zip(results, arrays, strict=True)]},
        notes=tuple(
            dict.fromkeys([*(n for r in results for n in r.notes), *_heaps(arrays), *_told(results, dropped)])
        ),
    )


def _carbon(energy: Quantity) -> Quantity:
    """Micrograms of CO2 equivalent an image, from its energy in mJ."""
    grams = carbon(_scaled(energy, 1e-3, "J"))
    return _scaled(grams, 1e6, "ug CO2e/image")


def _scaled(q: Quantity, factor: float, unit: str) -> Quantity:
    if q.value is None:
        return replace(q, unit=unit)
    low, high = (None if end is None else end * factor for end in (q.low, q.high))
    return replace(q, value=q.value * factor, low=low, high=high, unit=unit)


def _over(results: Sequence[WorkerResult], name: str, within: float = 0.0, more: str = "") -> Quantity:
    """A metric over the processes: the median of theirs, and where another run's would fall."""
    found = [r.metrics[name] for r in results]
    values = [q.value for q in found if q.value is not None]
    if len(values) < len(found) or len(values) < 2 or min(values) <= 0:
        lost = next((q for q in found if q.value is None), found[0])
        return (
            lost
            if lost.value is None
            else replace(lost, method=f"{lost.method}; the first of {len(found)} processes")
        )
    value, low, high = process_interval(values, within=within)
    told = f"; {more}" if more else ""
    method = f"median of {len(values)} processes, each: {found[0].method}{told}; {NEXT_RUN}"
    return Quantity(value, found[0].unit, low, high, len(values), found[0].provenance, method)


def _half_width(result: WorkerResult) -> float:
    """Of the median latency's interval, relative, from the calls of one process; 0 where they give none."""
    q = result.metrics["latency_ms"]
    return (q.high - q.low) / 2 / q.value if q.value and q.low is not None and q.high is not None else 0.0


def _counts(arrays: Sequence[NDArray[np.float64]]) -> str:
    return ", ".join(str(len(a)) for a in arrays)


def _sum(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(p.get(name, 0.0) for p in parts) for name in dict.fromkeys(k for p in parts for k in p)}


def _own(result: WorkerResult, samples: NDArray[np.float64]) -> Json:
    """What is kept of one process beside its samples. ``values`` are those of metrics that differ between processes."""
    from bench.agent.timing import dependence

    kept: dict[str, Any] = {
        k: result.runtime.get(k) for k in ("baseline_kb", "energy", "disturbance", "memory_parts_mb")
    }
    return {
        "values": {name: result.metrics[name].value for name in VARYING if name in result.metrics},
        "half_width": _half_width(result),
        "calls": len(samples),
        "calls_per_independent": round(dependence(samples), 2),
        "stopped": result.stopped,
        **{k: v for k, v in kept.items() if v is not None},
    }


def _heaps(arrays: Sequence[NDArray[np.float64]]) -> list[str]:
    """A note for each process whose samples lie in heaps: one median is not the whole story then."""
    notes = []
    for i, samples in enumerate(arrays, 1):
        found = modes(samples)
        if len(found) > 1:
            heaps = ", ".join(f"{share:.0%} near {value * 1e3:.3g} ms" for value, share in found)
            notes.append(
                f"the calls of process {i} lie in {len(found)} heaps: {heaps} (two clocks, or a neighbour)"
            )
    return notes


def _told(kept: Sequence[WorkerResult], dropped: Sequence[WorkerResult]) -> list[str]:
    """Notes on processes that the machine disturbed."""
    notes = []
    for results, fate in ((dropped, "left out, disturbed"), (kept, "disturbed")):
        found = [m for r in results for m in marks(r)[:1]]
        if found:
            of = f"{len(found)} of {len(kept) + len(dropped)} processes {fate}"
            notes.append(f"{of}: {found[0]}{' ...' if len(set(found)) > 1 else ''}")
    return notes
