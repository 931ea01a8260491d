"""Simulated int8 arithmetic: the graph of a net whose numbers are rounded where the int8 files round them.

Weights: symmetric, one scale per output channel, ``max |w| / 127`` (64 for 7 bits) of the moment.
Activations: one scale per tensor, learned (S. Esser et al., "Learned Step Size Quantization", ICLR 2020; its
logarithm, as in S. Jain et al., "Trained Quantization Thresholds", MLSys 2020), with the whole zero point of
its first range. Rounding passes gradients straight through, inside the range.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import StepError
from compress.int8 import ranges
from compress.int8.onnx_int8 import SCHEMES
from compress.int8.qat_graph import (
    CLIPS,
    GATED,
    GATES,
    WEIGHTED,
    float_nodes,
    label,
    operator,
    origin,
    points,
)

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

SHARE = 4
"""The gradient of a scale comes from every fourth image of a batch: it is a sum over thousands of values
anyway."""


@dataclass(frozen=True)
class Grid:
    """``value = scale * integer``, the integer from ``low`` to ``high``: 8-bit ones less the zero point."""

    scale: float
    low: int
    high: int

    @property
    def ends(self) -> ranges.Range:
        """The smallest and the largest value."""
        return self.low * self.scale, self.high * self.scale


def grid(ends: ranges.Range, scheme: str) -> Grid:
    """The grid of a range that holds 0, by the formula of both runtimes' quantizers."""
    symmetric = SCHEMES[scheme].symmetric
    scale, zero = ranges.grid(ends, symmetric)
    if symmetric:
        return Grid(scale, 0 if ends[0] >= 0 else -127, 127)
    return Grid(scale, -zero, 255 - zero)


def gate_range(fmt: str, kind: str) -> ranges.Range:
    """Of an operator from 0 to 1; LiteRT's integer kernels have 1/256 as the scale of some.

    A bit less than 1: a gate of 0 is 127.5 steps of 1/255, which ONNX Runtime's integer kernels round up.
    """
    return 0.0, 255 / 256 if fmt == "tflite" and kind != "hardsigmoid" else 1 - 2**-22


