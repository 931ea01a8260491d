"""Which channels of a net can only go together, what they cost, and how many of each to keep for a MACs budget.

The dependency graph and the scores are Torch-Pruning's: G. Fang et al., "DepGraph: Towards Any Structural
Pruning", CVPR 2023 (arXiv 2301.12900). How many channels to keep is decided here, because the library's own
pruner rounds small layers down to nothing and then silently keeps them whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import EdgefitError, StepError
from bench.types import PruneStep

if TYPE_CHECKING:
    import torch
    from torch import nn

MIN_KEPT = 0.125
"""No group of channels loses more than seven eighths: an emptied layer cannot be recovered."""

Kept = Sequence[int]
"""How many units (channels, or sets of one channel per convolution group) are kept of each group."""


# --- What can be pruned -------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    ``root``/``remove`` start the removal; ``scores`` has one importance per unit, where a unit is one
    channel in each of ``sets`` convolution groups; ``effects`` are (module, "in"|"out", channels it loses if
    every unit goes).
    """

    root: Any
    remove: Any
    scores: torch.Tensor
    sets: int
    effects: tuple[tuple[Any, str, int], ...]

    @property
    def units(self) -> int:
        return len(self.scores)

    def step(self, round_to: int) -> int:
        """Units by which the width may change so that channels stay multiples of ``round_to``."""
        return round_to // math.gcd(round_to, self.sets)

    def least(self, round_to: int) -> int:
        """The fewest units that may be kept."""
        step = self.step(round_to)
        return min(self.units, step * max(1, math.ceil(MIN_KEPT * self.units / step)))


@contextmanager
def blame(module: nn.Module, what: str) -> Iterator[None]:
    """Turn any failure of the block into a StepError that names the last module that ran."""
    last = ["the input"]
    names = {layer: name or type(module).__name__ for name, layer in module.named_modules()}
    hooks = [
        layer.register_forward_pre_hook(lambda m, _: last.__setitem__(0, names[m]))
        for layer in module.modules()
    ]
    try:
        yield
    except EdgefitError:
        raise
    except Exception as error:
        raise StepError(
            f"{what} at the module {last[0]}",
            found=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            todo="This architecture cannot be pruned; distil a smaller model instead",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _classifier(module: nn.Module, example: torch.Tensor, classes: int) -> Any:
    """The layer that makes the logits: the last one to run with ``classes`` outputs.

    Raises:
        StepError: when there is none.
    """
    import torch
    from torch import nn

    ran: list[Any] = []
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [
        layer.register_forward_hook(lambda m, _, out: ran.append((m, out.shape[1:]))) for layer in layers
    ]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    found = [m for m, shape in ran if shape.numel() == classes]
    if not found or not ran or found[-1] is not ran[-1][0]:
        raise StepError(
            "The classifier was not found",
            found=f"the last layer to run answers {tuple(ran[-1][1]) if ran else 'nothing'}, not {classes} classes",
            todo="Pruning needs a model that ends in a linear layer or a 1 x 1 convolution",
        )
    return found[-1]


def _importance(name: str) -> Any:
    from torch_pruning.pruner import importance

    if name == "random":
        return importance.RandomImportance()
    if name == "bn":
        return importance.BNScaleImportance()
    return importance.GroupMagnitudeImportance(p=1 if name == "l1" else 2)


def find_groups(
    module: nn.Module, example: torch.Tensor, step: PruneStep, classes: int
) -> tuple[Any, list[Group]]:
    """The dependency graph of a module, and its prunable groups with their scores.

    Raises:
        StepError: when the graph cannot be built or has nothing to prune.
    """
    import torch_pruning
    from torch import nn

    with blame(module, "The model could not be traced"):
        classifier = _classifier(module, example, classes)
    module.requires_grad_(True)  # the graph is read from autograd
    with blame(module, "The dependency graph could not be built"):
        graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)
        scorer, own = _importance(step.importance), set(module.modules())
        groups = []
        for raw in graph.get_all_groups(
            ignored_layers=[classifier], root_module_types=[nn.Conv2d, nn.Linear]
        ):
            scores = scorer(raw)
            if scores is not None:
                groups.append(_group(graph, raw, scores.detach().cpu(), own))
    if not groups:
        raise StepError(
            "There is nothing to prune in this model",
            found=f"no group of channels that importance {step.importance!r} can score",
            todo="Use importance l1, or another model",
        )
    return graph, groups


def _group(graph: Any, raw: Any, scores: torch.Tensor, own: set[Any]) -> Group:
    """Our view of one of the library's groups; ``own`` are the model's modules, as it adds pseudo-modules of its own."""
    from torch import nn

    sets, effects = 1, []
    for dependency, channels in raw:
        layer = dependency.target.module
        outside = graph.is_out_channel_pruning_fn(dependency.handler)
        if layer not in own:
            continue
        effects.append((layer, "out" if outside else "in", len(channels)))
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels
        pruner = graph.get_pruner_of_module(layer)
        if pruner is not None and not depthwise:
            count = pruner.get_out_channel_groups if outside else pruner.get_in_channel_groups
            sets = max(sets, count(layer))
    start, units = raw[0][0], len(raw[0][1])
    # A group that starts at a depthwise layer is scored with the width of its first other layer, flattened pixels
    # for one; all scores are at the root's own positions and the rest is zero.
    scores = scores[:units].view(sets, -1).mean(0)
    scores = scores / scores.mean().clamp(min=1e-12)
    return Group(start.target.module, start.handler, scores, sets, tuple(effects))


