"""Which channels of a net can only go together, how much they matter, and the net without some of them.

The dependency graph is Torch-Pruning's: G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023
(arXiv 2301.12900). How many channels to keep is decided in :mod:`compress.pruning.costs`, because the library's own
pruner rounds small layers down to nothing and then silently keeps them whole.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import EdgefitError, StepError
from compress.pruning import heads, importance

if TYPE_CHECKING:
    import torch
    from torch import nn

MIN_KEPT = 0.125
"""No group of channels loses more than seven eighths: an emptied layer cannot be recovered."""

Kept = Sequence[int]
"""How many units (channels, or sets of one channel per convolution group) are kept of each group."""


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    ``root``/``remove`` start the removal (``remove`` None: the root is an attention module, and its units are
    heads); ``scores`` has one importance per unit, where a unit is one channel in each of ``sets``
    convolution groups, or a head of ``sets`` channels; ``effects`` are (layer or parameter, "in"|"out",
    channels it loses if every unit goes). Groups of the same ``kind`` have the same structure, whatever their
    widths. ``raw`` is the library's group, with every index.
    """

    root: Any
    remove: Any
    scores: torch.Tensor
    sets: int
    effects: tuple[tuple[Any, str, int], ...]
    kind: str = ""
    raw: Any = None

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


def _ran(module: nn.Module, example: torch.Tensor) -> list[tuple[Any, torch.Size]]:
    """The convolutions and linear layers in the order they run in, and the shape of each's answer."""
    import torch
    from torch import nn

    ran: list[tuple[Any, torch.Size]] = []
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [
        layer.register_forward_hook(lambda m, _, out: ran.append((m, out.shape[1:]))) for layer in layers
    ]
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def _classifier(ran: Sequence[tuple[Any, torch.Size]], classes: int) -> Any:
    """The layer that makes the logits: the last one to run, with ``classes`` outputs.

    Raises:
        StepError: when there is none.
    """
    found = [m for m, shape in ran if shape.numel() == classes]
    if not found or found[-1] is not ran[-1][0]:
        raise StepError(
            "The classifier was not found",
            found=f"the last layer answers {tuple(ran[-1][1]) if ran else 'nothing'}, not {classes} classes",
            todo="Pruning needs a model that ends in a linear layer or a 1 x 1 convolution",
        )
    return found[-1]


def _graph(module: nn.Module, example: torch.Tensor) -> Any:
    """The dependency graph of a module; reading it from autograd needs every parameter to want a gradient."""
    import torch_pruning

    module.eval().requires_grad_(True)
    with blame(module, "The dependency graph could not be built"):
        return torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)


def find_groups(
    module: nn.Module, example: torch.Tensor, name: str, classes: int, data: Any = None,
    whole: Collection[str] = (), seed: int = 0,
) -> tuple[list[Group], tuple[str, ...]]:  # fmt: skip
    """The prunable groups of a module with their scores, and the layers whose groups must stay whole.

    Protected layers are found: the classifier, and the projections that attention cuts into heads.

    Args:
        example: two images or more, as the net takes them.
        name: the importance (:data:`compress.pruning.importance.NAMES`).
        data: the data set, for importances that need gradients.
        whole: layers that are known to stay whole (:func:`unfit`).
        seed: of the importance ``random``.

    Raises:
        StepError: when the graph cannot be built or has nothing to prune.
    """
    import torch
    from torch import nn

    from distill.widths import attentions

    with blame(module, "The model could not be traced"):
        ran = _ran(module, example)
        classifier = _classifier(ran, classes)
    left = {classifier} | heads.split_layers(module, [m for m, _ in ran])
    left |= {module.get_submodule(n) for n in whole}
    graph = _graph(module, example)
    names = {layer: n for n, layer in module.named_modules()}
    own = {*module.modules(), *module.parameters()}
    scorer, groups, refused = importance.scorer(name), [], list(whole)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        importance.accumulate(name, module, data)
        for raw in graph.get_all_groups(list(left), root_module_types=[nn.Conv2d, nn.Linear]):
            try:
                scores = scorer(raw)
            except (IndexError, RuntimeError):  # the library lost count of its channels
                scores = None
                refused.append(names[raw[0][0].target.module])
            if scores is not None and _has_attention(raw):
                refused.append(names[raw[0][0].target.module])
            elif scores is not None:
                groups.append(_group(graph, raw, scores.detach().cpu(), own, name))
            elif name == "bn":
                refused.append(names[raw[0][0].target.module])
        for path, attention in attentions(module):
            raw = heads.raw_group(graph, attention)
            scores = None if path in whole else scorer(raw)
            if scores is not None:
                groups.append(_heads(raw, attention, scores.detach().cpu(), name))
    module.zero_grad(set_to_none=True)
    if not groups:
        raise StepError(
            "There is nothing to prune in this model",
            found=f"no group of channels that importance {name!r} can score",
            todo="Use importance l1, or another model",
        )
    return groups, tuple(refused)


