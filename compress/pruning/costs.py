"""What the layers of a net cost, what is left with narrower groups, and how narrow a budget makes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import StepError
from compress.pruning.channels import MIN_KEPT, Group, Kept

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class LayerCost:
    """MACs of one image and weights of a layer, and the widths they are for.

    ``inputs`` 0: only the outputs count (depthwise layers, norms, attention between tokens). ``extras`` are
    parameters in proportion to the outputs alone: biases, norms, parameters outside a layer.
    """

    macs: int
    weights: int
    extras: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Costs:
    """The costs of every layer (or parameter outside one) of a net, and the net's own MACs and parameters."""

    layers: dict[Any, LayerCost]
    macs: int
    params: int

    def after(self, groups: Sequence[Group], kept: Kept) -> tuple[int, int]:
        """(MACs, parameters) of the net when ``kept`` units stay of each group."""
        inputs = {layer: cost.inputs for layer, cost in self.layers.items()}
        outputs = {layer: cost.outputs for layer, cost in self.layers.items()}
        for group, keep in zip(groups, kept, strict=True):
            for layer, side, channels in group.effects:
                width = outputs if side == "out" else inputs
                if layer in width:
                    width[layer] -= channels * (group.units - keep) // group.units
        macs = params = 0.0
        for layer, cost in self.layers.items():
            share = outputs[layer] / cost.outputs
            both = share * inputs[layer] / cost.inputs if cost.inputs else share
            macs += cost.macs * (1.0 - both)
            params += cost.weights * (1.0 - both) + cost.extras * (1.0 - share)
        return round(self.macs - macs), round(self.params - params)


def find_costs(module: nn.Module, image: torch.Tensor, macs: int, params: int) -> Costs:
    """The costs of ``module`` (which has so many MACs and parameters) for ``image`` (1 x C x H x W)."""
    import torch

    from distill.widths import attentions

    costs: dict[Any, LayerCost] = {
        layer: cost for layer in module.modules() if (cost := _static(layer)) is not None
    }
    for layer in module.modules():
        if layer not in costs:  # parameters outside a layer we know: their last dimension that is not 1
            for loose in layer.parameters(recurse=False):
                width = next((n for n in reversed(loose.shape) if n > 1), 1)
                costs[loose] = LayerCost(0, 0, loose.numel(), 0, width)

    def record(layer: Any, inputs: Any, out: torch.Tensor) -> None:
        cost = costs.get(layer)
        if cost is None:  # self-attention: queries times keys, and the result times values
            tokens = inputs[0].shape[1]
            costs[layer] = LayerCost(2 * tokens * tokens * layer.attn_dim, 0, 0, 0, layer.attn_dim)
        else:  # added up: a layer may run more than once
            work = cost.macs + out.numel() * cost.weights // cost.outputs
            costs[layer] = LayerCost(work, cost.weights, cost.extras, cost.inputs, cost.outputs)

    counted = [layer for layer, cost in costs.items() if cost.weights]
    attention = [layer for _, layer in attentions(module)]
    hooks = [layer.register_forward_hook(record) for layer in (*counted, *attention)]
    try:
        with torch.no_grad():
            module.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    return Costs(costs, macs, params)


def _static(layer: Any) -> LayerCost | None:
    """What is known of a layer without running it; None for modules that are no layer."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    own = list(layer.parameters(recurse=False))
    extras = sum(p.numel() for p in own if p is not getattr(layer, "weight", None))
    if isinstance(layer, nn.Linear):
        return LayerCost(0, layer.weight.numel(), extras, layer.in_features, layer.out_features)
    if isinstance(layer, nn.Conv2d):
        depthwise = layer.groups == layer.out_channels == layer.in_channels and layer.groups > 1
        inputs = 0 if depthwise else layer.in_channels
        return LayerCost(0, layer.weight.numel(), extras, inputs, layer.out_channels)
    if isinstance(layer, (_BatchNorm, nn.GroupNorm, nn.LayerNorm)) and own:
        return LayerCost(0, 0, sum(p.numel() for p in own), 0, own[0].numel())
    return None


# --- How much to keep ---------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """At most ``share`` of the parent's ``whole`` MACs or parameters; ``asked`` is the target that they stand for."""

    what: Literal["macs", "params"]
    share: float
    whole: int
    asked: str = ""

    @property
    def limit(self) -> int:
        return math.floor(self.share * self.whole)

    def spent(self, costs: Costs, groups: Sequence[Group], kept: Kept) -> int:
        macs, params = costs.after(groups, kept)
        return macs if self.what == "macs" else params


