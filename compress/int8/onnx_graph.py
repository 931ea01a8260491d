"""Float ONNX graphs on their way to int8: the form whose operators ONNX Runtime has integer kernels for.

Measured on an AVX-512 VNNI CPU (onnxruntime 1.32, one thread, batch 1; int8 time over float time, plain QDQ
against this form): ResNet-20 at 32 px 0.45 against 0.44, MobileNetV2 at 96 px 0.48 against 0.46,
MobileNetV3-small at 96 px 1.18 against 0.80, EfficientNet-B0 at 96 px 0.78 against 0.59.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

MOVES = (
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Cast",
    "Concat",
    "Slice",
    "Shape",
)
"""Operators that move numbers and compute nothing: whether they are int8 does not matter."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CLIPS = ("Relu", "Clip")
"""Become part of the layer before them: a scale that ends at 0 or 6 clips by itself."""
GATES = ("HardSigmoid", "Sigmoid")
POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")
SMALL_KERNEL = 32
"""Weights of one output: with no more, as in a 3 x 3 convolution of RGB, integer kernels for dot products run
almost empty, and the float convolution is faster (by 2 to 11% of a net's time)."""


def prepare(source: Path) -> onnx.ModelProto:
    """A float file with shapes, folded constants, a name for every node, and pooling as pooling."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(target))
        model = onnx.load(target)
    _name_nodes(model)
    _pool(model)
    return model


def _name_nodes(model: onnx.ModelProto) -> None:
    """Inlined functions (HardSwish) leave nodes without a name, and the quantizer excludes by name."""
    taken = {node.name for node in model.graph.node}
    for place, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{place}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)


def _pool(model: onnx.ModelProto) -> None:
    """Means over height and width become GlobalAveragePool, which has an integer kernel."""
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info, *graph.output)
    }
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4:
            continue
        axes = attribute(node, "axes", [])
        if len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        kept = attribute(node, "keepdims", 1)
        pooled = node.output[0] if kept else f"{node.output[0]}_pooled"
        made = [helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], node.name)]
        if not kept:
            made.append(helper.make_node("Flatten", [pooled], list(node.output), f"{node.name}_flat"))
            shape = next(v for v in graph.value_info if v.name == node.input[0])
            (entry := graph.value_info.add()).CopyFrom(shape)
            entry.name = pooled
            for axis in (2, 3):
                entry.type.tensor_type.shape.dim[axis].dim_value = 1
        del graph.node[place]
        for offset, new in enumerate(made):
            graph.node.insert(place + offset, new)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, or ``default``."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def layer_name(node: onnx.NodeProto) -> str:
    """``stage1.0`` of the layer with the weights ``stage1.0.weight``; the node's own name for others."""
    weight = node.input[1] if node.op_type in LAYERS and len(node.input) > 1 else ""
    weight = weight.removesuffix("_DequantizeLinear_Output")
    return str(weight.removesuffix(".weight")) if weight.endswith(".weight") else str(node.name)


