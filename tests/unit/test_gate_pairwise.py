"""Pairs of several subjects within one budget."""

from __future__ import annotations

import numpy as np

from bench.gate import pairwise
from bench.gate.looks import LOOKS
from bench.gate.pairwise import Timed
from bench.gate.sides import Subject
from bench.measure.turns import TimedPair, orders


class Machine:
    """Pairs that take one second each, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def subject(self, name: str, change: float, spread: float) -> Timed:
        rng = np.random.default_rng(0)

        def pair(order: tuple[str, str]) -> TimedPair:
            self.now += 1.0
            ratio = float(np.exp(rng.normal(change, spread)))
            return TimedPair(ratio, 1.0, ratio)

        return Timed(Subject(name, "onnxruntime"), {"latency": 0.03}, pair, orders(LOOKS[-1], 0))


def measured(monkeypatch, budget: float, *subjects: tuple[float, float]) -> tuple[list[int], list[str]]:
    machine = Machine()
    monkeypatch.setattr(pairwise.time, "monotonic", lambda: machine.now)
    timed = [machine.subject(f"s{i}", *s) for i, s in enumerate(subjects)]
    lines = pairwise.measure(timed, [], budget, lambda event, details: None)
    return [len(t.pairs) for t in timed], [line.verdict for line in lines]


def test_only_what_is_not_clear_is_measured_on(monkeypatch) -> None:
    pairs, verdicts = measured(monkeypatch, 1000.0, (0.0, 0.005), (0.03, 0.02), (0.2, 0.005))
    # twelve pairs of one sign have p = 2 / 2^12, times four looks: too much beside two others (0.5% / 3), so it takes a second look
    assert pairs == [LOOKS[0], LOOKS[-1], LOOKS[1]]
    assert verdicts == ["SAME", "INCONCLUSIVE", "REGRESSED"]


def test_what_cannot_be_worse_is_done_and_what_may_be_better_is_measured_on(monkeypatch) -> None:
    pairs, verdicts = measured(monkeypatch, 1000.0, (-0.015, 0.02), (-0.04, 0.04))
    assert pairs == [LOOKS[0], LOOKS[1]]
    assert verdicts == [
        "INCONCLUSIVE",
        "IMPROVED",
    ]  # the first ends inside the limit: the gate calls it NOT WORSE


def test_the_budget_holds_over_all_subjects_and_what_got_none_is_not_known(monkeypatch) -> None:
    pairs, verdicts = measured(monkeypatch, 30.0, (0.0, 0.005), (0.0, 0.005), (0.0, 0.005))
    assert pairs == [LOOKS[0], LOOKS[0], 0]
    assert verdicts == ["SAME", "SAME", "INCONCLUSIVE"]


def test_the_first_subject_is_measured_whatever_the_budget(monkeypatch) -> None:
    assert measured(monkeypatch, 0.001, (0.0, 0.005))[0] == [LOOKS[0]]


def test_base_and_now_differ_as_the_pairs_do_whatever_mood_the_machine_was_in() -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for number in range(LOOKS[0]):
        # most of base's medians fell into the slow mood, most of head's into the fast one: turns told them equal
        slow_base, slow_head = (1.4, 1.0) if number % 3 else (1.4, 1.4)
        ratio = float(np.exp(rng.normal(0.0, 0.004)))
        pairs.append(TimedPair(ratio, slow_base, slow_head * ratio))
    timed = Timed(
        Subject("s", "onnxruntime"), {"latency": 0.03}, lambda order: pairs[0], orders(LOOKS[-1], 0), pairs
    )
    (line,) = timed.lines()
    assert line.base.value and line.head.value and line.change.value is not None
    assert line.verdict == "SAME"
    assert abs(line.head.value / line.base.value - 1 - line.change.value) < 1e-9
    assert 1.0 < line.base.value < 1.4
