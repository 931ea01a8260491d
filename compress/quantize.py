"""Static post-training quantization of exported files: ONNX (QDQ) and LiteRT.

Both read the float file and the same calibration images, and leave input and output float32.
Schemes of ONNX int8 (weights always per channel, symmetric):

========  =====================  ==========================================================
u8s8      uint8 / int8           CPUs with VNNI or ARM dot products
u8s8-7bit uint8 / int8, 7 bits   x86 without VNNI: pairs of 8-bit products saturate in 16 bits
s8s8      int8 / int8 symmetric  TensorRT
========  =====================  ==========================================================

Method: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018; settings from ONNX Runtime's quantization guide.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, StepError, missing_extra, nearest
from bench.types import QuantizeStep

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

PRECISIONS = ("int8", "fp16", "bf16")
RANGES = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How activation ranges are found: our name -> ONNX Runtime's."""

ONNX_SCHEMES: dict[str, dict[str, Any]] = {
    "u8s8": {"activation": "QUInt8", "reduce_range": False, "symmetric": False},
    "u8s8-7bit": {"activation": "QUInt8", "reduce_range": True, "symmetric": False},
    "s8s8": {"activation": "QInt8", "reduce_range": False, "symmetric": True},
}
LITERT_SCHEME = "litert"
BATCH = 32


def check_quantize(step: QuantizeStep) -> None:
    """Refuse impossible options, without importing any runtime.

    Raises:
        ConfigError: unknown precision or ranges, or no calibration images.
    """
    if step.precision not in PRECISIONS:
        raise ConfigError(f"Unknown precision {step.precision!r}", todo=nearest(step.precision, PRECISIONS))
    if step.ranges not in RANGES:
        raise ConfigError(f"Unknown way to find ranges {step.ranges!r}", todo=nearest(step.ranges, RANGES))
    if isinstance(step.images, bool) or not isinstance(step.images, int) or step.images < 1:
        raise ConfigError(
            "Calibration needs at least one image", found=f"images = {step.images}", todo="Use 128 or more"
        )


def calibration_images(step: QuantizeStep, data: Any) -> NDArray[np.float32]:
    """The calibration images of a step: float32 N x C x H x W, normalised.

    Raises:
        StepError: when the data set has none.
    """
    images: NDArray[np.float32] = data.calibration(step.images).contiguous().numpy()
    if len(images) == 0:
        raise StepError("There are no calibration images", todo="Use a data set with more training images")
    return images


# --- ONNX ---------------------------------------------------------------------------------


def onnx_to_fp16(source: Path, target: Path) -> tuple[str, ...]:
    """Weights and arithmetic in float16, float32 input and output (casts inside the graph). Returns notes."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    save_onnx(model, target)
    blocked = Counter(n.op_type for n in model.graph.node if n.op_type == "Cast")
    return (f"float16 inside, {blocked['Cast']} casts",)


def onnx_to_int8(
    source: Path, target: Path, scheme: str, ranges: str, images: NDArray[np.float32]
) -> tuple[str, ...]:
    """Quantize a float ONNX file to QDQ int8 with one of :data:`ONNX_SCHEMES`.

    Args:
        source, target: the float file and the file to write.
        ranges: a key of :data:`RANGES`.
        images: calibration images, float32 N x C x H x W, normalised.

    Returns:
        Notes: how many layers are really int8, and what stayed in float.

    Raises:
        StepError: when nothing in the model can be quantized.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options = ONNX_SCHEMES[scheme]
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    model = onnx.load(prepared)
    quantization.quantize_static(
        str(prepared),
        str(target),
        _reader(model.graph.input[0].name, images),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=options["reduce_range"],
        activation_type=quantization.QuantType[options["activation"]],
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod[RANGES[ranges]],
        extra_options={
            "ActivationSymmetric": options["symmetric"],
            "WeightSymmetric": True,
            # One batch at a time: histograms otherwise keep every activation of every image in memory.
            "CalibStridedMinMax": 1,
            # Logits stay float: 8 bits would clip them to the calibration range and tie classes.
            "OpTypesToExcludeOutputQuantization": _output_op(model),
        },
    )
    prepared.unlink()
    quantized = onnx.load(target)
    notes = _onnx_notes(quantized)
    save_onnx(quantized, target)
    return (f"calibrated on {len(images)} images ({ranges})", *notes)


