"""Turn a model file into an artifact that a runtime loads: torch.export or ExecuTorch program, ONNX, TFLite, Core ML.

Every artifact takes float32 images, already normalised, and answers float32 logits; reduced precision
is inside (``input = "int8"`` of a quantize step makes TFLite files that take int8). ``pt2``, ``onnx`` and
``pte`` take N x C x H x W with a free N, ``tflite`` takes 1 x H x W x C, ``mlpackage`` 1 x C x H x W.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import ConfigError, EdgefitError, StepError, nearest
from bench.steps import QuantizeStep
from bench.types import Artifact, ExportResult, Json, Notify, Target, TensorSpec
from compress import float_files, parity, quantize
from compress.int8 import ladder, litert_int8, onnx_int8
from compress.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

SCHEMES: dict[str, dict[str, tuple[str, ...]]] = {
    "pt2": {"fp32": ("",), "fp16": ("",), "bf16": ("",)},
    "onnx": {"fp32": ("",), "fp16": ("",), "int8": tuple(quantize.ONNX_SCHEMES)},
    "tflite": {"fp32": ("",), "fp16": ("",), "int8": (quantize.LITERT_SCHEME,)},
    "pte": {"fp32": ("",)},
    "mlpackage": {"fp32": ("",), "fp16": ("",)},
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
    ("mlpackage", "int8"): "Core ML has an int8 of its own (coremltools.optimize); export the model as fp16",
    ("mlpackage", "bf16"): "Core ML has no bf16; use fp16",
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


def export(
    model: Path,
    fmt: str,
    precision: str,
    scheme: str,
    step: QuantizeStep | None,
    data: Any,
    workdir: Path,
    float_artifact: Path | None = None,
    *,
    target: Target | None = None,
    qat: Callable[[], Path] | None = None,
    notify: Notify = lambda *_: None,
) -> ExportResult:
    """Write one artifact of a model and check it against the model on real images.

    Args:
        model: a ``.safetensors`` model file. One trained in simulated int8 brings its own ranges.
        fmt: ``pt2``, ``onnx``, ``tflite``, ``pte``, ``mlpackage`` (a folder) or ``safetensors`` (the model file itself).
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        scheme: for int8 ``u8s8``, ``u8s8-7bit``, ``s8s8`` (onnx) or ``litert`` (tflite); else empty.
        step: options of int8; None takes the defaults. With ``max_drop`` the rungs of its ladder are tried.
        data: the data set (``distill.data.Dataset``): calibration and validation images.
        workdir: where to write; made if absent.
        float_artifact: the fp32 file of the same model and format, if there is one already. It saves the
            conversion, most of the time, for ``onnx`` and ``tflite`` in reduced precision.
        target: a runtime to time on: layers go back to float only while the int8 file gains on it.
        qat: makes the model file of the ladder's last rung; without it that rung is skipped.
        notify: progress.

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
    if spec.quantization and precision == "int8":
        _check_trained(step)
    positions, images = parity.validation_images(data)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / ("-".join(filter(None, ("model", precision, scheme))) + f".{fmt}")
    job = _Job(model, module, spec, fmt, precision, scheme, step, data, images, path, float_artifact)
    notes, trail = _write(job, target, qat, notify)

    if fmt == "mlpackage":
        return ExportResult(path, job.artifact(path), {}, notes, trail)  # nothing here runs it
    reference = parity.run_module(module, images)
    about = f"The {precision}{f' ({scheme})' if scheme else ''} {fmt} artifact"
    found, more = _logits(path, fmt, scheme, images, reference, about)
    agreement = parity.check_parity(reference, found, positions, precision, about)
    if spec.quantization and precision == "int8":
        from compress.int8 import qat_export

        agreement["training"] = qat_export.shipped_parity(path, fmt, spec, data, scheme)
    return ExportResult(path, job.artifact(path), agreement, (*notes, *more), trail)


def _check_trained(step: QuantizeStep) -> None:
    """Refuse options of a calibration for a model whose training decided them."""
    known = ("precision", "images", "kind", "version")
    given = [f.name for f in fields(step) if f.name not in known and getattr(step, f.name) != f.default]
    if given:
        raise ConfigError(
            f"The model was trained in int8, which decides all that {', '.join(given)} would",
            todo="Leave them out, or quantize its float parent",
        )


def _files(path: Path) -> list[Path]:
    """An artifact's files: itself, or those of a folder in a fixed order."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _sha256(path: Path) -> str:
    """Of a file, its own; of a folder, that of its files' names and digests."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    lines = (f"{p.relative_to(path).as_posix()} {_sha256(p)}\n" for p in _files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class _Job:
    """One artifact to make, at ``path``."""

    model: Path
    module: nn.Module
    spec: Any
    fmt: str
    precision: str
    scheme: str
    step: QuantizeStep
    data: Any
    images: Any
    path: Path
    float_artifact: Path | None

    def artifact(self, path: Path, precision: str = "", scheme: str = "") -> Artifact:
        """What a file of this model is, and how to feed it."""
        inputs, outputs = _tensor_specs(path, self.fmt, self.spec.preprocess, self.spec.classes)
        return Artifact(
            format=self.fmt,
            sha256=_sha256(path),
            size_bytes=sum(p.stat().st_size for p in _files(path)),
            filename=path.name,
            precision=precision or self.precision,
            scheme=scheme or self.scheme,
            inputs=inputs,
            outputs=outputs,
            preprocess=self.spec.preprocess,
            labels=self.spec.labels,
        )

    def write_float(self, module: nn.Module, path: Path) -> None:
        """Write a model with this one's inputs as an fp32 file."""
        _convert(f"Exporting to {self.fmt}", lambda: float_files.write(module, self.images, path))

    def float_file(self) -> Path:
        """The fp32 file that reduced precisions are made from."""
        if self.float_artifact is not None:
            return self.float_artifact
        path = self.path.with_name(f"model-fp32.{self.fmt}")
        self.write_float(self.module, path)
        return path


