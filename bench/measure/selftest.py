"""A/A: one artifact against itself. What this machine calls a difference where there is none, and what it could see."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import UsageError
from bench.hosts import open_host
from bench.measure import environment, paired
from bench.measure.artifact import open_artifact
from bench.measure.modes import modes
from bench.measure.paired import PairedRatio
from bench.measure.turns import Order, TimedPair, orders, time_pair
from bench.runtimes.base import CellJob
from bench.stats import wilson
from bench.types import SCHEMA, Json, Notify, Protocol, Quantity, to_json

COMPARISONS = 5
PROTOCOL = Protocol(processes=1, max_seconds=1.0, timeout_seconds=120.0)
"""Of each process: what a cell of five processes gives each by default."""


@dataclass(frozen=True)
class SelfTest:
    """What came of the comparisons, and of each pair of processes in the order they ran."""

    comparisons: tuple[PairedRatio, ...]
    pairs: tuple[TimedPair, ...]
    gate: float

    @property
    def medians(self) -> list[float]:
        """Of all processes, in ms."""
        return [m for pair in self.pairs for m in (pair.base_ms, pair.head_ms)]

    @property
    def alarms(self) -> int:
        """Comparisons that called a difference; there is none, so each is false."""
        return sum(c.verdict in ("REGRESSED", "IMPROVED") for c in self.comparisons)

    @property
    def between(self) -> float:
        """Relative standard deviation between processes, whenever they ran."""
        return math.expm1(statistics.stdev(map(math.log, self.medians)))

    @property
    def by_turns(self) -> float:
        """Relative standard deviation of the ratio of two processes that were timed by turns."""
        return math.expm1(statistics.stdev(math.log(pair.ratio) for pair in self.pairs))

    @property
    def smallest(self) -> float:
        """The least relative change that a comparison of this budget shows (median over the comparisons)."""
        return statistics.median(c.smallest for c in self.comparisons)


def run(
    measure_pair: Callable[[Order], TimedPair],
    comparisons: int = COMPARISONS,
    pairs: int = paired.LEAST_PAIRS,
    gate: float = paired.GATE,
    seed: int = 0,
    notify: Callable[[int, int], None] = lambda *_: None,
) -> SelfTest:
    """Compare an artifact with itself ``comparisons`` times, each with ``pairs`` interleaved pairs of processes.

    Args:
        measure_pair: measures it in two fresh processes, ``base`` and ``head``, that begin in the given order.
        notify: called with (processes done, processes in all).
    """
    found: list[PairedRatio] = []
    timed: list[TimedPair] = []
    total = 2 * comparisons * pairs
    for number in range(comparisons):
        for order in orders(pairs, seed + number):
            timed.append(measure_pair(order))
            notify(2 * len(timed), total)
        found.append(paired.compare([pair.ratio for pair in timed[-pairs:]], gate))
    return SelfTest(tuple(found), tuple(timed), gate)


def measure_self(
    file: Path | None,
    runtime: str,
    threads: int,
    comparisons: int,
    pairs: int,
    gate: float,
    seed: int,
    notify: Notify,
) -> Json:
    """Compare an artifact (None: :func:`standard_model`) with itself on this machine; the JSON document.

    Raises:
        UsageError: no such file, a runtime that does not take it, or an impossible gate.
        MissingError, WorkerError: see :func:`bench.measure.artifact.open_artifact` and ``Runtime.measure``.
    """
    if not 0 < gate < 1:
        raise UsageError("the gate must be between 0% and 100%", f"{gate:.2%}", "For example: --gate 3%")
    with tempfile.TemporaryDirectory() as folder:
        path = file or standard_model(Path(folder))
        opened = open_artifact(path, runtime)
        host = open_host("local")
        job = CellJob(opened.artifact, path, Path(folder), 1, threads, opened.device, PROTOCOL, predict=False)
        sides = {}
        for side in ("base", "head"):
            (outdir := Path(folder) / side).mkdir()
            sides[side] = (opened.runtime, replace(job, outdir=outdir))

        def pair(order: Order) -> TimedPair:
            return time_pair(sides, order, host)

        total = 2 * comparisons * pairs
        notify("stage", {"name": "processes", "total": total, "todo": total})

        def told(done: int, _: int) -> None:
            for number in (done - 1, done):
                notify("item", {"name": f"process {number}", "done": True, "skipped": True})
            notify("item", {"name": f"processes {done + 1} and {done + 2}", "done": False})

        notify("item", {"name": "processes 1 and 2", "done": False})
        result = run(pair, comparisons, pairs, gate, seed, told)
    what = {
        "file": str(file) if file else "a small model of its own",
        "runtime": opened.runtime.name,
        "threads": threads,
    }
    return to_document(result, what, environment.describe())


def standard_model(folder: Path) -> Path:
    """A small ONNX classifier of its own: eight 3x3 convolutions of 32 channels on 56 px, seeded weights scaled to keep the signal."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "image", 3
    for i in range(8):
        scale = math.sqrt(2.0 / (9 * channels))
        kernel = rng.normal(0, scale, (32, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{i}"))
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        last, channels = f"r{i}", 32
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 56, 56])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 32])
    graph = helper.make_graph(nodes, "selftest", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "selftest.onnx"
    onnx.save(model, path)
    return path


def to_document(result: SelfTest, what: Json, machine: Json) -> Json:
    """The JSON document of ``bench selftest``."""
    n = len(result.comparisons)
    low, high = wilson(result.alarms, n)
    method = (
        f"A/A comparisons of {result.comparisons[0].pairs} pairs of processes at a gate of {result.gate:.1%}"
    )
    return {
        "schema": SCHEMA,
        **what,
        "gate": result.gate,
        "false_alarms": Quantity(result.alarms / n, "fraction", low, high, n, "measured", method).to_json(),
        "between_processes": Quantity(
            result.between, "fraction", n=len(result.medians), provenance="measured",
            method="standard deviation of the logarithms of the processes' medians",
        ).to_json(),
        "by_turns": Quantity(
            result.by_turns, "fraction", n=len(result.pairs), provenance="measured",
            method="standard deviation of the logarithm of the ratio of two processes timed by turns",
        ).to_json(),
        "smallest_effect": Quantity(
            result.smallest, "fraction", n=n, provenance="measured",
            method="change found with a power of 80% at this noise; never below the gate",
        ).to_json(),
        "comparisons": [to_json(c) for c in result.comparisons],
        "pairs": [{key: getattr(p, key) for key in ("ratio", "base_ms", "head_ms")} for p in result.pairs],
        "advice": list(advice(result)),
        "environment": machine,
    }  # fmt: skip


def advice(result: SelfTest) -> Sequence[str]:
    """What to do on a machine that sees little, or that has two speeds."""
    found = []
    heaps = modes(result.medians)
    if len(heaps) > 1:
        shares = ", ".join(f"{share:.0%} near {value:.3g} ms" for value, share in heaps)
        found.append(f"The processes' medians lie in heaps ({shares}): two clocks, or a neighbour")
    if result.smallest <= 2 * result.gate:
        return found
    pairs = result.comparisons[0].pairs
    needed = math.ceil(pairs * (math.log1p(result.smallest) / math.log1p(result.gate)) ** 2)
    return [
        *found,
        f"To see {result.gate:.0%} here, about {needed} pairs would be needed instead of {pairs}",
        "See `bench doctor` for what makes this machine noisy",
    ]
