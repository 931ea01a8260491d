"""Structured pruning to a budget of multiply-accumulates (MACs): remove whole channels, then save the smaller net."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, StepError, nearest
from bench.types import PruneStep, StepContext, StepResult
from compress import channels

if TYPE_CHECKING:
    import torch
    from torch import nn

IMPORTANCE = ("l1", "l2", "bn", "random")
SCOPES = ("global", "local")
ROUND_TO = 8
"""Channel multiple where neither the step nor a profile names one."""


def check_prune(step: PruneStep) -> None:
    """Refuse impossible options, without importing torch.

    Raises:
        ConfigError: a value out of range or an unknown name.
    """
    if not 0.0 < step.macs < 1.0:
        raise ConfigError(
            "macs must be a fraction of the parent's between 0 and 1",
            found=f"macs = {step.macs}",
            todo="Try 0.5",
        )
    if step.importance not in IMPORTANCE:
        raise ConfigError(
            f"Unknown importance {step.importance!r}", todo=nearest(step.importance, IMPORTANCE)
        )
    if step.scope not in SCOPES:
        raise ConfigError(f"Unknown scope {step.scope!r}", todo=nearest(step.scope, SCOPES))
    if isinstance(step.round_to, bool) or not isinstance(step.round_to, int) or step.round_to < 0:
        raise ConfigError(
            "round_to must be a whole number, 0 for the profile's", found=f"round_to = {step.round_to}"
        )


def run_prune(step: PruneStep, ctx: StepContext) -> StepResult:
    """Remove channels of the parent until at most ``step.macs`` of its MACs are left.

    The batch-norm statistics are measured anew on calibration images, the weights are not trained:
    recover them with a distillation step.

    Raises:
        ConfigError: see :func:`check_prune`.
        StepError: when the target cannot be reached (with the closest that can), or the model cannot be pruned.
    """
    import torch

    from distill import models

    check_prune(step)
    step = replace(step, round_to=step.round_to or ROUND_TO)
    if ctx.parent is None:
        raise ConfigError("Pruning needs a parent", todo="Name the variant to prune in the recipe")
    module, spec = models.load(ctx.parent)
    data = ctx.data()
    pre = spec.preprocess
    before = models.count(module, pre)
    dense_accuracy = _accuracy(module, data)
    example = torch.zeros(2, pre.channels, pre.height, pre.width)

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
        torch.manual_seed(ctx.seed)
        graph, groups = channels.find_groups(module, example, step, spec.classes)
        layers = channels.layer_macs(module, example[:1])
        kept = channels.search(groups, layers, before[0], step)
        _remove(graph, groups, kept)
    _check_runs(module, example, spec.classes)
    _recalibrate(module, data)

    path = ctx.workdir / "pruned.safetensors"
    models.save(module, spec, path)
    after = models.count(module, pre)
    _check_saved(module, path, example)
    pruned_accuracy = _accuracy(module, data)
    ctx.notify("pruned", {"macs": after[0], "params": after[1], "val_accuracy": pruned_accuracy})
    notes = (
        f"MACs {before[0]:,} -> {after[0]:,} (target {step.macs:.3f}, reached {after[0] / before[0]:.3f})",
        f"parameters {before[1]:,} -> {after[1]:,}",
        "widths: " + _describe(module, groups, kept),
        f"validation accuracy right after pruning {pruned_accuracy:.4f}, before {dense_accuracy:.4f}",
        *dict.fromkeys(str(w.message) for w in caught if "torch_pruning" in w.filename),
    )
    return StepResult(model=path, macs=after[0], params=after[1], notes=notes)


def _remove(graph: Any, groups: Sequence[channels.Group], kept: channels.Kept) -> None:
    """Remove the lowest-scored units of every group, in place."""
    import torch

    for group, keep in zip(groups, kept, strict=True):
        if keep == group.units:
            continue
        units = torch.argsort(group.scores, stable=True)[: group.units - keep]
        gone = torch.cat([units + s * group.units for s in range(group.sets)]).sort().values.tolist()
        graph.get_pruning_group(group.root, group.remove, gone).prune()


def _check_runs(module: nn.Module, example: torch.Tensor, classes: int) -> None:
    import torch

    with channels.blame(module, "The pruned model does not run"), torch.no_grad():
        shape = tuple(module.eval()(example).shape)
    if shape != (len(example), classes):
        raise StepError("The pruned model answers another shape", f"{shape}, not {(len(example), classes)}")


def _check_saved(module: nn.Module, path: Any, example: torch.Tensor) -> None:
    """A file that does not give the same model back is found here, not by the steps that build on it."""
    import torch

    from distill import models

    again = models.load(path)[0]
    with torch.no_grad():
        if not torch.allclose(again(example + 0.5), module(example + 0.5), atol=1e-5):
            raise StepError(
                "The pruned model changes when it is saved and loaded",
                todo="Its architecture keeps widths outside its layers and cannot be pruned",
            )


def _recalibrate(module: nn.Module, data: Any, images: int = 256) -> None:
    """Measure the batch-norm statistics of the pruned widths on calibration images (cumulative average)."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    batches = [part for part in torch.split(data.calibration(images), 64) if len(part) > 1]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()  # only these: dropout stays off
    with torch.no_grad():
        for part in batches:
            module(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


def _accuracy(module: nn.Module, data: Any, limit: int = 2000) -> float:
    """Share of right answers on at most ``limit`` validation images, spread over the split."""
    import torch

    count = len(data.images["validation"])
    rows = torch.linspace(0, count - 1, min(limit, count)).round().long()
    right = 0
    with torch.inference_mode():
        for part in torch.split(rows, 128):
            logits = module.eval()(data.normalise(data.images["validation"][part]))
            right += int((logits.argmax(1) == data.labels["validation"][part]).sum())
    return right / max(1, len(rows))


def _describe(module: nn.Module, groups: Sequence[channels.Group], kept: channels.Kept) -> str:
    names = {layer: name for name, layer in module.named_modules()}
    return ", ".join(
        f"{names[group.root]} {group.units * group.sets}"
        + (f" -> {keep * group.sets}" if keep < group.units else "")
        for group, keep in zip(groups, kept, strict=True)
    )
