"""Turn a model file into an artifact a runtime can load: torch.export program, ONNX, TFLite or ExecuTorch program.

Every artifact takes float32 images, already normalised, and answers float32 logits; reduced precision
is inside. ``pt2``, ``onnx`` and ``pte`` take N x C x H x W with a free N, ``tflite`` takes 1 x H x W x C.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import ConfigError, EdgefitError, StepError, missing_extra, nearest
from bench.types import Artifact, ExportResult, QuantizeStep, TensorSpec
from compress import parity, quantize
from compress.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

OPSET = 18
"""Fixed: the newest opset that ONNX Runtime 1.14+ and TensorRT 8.6+ (JetPack 5 and 6) both read."""

ONNX_LIMIT = 2**31 - 2**20
"""Bytes: protobuf messages end at 2 GiB, and the graph needs some room beside the weights."""

SCHEMES: dict[str, dict[str, tuple[str, ...]]] = {
    "pt2": {"fp32": ("",), "fp16": ("",), "bf16": ("",)},
    "onnx": {"fp32": ("",), "fp16": ("",), "int8": tuple(quantize.ONNX_SCHEMES)},
    "tflite": {"fp32": ("",), "fp16": ("",), "int8": (quantize.LITERT_SCHEME,)},
    "pte": {"fp32": ("",)},
    "safetensors": {"fp32": ("",)},
}
"""format -> precision -> quantization schemes."""

REASONS = {
    (
        "pt2",
        "int8",
    ): "PyTorch's int8 kernels are another toolchain; int8 is measured with ONNX Runtime and LiteRT",
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolutions on CPUs; use pt2",
    ("tflite", "bf16"): "LiteRT has no bf16 kernels; use fp16",
    **{("pte", p): "Only fp32 programs are made for ExecuTorch as yet" for p in ("int8", "fp16", "bf16")},
    **{("safetensors", p): "A model file holds float32 weights" for p in ("int8", "fp16", "bf16")},
}


def check_export(fmt: str, precision: str, scheme: str, step: QuantizeStep | None = None) -> None:
    """Refuse combinations that cannot be made, without importing any framework.

    Raises:
        ConfigError: unknown format, precision or scheme.
        StepError: a known combination that makes no sense, with the reason.
    """
    if fmt not in SCHEMES:
        raise ConfigError(f"Unknown format {fmt!r}", todo=nearest(fmt, SCHEMES))
    known = {p for precisions in SCHEMES.values() for p in precisions}
    if precision not in known:
        raise ConfigError(f"Unknown precision {precision!r}", todo=nearest(precision, known))
    if precision not in SCHEMES[fmt]:
        raise StepError(f"There is no {precision} {fmt} artifact", todo=REASONS[fmt, precision])
    schemes = SCHEMES[fmt][precision]
    if scheme not in schemes:
        named = ", ".join(schemes) if any(schemes) else "no scheme"
        raise ConfigError(
            f"Unknown quantization scheme {scheme!r} for {precision} {fmt}", todo=f"It takes: {named}"
        )
    if step is not None:
        quantize.check_quantize(step)
        if fmt == "tflite" and precision == "int8" and step.ranges != "minmax":
            raise StepError(
                f"LiteRT's quantizer does not find ranges by {step.ranges}", todo="Use ranges = minmax for it"
            )


def export(
    model: Path,
    fmt: str,
    precision: str,
    scheme: str,
    step: QuantizeStep | None,
    data: Any,
    workdir: Path,
    float_artifact: Path | None = None,
) -> ExportResult:
    """Write one artifact of a model and check it against the model on real images.

    Args:
        model: a ``.safetensors`` model file.
        fmt: ``pt2``, ``onnx``, ``tflite``, ``pte`` or ``safetensors`` (the model file itself).
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        scheme: for int8 ``u8s8``, ``u8s8-7bit``, ``s8s8`` (onnx) or ``litert`` (tflite); else empty.
        step: options of int8 (calibration images, ranges); None takes the defaults.
        data: the data set (``distill.data.Dataset``): calibration and validation images.
        workdir: where to write; made if absent.
        float_artifact: the fp32 file of the same model and format, if there is one already. It saves the
            conversion, most of the time, for ``onnx`` and ``tflite`` in reduced precision.

    Raises:
        ConfigError, StepError: see :func:`check_export`; StepError also when a converter fails.
        ParityError: when the artifact disagrees with the model.
        MissingError: when an optional package is not installed.
    """
    from distill import models

    step = step or QuantizeStep(precision=precision if precision != "fp32" else "int8")
    check_export(fmt, precision, scheme, step)
    module, spec = models.load(model)
    module.eval()
    positions, images = parity.validation_images(data)
    workdir.mkdir(parents=True, exist_ok=True)
    target = workdir / ("-".join(filter(None, ("model", precision, scheme))) + f".{fmt}")
    if fmt == "safetensors":
        notes = _copied(model, target)
    else:
        write = {"pt2": _pt2, "pte": _pte}.get(fmt, _converted)
        notes = write(module, images, target, precision, scheme, step, data, float_artifact)

    reference = parity.run_module(module, images)
    about = f"The {precision}{f' ({scheme})' if scheme else ''} {fmt} artifact"
    found, more = _logits(target, fmt, scheme, images, reference, about)
    agreement = parity.check_parity(reference, found, positions, precision, about)
    inputs, outputs = _tensor_specs(fmt, spec.preprocess, reference.shape[1])
    artifact = Artifact(
        format=fmt,
        sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
        size_bytes=target.stat().st_size,
        filename=target.name,
        precision=precision,
        scheme=scheme,
        inputs=inputs,
        outputs=outputs,
        preprocess=spec.preprocess,
        labels=spec.labels,
    )
    return ExportResult(path=target, artifact=artifact, parity=agreement, notes=(*notes, *more))


def _convert(what: str, work: Callable[[], T]) -> T:
    """Run a converter silently; its failure carries the end of what it printed."""
    with quiet() as said:
        try:
            return work()
        except EdgefitError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:600]
            raise StepError(
                f"{what} failed",
                found=f"{reason} (last output: {said.tail() or 'none'})",
                todo="The model may use an operation this format lacks; the other formats are made regardless",
            ) from error


def _logits(
    path: Path, fmt: str, scheme: str, images: Any, reference: parity.Logits, about: str
) -> tuple[parity.Logits, tuple[str, ...]]:
    """What the artifact answers, and notes on how it was run."""

    def run(emulate: bool = False) -> parity.Logits:
        return _convert(
            f"{about} was written, but running it", lambda: parity.run_file(path, fmt, images, emulate)
        )

    if scheme == "s8s8":
        # Made for TensorRT, whose accumulators are 32 bits wide; x86 kernels without VNNI would saturate.
        return run(emulate=True), (
            "agreement from float emulation of the int8 arithmetic (a TensorRT scheme)",
        )
    found = run()
    if scheme == "u8s8":
        exact = run(emulate=True)
        # Integer kernels add up exactly what the emulation adds up in float, unless their accumulators overflow.
        if abs(found - exact).max() > abs(exact - reference).max():
            here, wide = ((v.argmax(1) == reference.argmax(1)).mean() for v in (found, exact))
            return found, (
                f"this CPU saturates 8-bit weights: agreement {here:.3f} here, {wide:.3f} with exact arithmetic; "
                "use u8s8-7bit on CPUs without VNNI",
            )
    return found, ()


def _tensor_specs(fmt: str, pre: Any, classes: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if fmt == "tflite":
        image = TensorSpec("args_0", (1, pre.height, pre.width, pre.channels), layout="NHWC")
        return (image,), (TensorSpec("output_0", (1, classes), layout="NC"),)
    image = TensorSpec("input", (None, pre.channels, pre.height, pre.width), layout="NCHW")
    return (image,), (TensorSpec("logits", (None, classes), layout="NC"),)


def _program(module: nn.Module, images: Any) -> Any:
    """A torch.export program with a free batch dimension and no stack traces of this machine."""
    import torch

    # Two images, not one: torch.export would make a batch of 1 a constant.
    example = images[:2] if len(images) > 1 else torch.cat([images, images])
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _pt2(module: nn.Module, images: Any, target: Path, precision: str, *_: Any) -> tuple[str, ...]:
    import copy

    import torch

    program_of: nn.Module = module
    notes: tuple[str, ...] = ()
    if precision != "fp32":
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        program_of = _cast(copy.deepcopy(module), dtype)
        notes = (f"{precision} inside, float32 input and output",)
    _convert(
        f"Exporting to pt2 in {precision}",
        lambda: torch.export.save(_program(program_of, images), target),
    )
    return notes


def _pte(module: nn.Module, images: Any, target: Path, *_: Any) -> tuple[str, ...]:
    from compress import executorch_

    _convert("Exporting to pte", lambda: executorch_.write(module, images, target))
    return (f"a free batch of at most {executorch_.LARGEST_BATCH} images; XNNPACK kernels",)


def _copied(model: Path, target: Path) -> tuple[str, ...]:
    """The model file is what PyTorch loads: nothing to convert."""
    target.write_bytes(model.read_bytes())
    return ()


def _cast(module: nn.Module, dtype: Any) -> nn.Module:
    """``module`` in ``dtype``, with float32 input and output."""
    from torch import Tensor, nn

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module.to(dtype)

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.module(image.to(dtype))
            return logits.float()

    return Cast().eval()


def _converted(
    module: nn.Module,
    images: Any,
    target: Path,
    precision: str,
    scheme: str,
    step: QuantizeStep,
    data: Any,
    float_artifact: Path | None,
) -> tuple[str, ...]:
    """ONNX or TFLite: make (or take) the float file, then reduce its precision."""
    fmt = target.suffix[1:]
    parent = float_artifact
    if precision == "fp32" or parent is None:
        parent = target.with_name(f"model-fp32.{fmt}")
        write = {"onnx": _write_onnx, "tflite": _write_tflite}[fmt]
        written = parent
        _convert(f"Exporting to {fmt}", lambda: write(module, images, written))
    source = parent
    if precision == "fp32":
        return ()
    if precision == "fp16":
        halve = {"onnx": quantize.onnx_to_fp16, "tflite": quantize.tflite_to_fp16}[fmt]
        return _convert(f"Converting {fmt} to fp16", lambda: halve(source, target))
    calibration = quantize.calibration_images(step, data)
    if fmt == "tflite":
        return _convert("Quantizing tflite", lambda: quantize.tflite_to_int8(source, target, calibration))
    return _convert(
        f"Quantizing onnx ({scheme})",
        lambda: quantize.onnx_to_int8(source, target, scheme, step.ranges, calibration),
    )


def _write_onnx(module: nn.Module, images: Any, target: Path) -> None:
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    if weights >= ONNX_LIMIT:
        raise StepError(
            "The model is too large for one ONNX file",
            found=f"{weights / 2**30:.2f} GiB of weights; a file holds 2 GiB",
            todo="Export it as pt2",
        )
    import torch

    made = torch.onnx.export(
        _program(module, images),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    if made is None:
        raise StepError("The ONNX exporter answered no program")
    model = made.model_proto
    # The program's own symbol for the free dimension depends on what was exported before.
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    quantize.save_onnx(model, target)


def _write_tflite(module: nn.Module, images: Any, target: Path) -> None:
    try:
        import litert_torch
    except ImportError as error:
        raise missing_extra("litert-torch", "litert", "converting to TFLite") from error
    wrapped = litert_torch.to_channel_last_io(module, args=[0]).eval()
    example = images[:1].permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(wrapped, (example,)).export(str(target))
