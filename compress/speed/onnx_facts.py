"""An ONNX file as ONNX Runtime executes it: its layers, and the graph after all optimisations of this machine.

``ORT_ENABLE_ALL``, because that is what is timed: it also holds the layouts of this CPU (blocked channels, NHWC for
int8) and the Reorder and Transpose operators that they cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.int8.onnx_graph import sort_nodes
from compress.speed.facts import CONVERT, FLOAT, INT8, LAYOUT, Graph, Kernel, Layer

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv", "ConvInteger", "QLinearConv")
PRODUCTS = (
    "Gemm",
    "FusedGemm",
    "QGemm",
    "MatMul",
    "FusedMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
)
LAYERS = (*CONVOLUTIONS, *PRODUCTS)
INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm")
"""Integer arithmetic under another name than QLinear..."""
TO_FLOAT = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
MOVES = (
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Concat",
    "Slice",
    "Shape",
    "Expand",
    "Gather",
    "Split",
)
"""Operators that compute nothing."""
LAYOUTS = ("Transpose", "ReorderInput", "ReorderOutput")
KEEPS = (*MOVES, *LAYOUTS, "MaxPool", "Relu", "Clip", "Pad")
"""Operators whose output has the number format of their input."""
QGEMM_SCALE = 7
"""The input of QGemm that is the output's scale; without it floats come out."""


def read(path: Path) -> Graph:
    """See :func:`compress.speed.facts.read_graph`."""
    import onnx

    model = onnx.load(path)
    sort_nodes(model)  # ONNX Runtime takes files in any order, shape inference does not
    layers = _layers(model)
    done = optimised(path)
    kernels = _kernels(done, _Finder(model, layers))
    ends = {v.name for v in done.graph.input}, {v.name for v in done.graph.output}
    unfused = sum(_inside(node, *ends) for node in done.graph.node)
    return Graph(tuple(layers.values()), kernels, unfused, {})


