"""The one timing loop: warm-up until the drift is gone, then samples until the median is known."""

from __future__ import annotations

import gc
import math
import time
from array import array
from typing import Callable, List, Optional, Sequence, Tuple, Union

import numpy as np

Z = 1.959964
"""The normal deviate of a two-sided 95% interval."""
MIN_SAMPLES = 6
"""Fewer samples have no 95% order-statistic interval of the median."""
WARMUP_CAP = 3.0
"""A warm-up lasts at most this many times the time asked for."""
MIN_SECONDS = 0.3
"""A machine's own noise lasts tenths of a second: a shorter steady state sees one mood of it."""
PROGRESS_SECONDS = 0.5
BATCHES = 20
LEAST_PER_BATCH = 4
Sample = Union[float, Sequence[float]]
"""Seconds of one call, or of some calls in a row where the runtime makes and times them itself."""


def dependence(samples: np.ndarray, q: float = 0.5) -> float:
    """How many calls in a row tell as much about the ``q``-quantile as one independent call; at least 1.

    Neighbouring calls share clocks, caches and neighbours, so n calls are worth n / dependence. The
    variance of the share of calls below the quantile, over 20 batches in a row, against that of independent
    calls (batch means for quantiles: Schmeiser, *Batch size effects*, Operations Research 30, 1982). Below 80
    samples it cannot be told and is taken as 1.
    """
    size = len(samples) // BATCHES
    if size < LEAST_PER_BATCH:
        return 1.0
    below = samples[: size * BATCHES] <= np.quantile(samples, q)
    share = float(below.mean())
    if not 0.0 < share < 1.0:
        return 1.0
    between = float(below.reshape(BATCHES, size).mean(axis=1).var(ddof=1))
    return max(1.0, size * between / (share * (1.0 - share)))


def median_ranks(n: int, weight: float = 1.0) -> Optional[Tuple[int, int]]:
    """0-based ranks of the order statistics that bound the median at 95%, or None when n < 6.

    The distribution-free interval from the binomial(n, 1/2) quantiles, in its normal
    approximation (Conover, *Practical Nonparametric Statistics*, 3rd ed., section 3.2), for n samples of which
    ``weight`` (:func:`dependence`) count as one. It decides when to stop; the reported interval is computed
    from the samples with exact quantiles.
    """
    if n < MIN_SAMPLES:
        return None
    spread = Z * math.sqrt(n * weight) / 2.0
    low = max(0, math.floor(n / 2.0 - spread))
    high = min(n - 1, math.ceil(n / 2.0 + spread))
    return low, high


def half_width(samples: "array[float]") -> float:
    """Half the width of the median's interval relative to the median; infinite when n < 6."""
    values = np.frombuffer(samples) if samples else np.empty(0)
    ranks = median_ranks(len(values), dependence(values))
    if ranks is None:
        return math.inf
    ordered = np.sort(values)
    return float((ordered[ranks[1]] - ordered[ranks[0]]) / 2.0 / max(np.median(ordered), 1e-12))


def _add(samples: "array[float]", found: Sample) -> None:
    if isinstance(found, float):
        samples.append(found)
    else:
        samples.extend(found)


def warm_up(step: Callable[[], Sample], seconds: float, tolerance: float) -> Tuple[np.ndarray, bool]:
    """Call ``step`` (which returns its seconds) until it no longer gets faster or slower.

    Windows last a third of ``seconds``. The warm-up ends after ``seconds`` when the medians of
    the last two windows are within ``tolerance`` of each other, or after three times ``seconds``.

    Returns:
        The samples, and whether the drift was gone at the end.
    """
    samples = array("d")
    medians: List[float] = []
    start = time.perf_counter()
    while True:
        window = array("d")
        window_end = time.perf_counter() + seconds / 3.0
        while not window or time.perf_counter() < window_end:
            _add(window, step())
        samples.extend(window)
        medians.append(float(np.median(np.frombuffer(window))))
        passed = time.perf_counter() - start
        settled = len(medians) > 1 and abs(medians[-1] - medians[-2]) <= tolerance * medians[-2]
        if (settled and passed >= seconds) or passed >= WARMUP_CAP * seconds:
            return np.array(samples), settled


def steady(
    step: Callable[[], Sample],
    target: float,
    min_runs: int,
    max_seconds: float,
    progress: Callable[[int, float, float], None],
    least_seconds: float = 0.0,
    turn_seconds: float = 0.0,
    rest: Callable[[int], None] = lambda _: None,
) -> Tuple[np.ndarray, str]:
    """Sample until the median's interval is narrow, or the cap is reached.

    Args:
        step: one timed call, or some in a row; returns their seconds.
        target: stop once the relative half-width of the median's 95% interval is at most this ...
        min_runs: ... and at least this many samples are there, taken over at least 0.3 s.
        max_seconds: the cap; at least 6 samples are taken, so that an interval exists.
        least_seconds: what an energy meter needs; goes before ``max_seconds``.
        progress: called about twice a second between chunks with (n, median, half-width).
        turn_seconds: 0, or ``rest(n)`` is called whenever so much time was measured; what passes there is not counted.

    Returns:
        The samples, and ``interval`` or ``cap``: what ended it.
    """
    samples = array("d")  # 8 bytes each: a list of floats would show in the memory measured
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    start = last = time.perf_counter()
    earliest = start + max(min(MIN_SECONDS, max_seconds), least_seconds)
    deadline = max(earliest, start + max_seconds)
    turn = start + turn_seconds if turn_seconds else math.inf
    try:
        while True:
            # Looking at the samples costs time and cache: look when n has grown by a quarter.
            enough = len(samples) + max(min_runs, len(samples) // 4, MIN_SAMPLES)
            while len(samples) < enough:
                _add(samples, step())
                now = time.perf_counter()
                if now >= deadline and len(samples) >= MIN_SAMPLES:
                    break
                if now >= turn:
                    rest(len(samples))
                    back = time.perf_counter()
                    earliest, deadline, last = (t + back - now for t in (earliest, deadline, last))
                    turn = back + turn_seconds
            width = half_width(samples)
            now = time.perf_counter()
            if width <= target and len(samples) >= min_runs and now >= earliest:
                return np.array(samples), "interval"
            if now >= deadline:
                return np.array(samples), "cap"
            if now - last >= PROGRESS_SECONDS:
                progress(len(samples), float(np.median(np.frombuffer(samples))), width)
                last = now
    finally:
        if collecting:
            gc.enable()
