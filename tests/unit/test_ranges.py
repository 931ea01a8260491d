"""Histograms that are fed in parts, the ranges found from them, and scales that hold (no torch)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.errors import StepError
from compress.int8 import ranges
from compress.int8.ranges import BINS, Histogram

VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e4, 1e4, width=32))


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def of(values: np.ndarray, method: str, symmetric: bool = False) -> ranges.Range:
    return ranges.find({"t": filled(values)}, method, symmetric)["t"]


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_nothing_is_lost_however_the_values_come(parts: list[np.ndarray]) -> None:
    histogram = filled(*parts)
    every = np.concatenate(parts)
    assert histogram.counts.sum() + histogram.zeros == len(every)
    assert histogram.counts.min() >= 0
    assert histogram.minimum == min(0.0, every.min())
    assert histogram.maximum == max(0.0, every.max())
    assert len(histogram.counts) == BINS


@given(st.lists(VALUES, min_size=2, max_size=6))
def test_each_value_is_counted_within_two_bins_of_its_place(parts: list[np.ndarray]) -> None:
    """Widening merges bins, so the place of a value stays known to a bin's width."""
    histogram, every = filled(*parts), np.sort(np.concatenate(parts))
    every = every[every != 0]
    middles, counts = histogram.filled()
    if histogram.width and np.abs(every).min(initial=1) > ranges.CONSTANT:
        rebuilt = np.repeat(middles, counts.astype(int))
        assert len(rebuilt) == len(every)
        assert np.abs(rebuilt - every).max() <= 2 * histogram.width


def test_a_range_that_grows_a_millionfold_keeps_a_quarter_of_its_bins() -> None:
    rng = np.random.default_rng(0)
    histogram = filled(*(rng.normal(size=1000) * 10.0**k for k in range(-3, 4)))
    assert histogram.maximum - histogram.minimum > BINS / 4 * histogram.width


@pytest.mark.parametrize("method", sorted(ranges.METHODS))
@pytest.mark.parametrize("symmetric", [True, False])
@given(values=VALUES)
def test_ranges_hold_zero_and_never_exceed_the_values(
    method: str, symmetric: bool, values: np.ndarray
) -> None:
    low, high = of(values, method, symmetric)
    assert low <= 0 <= high
    assert np.isfinite([low, high]).all()
    scale, zero = ranges.grid((low, high), symmetric)
    assert scale > 1e-12
    assert 0 <= zero <= 255
    if float(values.max()) - float(values.min()) > 1e-3:
        assert low >= min(0.0, values.min()) and high <= max(0.0, values.max())


def test_percentile_leaves_one_value_in_twenty_thousand_out_at_each_end() -> None:
    values = np.random.default_rng(0).permutation(np.linspace(-1, 3, 1_000_001))
    low, high = of(values, "percentile")
    assert low == pytest.approx(-1 + 4 * 5e-5, abs=0.002)
    assert high == pytest.approx(3 - 4 * 5e-5, abs=0.002)


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_ranges_round_with_less_error_than_others(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=200_000), rng.normal(size=50) * 6]).astype(np.float32)

    def error(method: str) -> float:
        ends = of(values, method, symmetric)
        scale, zero = ranges.grid(ends, symmetric)
        steps = (-127, 127) if symmetric else (-zero, 255 - zero)
        return float(((np.clip(np.rint(values / scale), *steps) * scale - values) ** 2).mean())

    errors = {method: error(method) for method in ranges.METHODS}
    assert errors["mse"] < 0.9 * errors["minmax"]
    assert errors["mse"] == min(errors.values())


def test_entropy_clips_a_long_tail_and_not_a_flat_distribution() -> None:
    rng = np.random.default_rng(0)
    tail = np.concatenate([rng.exponential(1, 100_000), [200.0]])
    assert of(tail, "entropy")[1] < 30
    assert of(rng.uniform(0, 5, 100_000), "entropy")[1] > 4.5


@pytest.mark.parametrize("method", sorted(ranges.METHODS))
def test_zeros_of_relu_do_not_move_a_range(method: str) -> None:
    values = np.random.default_rng(0).exponential(1, 50_000)
    more = np.concatenate([values, np.zeros(50_000)])
    assert of(more, method)[1] == pytest.approx(of(values, method)[1], rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1e-9, -1e-12])
@pytest.mark.parametrize("method", sorted(ranges.METHODS))
def test_a_constant_tensor_gets_a_scale_that_is_neither_zero_nor_denormal(method: str, value: float) -> None:
    assert of(np.full(100, value), method) == (0.0, ranges.NARROWEST)


def test_a_tensor_that_was_zero_at_first_has_the_range_of_its_later_values() -> None:
    histogram = filled(np.zeros(100), np.array([3.0, -2.0]), np.zeros(10))
    assert ranges.find({"t": histogram}, "minmax")["t"] == (-2.0, 3.0)
    assert histogram.zeros == 110


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    with pytest.raises(StepError, match="the tensor relu_3 has values that are not finite"):
        ranges.collect([{"relu_3": np.array([1.0, value], dtype=np.float32)}])


def test_memory_does_not_grow_with_the_images() -> None:
    rng = np.random.default_rng(0)

    def batches(count: int) -> Iterator[dict[str, np.ndarray]]:
        for _ in range(count):
            yield {f"t{i}": rng.standard_normal(100_000, dtype=np.float32) for i in range(3)}

    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        ranges.collect(batches(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# --- scales of weights ------------------------------------------------------------------------


@given(
    hnp.arrays(np.float32, (5, 7), elements=st.floats(-10, 10, width=32)),
    hnp.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)),
    st.floats(1e-6, 1),
    st.sampled_from([64, 127]),
)
def test_every_weight_fits_its_integers_and_every_bias_32_bits(
    weights: np.ndarray, bias: np.ndarray, input_scale: float, limit: int
) -> None:
    scales, raised = ranges.weight_scales(weights, bias, input_scale, limit)
    assert scales.shape == (5,)
    assert np.all(scales > 0)
    assert np.all(np.abs(weights).max(axis=1) <= scales * limit * 1.0001)
    assert np.all(np.abs(bias / (input_scale * scales.astype(np.float64))) < 2**31)
    assert 0 <= raised <= 5


def test_healthy_channels_keep_the_scale_of_their_largest_weight() -> None:
    weights = np.array([[1.0, -2.0], [0.5, 0.1], [0.0, 0.0]], dtype=np.float32)
    scales, raised = ranges.weight_scales(weights, np.zeros(3, np.float32), 0.1, 127)
    assert scales[:2] == pytest.approx([2 / 127, 0.5 / 127])
    assert raised == 1
    one, raised = ranges.weight_scales(weights.reshape(1, -1), None, 0.1, 127)
    assert one == pytest.approx([2 / 127]) and raised == 0
