"""Zeros that stay zeros: what training does for a net whose weights were pruned one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def keep_zeros(module: nn.Module) -> None:
    """Keep every convolution and linear weight that is zero now at zero, through any training of ``module``.

    Call it when the module is on its device. Gradients are masked before the optimizer sees them, so
    momentum, weight decay and averages of a zero weight stay zero as well (of any optimizer that treats
    weights one by one).
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    def masked(parameter: Tensor) -> None:
        mask = parameter.detach() != 0
        parameter.register_hook(lambda gradient: gradient * mask)

    for layer in module.modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            masked(layer.weight)
