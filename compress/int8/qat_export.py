"""From a model trained in simulated int8 to its files: float exporters, then the grids it was trained with.

A tensor of a float file is an activation of the graph when it has its values for real images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ParityError, StepError
from bench.types import Json
from compress import float_files, parity, qat
from compress.int8 import fake_quant, litert_int8, onnx_graph, onnx_int8, qat_graph, ranges
from compress.int8.litert_graph import Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, fx, nn

    Values = NDArray[np.float32]
    Known = list[tuple[Values, ranges.Range]]

COMPARED = 2
"""Images by which tensors are told apart."""
TOLERANCE = 1e-3
"""Of a tensor's largest value: float kernels add up in different orders."""
FALLBACK = 64
"""Images that give the ranges of tensors the graph does not have."""
SAME_VALUES = ("PAD", "PADV2", "MIRROR_PAD", "MAX_POOL_2D", "RESHAPE", "TRANSPOSE")
"""Operators of TFLite files whose output is on the grid of their input."""
PARITY = 0.003
"""What the accuracy of a file may differ from the simulated one, on the same images."""


def convert(
    module: nn.Module,
    spec: Any,
    images: Tensor,
    target: Path,
    scheme: str,
    float_artifact: Path | None = None,
) -> tuple[str, ...]:
    """Write the int8 file of a model that went through :func:`compress.qat.run_qat`.

    Args:
        module, spec: as :func:`distill.models.load` gives them; ``spec.quantization`` holds the grids.
        images: some calibration images, float32 N x C x H x W, normalised: they tell the tensors apart, and
            give the few ranges that the graph does not have.
        target: the file to write; its suffix, ``.onnx`` or ``.tflite``, is the format.
        scheme: one of :data:`compress.int8.onnx_int8.SCHEMES`, or ``litert``.
        float_artifact: the fp32 file of the same model, if there is one already.

    Returns:
        Notes: how many ranges were trained, which were not, what is int8.

    Raises:
        StepError: when the graph is not the one that was trained, or nothing is quantized.
    """
    fmt = target.suffix[1:]
    known = _known(qat_graph.graph(module, images), spec.quantization, images[:COMPARED], fmt)
    source = float_artifact
    if source is None:
        source = target.with_name(f"{target.stem}-fp32{target.suffix}")
        float_files.write(module, images, source)
    few = images[:FALLBACK].numpy()
    if fmt == "onnx":
        scales, notes = _onnx(source, target, scheme, few, known)
    else:
        known.append((_values(module, images[:COMPARED]), tuple(spec.quantization["logits"])))
        scales, notes = _tflite(source, target, few, known)
    trained = spec.quantization["scheme"]
    if scheme != trained and not (scheme not in onnx_int8.SCHEMES and trained != "s8s8"):
        notes = (f"trained for {trained}, written as {scheme}: other grids than in training", *notes)
    return (_told(scales, scheme if scheme in onnx_int8.SCHEMES else "u8s8", known, len(few)), *notes)


def _values(module: nn.Module, images: Tensor) -> Values:
    import torch

    with torch.no_grad():
        logits: Values = module(images).numpy()
    return logits


def _known(graph: fx.GraphModule, quantization: Json, images: Tensor, fmt: str) -> Known:
    """Values and ranges of the activations for ``images``; also of the steps in which files write gates."""
    from torch.nn import functional

    grids, where = qat.grids(quantization, fmt), qat_graph.points(graph)
    if set(where.values()) != set(grids):
        raise StepError(
            "The model's graph is not the one that was trained",
            f"{len(set(where.values()))} activations, and {len(grids)} trained ones",
            "Run the qat step again with this version of PyTorch",
        )
    gates = [n for n in graph.graph.nodes if qat_graph.operator(n) in ("hardswish", "silu", "hardsigmoid")]
    inputs = {qat_graph.label(node.args[0]) for node in gates}
    values = qat_graph.record(graph, images, {*where, *inputs})
    known = [(values[name].numpy(), grids[owner].ends) for name, owner in where.items()]
    for node in gates:
        x = values[qat_graph.label(node.args[0])]
        if qat_graph.operator(node) == "silu":
            known.append((functional.sigmoid(x).numpy(), fake_quant.gate_range(fmt, "sigmoid")))
        else:
            known.append((functional.hardsigmoid(x).numpy(), (0.0, 1.0)))
            known.append(((x + 3).clamp(0, 6).numpy(), (0.0, 6.0)))
    return known


def match(tensors: dict[str, Values], known: Known) -> dict[str, ranges.Range]:
    """Name of a file's tensor -> range, for those that have the values of an activation, in either layout.

    Args:
        tensors: by name, each (N, ...) for the same images as ``known``.
        known: values (N, ...) of each activation, channels first, and its range.
    """
    import numpy as np

    flat = [(v.reshape(len(v), -1), max(1e-6, float(np.abs(v).max())), ends) for v, ends in known]
    found: dict[str, ranges.Range] = {}
    for name, value in tensors.items():
        layouts = [value, value.transpose(0, 3, 1, 2)] if value.ndim == 4 else [value]
        rows = [layout.reshape(len(value), -1) for layout in layouts]
        for wanted, size, ends in flat:
            same_shape = rows[0].shape == wanted.shape
            if same_shape and any(np.abs(row - wanted).max() <= TOLERANCE * size for row in rows):
                found[name] = ends
                break
    return found


