"""The two steps that train: on labels (Train) and on a teacher's outputs (Distill). One loop serves both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, ModelError, nearest
from bench.types import DistillStep, StepContext, StepResult, Training, TrainStep, digest
from distill import augment, losses, models
from distill.models import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.data import Dataset
    from distill.loop import Objective

CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "constant"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "imbalance": ("none", "weighted", "focal", "sampler"),
}
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 1_000_000),
    "min_steps": (0, 10_000_000),
    "momentum": (0, 0.999),
    "weight_decay": (0, 1),
    "restarts": (1, 1000),
    "warmup_epochs": (0, math.inf),
    "label_smoothing": (0, 0.9),
    "ema": (0, 0.99999),
    "clip_norm": (0, math.inf),
    "patience": (0, math.inf),
    "freeze_epochs": (0, math.inf),
    "mixup": (0, 100),
    "cutmix": (0, 100),
}
LOSSES = ("kd",)


def check_training(options: Training, has_weights: bool = False) -> None:
    """Raise ConfigError for options that make no sense. Needs no torch.

    ``epochs = 0`` imports a model as it is, which only makes sense when it ``has_weights``.
    """
    for name, known in CHOICES.items():
        value = getattr(options, name)
        if value not in known:
            raise ConfigError(f"There is no training {name} {value!r}", todo=nearest(str(value), known))
    for change in options.augment:
        if change not in augment.NAMES:
            raise ConfigError(
                f"There is no augmentation {change!r}", todo=nearest(str(change), augment.NAMES)
            )
    for name, (low, high) in RANGES.items():
        value = getattr(options, name)
        if not low <= value <= high:
            bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"training.{name} must be {bounds}", str(value))
    if not 0 < options.lr < math.inf:
        raise ConfigError("training.lr must be positive", str(options.lr))
    if options.epochs < 1 and not (options.epochs == 0 and has_weights):
        raise ConfigError(
            "training.epochs must be at least 1", str(options.epochs), "0 imports a model, and needs weights"
        )
    if options.epochs and options.freeze_epochs >= options.epochs:
        raise ConfigError(
            "training.freeze_epochs must leave epochs to train the whole model",
            f"{options.freeze_epochs} of {options.epochs}",
        )


def check_distill(step: DistillStep) -> None:
    """Raise ConfigError for a Distill step that makes no sense. Needs no torch."""
    check_training(step.training)
    if step.loss not in LOSSES:
        raise ConfigError(f"There is no distillation loss {step.loss!r}", todo=nearest(step.loss, LOSSES))
    if not 0 < step.temperature < math.inf:
        raise ConfigError("temperature must be positive", str(step.temperature))
    if not 0 <= step.alpha <= 1:
        raise ConfigError("alpha must be between 0 and 1", str(step.alpha))


def run_train(step: TrainStep, ctx: StepContext) -> StepResult:
    """Train ``step.model`` on labels and write it to ``ctx.workdir``.

    Raises:
        ConfigError: for impossible options.
        ModelError: when the model cannot be built, loaded, or fed with these images.
        StepError: when the loss stays not finite.
    """
    check_training(step.training, has_weights=bool(step.weights))
    data: Dataset = ctx.data()
    spec, module, notes = _start(step.model, step.weights, data, ctx.seed)
    if not step.training.epochs and notes:
        raise ModelError(f"{step.model} cannot be imported without training", notes[0], "Give it some epochs")
    loss = _label_loss(step.training, data)

    def objective(model: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
        return loss(model(pixels).float(), target)

    return _finish(step, ctx, data, module, spec, objective, notes)


def run_distill(step: DistillStep, ctx: StepContext) -> StepResult:
    """Train ``step.model``, or go on from ``ctx.parent``, with the outputs of ``ctx.teacher`` as targets.

    The loss is ``alpha * T^2 KL(teacher || student) + (1 - alpha) * loss on labels`` (Hinton et al. 2015).

    Raises:
        ConfigError: for impossible options.
        ModelError: when a model is absent, or does not know the data's classes.
        StepError: when the loss stays not finite.
    """
    import torch

    check_distill(step)
    data: Dataset = ctx.data()
    if ctx.teacher is None:
        raise ModelError(
            f"The variant {ctx.variant} has no teacher to learn from", todo="Name one with teacher = ..."
        )
    teacher, _ = _made(ctx.teacher, data, "teacher")
    if step.model:
        spec, module, notes = _start(step.model, "", data, ctx.seed)
    elif ctx.parent is None:
        raise ModelError(f"The variant {ctx.variant} has neither a model nor a parent to go on from")
    else:
        (module, spec), notes = _made(ctx.parent, data, "parent"), ()
    sizes = [sum(p.numel() for p in net.parameters()) for net in (module, teacher)]
    if sizes[0] > sizes[1]:
        notes = (*notes, f"the student has more parameters than its teacher ({sizes[0]:,} and {sizes[1]:,})")
    loss = _label_loss(step.training, data)
    teacher = _place(teacher).requires_grad_(False)

    def objective(model: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(pixels).float()
        logits = model(pixels).float()
        soft = losses.distillation(logits, wanted, step.temperature)
        return step.alpha * soft + (1 - step.alpha) * loss(logits, target)

    return _finish(step, ctx, data, module, spec, objective, notes)


def _start(arch: str, weights: str, data: Dataset, seed: int) -> tuple[ModelSpec, nn.Module, tuple[str, ...]]:
    """A new model for ``data``, initialised from ``seed``, or one of our own files to go on from."""
    import torch

    classes, channels = len(data.index.classes), data.index.channels
    if arch.endswith(".safetensors"):
        module, spec = _made(Path(arch).expanduser(), data, "model")
        return spec, module, ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, notes = models.build_with_notes(arch, classes, channels, weights)
    return ModelSpec(arch, classes, channels, data.index.classes, data.preprocess), module, notes


def _made(path: Path, data: Dataset, role: str) -> tuple[nn.Module, ModelSpec]:
    """Load a model that must know ``data``'s classes and take its images."""
    module, spec = models.load(path)
    if spec.labels != data.index.classes:
        raise ModelError(
            f"The {role} knows other classes than the data set {data.index.spec}",
            f"{len(spec.labels)} classes {', '.join(spec.labels[:5])} and {len(data.index.classes)} classes "
            f"{', '.join(data.index.classes[:5])}",
            f"Train the {role} on the same data",
        )
    if spec.preprocess != data.preprocess:
        raise ModelError(
            f"The {role} was made for other images than the data set {data.index.spec}",
            f"{spec.preprocess} and {data.preprocess}",
            f"Train the {role} on the same data, with the same image_size, resize and seed",
        )
    return module, spec


