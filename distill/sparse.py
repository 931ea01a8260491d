"""Zeros that stay zeros: what training does for a net whose weights were pruned one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.steps import Training

if TYPE_CHECKING:
    from torch import Tensor, nn


def keep_zeros(module: nn.Module, training: Training, layers_of: nn.Module | None = None) -> None:
    """Keep every convolution and linear weight that is zero now at zero, through any training of ``module``.

    ``layers_of`` is the model whose layers they are, where ``module`` is a graph of it, which has its parameters only.
    Call it when the module is on its device. Gradients are masked before the optimizer sees them, so
    momentum, weight decay and averages of a zero weight stay zero as well.

    Raises:
        ConfigError: the ``training``'s optimizer does not treat weights one by one.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if training.optimizer == "muon":
        raise ConfigError(
            "Muon cannot train a net with zeroed weights",
            "it mixes all weights of a layer, and the zeros would not stay",
            'Use training.optimizer = "sgd" or "adamw"',
        )

    def masked(parameter: Tensor) -> None:
        mask = parameter.detach() != 0
        parameter.register_hook(lambda gradient: gradient * mask)

    for name, layer in (layers_of or module).named_modules():
        if isinstance(layer, (_ConvNd, nn.Linear)):
            masked(module.get_parameter(f"{name}.weight".lstrip(".")))
