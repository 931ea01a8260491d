"""Statistics: against known values, and coverage by simulation with a fixed seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662
    low, high = stats.wilson(81, 263)
    assert (low, high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert stats.wilson(0, 20)[0] == 0.0 and stats.wilson(20, 20)[1] == 1.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion(counts):
    k, n = counts
    low, high = stats.wilson(k, n)
    assert 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_nonsense(k, n):
    with pytest.raises(ValueError):
        stats.wilson(k, n)


@pytest.mark.parametrize(("q", "least"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_percentiles_only_where_the_count_supports_them(q, least):
    samples = np.arange(least, dtype=float)
    assert stats.quantile_interval(samples, q) is not None
    assert stats.quantile_interval(samples[:-1], q) is None


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_quantile_intervals_cover_as_often_as_they_say(q):
    rng = np.random.default_rng(1)
    true = math.exp(0.3 * 1.2815515655446004) if q == 0.9 else 1.0
    hits = 0
    for _ in range(400):
        _, low, high = stats.quantile_interval(rng.lognormal(0.0, 0.3, 100), q)
        hits += low <= true <= high
    assert 0.93 <= hits / 400 <= 0.99


@given(st.lists(st.floats(0.001, 1e6), min_size=6, max_size=60))
def test_the_median_lies_in_its_interval(samples):
    median, low, high = stats.quantile_interval(samples, 0.5)
    assert low <= median <= high and low in samples and high in samples


def test_paired_accuracy_is_the_exact_mcnemar_test():
    base = np.array([1] * 50 + [0] * 10 + [1] * 2, bool)
    other = np.array([1] * 50 + [1] * 10 + [0] * 2, bool)
    difference, low, high, p = stats.paired_accuracy(base, other)
    assert difference == pytest.approx(8 / 62)
    assert p == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert low < difference < high and low > 0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_paired_accuracy_is_antisymmetric(pairs):
    a, b = zip(*pairs, strict=True)
    forward, backward = stats.paired_accuracy(a, b), stats.paired_accuracy(b, a)
    assert forward[0] == -backward[0] and forward[3] == backward[3]
    assert forward[1] == pytest.approx(-backward[2]) and -1 <= forward[1] <= forward[0] <= forward[2] <= 1


def test_paired_accuracy_covers():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        base = rng.random(150) < 0.8
        other = np.where(rng.random(150) < 0.1, rng.random(150) < 0.5, base)
        true = 0.1 * (0.5 - 0.8)
        _, low, high, _ = stats.paired_accuracy(base, other)
        hits += low <= true <= high
    assert hits / 400 >= 0.92


def test_paired_accuracy_needs_the_same_images():
    with pytest.raises(ValueError):
        stats.paired_accuracy([True], [True, False])


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(1.001, 1.5), st.floats(1.001, 1.5))
def test_ratio_interval_is_wider_than_either_part(a, b, wa, wb):
    ratio, low, high = stats.ratio_interval((a, a / wa, a * wa), (b, b / wb, b * wb))
    assert ratio == pytest.approx(a / b) and low < ratio < high
    assert high / ratio >= max(wa, wb) * (1 - 1e-9) and ratio / low >= max(wa, wb) * (1 - 1e-9)


def test_ratio_of_nothing_is_refused():
    with pytest.raises(ValueError):
        stats.ratio_interval((1.0, 0.0, 2.0), (1.0, 1.0, 1.0))


@given(
    st.lists(st.floats(0.1, 10), min_size=6, max_size=700),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.floats(1.0, 60.0),
)
def test_dependent_samples_give_a_wider_interval_of_the_same_quantile_or_none(
    samples: list[float], q: float, weight: float
) -> None:
    independent, dependent = (
        stats.quantile_interval(samples, q),
        stats.quantile_interval(samples, q, weight=weight),
    )
    if dependent is None:
        return
    assert independent is not None and dependent[0] == independent[0]
    assert dependent[1] <= independent[1] and independent[2] <= dependent[2]
    assert dependent[1] in samples and dependent[2] in samples


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 100.0), min_size=2, max_size=20))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    from scipy import stats as reference

    mean, low, high = stats.mean_interval(values)
    assert low <= mean <= high
    spread = reference.sem(values)
    if spread > 1e-9:
        assert (low, high) == pytest.approx(
            reference.t.interval(0.95, len(values) - 1, mean, spread), rel=1e-6
        )