@cache
def _rounded() -> Any:
    import torch

    class Rounded(torch.autograd.Function):
        """In float32, in four vectorised passes: ATen's own kernel takes 10 times as long."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, change: Tensor, start: Tensor, low: int, high: int) -> Tensor:
            ctx.scale, ctx.low, ctx.high = float(start * change.exp()), low, high
            # Divided, as in the runtimes: halfway between two integers a last bit decides.
            y = x.float().div(ctx.scale).round_().clamp_(low, high).mul_(ctx.scale).to(x.dtype)
            ctx.save_for_backward(x, y)
            return y

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            x, y = ctx.saved_tensors
            (grad,) = grads
            inside = torch.ops.aten.hardtanh_backward(grad, x, ctx.low * ctx.scale, ctx.high * ctx.scale)
            if not ctx.needs_input_grad[1]:
                return inside, None, None, None, None
            some = slice(None, None, SHARE) if len(x) >= SHARE else slice(None)
            learned = (grad[some].float() * y[some]).sum() - (inside[some].float() * x[some]).sum()
            # Divided as in LSQ, so that scales move about as fast as weights do.
            learned *= len(x) / len(x[some]) / math.sqrt(x.numel() * (ctx.high or -ctx.low or 1.0))
            return inside, learned, None, None, None

    return Rounded


class Modules(NamedTuple):
    """The classes of modules that round."""

    activation: Any
    weight: Any
    bias: Any
    gated: Any


@cache
def modules() -> Modules:
    """Made on first use: this file imports without torch."""
    import torch
    from torch import nn

    class Activation(nn.Module):
        """``change`` is the logarithm of the scale's ratio to its first value."""

        def __init__(self, first: Grid, learned: bool = True) -> None:
            super().__init__()
            self.change = nn.Parameter(torch.zeros(()), requires_grad=learned)
            self.start: Tensor
            self.register_buffer("start", torch.tensor(first.scale))
            self.ends: Tensor
            self.register_buffer("ends", torch.tensor([first.low, first.high]))

        @property
        def grid(self) -> Grid:
            low, high = self.ends.tolist()
            return Grid(float(self.start * self.change.detach().exp()), low, high)

        def forward(self, x: Tensor) -> Tensor:
            low, high = self.ends.tolist()
            y: Tensor = _rounded().apply(x, self.change, self.start, low, high)
            return y

    class Weight(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit = limit

        def forward(self, w: Tensor) -> Tensor:
            return _straight(w, weight_scale(w, self.limit))

    class Bias(nn.Module):
        """32-bit integers in units of the products: coarse enough to matter for the next rounding."""

        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit = limit

        def forward(self, bias: Tensor, w: Tensor, start: Tensor, change: Tensor) -> Tensor:
            return _straight(bias, weight_scale(w, self.limit).flatten() * start * change.detach().exp())

    class Gated(nn.Module):
        """A tensor times a rounded gate of it: what runtimes without one kernel for the two compute."""

        def __init__(self, kind: str, ends: Grid) -> None:
            super().__init__()
            self.gate = getattr(nn.functional, kind)
            self.round = Activation(ends, learned=False)

        def forward(self, x: Tensor) -> Tensor:
            product: Tensor = x * self.round(self.gate(x))
            return product

    return Modules(Activation, Weight, Bias, Gated)


def weight_scale(w: Tensor, limit: int) -> Tensor:
    """The scale of each output channel (the first dimension), shaped to divide ``w``."""
    largest: Tensor = w.detach().abs().amax(tuple(range(1, w.ndim)), keepdim=True)
    return largest.clamp_(min=1e-9).div_(limit)


def _straight(x: Tensor, scale: Tensor) -> Tensor:
    """Rounded to multiples of ``scale``; the gradient passes as if it were not."""
    still = x.detach()
    return x + ((still / scale).round_().mul_(scale) - still)


def insert(made: fx.GraphModule, grids: dict[str, Grid], scheme: str, fmt: str = "") -> fx.GraphModule:
    """A copy of a graph that rounds weights, biases and, on ``grids``, activations.

    With ``fmt``, onnx or tflite, it rounds exactly where the kernels of a file do. Training does without: it
    rounds wherever one of the formats does, but not inside hard-swish, which costs time.

    Raises:
        StepError: when no layer has a weight to round.
    """
    from torch import fx

    make = modules()
    rounded: Any = copy.deepcopy(made)
    nodes = {label(node): node for node in rounded.graph.nodes}
    where, floats = points(rounded, fmt, scheme), float_nodes(rounded, fmt, scheme)
    layers = [
        n
        for n in nodes.values()
        if operator(n) in WEIGHTED and n.args[1].op == "get_attr" and n not in floats
    ]
    if not layers:
        raise StepError(
            "Nothing in the model can be quantized", "no convolution and no linear layer", "Keep it in fp32"
        )
    rounded.add_submodule("round_weight", make.weight(SCHEMES[scheme].weight_limit))
    rounded.add_submodule("round_bias", make.bias(SCHEMES[scheme].weight_limit))
    for name in dict.fromkeys(where.values()):
        # A clip's range must stay inside its bounds, because ONNX files leave the clip to it.
        learned = operator(nodes[name]) not in (*GATES, *CLIPS)
        rounded.add_submodule(f"round.{name}", make.activation(grids[name], learned))
    for node in layers:
        _round_layer(rounded.graph, node, where.get(label(origin(node.args[0]))))
    for name, owner in where.items():
        node = nodes[name]
        with rounded.graph.inserting_after(node):
            after = rounded.graph.call_module(f"round.{owner}", (node,))
        node.replace_all_uses_with(after, delete_user_cb=lambda user, after=after: user is not after)
        if operator(node) == "relu" and grids[owner].low == 0:
            after.args = (node.args[0],)  # a grid that ends at 0 does what relu does
    for node in nodes.values():
        if node not in floats and (
            operator(node) == "silu" or (fmt == "onnx" and operator(node) == "hardswish")
        ):
            _round_gate(rounded, node, scheme, fmt)
    rounded.graph.eliminate_dead_code()
    rounded.graph.lint()
    return fx.GraphModule(rounded, rounded.graph)


def _round_layer(graph: fx.Graph, layer: Any, image: str | None) -> None:
    """Round a layer's weight, and its bias where ``image``, the grid of its input, is known."""
    weight = layer.args[1]
    with graph.inserting_before(layer):
        if image is not None and len(layer.args) > 2 and layer.args[2] is not None:
            scale = (graph.get_attr(f"round.{image}.start"), graph.get_attr(f"round.{image}.change"))
            layer.update_arg(2, graph.call_module("round_bias", (layer.args[2], weight, *scale)))
        layer.update_arg(1, graph.call_module("round_weight", (weight,)))


def _round_gate(rounded: Any, node: Any, scheme: str, fmt: str) -> None:
    """Replace ``x * gate(x)`` by what runtimes compute that have no kernel for both."""
    kind, name = GATED[operator(node)], f"inside.{label(node)}"
    rounded.add_submodule(name, modules().gated(kind, grid(gate_range(fmt, kind), scheme)))
    with rounded.graph.inserting_before(node):
        node.replace_all_uses_with(rounded.graph.call_module(name, node.args[:1]))


def grids_of(rounded: nn.Module) -> dict[str, Grid]:
    """The grids as they are now, by the label of their node."""
    children: Any = rounded.get_submodule("round").named_children()
    return {name: module.grid for name, module in children}