def _reader(name: str, images: NDArray[np.float32]) -> Any:
    """A CalibrationDataReader over batches; ``set_range`` lets ONNX Runtime take one batch at a time."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(batches)

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.rest, None)
            return None if batch is None else {name: batch}

    return Reader()


def _output_op(model: onnx.ModelProto) -> list[str]:
    """The operator that makes the logits."""
    name = model.graph.output[0].name
    return [node.op_type for node in model.graph.node if name in node.output]


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


def _onnx_notes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Count the layers whose image and weights both arrive through DequantizeLinear, and the float operators.

    An operator without an integer kernel in ONNX Runtime stays float even between quantized tensors.
    """
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    nodes = [n for n in model.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear", *MOVES)]
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    layers: dict[str, list[bool]] = {"convolutions": [], "matrix products": []}
    floats: Counter[str] = Counter()
    for node in nodes:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            kind = "convolutions" if node.op_type == "Conv" else "matrix products"
            layers[kind].append(all(name in dequantized for name in node.input[:2]))
        elif node.op_type in ("Relu", "Clip"):
            continue  # become part of the layer before them
        elif node.input[0] not in dequantized or node.op_type not in {**QDQRegistry, **QLinearOpsRegistry}:
            floats[node.op_type] += 1
    return _layer_notes(layers, floats)


def _layer_notes(layers: dict[str, list[bool]], floats: Counter[str]) -> tuple[str, ...]:
    if not any(any(done) for done in layers.values()):
        raise StepError(
            "Nothing in the model could be quantized",
            found=f"{sum(len(v) for v in layers.values())} convolutions and matrix products, none in int8",
            todo="Keep this model in fp32 or fp16",
        )
    counts = ", ".join(f"{sum(done)} of {len(done)} {kind}" for kind, done in layers.items() if done)
    notes = [f"int8: {counts}"]
    if floats:
        notes.append("still float: " + ", ".join(f"{op} x{n}" for op, n in sorted(floats.items())))
    return tuple(notes)


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as it ships: the same bytes every time and nothing about the machine that made it.

    The exporter stores stack traces with file paths on every node, and the quantizer lists
    operator domains that no node uses.
    """
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del part.metadata_props[:]
    used = {node.domain for node in graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    path.write_bytes(model.SerializeToString(deterministic=True))


# --- LiteRT -------------------------------------------------------------------------------


def _quantizer() -> Any:
    try:
        import ai_edge_quantizer
    except ImportError as error:
        raise missing_extra("ai-edge-quantizer", "litert", "quantizing a TFLite model") from error
    return ai_edge_quantizer


def tflite_to_fp16(source: Path, target: Path) -> tuple[str, ...]:
    """Weights stored in float16; the kernels compute in float32 unless the device gains from float16."""
    _quantizer()
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        num_bits=16,
        algorithm_key=recipe_manager.AlgorithmName.FLOAT_CASTING,
    )
    tool = quantizer.Quantizer(str(source), recipe.get_quantization_recipe())
    target.write_bytes(bytes(tool.quantize(enable_progress_report=False).quantized_model))
    halves = _tflite_tensors(target, "FLOAT16")
    if not halves:
        raise StepError("No weight of the TFLite model could be stored in float16")
    return (f"{halves} weight tensors in float16",)


def tflite_to_int8(source: Path, target: Path, images: NDArray[np.float32]) -> tuple[str, ...]:
    """Quantize a float TFLite file to int8 weights (per channel) and activations.

    Args:
        source, target: the float file and the file to write.
        images: calibration images, float32 N x C x H x W, normalised; fed one by one as 1 x H x W x C.

    Returns:
        Notes: how many layers are really int8, and what stayed in float.

    Raises:
        StepError: when nothing in the model can be quantized.
        MissingError: when ai-edge-quantizer is not installed.
    """
    _quantizer()
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    plan = recipe_manager.RecipeManager()
    plan.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        # Float32 at both ends, as every other artifact; quantize and dequantize become part of the graph.
        plan.add_quantization_config(".*", end, algorithm_key=recipe.AlgorithmName.NO_QUANTIZE)
    # True minima and maxima. The quantizer's own default is a moving average with a weight of 0.95, in which only the
    # last few dozen images count. The profiler mode collects the same figures five times faster.
    ranges = calibrator.Calibrator(
        source.read_bytes(),
        num_threads=1,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=qsv_utils.min_max_update,
    )
    signature, name = _tflite_signature(source)
    rows = images.transpose(0, 2, 3, 1)
    ranges.calibrate({signature: [{name: row[None].copy()} for row in rows]}, plan)
    tool = quantizer.Quantizer(str(source), plan.get_quantization_recipe())
    result = tool.quantize(ranges.get_model_qsvs(), enable_progress_report=False)
    target.write_bytes(bytes(result.quantized_model))
    return (f"calibrated on {len(images)} images (minmax)", *_tflite_notes(target))


def _tflite_signature(path: Path) -> tuple[str, str]:
    """Name of the only signature and of its input."""
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(model_path=str(path)).get_signature_list()
    key = next(iter(signatures))
    return key, signatures[key]["inputs"][0]


def _tflite_graph(path: Path) -> Any:
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    return tfl_flatbuffer_utils.read_model(path.read_bytes())


def _type_names() -> dict[int, str]:
    from ai_edge_quantizer import qtyping

    return {v: k for k, v in vars(qtyping.TensorType).items() if isinstance(v, int)}


def _tflite_tensors(path: Path, dtype: str) -> int:
    names = _type_names()
    return sum(names[t.type] == dtype for t in _tflite_graph(path).subgraphs[0].tensors)


def _tflite_notes(path: Path) -> tuple[str, ...]:
    """Count the layers with int8 image and int8 weights."""
    from ai_edge_quantizer import qtyping

    model, types = _tflite_graph(path), _type_names()
    operators = {v: k for k, v in vars(qtyping.BuiltinOperator).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    layers: dict[str, list[bool]] = {"convolutions": [], "matrix products": []}
    floats: Counter[str] = Counter()
    for op in graph.operators:
        kind = operators[model.operatorCodes[op.opcodeIndex].builtinCode]
        dtypes = [types[graph.tensors[i].type] for i in op.inputs if i >= 0]
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            layer = "matrix products" if kind == "FULLY_CONNECTED" else "convolutions"
            layers[layer].append(dtypes[:2] == ["INT8", "INT8"])
        if kind not in ("QUANTIZE", "DEQUANTIZE") and dtypes[:1] == ["FLOAT32"]:
            floats[kind] += 1
    return _layer_notes(layers, floats)