def optimised(path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of a file before it runs it on this CPU."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def _inside(node: Any, inputs: set[str], outputs: set[str]) -> bool:
    """Is it a conversion between number formats that is not the graph's first or last operation?"""
    return node.op_type in CONVERSIONS and not inputs & set(node.input[:1]) and not outputs & set(node.output)


# --- layers of the file


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors at batch 1, as far as they are known; constants included."""
    import onnx

    model = onnx.ModelProto.FromString(model.SerializeToString())
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.Clear()
                dim.dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return known | {t.name: tuple(t.dims) for t in model.graph.initializer}


def _constant(name: str, makers: dict[str, Any], constants: set[str]) -> str:
    """The constant behind a tensor (through DequantizeLinear and moves), or an empty name."""
    for _ in range(8):
        if name in constants:
            return name
        if name not in makers or not makers[name].input:
            return ""
        name = makers[name].input[0]
    return ""


def _layers(model: onnx.ModelProto) -> dict[str, Layer]:
    """The layers of a file by the name of their first output tensor, in the file's order."""
    shapes = _shapes(model)
    makers = {out: node for node in model.graph.node for out in node.output}
    constants = {t.name for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            place = _weight(node)
            weight = _constant(node.input[place], makers, constants)
            shape = shapes.get(weight) or shapes.get(node.input[place]) or ()
            found[node.output[0]] = _layer(node, weight, shape, shapes.get(node.output[0], ()))
    return found


def _weight(node: Any) -> int:
    """The place of the weights among a layer's inputs: after the first input's scale and zero point where it is quantized."""
    return 3 if node.op_type.startswith("QLinear") or node.op_type == "QGemm" else 1


def _layer(node: Any, weight: str, shape: tuple[int, ...], result: tuple[int, ...]) -> Layer:
    """A layer from the shapes of its weights and of its output."""
    name = weight.removesuffix("_quantized")
    name = name.removesuffix(".weight") if name.endswith(".weight") else node.name or name or node.output[0]
    if node.op_type in CONVOLUTIONS and len(shape) > 2:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        swapped = node.op_type == "ConvTranspose"
        outputs, inputs = (shape[1] * group, shape[0]) if swapped else (shape[0], shape[1] * group)
        macs = prod(result[2:]) * outputs * inputs // group * prod(shape[2:]) if result else 0
        depthwise = group > 1 and group == outputs == inputs
        return Layer(name, node.op_type, macs, inputs, outputs, shape[2:], depthwise, node.name)
    if len(shape) < 2:  # neither operand is known: a product of two images
        return Layer(name, node.op_type, 0, 0, result[-1] if result else 0, node=node.name)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    depth, outputs = shape[-2:][::-1] if transposed else shape[-2:]
    if not result and "Gemm" in node.op_type:  # shape inference knows none of ONNX Runtime's own operators
        result = (1, outputs)
    macs = prod(result) * depth if result else 0
    return Layer(name, node.op_type, macs, depth, outputs, node=node.name)


# --- kernels of the optimised graph


class _Finder:
    """Finds the layer that an operator of the optimised graph computes: by its weights, its bias or its name."""

    def __init__(self, model: onnx.ModelProto, layers: dict[str, Layer]) -> None:
        constants = {t.name for t in model.graph.initializer}
        self.makers = {out: node for node in model.graph.node for out in node.output}
        self.layers = layers
        self.by_constant: dict[str, Layer] = {}
        self.by_node: dict[str, Layer] = {}
        for output, layer in layers.items():
            node = self.makers[output]
            self.by_node[node.name] = layer
            place = _weight(node)  # not scales and zero points, which layers share
            bias = node.input[{1: 2, 3: 6 if node.op_type == "QGemm" else 8}[place] :][:1]
            for name in (node.input[place], *bias):
                constant = _constant(name, self.makers, constants)
                if constant and name not in ("", node.input[0]):
                    self.by_constant.setdefault(constant, layer)

    def __call__(self, node: Any) -> Layer | None:
        if node.op_type not in LAYERS:
            return None
        for name in node.input:
            if name in self.by_constant:
                return self.by_constant[name]
        return self._by_name(node.name) or next(
            (self._behind(out) for out in node.output if self._behind(out)), None
        )

    def _by_name(self, name: str) -> Layer | None:
        """ONNX Runtime names a blocked convolution after the tensor it makes, others after the node they were."""
        plain = name.partition("_token_")[0]
        return self.by_node.get(plain) or self._behind(plain.removesuffix("_nchwc"))

    def _behind(self, tensor: str) -> Layer | None:
        """The layer whose output becomes ``tensor``, through activations that were fused into it."""
        for _ in range(6):
            if tensor in self.layers:
                return self.layers[tensor]
            if tensor not in self.makers or not self.makers[tensor].input:
                return None
            tensor = self.makers[tensor].input[0]
        return None


def _kernels(model: onnx.ModelProto, find: _Finder) -> tuple[Kernel, ...]:
    """The operators of an optimised graph with their states; whether a tensor holds integers is followed from its maker."""
    constants = {t.name for t in model.graph.initializer}
    integers: set[str] = set()
    kernels = []
    for node in model.graph.node:
        sources = tuple(n for n in node.input if n and n not in constants)
        state, whole = _state(node, integers & set(sources[:1]))
        if whole:
            integers.update(node.output[:1])
        kernels.append(
            Kernel(
                node.name,
                node.op_type,
                state,
                sources,
                tuple(node.output),
                find(node),
                node.op_type in MOVES,
            )
        )
    return tuple(kernels)


def _state(node: Any, integer_inputs: Iterable[str]) -> tuple[str, bool]:
    """(state, whether its output holds integers) of one operator."""
    op = node.op_type
    if op in CONVERSIONS:
        return CONVERT, op != "DequantizeLinear"
    if op.startswith("QLinear") or op in INTEGER:
        scaled = op != "QGemm" or list(node.input)[QGEMM_SCALE : QGEMM_SCALE + 1] not in ([], [""])
        return INT8, op not in TO_FLOAT and scaled
    if op == "Cast":
        return CONVERT, False
    whole = op in KEEPS and bool(integer_inputs)
    if op in LAYOUTS:
        return LAYOUT, whole
    return (INT8 if whole else FLOAT), whole
