"""How much a channel matters: the scores of Torch-Pruning, and the gradients that two of them need.

l1, l2: Li et al., Pruning Filters, 2017. bn: Liu et al., Network Slimming, 2017. lamp: Lee et al., 2021.
fpgm: He et al., Geometric Median, 2019. taylor: Molchanov et al., Importance Estimation, 2019. hessian: LeCun
et al., Optimal Brain Damage, 1989. Each is summed over all layers of a group, as in DepGraph (Fang et al.,
2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

NAMES = ("l1", "l2", "bn", "lamp", "fpgm", "taylor", "hessian", "random")
GRADIENTS = ("taylor", "hessian")
"""Scores that look at calibration images and their labels."""
IMAGES = {"taylor": 512, "hessian": 128}
"""Of each at most: hessian goes through the net image by image."""


def scorer(name: str) -> Any:
    """The library's function that turns one of its groups into a score per channel."""
    from torch_pruning.pruner import importance

    makers = {
        "l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "bn": importance.BNScaleImportance,
        "lamp": importance.LAMPImportance,
        "fpgm": importance.FPGMImportance,
        "taylor": importance.GroupTaylorImportance,
        "hessian": importance.GroupHessianImportance,
        "random": importance.RandomImportance,
    }
    return makers[name]()


def accumulate(name: str, module: nn.Module, data: Any) -> None:
    """Leave in every ``grad`` what the score ``name`` reads there; nothing for scores of weights alone.

    ``taylor``: the mean gradient of the cross-entropy over calibration images. ``hessian``: the mean of its
    squares, image by image (the diagonal of the empirical Fisher information). The net stays in eval mode.
    """
    import torch
    from torch.nn import functional

    module.zero_grad(set_to_none=True)
    if name not in GRADIENTS:
        return
    images, labels = data.images["calibration"], data.labels["calibration"]
    rows = torch.linspace(0, len(labels) - 1, min(IMAGES[name], len(labels))).round().long()
    squares = {p: torch.zeros_like(p) for p in module.parameters()}
    module.eval()
    for part in rows.split(1 if name == "hessian" else 64):
        logits = module(data.normalise(images[part]))
        loss = functional.cross_entropy(logits, labels[part], reduction="sum") / len(rows)
        loss.backward()
        if name == "hessian":
            for parameter, total in squares.items():
                if parameter.grad is not None:
                    total += len(rows) * parameter.grad.square()
            module.zero_grad(set_to_none=True)
    for parameter, total in squares.items():
        if name == "hessian":
            parameter.grad = total
        elif parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
