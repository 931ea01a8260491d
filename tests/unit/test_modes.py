"""Heaps in samples are found, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from bench.agent.timing import dependence
from bench.measure.modes import modes
from bench.stats import quantile_interval

RNG = np.random.default_rng(11)
ONE_HEAP = {
    "normal": lambda n: np.exp(0.02 * RNG.standard_normal(n)),
    "long tail": lambda n: 1 + 0.2 * RNG.exponential(1, n),
    "heavy tail": lambda n: np.exp(np.clip(0.01 * RNG.standard_cauchy(n), -2, 2)),
    "a coarse clock": lambda n: np.round(np.exp(0.02 * RNG.standard_normal(n)) * 50) / 50,
    "constant": np.ones,
    "constant but for rounding": lambda n: np.ones(n) * 1e-3 * np.where(np.arange(n) % 7, 1, 1 + 2e-16),
    "a few readings of a clock": lambda n: 1e-3 * (1 + 5e-3 * (np.arange(n) % 10 == 0)),
}


@pytest.mark.parametrize("kind", ONE_HEAP)
@pytest.mark.parametrize("n", [0, 5, 120, 1500])
def test_one_heap_is_one(kind: str, n: int) -> None:
    for _ in range(20):
        found = modes(ONE_HEAP[kind](n))
        assert len(found) == (n > 0)
        assert all(share == 1.0 for _, share in found)


@pytest.mark.parametrize("slower", [1.1, 1.5, 3.0])
def test_two_clocks_are_two_heaps_with_their_shares(slower: float) -> None:
    samples = np.where(RNG.random(1000) < 0.3, slower, 1.0) * np.exp(0.01 * RNG.standard_normal(1000))
    (fast, most), (slow, rest) = modes(2e-3 * samples)
    assert fast == pytest.approx(2e-3, rel=0.01) and slow == pytest.approx(2e-3 * slower, rel=0.01)
    assert most == pytest.approx(0.7, abs=0.06) and rest == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_the_medians_interval_covers_also_when_calls_depend_on_each_other(correlation: float) -> None:
    rng, held, naive = np.random.default_rng(4), 0, 0
    for _ in range(200):
        noise, x = rng.standard_normal(1500), 0.0
        series = []
        for e in noise:
            x = correlation * x + np.sqrt(1 - correlation**2) * e
            series.append(x)
        samples = np.exp(0.05 * np.array(series))
        held += _covers(samples, dependence(samples))
        naive += _covers(samples, 1.0)
    assert held >= 180  # 190 are promised
    if correlation == 0.9:
        assert naive < 150  # what counting every call as independent would do


def _covers(samples: np.ndarray, weight: float) -> bool:
    bounds = quantile_interval(samples, 0.5, weight=weight)
    assert bounds is not None
    return bounds[1] <= 1.0 <= bounds[2]


def test_independent_calls_count_about_one_each() -> None:
    rng = np.random.default_rng(9)
    found = [dependence(rng.standard_normal(2000)) for _ in range(50)]
    assert 1.0 <= np.median(found) < 1.4
    assert dependence(np.ones(1000)) == 1.0 and dependence(rng.standard_normal(50)) == 1.0
