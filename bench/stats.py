"""Statistics that everything agrees on: medians, percentiles, proportions, paired accuracy, ratios.

Sample units are milliseconds or whatever the caller has; nothing here knows about runs or models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = Sequence[float] | NDArray[np.float64]

CONFIDENCE = 0.95
PRIOR_FREEDOM = 8
"""What other programs' spread between processes counts for at most: programs differ in theirs."""
NEXT_RUN = "95% interval: where another run's value falls"
"""How a quantity's ``method`` says that its interval covers the differences between processes."""


def _binomial_ranks(n: int, q: float, confidence: float) -> tuple[int, int] | None:
    """1-based order-statistic ranks that bound the q-quantile, or None when n cannot support them."""
    import numpy as np
    from scipy.special import bdtr

    tail = (1.0 - confidence) / 2.0
    below = bdtr(np.arange(n + 1), n, q)  # P(binomial(n, q) <= k); scipy.stats would cost seconds to import
    low = int(np.searchsorted(below, tail))
    high = int(np.searchsorted(below, 1.0 - tail)) + 1
    if low < 1 or high > n:
        return None
    return low, high


def quantile_interval(
    samples: Floats, q: float, confidence: float = CONFIDENCE, weight: float = 1.0
) -> tuple[float, float, float] | None:
    """The q-quantile with a distribution-free interval: (estimate, low, high).

    ``weight`` samples count as one (dependent calls: :func:`bench.agent.timing.dependence`).

    The bounds are the order statistics whose ranks enclose the binomial(n, q) quantiles
    (Hahn and Meeker, *Statistical Intervals*, 2nd ed., section 5.2). Returns None when n is too
    small for both bounds to exist: at 95%, the median needs 6 samples and p99 needs 368 for a
    two-sided interval.
    """
    import numpy as np

    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    counted = int(len(ordered) / max(1.0, weight))
    ranks = _binomial_ranks(counted, q, confidence)
    if ranks is None:
        return None
    n = len(ordered)
    low, high = (ranks[0] - 1) * n // counted, -(-ranks[1] * n // counted) - 1  # rounded outwards
    return float(np.quantile(ordered, q)), float(ordered[low]), float(ordered[high])


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, JASA 22, 1927).

    Raises:
        ValueError: when n is not positive or successes is outside 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no proportion of {successes} in {n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    spread = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def paired_accuracy(
    base: Sequence[bool] | NDArray[np.bool_],
    other: Sequence[bool] | NDArray[np.bool_],
    confidence: float = CONFIDENCE,
) -> tuple[float, float, float, float]:
    """Accuracy of ``other`` minus ``base`` on the same images: (difference, low, high, p).

    The interval is Agresti and Min's adjusted Wald interval for matched pairs (Statistics in
    Medicine 24, 2005: half a count added to each cell); p is the exact McNemar test
    (two-sided binomial on the discordant pairs).

    Raises:
        ValueError: when the two do not have the same, positive length.
    """
    import numpy as np
    from scipy.special import bdtr

    a, b = np.asarray(base, dtype=bool), np.asarray(other, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"paired accuracy of {a.size} and {b.size} images")
    n = a.size
    gained, lost = int(np.sum(b & ~a)), int(np.sum(a & ~b))
    p = min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
    g, w, m = gained + 0.5, lost + 0.5, n + 2.0
    centre = (g - w) / m
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    spread = z * math.sqrt(max(0.0, (g + w) - (g - w) ** 2 / m)) / m
    difference = (gained - lost) / n
    return (
        difference,
        max(-1.0, min(difference, centre - spread)),
        min(1.0, max(difference, centre + spread)),
        p,
    )


def unpaired_accuracy(
    base: tuple[int, int], other: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float, float, float]:
    """Accuracy of ``other`` minus ``base``, each (right, of so many images): (difference, low, high, p).

    For two independent samples: Newcombe's interval from Wilson's (method 10 of Statistics in Medicine 17, 1998), and the
    two-sided z test with the pooled variance. Answers to the same images agree more than independent ones, so that both
    say too little of them: use :func:`paired_accuracy` where the answers are known.

    Raises:
        ValueError: when a sample is empty or more were right than there are.
    """
    (a, n), (b, m) = base, other
    (a_low, a_high), (b_low, b_high) = wilson(a, n, confidence), wilson(b, m, confidence)
    p, q = a / n, b / m
    pooled = (a + b) / (n + m)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m))
    chance = 2.0 * NormalDist().cdf(-abs(q - p) / error) if error else 1.0
    low = q - p - math.hypot(q - b_low, a_high - p)
    high = q - p + math.hypot(b_high - q, p - a_low)
    return q - p, max(-1.0, low), min(1.0, high), chance


