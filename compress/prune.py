"""Structured pruning to a budget of multiply-accumulates (MACs), with Torch-Pruning's dependency graph.

Method: G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023 (arXiv 2301.12900). The library finds
which channels must go together and scores them; how many to keep of each group is decided here, because
the library's own pruner rounds small layers down to nothing and then silently keeps them whole.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, StepError, nearest
from bench.types import PruneStep, StepContext, StepResult

if TYPE_CHECKING:
    import torch
    from torch import nn

IMPORTANCE = ("l1", "l2", "bn", "random")
SCOPES = ("global", "local")
MIN_KEPT = 0.125
"""No group of channels loses more than seven eighths: an emptied layer cannot be recovered."""

Kept = Sequence[int]
"""How many units (channels, or sets of one channel per convolution group) are kept of each group."""


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
    if isinstance(step.round_to, bool) or not isinstance(step.round_to, int) or step.round_to < 1:
        raise ConfigError("round_to must be a whole number from 1", found=f"round_to = {step.round_to}")


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
        graph, groups = _groups(module, example, step, spec.classes)
        layers = _layer_macs(module, example[:1])
        kept = _search(groups, layers, before[0], step)
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
        *dict.fromkeys(str(w.message) for w in caught),
    )
    return StepResult(model=path, macs=after[0], params=after[1], notes=notes)


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
def _blame(module: nn.Module, what: str) -> Iterator[None]:
    """Turn any failure of the block into a StepError that names the last module that ran."""
    last = ["the input"]
    names = {layer: name or type(module).__name__ for name, layer in module.named_modules()}
    hooks = [
        layer.register_forward_pre_hook(lambda m, _: last.__setitem__(0, names[m]))
        for layer in module.modules()
    ]
    try:
        yield
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


def _groups(
    module: nn.Module, example: torch.Tensor, step: PruneStep, classes: int
) -> tuple[Any, list[Group]]:
    """The dependency graph of a module, and its prunable groups with their scores.

    Raises:
        StepError: when the graph cannot be built or has nothing to prune.
    """
    import torch_pruning
    from torch import nn

    with _blame(module, "The model could not be traced"):
        classifier = _classifier(module, example, classes)
    module.requires_grad_(True)  # the graph is read from autograd
    with _blame(module, "The dependency graph could not be built"):
        graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)
        scorer = _importance(step.importance)
        groups = []
        for raw in graph.get_all_groups(
            ignored_layers=[classifier], root_module_types=[nn.Conv2d, nn.Linear]
        ):
            scores = scorer(raw)
            if scores is not None:
                groups.append(_group(graph, raw, scores.detach().cpu()))
    if not groups:
        raise StepError(
            "There is nothing to prune in this model",
            found=f"no group of channels that importance {step.importance!r} can score",
            todo="Use importance l1, or another model",
        )
    return graph, groups


def _group(graph: Any, raw: Any, scores: torch.Tensor) -> Group:
    from torch import nn

    sets, effects = 1, []
    for dependency, channels in raw:
        layer = dependency.target.module
        outside = graph.is_out_channel_pruning_fn(dependency.handler)
        if not isinstance(layer, nn.Module):
            continue
        effects.append((layer, "out" if outside else "in", len(channels)))
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels
        pruner = graph.get_pruner_of_module(layer)
        if pruner is not None and not depthwise:
            count = pruner.get_out_channel_groups if outside else pruner.get_in_channel_groups
            sets = max(sets, count(layer))
    start = raw[0][0]
    scores = scores.view(sets, -1).mean(0)
    return Group(start.target.module, start.handler, scores, sets, tuple(effects))


# --- How much of it -----------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCost:
    """MACs of one image, and the widths they are for. Depthwise layers have ``inputs`` 0: one width counts."""

    macs: int
    inputs: int
    outputs: int


def _layer_macs(module: nn.Module, image: torch.Tensor) -> dict[Any, LayerCost]:
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
    import torch

    if scope == "local":
        return [group.units * (1.0 - ratio) for group in groups]
    scores = torch.cat([group.scores for group in groups]).sort().values
    removed = min(len(scores), round(ratio * len(scores)))
    if removed == 0:
        return [float(group.units) for group in groups]
    threshold = scores[removed - 1]
    return [float((group.scores > threshold).sum()) for group in groups]


def _round(group: Group, wanted: float, round_to: int) -> int:
    """The allowed width nearest to ``wanted``; the group's own width is always allowed."""
    step, least = group.step(round_to), group.least(round_to)
    nearest_multiple = int(step * math.floor(wanted / step + 0.5))
    if abs(group.units - wanted) <= abs(nearest_multiple - wanted):
        return group.units
    return min(group.units, max(least, nearest_multiple))


def _search(groups: Sequence[Group], layers: dict[Any, LayerCost], total: int, step: PruneStep) -> list[int]:
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


# --- Do it --------------------------------------------------------------------------------


def _remove(graph: Any, groups: Sequence[Group], kept: Kept) -> None:
    """Remove the lowest-scored units of every group, in place."""
    import torch

    for group, keep in zip(groups, kept, strict=True):
        if keep == group.units:
            continue
        units = torch.argsort(group.scores, stable=True)[: group.units - keep]
        channels = torch.cat([units + s * group.units for s in range(group.sets)]).sort().values.tolist()
        graph.get_pruning_group(group.root, group.remove, channels).prune()


def _check_runs(module: nn.Module, example: torch.Tensor, classes: int) -> None:
    import torch

    with _blame(module, "The pruned model does not run"), torch.no_grad():
        shape = tuple(module.eval()(example).shape)
        if shape != (len(example), classes):
            raise StepError(f"it answers {shape}, not {(len(example), classes)}")


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
    batches = [part for part in data.calibration(images).split(64) if len(part) > 1]
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
        for part in rows.split(128):
            logits = module.eval()(data.normalise(data.images["validation"][part]))
            right += int((logits.argmax(1) == data.labels["validation"][part]).sum())
    return right / max(1, len(rows))


def _describe(module: nn.Module, groups: Sequence[Group], kept: Kept) -> str:
    names = {layer: name for name, layer in module.named_modules()}
    return ", ".join(
        f"{names[group.root]} {group.units * group.sets}"
        + (f" -> {keep * group.sets}" if keep < group.units else "")
        for group, keep in zip(groups, kept, strict=True)
    )
