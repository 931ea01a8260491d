"""A/A: one artifact against itself. What this machine calls a difference where there is none, and what it could see."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError, WorkerError
from bench.hosts import open_host
from bench.measure import environment, paired
from bench.measure.artifact import open_artifact
from bench.measure.paired import PairedRatio
from bench.runtimes.base import CellJob
from bench.stats import wilson
from bench.types import SCHEMA, Json, Notify, Protocol, Quantity, to_json

COMPARISONS = 5
PROTOCOL = Protocol(processes=1, max_seconds=1.0, timeout_seconds=120.0)
"""Of each process: what a cell of five processes gives each by default."""


@dataclass(frozen=True)
class SelfTest:
    """What came of the comparisons. ``medians`` are all processes' (ms), in the order they ran."""

    comparisons: tuple[PairedRatio, ...]
    medians: tuple[float, ...]
    gate: float

    @property
    def alarms(self) -> int:
        """Comparisons that called a difference; there is none, so each is false."""
        return sum(c.verdict in ("REGRESSED", "IMPROVED") for c in self.comparisons)

    @property
    def between(self) -> float:
        """Relative standard deviation between processes."""
        return math.expm1(statistics.stdev(map(math.log, self.medians)))

    @property
    def smallest(self) -> float:
        """The least relative change that a comparison of this budget shows (median over the comparisons)."""
        return statistics.median(c.smallest for c in self.comparisons)


def run(
    time_one: Callable[[], float],
    comparisons: int = COMPARISONS,
    pairs: int = paired.LEAST_PAIRS,
    gate: float = paired.GATE,
    seed: int = 0,
    notify: Callable[[int, int], None] = lambda *_: None,
) -> SelfTest:
    """Compare an artifact with itself ``comparisons`` times, each with ``pairs`` interleaved pairs of processes.

    Args:
        time_one: measures it in one fresh process; its median in ms.
        notify: called with (processes done, processes in all).
    """
    found: list[PairedRatio] = []
    medians: list[float] = []
    total = 2 * comparisons * pairs
    for number in range(comparisons):
        sides: dict[str, list[float]] = {"base": [], "head": []}
        for _, side in paired.order(pairs, seed + number):
            medians.append(time_one())
            sides[side].append(medians[-1])
            notify(len(medians), total)
        found.append(paired.compare(sides["base"], sides["head"], gate))
    return SelfTest(tuple(found), tuple(medians), gate)


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
        artifact, chosen = open_artifact(path, runtime)
        host = open_host("local")
        job = CellJob(artifact, path, Path(folder), threads=threads, protocol=PROTOCOL, predict=False)

        def time_one() -> float:
            result = chosen.measure(job, host, lambda *_: None)
            value = result.metrics["latency_ms"].value
            if value is None:
                raise WorkerError(f"{path.name} could not be timed on {chosen.name}", result.reason)
            return value

        total = 2 * comparisons * pairs
        notify("stage", {"name": "processes", "total": total, "todo": total})

        def told(done: int, _: int) -> None:
            notify("item", {"name": f"process {done}", "done": True, "skipped": True})
            notify("item", {"name": f"process {done + 1}", "done": False})

        notify("item", {"name": "process 1", "done": False})
        result = run(time_one, comparisons, pairs, gate, seed, told)
    what = {
        "file": str(file) if file else "a small model of its own",
        "runtime": chosen.name,
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
        "smallest_effect": Quantity(
            result.smallest, "fraction", n=n, provenance="measured",
            method="change found with a power of 80% at this noise; never below the gate",
        ).to_json(),
        "comparisons": [to_json(c) for c in result.comparisons],
        "medians_ms": list(result.medians),
        "advice": list(advice(result)),
        "environment": machine,
    }  # fmt: skip


def advice(result: SelfTest) -> Sequence[str]:
    """What to do on a machine that sees little."""
    if result.smallest <= 2 * result.gate:
        return ()
    pairs = result.comparisons[0].pairs
    needed = math.ceil(pairs * (math.log1p(result.smallest) / math.log1p(result.gate)) ** 2)
    return (
        f"To see {result.gate:.0%} here, about {needed} pairs would be needed instead of {pairs}",
        "See `bench doctor` for what makes this machine noisy",
    )