# --- How much of it -----------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCost:
    """MACs of one image, and the widths they are for. Depthwise layers have ``inputs`` 0: one width counts."""

    macs: int
    inputs: int
    outputs: int


def layer_macs(module: nn.Module, image: torch.Tensor) -> dict[Any, LayerCost]:
    """MACs of every convolution and linear layer for ``image`` (1 x C x H x W)."""
    import torch
    from torch import nn

    costs: dict[Any, LayerCost] = {}

    def record(layer: Any, _: Any, out: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            cost = LayerCost(out.numel() * layer.in_features, layer.in_features, layer.out_features)
        else:
            work = out.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
            depthwise = layer.groups == layer.out_channels == layer.in_channels and layer.groups > 1
            cost = LayerCost(work, 0 if depthwise else layer.in_channels, layer.out_channels)
        earlier = costs.get(layer)  # a layer may run more than once
        costs[layer] = LayerCost(cost.macs + (earlier.macs if earlier else 0), cost.inputs, cost.outputs)

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return costs


def macs_after(groups: Sequence[Group], kept: Kept, layers: dict[Any, LayerCost], total: int) -> int:
    """MACs of a model of ``total`` when ``kept`` units stay of each group."""
    inputs = {layer: cost.inputs for layer, cost in layers.items()}
    outputs = {layer: cost.outputs for layer, cost in layers.items()}
    for group, keep in zip(groups, kept, strict=True):
        for layer, side, channels in group.effects:
            width = outputs if side == "out" else inputs
            if layer in width:
                width[layer] -= channels * (group.units - keep) // group.units
    saved = 0.0
    for layer, cost in layers.items():
        share = outputs[layer] / cost.outputs
        if cost.inputs:
            share *= inputs[layer] / cost.inputs
        saved += cost.macs * (1.0 - share)
    return round(total - saved)


def _wanted(groups: Sequence[Group], ratio: float, scope: str) -> list[float]:
    """Units to keep of each group, before rounding, when ``ratio`` of all are removed."""
    import numpy as np

    if scope == "local":
        return [group.units * (1.0 - ratio) for group in groups]
    owner = np.concatenate([np.full(group.units, i) for i, group in enumerate(groups)])
    scores = np.concatenate([group.scores.numpy() for group in groups])
    # Equal scores (batch norms that were never trained) are taken evenly from all groups.
    place = np.concatenate([np.arange(group.units) / group.units for group in groups])
    kept = np.lexsort((place, scores))[round(ratio * len(scores)) :]
    return [float(n) for n in np.bincount(owner[kept], minlength=len(groups))]


def _round(group: Group, wanted: float, round_to: int) -> int:
    """The allowed width nearest to ``wanted``; the group's own width is always allowed."""
    step, least = group.step(round_to), group.least(round_to)
    nearest_multiple = int(step * math.floor(wanted / step + 0.5))
    if abs(group.units - wanted) <= abs(nearest_multiple - wanted):
        return group.units
    return min(group.units, max(least, nearest_multiple))


def search(groups: Sequence[Group], layers: dict[Any, LayerCost], total: int, step: PruneStep) -> list[int]:
    """Units to keep of each group so that the MACs are at most, and close to, ``step.macs * total``.

    Bisects the share of removed units, then gives rounding steps back where they fit.

    Raises:
        StepError: when even the narrowest model is above the target.
    """
    budget = math.floor(step.macs * total)

    def plan(ratio: float) -> list[int]:
        return [
            _round(group, wanted, step.round_to)
            for group, wanted in zip(groups, _wanted(groups, ratio, step.scope), strict=True)
        ]

    low, high = 0.0, 1.0
    best = plan(high)
    closest = macs_after(groups, best, layers, total)
    if closest > budget:
        raise StepError(
            f"The target of {step.macs:.3f} of the parent's MACs cannot be reached",
            found=f"{closest / total:.3f} at best, with widths in multiples of {step.round_to} and "
            f"at least {MIN_KEPT:.0%} of every layer",
            todo="Raise macs, lower round_to, or distil a smaller model",
        )
    for _ in range(24):
        middle = (low + high) / 2
        trial = plan(middle)
        if macs_after(groups, trial, layers, total) <= budget:
            high, best = middle, trial
        else:
            low = middle
    return _give_back(groups, best, _wanted(groups, high, step.scope), layers, total, budget, step.round_to)


def _give_back(
    groups: Sequence[Group],
    kept: list[int],
    wanted: Sequence[float],
    layers: dict[Any, LayerCost],
    total: int,
    budget: int,
    round_to: int,
) -> list[int]:
    """Widen by one rounding step at a time, those first that rounding cut most, while the budget holds."""
    kept = list(kept)
    # One step each at most: more would undo the ranking that decided how much each group keeps.
    for i in sorted(range(len(groups)), key=lambda i: kept[i] - wanted[i]):
        wider = min(groups[i].units, kept[i] + groups[i].step(round_to))
        trial = [*kept[:i], wider, *kept[i + 1 :]]
        if wider > kept[i] and macs_after(groups, trial, layers, total) <= budget:
            kept = trial
    return kept