def wanted(groups: Sequence[Group], ratio: float, scope: str) -> list[float]:
    """Units to keep of each group, before rounding, when ``ratio`` of all are removed.

    ``global`` ranks all units together, ``local`` takes the same share of each group, ``isomorphic`` ranks
    units among the groups of the same structure (Fang et al., Isomorphic Pruning for Vision Models, ECCV
    2024).
    """
    import numpy as np

    if scope == "local":
        return [group.units * (1.0 - ratio) for group in groups]
    kinds = [group.kind if scope == "isomorphic" else "" for group in groups]
    keep = [0.0] * len(groups)
    for kind in dict.fromkeys(kinds):
        members = [i for i, k in enumerate(kinds) if k == kind]
        owner = np.concatenate([np.full(groups[i].units, i) for i in members])
        scores = np.concatenate([groups[i].scores.numpy() for i in members])
        # Equal scores (batch norms that were never trained) are taken evenly from all groups.
        place = np.concatenate([np.arange(groups[i].units) / groups[i].units for i in members])
        stay = np.lexsort((place, scores))[round(ratio * len(scores)) :]
        for i, count in zip(*np.unique(owner[stay], return_counts=True), strict=True):
            keep[i] = float(count)
    return keep


def rounded(group: Group, want: float, round_to: int) -> int:
    """The allowed width nearest to ``want``; the group's own width is always allowed."""
    step, least = group.step(round_to), group.least(round_to)
    nearest_multiple = int(step * math.floor(want / step + 0.5))
    if abs(group.units - want) <= abs(nearest_multiple - want):
        return group.units
    return min(group.units, max(least, nearest_multiple))


def narrowest(groups: Sequence[Group], round_to: int) -> list[int]:
    """The fewest units that may be kept of each group."""
    return [group.least(round_to) for group in groups]


def search(groups: Sequence[Group], costs: Costs, budget: Budget, scope: str, round_to: int) -> list[int]:
    """Units to keep of each group so that the budget is met, closely.

    Bisects the share of removed units, then gives rounding steps back where they fit.

    Raises:
        StepError: when even the narrowest model is above the budget.
    """

    def plan(ratio: float) -> list[int]:
        wants = wanted(groups, ratio, scope)
        return [rounded(group, want, round_to) for group, want in zip(groups, wants, strict=True)]

    low, high = 0.0, 1.0
    best = narrowest(groups, round_to)
    closest = budget.spent(costs, groups, best)
    if closest > budget.limit:
        what, asked = {"macs": "MACs", "params": "parameters"}[budget.what], budget.asked or budget.what
        counted = "" if asked == budget.what else f", which {asked} is counted by here,"
        raise StepError(
            f"The target of {budget.share:.3f} of the parent's {what}{counted} cannot be reached",
            found=f"{closest / budget.whole:.3f} at best, with widths in multiples of {round_to} and "
            f"at least {MIN_KEPT:.0%} of every layer",
            todo=f"Raise {asked}, lower round_to, or distil a smaller model",
        )
    for _ in range(24):
        middle = (low + high) / 2
        trial = plan(middle)
        if budget.spent(costs, groups, trial) <= budget.limit:
            high, best = middle, trial
        else:
            low = middle
    return _give_back(groups, best, wanted(groups, high, scope), costs, budget, round_to)


def _give_back(
    groups: Sequence[Group], kept: Sequence[int], wants: Sequence[float], costs: Costs, budget: Budget,
    round_to: int,
) -> list[int]:  # fmt: skip
    """Widen by one rounding step at a time, those first that rounding cut most, while the budget holds."""
    kept = list(kept)
    # One step each at most: more would undo the ranking that decided how much each group keeps.
    for i in sorted(range(len(groups)), key=lambda i: kept[i] - wants[i]):
        wider = min(groups[i].units, kept[i] + groups[i].step(round_to))
        trial = [*kept[:i], wider, *kept[i + 1 :]]
        if wider > kept[i] and budget.spent(costs, groups, trial) <= budget.limit:
            kept = trial
    return kept
