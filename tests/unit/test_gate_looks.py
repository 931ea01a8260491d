"""Looks that are paid for: how often the check is wrong, and what Holm's procedure lets stand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gate import noise
from bench.gate.looks import ALPHA, LOOKS, holm, judge


@pytest.mark.parametrize("machine", list(noise.MACHINES))
def test_a_program_against_itself_is_hardly_ever_called_different(machine: str) -> None:
    found = noise.simulate(machine, change=0.0, n=200, seed=3)
    wrong = found.verdicts.get("REGRESSED", 0) + found.verdicts.get("IMPROVED", 0)
    assert wrong <= 4  # at exactly 0.5% of 200, more than 4 are seen once in 250 times


@pytest.mark.parametrize("spread", [0.01, 0.02])
def test_five_percent_are_found(spread: float) -> None:
    found = noise.simulate("white", change=0.05, n=200, spread=spread, seed=4)
    assert found.verdicts == {"REGRESSED": 200}


def test_faster_is_not_called_slower() -> None:
    found = noise.simulate("AR(1) drift", change=-0.06, n=100, seed=5)
    assert found.verdicts.get("IMPROVED", 0) >= 98 and "REGRESSED" not in found.verdicts


def test_a_look_is_taken_only_when_its_pairs_are_there() -> None:
    rng = np.random.default_rng(0)
    ratios = list(np.exp(rng.normal(0.02, 0.03, 40)))
    assert judge(ratios[: LOOKS[1] - 1]).paired.pairs == LOOKS[0]
    assert judge(ratios[: LOOKS[1]]).looks == 2
    with pytest.raises(ValueError, match="first look"):
        judge(ratios[: LOOKS[0] - 1])


def test_what_was_found_the_same_stays_so() -> None:
    ratios = [1.0 + 0.001 * (-1) ** i * i for i in range(LOOKS[0])] + [1.2] * 30
    found = judge(ratios)
    assert found.verdict == "SAME" and found.looks == 1


def test_each_look_pays_for_all_of_them() -> None:
    ratios = [1.10 + 0.001 * i for i in range(LOOKS[0])]
    found = judge(ratios)
    assert found.p == pytest.approx(len(LOOKS) * found.paired.p) and found.p <= ALPHA


probabilities = st.dictionaries(st.integers(), st.floats(0, 1), max_size=12)


@given(probabilities)
def test_holm_lets_stand_what_bonferroni_does_and_nothing_that_alone_would_not(p: dict[int, float]) -> None:
    found = holm(p, 0.05)
    assert {k for k, v in p.items() if v <= 0.05 / max(len(p), 1)} <= found
    assert found <= {k for k, v in p.items() if v <= 0.05}


@given(probabilities, st.floats(0, 1))
def test_one_more_question_never_lets_more_stand(p: dict[int, float], another: float) -> None:
    assert holm({**p, -999: another}, 0.05) - {-999} <= holm({k: v for k, v in p.items() if k != -999}, 0.05)


def test_holm_as_in_its_textbook_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, 0.05) == {"d", "a"}


def test_the_table_has_every_machine_with_and_without_a_change_and_is_the_same_again() -> None:
    first, again = noise.table(3, seed=2), noise.table(3, seed=2)
    assert first == again and len(first) == 3 * len(noise.MACHINES)
    assert {t.machine for t in first} == set(noise.MACHINES) and {t.change for t in first} == {0.0, 0.05}
    assert all(set(t.others) == set(noise.OTHERS) and sum(t.verdicts.values()) == 3 for t in first)


def test_what_people_use_now_cries_wolf_where_the_check_does_not() -> None:
    found = noise.simulate("AR(1) drift", change=0.0, n=100, seed=6, others=True)
    assert found.others["Mann-Whitney"] > 20 and "REGRESSED" not in found.verdicts
