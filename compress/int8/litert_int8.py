"""TFLite files in fewer bits: static int8 (float32 or int8 input), dynamic int8, float16 weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StepError, missing_extra
from compress.int8 import onnx_int8, ranges
from compress.int8.litert_graph import Graph, outside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
LAYERS = (*CONVOLUTIONS, "FULLY_CONNECTED")
LIMIT = 127
"""The largest integer of a weight."""
ROUNDS = 4
"""Operators in float between int8 ones can leave others without a kernel: so often the file is looked at."""


def _quantizer() -> Any:
    try:
        import ai_edge_quantizer
    except ImportError as error:
        raise missing_extra("ai-edge-quantizer", "litert", "quantizing a TFLite model") from error
    return ai_edge_quantizer


def values(source: Path, batches: Iterable[Images], names: Mapping[str, int]) -> Iterator[dict[str, Images]]:
    """The named tensors (name: index) for each image of batches (n, C, H, W), which is fed as 1 x H x W x C."""
    import warnings

    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():  # that keeping every tensor costs memory
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_path=str(source), num_threads=1, experimental_preserve_all_tensors=True
        )
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    for batch in batches:
        for image in batch:
            interpreter.set_tensor(entry["index"], _fed(image, entry))
            interpreter.invoke()
            yield {name: interpreter.get_tensor(index) for name, index in names.items()}


def _fed(image: Images, entry: Any) -> NDArray[Any]:
    """An image C x H x W as the 1 x H x W x C that an input takes, quantized where that is int8."""
    import numpy as np

    rows = np.ascontiguousarray(image.transpose(1, 2, 0))[None]
    scale, zero = entry["quantization"]
    return np.clip(np.round(rows / scale) + zero, -128, 127).astype(np.int8) if scale else rows


def collect(source: Path, batches: Iterable[Images]) -> dict[str, ranges.Histogram]:
    """Histograms of every float activation of a file, over calibration batches (n, C, H, W).

    Raises:
        MissingError: when ai-edge-quantizer is not installed.
        StepError: when a tensor has values that are not finite.
    """
    _quantizer()
    graph = Graph(source)
    padded = {graph.name(op.outputs[0]) for kind, op in graph.operators if kind == "PADV2"}
    # Max pooling pads with minus infinity, which is nobody's activation.
    return ranges.collect(
        {name: v[v > -float("inf")] if name in padded else v for name, v in image.items()}
        for image in values(source, batches, graph.activations())
    )


# --- static int8 --------------------------------------------------------------------------


def write(
    source: Path,
    target: Path,
    found: Mapping[str, ranges.Range],
    per_channel: bool = True,
    float_layers: Sequence[str] = (),
    int8_input: bool = False,
) -> tuple[str, ...]:
    """Write a float file as int8 with given ranges; the logits stay float32.

    Operators for which XNNPACK has an int8 kernel are int8. The others would run on reference kernels and cut the graph
    into parts: MobileNetV3-small at 96 px took 2.5 times as long as in float with int8 hard swish, and 0.64 times as long
    with hard swish in float (ai-edge-litert 2.3, AVX-512 VNNI, one thread).

    Args:
        found: the range of every float activation by its name in the file (:func:`compress.int8.ranges.find`).
        float_layers: regular expressions for names of layers (:meth:`Graph.layer`) or output tensors that
        stay float.
        int8_input: the file takes int8 images, and is int8 throughout, also where XNNPACK is slow: for devices without
            float arithmetic. Else it takes float32 and quantizes them itself.

    Returns:
        Notes: how many layers are int8, what stayed in float, what was guarded.

    Raises:
        StepError: when nothing in the model can be quantized, or no name of ``float_layers`` is in it.
        MissingError: when ai-edge-quantizer is not installed.
    """
    import numpy as np

    _quantizer()
    graph = Graph(source)
    # One number of the tensor's rank: what the quantizer's own calibration gives.
    ones = {name: [1] * len(graph.main.tensors[index].shape) for name, index in graph.activations().items()}
    figures = {
        n: {"min": np.full(ones[n], a), "max": np.full(ones[n], b)}
        for n, (a, b) in found.items()
        if n in ones
    }
    guards, raised = _guarded_weights(graph, found, per_channel)
    figures |= guards
    chosen = _chosen(graph, float_layers)
    slow: dict[str, str] = {}
    hopeless = set() if int8_input else outside(source)
    for _ in range(ROUNDS):
        _quantize(source, target, figures, graph, [*chosen, *slow], per_channel, int8_input)
        more = (
            {}
            if int8_input
            else {n: k for n, k in _kinds(graph, outside(target) - hopeless).items() if n not in slow}
        )
        if not more:
            break
        slow |= more
    notes = [f"kept float as asked: {', '.join(dict.fromkeys(chosen.values()))}"] if chosen else []
    if slow:
        kinds = ", ".join(f"{kind} x{n}" for kind, n in sorted(Counter(slow.values()).items()))
        notes.append(f"float, for XNNPACK has no int8 kernel: {kinds}")
    return (*notes_of(target), *notes, *ranges.guard_note(0, raised))


def _kinds(graph: Graph, names: set[str]) -> dict[str, str]:
    """Kind of the operator that makes each named tensor, for those of this graph."""
    return {
        graph.name(op.outputs[0]): kind for kind, op in graph.operators if graph.name(op.outputs[0]) in names
    }


def _quantize(
    source: Path,
    target: Path,
    figures: Mapping[str, Any],
    graph: Graph,
    floats: Sequence[str],
    per_channel: bool,
    int8_input: bool,
) -> None:
    """One run of the quantizer; ``floats`` are output tensors of operators that stay float."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    plan = recipe_manager.RecipeManager()
    plan.add_static_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
        weight_granularity=_granularity(per_channel),
    )
    ends = [qtyping.TFLOperationName.OUTPUT]
    ends += [] if int8_input else [qtyping.TFLOperationName.INPUT]
    for end in ends:
        plan.add_quantization_config(".*", end, algorithm_key=recipe_manager.AlgorithmName.NO_QUANTIZE)
    _keep_float(plan, graph, floats)
    tool = quantizer.Quantizer(str(source), plan.get_quantization_recipe())
    # A copy: the quantizer changes the ranges of tensors whose scale a kernel fixes.
    made = tool.quantize({n: dict(f) for n, f in figures.items()}, enable_progress_report=False)
    target.write_bytes(bytes(made.quantized_model))


