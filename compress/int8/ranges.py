"""Ranges of activations, from histograms fed batch by batch that never grow, and scales that hold.

Four ways from a histogram to a range: its ends; all but the rarest values; the threshold with the least
Kullback-Leibler divergence (S. Migacz, "8-bit Inference with TensorRT", GTC 2017); the ends with the least
squared error of rounding and clipping. The same code serves ONNX and LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from bench.errors import StepError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Range = tuple[float, float]

BINS = 4096
"""At least a quarter of them are in use after a range has doubled, four for each of the 256 steps of an 8-bit
scale."""
CHUNK = 2**16
"""Values counted at a time: they stay in the processor's cache."""
PERCENTILE = 99.99
CONSTANT = 1e-6
"""A narrower range holds nothing but zero."""
NARROWEST = 1e-3
"""The range such a tensor gets: its scale is neither 0 nor denormal."""
SHARES = 64
"""Candidates for one end of a range."""
ENTROPY_BINS = 2048
LARGEST_BIAS = 2**30
"""Of a bias in units of its scale: half of what 32 bits hold, the other half is for the sum of products."""
SMALLEST_CHANNEL = 2.0**-16
"""Of the layer's largest weight: weights of a channel below it count as zero."""


class Histogram:
    """How often a tensor's values occur, in :data:`BINS` equal bins over a range that doubles when it must.

    Exact zeros are counted apart: after ReLU they are half of all values, and every scale has a place for
    them.
    """

    def __init__(self) -> None:
        import numpy as np

        self.counts: NDArray[np.int64] = np.zeros(BINS, dtype=np.int64)
        self.low = 0.0
        self.width = 0.0
        self.minimum = 0.0
        self.maximum = 0.0
        self.zeros = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count float values of any shape.

        Raises:
            ValueError: when one of them is not finite.
        """
        import numpy as np

        flat = values.reshape(-1)
        if not len(flat):
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("values that are not finite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        zeros = len(flat) - int(np.count_nonzero(flat))
        if max(-low, high) < CONSTANT / BINS:
            self.zeros += len(flat)
            return
        self._cover(low, high)
        self.zeros += zeros
        shift, factor = np.float32(self.low), np.float32(1 / self.width)
        for start in range(0, len(flat), CHUNK):
            places = flat[start : start + CHUNK] - shift
            places *= factor
            index = places.astype(np.intp)
            np.clip(index, 0, BINS - 1, out=index)
            self.counts += np.bincount(index, minlength=BINS)
        self.counts[self._zero_bin] -= zeros

    @property
    def _zero_bin(self) -> int:
        import numpy as np

        return min(BINS - 1, int((np.float32(0) - np.float32(self.low)) * np.float32(1 / self.width)))

    def _cover(self, low: float, high: float) -> None:
        """Double the range, merging neighbouring bins, until it holds ``low`` and ``high``."""
        if self.width == 0:
            self.low = min(low, 0.0)
            self.width = (max(high, 0.0) - self.low) / BINS
        while high > self.low + BINS * self.width:
            self._merge(slice(None, BINS // 2))
        while low < self.low:
            self.low -= BINS * self.width
            self._merge(slice(BINS // 2, None))

    def _merge(self, place: slice) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts[:] = 0
        self.counts[place] = pairs
        self.width *= 2

    @property
    def constant(self) -> bool:
        """Whether it holds nothing that 8 bits could tell from zero."""
        return self.maximum - self.minimum < CONSTANT

    def filled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(middles, counts) of the bins that are not empty, without exact zeros."""
        import numpy as np

        places = np.flatnonzero(self.counts)
        middles = np.asarray(self.low + (places + 0.5) * self.width, dtype=np.float64)
        return middles, self.counts[places].astype(np.float64)


def collect(batches: Iterable[Mapping[str, NDArray[np.float32]]]) -> dict[str, Histogram]:
    """Histograms of every tensor, from its values batch by batch.

    Raises:
        StepError: when a tensor has values that are not finite.
    """
    found: dict[str, Histogram] = {}
    for batch in batches:
        for name, values in batch.items():
            try:
                found.setdefault(name, Histogram()).add(values)
            except ValueError as error:
                raise StepError(
                    f"The model cannot be calibrated: the tensor {name} has {error}",
                    todo="Train the model again with a smaller learning rate",
                ) from error
    return found


def find(histograms: Mapping[str, Histogram], method: str, symmetric: bool = False) -> dict[str, Range]:
    """The range of each tensor by ``minmax``, ``percentile``, ``entropy`` or ``mse``; every range holds 0.

    Args:
        symmetric: for scales without a zero point (int8 from -127 to 127), else for 256 steps between the two
        ends.
    """
    chosen = METHODS[method]
    return {name: (0.0, NARROWEST) if h.constant else chosen(h, symmetric) for name, h in histograms.items()}


def grid(ends: Range, symmetric: bool = False) -> tuple[float, int]:
    """(scale, zero point in 0..255) of a range that holds 0; symmetric: 0, and 127 steps to either side."""
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    if symmetric:
        return max(-low, high) / 127, 0
    scale = (high - low) / 255
    return scale, round(-low / scale)


def _minmax(histogram: Histogram, symmetric: bool) -> Range:
    return histogram.minimum, histogram.maximum


