"""A net as one graph of ATen operators, BatchNorm folded, and where int8 files round its activations."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from bench.errors import StepError
from compress.int8 import onnx_graph
from compress.int8.onnx_int8 import SCHEMES

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

WEIGHTED = ("conv1d", "conv2d", "linear")
MOVES = (
    "view", "_unsafe_view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "slice",
    "select", "clone", "expand", "alias", "detach", "dropout", "contiguous", "t", "split", "split_with_sizes",
    "chunk", "unbind", "max_pool2d", "constant_pad_nd", "pad",
)  # fmt: skip
"""Operators that compute no new values: what they answer is on the grid of what they are given."""
CLIPS = ("hardtanh", "relu6", "clamp")
FUSED = ("relu", *CLIPS)
"""Activations that runtimes fold into the layer before them, whose own output is then never rounded."""
SAME_GRID = ("avg_pool2d",)
"""Operators whose int8 kernels answer on the grid of their input."""
GATES = ("hardsigmoid", "sigmoid", "softmax")
"""Operators that answer from 0 to 1: their grid is known and not learned."""
GATED = {"hardswish": "hardsigmoid", "silu": "sigmoid"}
"""Operators that are their input times a gate of it."""
LABEL = "edgefit"


def operator(node: Any) -> str:
    """``conv2d`` for a call of ``aten.conv2d.default``; the empty string for anything else."""
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    return name if node.op == "call_function" else ""


def label(node: fx.Node) -> str:
    """The name of a node in the graph of a net, always the same."""
    name: str = node.meta[LABEL]
    return name


def graph(module: nn.Module, images: Tensor) -> fx.GraphModule:
    """The net in evaluation mode as one graph with a free batch, BatchNorm folded into the layers before it.

    The graph has its own copies of the weights under their own names. A folded BatchNorm stays behind in its
    neutral form (mean 0, variance 1, weight sqrt(1 + eps)) with the layer's bias as its bias: the state fits
    the architecture.

    Args:
        images: at least one float32 N x C x H x W, to trace with.

    Raises:
        StepError: when the net cannot be traced.
    """
    import torch
    from torch import fx

    example = torch.cat([images[:1], images[:1]])
    try:
        program = torch.export.export(
            copy.deepcopy(module).eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        # Without in-place operators: rounding between a tensor and its change would be lost.
        flat: Any = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # whatever the net's own code raises while it is traced
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise StepError(
            "The model cannot be traced as one graph", reason, "Quantize it after training"
        ) from error
    # An exported module refuses train() and eval(); a plain one of the same graph does not.
    made = fx.GraphModule(flat, flat.graph)
    for node in list(made.graph.nodes):
        if operator(node) == "_native_batch_norm_legit_no_training":
            _fold(made, node)
    made.graph.eliminate_dead_code()
    for index, node in enumerate(made.graph.nodes):
        # A node's own name depends on what else this process has traced.
        node.meta[LABEL] = f"{operator(node) or node.op}_{index}"
    made.recompile()
    return made


def _fold(made: fx.GraphModule, norm: Any) -> None:
    """Fold one BatchNorm into the layer before it, where that layer and its weight serve nothing else."""
    import torch

    layer, scale, shift, mean, variance, _, eps = norm.args
    if operator(layer) not in WEIGHTED or len(layer.users) > 1 or scale is None or shift is None:
        return
    weight, old = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    parts = [part for part in (weight, scale, shift, mean, variance, old) if part is not None]
    if any(part.op != "get_attr" or len(part.users) > 1 for part in parts):
        return
    w, g, b, m, v = (_tensor(made, part) for part in parts[:5])
    with torch.no_grad():
        factor = g / torch.sqrt(v + eps)
        if old is not None:
            m -= _tensor(made, old)
            _tensor(made, old).zero_().requires_grad_(False)
        w *= factor.view(-1, *[1] * (w.ndim - 1))
        b -= m * factor
        g.fill_(math.sqrt(1 + eps)).requires_grad_(False)
        m.zero_()
        v.fill_(1)
    layer.args = (layer.args[0], weight, shift, *layer.args[3:])
    layer.prepend(shift)  # the layer comes before its BatchNorm
    for user in list(norm.users):  # getitem(norm, 0)
        user.replace_all_uses_with(layer)


def _tensor(made: fx.GraphModule, node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(made.get_submodule(owner), name)


def points(made: fx.GraphModule, fmt: str = "", scheme: str = "u8s8") -> dict[str, str]:
    """Where activations are rounded: label of a node -> label of the node whose grid it is on.

    ``fmt``, onnx or tflite: without those that files of this format never round.
    """
    found: dict[str, str] = {}
    ends, floats = _ends(made), float_nodes(made, fmt, scheme)
    for node in made.graph.nodes:
        name = operator(node)
        if (
            (node.op == "call_function" and (not name or name in MOVES))
            or not _is_float(node)
            or node in ends
        ):
            continue
        readers = {user for user in node.users if operator(user) != "sym_size"}
        after = operator(next(iter(readers))) if len(readers) == 1 else ""
        if after in FUSED or (fmt == "tflite" and after == "hardsigmoid" and name in WEIGHTED):
            continue
        if floats.issuperset(readers):
            continue
        own = label(node)
        found[own] = found.get(label(origin(node.args[0])), own) if name in SAME_GRID else own
    return found


def float_nodes(made: fx.GraphModule, fmt: str, scheme: str) -> set[fx.Node]:
    """The layers that files of a format compute in float, with the activations fused into them."""
    layers = [node for node in made.graph.nodes if operator(node) in WEIGHTED]
    if fmt != "onnx" or SCHEMES[scheme].symmetric or len(layers) < 2:
        return set()
    stems = [n for n in layers if n.args[0].op == "placeholder" and _is_small(made, n) and not _pooled(n)]
    return {*stems, *(user for stem in stems for user in stem.users if operator(user) in (*FUSED, *GATED))}


def _is_small(made: fx.GraphModule, layer: Any) -> bool:
    weight = layer.args[1]
    return (
        bool(weight.op == "get_attr")
        and math.prod(_tensor(made, weight).shape[1:]) <= onnx_graph.SMALL_KERNEL
    )


def _pooled(node: Any) -> bool:
    """Whether a layer's output, or what is fused into it, is max-pooled (see onnx_graph.small_stems)."""
    fused = [user for user in node.users if operator(user) in (*FUSED, *GATED)]
    return any(operator(user) == "max_pool2d" for end in (node, *fused) for user in end.users)


def _is_float(node: fx.Node) -> bool:
    """Whether it is a tensor of numbers that depend on the image."""
    import torch

    value = node.meta.get("val")
    computed = node.op in ("placeholder", "call_function")
    return computed and isinstance(value, torch.Tensor) and value.is_floating_point()


def origin(node: Any) -> fx.Node:
    """The node whose values these are."""
    while operator(node) in MOVES:
        node = node.args[0]
    found: fx.Node = node
    return found


def _ends(made: fx.GraphModule) -> set[fx.Node]:
    """The logits, and the same values before they were reshaped: these stay float."""
    ends: set[fx.Node] = set()
    for node in made.graph.find_nodes(op="output"):
        ends |= {node for logits in node.all_input_nodes for node in (logits, origin(logits))}
    return ends


def record(made: fx.GraphModule, images: Tensor, labels: Collection[str]) -> dict[str, Tensor]:
    """The values of some nodes for a batch of images, by label, in the order of the graph."""
    import torch
    from torch import fx

    kept: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if label(n) in labels:
                kept[label(n)] = value.detach()
            return value

    with torch.no_grad():
        Recorder(made).run(images)
    return kept
