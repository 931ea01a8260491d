"""The check on this machine: 20 real A/A gates, one with a CPU hog that comes in the middle, and 10 of a file made 5% slower.

Run it on a quiet machine: `make benchmark` or `pytest -m benchmark tests/benchmarks/test_gate_real.py -s`; about 20 minutes. What
people use now is asked about the same recorded calls.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bench.gate import check, noise, pairwise
from bench.gate.sides import from_file
from bench.gate.sources import Options
from bench.gate.thresholds import Settings, thresholds
from bench.measure import turns
from bench.measure.selftest import standard_model

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
SLOWER = 48
"""Channels of the planted 1x1 convolution and of the one back: 5% of the net's time (kernels work on 8 at once)."""


def other_bytes(path: Path, there: Path) -> Path:
    """The same net in a file of other bytes, which the check cannot know to be the same."""
    model = onnx.load(path)
    model.doc_string = "the same net again"
    onnx.save(model, there)
    return there


def slower(path: Path, there: Path, width: int) -> Path:
    """The net with a 1x1 convolution to ``width`` channels and one back before its pooling."""
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    nodes = model.graph.node
    at = next(i for i, node in enumerate(nodes) if node.op_type == "GlobalAveragePool")
    for name, shape, source in (
        ("e1", (width, 32, 1, 1), nodes[at].input[0]),
        ("e2", (32, width, 1, 1), "e1_out"),
    ):
        model.graph.initializer.append(
            numpy_helper.from_array(rng.normal(0, 0.1, shape).astype(np.float32), name)
        )
        nodes.insert(at, helper.make_node("Conv", [source, name], [f"{name}_out"]))
        at += 1
    nodes[at].input[0] = "e2_out"
    onnx.save(model, there)
    return there


def _burn(until: float) -> None:
    while time.monotonic() < until:
        pass


def gate(
    base: Path, head: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, float, float, dict[str, bool]]:
    """(verdict, ratio, seconds, what the others say of the first look's calls)."""
    kept = []

    def time_pair(*arguments: object) -> turns.TimedPair:
        pair = turns.time_pair(*arguments)  # type: ignore[arg-type]
        kept.append(pair.calls)
        return pair

    monkeypatch.setattr(pairwise, "time_pair", time_pair)
    sides = [from_file(path, "onnxruntime", name="m") for path in (base, head)]
    found = check.check(
        *sides, thresholds(("latency:3%",), Settings()), Options(seed=seed), lambda event, details: None
    )
    line = found.lines[0]
    calls = [[pair[side] for pair in kept[: pairwise.LOOKS[0]]] for side in (0, 1)]
    others = {name: other(calls[0], calls[1], 0.03) for name, other in noise.OTHERS.items()}
    return line.verdict, 1 + (line.change.value or 0.0), found.seconds, others


@dataclass(frozen=True)
class Check:
    """How one check ended."""

    verdict: str
    seconds: float


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path, Path, int], Check]:
    """Check ``head`` against ``base`` and print a line of it."""

    def one(kind: str, base: Path, head: Path, seed: int) -> Check:
        verdict, ratio, seconds, others = gate(base, head, seed, monkeypatch)
        alarms = ", ".join(name for name, alarm in others.items() if alarm) or "-"
        print(f"{kind:8s} {verdict:13s} {ratio:.3f} {seconds:5.0f} s  {alarms}", flush=True)
        return Check(verdict, seconds)

    return one


def test_the_same_program_passes(tmp_path: Path, checked: Callable[..., Check]) -> None:
    base = standard_model(tmp_path)
    same = other_bytes(base, tmp_path / "same.onnx")
    ends = [checked("same", base, same, seed) for seed in range(10)]
    hog = multiprocessing.get_context("spawn").Process(
        target=_burn, args=(time.monotonic() + 90.0,), daemon=True
    )
    threading.Timer(15.0, hog.start).start()
    disturbed = checked("hog", base, same, 10)
    hog.join()
    ends += [checked("same", base, same, seed) for seed in range(11, 20)]
    assert not [end for end in (*ends, disturbed) if end.verdict in ("REGRESSED", "IMPROVED")]
    assert np.median([end.seconds for end in ends]) < 60


def test_a_slower_one_does_not(tmp_path: Path, checked: Callable[..., Check]) -> None:
    base = standard_model(tmp_path)
    slow = slower(base, tmp_path / "slow.onnx", SLOWER)
    ends = [checked("slower", base, slow, 100 + number) for number in range(10)]
    assert [end.verdict for end in ends] == ["REGRESSED"] * 10
