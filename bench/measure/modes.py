"""Is one median the whole story? Finds samples that lie in two or more heaps (two clocks, a neighbour that comes and goes)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRID = 256
VALLEY = 0.5
"""Two heaps are apart when the density between them is below this share of the lower one."""
LEAST_SHARE = 0.1
LEAST_APART = 0.03
LEAST_SAMPLES = 100
FINEST = 1e-3
"""Least spread, relative: a coarse clock gives equal samples, and heaps 3% apart are told from that as well."""


def modes(samples: Sequence[float] | NDArray[np.float64]) -> list[tuple[float, float]]:
    """(value, share) of each heap of the samples, fastest first; one heap is the normal case.

    Peaks of a Gaussian kernel density of the logarithms (Silverman's bandwidth, *Density Estimation*,
    1986, equation 3.31, one and a half times as wide, so that noise makes no peaks). A heap has a tenth of the samples, lies 3%
    or more from the next and is cut off by a valley of half its height. Fewer than 100 samples are one heap.
    """
    import numpy as np

    values = np.log(np.asarray(samples, dtype=np.float64))
    middle = [(float(np.exp(np.median(values))), 1.0)] if len(values) else []
    if len(values) < LEAST_SAMPLES:
        return middle
    low, high = np.quantile(values, (0.01, 0.99))
    kept = values[(values >= low) & (values <= high)]
    spread = min(float(kept.std()), float(np.subtract(*np.quantile(kept, (0.75, 0.25)))) / 1.34) or float(
        kept.std()
    )
    spread = max(spread, FINEST)
    width = 1.5 * 0.9 * spread * len(kept) ** -0.2
    grid = np.linspace(low - 3 * width, high + 3 * width, GRID)
    counts, edges = np.histogram(kept, bins=GRID, range=(grid[0], grid[-1]))
    centres = (edges[:-1] + edges[1:]) / 2
    kernel = np.exp(-0.5 * ((centres - centres[GRID // 2]) / width) ** 2)
    density = np.convolve(counts, kernel, mode="same")
    cuts = _valleys(density)
    bounds = np.concatenate([[-np.inf], centres[cuts], [np.inf]])
    heaps = [values[(values >= a) & (values < b)] for a, b in itertools.pairwise(bounds)]
    found = [(float(np.exp(np.median(h))), len(h) / len(values)) for h in heaps if len(h)]
    large = [heap for heap in found if heap[1] >= LEAST_SHARE]
    apart = all(b[0] / a[0] - 1 >= LEAST_APART for a, b in itertools.pairwise(large))
    return large if len(large) > 1 and apart else middle


def _valleys(density: NDArray[np.float64]) -> list[int]:
    """Indices of the minima that are deep enough to part two peaks."""
    import numpy as np

    rising = np.diff(density) > 0
    peaks = [i for i in range(1, len(density) - 1) if rising[i - 1] and not rising[i]]
    cuts: list[int] = []
    last = peaks[0] if peaks else 0
    for peak in peaks[1:]:
        valley = last + int(np.argmin(density[last : peak + 1]))
        if density[valley] < VALLEY * min(density[last], density[peak]):
            cuts.append(valley)
            last = peak
        elif density[peak] > density[last]:
            last = peak
    return cuts
