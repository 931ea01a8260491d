"""What may be said of two sets of process medians: verdicts, intervals, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from bench.measure import paired
from bench.stats import pooled_spread, process_interval

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
        paired.compare(machine(rng, 10, noise, spread) / machine(rng, 10, noise, spread)).verdict
        in ("REGRESSED", "IMPROVED")
        for _ in range(400)
    )
    assert alarms <= 8  # 1% is promised; 8 of 400 or fewer are seen with a probability of 98% at exactly 1%


def test_a_slower_program_is_caught_and_the_direction_is_right() -> None:
    rng = np.random.default_rng(1)
    base, head = machine(rng, 10, "normal", 0.01), 1.06 * machine(rng, 10, "normal", 0.01)
    slower, faster = paired.compare(head / base), paired.compare(base / head)
    assert (slower.verdict, faster.verdict) == ("REGRESSED", "IMPROVED")
    assert slower.low < 1.06 < slower.high and slower.bootstrap_low > 1
    assert slower.ratio == pytest.approx(1 / faster.ratio)


def test_equal_on_a_quiet_machine_is_same_and_on_a_noisy_one_is_not_known() -> None:
    rng = np.random.default_rng(2)
    quiet = paired.compare(machine(rng, 10, "normal", 0.004))
    noisy = paired.compare(machine(rng, 10, "normal", 0.3))
    assert (quiet.verdict, noisy.verdict) == ("SAME", "INCONCLUSIVE")
    assert quiet.smallest == paired.GATE < 0.1 < noisy.smallest


@settings(deadline=None)
@given(st.lists(positive, min_size=8, max_size=30))
def test_the_estimate_lies_in_its_interval_and_swapping_turns_the_answer_round(ratios: list[float]) -> None:
    one, swapped = paired.compare(ratios), paired.compare([1 / r for r in ratios])
    assert one.low <= one.ratio * (1 + 1e-9) and one.ratio <= one.high * (1 + 1e-9)
    assert math.log(swapped.ratio) == pytest.approx(-math.log(one.ratio), abs=1e-9)
    assert swapped.p == pytest.approx(one.p) and 0 < one.p <= 1


@pytest.mark.parametrize(("ratios", "gate"), [([1.0] * 7, 0.03), ([1.0] * 9 + [0], 0.03), ([1.0] * 10, 0)])
def test_what_cannot_be_compared_is_refused(ratios: list[float], gate: float) -> None:
    with pytest.raises(ValueError, match="no comparison"):
        paired.compare(ratios, gate)


@given(st.lists(st.floats(-1, 1).filter(lambda v: abs(v) > 1e-3), min_size=8, max_size=12, unique_by=abs))
def test_signed_ranks_are_those_of_scipy(logs: list[float]) -> None:
    found = paired.signed_rank_p(np.array(logs))
    assert found == pytest.approx(wilcoxon(logs, method="exact").pvalue)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=8, max_size=20), st.sampled_from([0.95, 0.99]))
def test_the_interval_excludes_no_change_only_where_the_test_does(
    logs: list[float], confidence: float
) -> None:
    _, low, high = paired.signed_rank_interval(np.array(logs), confidence)
    if low > 0 or high < 0:
        assert paired.signed_rank_p(np.array(logs)) <= (1 - confidence) * (1 + 1e-9)


@pytest.mark.parametrize("confidence", [0.9, 0.99, 0.99875])
def test_an_interval_exists_from_the_least_number_of_pairs_on(confidence: float) -> None:
    n = paired.least_pairs(confidence)
    assert paired.signed_rank_interval(np.arange(n) * 1.0, confidence)[1:] == (0, n - 1)
    with pytest.raises(ValueError, match="no interval"):
        paired.signed_rank_interval(np.arange(n - 1) * 1.0, confidence)


def test_one_pair_gone_wrong_does_not_hide_a_slower_program() -> None:
    ratios = [1.05 + 0.001 * i for i in range(20)]
    ratios[5] = 0.5
    found = paired.compare(ratios)
    assert found.verdict == "REGRESSED" and found.t_low < 1 < found.low


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
    assert math.log(high / low) >= 2 * within * math.sqrt(2 / len(medians)) * (1 - 1e-9) - 1e-12


@pytest.mark.parametrize("k", [2, 3, 5])
def test_other_programs_make_the_interval_of_few_processes_useful_and_it_still_holds(k: int) -> None:
    rng = np.random.default_rng(8)
    held, alone, together = 0, [], []
    for _ in range(1000):
        spreads = 0.05 * np.exp(rng.normal(0, 0.3, 9))  # programs differ in how much their processes differ
        others = pooled_spread([machine(rng, k, "normal", s) for s in spreads[1:]])
        medians = machine(rng, k, "normal", spreads[0])
        for found, prior in ((alone, None), (together, others)):
            _, low, high = process_interval(medians, others=prior)
            found.append(math.log(high / low))
        held += low <= float(np.median(machine(rng, k, "normal", spreads[0]))) <= high
    assert held >= 910
    assert np.median(together) < (0.5 if k == 2 else 1.0) * np.median(alone)


def test_the_spread_of_programs_is_that_of_their_processes() -> None:
    rng = np.random.default_rng(3)
    found = pooled_spread([scale * machine(rng, 4, "normal", 0.04) for scale in np.geomspace(0.1, 100, 200)])
    assert found is not None and found.freedom == 600 and found.deviation == pytest.approx(0.04, rel=0.1)
    assert pooled_spread([]) is None and pooled_spread([[1.0], [2.0]]) is None
