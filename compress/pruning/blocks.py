"""Whole residual blocks that a net can do without: which they are, and in which order they are missed least.

Channels make a net thin, blocks make it short. A runtime that computes 16 channels at a time gains nothing
from 12 of them, and each layer has a price of its own; a block that is gone costs nothing (cf. Chen and Zhao,
Shallowing Deep Networks, 2018; ShortGPT, Men et al., 2024).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compress.pruning.judge import Judge


def removable(module: nn.Module, example: torch.Tensor) -> list[str]:
    """Names of the blocks that can be left out, in the order they run in: found by running the net.

    Such a block has convolutions or linear layers, runs once, answers with the shape of its input, passes the
    input on when all its own weights are zero (a skip connection, at most with a ReLU behind it), and the net
    runs without it. Of nested ones only the innermost count.
    """
    import torch

    with torch.no_grad():
        wanted = module.eval()(example).shape
        found = [name for name, shape in _same_shape(module, example) if _passes_on(module, name, shape)]
        inner = [n for n in found if not any(other.startswith(f"{n}.") for other in found)]
        return [n for n in inner if _runs_without(module, n, example, wanted)]


def _same_shape(module: nn.Module, example: torch.Tensor) -> list[tuple[str, torch.Size]]:
    """(name, input shape) of the modules with weights that map one tensor to one of its shape, once."""
    import torch
    from torch import nn

    calls: dict[str, list[torch.Size | None]] = {}
    hooks = []
    for name, part in module.named_modules():
        if name and any(isinstance(m, (nn.Linear, nn.Conv2d)) for m in part.modules()):

            def record(_: Any, given: Any, options: Any, out: Any, name: str = name) -> None:
                fits = not options and [type(x) for x in (*given, out)] == [torch.Tensor, torch.Tensor]
                shape = given[0].shape if fits and out.shape == given[0].shape else None
                calls.setdefault(name, []).append(shape)

            hooks.append(part.register_forward_hook(record, with_kwargs=True))
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(n, shapes[0]) for n, shapes in calls.items() if len(shapes) == 1 and shapes[0] is not None]


def _passes_on(module: nn.Module, name: str, shape: torch.Size) -> bool:
    """Whether a block without weights answers its input; the input is positive, so that a ReLU may follow."""
    import torch

    empty = copy.deepcopy(module.get_submodule(name)).eval()
    for parameter in empty.parameters():
        parameter.zero_()
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.1
    try:
        return bool(torch.allclose(empty(given), given, atol=1e-5))
    except Exception:  # a module that needs its surroundings
        return False


def _runs_without(module: nn.Module, name: str, example: torch.Tensor, wanted: torch.Size) -> bool:
    with skipped(module, name):
        try:
            return bool(module(example).shape == wanted)
        except Exception:  # the net looks inside its blocks
            return False


@contextmanager
def skipped(module: nn.Module, name: str) -> Iterator[None]:
    """Within: the named block passes its input on unchanged."""
    from distill.widths import remove_modules

    owner, _, attribute = name.rpartition(".")
    parent, block = module.get_submodule(owner), module.get_submodule(name)
    remove_modules(module, [name])
    try:
        yield
    finally:
        setattr(parent, attribute, block)


def order(module: nn.Module, names: Sequence[str], judge: Judge) -> list[str]:
    """The blocks from the one that is missed least, ranked anew after each that went.

    A block's damage is the divergence from the parent's answers to the calibration images when it is skipped
    as well.
    """
    from distill.widths import remove_modules

    rest, gone = list(names), []
    shorter = copy.deepcopy(module)
    while rest:
        damages = {}
        for name in rest:
            with skipped(shorter, name):
                damages[name] = judge.damage(shorter)
        least = min(rest, key=lambda name: damages[name])
        remove_modules(shorter, [least])
        rest.remove(least)
        gone.append(least)
    return gone


def without(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy of ``module`` in which the named blocks pass their input on."""
    from distill.widths import remove_modules

    shorter = copy.deepcopy(module)
    remove_modules(shorter, names)
    return shorter
