"""Post-training quantization: what a step may ask, its calibration images, and a float file's way to int8.

Method: B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018. The formats are in :mod:`compress.int8.onnx_int8` and :mod:`compress.int8.litert_int8`, ranges in
:mod:`compress.int8.ranges`, changes of the model before it in :mod:`compress.int8.equalize`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, StepError, nearest
from bench.steps import LADDER, QuantizeStep
from compress.int8 import equalize, litert_int8, onnx_graph, onnx_int8, ranges

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    Images = NDArray[np.float32]

PRECISIONS = ("int8", "fp16", "bf16")
ACTIVATIONS = ("static", "dynamic")
RANGES = tuple(ranges.METHODS)
INPUTS = ("float32", "int8")
ONNX_SCHEMES = onnx_int8.SCHEMES
LITERT_SCHEME = "litert"
INT8_ONLY = (
    "activations", "ranges", "per_channel", "equalize", "correct_bias", "float_layers", "input",
)  # fmt: skip
BATCH = 32


def check_quantize(step: QuantizeStep) -> None:
    """Refuse impossible options, without importing any runtime.

    Raises:
        ConfigError: an unknown name, no calibration images, or options that exclude each other.
    """
    for what, value, known in (
        ("precision", step.precision, PRECISIONS),
        ("kind of activations", step.activations, ACTIVATIONS),
        ("way to find ranges", step.ranges, RANGES),
        ("input", step.input, INPUTS),
        *(("rung of the ladder", rung, LADDER) for rung in step.ladder),
    ):
        if value not in known:
            raise ConfigError(f"Unknown {what} {value!r}", todo=nearest(value, known))
    if isinstance(step.images, bool) or not isinstance(step.images, int) or step.images < 1:
        raise ConfigError(
            "Calibration needs at least one image", found=f"images = {step.images}", todo="Use 128 or more"
        )
    if step.max_drop is not None:
        _check_ladder(step)
    else:
        _check_unused(step, ("ladder", "qat_epochs"), "no max_drop")
    if step.precision != "int8":
        _check_unused(step, INT8_ONLY, f"precision = {step.precision}")
    if step.activations == "dynamic":
        _check_unused(step, ("ranges",), "activations = dynamic")
    if step.activations == "dynamic" and step.input != "float32":
        raise ConfigError(
            "Dynamic quantization takes float32 images", f"input = {step.input}", "Use activations = static"
        )


def _check_unused(step: QuantizeStep, names: tuple[str, ...], why: str) -> None:
    given = [f.name for f in fields(step) if f.name in names and getattr(step, f.name) != f.default]
    if given:
        raise ConfigError(f"{', '.join(given)} would do nothing with {why}", todo="Leave it out")


def _check_ladder(step: QuantizeStep) -> None:
    drop = step.max_drop
    if drop is None or not math.isfinite(drop) or not 0 <= drop < 1:
        raise ConfigError("max_drop must be a share from 0 to 1", f"max_drop = {drop}", "0.01 is one point")
    if not step.ladder:
        raise ConfigError("max_drop needs a ladder", todo=f"Its rungs are {', '.join(LADDER)}")
    if isinstance(step.qat_epochs, bool) or not isinstance(step.qat_epochs, int) or step.qat_epochs < 1:
        raise ConfigError("The rung qat needs at least one epoch", f"qat_epochs = {step.qat_epochs}")
    if "qat" not in step.ladder:
        _check_unused(step, ("qat_epochs",), "no rung qat")
    for what, asked in (
        ("equalize or correct_bias, which are rungs", step.equalize or step.correct_bias),
        (f"precision = {step.precision}", step.precision != "int8"),
        ("activations = dynamic", step.activations == "dynamic"),
        ("per_channel = false", not step.per_channel),
    ):
        if asked:
            raise ConfigError(
                "The ladder is of static int8 by channel",
                f"max_drop with {what}",
                "Leave max_drop or that option out",
            )


# --- calibration images ---------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """The calibration images of a step; iterating reads them in batches, float32 (n, C, H, W), normalised.

    ``digest`` is the sha256 of their pixels in order.
    """

    data: Any
    rows: Any
    digest: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Images]:
        for part in self.rows.split(BATCH):
            yield self.images(part).numpy()

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """Some of the images as one float32 tensor N x C x H x W, which lie in that order even with one channel."""
        import torch

        found = self.data.normalise(self.data.images["calibration"][rows])
        return found.clone(memory_format=torch.contiguous_format)  # type: ignore[no-any-return]

    def sample(self, count: int) -> torch.Tensor:
        """At most ``count`` images spread evenly over all of them."""
        import torch

        places = torch.linspace(0, len(self.rows) - 1, min(count, len(self.rows))).round().long()
        return self.images(self.rows[places])


def calibration(step: QuantizeStep, data: Any) -> Calibration:
    """The calibration images of a step: stratified, the same for the same data, never all in memory.

    Raises:
        StepError: when the data set has none.
    """
    rows = calibration_rows(data, step.images)
    if len(rows) == 0:
        raise StepError("There are no calibration images", todo="Use a data set with more training images")
    pixels = hashlib.sha256()
    for part in rows.split(BATCH):
        pixels.update(data.images["calibration"][part].contiguous().numpy().tobytes())
    notes = [f"calibration images: {len(rows)}, sha256 {pixels.hexdigest()}"]
    if len(rows) < step.images:
        notes.append(
            f"{len(rows)} calibration images where {step.images} were asked for: the data has no more"
        )
    classes = data.labels["calibration"][rows].unique()
    if len(classes) == 1 and len(data.index.classes) > 1:
        notes.append(
            f"all calibration images are of one class, {data.index.classes[int(classes[0])]}: "
            "ranges may be too narrow for the others"
        )
    return Calibration(data, rows, pixels.hexdigest(), tuple(notes))


def calibration_rows(data: Any, count: int) -> Any:
    """Places in the calibration split of the images that ``data.calibration(count)`` gives; none is read."""
    import dataclasses

    import torch

    class Rows(type(data)):  # type: ignore[misc]
        def normalise(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

    numbered = {"calibration": torch.arange(len(data.images["calibration"]))}
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)} | {"images": numbered}
    return Rows(**fields).calibration(count)


# --- from a float file to int8 ----------------------------------------------------------------


@dataclass(frozen=True)
class FloatFile:
    """A float ``onnx`` or ``tflite`` file on its way to int8; its tensors are watched once."""

    path: Path
    fmt: str
    scheme: str
    calibration: Calibration

    @cached_property
    def prepared(self) -> Any:
        """The ONNX graph that is quantized."""
        return onnx_graph.prepare(self.path)

    @cached_property
    def histograms(self) -> dict[str, ranges.Histogram]:
        """Of every activation."""
        if self.fmt == "onnx":
            return onnx_int8.collect(self.prepared, self.calibration)
        return litert_int8.collect(self.path, self.calibration)

    def write_int8(self, target: Path, step: QuantizeStep) -> tuple[str, ...]:
        """Write the int8 file that ``step`` asks for (not its equalisation, bias correction or ladder);
        returns notes.

        Raises:
            StepError: when nothing can be quantized, or no name of ``float_layers`` is in the file.
            MissingError: when an optional package is not installed.
        """
        options: Any = {"per_channel": step.per_channel, "float_layers": step.float_layers}
        if step.activations == "dynamic":
            if self.fmt == "onnx":
                return onnx_int8.to_dynamic(self.path, target, self.scheme, **options)
            return litert_int8.to_dynamic(self.path, target, **options)
        symmetric = self.fmt == "onnx" and ONNX_SCHEMES[self.scheme].symmetric
        found = ranges.find(self.histograms, step.ranges, symmetric)
        if self.fmt == "onnx":
            notes = onnx_int8.write(self.prepared, target, self.scheme, found, **options)
        else:
            notes = litert_int8.write(self.path, target, found, int8_input=step.input == "int8", **options)
        if self.fmt == "onnx" and step.input != "float32":
            notes = (*notes, "the file takes float32 images: int8 input is for LiteRT")
        constant = sum(h.constant for h in self.histograms.values())
        return (
            f"calibrated on {len(self.calibration)} images ({step.ranges})",
            *self.calibration.notes,
            *notes,
            *ranges.guard_note(constant, 0),
        )


def improve(
    module: nn.Module, step: QuantizeStep, fmt: str, scheme: str, images: Calibration
) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a model, equalised and with corrected biases as ``step`` asks
    (:func:`compress.int8.equalize.improve`), and notes."""
    as_onnx = scheme if scheme in ONNX_SCHEMES else "u8s8"  # LiteRT's weights are those of u8s8
    return equalize.improve(
        module,
        images.sample(equalize.IMAGES),
        step.equalize,
        step.correct_bias,
        ONNX_SCHEMES[as_onnx].weight_limit,
        step.per_channel,
        step.float_layers,
        fmt,
        as_onnx,
    )
