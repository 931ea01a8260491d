"""An ONNX file as a :class:`~hardware_profiles.prediction.graph.Graph`, at batch 1, with its quantization left in the operators.

``QuantizeLinear`` and ``DequantizeLinear`` are no work of their own: runtimes fuse them into the operators between
them, which are marked ``quantized``. Operators that compute with one constant number (the parts of a GELU or of a
hard swish) are none either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.prediction.graph import (
    ACT,
    ADD,
    CONV,
    GEMM,
    MATMUL,
    MOVE,
    MUL,
    NORM,
    OTHER,
    POOL,
    SOFTMAX,
    Graph,
    Op,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx

KIND = {
    "Conv": CONV, "ConvTranspose": CONV, "Gemm": GEMM, "MatMul": GEMM,
    "BatchNormalization": NORM, "LayerNormalization": NORM, "GroupNormalization": NORM, "InstanceNormalization": NORM,
    "Add": ADD, "Sub": ADD, "Sum": ADD, "Mul": MUL, "Div": MUL, "Pow": MUL, "Softmax": SOFTMAX, "LogSoftmax": SOFTMAX,
}  # fmt: skip
ACTS = frozenset(
    [
        "Relu",
        "Clip",
        "Sigmoid",
        "HardSwish",
        "HardSigmoid",
        "Tanh",
        "Gelu",
        "Erf",
        "Exp",
        "Softplus",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Mish",
        "Swish",
        "Selu",
        "Min",
        "Max",
    ]
)
POOLS = frozenset(
    [
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "LpPool",
    ]
)
MOVES = frozenset(
    [
        "Concat",
        "Transpose",
        "Pad",
        "Resize",
        "Upsample",
        "Gather",
        "GatherElements",
        "DepthToSpace",
        "SpaceToDepth",
        "Tile",
        "Expand",
    ]
)
FREE = frozenset(
    [
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Identity",
        "Cast",
        "Constant",
        "ConstantOfShape",
        "Shape",
        "Size",
        "Range",
        "Slice",
        "Split",
        "Dropout",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Where",
        "Equal",
        "Less",
        "Greater",
        "Not",
        "And",
        "Or",
        "Floor",
        "Ceil",
        "Round",
        "Mod",
        "NonZero",
        "Trilu",
        "EyeLike",
        "CumSum",
    ]
)
"""No work, or work on shapes."""
RELUS = ("Relu", "Clip", "Min", "Max")
INTEGER = re.compile(r"QLinear\w+|QGemm|ConvInteger|MatMulInteger")
"""Operators that compute in integers by themselves, where others stand between QuantizeLinear and DequantizeLinear."""
DIALECT = re.compile(r"^(QLinear|Fused|Q(?=Gemm))|Integer$|^N(?=hwc)")
"""What onnxruntime adds to the name of the operator that it does."""
WEIGHT = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3}
"""Where operators have their weights; others: second."""


def plain(name: str) -> str:
    """``QLinearConv`` and ``ConvInteger`` as ``Conv``."""
    return DIALECT.sub("", name)


def quantizes(node: Any) -> bool:
    """Does an operator compute in integers, or convert to or from them?"""
    return node.op_type in ("QuantizeLinear", "DequantizeLinear") or bool(INTEGER.fullmatch(node.op_type))


def read(source: Path | onnx.ModelProto, size: tuple[int, int] | None = None) -> Graph:
    """The graph of an ONNX file, or of a model that is loaded. ``size``: height and width where the file leaves them free.

    Raises:
        FreeSizeError: the file leaves them free and there is no ``size``.
        ValueError: it cannot be read, has a size of its own beside ``size``, or no shapes to count with.
    """
    import onnx

    model = source if isinstance(source, onnx.ModelProto) else _load(source)
    shapes = _shapes(_sized(model, size))
    reader = _Reader(model, shapes)
    for node in model.graph.node:
        reader.take(node)
    inputs = [v.name for v in model.graph.input if v.name not in reader.constants]
    ops, notes = reader.finished()
    if not any(op.macs for op in ops):
        raise ValueError("the file has no convolution or matrix product whose shape is known")
    outputs = sum(_size(shapes.get(v.name, ())) for v in model.graph.output)
    return Graph(ops, sum(_size(shapes.get(n, ())) for n in inputs), outputs, reader.int8, notes)


class FreeSizeError(ValueError):
    """The file is for images of any size."""


def _sized(model: onnx.ModelProto, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The model for images of that size, where it leaves that open."""
    import onnx

    constants = {t.name for t in model.graph.initializer}
    images = [
        v for v in model.graph.input if v.name not in constants and len(v.type.tensor_type.shape.dim) == 4
    ]
    free = False
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        if value.name not in {v.name for v in images}:
            continue
        dims = value.type.tensor_type.shape.dim
        last = not dims[1].dim_value and 0 < dims[3].dim_value <= 4  # channels last
        for place, pixels in zip((1, 2) if last else (2, 3), size or (0, 0), strict=True):
            if not dims[place].dim_value:
                free = True
                dims[place].Clear()
                dims[place].dim_value = pixels
    if free and size is None:
        raise FreeSizeError("it is for images of any size")
    if size is not None and not free:
        raise ValueError("it has a size of its own")
    return sized


