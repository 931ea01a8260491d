"""Attention heads as groups: unlike a channel, a head is a block of rows in each of q, k and v."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def split_layers(module: nn.Module, ran: Sequence[Any]) -> set[Any]:
    """Layers whose outputs are cut into heads: all but the last to run of a module with ``num_heads``.

    Their widths cannot change channel by channel. ``ran`` are the layers in the order they ran in.
    """
    found: set[Any] = set()
    for layer in module.modules():
        if isinstance(getattr(layer, "num_heads", None), int):
            inside = set(layer.modules())
            found.update([m for m in ran if m in inside][:-1])
    return found


def raw_group(graph: Any, attention: Any) -> Any:
    """Torch-Pruning's kind of group for the channels of an attention's output, to be scored by it."""
    from torch_pruning import _helpers
    from torch_pruning.dependency.dependency import Dependency
    from torch_pruning.dependency.group import Group
    from torch_pruning.pruner import function

    group, width = Group(), attention.attn_dim
    parts = (
        (attention.proj, function.prune_linear_in_channels, width),
        (attention.qkv, function.prune_linear_out_channels, 3 * width),
    )
    for layer, handler, count in parts:
        node = graph.module2node[layer]
        group.add_dep(Dependency(handler, handler, node, node), list(range(count)))
    for i, (_, _, count) in enumerate(parts):
        group[i] = _helpers.GroupItem(group[i].dep, group[i].idxs)
        group[i].root_idxs = [k % width for k in range(count)]
    return group


def remove(attention: Any, heads: Sequence[int]) -> None:
    """Take the numbered heads out of a module that :func:`distill.widths.is_attention` knows, in place."""
    from torch_pruning.pruner import function

    size, width = attention.head_dim, attention.attn_dim
    gone = [h * size + i for h in sorted(heads) for i in range(size)]
    function.prune_linear_out_channels(attention.qkv, [part * width + i for part in range(3) for i in gone])
    function.prune_linear_in_channels(attention.proj, gone)
    attention.num_heads -= len(heads)
    attention.attn_dim -= len(gone)
