"""Quantization-aware training: a float net learns to be right in simulated int8, from its own float outputs.

The result is an ordinary model file of the same architecture (BatchNorm folded into the layers, see
:func:`compress.int8.qat_graph.graph`) whose ``quantization`` says on which grid each activation was trained. The
exporters (:mod:`compress.int8.qat_export`) put these grids into the files; nothing is calibrated again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, ModelError, nearest
from bench.steps import QatStep, QuantizeStep, Training
from bench.types import Json, Notify, StepContext, StepResult, digest
from compress import quantize
from compress.int8 import fake_quant, onnx_int8, qat_graph, ranges
from compress.int8.fake_quant import Grid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, fx, nn

SCHEMA = 1
"""Version of ``ModelSpec.quantization``."""
SCHEME = "u8s8"
"""Of the files, where neither the step nor a target names one."""
JUDGED = "judged"
LEAST_JUDGED = 3000
CLIP = 1.0
"""``clip_norm`` where none is given: without BatchNorm one large step of SGD loses a net (ResNet-20 at a rate
of 0.003; with it 0.03 trains well)."""
RUNG = Training(
    batch_size=64, optimizer="adamw", lr=3e-4, weight_decay=1e-4, warmup_epochs=0.2, augment=(), min_steps=150
)
"""How the ladder's last rung trains: short, from weights that are good already, the teacher asked once for
each image."""


def check_qat(step: QatStep) -> None:
    """Raise ConfigError for a QAT step that makes no sense. Needs no torch."""
    from distill import losses
    from distill.train import check_training

    if step.scheme and step.scheme not in onnx_int8.SCHEMES:
        raise ConfigError(
            f"Unknown quantization scheme {step.scheme!r}", todo=nearest(step.scheme, onnx_int8.SCHEMES)
        )
    if step.ranges not in ranges.METHODS:
        raise ConfigError(
            f"Unknown way to find first ranges {step.ranges!r}", todo=nearest(step.ranges, ranges.METHODS)
        )
    if isinstance(step.images, bool) or not isinstance(step.images, int) or step.images < 1:
        raise ConfigError(
            "The first ranges need at least one image", f"images = {step.images}", "Use 128 or more"
        )
    for name in losses.parse(step.loss):
        if name not in losses.LOGIT_LOSSES:
            raise ConfigError(
                f"The distillation loss {name} compares features, which simulated int8 does not show",
                todo=f"Use one of {', '.join(losses.LOGIT_LOSSES)}",
            )
    if not 0 < step.temperature < math.inf:
        raise ConfigError("temperature must be positive", str(step.temperature))
    if not 0 <= step.alpha <= 1:
        raise ConfigError("alpha must be between 0 and 1", str(step.alpha))
    if step.training.freeze_epochs:
        raise ConfigError(
            "QAT trains the whole model", f"training.freeze_epochs = {step.training.freeze_epochs}", "Use 0"
        )
    if step.training.optimizer == "muon":
        raise ConfigError(
            "Muon's steps are for layers before a BatchNorm, and QAT folds them together",
            todo='Give this step itself optimizer = "adamw" and lr = 0.0003 (its own), or "sgd" and 0.01',
        )
    check_training(step.training)


def run_qat(step: QatStep, ctx: StepContext) -> StepResult:
    """Train ``ctx.parent`` in simulated int8 and write it to ``ctx.workdir``.

    The teachers are ``ctx.teachers``, or the parent itself. Gradients are clipped to a norm of :data:`CLIP`
    unless the step says otherwise; a rate of 0.0003 suits AdamW, 0.01 SGD.

    Raises:
        ConfigError: for impossible options.
        ModelError: without a parent, when the parent was quantized already, or a model knows other classes or
            images.
        StepError: when the parent cannot be traced, has nothing to quantize, or the loss stays not finite.
    """
    from distill import models

    check_qat(step)
    step, data = replace(step, scheme=step.scheme or SCHEME), ctx.data()
    module, spec = _parent(ctx, data)
    macs, params = models.count(module, data.preprocess)
    graph = _traced(module, data)
    trained, outcome = _train(graph, module, data, step, ctx, zeros=bool(spec.sparsity))
    graph.load_state_dict(_shared(trained, graph), strict=False)
    module.load_state_dict(_shared(graph, module), strict=False)
    quantization = _quantization(graph, trained, data, step)
    path = ctx.workdir / "model.safetensors"
    models.save(module, replace(spec, quantization=quantization, held_out=data.index.held_out), path)
    found = ", ".join(f"{fmt} {accuracy:.4f}" for fmt, accuracy in quantization["accuracy"].items())
    notes = (
        *outcome.notes,
        f"simulated int8 ({step.scheme}), accuracy on validation: {found}",
        *_calibration(step, data).notes,
    )
    return StepResult(path, macs, params, outcome.history, outcome.best_epoch, notes)


def _parent(ctx: StepContext, data: Any) -> tuple[nn.Module, Any]:
    from distill import train

    if ctx.parent is None:
        raise ModelError(
            f"The variant {ctx.variant} has no parent to train in int8",
            todo="Name a float variant as its parent",
        )
    module, spec = train.made(ctx.parent, data, "parent")
    train.check_float(spec, "parent")
    return module, spec


def _traced(module: nn.Module, data: Any) -> fx.GraphModule:
    return qat_graph.graph(module, data.normalise(data.images["train"][:1]))


def _train(
    graph: fx.GraphModule, module: nn.Module, data: Any, step: QatStep, ctx: StepContext, zeros: bool
) -> tuple[nn.Module, Any]:
    """The graph that rounds, with the weights and grids of its best epoch, and what the loop recorded."""
    from distill import devices, loop, losses, sparse, train

    losses.check_classes(step.loss, len(data.index.classes))
    options = replace(step.training, clip_norm=step.training.clip_norm or CLIP)
    teachers = [train.made(path, data, "teacher")[0] for path in ctx.teachers or (ctx.parent,) if path]
    loss = train.label_loss(step.training, data)
    placed = train.place(fake_quant.insert(graph, first_grids(graph, data, step), step.scheme))
    if zeros:
        sparse.keep_zeros(placed, options, layers_of=module)
    trainer = loop.Trainer(
        placed, data, options, seed=ctx.seed, objective=train.kd_objective(step.loss, step.temperature, step.alpha, teachers, loss),
        notify=ctx.notify, variant=ctx.variant, workdir=ctx.workdir,
        identity=train.identity(step, ctx, data),
    )  # fmt: skip
    # The loop tells it from the layers, and a graph has none.
    trainer.layout = devices.memory_format(module)
    outcome = trainer.run()
    return trainer.model.cpu(), outcome


def _shared(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """The tensors of one module that another one has as well."""
    names = target.state_dict().keys()
    return {name: value for name, value in source.state_dict().items() if name in names}


def _calibration(step: QatStep, data: Any) -> quantize.Calibration:
    """The images of the first ranges, read batch by batch."""
    return quantize.calibration(QuantizeStep(images=step.images), data)


def first_grids(graph: fx.GraphModule, data: Any, step: QatStep) -> dict[str, Grid]:
    """The grid of each activation from calibration images."""
    import torch

    names = set(qat_graph.points(graph).values())

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        for part in _calibration(step, data):
            found = qat_graph.record(graph, torch.from_numpy(part), names)
            yield {name: value.numpy() for name, value in found.items()}

    symmetric = onnx_int8.SCHEMES[step.scheme].symmetric
    found = ranges.find(ranges.collect(batches()), step.ranges, symmetric)
    for name in found:
        kind = name.rpartition("_")[0]
        if kind in qat_graph.GATES:
            found[name] = fake_quant.gate_range("", kind)
    return {name: fake_quant.grid(ends, step.scheme) for name, ends in found.items()}


def _quantization(graph: fx.GraphModule, trained: nn.Module, data: Any, step: QatStep) -> Json:
    """What the exporters need to know, and what the files must reach on validation; in float32."""
    import numpy as np
    import torch

    from distill.evaluate import answers

    with torch.inference_mode():
        logits = torch.cat([trained(torch.from_numpy(part)) for part in _calibration(step, data)])
    found: Json = {
        "schema": SCHEMA,
        "scheme": step.scheme,
        "activations": {name: [g.scale, g.low, g.high] for name, g in fake_quant.grids_of(trained).items()},
        "logits": [float(logits.min()), float(logits.max())],
        "data": data.index.digest,
        "accuracy": {},
        "right": {},  # one bit for each judged image
    }
    judged = with_judged(data)
    for fmt in ("onnx", "tflite"):
        right = answers(simulation(graph, found, fmt), judged, JUDGED, None)[1] == judged.labels[JUDGED]
        found["accuracy"][fmt] = float(right[: len(data.labels["validation"])].double().mean())
        found["right"][fmt] = np.packbits(right.numpy()).tobytes().hex()
    return found


def with_judged(data: Any) -> Any:
    """``data`` with one more split, :data:`JUDGED`: by what images a file is compared with its simulation.

    All of validation, filled up to :data:`LEAST_JUDGED` with images spread over train: whether two programs compute the
    same does not depend on who has seen the images, and a few hundred cannot tell 0.3 points.
    """
    import torch

    images, labels = data.images["validation"], data.labels["validation"]
    more = min(max(0, LEAST_JUDGED - len(labels)), len(data.labels["train"]))
    if more:
        rows = torch.linspace(0, len(data.labels["train"]) - 1, more).round().long()
        images = torch.cat([images, data.images["train"][rows]])
        labels = torch.cat([labels, data.labels["train"][rows]])
    return replace(data, images={**data.images, JUDGED: images}, labels={**data.labels, JUDGED: labels})


def grids(quantization: Json, fmt: str) -> dict[str, Grid]:
    """The grids in ``ModelSpec.quantization`` for a format, by the label of their node in the graph."""
    known = {name: Grid(*values) for name, values in quantization["activations"].items()}
    for name in known:
        kind = name.rpartition("_")[0]
        if kind in qat_graph.GATES:
            known[name] = fake_quant.grid(fake_quant.gate_range(fmt, kind), quantization["scheme"])
    return known


def simulation(graph: fx.GraphModule, quantization: Json, fmt: str) -> nn.Module:
    """What a file computes, down to the rounding inside the kernels of its runtime.

    Args:
        graph: of the trained model (:func:`compress.int8.qat_graph.graph`).
        fmt: onnx (its logits stay float) or tflite (they are rounded).
    """
    from torch import nn

    scheme = quantization["scheme"]
    if fmt == "tflite" and scheme == "u8s8-7bit":
        scheme = "u8s8"  # LiteRT's kernels do not saturate, and its files have all 8 bits
    module = fake_quant.insert(graph, grids(quantization, fmt), scheme, fmt)
    if fmt == "onnx":
        return module
    logits = fake_quant.grid(tuple(quantization["logits"]), scheme)
    return nn.Sequential(module, fake_quant.modules().activation(logits)).eval()


def qat_rung(
    model: Path, step: QuantizeStep, data: Any, workdir: Path, scheme: str, seed: int, notify: Notify
) -> Path:
    """The last rung of the ladder: ``step.qat_epochs`` of training from a float model; returns its file.

    Done once for each scheme (LiteRT's files are served by u8s8) and found again in ``workdir``.
    """
    chosen = QatStep(
        scheme="u8s8" if scheme not in onnx_int8.SCHEMES else scheme,
        images=step.images,
        training=replace(RUNG, epochs=step.qat_epochs),
    )
    place = workdir / f"qat-{digest([chosen, seed, data.index.digest, model.name])}"
    done = place / "model.safetensors"
    if not done.exists():
        place.mkdir(parents=True, exist_ok=True)
        context = StepContext(
            variant=f"{model.stem}: QAT", seed=seed, data=lambda: data, parent=model, teachers=(),
            workdir=place, notify=notify,
        )  # fmt: skip
        run_qat(chosen, context)
    return done
