"""ONNX files in fewer bits: static int8 as QDQ, dynamic int8, float16.

Schemes of static int8 (weights symmetric, per channel unless asked otherwise):

========  =====================  ==========================================================
u8s8      uint8 / int8           CPUs with VNNI or ARM dot products
u8s8-7bit uint8 / int8, 7 bits   x86 without VNNI: pairs of 8-bit products saturate in 16 bits
s8s8      int8 / int8 symmetric  TensorRT
========  =====================  ==========================================================

The u8s8 schemes write the graph of :mod:`compress.int8.onnx_graph`, made for CPUs; s8s8 is plain QDQ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StepError
from compress.int8 import onnx_graph, ranges
from compress.int8.onnx_graph import Links, layer_name, save_onnx

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Images = NDArray[np.float32]


@dataclass(frozen=True)
class Scheme:
    """Number formats: of activations, and the largest integer of a weight."""

    activation: str
    symmetric: bool
    weight_limit: int


SCHEMES = {
    "u8s8": Scheme("QUInt8", False, 127),
    "u8s8-7bit": Scheme("QUInt8", False, 64),
    "s8s8": Scheme("QInt8", True, 127),
}
BUDGET = 2**24
"""Values of all activations of one batch: 64 MiB."""
LARGEST_BATCH = 32


# --- running the float graph ----------------------------------------------------------------


def collect(model: onnx.ModelProto, batches: Iterable[Images]) -> dict[str, ranges.Histogram]:
    """Histograms of every tensor that may be quantized, over calibration batches (n, C, H, W).

    Raises:
        StepError: when a tensor has values that are not finite.
    """
    return ranges.collect(values(model, batches, _watched(model)))


def values(
    model: onnx.ModelProto, batches: Iterable[Images], names: Sequence[str], emulate: bool = False
) -> Iterator[dict[str, Images]]:
    """The named tensors of a graph for each batch, cut into parts whose activations fit into :data:`BUDGET`.

    ``emulate`` runs it operator by operator without integer kernels.
    """
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    entry = model.graph.input[0].name
    present = {o.name for o in model.graph.output}
    wanted = [name for name in names if name != entry]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep the largest batch's memory, twice
    if emulate:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    size = 1
    for batch in batches:
        start = 0
        while start < len(batch):
            part = batch[start : start + size]
            start += len(part)
            found = {entry: part} if entry in names else {}
            found |= zip(wanted, session.run(wanted, {entry: part}), strict=True)
            each = max(1, sum(v.size for v in found.values()) // len(part))
            size = max(1, min(LARGEST_BATCH, BUDGET // each))
            yield found


def _watched(model: onnx.ModelProto) -> list[str]:
    """The float tensors that nodes read and make, but for those before a clip: they have its range."""
    import onnx

    links = Links(model)
    known = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    floats = {v.name for v in known if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    made = [i.name for i in model.graph.input] + [out for node in model.graph.node for out in node.output]
    return [name for name in made if name in floats - links.constants and not _before_clip(links, name)]


def _before_clip(links: Links, tensor: str) -> str:
    """The tensor after the clip that alone reads this one, or an empty name."""
    reader = links.only_reader(tensor)
    clips = reader is not None and reader.op_type in onnx_graph.CLIPS and reader.input[0] == tensor
    return str(reader.output[0]) if reader is not None and clips else ""


# --- static int8 --------------------------------------------------------------------------


def write(
    model: onnx.ModelProto,
    target: Path,
    scheme: str,
    found: Mapping[str, ranges.Range],
    per_channel: bool = True,
    float_layers: Sequence[str] = (),
) -> tuple[str, ...]:
    """Write a prepared float graph (:func:`compress.int8.onnx_graph.prepare`) as QDQ int8 with given ranges.

    Args:
        scheme: a key of :data:`SCHEMES`.
        found: the range of every float activation (:func:`compress.int8.ranges.find`); of a tensor before Relu or
        Clip it may lack.
        float_layers: regular expressions for names of layers (:func:`compress.int8.onnx_graph.layer_name`) or
        nodes that stay float.

    Returns:
        Notes: how many layers are int8, what stayed in float and why, what was guarded.

    Raises:
        StepError: when nothing in the model can be quantized, or no name of ``float_layers`` is in it.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    chosen, links = SCHEMES[scheme], Links(model)
    excluded, notes = _excluded(made, links, scheme, float_layers)
    tail, logits = onnx_graph.ending(made, links)
    excluded |= {node.name for node in tail}
    every = _completed(made, links, found, chosen)
    overrides, guarded = _guarded_weights(made, every, chosen, per_channel, excluded)
    quantizer = _quantizer(made, chosen, every, per_channel, sorted(excluded), overrides)
    quantizer.quantize_model()
    done = quantizer.model.model
    onnx_graph.float_tensor(done, logits)
    if not chosen.symmetric:
        onnx_graph.integer_gates(done)
    counted = notes_of(done)
    save_onnx(done, target)
    return (*counted, *notes, *ranges.guard_note(0, guarded))