def _load(path: Path) -> onnx.ModelProto:
    import onnx

    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's own classes, and OSError
        raise ValueError(f"it is not an ONNX file: {' '.join(str(error).split())[:200]}") from error


def _size(shape: tuple[int, ...]) -> int:
    return prod(shape) if shape else 0


SHAPED: dict[str, tuple[str, slice | tuple[int, ...]]] = {
    "QLinearAdd": ("Add", (0, 3)), "QLinearMul": ("Mul", (0, 3)), "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearSigmoid": ("Identity", (0,)), "QLinearLeakyRelu": ("Identity", (0,)), "QLinearSoftmax": ("Identity", (0,)),
    "QLinearAveragePool": ("AveragePool", (0,)), "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "Gelu": ("Identity", (0,)), "FastGelu": ("Identity", (0,)), "QuickGelu": ("Identity", (0,)), "BiasGelu": ("Identity", (0,)),
    "FusedConv": ("Conv", slice(None)), "FusedGemm": ("Gemm", slice(None)),
}  # fmt: skip
"""onnxruntime's own operators, and those of ONNX whose results have the same shape, with the inputs that decide it."""


def _standard(node: Any) -> None:
    """Make an operator of onnxruntime's one of ONNX's, whose shape can be inferred."""
    if node.domain != "com.microsoft" or node.op_type not in SHAPED:
        return
    name, places = SHAPED[node.op_type]
    inputs = node.input[places] if isinstance(places, slice) else [node.input[i] for i in places]
    del node.input[:]
    node.input.extend(inputs)
    node.op_type, node.domain = name, ""


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors with one image; sizes that nobody knows count as 1."""
    import onnx

    hollow = onnx.ModelProto()
    hollow.CopyFrom(model)
    for value in hollow.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.Clear()
                dim.dim_value = 1
    del hollow.graph.value_info[:]
    for value in hollow.graph.output:
        value.type.tensor_type.ClearField("shape")
    for node in hollow.graph.node:
        _standard(node)
    try:
        inferred = onnx.shape_inference.infer_shapes(hollow, data_prop=True).graph
    except Exception as error:
        raise ValueError(f"its shapes cannot be inferred: {' '.join(str(error).split())[:200]}") from error
    known = {
        v.name: tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return known | {t.name: tuple(t.dims) for t in model.graph.initializer}


@dataclass
class _Reader:
    """Walks the nodes in order; ``maker`` has the place of the operator behind each tensor."""

    model: onnx.ModelProto
    shapes: dict[str, tuple[int, ...]]
    ops: list[Op | None] = field(default_factory=list)
    maker: dict[str, int] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    int8: bool = False

    def __post_init__(self) -> None:
        self.constants = {t.name for t in self.model.graph.initializer}
        self.dequantized: set[str] = set()

    def take(self, node: Any) -> None:
        held = [n for n in node.input if n in self.constants]
        acts = [n for n in node.input if n and n not in self.constants]
        if not acts and node.op_type != "Constant" and not node.input:
            return
        if not acts:  # made of constants alone
            self.constants.update(node.output)
            for n in node.output:
                self.shapes.setdefault(n, self.shapes.get(held[0], ()) if held else ())
            return
        sources = tuple(dict.fromkeys(self.maker[n] for n in acts if n in self.maker))
        if quantizes(node):
            self.int8 = True
        if node.op_type == "DequantizeLinear":
            self.dequantized.update(node.output)
        if node.op_type in FREE or self.one_number(node, acts, held) or not node.output:
            for n in node.output:
                if sources:
                    self.maker[n] = sources[0]
            return
        if self.gate(node, sources):
            return
        self.maker.update(dict.fromkeys(node.output, len(self.ops)))
        self.ops.append(self.op(node, acts, held, sources))

    def one_number(self, node: Any, acts: list[str], held: list[str]) -> bool:
        """Does it compute with one constant number, element by element?"""
        simple = KIND.get(node.op_type) in (ADD, MUL) or node.op_type in ("Min", "Max")
        return simple and len(acts) == 1 and bool(held) and _size(self.shapes.get(held[0], ())) <= 1

    def gate(self, node: Any, sources: tuple[int, ...]) -> bool:
        """Is it ``x * act(x)`` (swish, hard swish, GELU)? Then the activation becomes all of it."""
        if node.op_type != "Mul" or not 1 <= len(sources) <= 2:
            return False
        for place in sources:
            op = self.ops[place]
            if op is not None and op.kind == ACT and set(op.sources) == set(sources) - {place}:
                self.ops[place] = replace(op, what="swish")
                self.maker.update(dict.fromkeys(node.output, place))
                return True
        return False

    def op(self, node: Any, acts: list[str], held: list[str], sources: tuple[int, ...]) -> Op:
        kind = self.kind(node)
        out = self.shapes.get(node.output[0], ())
        reads = sum(_size(self.shapes.get(n, ())) for n in dict.fromkeys(acts))
        stored = [n for n in held if n not in self.counted]
        self.counted.update(stored)
        weights = sum(_size(self.shapes.get(n, ())) for n in stored)
        name = node.name or node.output[0]
        what = "layer_norm" if node.op_type in ("LayerNormalization", "GroupNormalization") else node.op_type
        what = "relu" if node.op_type in RELUS else what
        op = Op(
            name,
            kind,
            what,
            reads,
            _size(out),
            weights=weights,
            sources=sources,
            quantized=self.in_int8(node),
        )
        if kind == CONV:
            return self.convolution(op, node, out)
        if kind in (GEMM, MATMUL):
            return self.product(op, node, acts, held, out)
        if kind in (ADD, MUL) and len(acts) == 1:
            return replace(op, kind=NORM, what="affine")
        return op

    def kind(self, node: Any) -> str:
        name = plain(node.op_type)
        if name in KIND:
            return KIND[name]
        for names, kind in ((ACTS, ACT), (POOLS, POOL), (MOVES, MOVE)):
            if name in names:
                return kind
        self.unknown.add(node.op_type)
        return OTHER

    def in_int8(self, node: Any) -> bool:
        return bool(INTEGER.fullmatch(node.op_type)) or bool(
            self.dequantized & {n for n in node.input[:1] if n not in self.constants}
        )

    def convolution(self, op: Op, node: Any, out: tuple[int, ...]) -> Op:
        weight = self.shapes.get(node.input[WEIGHT.get(node.op_type, 1)], ())
        if len(weight) < 3 or len(out) < 3:
            return op
        attributes = {a.name: a for a in node.attribute}
        groups = attributes["group"].i if "group" in attributes else 1
        strides = tuple(attributes["strides"].ints) if "strides" in attributes else (1,)
        source = self.shapes.get(node.input[0], ())
        swapped = node.op_type == "ConvTranspose"
        pixels = prod(source[2:]) if swapped else prod(out[2:])
        kernel = (weight[2], weight[3]) if len(weight) > 3 else (1, weight[2])
        cin = weight[0] if swapped else weight[1] * groups
        return replace(op, macs=pixels * prod(weight), cin=cin, cout=out[1], pixels=pixels, kernel=kernel,
                       stride=max(strides), groups=groups)  # fmt: skip

    def product(self, op: Op, node: Any, acts: list[str], held: list[str], out: tuple[int, ...]) -> Op:
        first = self.shapes.get(node.input[0], ())
        if first and not out and node.op_type == "QGemm":  # nobody infers the shape of its result
            weight = self.shapes.get(node.input[WEIGHT["QGemm"]], ())
            wide = weight[0] if any(a.name == "transB" and a.i for a in node.attribute) else weight[-1]
            out = self.shapes[node.output[0]] = (*first[:-1], wide)
            op = replace(op, writes=_size(out))
        if not first or not out:
            return op
        depth = first[-2] if any(a.name == "transA" and a.i for a in node.attribute) else first[-1]
        kind = GEMM if any(len(self.shapes.get(n, ())) > 1 for n in held) else MATMUL
        rows = out[-2] if len(out) > 1 else 1
        if kind == GEMM:
            rows = prod(out[:-1]) or 1
        groups = 1 if kind == GEMM else max(prod(out[:-2]), 1)
        return replace(
            op, kind=kind, macs=prod(out) * depth, cin=depth, cout=out[-1], pixels=rows, groups=groups
        )

    def finished(self) -> tuple[tuple[Op, ...], tuple[str, ...]]:
        ops = tuple(op for op in self.ops if op is not None)
        notes = (
            (f"counted by what they read and write only: {', '.join(sorted(self.unknown))}",)
            if self.unknown
            else ()
        )
        return ops, notes