def _has_attention(raw: Any) -> bool:
    """PyTorch's own attention keeps its width and that of its heads where a file cannot say it."""
    from torch import nn

    return any(isinstance(dependency.target.module, nn.MultiheadAttention) for dependency, _ in raw)


def _group(graph: Any, raw: Any, scores: torch.Tensor, own: set[Any], name: str) -> Group:
    """Our view of one of the library's groups; ``own`` are the model's modules (the library adds some)."""
    from torch import nn

    sets, effects, kind = 1, [], []
    for dependency, channels in raw:
        layer = dependency.target.module
        outside = graph.is_out_channel_pruning_fn(dependency.handler)
        side = "out" if outside else "in"
        kind.append(f"{type(layer).__name__} {side}")
        if layer not in own:
            continue
        effects.append((layer, side, len(channels)))
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels
        pruner = graph.get_pruner_of_module(layer)
        if pruner is not None and not depthwise:
            count = pruner.get_out_channel_groups if outside else pruner.get_in_channel_groups
            sets = max(sets, count(layer))
    start, units = raw[0][0], len(raw[0][1])
    # A group that starts at a depthwise layer is scored with the width of its first other layer, flattened
    # pixels for one; all scores are at the root's own positions and the rest is zero.
    scores = _normalised(scores[:units].view(sets, -1).mean(0), name)
    return Group(start.target.module, start.handler, scores, sets, tuple(effects), ", ".join(kind), raw)


def _heads(raw: Any, attention: Any, scores: torch.Tensor, name: str) -> Group:
    width, size = attention.attn_dim, attention.head_dim
    effects = (
        (attention.qkv, "out", 3 * width),
        (attention.proj, "in", width),
        (attention, "out", width),
    )
    scores = _normalised(scores[:width].view(-1, size).mean(1), name)
    return Group(attention, None, scores, size, effects, "attention heads", raw)


def _normalised(scores: torch.Tensor, name: str) -> torch.Tensor:
    """Scores with a mean of 1, so that layers of any size compare; LAMP's compare as they are."""
    return scores if name == "lamp" else scores / scores.mean().clamp(min=1e-12)


def cut(module: nn.Module, example: torch.Tensor, groups: Sequence[Group], kept: Kept) -> nn.Module:
    """A copy of ``module`` without the lowest-scored units of every group.

    Raises:
        StepError: when the narrower net does not run; names the module.
    """
    import torch

    names = {layer: name for name, layer in module.named_modules()}
    smaller = copy.deepcopy(module)
    graph = _graph(smaller, example)
    for group, keep in zip(groups, kept, strict=True):
        if keep < group.units:
            units = torch.argsort(group.scores, stable=True)[: group.units - keep]
            _remove(graph, smaller, names[group.root], group, units)
    smaller.requires_grad_(True)
    _check_runs(smaller, module, example)
    return smaller


def _remove(graph: Any, module: nn.Module, name: str, group: Group, units: torch.Tensor) -> None:
    """Remove units of a group from ``module``, in which its root has that name; in place."""
    import torch

    root = module.get_submodule(name)
    if group.remove is None:
        heads.remove(root, units.tolist())
        return
    gone = torch.cat([units + s * group.units for s in range(group.sets)]).sort().values.tolist()
    try:
        graph.get_pruning_group(root, group.remove, gone).prune()
    except Exception as error:  # the library has many ways to lose its way
        raise StepError(
            f"The channels of the module {name} could not be removed",
            found=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            todo="This architecture cannot be pruned; distil a smaller model instead",
        ) from error


def _check_runs(smaller: nn.Module, module: nn.Module, example: torch.Tensor) -> None:
    import torch

    with torch.no_grad():
        wanted = tuple(module.eval()(example).shape)
        with blame(smaller, "The pruned model does not run"):
            shape = tuple(smaller.eval()(example).shape)
    if shape != wanted:
        raise StepError(
            "The pruned model answers another shape",
            f"{shape}, not {wanted}",
            "This net cannot be pruned: distil a smaller model from it",
        )


def unfit(
    module: nn.Module, example: torch.Tensor, groups: Sequence[Group], round_to: int
) -> tuple[str, ...]:
    """Names of the layers whose groups must stay whole: the net does not run with them narrower.

    Raises:
        StepError: when that is so of every group; names the module that does not run.
    """
    narrower = [group.least(round_to) for group in groups]
    try:
        cut(module, example, groups, narrower)
        return ()
    except StepError as error:
        reason = error
    names = {layer: name for name, layer in module.named_modules()}
    found = []
    for i, group in enumerate(groups):
        kept = [narrower[i] if k == i else other.units for k, other in enumerate(groups)]
        try:
            cut(module, example, groups, kept)
        except StepError as error:
            reason = error
            found.append(names[group.root])
    if len(found) == len(groups):
        raise reason
    return tuple(found)
