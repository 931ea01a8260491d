"""From a worker's raw samples to quantities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.stats import quantile_interval
from bench.types import Json, Quantity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = Sequence[float] | NDArray[np.float64]

METRICS = [
    "latency_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "throughput_ips",
    "first_call_ms",
    "load_ms",
    "memory_mb",
    "device_memory_mb",
    "energy_mj",
    "size_bytes",
]
"""The metrics every measured cell has, present or missing."""
PERCENTILES = ("p90_ms", "p95_ms", "p99_ms")
UNITS = {name: unit for name in METRICS for end, unit in (("_ms", "ms"), ("_ips", "images/s"), ("_mb", "MB"),
         ("_mj", "mJ/image"), ("_bytes", "bytes")) if name.endswith(end)}  # fmt: skip


def latency(samples: Floats, batch: int) -> dict[str, Quantity]:
    """Median and percentiles of one call in ms, and throughput of one stream in images/s.

    Intervals are distribution-free (order statistics, :func:`bench.stats.quantile_interval`) and wider where calls
    depend on each other (:func:`bench.agent.timing.dependence`); they describe the calls of one process, not
    the spread between processes (:mod:`bench.measure.processes`). A percentile whose
    interval the sample count cannot support is missing. Throughput is ``batch / median``.
    """
    import numpy as np

    from bench.agent.timing import dependence

    found: dict[str, Quantity] = {}
    n = len(samples)
    for name, q in (("latency_ms", 0.5), ("p90_ms", 0.9), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        weight = dependence(np.asarray(samples), q)
        bounds = quantile_interval(samples, q, weight=weight)
        what = "median" if q == 0.5 else f"{q:.0%} quantile"
        if bounds is None:
            worth = f", worth {n / weight:.0f} independent ones," if weight > 1.1 else ""
            found[name] = Quantity.missing(
                f"{n} samples{worth} cannot support a 95% interval of the {what}", "ms"
            )
            continue
        value, low, high = (b * 1e3 for b in bounds)
        method = f"{what} of steady-state calls in one process; order-statistic interval over its iterations"
        found[name] = Quantity(value, "ms", low, high, n, "measured", method)
    found["throughput_ips"] = throughput(found["latency_ms"], batch)
    return found


def throughput(latency_ms: Quantity, batch: int) -> Quantity:
    """Images per second of one stream of calls: ``batch / median``."""
    if latency_ms.value is None or latency_ms.low is None or latency_ms.high is None:
        return Quantity.missing(latency_ms.reason, "images/s")
    return Quantity(
        value=batch * 1e3 / latency_ms.value,
        unit="images/s",
        low=batch * 1e3 / latency_ms.high,
        high=batch * 1e3 / latency_ms.low,
        n=latency_ms.n,
        provenance="measured",
        method="batch / median call, one stream",
    )


def once_ms(seconds: float | None, what: str) -> Quantity:
    """Something that happens once in a process, in ms, without an interval."""
    if seconds is None:
        return Quantity.missing(f"{what} was not reached", "ms")
    return Quantity(
        seconds * 1e3, "ms", n=1, provenance="measured", method=f"{what}, once, in a fresh process"
    )


def images_timed(samples: int, batch: int, said: Json) -> int:
    """Images that a process's samples stand for; ``said`` is what its runtime said of itself."""
    return samples * batch * int(said.get("calls_per_sample", 1))


def all_missing(reason: str) -> dict[str, Quantity]:
    """Every metric of a cell, missing for one reason."""
    return {name: Quantity.missing(reason, UNITS[name]) for name in METRICS}