def _excluded(
    model: onnx.ModelProto, links: Links, scheme: str, patterns: Sequence[str]
) -> tuple[set[str], tuple[str, ...]]:
    """Names of the nodes that stay float, and why."""
    notes = []
    chosen = [n for n in model.graph.node if matches(patterns, (layer_name(n), n.name))]
    if patterns and not chosen:
        layers = [layer_name(n) for n in model.graph.node if n.op_type in onnx_graph.LAYERS]
        raise unknown_layers(patterns, layers)
    if chosen:
        notes.append(f"kept float as asked: {', '.join(layer_name(n) for n in chosen)}")
    stems = [] if SCHEMES[scheme].symmetric else onnx_graph.small_stems(model, links)
    layers = [n for n in model.graph.node if n.op_type in onnx_graph.LAYERS]
    stems = [n for n in stems if n not in chosen and len(layers) > 1]
    if stems:
        notes.append(
            f"{', '.join(layer_name(n) for n in stems)} stays float: its few weights per output run faster so"
        )
    nodes = [*chosen, *stems]
    nodes += [n for node in nodes for n in links.activation(node)]
    return {n.name for n in nodes}, tuple(notes)


def matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether one of the regular expressions is one of the names."""
    return any(p == name or re.fullmatch(p, name) for p in patterns for name in names)


def unknown_layers(patterns: Sequence[str], layers: Sequence[str]) -> StepError:
    """The error for names of layers that a file does not have."""
    more = ", ..." if len(layers) > 8 else ""
    return StepError(
        f"No layer is named {' or '.join(patterns)}",
        todo=f"Names are modules of the model, or regular expressions: {', '.join(layers[:8])}{more}",
    )


def _completed(
    model: onnx.ModelProto, links: Links, found: Mapping[str, ranges.Range], scheme: Scheme
) -> dict[str, ranges.Range]:
    """Ranges with those that follow from others: before a clip as after it, gates from 0 to 1."""
    every = dict(found)
    for node in model.graph.node:
        for name in node.output:
            after = _before_clip(links, name)
            if after in every:
                every[name] = every[after]
        if node.op_type in onnx_graph.GATES and not scheme.symmetric and node.output[0] in every:
            every[node.output[0]] = (0.0, 1.0)
    return every


def _guarded_weights(
    model: onnx.ModelProto,
    found: Mapping[str, ranges.Range],
    scheme: Scheme,
    per_channel: bool,
    excluded: set[str],
) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """Scales of the weights that need a guard, for ONNX Runtime, and how many scales were raised."""
    import numpy as np
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    raised = 0
    for node in model.graph.node:
        layer = node.op_type in ("Conv", "Gemm") and len(node.input) > 1 and node.input[1] in constants
        if not layer or node.name in excluded or node.input[0] not in found:
            continue
        weights = numpy_helper.to_array(constants[node.input[1]])
        axis = 0 if node.op_type == "Conv" or onnx_graph.attribute(node, "transB", 0) else 1
        rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        scales, count = ranges.weight_scales(
            rows if per_channel else rows.reshape(1, -1),
            numpy_helper.to_array(bias) if bias is not None else None,
            ranges.grid(found[node.input[0]], scheme.symmetric)[0],
            scheme.weight_limit,
        )
        if count:
            raised += count
            where = {"axis": axis} if per_channel else {}
            overrides[node.input[1]] = [{"scale": s, "zero_point": np.int8(0), **where} for s in scales]
    return overrides, raised


def _quantizer(
    model: onnx.ModelProto,
    scheme: Scheme,
    found: Mapping[str, ranges.Range],
    per_channel: bool,
    excluded: list[str],
    overrides: dict[str, list[dict[str, Any]]],
) -> Any:
    """ONNX Runtime's QDQ quantizer: what its ``quantize_static`` uses after its own calibration."""
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in found.items()
    }
    return QDQQuantizer(
        model,
        per_channel,
        scheme.weight_limit < 127,
        QuantType.QInt8,
        QuantType[scheme.activation],
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        excluded,
        sorted({*QDQRegistry, *QLinearOpsRegistry}),
        {
            "ActivationSymmetric": scheme.symmetric,
            "WeightSymmetric": True,
            "TensorQuantOverrides": overrides,
        },
    )


