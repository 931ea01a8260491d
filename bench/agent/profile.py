"""Where the time of a call goes: the runtime's own profiler, beside the same calls without it.

Both kinds of calls alternate in one process, a few at a time, so that they meet the same clocks and neighbours: what the
profiler itself costs is their difference.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List

import numpy as np

from .backends.profiled import open_profiled

Json = Dict[str, Any]
WARM = 5
BLOCK = 10
"""Calls of one kind in a row."""


def middle_mean(values: List[float]) -> float:
    """Mean of the middle half: interrupted calls do not count, and whole microseconds average out."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    return float(ordered[n // 4 : n - n // 4].mean()) if n else 0.0


def run(measurement: Any, asked: Json) -> None:
    """The result's ``profile``: ``rows`` (:mod:`.backends.profiled`; ``us`` is a mean), ``plain_ms`` and ``profiled_ms`` of each call.

    Args:
        measurement: a :class:`bench.agent.__main__.Measurement` whose artifact is loaded and was called once.
        asked: ``seconds`` of all calls together, and ``most`` and ``least`` calls of either kind.
    """
    job = measurement.job
    measurement.enter("profile")
    profiled = open_profiled(job["runtime"])
    profiled.load(job["artifact"], job["threads"], job["device"])
    profiled.shape = measurement.spec["shape"]
    profiled.set_batch(job["batch"])
    plain_ms: List[float] = []
    profiled_ms: List[float] = []
    values = measurement.batches[0]
    sides = [
        (measurement.backend, measurement.backend.prepare(values), plain_ms),
        (profiled, profiled.prepare(values), profiled_ms),
    ]
    for backend, prepared, _ in sides:
        backend.feed(prepared)
        for _ in range(WARM):
            backend.call()
    profiled.start()
    end = time.perf_counter() + asked["seconds"]
    while len(profiled_ms) < asked["most"] and (
        len(profiled_ms) < asked["least"] or time.perf_counter() < end
    ):
        for backend, prepared, took in sides:
            backend.feed(prepared)
            for _ in range(min(BLOCK, asked["most"] - len(took))):
                start = time.perf_counter_ns()
                backend.call()
                passed = (time.perf_counter_ns() - start) * 1e-6
                own = backend.took()
                took.append(passed if own is None else own * 1e3)
    rows = [{**row, "us": middle_mean(row["us"])} for row in profiled.rows()]
    measurement.result["profile"] = {
        "profiler": profiled.profiler,
        "cut_us": profiled.cut_us,
        "rows": rows,
        "plain_ms": plain_ms,
        "profiled_ms": profiled_ms,
    }
