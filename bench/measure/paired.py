"""Is B slower than A? Pairs of processes, interleaved, and what may be said of their ratio.

The sample unit is the process: the iterations of one process agree with each other far better than two
processes of the same program do, so a test over iterations cries wolf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.stats import mean_interval

Verdict = Literal["REGRESSED", "SAME", "IMPROVED", "INCONCLUSIVE"]
GATE = 0.03
CONFIDENCE = 0.99
"""Of the gate's interval: an A/A comparison is then called a change in 1% of the cases at most, however noisy the machine."""
LEAST_PAIRS = 10
POWER = 0.8
RESAMPLES = 2000


@dataclass(frozen=True)
class PairedRatio:
    """Head against base: 1.05 is 5% slower. ``smallest`` is the least change this many pairs would have shown."""

    ratio: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    pairs: int
    smallest: float
    verdict: Verdict


def compare(ratios: Sequence[float], gate: float = GATE, confidence: float = CONFIDENCE) -> PairedRatio:
    """Judge the ratios of pairs of processes, each timed by turns (:func:`bench.measure.turns.time_pair`).

    The mean of the log-ratios with a paired t interval and a bootstrap interval of the same confidence (percentile,
    2,000 resamples, seeded; Efron and Tibshirani 1993, chapter 13). REGRESSED or IMPROVED: both intervals exclude 1 and the estimate is
    beyond the gate. SAME: the t interval lies inside the gate. Else INCONCLUSIVE. ``smallest`` is the relative
    change found with a power of 80% at this spread, and never below the gate.

    Args:
        ratios: head against base, one of each pair.
        gate: the relative change that matters.

    Raises:
        ValueError: fewer than two pairs, ratios that are not positive, or a gate outside (0, 1).
    """
    import numpy as np
    from scipy.special import stdtrit

    found = np.asarray(ratios, dtype=np.float64)
    n = len(found)
    if n < 2 or not np.all(found > 0) or not 0 < gate < 1:
        raise ValueError(f"no comparison from {n} pairs at a gate of {gate}")
    logs = np.log(found)
    centre, low, high = mean_interval(logs, confidence)
    draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    tail = (1.0 - confidence) / 2.0
    boot_low, boot_high = (float(v) for v in np.quantile(logs[draws].mean(axis=1), (tail, 1.0 - tail)))
    error = float(logs.std(ddof=1)) / math.sqrt(n)
    seen = (float(stdtrit(n - 1, 1.0 - tail)) + float(stdtrit(n - 1, POWER))) * error
    inside = math.log1p(-gate) <= low and high <= math.log1p(gate)
    changed = (low > 0.0 and boot_low > 0.0) or (high < 0.0 and boot_high < 0.0)
    verdict: Verdict = "INCONCLUSIVE"
    if changed and abs(math.expm1(centre)) > gate:
        verdict = "REGRESSED" if centre > 0 else "IMPROVED"
    elif inside:
        verdict = "SAME"
    return PairedRatio(
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        bootstrap_low=math.exp(boot_low),
        bootstrap_high=math.exp(boot_high),
        pairs=n,
        smallest=max(gate, math.expm1(seen)),
        verdict=verdict,
    )
