"""Training inside a pruning: between two stages, or before the first with a group-sparse penalty."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.types import Json, digest
from compress.pruning import channels
from compress.pruning.budget import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

REGULARISATION = 5e-4
STRENGTH = 4.0
"""The smallest units of a group are pulled 2**4 times as hard as the largest: DepGraph's values for CIFAR."""
LOSS, TEMPERATURE, ALPHA = "kd", 4.0, 0.7
"""How the dense parent teaches: the defaults of a distillation step."""


def train(
    job: Job, module: nn.Module, epochs: int, part: str, penalty: Callable[[nn.Module], Tensor] | None = None
) -> list[Json]:
    """Train ``module`` in place on labels and on the dense parent's answers; returns the rows of its history.

    ``part`` names this training among those of the step: it goes on from its own checkpoint.

    Raises:
        StepError: when the loss stays not finite.
    """
    from distill import sparse
    from distill import train as training
    from distill.loop import Trainer

    options = replace(job.step.training, epochs=epochs, min_steps=0, patience=0, freeze_epochs=0)
    objective = training.kd_objective(
        LOSS, TEMPERATURE, ALPHA, [copy.deepcopy(job.dense)], training.label_loss(options, job.data), penalty
    )
    placed = training.place(module.requires_grad_(True))
    if job.step.sparsity or job.spec.sparsity:
        sparse.keep_zeros(placed, options)
    identity = digest([job.memory.identity, part])
    trainer = Trainer(
        placed, job.data, options, seed=job.ctx.seed, objective=objective, notify=job.ctx.notify,
        variant=job.ctx.variant, workdir=job.ctx.workdir / part, identity=identity,
    )  # fmt: skip
    rows = list(trainer.run().history)
    _back(module)
    return rows


def trial(job: Job, module: nn.Module, part: str) -> nn.Module:
    """A copy of ``module`` after the step's ``trial_steps`` steps of the training of :func:`train`, on as many images.

    Raises:
        StepError: when the loss stays not finite.
    """
    import torch

    steps, count = job.step.trial_steps, len(job.data.labels["train"])
    batch = min(job.step.training.batch_size, count)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(job.ctx.seed))[: steps * batch]
    images = {**job.data.images, "train": job.data.images["train"][chosen]}
    labels = {**job.data.labels, "train": job.data.labels["train"][chosen]}
    data = replace(job.data, images=images, labels=labels)
    quiet = replace(job.ctx, notify=lambda event, details: None)
    copied = copy.deepcopy(module)
    train(replace(job, data=data, ctx=quiet), copied, max(1, round(steps * batch / count)), part)
    shutil.rmtree(job.ctx.workdir / part, ignore_errors=True)
    return copied


def _back(module: nn.Module) -> None:
    """From the device that trains to the CPU, in the usual layout."""
    import torch

    module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.eval()


def group_penalty(groups: Sequence[channels.Group]) -> Callable[[nn.Module], Tensor]:
    """``r/2 * sum over units of gamma * |all weights of the unit|^2``, for the net the groups were found in.

    Gamma runs from 1 for the largest unit of a group to 2**4 for the smallest, so that the small ones vanish
    in all layers of the group together (Fang et al., DepGraph, CVPR 2023, section 3.4).
    """
    import torch

    members = [list(_members(group)) for group in groups]

    def penalty(_: nn.Module) -> Tensor:
        parts = []
        for group, layers in zip(groups, members, strict=True):
            norms = _norms(group, layers)
            size = norms.detach().sqrt()
            low, high = size.min(), size.max()
            gamma = 2.0 ** (STRENGTH * (high - size) / (high - low).clamp(min=1e-12))
            parts.append((gamma * norms).sum())
        return 0.5 * REGULARISATION * torch.stack(parts).sum()

    return penalty


def _members(group: channels.Group) -> Iterator[tuple[Any, int, Tensor, Tensor]]:
    """(layer, dimension of its weight, channels along it, units they belong to) of every layer of a group.

    The inputs of grouped convolutions are left out: their weights lie in another order.
    """
    import torch
    from torch import nn
    from torch_pruning.pruner import function

    inward = (function.prune_conv_in_channels, function.prune_linear_in_channels)
    for item in group.raw.items:
        layer, inside = item.dep.target.module, item.dep.handler in inward
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, nn.Parameter) or (inside and getattr(layer, "groups", 1) > 1):
            continue
        root = torch.tensor(item.root_idxs)
        units = root % group.units if group.remove is not None else root // group.sets
        yield layer, int(inside), torch.tensor(item.idxs), units


def _norms(group: channels.Group, layers: Sequence[tuple[Any, int, Tensor, Tensor]]) -> Tensor:
    """The squared norm of each unit's weights, over all layers."""
    where = layers[0][0].weight
    total: Tensor = where.new_zeros(group.units)
    for layer, dim, channels_, units in layers:
        squares = (
            layer.weight.float().square().transpose(0, dim).flatten(1) if layer.weight.ndim > 1 else None
        )
        each = layer.weight.float().square() if squares is None else squares.sum(1)
        total = total.index_add(0, units.to(where.device), each[channels_.to(where.device)])
    return total


def penalty_of(job: Job, module: nn.Module) -> Callable[[nn.Module], Tensor]:
    """The group-sparse penalty for ``module``."""
    found, _ = channels.find_groups(module, job.example, "l2", job.spec.classes, whole=job.whole)
    return group_penalty(found)
