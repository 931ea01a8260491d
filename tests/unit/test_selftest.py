"""The self-test on machines made up for it: quiet, noisy, and one that changes while it runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from bench.measure import selftest
from bench.measure.turns import Order, TimedPair


def machine(spread: float, seed: int = 0, slow: float = 1.0) -> Callable[[Order], TimedPair]:
    """Pairs on a machine where a process differs by ``spread``; every third pair meets it ``slow`` times slower."""
    rng = np.random.default_rng(seed)
    numbers = itertools.count()

    def pair(order: Order) -> TimedPair:
        speed = slow if next(numbers) % 3 == 0 else 1.0
        base, head = 2.0 * speed * np.exp(rng.normal(0, spread, 2))
        return TimedPair(head / base, base, head)

    return pair


def test_a_quiet_machine_raises_no_alarm_and_sees_the_gate() -> None:
    found = selftest.run(machine(0.004), comparisons=6)
    assert found.alarms == 0 and len(found.medians) == 120
    assert {c.verdict for c in found.comparisons} == {"SAME"}
    assert found.smallest == found.gate and not selftest.advice(found)
    assert found.between == pytest.approx(0.004, rel=0.3)
    assert found.by_turns == pytest.approx(0.004 * np.sqrt(2), rel=0.3)


def test_a_machine_of_two_speeds_is_told_and_does_not_blind_the_pairs() -> None:
    found = selftest.run(machine(0.004, slow=1.4), comparisons=6)
    assert {c.verdict for c in found.comparisons} == {"SAME"} and found.between > 0.1 > 0.01 > found.by_turns
    (line,) = selftest.advice(found)
    assert "67% near 2 ms, 33% near 2.8 ms" in line


def test_a_noisy_machine_says_what_it_cannot_see_and_how_many_pairs_it_takes() -> None:
    found = selftest.run(machine(0.15), comparisons=4)
    assert found.smallest > 0.15 and found.alarms == 0
    needed = int(selftest.advice(found)[0].split("about ")[1].split()[0])
    better = selftest.run(machine(0.15), comparisons=2, pairs=needed)
    assert better.smallest < 0.06  # about twice the gate or better


def test_two_hundred_comparisons_of_a_program_with_itself_raise_two_alarms_at_most() -> None:
    found = selftest.run(machine(0.05, seed=3), comparisons=200)
    assert found.alarms <= 2


def test_the_document_is_json_with_quantities(tmp_path) -> None:
    calls: list[tuple[int, int]] = []
    found = selftest.run(machine(0.01), comparisons=2, pairs=8, notify=lambda n, of: calls.append((n, of)))
    document = json.loads(json.dumps(selftest.to_document(found, {"file": "m.onnx"}, {}), allow_nan=False))
    assert document["false_alarms"]["value"] == 0 and document["false_alarms"]["n"] == 2
    assert calls[-1] == (32, 32) and len(document["pairs"]) == 16


def test_the_standard_model_runs_and_does_not_fold_away(tmp_path) -> None:
    session = onnxruntime.InferenceSession(selftest.standard_model(tmp_path))
    images = np.random.default_rng(0).normal(size=(2, 1, 3, 56, 56)).astype(np.float32)
    one, two = (session.run(None, {"image": i})[0] for i in images)
    assert one.shape == (1, 32) and 0.01 < np.abs(one).mean() < 100 and not np.allclose(one, two)
