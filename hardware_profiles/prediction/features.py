"""What a graph asks of a device, in the units of the coefficients: work by class of operator, bytes, launches.

A prediction is the sum over kernels of ``coefficient x amount``: a roofline whose ceilings add up instead of
excluding each other (compute, memory and launch of one kernel overlap little at batch 1). The shape of an operator
enters through the amounts: partial tiles of a Winograd transform are counted whole, a depthwise kernel on few pixels
costs more per multiply-accumulate, and a convolution also pays for gathering its input (``gather``), which weighs most
when it has few output channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardware_profiles.prediction.graph import ACT, CONV, GEMM, MATMUL, Graph, Op, kernels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TERMS = (
    "conv3x3", "conv", "pointwise", "depthwise", "grouped", "attention",
    "gather", "weights", "activations", "elementwise", "smooth", "launch", "call", "overflow", "serial",
)  # fmt: skip
"""Terms of a prediction. The first six in ms per 10^9 multiply-accumulates, ``gather`` per 10^9 input elements gathered,
``weights``, ``activations``, ``elementwise`` and ``overflow`` in ms per GB, ``smooth`` per 10^9 activations that are no ReLU,
``launch`` in ms per 1,000 kernels, ``call`` in microseconds per inference, ``serial`` in ms per 10^6 multiply-accumulates that
must follow each other (the length of a kernel's sums, added up)."""
COMPUTE, MEMORY, OVERHEAD = (*TERMS[:7], "smooth"), (*TERMS[7:10], "overflow"), ("launch", "call", "serial")
DIRECT = 2.25
"""What the smallest Winograd transform, of 2x2 outputs, saves (Lavin and Gray, CVPR 2016): empty tiles never cost more than doing without."""
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}
RELUS = ("relu", "hardtanh", "clamp", "clamp_min")


@dataclass(frozen=True)
class Shape:
    """How shapes count on a kind of processor; see :mod:`hardware_profiles.prediction.fit` for how the numbers were found.

    ``winograd``: side of the output tiles of 3x3 convolutions; 0: none. ``tile``: pixels that a product takes at a time.
    ``depthwise_pixels``: with so many output pixels a depthwise kernel runs at half its rate. ``depthwise_kernel``: exponent of
    the kernel's area in the cost of its multiply-accumulates, beyond proportion. ``residual``: sums go into convolutions.
    """

    winograd: int = 0
    tile: int = 1
    depthwise_pixels: float = 200.0
    depthwise_kernel: float = 0.0
    residual: bool = True


def term(op: Op) -> int:
    """The place in ``TERMS`` of an operator's multiply-accumulates; -1 where it has none."""
    if op.kind == CONV:
        if op.depthwise:
            return 3
        if op.groups > 1:
            return 4
        if op.kernel == (1, 1):
            return 2
        return 0 if op.kernel == (3, 3) and op.stride == 1 and op.cin >= 8 else 1
    return {GEMM: 2, MATMUL: 5}.get(op.kind, -1)


def _waste(op: Op, place: int, batch: int, shape: Shape) -> float:
    """How often the multiply-accumulates of an operator count, for the form it has."""
    pixels = max(op.pixels, 1) * batch
    if place == 3:
        area = op.kernel[0] * op.kernel[1] / 9
        return float((1 + shape.depthwise_pixels / pixels) * area**shape.depthwise_kernel)
    tiled = math.ceil(pixels / shape.tile) * shape.tile / pixels
    if place == 0 and shape.winograd:
        side = math.sqrt(max(op.pixels, 1))
        whole = (math.ceil(side / shape.winograd - 1e-9) * shape.winograd / side) ** 2
        return min(whole, DIRECT) * tiled  # runtimes take another algorithm where the tiles hardly fit
    return tiled


def _padding(op: Op, lanes: int) -> float:
    """What empty lanes add to the work of an operator; layers narrower than that have kernels of their own."""
    if lanes <= 1 or op.kind == MATMUL:
        return 1.0
    factor = 1.0
    for width in {"in": op.cin, "out": op.cout}.values() if op.groups == 1 else (op.cout,):
        if width >= lanes:
            factor *= math.ceil(width / lanes) * lanes / width
    return factor


def _gathered(op: Op, place: int) -> float:
    """Elements that a product copies before it multiplies: windows of the input, or the tiles of a Winograd transform."""
    pixels = max(op.pixels, 1)
    if place == 3:
        return 0.0
    if place == 0:
        return 2.0 * pixels * (op.cin + op.cout)
    depth = op.cin // max(op.groups, 1) if op.kind == CONV else op.cin
    return float(pixels * depth * op.kernel[0] * op.kernel[1] * (op.groups if place in (4, 5) else 1))


def amounts(
    ops: Sequence[Op], batch: int, bytes_each: int, shape: Shape, lanes: int = 1
) -> NDArray[np.float64]:
    """The amounts of kernels, a row each, columns as in ``TERMS``.

    ``bytes_each``: of an element of a tensor. ``lanes``: channels that the target's kernels take at a time; a width that is no
    multiple of it costs as much as the next that is (the published nets that coefficients come from have multiples of 8).
    """
    import numpy as np

    table = np.zeros((len(ops), len(TERMS)))
    for row, op in zip(table, ops, strict=True):
        place = term(op)
        moved = (op.reads + op.writes) * batch * bytes_each / 1e9
        if place >= 0:
            row[place] = op.macs * batch * _waste(op, place, batch, shape) * _padding(op, lanes) / 1e9
            row[8] = moved
            row[6] = _gathered(op, place) * batch / 1e9
            row[14] = (
                (op.cin / max(op.groups, 1) if op.kind == CONV else op.cin)
                * op.kernel[0]
                * op.kernel[1]
                / 1e6
            )
        else:
            row[9] = moved
        row[7] = op.weights * bytes_each / 1e9
        row[11] = 1e-3
    return table


def total(
    graph: Graph, batch: int, precision: str, shape: Shape, on_chip: float = 0.0, lanes: int = 1
) -> NDArray[np.float64]:
    """The amounts of a whole graph. ``on_chip``: bytes of weights that an accelerator keeps; 0: it has no such memory."""
    found = amounts(kernels(graph, shape.residual), batch, BYTES[precision], shape, lanes).sum(0)
    found[10] = smooth(graph) * batch / 1e9
    found[12] = 1e-3
    if on_chip:
        found[13] = max(0.0, graph.params * BYTES[precision] - on_chip) / 1e9
    result: NDArray[np.float64] = found
    return result


def smooth(graph: Graph) -> int:
    """Elements that go through activations other than ReLU."""
    return sum(op.writes for op in graph.ops if op.kind == ACT and op.what.strip("_") not in RELUS)
