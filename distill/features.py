"""The intermediate features of a convolutional net: found by running it once, caught while it trains.

Nothing is listed by name, so ours, timm's and torchvision's nets all work. Hooks live only as long as one
forward pass: a model that is copied or saved has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Size = tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """The last activation of a net at one resolution: the module that answers it, and its channels."""

    name: str
    channels: int


@dataclass
class _Call:
    """One call of a module in a forward pass; sizes are None for anything but (N,C,H,W)."""

    name: str
    block: bool
    leaf: bool
    inside: tuple[_Call, ...]
    before: Size | None
    after: Size | None = None
    channels: int = 0

    def leaves(self, size: Size) -> bool:
        """Whether this is a block that takes ``size`` to another one, or whose input is no image at all."""
        return self.block and (self.before is None or self.before == size != self.after)


def _size(value: Any) -> Size | None:
    import torch

    if isinstance(value, torch.Tensor) and value.ndim == 4:
        return value.shape[2], value.shape[3]
    return None


def stages(model: nn.Module, pixels: Tensor) -> dict[Size, Stage]:
    """The last activation at each resolution (height, width), in the order of the forward pass.

    ``pixels`` (N,C,H,W) is an example; the model's mode is kept. Not counted are

    - 1 x 1: pooled, or inside squeeze-and-excitation;
    - sides that did not shrink alike: channels-last tensors of a transformer;
    - a resolution that one layer alone has: a transformer's patches, before any non-linearity;
    - what is inside a block that leaves the resolution (a widened activation of an inverted residual: the
      block's input is the stage's end) or works on no image (attention matrices).
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            calls = _calls(model, pixels)
    finally:
        model.train(was_training)
    height, width = pixels.shape[2:]
    found: dict[Size, Stage] = {}
    leaves: dict[Size, int] = {}
    for call in calls:
        size = call.after
        if size is None or size == (1, 1) or round(height / size[0]) != round(width / size[1]):
            continue
        leaves[size] = leaves.get(size, 0) + call.leaf
        if not any(outer.leaves(size) for outer in call.inside):
            found[size] = Stage(call.name, call.channels)
    return {size: stage for size, stage in found.items() if leaves[size] > 1}


def _calls(model: nn.Module, pixels: Tensor) -> list[_Call]:
    """Every call of a submodule in one forward pass, in the order they end."""
    from torch import nn

    stack: list[_Call] = []
    ended: list[_Call] = []
    names = {module: name for name, module in model.named_modules() if name}

    def begin(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        leaf = next(module.children(), None) is None
        chain = isinstance(module, nn.Sequential)
        before = _size(arguments[0]) if arguments else None
        stack.append(_Call(names[module], not chain and not leaf, leaf, tuple(stack), before))

    def end(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        call = stack.pop()
        call.after = _size(output)
        call.channels = output.shape[1] if call.after else 0
        ended.append(call)

    with contextlib.ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(begin).remove)
            hooks.callback(module.register_forward_hook(end).remove)
        model(pixels)
    return ended


@contextlib.contextmanager
def caught(model: nn.Module, wanted: dict[Size, Stage]) -> Iterator[dict[Size, Tensor]]:
    """While open, a forward pass of ``model`` fills the dict handed out: {size: features (N,C,H,W)}."""
    features: dict[Size, Tensor] = {}

    def catch(size: Size) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if _size(output) == size:  # a shared activation is called at several resolutions
                features[size] = output

        return hook

    with contextlib.ExitStack() as hooks:
        for size, stage in wanted.items():
            module = model.get_submodule(stage.name)
            hooks.callback(module.register_forward_hook(catch(size)).remove)
        yield features
