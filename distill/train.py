"""The two steps that train: on labels (Train) and on teachers' outputs (Distill). One loop serves both."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, ModelError, nearest
from bench.steps import DistillStep, QatStep, Training, TrainStep
from bench.types import StepContext, StepResult, digest
from distill import augment, losses, models, sparse
from distill.models import ModelSpec
from distill.teachers import Distillation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.data import DataIndex, Dataset
    from distill.loop import Objective

CHOICES = {
    "optimizer": ("sgd", "adamw", "muon"),
    "schedule": ("cosine", "linear", "constant"),
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
            "training.epochs must be at least 1",
            str(options.epochs),
            "0 imports weights as they are: epochs = 0 of the variant that has them, and of no other",
        )
    if options.epochs and options.freeze_epochs >= options.epochs:
        raise ConfigError(
            "training.freeze_epochs must leave epochs to train the whole model",
            f"{options.freeze_epochs} of {options.epochs}",
        )


def check_distill(step: DistillStep) -> None:
    """Raise ConfigError for a Distill step that makes no sense. Needs no torch."""
    check_training(step.training)
    losses.parse(step.loss)
    if not 0 < step.temperature < math.inf:
        raise ConfigError("temperature must be positive", str(step.temperature))
    if not 0 <= step.alpha <= 1:
        raise ConfigError("alpha must be between 0 and 1", str(step.alpha))
    if step.inherit and not step.model:
        raise ConfigError(
            "inherit gives a fresh student its first weights", todo="Name the student with model = ..."
        )


def kd_objective(
    loss: str, temperature: float, alpha: float, teachers: Sequence[nn.Module], label_loss: losses.Loss,
    penalty: Callable[[nn.Module], Tensor] | None = None,
) -> Distillation:  # fmt: skip
    """The objective of :class:`distill.loop.Trainer` that distils ``teachers`` into the module it trains.

    ``alpha * loss(student, teachers) + (1 - alpha) * label_loss(logits, target) + penalty(student)``.
    ``loss`` is a name or a sum (:func:`distill.losses.parse`); losses on logits take any module, those on
    features need one with submodules (an exported graph has none). ``label_loss`` comes from
    :func:`label_loss`. The teachers are put on the training device, in eval mode, and frozen, in place.

    Raises:
        ConfigError: for an unknown loss.
        ModelError: when there is no teacher.
    """
    if not teachers:
        raise ModelError("Distillation needs a teacher", todo="Name one with teacher = ...")
    ready = [place(teacher).eval().requires_grad_(False) for teacher in teachers]
    return Distillation(losses.parse(loss), temperature, alpha, ready, label_loss, penalty)


def run_train(step: TrainStep, ctx: StepContext) -> StepResult:
    """Train ``step.model``, or go on from ``ctx.parent``, on labels; the model is written to ``ctx.workdir``.

    Raises:
        ConfigError: for impossible options.
        ModelError: when the model cannot be built, loaded, or fed with these images.
        StepError: when the loss stays not finite, or the model learns nothing.
    """
    check_training(step.training, step.has_weights)
    if step.weights and (not step.model or step.model.endswith(".safetensors")):
        found = f"{step.model} has its own" if step.model else step.weights
        raise ConfigError(
            "weights need a model that takes them", found, "Name an architecture with model = ..."
        )
    data: Dataset = ctx.data()
    spec, module, notes = _student(step.model, step.weights, ctx, data)
    if not step.training.epochs:
        if notes:
            raise ModelError(
                f"{step.model} cannot be imported without training", notes[0], "Give it some epochs"
            )
        notes = _fed_alike(step.weights, module, ctx, data) if step.weights else ()
    loss = label_loss(step.training, data)

    def objective(model: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
        return loss(model(pixels).float(), target)

    return _finish(step, ctx, data, module, spec, objective, notes)


def run_distill(step: DistillStep, ctx: StepContext) -> StepResult:
    """Train ``step.model``, or go on from ``ctx.parent``, with the outputs of ``ctx.teachers`` as targets.

    The loss is ``alpha * step.loss + (1 - alpha) * loss on labels`` (:func:`distill.losses.parse`). Several
    teachers: the mean of their probabilities; features are the first one's.

    Raises:
        ConfigError: for impossible options.
        ModelError: when a model is absent, or does not know the data's classes.
        StepError: when the loss stays not finite, the model learns nothing, or no features can be compared.
    """
    check_distill(step)
    data: Dataset = ctx.data()
    if not ctx.teachers:
        raise ModelError(
            f"The variant {ctx.variant} has no teacher to learn from", todo="Name one with teacher = ..."
        )
    named = zip(step.teacher, ctx.teachers, strict=True)
    teachers = [made(path, data, f"teacher {name}")[0] for name, path in named]
    spec, module, notes = _student(step.model, "", ctx, data)
    if step.inherit:
        notes = (*notes, inherit(module, teachers[0]))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (module, *teachers)]
    if sizes[0] > max(sizes[1:]):
        text = f"the student has more parameters than its teacher ({sizes[0]:,} and {max(sizes[1:]):,})"
        ctx.notify("warning", {"variant": ctx.variant, "text": text})
        notes = (*notes, text)
    losses.check_classes(step.loss, len(data.index.classes))
    labels = label_loss(step.training, data)
    objective = kd_objective(step.loss, step.temperature, step.alpha, teachers, labels)
    return _finish(step, ctx, data, module, spec, objective, notes)


def _fed_alike(weights: str, module: nn.Module, ctx: StepContext, data: Dataset) -> tuple[str, ...]:
    """What should be known of how an imported model is fed: it wants the mean and deviation that it was trained with."""
    pre, mine = data.preprocess, models.described(weights)
    own = getattr(module, "pretrained_cfg", None) or {}
    if mine.preprocess == pre if mine is not None else data.index.options.mean:
        return ()
    if mine is not None:
        text = (
            f"the imported weights were trained on other images than these ({mine.preprocess} and {pre}); "
            "read the data as they did: image_size, data.resize, data.mean and data.std (bench train: --mean, --std)"
        )
    else:
        known = f" (its library says mean {own['mean']}, std {own['std']})" if own.get("mean") else ""
        text = (
            f"images are normalised with the mean {pre.mean} and deviation {pre.std} of these training images; "
            f"set data.mean and data.std (bench train: --mean, --std) to those of the imported weights{known}"
        )
    ctx.notify("warning", {"variant": ctx.variant, "text": text})
    return (text,)


def inherit(student: nn.Module, teacher: nn.Module) -> str:
    """Copy into ``student`` what of ``teacher`` has the same name and shape; returns how much that was.

    A shallower net of the same family takes whole layers (cf. Sanh et al., DistilBERT, 2019, section 3).

    Raises:
        ConfigError: when nothing fits.
    """
    mine, theirs = student.state_dict(), teacher.state_dict()
    fits = {
        name: theirs[name] for name, own in mine.items() if name in theirs and theirs[name].shape == own.shape
    }
    shared = sum(fits[name].numel() for name, _ in student.named_parameters() if name in fits)
    if not shared:
        raise ConfigError(
            "inherit finds no weights of the teacher with the student's names and shapes",
            todo="Use inherit = false, or a student of the teacher's family and width",
        )
    student.load_state_dict(mine | fits)
    return (
        f"started from the teacher's weights: {shared:,} of {sum(p.numel() for p in student.parameters()):,}"
    )


def _student(
    arch: str, weights: str, ctx: StepContext, data: Dataset
) -> tuple[ModelSpec, nn.Module, tuple[str, ...]]:
    """What is trained: a new model, or without one the parent.

    Raises:
        ModelError: it was trained in int8: its ranges would not fit what is trained now.
    """
    if arch:
        return _start(arch, weights, data, ctx.seed)
    if ctx.parent is None:
        raise ModelError(
            f"The variant {ctx.variant} has neither a model nor a parent to go on from",
            todo="Give it a model, or name a variant as its parent",
        )
    module, spec = made(ctx.parent, data, "parent")
    check_float(spec, "parent")
    return spec, module, ()


def _start(arch: str, weights: str, data: Dataset, seed: int) -> tuple[ModelSpec, nn.Module, tuple[str, ...]]:
    """A new model for ``data``, initialised from ``seed``, or one of our own files to go on from."""
    import torch

    classes, channels = len(data.index.classes), data.index.channels
    if arch.endswith(".safetensors"):
        module, spec = made(Path(arch).expanduser(), data, "model")
        check_float(spec, "model")
        return spec, module, ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, notes = models.build_with_notes(arch, classes, channels, weights)
    held_out = _held_out(weights)
    check_unseen(held_out, data.index, "net behind the weights")
    spec = ModelSpec(arch, classes, channels, data.index.classes, data.preprocess, held_out=held_out)
    return spec, module, notes


def made(path: Path, data: Dataset, role: str) -> tuple[nn.Module, ModelSpec]:
    """Load a model that must know ``data``'s classes, take its images, and not have been trained on those held out.

    Raises:
        ModelError: says what differs.
    """
    module, spec = models.load(path)
    check_classes(spec, data.index, role)
    if spec.preprocess != data.preprocess:
        raise ModelError(
            f"The {role} takes other images than the data set {data.index.spec} gives",
            f"{spec.preprocess} and {data.preprocess}",
            f"Train the {role} on the same data, or read the data as it does: image_size, resize, mean and std",
        )
    check_unseen(spec.held_out, data.index, role)
    return module, spec


def check_start(model: str, weights: str, index: DataIndex) -> None:
    """Build or load once what a training starts from, so that a wrong name, file, class or seed stops before any work.

    Raises:
        ModelError: says what is wrong with it.
    """
    if model.endswith(".safetensors"):
        _, spec = models.load(Path(model).expanduser())
        check_classes(spec, index, "model")
        check_unseen(spec.held_out, index, "model")
        return
    models.build(model, len(index.classes), index.channels, weights)
    check_unseen(_held_out(weights), index, "net behind the weights")


def _held_out(weights: str) -> str:
    """What the training of these weights held out, where that is known."""
    mine = models.described(weights)
    return mine.held_out if mine is not None else ""


def check_classes(spec: ModelSpec, index: DataIndex, role: str) -> None:
    """Raise ModelError for a model of other classes, or of the same in another order, or of other channels."""
    if spec.labels == index.classes and spec.channels == index.channels:
        return
    mine, theirs = (
        f"{len(names)} classes {', '.join(names[:5])}{', ...' if len(names) > 5 else ''} of {channels}-channel images"
        for names, channels in ((spec.labels, spec.channels), (index.classes, index.channels))
    )
    raise ModelError(
        f"The {role} does not fit the data set {index.spec}",
        f"{mine}; and {theirs}",
        "Give the data it was trained on with --data",
    )


def check_unseen(held_out: str, index: DataIndex, role: str) -> None:
    """Raise ModelError where a training held out (:attr:`ModelSpec.held_out`) other images; empty: it is not known."""
    if held_out not in ("", index.held_out):
        raise ModelError(
            f"The {role} may have been trained on images that are held out here",
            f"validation and test of {index.spec} with seed {index.seed} are not those of its training",
            "Give the data and the seed that it was trained with",
        )


def check_float(spec: ModelSpec, role: str) -> None:
    """Raise ModelError for a model that was trained in int8: the ranges it carries are of the weights that it has."""
    if spec.quantization:
        raise ModelError(
            f"The {role} was trained in simulated int8 already", todo="Start from its float parent"
        )


def place(module: nn.Module) -> nn.Module:
    """To the device that trains, in the memory layout it trains in."""
    from distill.devices import device, memory_format

    placed: nn.Module = module.to(device(), memory_format=memory_format(module))  # type: ignore[call-overload]
    return placed


def label_loss(options: Training, data: Dataset) -> losses.Loss:
    """The loss on labels that ``options`` ask for: smoothed, and balanced by the train images per class."""
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
    placed = place(module)
    if spec.sparsity:
        sparse.keep_zeros(placed, step.training)
    trainer = Trainer(
        placed, data, step.training, seed=ctx.seed, objective=objective, notify=ctx.notify,
        variant=ctx.variant, workdir=ctx.workdir, identity=identity(step, ctx, data),
    )  # fmt: skip
    outcome = trainer.run()
    path = ctx.workdir / "model.safetensors"
    models.save(module, replace(spec, held_out=data.index.held_out) if outcome.history else spec, path)
    return StepResult(
        model=path,
        macs=macs,
        params=params,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        notes=(*notes, *outcome.notes),
    )


def identity(step: TrainStep | DistillStep | QatStep, ctx: StepContext, data: Dataset) -> str:
    """Names a training, so that no other goes on from its checkpoint: options, seed, data, and the files it starts from."""
    named = [getattr(step, name, "") for name in ("model", "weights")]
    named = [n[3:].rpartition(":")[0] if n.startswith("py:") else n for n in named]  # py:FILE.py:FACTORY
    files = [ctx.parent, *ctx.teachers, *(Path(name).expanduser() for name in named if name)]
    contents = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f is not None and f.is_file()]
    return digest([step, ctx.seed, data.index.digest, contents])


def _check_logits(module: nn.Module, data: Dataset) -> None:
    import torch

    with torch.inference_mode():
        logits = module.eval()(data.normalise(data.images["train"][:1]))
    if logits.shape[1] != len(data.index.classes):
        raise ModelError(
            f"The model answers {logits.shape[1]} classes, the data set has {len(data.index.classes)}",
            todo="Let the factory use its argument num_classes",
        )
