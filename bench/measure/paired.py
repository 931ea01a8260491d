"""Is B slower than A? Pairs of processes, interleaved in random order, and what may be said of their ratio.

The sample unit is the process: the iterations of one process agree with each other far better than two
processes of the same program do, so a test over iterations cries wolf.

Which of a pair begins is drawn, so that where there is no difference each log-ratio is as likely to be positive as negative,
whatever the machine does: drift, heavy tails, a neighbour who comes in the middle. Wilcoxon's signed ranks need no more than that, and
their false alarms are known exactly (Wilcoxon, Biometrics Bulletin 1, 1945); Student's t and the bootstrap are reported beside them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.stats import mean_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verdict = Literal["REGRESSED", "SAME", "IMPROVED", "INCONCLUSIVE"]
GATE = 0.03
CONFIDENCE = 0.99
"""Of the interval: an A/A comparison is then called a change in 1% of the cases at most, however noisy the machine."""
LEAST_PAIRS = 10
POWER = 0.8
RESAMPLES = 2000


@dataclass(frozen=True)
class PairedRatio:
    """Head against base: 1.05 is 5% slower. ``p`` is two-sided, exact where no two log-ratios are equal.

    ``smallest`` is the least change this many pairs would have shown.
    """

    ratio: float
    low: float
    high: float
    p: float
    t_low: float
    t_high: float
    bootstrap_low: float
    bootstrap_high: float
    pairs: int
    smallest: float
    verdict: Verdict


def compare(ratios: Sequence[float], gate: float = GATE, confidence: float = CONFIDENCE) -> PairedRatio:
    """Judge the ratios of pairs of processes, each timed by turns (:func:`bench.measure.turns.time_pair`).

    The estimate is the median of the means of any two log-ratios and the interval the one that belongs to signed ranks
    (Hodges and Lehmann, Ann. Math. Statist. 34, 1963). REGRESSED or IMPROVED: the interval excludes 1 and the estimate
    is beyond the gate. SAME: the interval lies inside the gate. Else INCONCLUSIVE. ``smallest`` is the relative
    change found with a power of 80% at this spread (by Student's t), and never below the gate. The bootstrap interval is of
    the mean, by percentiles of 2,000 resamples, seeded (Efron and Tibshirani 1993, chapter 13), of CONFIDENCE at most.

    Args:
        ratios: head against base, one of each pair.
        gate: the relative change that matters.

    Raises:
        ValueError: fewer pairs than an interval of this confidence needs (:func:`least_pairs`), ratios that are not
            positive, or a gate outside (0, 1).
    """
    import numpy as np
    from scipy.special import stdtrit

    found = np.asarray(ratios, dtype=np.float64)
    n = len(found)
    if n < least_pairs(confidence) or not np.all(np.isfinite(found) & (found > 0)) or not 0 < gate < 1:
        raise ValueError(f"no comparison from {n} pairs at a gate of {gate}")
    logs = np.log(found)
    centre, low, high = signed_rank_interval(logs, confidence)
    mean, t_low, t_high = mean_interval(logs, confidence)
    draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    ends = (1.0 - min(confidence, CONFIDENCE)) / 2.0
    boot_low, boot_high = (float(v) for v in np.quantile(logs[draws].mean(axis=1), (ends, 1.0 - ends)))
    seen = (t_high - mean) + float(stdtrit(n - 1, POWER)) * float(logs.std(ddof=1)) / math.sqrt(n)
    inside = math.log1p(-gate) <= low and high <= math.log1p(gate)
    verdict: Verdict = "INCONCLUSIVE"
    if (low > 0.0 or high < 0.0) and abs(math.expm1(centre)) > gate:
        verdict = "REGRESSED" if centre > 0 else "IMPROVED"
    elif inside:
        verdict = "SAME"
    return PairedRatio(
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        p=signed_rank_p(logs),
        t_low=math.exp(t_low),
        t_high=math.exp(t_high),
        bootstrap_low=math.exp(boot_low),
        bootstrap_high=math.exp(boot_high),
        pairs=n,
        smallest=max(gate, math.expm1(seen)),
        verdict=verdict,
    )


# --- signed ranks


@functools.cache
def _below(n: int) -> NDArray[np.float64]:
    """P(W <= w) for w = 0 .. n (n + 1) / 2, where W is the sum of those of the ranks 1 .. n that a fair coin picks."""
    import numpy as np

    ways = np.zeros(n * (n + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, n + 1):
        ways[rank:] = (ways[rank:] + ways[:-rank]) / 2.0
        ways[:rank] /= 2.0
    return np.cumsum(ways)


def least_pairs(confidence: float) -> int:
    """How many pairs an interval of signed ranks needs to exist: all of one sign must be rare enough."""
    return math.ceil(1.0 - math.log2(1.0 - confidence) - 1e-9)


def signed_rank_interval(logs: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    """(Hodges and Lehmann's estimate, low, high); holds for any symmetric distribution, at least as often as it says.

    Raises:
        ValueError: fewer values than :func:`least_pairs`.
    """
    import numpy as np

    n = len(logs)
    i, j = np.triu_indices(n)
    means = np.sort((logs[i] + logs[j]) / 2.0)
    outside = int(np.searchsorted(_below(n), (1.0 - confidence) / 2.0, side="right"))
    if outside == 0:
        raise ValueError(f"no interval of {confidence:.2%} from {n} values")
    return float(np.median(means)), float(means[outside - 1]), float(means[-outside])


def signed_rank_p(logs: NDArray[np.float64]) -> float:
    """Two-sided p of "as likely above 0 as below". Ties share their ranks, zeros count half for either side."""
    import numpy as np

    size = np.abs(logs)
    _, where, counts = np.unique(size, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[where]
    above = float(ranks[logs > 0].sum() + ranks[logs == 0].sum() / 2.0)
    total = len(logs) * (len(logs) + 1) / 2.0
    return min(1.0, 2.0 * float(_below(len(logs))[math.floor(min(above, total - above))]))