def ratio_interval(
    numerator: tuple[float, float, float], denominator: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Ratio of two positive (estimate, low, high) triples, independent, on the log scale.

    The half-widths are combined in quadrature (Fieller's problem in its log-normal
    approximation). Raises ValueError for values that are not positive.
    """
    parts = (*numerator, *denominator)
    if any(not math.isfinite(v) or v <= 0 for v in parts):
        raise ValueError(f"no ratio of {numerator} and {denominator}")
    (a, al, ah), (b, bl, bh) = numerator, denominator
    centre = math.log(a / b)
    down = math.hypot(math.log(a / al), math.log(bh / b))
    up = math.hypot(math.log(ah / a), math.log(b / bl))
    return math.exp(centre), math.exp(centre - down), math.exp(centre + up)


@dataclass(frozen=True)
class Spread:
    """Standard deviation of the logarithms of a program's processes, and the degrees of freedom behind it."""

    deviation: float
    freedom: int


def pooled_spread(programs: Iterable[Floats]) -> Spread | None:
    """The spread between processes of one program, from several programs with several positive values each."""
    import numpy as np

    logs = [np.log(np.asarray(values, dtype=np.float64)) for values in programs]
    freedom = sum(len(v) - 1 for v in logs)
    if freedom < 1:
        return None
    return Spread(math.sqrt(sum(float(((v - v.mean()) ** 2).sum()) for v in logs) / freedom), freedom)


def process_interval(
    medians: Floats, confidence: float = CONFIDENCE, within: float = 0.0, others: Spread | None = None
) -> tuple[float, float, float]:
    """Where the median of another run falls: (median of the processes' medians, low, high).

    Each process has one median; processes differ by more than the calls of one process tell (address
    layout, page placement, other guests of the machine), so the process is the unit. On the log scale, k processes of standard
    deviation s give ``mean +- t(k - 1) s sqrt(2 / k)``: the prediction interval of the mean of k further
    processes (Hahn and Meeker, *Statistical Intervals*, 2nd ed., section 4.7). ``within`` is the relative
    half-width that the calls of one process give; no interval is narrower than a run of those.

    ``others`` is the spread of other programs on the same machine and runtime. Few processes say little about s, so it
    counts for at most ``PRIOR_FREEDOM`` degrees of freedom more: the moderated variance of Smyth (*Linear models and
    empirical Bayes methods*, Stat. Appl. Genet. Mol. Biol. 3, 2004), with a fixed weight.

    Raises:
        ValueError: fewer than two processes, or a median that is not positive.
    """
    import numpy as np
    from scipy.special import stdtrit

    values = np.asarray(medians, dtype=np.float64)
    k = len(values)
    if k < 2 or not np.all(np.isfinite(values)) or np.min(values) <= 0:
        raise ValueError(f"no interval over {k} processes")
    logs = np.log(values)
    freedom, variance = k - 1, float(logs.var(ddof=1))
    if others is not None:
        prior = min(PRIOR_FREEDOM, others.freedom)
        variance = (freedom * variance + prior * others.deviation**2) / (freedom + prior)
        freedom += prior
    arm = float(stdtrit(freedom, 0.5 + confidence / 2.0)) * math.sqrt(2.0 * variance / k)
    arm = max(arm, within * math.sqrt(2.0 / k))
    centre, value = float(logs.mean()), float(np.median(values))
    return value, min(value, math.exp(centre - arm)), max(value, math.exp(centre + arm))


def mean_interval(values: Floats, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean with Student's t interval: (mean, low, high). Raises ValueError for fewer than two values."""
    import numpy as np
    from scipy.special import stdtrit

    found = np.asarray(values, dtype=np.float64)
    if len(found) < 2:
        raise ValueError("no interval from fewer than two values")
    middle, n = float(found.mean()), len(found)
    arm = float(stdtrit(n - 1, 0.5 + confidence / 2.0)) * float(found.std(ddof=1)) / math.sqrt(n)
    return middle, middle - arm, middle + arm
