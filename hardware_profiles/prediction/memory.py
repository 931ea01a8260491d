"""Peak memory of a model from its graph: its weights, and the activations that must exist at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardware_profiles.prediction.features import BYTES
from hardware_profiles.prediction.graph import Graph, Op, kernels


@dataclass(frozen=True)
class Use:
    """``copies``: how often a runtime holds the weights (files are mapped, repacked); ``live``: the peak of activations so often;
    ``fixed``: MB of its own for any model. ``low`` and ``high``: factors from the middle to the bounds; ``basis``: what those stand on.
    """

    copies: float
    live: float
    fixed: float
    low: float
    high: float
    basis: str


TRIED = "bounds that held all of 10 nets, fp32, on x86-64"
USES = {
    "onnxruntime": Use(2.6, 2.2, 15.0, 0.6, 1.75, TRIED),
    "litert": Use(1.3, 2.0, 10.0, 0.35, 1.7, TRIED),
    "": Use(1.5, 1.5, 5.0, 0.4, 3.0, "wide bounds by judgement: nobody measured this runtime"),
}
"""Found with 10 nets of 2.6 to 133 million parameters, fp32, measured in fresh processes on x86-64 Linux (onnxruntime 1.32,
LiteRT 2.3 with XNNPACK): the bounds hold all 20 values, which they were made for. No measurement stands behind the others."""


def use_of(runtime: str) -> Use:
    return USES.get(runtime, USES[""])


def peak_activations(ops: Sequence[Op], inputs: int) -> int:
    """The most elements of activations that are alive at once when the operators run in this order."""
    last = {}
    for i, op in enumerate(ops):
        for source in op.sources:
            last[source] = i
    alive = peak = inputs
    dies: dict[int, list[int]] = {}
    for source, end in last.items():
        dies.setdefault(end, []).append(source)
    for i, op in enumerate(ops):
        alive += op.writes
        peak = max(peak, alive)
        alive -= sum(ops[s].writes for s in dies.get(i, ()))
        if i not in last:
            alive -= op.writes if i < len(ops) - 1 else 0
        if i == 0:
            alive -= inputs
    return peak


def predict_mb(graph: Graph, runtime: str, precision: str, batch: int) -> tuple[float, float, float]:
    """Peak memory in MB (10^6 bytes) of a model beyond its runtime's own, with bounds: (value, low, high)."""
    use = use_of(runtime)
    size = BYTES[precision]
    live = peak_activations(kernels(graph, residual=True), graph.inputs) * batch * size
    value = (graph.params * size * use.copies + live * use.live) / 1e6 + use.fixed
    return value, value * use.low, value * use.high
