"""The optimizers, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.steps import Training

if TYPE_CHECKING:
    import torch
    from torch import nn


def learning_rate(step: int, steps_per_epoch: int, options: Training) -> float:
    """The rate of a step: linear warm-up (half of the training at most), then constant, or down to 0.

    Cosine, in ``restarts`` equal cycles: Loshchilov and Hutter, SGDR, 2017. Linear: Defazio et al., Optimal
    Linear Decay Learning Rate Schedules and Further Refinements, 2023.
    """
    warm = round(min(options.warmup_epochs, options.epochs / 2) * steps_per_epoch)
    if step < warm:
        return options.lr * (step + 1) / warm
    if options.schedule == "constant":
        return options.lr
    share = (step - warm) / max(1, options.epochs * steps_per_epoch - warm)
    if options.schedule == "linear":
        return options.lr * (1 - share)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (share * options.restarts % 1.0)))


def optimizer(model: nn.Module, adapters: nn.Module | None, options: Training) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW or Muon; norms and biases (one dimension) do not decay.

    ``adapters`` (of feature losses) come last, so that the first two groups are always the model's.
    """
    import torch

    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if adapters is not None:
        groups.append({"params": list(adapters.parameters()), "weight_decay": options.weight_decay})
    if options.optimizer == "muon":
        return _muon(model, adapters, options)
    # Fused SGD cannot take up parameters that were frozen at its first step.
    fused = not options.freeze_epochs
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, fused=fused)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov, fused=fused)


FALLBACK = 0.1
"""AdamW's rate as a share of Muon's, for what Muon does not take."""


def _muon(model: nn.Module, adapters: nn.Module | None, options: Training) -> torch.optim.Optimizer:
    """timm's Muon for the kernels of convolutions and hidden layers; AdamW for the first layer, the last one and vectors.

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    from timm.optim.muon import Muon

    weights = [p for p in model.parameters() if p.ndim > 1]
    ends = weights[:1] + weights[1:][-1:]
    hidden = weights[1:-1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": hidden, "weight_decay": options.weight_decay},
        {"params": ends, "weight_decay": options.weight_decay, "use_fallback": True},
        {"params": vectors, "weight_decay": 0.0, "use_fallback": True},
    ]
    if adapters is not None:
        decay = {"weight_decay": options.weight_decay, "use_fallback": True}
        groups.append({"params": list(adapters.parameters()), **decay})
    return Muon(
        [group for group in groups if group["params"]],
        lr=options.lr,
        momentum=options.momentum,
        nesterov=True,
        adjust_lr_fn="original",
        fallback_lr_scale=FALLBACK,
    )