def _write(
    job: _Job, target: Target | None, qat: Callable[[], Path] | None, notify: Notify
) -> tuple[tuple[str, ...], tuple[Json, ...]]:
    """Write the artifact; returns notes and the rungs that were tried."""
    if job.fmt == "safetensors":
        job.path.write_bytes(job.model.read_bytes())  # what PyTorch loads: nothing to convert
        return (), ()
    if job.fmt == "pt2":
        return _pt2(job), ()
    if job.fmt == "pte":
        from compress import executorch_

        _convert("Exporting to pte", lambda: executorch_.write(job.module, job.images, job.path))
        return (f"a free batch of at most {executorch_.LARGEST_BATCH} images; XNNPACK kernels",), ()
    if job.fmt == "mlpackage":
        from compress import coreml

        def package() -> tuple[str, ...]:
            return coreml.write(job.module, job.images, job.path, job.precision)

        return _convert(f"Exporting to {job.fmt}", package), ()
    if job.precision == "fp32":
        job.write_float(job.module, job.path)
        return (), ()
    if job.precision == "fp16":
        halve = {"onnx": onnx_int8.to_fp16, "tflite": litert_int8.to_fp16}[job.fmt]
        source = job.float_file()
        return _convert(f"Converting {job.fmt} to fp16", lambda: halve(source, job.path)), ()
    if job.spec.quantization:
        return _trained(job, job.module, job.spec, job.path, job.float_artifact), ()
    return _int8(job, target, qat, notify)


def _int8(
    job: _Job, target: Target | None, qat: Callable[[], Path] | None, notify: Notify
) -> tuple[tuple[str, ...], tuple[Json, ...]]:
    """Post-training int8, by the step's own options or up its ladder."""
    calibration = quantize.calibration(job.step, job.data)
    plain = quantize.FloatFile(job.float_file(), job.fmt, job.scheme, calibration)

    def improved(step: QuantizeStep, path: Path) -> tuple[quantize.FloatFile, tuple[str, ...]]:
        module, notes = quantize.improve(job.module, step, job.fmt, job.scheme, calibration)
        job.write_float(module, path)
        return quantize.FloatFile(path, job.fmt, job.scheme, calibration), notes

    def trained(path: Path) -> tuple[str, ...]:
        from compress.int8 import qat_export
        from distill import models

        if qat is None:
            raise StepError("There is nothing to train with")
        module, spec = models.load(qat())
        notes = _trained(job, module, spec, path, None)
        qat_export.shipped_parity(path, job.fmt, spec, job.data, job.scheme)
        return notes

    def described(path: Path, precision: str) -> ExportResult:
        scheme = job.scheme if precision == "int8" else ""
        return ExportResult(path, job.artifact(path, precision, scheme), {})

    what = f"Quantizing {job.fmt} ({job.scheme})"
    if job.step.max_drop is not None:
        makers = ladder.Makers(plain, improved, described, trained if qat else None, partial(_convert, what))
        return ladder.Ladder(job.step, job.data, makers, target, notify).climb(job.path)
    if not (job.step.equalize or job.step.correct_bias):
        return _convert(what, lambda: plain.write_int8(job.path, job.step)), ()
    source, notes = _convert(
        what, lambda: improved(job.step, job.path.with_name(f"model-equalized.{job.fmt}"))
    )
    return (*_convert(what, lambda: source.write_int8(job.path, job.step)), *notes), ()


def _trained(
    job: _Job, module: nn.Module, spec: Any, path: Path, float_artifact: Path | None
) -> tuple[str, ...]:
    """Int8 with the ranges that a model was trained with."""
    from compress.int8 import qat_export

    images = quantize.calibration(job.step, job.data).sample(qat_export.FALLBACK)
    return _convert(
        f"Writing the trained int8 model as {job.fmt}",
        lambda: qat_export.convert(module.eval(), spec, images, path, job.scheme, float_artifact),
    )


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
        # Integer kernels add up what the emulation adds up in float, unless their accumulators overflow.
        if abs(found - exact).max() > abs(exact - reference).max():
            here, wide = ((v.argmax(1) == reference.argmax(1)).mean() for v in (found, exact))
            return found, (
                f"this CPU saturates 8-bit weights: agreement {here:.3f} here, {wide:.3f} with exact arithmetic; "
                "use u8s8-7bit on CPUs without VNNI",
            )
    return found, ()


def _tensor_specs(
    path: Path, fmt: str, pre: Any, classes: int
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if fmt == "tflite":
        grid = litert_int8.input_grid(path)
        image = TensorSpec("args_0", (1, pre.height, pre.width, pre.channels), grid[0], "NHWC", *grid[1:])
        return (image,), (TensorSpec("output_0", (1, classes), layout="NC"),)
    batch = 1 if fmt == "mlpackage" else None
    image = TensorSpec("input", (batch, pre.channels, pre.height, pre.width), layout="NCHW")
    return (image,), (TensorSpec("logits", (batch, classes), layout="NC"),)


def _pt2(job: _Job) -> tuple[str, ...]:
    import copy

    import torch

    module: nn.Module = job.module
    notes: tuple[str, ...] = ()
    if job.precision != "fp32":
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[job.precision]
        module = float_files.cast(copy.deepcopy(module), dtype)
        notes = (f"{job.precision} inside, float32 input and output",)
    _convert(
        f"Exporting to pt2 in {job.precision}",
        lambda: torch.export.save(float_files.program(module, job.images), job.path),
    )
    return notes