def _granularity(per_channel: bool) -> Any:
    from ai_edge_quantizer import qtyping

    return qtyping.QuantGranularity.CHANNELWISE if per_channel else qtyping.QuantGranularity.TENSORWISE


def _chosen(graph: Graph, patterns: Sequence[str]) -> dict[str, str]:
    """Output tensor and layer of the operators that ``patterns`` name."""
    chosen = {
        graph.name(op.outputs[0]): graph.layer(op)
        for _, op in graph.operators
        if onnx_int8.matches(patterns, (graph.layer(op), graph.name(op.outputs[0])))
    }
    if patterns and not chosen:
        layers = [graph.layer(op) for kind, op in graph.operators if kind in LAYERS]
        raise onnx_int8.unknown_layers(patterns, layers)
    return chosen


def _keep_float(plan: Any, graph: Graph, tensors: Sequence[str]) -> None:
    """Exclude the operators that make these tensors."""
    from ai_edge_quantizer import qtyping, recipe_manager

    for _, op in graph.operators:
        if graph.name(op.outputs[0]) in tensors:
            plan.add_quantization_config(
                f"^{re.escape(graph.scope(op))}$",
                qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=recipe_manager.AlgorithmName.NO_QUANTIZE,
            )


def _guarded_weights(
    graph: Graph, found: Mapping[str, ranges.Range], per_channel: bool
) -> tuple[dict[str, Any], int]:
    """Ranges of the weights that need a guard, for the quantizer, and how many scales were raised."""
    import numpy as np

    figures: dict[str, Any] = {}
    raised = 0
    for kind, op in graph.operators:
        weights = graph.constant(op.inputs[1]) if kind in LAYERS and len(op.inputs) > 1 else None
        image = graph.name(op.inputs[0])
        if weights is None or image not in found:
            continue
        axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
        rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
        scales, count = ranges.weight_scales(
            rows if per_channel else rows.reshape(1, -1),
            graph.constant(op.inputs[2]) if len(op.inputs) > 2 else None,
            ranges.grid(found[image])[0],
            LIMIT,
        )
        if count:
            raised += count
            shape = [-1 if a == axis and per_channel else 1 for a in range(weights.ndim)]
            limits = (scales * LIMIT).reshape(shape)
            figures[graph.name(op.inputs[1])] = {"min": -limits, "max": limits}
    return figures, raised