def _onnx(
    source: Path, target: Path, scheme: str, images: Values, known: Known
) -> tuple[list[float], tuple[str, ...]]:
    """Write the file; returns the scales of its activations, and notes."""
    import onnx
    from onnx import numpy_helper

    model = onnx_graph.prepare(source)
    found = ranges.find(onnx_int8.collect(model, [images]), "minmax")
    same = match(_joined(onnx_int8.values(model, [images[:COMPARED]], list(found))), known)
    notes = onnx_int8.write(model, target, scheme, found | same)
    made = onnx.load(target).graph
    constants = {i.name: i for i in made.initializer}
    rounding = [node for node in made.node if node.op_type == "QuantizeLinear"]
    return [float(numpy_helper.to_array(constants[node.input[1]])) for node in rounding], notes


def _tflite(source: Path, target: Path, images: Values, known: Known) -> tuple[list[float], tuple[str, ...]]:
    """Write the file; returns the scales of its activations, and notes."""
    found = ranges.find(litert_int8.collect(source, [images]), "minmax")
    graph = Graph(source)
    each = litert_int8.values(source, [images[:COMPARED]], graph.activations())
    same = match(_joined(each), known)
    for kind, op in graph.operators:
        image, made = graph.name(op.inputs[0]), graph.name(op.outputs[0])
        if kind in SAME_VALUES and image in same:
            same[made] = same[image]
    notes = litert_int8.write(source, target, found | same)
    graph = Graph(target)
    outputs = [i for _, op in graph.operators for i in op.outputs if graph.dtype(i) == "INT8"]
    return [float(graph.main.tensors[i].quantization.scale[0]) for i in outputs], notes


def _joined(parts: Iterable[dict[str, Values]]) -> dict[str, Values]:
    """Values (N, ...) of each tensor from its values image by image."""
    import numpy as np

    kept = [{name: value.copy() for name, value in part.items()} for part in parts]
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0] if kept[0][name].ndim > 1}


def _told(scales: list[float], scheme: str, known: Known, images: int) -> str:
    """How many scales of a file are trained ones."""
    trained = [fake_quant.grid(ends, scheme).scale for _, ends in known]
    same = sum(any(abs(scale - t) <= 1e-5 * t for t in trained) for scale in scales)
    rest = f", {len(scales) - same} from {images} calibration images" if same < len(scales) else ""
    return f"{same} of {len(scales)} ranges as trained{rest}"


def shipped_parity(path: Path, fmt: str, spec: Any, data: Any, scheme: str = "u8s8") -> Json:
    """Whether a file is as accurate as its simulation in training was, on the same images (:func:`compress.qat.with_judged`).

    Args:
        path: an int8 file made by :func:`convert`.
        fmt: onnx or tflite.
        scheme: s8s8 files are for TensorRT, and emulated here.

    Returns:
        ``{"simulated", "shipped", "difference", "tolerance", "unlike", "n", "emulated"}``: accuracies as
        fractions of ``n`` images, of which ``unlike`` are right in one of the two only.

    Raises:
        ParityError: when they differ by more than :data:`PARITY`.
        StepError: when the validation images are not those of the training.
    """
    if spec.quantization["data"] != data.index.digest:
        raise StepError(
            "An int8-trained model can be checked only on its own validation images",
            f"it was trained on other data than {data.index.spec}",
            "Export it with the data, image size and seed of its qat step",
        )
    found = _compared(path, fmt, spec, data, scheme == "s8s8")
    if abs(found["difference"]) > found["tolerance"] and fmt == "onnx" and scheme == "u8s8":
        # A CPU whose integer kernels saturate is not the file's fault: those have files with 7-bit weights.
        found = _compared(path, fmt, spec, data, True)
    if abs(found["difference"]) > found["tolerance"]:
        raise ParityError(
            "The int8 file is not as accurate as its simulation in training",
            f"{found['shipped']:.4f} of {found['n']} images right, {found['simulated']:.4f} in simulation",
            "Export it for the scheme it was trained for, or report the model's architecture",
        )
    return found


def _compared(path: Path, fmt: str, spec: Any, data: Any, emulate: bool) -> Json:
    import numpy as np

    judged = qat.with_judged(data)
    labels = judged.labels[qat.JUDGED].numpy()
    bits = np.frombuffer(bytes.fromhex(spec.quantization["right"][fmt]), np.uint8)
    simulated = np.unpackbits(bits, count=len(labels)).astype(bool)
    shipped = parity.predictions(path, fmt, judged, emulate, qat.JUDGED) == labels
    unlike = int((simulated != shipped).sum())
    return {
        "simulated": float(simulated.mean()),
        "shipped": float(shipped.mean()),
        "difference": float(shipped.mean() - simulated.mean()),
        "tolerance": PARITY,
        "unlike": unlike,
        "n": len(labels),
        "emulated": emulate,
    }