# --- dynamic int8 and float16 -----------------------------------------------------------------


def to_dynamic(
    source: Path, target: Path, scheme: str, per_channel: bool = True, float_layers: Sequence[str] = ()
) -> tuple[str, ...]:
    """Weights of matrix products in int8, their inputs quantized at run time; returns notes.

    Convolutions stay float: ONNX Runtime's ConvInteger took 11 times as long as the float net for ResNet-20
    and 10 times for MobileNetV3-small (onnxruntime 1.32, AVX-512 VNNI).

    Raises:
        StepError: when the model has no matrix product.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx_graph.prepare(source)
    excluded, notes = _excluded(model, Links(model), "s8s8", float_layers)
    prepared = target.with_suffix(".prepared.onnx")
    onnx.save(model, prepared)
    quantize_dynamic(
        str(prepared),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=per_channel,
        reduce_range=SCHEMES[scheme].weight_limit < 127,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=sorted(excluded),
    )
    prepared.unlink()
    made = onnx.load(target)
    save_onnx(made, target)
    products = sum(n.op_type in ("MatMulInteger", "DynamicQuantizeMatMul") for n in made.graph.node)
    convolutions = sum(n.op_type == "Conv" for n in made.graph.node)
    if not products:
        raise nothing_quantized(convolutions)
    float_note = f"{convolutions} convolutions stay float (ConvInteger is slower)" if convolutions else ""
    return tuple(filter(None, (f"int8: {products} matrix products, dynamic", float_note, *notes)))


def to_fp16(source: Path, target: Path) -> tuple[str, ...]:
    """Weights and arithmetic in float16, float32 input and output (casts inside the graph). Returns notes."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    save_onnx(model, target)
    casts = sum(n.op_type == "Cast" for n in model.graph.node)
    return (f"float16 inside, {casts} casts",)


# --- what became int8 -----------------------------------------------------------------------


def notes_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Count the layers whose image and weights both arrive through DequantizeLinear, and the float operators.

    An operator without an integer kernel in ONNX Runtime stays float even between quantized tensors.

    Raises:
        StepError: when no layer is int8.
    """
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    skipped = ("QuantizeLinear", "DequantizeLinear", *onnx_graph.MOVES, *onnx_graph.CLIPS)
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    layers: dict[str, list[bool]] = {"convolutions": [], "matrix products": []}
    floats: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in skipped:
            continue
        if node.op_type in onnx_graph.LAYERS:
            kind = "convolutions" if node.op_type.startswith("Conv") else "matrix products"
            layers[kind].append(all(name in dequantized for name in node.input[:2]))
        elif node.input[0] not in dequantized or node.op_type not in {**QDQRegistry, **QLinearOpsRegistry}:
            floats[node.op_type] += 1
    return layer_notes(layers, floats)


def layer_notes(layers: Mapping[str, Sequence[bool]], floats: Mapping[str, int]) -> tuple[str, ...]:
    """``int8: 20 of 21 convolutions, 1 of 1 matrix products`` and the operators that are still float.

    Raises:
        StepError: when no layer is int8.
    """
    if not any(any(done) for done in layers.values()):
        raise nothing_quantized(sum(len(v) for v in layers.values()))
    counts = ", ".join(f"{sum(done)} of {len(done)} {kind}" for kind, done in layers.items() if done)
    notes = [f"int8: {counts}"]
    if floats:
        notes.append("still float: " + ", ".join(f"{op} x{n}" for op, n in sorted(floats.items())))
    return tuple(notes)


def nothing_quantized(layers: int) -> StepError:
    """The error for a model without a quantizable layer."""
    return StepError(
        "Nothing in the model could be quantized",
        found=f"{layers} convolutions and matrix products, none in int8",
        todo="Keep this model in fp32 or fp16",
    )