# --- dynamic int8 and float16 -----------------------------------------------------------------


def to_dynamic(
    source: Path, target: Path, per_channel: bool = True, float_layers: Sequence[str] = ()
) -> tuple[str, ...]:
    """Weights in int8, activations float32 and quantized inside the kernels at run time; returns notes.

    Raises:
        StepError: when nothing in the model can be quantized, or no name of ``float_layers`` is in it.
        MissingError: when ai-edge-quantizer is not installed.
    """
    _quantizer()
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    graph = Graph(source)
    plan = recipe_manager.RecipeManager()
    plan.add_dynamic_config(
        ".*", qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=8, granularity=_granularity(per_channel)
    )
    chosen = _chosen(graph, float_layers)
    _keep_float(plan, graph, tuple(chosen))
    tool = quantizer.Quantizer(str(source), plan.get_quantization_recipe())
    target.write_bytes(bytes(tool.quantize(enable_progress_report=False).quantized_model))
    notes = [f"kept float as asked: {', '.join(dict.fromkeys(chosen.values()))}"] if chosen else []
    made = Graph(target)
    done = [made.dtype(op.inputs[1]) == "INT8" for kind, op in made.operators if kind in LAYERS]
    if not any(done):
        raise onnx_int8.nothing_quantized(len(done))
    return (f"int8 weights: {sum(done)} of {len(done)} layers, activations quantized at run time", *notes)


def to_fp16(source: Path, target: Path) -> tuple[str, ...]:
    """Weights stored in float16; the kernels compute in float32 unless the device gains from float16."""
    _quantizer()
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    plan = recipe_manager.RecipeManager()
    plan.add_weight_only_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        num_bits=16,
        algorithm_key=recipe_manager.AlgorithmName.FLOAT_CASTING,
    )
    tool = quantizer.Quantizer(str(source), plan.get_quantization_recipe())
    target.write_bytes(bytes(tool.quantize(enable_progress_report=False).quantized_model))
    made = Graph(target)
    halves = sum(made.dtype(i) == "FLOAT16" for i in range(len(made.main.tensors)))
    if not halves:
        raise StepError("No weight of the TFLite model could be stored in float16", todo="Use fp32 or int8")
    return (f"{halves} weight tensors in float16",)


# --- what became int8 -----------------------------------------------------------------------


def notes_of(path: Path) -> tuple[str, ...]:
    """Count the layers with int8 image and int8 weights, and the float operators.

    Raises:
        StepError: when no layer is int8.
    """
    graph = Graph(path)
    layers: dict[str, list[bool]] = {"convolutions": [], "matrix products": []}
    floats: Counter[str] = Counter()
    for kind, op in graph.operators:
        dtypes = [graph.dtype(i) for i in op.inputs if i >= 0]
        if kind in LAYERS:
            layer = "convolutions" if kind in CONVOLUTIONS else "matrix products"
            layers[layer].append(dtypes[:2] == ["INT8", "INT8"])
        if kind not in ("QUANTIZE", "DEQUANTIZE") and dtypes[:1] == ["FLOAT32"]:
            floats[kind] += 1
    return onnx_int8.layer_notes(layers, floats)


def input_grid(path: Path) -> tuple[str, float | None, int | None]:
    """(dtype, scale, zero point) of what a file takes; the scale of a float input is None."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(path)).get_input_details()[0]
    scale, zero = details["quantization"]
    return np.dtype(details["dtype"]).name, float(scale) if scale else None, int(zero) if scale else None
