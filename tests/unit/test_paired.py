"""What may be said of two sets of process medians: verdicts, intervals, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure import paired
from bench.stats import process_interval

positive = st.floats(0.01, 1e4, allow_nan=False)


def machine(rng: np.random.Generator, n: int, noise: str, spread: float) -> np.ndarray:
    """Medians of n processes of one program on a machine of that kind of noise."""
    if noise == "two layouts":  # a process is fast or slow, by how its memory fell
        return np.exp(rng.normal(0, spread / 4, n)) * np.where(rng.random(n) < 0.3, 1 + 4 * spread, 1.0)
    if noise == "heavy":
        return np.exp(spread * rng.standard_t(3, n))
    return np.exp(rng.normal(0, spread, n))


@pytest.mark.parametrize("noise", ["normal", "heavy", "two layouts"])
@pytest.mark.parametrize("spread", [0.005, 0.03, 0.08])
def test_the_same_program_is_hardly_ever_called_slower_or_faster(noise: str, spread: float) -> None:
    rng = np.random.default_rng(7)
    alarms = sum(
        paired.compare(machine(rng, 10, noise, spread), machine(rng, 10, noise, spread)).verdict
        in ("REGRESSED", "IMPROVED")
        for _ in range(400)
    )
    assert alarms <= 8  # 1% is promised; 8 of 400 or fewer are seen with a probability of 98% at exactly 1%


def test_a_slower_program_is_caught_and_the_direction_is_right() -> None:
    rng = np.random.default_rng(1)
    base, head = machine(rng, 10, "normal", 0.01), 1.06 * machine(rng, 10, "normal", 0.01)
    slower, faster = paired.compare(base, head), paired.compare(head, base)
    assert (slower.verdict, faster.verdict) == ("REGRESSED", "IMPROVED")
    assert slower.low < 1.06 < slower.high and slower.bootstrap_low > 1
    assert slower.ratio == pytest.approx(1 / faster.ratio)


def test_equal_on_a_quiet_machine_is_same_and_on_a_noisy_one_is_not_known() -> None:
    rng = np.random.default_rng(2)
    quiet = paired.compare(machine(rng, 10, "normal", 0.003), machine(rng, 10, "normal", 0.003))
    noisy = paired.compare(machine(rng, 10, "normal", 0.2), machine(rng, 10, "normal", 0.2))
    assert (quiet.verdict, noisy.verdict) == ("SAME", "INCONCLUSIVE")
    assert quiet.smallest == paired.GATE < 0.1 < noisy.smallest


@settings(deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=30), st.floats(0.01, 100))
def test_units_do_not_matter_and_swapping_turns_the_answer_round(
    pairs: list[tuple[float, float]], unit: float
) -> None:
    base, head = ([p[i] for p in pairs] for i in (0, 1))
    one = paired.compare(base, head)
    scaled = paired.compare([unit * b for b in base], [unit * h for h in head])
    swapped = paired.compare(head, base)
    assert one.low <= one.ratio * (1 + 1e-9) and one.ratio <= one.high * (1 + 1e-9)
    assert scaled.ratio == pytest.approx(one.ratio, rel=1e-6)
    assert math.log(swapped.ratio) == pytest.approx(-math.log(one.ratio), abs=1e-9)


@pytest.mark.parametrize(
    ("base", "head", "gate"),
    [([1.0], [1.0], 0.03), ([1, 2], [1, 2, 3], 0.03), ([1, 0], [1, 1], 0.03), ([1, 2], [1, 2], 0)],
)
def test_what_cannot_be_compared_is_refused(base: list[float], head: list[float], gate: float) -> None:
    with pytest.raises(ValueError, match="no comparison"):
        paired.compare(base, head, gate)


def test_pairs_run_next_to_each_other_in_both_orders() -> None:
    found = paired.order(40, seed=3)
    assert [i for i, _ in found] == [i for i in range(40) for _ in range(2)]
    firsts = {side for _, side in found[::2]}
    assert firsts == {"base", "head"} and found == paired.order(40, seed=3)
    assert all({found[2 * i][1], found[2 * i + 1][1]} == {"base", "head"} for i in range(40))


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize("noise", ["normal", "heavy"])
def test_the_interval_holds_the_next_run_as_often_as_it_says(k: int, noise: str) -> None:
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        value, low, high = process_interval(machine(rng, k, noise, 0.03))
        held += low <= float(np.median(machine(rng, k, noise, 0.03))) <= high
        assert low <= value <= high
    assert held >= 920


@settings(deadline=None)
@given(st.lists(positive, min_size=2, max_size=20), st.floats(0, 0.2))
def test_the_interval_is_never_narrower_than_one_process_says(medians: list[float], within: float) -> None:
    value, low, high = process_interval(medians, within=within)
    assert low <= value <= high
    assert math.log(high / low) >= 2 * within * math.sqrt(2 / len(medians)) * (1 - 1e-9)