class Links:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.maker = {out: node for node in model.graph.node for out in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.constants = {i.name for i in model.graph.initializer}
        self.outputs = {o.name for o in model.graph.output}

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor which is not an output of the graph."""
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def activation(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What float kernels fuse into a layer: clips, or a gate and its product with the layer's output."""
        out = node.output[0]
        readers = self.readers.get(out, [])
        yield from (n for n in readers if n.op_type in CLIPS and len(readers) == 1)
        gates = [n for n in readers if n.op_type in GATES]
        for gate in gates:
            products = self.readers.get(gate.output[0], [])
            if all(n.op_type == "Mul" and set(n.input) == {out, gate.output[0]} for n in products):
                yield gate
                yield from products


def small_stems(model: onnx.ModelProto, links: Links) -> list[onnx.NodeProto]:
    """Convolutions of the image itself that are faster in float: see :data:`SMALL_KERNEL`.

    Not before max pooling: ONNX Runtime then rounds first and pools 8-bit channels-first values, which takes
    longer than all convolutions of SqueezeNet together.
    """
    inputs = {i.name for i in model.graph.input}
    shapes = {i.name: list(i.dims) for i in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[0] not in inputs or node.input[1] not in shapes:
            continue
        size = math.prod(shapes[node.input[1]][1:])
        ends = [node, *links.activation(node)]
        pooled = any(r.op_type == "MaxPool" for end in ends for r in links.readers.get(end.output[0], []))
        if size <= SMALL_KERNEL and not pooled:
            found.append(node)
    return found


def ending(model: onnx.ModelProto, links: Links) -> tuple[list[onnx.NodeProto], str]:
    """(nodes after the last one that computes, the tensor it makes): 8 bits would tie classes, so both stay
    float."""
    tail: list[onnx.NodeProto] = []
    tensor = model.graph.output[0].name
    while tensor in links.maker:
        node = links.maker[tensor]
        if node.op_type not in (*MOVES, *CLIPS, *POOLS) or (tail and not links.only_reader(tensor)):
            break
        tail.append(node)
        tensor = node.input[0]
    return tail, tensor


def float_tensor(model: onnx.ModelProto, tensor: str) -> None:
    """Let everything read a tensor itself in place of its quantized copy, in place."""
    links = Links(model)
    if tensor in links.outputs:  # the quantizer gave the name to the copy
        made = links.maker[tensor]
        if made.op_type != "DequantizeLinear" or made.input[0] not in links.maker:
            return
        quantized = links.maker[made.input[0]]
        source = links.maker[quantized.input[0]]
        if links.only_reader(made.input[0]) and links.only_reader(quantized.input[0]):
            source.output[list(source.output).index(quantized.input[0])] = tensor
            model.graph.node.remove(made)
            model.graph.node.remove(quantized)
            drop_unused(model)
        return
    for quantized in links.readers.get(tensor, []):
        if quantized.op_type == "QuantizeLinear":
            for copy in links.readers.get(quantized.output[0], []):
                for reader in links.readers.get(copy.output[0], []):
                    for place, name in enumerate(reader.input):
                        if name == copy.output[0]:
                            reader.input[place] = tensor
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes that nothing reads, and the constants that only they used."""
    graph = model.graph
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        gone = [i for i, node in enumerate(graph.node) if not used.intersection(node.output)]
        if not gone:
            break
        for place in reversed(gone):
            del graph.node[place]
    for place in reversed([i for i, constant in enumerate(graph.initializer) if constant.name not in used]):
        del graph.initializer[place]


def integer_gates(model: onnx.ModelProto) -> None:
    """HardSigmoid of a quantized tensor becomes an addition of integers, in place.

    ``clip(a x + b, 0, 1)`` is a sum that saturates: the same integers read with ``a`` times their scale are
    ``a x``, ``b`` is a constant, and unsigned integers on a scale of 1 / 255 end at 0 and 1. ONNX Runtime has
    an integer kernel for Add and none for HardSigmoid.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph, links = model.graph, Links(model)
    constants = {i.name: i for i in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        source = links.maker.get(node.input[0]) if node.op_type == "HardSigmoid" else None
        readers = links.readers.get(node.output[0], [])
        if source is None or source.op_type != "DequantizeLinear" or source.input[1] not in constants:
            continue
        if not readers or any(n.op_type != "QuantizeLinear" for n in readers):
            continue
        slope, offset = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        scale = numpy_helper.to_array(constants[source.input[1]]) * np.float32(slope)
        name = node.name
        for value, suffix in (
            (scale.astype(np.float32), "scale"),
            (np.array(255, np.uint8), "offset"),
            (np.array(offset / 255, np.float32), "offset_scale"),
            (np.array(0, np.uint8), "offset_zero_point"),
        ):
            graph.initializer.append(numpy_helper.from_array(value, f"{name}_{suffix}"))
        scaled = [source.input[0], f"{name}_scale", source.input[2]]
        constant = [f"{name}_offset", f"{name}_offset_scale", f"{name}_offset_zero_point"]
        made = [
            helper.make_node("DequantizeLinear", scaled, [f"{name}_scaled"], f"{name}_read"),
            helper.make_node("DequantizeLinear", constant, [f"{name}_constant"], f"{name}_offset_read"),
            helper.make_node("Add", [f"{name}_scaled", f"{name}_constant"], list(node.output), name),
        ]
        del graph.node[place]
        for offset_, new in enumerate(made):
            graph.node.insert(place + offset_, new)
    drop_unused(model)


def sort_nodes(model: onnx.ModelProto) -> None:
    """Bring the nodes into an order in which each comes after what it reads, as the format demands; in place."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as it ships: the same bytes every time and nothing about the machine that made it.

    The exporter stores stack traces with file paths on every node, and the quantizer lists
    operator domains that no node uses; it also adds nodes in an order that strict readers refuse.
    """
    sort_nodes(model)
    graph = model.graph
    parts: Sequence[Any] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in parts:
        del part.metadata_props[:]
    used = {node.domain for node in graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    path.write_bytes(model.SerializeToString(deterministic=True))
