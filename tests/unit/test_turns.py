"""Two sides that work by turns: order, rests, and what happens when one of them fails."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from bench.measure.turns import by_turns, orders, ratio


def side(name: str, log: list[str], rests: int):
    """Prepares, then works ``rests`` turns and one last."""

    def work(notify) -> str:
        log.append(f"{name} prepares")
        notify("phase", {"name": "load"})
        notify("phase", {"name": "steady"})
        for _ in range(rests):
            log.append(name)
            notify("turn", {"n": 1})
        log.append(name)
        notify("phase", {"name": "settled"})
        return name.upper()

    return work


def test_either_side_of_a_pair_begins_at_random() -> None:
    found = orders(40, seed=3)
    assert set(found) == {("base", "head"), ("head", "base")} and found == orders(40, seed=3)
    assert 10 <= found.count(("base", "head")) <= 30 and found != orders(40, seed=4)


def test_both_prepare_and_then_take_turns_in_the_order_given() -> None:
    log: list[str] = []
    found = by_turns({"a": side("a", log, 3), "b": side("b", log, 3)}, ("b", "a"))
    assert found == {"a": "A", "b": "B"}
    assert log == ["b prepares", "a prepares", *"babababa"]


def test_one_that_is_done_early_leaves_the_rest_to_the_other() -> None:
    log: list[str] = []
    by_turns({"a": side("a", log, 0), "b": side("b", log, 3)}, ("a", "b"))
    assert log == ["a prepares", "b prepares", *"abbbb"]


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_a_side_that_fails_ends_the_other_and_its_error_is_raised(order: tuple[str, str]) -> None:
    log: list[str] = []

    def bad(notify) -> str:
        notify("phase", {"name": "steady"})
        raise ValueError("this side crashed")

    before = threading.active_count()
    with pytest.raises(ValueError, match="this side crashed"):
        by_turns({"good": side("good", log, 1000), "bad": bad}, order)
    assert log.count("good") < 5 and threading.active_count() == before


def test_a_mood_that_both_meet_leaves_the_ratio_alone() -> None:
    rng = np.random.default_rng(0)
    mood = np.repeat([1.0, 1.5, 1.0, 1.5], 5)
    base, head = ([m * k * np.exp(rng.normal(0, 0.01, 25)) for m in mood] for k in (2.0, 2.2))
    assert ratio(base, head) == pytest.approx(1.1, rel=0.01)
    assert ratio(base, base[:-1]) == pytest.approx(1.0)