def _place(module: nn.Module) -> nn.Module:
    """To the device that trains, in the memory layout it trains in."""
    from distill.devices import device, memory_format

    placed: nn.Module = module.to(device(), memory_format=memory_format(module))  # type: ignore[call-overload]
    return placed


def _label_loss(options: Training, data: Dataset) -> losses.Loss:
    from distill.devices import device

    counts = data.index.per_class["train"]
    return losses.classification(options.imbalance, options.label_smoothing, counts, str(device()))


def _finish(
    step: TrainStep | DistillStep, ctx: StepContext, data: Dataset, module: nn.Module, spec: ModelSpec,
    objective: Objective, notes: tuple[str, ...],
) -> StepResult:  # fmt: skip
    """Check that the model takes the images, train it, and write the best epoch's weights."""
    from distill.loop import Trainer

    macs, params = models.count(module, data.preprocess)
    _check_logits(module, data)
    identity: list[Any] = [step, ctx.seed, data.index.digest]
    trainer = Trainer(
        _place(module), data, step.training, seed=ctx.seed, objective=objective, notify=ctx.notify,
        variant=ctx.variant, workdir=ctx.workdir, identity=digest(identity),
    )  # fmt: skip
    outcome = trainer.run()
    path = ctx.workdir / "model.safetensors"
    models.save(module, spec, path)
    return StepResult(
        model=path,
        macs=macs,
        params=params,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        notes=(*notes, *outcome.notes),
    )


def _check_logits(module: nn.Module, data: Dataset) -> None:
    import torch

    with torch.inference_mode():
        logits = module.eval()(data.normalise(data.images["train"][:1]))
    if logits.shape[1] != len(data.index.classes):
        raise ModelError(
            f"The model answers {logits.shape[1]} classes, the data set has {len(data.index.classes)}",
            todo="Let the factory use its argument num_classes",
        )
