"""Does an exported file still compute what its parent computes? Checked on real images before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ParityError, StepError, missing_extra
from bench.types import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

RELATIVE_TOLERANCE = 1e-3
"""Of the largest logit: float kernels differ in summation order and in folded normalisation."""

COLLAPSE = 0.5
CONSTANT = 0.9
OTHER = "Ship another format of this model, or another model"


def validation_images(data: Any, limit: int = 64) -> tuple[NDArray[np.int64], Any]:
    """At most ``limit`` images spread evenly over the validation split.

    Returns:
        (positions in the split, float32 tensor N x C x H x W, normalised).

    Raises:
        StepError: when there are none.
    """
    import numpy as np
    import torch

    images = data.images["validation"]
    if len(images) == 0:
        raise StepError(
            "There are no validation images to compare an exported model with its parent",
            todo="Give the data more images",
        )
    # Spread, not the first ones: a folder's images come sorted by class.
    positions = np.unique(np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(np.int64))
    batch = data.normalise(images[positions.tolist()])
    # A copy, because ``contiguous()`` leaves the channels-last strides of grey images as they are, and exporters
    # would trace them into the graph (an as_strided, eight more operators in ONNX).
    return positions, batch.clone(memory_format=torch.contiguous_format)


def run_module(module: Any, images: Any) -> Logits:
    """Float32 logits (N, classes) of a torch module, batch by batch."""
    import numpy as np
    import torch

    with torch.inference_mode():
        return np.concatenate([module(part).float().numpy() for part in images.split(16)])


def run_file(path: Path, fmt: str, images: Any, emulate: bool = False) -> Logits:
    """Float32 logits (N, classes) of an exported file for images (N x C x H x W): see :func:`runner`."""
    return runner(path, fmt, emulate)(images)


def runner(path: Path, fmt: str, emulate: bool = False) -> Callable[[Any], Logits]:
    """Open an exported file on the CPU runtime of its format, one thread.

    Args:
        path: the exported file.
        fmt: ``pt2``, ``onnx``, ``tflite``, ``pte`` or ``safetensors``.
        emulate: run ONNX quantize/dequantize pairs one by one in float, with no integer kernels.
            This is what a device without this CPU's integer saturation computes.

    Returns:
        A function from images (float32 tensor N x C x H x W, normalised) to float32 logits (N, classes).

    Raises:
        MissingError: when the runtime of the format is not installed.
    """
    if fmt == "pt2":
        import torch

        return partial(run_module, torch.export.load(path).module())
    if fmt == "pte":
        from compress import executorch_

        return partial(executorch_.run, path)
    if fmt == "safetensors":
        from distill import models

        return partial(run_module, models.load(path)[0].eval())
    return _onnx_runner(path, emulate) if fmt == "onnx" else _tflite_runner(path)


def predictions(
    path: Path, fmt: str, data: Any, emulate: bool = False, split: str = "validation"
) -> NDArray[np.int64]:
    """The class that a file predicts for each image of a whole split, read batch by batch."""
    import numpy as np

    run, images = runner(path, fmt, emulate), data.images[split]
    parts = [run(data.normalise(images[i : i + 64])).argmax(1) for i in range(0, len(images), 64)]
    return np.concatenate(parts).astype(np.int64)


def _onnx_runner(path: Path, emulate: bool) -> Callable[[Any], Logits]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if emulate:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Any) -> Logits:
        values = images.numpy()
        parts = [values[i : i + 16] for i in range(0, len(values), 16)]
        return np.concatenate([session.run(None, {name: part})[0] for part in parts])

    return run


def _tflite_runner(path: Path) -> Callable[[Any], Logits]:
    import numpy as np

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise missing_extra("ai-edge-litert", "litert", "running a TFLite model") from error
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = source["quantization"]
    kind = np.dtype(source["dtype"])

    def run(images: Any) -> Logits:
        rows = []
        for image in images.permute(0, 2, 3, 1).contiguous().numpy():
            if kind.kind in "iu":
                ends = np.iinfo(kind)
                image = np.clip(np.round(image / scale) + zero, ends.min, ends.max)
            interpreter.set_tensor(source["index"], image[None].astype(kind, copy=False))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target["index"])[0].copy())
        return np.stack(rows)

    return run


def check_parity(
    reference: Logits, found: Logits, positions: NDArray[np.int64], precision: str, about: str
) -> Json:
    """Compare logits (N, classes) of a parent and its export.

    Float32 must agree within 1e-3 of the largest logit (or 1e-3 where all are small). Reduced
    precisions only must not collapse: agreement of the predicted class below one half, or a single class for
    every image, where the parent saw several. Values that are not finite always break.

    Returns:
        ``{"max_abs_diff", "agreement", "n", "tolerance", "reference"}``; agreement is a fraction, and
        the tolerance is null for reduced precision.

    Raises:
        ParityError: names the first figure that broke: image, class, both values.
    """
    import numpy as np

    if reference.shape != found.shape:
        raise ParityError(
            f"{about} has another output shape than its parent",
            found=f"{found.shape} instead of {reference.shape}",
            todo=OTHER,
        )
    _check_finite(reference, found, positions, about)
    difference = np.abs(found.astype(np.float64) - reference.astype(np.float64))
    tolerance = RELATIVE_TOLERANCE * max(1.0, float(np.abs(reference).max()))
    best, chosen = reference.argmax(1), found.argmax(1)
    if precision == "fp32":
        broken = np.argwhere(difference > tolerance)
        if len(broken):
            image, label = broken[0]
            raise ParityError(
                f"{about} does not compute what its parent computes",
                found=f"validation image {positions[image]}, class {label}: {found[image, label]:.6g} instead of "
                f"{reference[image, label]:.6g}, tolerance {tolerance:.3g}; {len(broken)} of {found.size} figures differ",
                todo=OTHER,
            )
        rows = np.arange(len(reference))
        # Two classes closer than the tolerance are a tie that either side may break.
        same = reference[rows, chosen] >= reference[rows, best] - 2 * tolerance
    else:
        same = chosen == best
        _check_collapse(best, chosen, positions, about)
    return {
        "max_abs_diff": float(difference.max()),
        "agreement": float(same.mean()),
        "n": len(reference),
        "tolerance": tolerance if precision == "fp32" else None,
        "reference": "torch fp32",
    }


def _check_finite(reference: Logits, found: Logits, positions: NDArray[np.int64], about: str) -> None:
    import numpy as np

    for who, values in (("its parent", reference), (about, found)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            image, label = bad[0]
            raise ParityError(
                f"{about} cannot be compared: {who} answers values that are not finite",
                found=f"validation image {positions[image]}, class {label}: {values[image, label]}; "
                f"the parent has {reference[image, label]:.6g}",
                todo="Use a wider precision, or train the parent again with a smaller learning rate",
            )


def _check_collapse(
    best: NDArray[np.int64], chosen: NDArray[np.int64], positions: NDArray[np.int64], about: str
) -> None:
    import numpy as np

    agreement = float((best == chosen).mean())
    several, constant = len(np.unique(best)) > 1, len(np.unique(chosen)) == 1
    # A parent that says "normal" nine times in ten leaves a healthy copy almost constant as well.
    if several and (agreement < COLLAPSE or (constant and agreement < CONSTANT)):
        first = int(np.argmax(best != chosen))
        raise ParityError(
            f"{about} has collapsed: it agrees with its parent on {agreement:.0%} of {len(best)} images"
            + (", with one class for all of them" if constant else ""),
            found=f"validation image {positions[first]}: class {chosen[first]} instead of {best[first]}",
            todo="Calibrate with more images, or use another quantization scheme or precision",
        )
