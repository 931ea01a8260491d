"""The same float net in a form that 8 bits hurt less: cross-layer equalisation, empirical bias correction.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. Both act
on a copy of the model, so that every format gains from them; BatchNorm is folded first
(:func:`compress.int8.qat_graph.graph`), and the architecture stays the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from compress.int8 import onnx_int8, qat_graph

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

LAYERS = ("conv2d", "linear")
PASSES = ("relu", "clone", "alias", "dropout", "detach", "contiguous")
"""Operators that answer ``s x`` with ``s`` times their answer to ``x``."""
CLIPS = ("hardtanh", "clamp", "relu6")
MARGIN = 1.25
"""How much larger than on the calibration images an activation may become before it is clipped."""
ROUNDS = 50
SETTLED = 1e-3
PIXELS = 2**22
"""Of the images that go through the net at once, at most :data:`IMAGES`."""
IMAGES = 64


@dataclass(frozen=True)
class Pair:
    """Two layers whose channels meet: only ``second`` reads what ``first`` makes, by way of ``last``.

    ``limit`` is where the activation between them clips, or None.
    """

    first: fx.Node
    second: fx.Node
    last: fx.Node
    limit: float | None


def improve(
    module: nn.Module,
    images: Tensor,
    equalize: bool,
    correct_bias: bool,
    limit: int = 127,
    per_channel: bool = True,
    float_layers: Sequence[str] = (),
    fmt: str = "",
    scheme: str = "u8s8",
) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a model with equalised weights, and biases that make up for the mean error of rounding them.

    Args:
        images: calibration images, float32 N x C x H x W, normalised; at most :data:`IMAGES` are used.
        limit: the largest integer of a weight (127, or 64 for 7 bits).
        float_layers: regular expressions for names of layers whose weights will not be rounded.
        fmt, scheme: of the file that will be made; some have layers in float (:func:`compress.int8.qat_graph.float_nodes`).

    Returns:
        (the model, notes).

    Raises:
        StepError: when the model cannot be traced as one graph.
    """
    import torch

    count = max(1, min(IMAGES, PIXELS // images[0].numel()))
    graph = qat_graph.graph(module, images)
    notes: list[str] = []
    with torch.no_grad():
        if equalize:
            notes.append(_equalize(graph, images[:count]))
        if correct_bias:
            floats = qat_graph.float_nodes(graph, fmt, scheme)
            rounded = {
                node
                for node in layers(graph)
                if node not in floats and not onnx_int8.matches(float_layers, (layer_name(node),))
            }
            notes.append(_correct(graph, images[:count], rounded, limit, per_channel))
    made = copy.deepcopy(module)
    own = made.state_dict()
    made.load_state_dict(own | {name: value for name, value in graph.state_dict().items() if name in own})
    return made.eval(), tuple(notes)


def layers(graph: fx.GraphModule) -> list[fx.Node]:
    """The convolutions and linear layers that alone use their weight and bias, in order."""
    return [
        node for node in graph.graph.nodes
        if qat_graph.operator(node) in LAYERS
        and all(part.op == "get_attr" and len(part.users) == 1 for part in node.args[1:3] if part is not None)
    ]  # fmt: skip


def layer_name(node: fx.Node) -> str:
    """``stage1.0.main.0`` of the layer with the weight ``stage1.0.main.0.weight``."""
    weight: Any = node.args[1]
    return str(weight.target).removesuffix(".weight")


def _weight(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    weight: Any = node.args[1]
    found: Tensor = attrgetter(str(weight.target))(graph)
    return found


def _bias(graph: fx.GraphModule, node: fx.Node) -> Tensor | None:
    bias: Any = node.args[2] if len(node.args) > 2 else None
    return None if bias is None else attrgetter(str(bias.target))(graph)


# --- equalisation -------------------------------------------------------------------------


def pairs(graph: fx.GraphModule) -> list[Pair]:
    """Layers that feed one other layer alone, with nothing or a ReLU between them (ReLU6 has a limit)."""
    known = layers(graph)
    found = []
    for first in known:
        node, limit = first, None
        while len(node.users) == 1:
            (user,) = node.users
            kind = qat_graph.operator(user)
            if user in known and user.args[0] is node:
                found.append(Pair(first, user, node, limit))
                break
            if kind in CLIPS and user.args[1] == 0 and len(user.args) > 2 and user.args[2] is not None:
                limit = float(user.args[2])  # type: ignore[arg-type]
            elif kind not in PASSES:
                break
            node = user
    return found


def _equalize(graph: fx.GraphModule, images: Tensor) -> str:
    """Make the weights into a channel and those out of it equally large, in place; returns a note."""
    import torch

    found = pairs(graph)
    peaks: dict[fx.Node, Tensor] = {}

    def look(node: fx.Node, value: Tensor) -> Tensor:
        if node in watched:
            peaks[node] = value.abs().amax(_others(watched[node], value))
        return value

    watched = {pair.last: pair.first for pair in found}
    _run(graph, images, look)
    # Channels that clip on the calibration images keep their scale: the clip does not scale.
    free = {
        p: torch.ones_like(peaks[p.last]) if p.limit is None else peaks[p.last] * MARGIN < p.limit
        for p in found
    }
    room = {p: float(peaks[p.last].max()) if p.limit is None else p.limit / MARGIN for p in found}
    for _ in range(ROUNDS):
        change = 0.0
        for pair in found:
            scale = _pair_scale(graph, pair, peaks[pair.last] / max(room[pair], 1e-12), free[pair].bool())
            peaks[pair.last] = peaks[pair.last] / scale
            change = max(change, float(scale.log().abs().max()))
        if change < SETTLED:
            break
    clipped = sum(p.limit is not None for p in found)
    more = f" ({clipped} of them through a clip, whose clipping channels stay)" if clipped else ""
    return f"equalised {len(found)} pairs of {len(layers(graph))} layers{more}"


def _pair_scale(graph: fx.GraphModule, pair: Pair, least: Tensor, free: Tensor) -> Tensor:
    """Scale one pair's channels, in place; returns the divisors of the first layer's outputs.

    ``least`` keeps the divisors from making any channel's activation larger than the largest one of the
    tensor: rounded activations share one scale.
    """
    import torch

    first, second = _weight(graph, pair.first), _weight(graph, pair.second)
    rows = first.flatten(1).abs().amax(1)
    # (groups, outputs of a group, its inputs, kernel): an input channel is a place of the first and third.
    arguments: Any = pair.second.args
    groups = int(arguments[6]) if len(arguments) > 6 else 1
    blocks = second.view(groups, second.shape[0] // groups, second.shape[1], -1)
    columns = blocks.abs().amax((1, 3)).flatten()
    usable = (rows > 0) & (columns > 0) & free
    scale = torch.where(usable, (rows / columns.clamp(min=1e-30)).sqrt(), torch.ones_like(rows))
    scale = torch.where(usable, torch.maximum(scale, least), scale).clamp(1e-4, 1e4)
    first /= scale.view(-1, *[1] * (first.ndim - 1))
    bias = _bias(graph, pair.first)
    if bias is not None:
        bias /= scale
    blocks *= scale.view(groups, 1, second.shape[1], 1)
    return scale


# --- bias correction ------------------------------------------------------------------------


def _correct(
    graph: fx.GraphModule, images: Tensor, rounded: set[fx.Node], limit: int, per_channel: bool
) -> str:
    """Shift biases until rounded weights give each output channel its mean, in place; returns a note.

    Each layer sees what the rounded and corrected layers before it answer.
    """
    means: dict[fx.Node, Tensor] = {}

    def remember(node: fx.Node, value: Tensor) -> Tensor:
        if node in rounded:
            means[node] = value.mean(_others(node, value))
        return value

    _run(graph, images, remember)
    kept = {node: _weight(graph, node).clone() for node in rounded}
    for node in rounded:
        weight = _weight(graph, node)
        weight.copy_(round_weight(weight, limit, per_channel))
    corrected = 0

    def shift(node: fx.Node, value: Tensor) -> Tensor:
        nonlocal corrected
        bias = _bias(graph, node) if node in rounded else None
        if bias is None:
            return value
        others = _others(node, value)
        error = value.mean(others) - means[node]
        bias -= error
        corrected += 1
        return value - error.view([1 if d in others else -1 for d in range(value.ndim)])

    _run(graph, images, shift)
    for node, weight in kept.items():
        _weight(graph, node).copy_(weight)
    return f"corrected the biases of {corrected} of {len(rounded)} layers on {len(images)} images"


def round_weight(weight: Tensor, limit: int, per_channel: bool = True) -> Tensor:
    """A weight on its int8 grid: symmetric, one scale per output channel (dimension 0) or one for all."""
    over = tuple(range(1 if per_channel else 0, weight.ndim))
    scale = weight.abs().amax(over, keepdim=True).clamp(min=1e-12) / limit
    return (weight / scale).round() * scale


def _others(layer: fx.Node, value: Tensor) -> list[int]:
    """All dimensions of a layer's output but its channels."""
    channels = 1 if qat_graph.operator(layer) == "conv2d" else value.ndim - 1
    return [d for d in range(value.ndim) if d != channels]


def _run(graph: fx.GraphModule, images: Tensor, change: Callable[[fx.Node, Tensor], Tensor]) -> None:
    """Run the graph; what ``change`` makes of each node's value goes on."""
    import torch
    from torch import fx

    class Runner(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op != "call_function" or not isinstance(value, torch.Tensor):
                return value
            return change(n, value)

    Runner(graph).run(images)