def _percentile(histogram: Histogram, symmetric: bool) -> Range:
    """Between the two percentiles that leave (100 - :data:`PERCENTILE`) / 2 out at either end."""
    import numpy as np

    middles, counts = histogram.filled()
    place = int(np.searchsorted(middles, 0.0))
    below = np.cumsum(np.insert(counts, place, histogram.zeros))
    middles = np.insert(middles, place, 0.0)
    out = below[-1] * (100 - PERCENTILE) / 200
    low = middles[np.searchsorted(below, out, side="right")] - histogram.width / 2
    high = middles[min(len(middles) - 1, np.searchsorted(below, below[-1] - out))] + histogram.width / 2
    return _inside(histogram, float(low), float(high))


def _inside(histogram: Histogram, low: float, high: float) -> Range:
    return max(histogram.minimum, min(low, 0.0)), min(histogram.maximum, max(high, 0.0))


def _entropy(histogram: Histogram, symmetric: bool) -> Range:
    """Clip at the magnitude whose 8-bit distribution tells most of the clipped one's."""
    import numpy as np

    middles, counts = histogram.filled()
    largest = max(-histogram.minimum, histogram.maximum)
    sizes, _ = np.histogram(np.abs(middles), ENTROPY_BINS, (0, largest), weights=counts)
    both = symmetric or (histogram.minimum < 0 < histogram.maximum)
    steps = 128 if both else 256
    ends = range(steps, ENTROPY_BINS + 1, 16)
    best = min(ends, key=lambda end: _divergence(sizes, end, steps))
    limit = largest * best / ENTROPY_BINS
    return _inside(histogram, -limit, limit)


def _divergence(sizes: NDArray[np.float64], end: int, steps: int) -> float:
    """Of the first ``end`` bins (with the rest in the last) from themselves in ``steps`` steps, in nats."""
    import numpy as np

    kept = sizes[:end].copy()
    starts = np.arange(steps) * end // steps
    filled = kept > 0
    per_step = np.add.reduceat(filled.astype(np.float64), starts)
    mean = np.add.reduceat(kept, starts) / np.maximum(per_step, 1)
    coarse = np.repeat(mean, np.diff(np.append(starts, end)))
    kept[-1] += sizes[end:].sum()
    coarse = np.where(filled, coarse, 0.0)
    total, weight = kept.sum(), coarse.sum()
    if not total or not weight:
        return float("inf")
    p, q = kept / total, np.maximum(coarse / weight, 1e-12)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def _mse(histogram: Histogram, symmetric: bool) -> Range:
    """Pull in one end and the other by turns while the mean squared error of rounding and clipping falls."""
    import numpy as np

    middles, counts = histogram.filled()
    low, high = histogram.minimum, histogram.maximum
    shares = np.linspace(1, 0.2, SHARES)
    if symmetric:
        limits = max(-low, high) * shares
        limit = limits[np.argmin(_errors(middles, counts, -limits, limits, True))]
        return _inside(histogram, -float(limit), float(limit))
    for _ in range(2):
        if high > 0:
            tried = high * shares
            high = float(tried[np.argmin(_errors(middles, counts, np.full_like(tried, low), tried, False))])
        if low < 0:
            tried = low * shares
            low = float(tried[np.argmin(_errors(middles, counts, tried, np.full_like(tried, high), False))])
    return low, high


def _errors(
    middles: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    symmetric: bool,
) -> NDArray[np.float64]:
    """Summed squared error of the histogram on each of the candidate ranges (lows[i], highs[i])."""
    import numpy as np

    if symmetric:
        scale = (np.maximum(-lows, highs) / 127)[:, None]
        steps = np.clip(np.rint(middles / scale), -127, 127)
    else:
        scale = ((highs - lows) / 255)[:, None]
        zero = np.rint(-lows[:, None] / scale)
        steps = np.clip(np.rint(middles / scale), -zero, 255 - zero)
    error: NDArray[np.float64] = (steps * scale - middles) ** 2 @ counts
    return error


METHODS: dict[str, Callable[[Histogram, bool], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}


def weight_scales(
    weights: NDArray[np.float32], bias: NDArray[np.float32] | None, input_scale: float, limit: int
) -> tuple[NDArray[np.float32], int]:
    """Scales of a layer's weights that are never zero and leave its bias room in 32 bits.

    A bias is stored in units of ``input_scale * weight scale``. A channel whose weights are all (nearly) zero
    has a scale so small that its bias would not fit, and its output would be lost.

    Args:
        weights: one row per scale (output channel, or a single row), any number of columns.
        bias: one per output channel, or None.
        input_scale: of the layer's input.
        limit: the largest integer of a weight, 127 or 64.

    Returns:
        (scales, how many of them are larger than the largest weight asks for).
    """
    import numpy as np

    largest = np.abs(weights).max(axis=1).astype(np.float64)
    wanted = np.maximum(largest, max(float(largest.max()) * SMALLEST_CHANNEL, CONSTANT))
    if bias is not None:
        needed = np.abs(bias).astype(np.float64) * limit / (input_scale * LARGEST_BIAS)
        wanted = np.maximum(wanted, needed if len(largest) > 1 else needed.max())
    return (wanted / limit).astype(np.float32), int((wanted > largest).sum())


def guard_note(constants: int, channels: int) -> tuple[str, ...]:
    """What was guarded, or nothing."""
    parts: list[str] = []
    if constants:
        parts.append(f"{constants} constant tensors")
    if channels:
        parts.append(f"{channels} scales of channels with (nearly) no weights or a bias beyond 32 bits")
    return (f"guarded: {', '.join(parts)}",) if parts else ()
