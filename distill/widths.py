"""What pruning changes in a net, read from it and put back: layer widths, attention heads, whole modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

Widths = dict[str, list[int]]
"""Layers: [in, out, groups]; attention modules: [in, out, heads]; parameters outside a layer: their shape."""

OTHER_BUILD = "Its library builds this net otherwise now: use the version that it was saved with"


def layer_widths(module: nn.Module) -> Widths:
    """The widths of everything in ``module`` whose width pruning can change."""
    found: Widths = {}
    for name, layer in module.named_modules():
        width = _width(layer)
        if width:
            found[name] = width
        if width is None or is_attention(layer):
            prefix = f"{name}." if name else ""
            for own, parameter in layer.named_parameters(recurse=False):
                found[prefix + own] = list(parameter.shape)
    return found


def _width(layer: Any) -> list[int] | None:
    """The widths of one module, None for one that is no layer we know."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd

    if isinstance(layer, _ConvNd):
        return [layer.in_channels, layer.out_channels, layer.groups]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features, 1]
    if isinstance(layer, _BatchNorm):
        return [layer.num_features, layer.num_features, 1]
    if isinstance(layer, nn.GroupNorm):
        return [layer.num_channels, layer.num_channels, layer.num_groups]
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return [layer.normalized_shape[0], layer.normalized_shape[0], 1]
    if is_attention(layer):
        return [layer.attn_dim, layer.attn_dim, layer.num_heads]
    return None


def is_attention(module: Any) -> bool:
    """Whether ``module`` is self-attention whose heads can go: timm's, with one projection for q, k and v."""
    from torch import nn

    heads, size, width = (getattr(module, name, None) for name in ("num_heads", "head_dim", "attn_dim"))
    if not isinstance(heads, int) or not isinstance(size, int) or heads * size != width:
        return False
    qkv, proj = (getattr(module, name, None) for name in ("qkv", "proj"))
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return False
    fits = qkv.out_features == 3 * width and proj.in_features == width
    plain = isinstance(getattr(module, "norm", nn.Identity()), nn.Identity)
    return fits and plain and getattr(module, "gate", None) is None


def attentions(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, module) of the self-attention modules whose heads can go."""
    return ((name, layer) for name, layer in module.named_modules() if is_attention(layer))


def apply_widths(module: nn.Module, widths: Widths) -> None:
    """Give layers other widths, in place; their tensors are fresh and wait for a state dict.

    Raises:
        ModelError: for a layer that ``module`` does not have.
    """
    for name, width in widths.items():
        owner, _, attribute = name.rpartition(".")
        try:
            parent = module.get_submodule(owner)
            layer: Any = parent if not attribute else getattr(parent, attribute)
        except AttributeError as error:
            raise ModelError(
                f"The model has no layer {name}, which its file resizes", todo=OTHER_BUILD
            ) from error
        if hasattr(layer, "modules"):
            _apply(layer, *width)
        else:
            _resize(parent, attribute, tuple(width))


def _apply(layer: Any, inputs: int, outputs: int, groups: int) -> None:
    if hasattr(layer, "in_channels"):
        layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups
        sides = (inputs, outputs // groups) if layer.transposed else (outputs, inputs // groups)
        _resize(layer, "weight", (*sides, *layer.kernel_size))
    elif hasattr(layer, "in_features"):
        layer.in_features, layer.out_features = inputs, outputs
        _resize(layer, "weight", (outputs, inputs))
    elif hasattr(layer, "attn_dim"):
        layer.attn_dim, layer.num_heads = outputs, groups
        return
    else:
        for attribute in ("num_features", "num_channels"):
            if hasattr(layer, attribute):
                setattr(layer, attribute, outputs)
        if hasattr(layer, "num_groups"):
            layer.num_groups = groups
        if hasattr(layer, "normalized_shape"):
            layer.normalized_shape = (outputs,)
        for tensor in ("weight", "running_mean", "running_var"):
            _resize(layer, tensor, (outputs,))
    _resize(layer, "bias", (outputs,))


def remove_modules(module: nn.Module, names: Sequence[str]) -> None:
    """Put an identity in the place of each named module, in place.

    Raises:
        ModelError: for a module that is not there.
    """
    from torch import nn

    for name in names:
        parent, _, attribute = name.rpartition(".")
        try:
            module.get_submodule(name)
            setattr(module.get_submodule(parent), attribute, nn.Identity())
        except AttributeError as error:
            raise ModelError(
                f"The model has no module {name}, which its file removes", todo=OTHER_BUILD
            ) from error


def _resize(layer: Any, name: str, shape: tuple[int, ...]) -> None:
    from torch import nn

    old = getattr(layer, name, None)
    if old is not None:
        new = old.detach().new_zeros(shape)
        setattr(layer, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
