"""Zeros among the weights: 2 of every 4, or the smallest anywhere; and whether a runtime gains.

2:4 is the pattern of NVIDIA's sparse tensor cores (Mishra et al., Accelerating Sparse Deep Neural Networks,
2021): two zeros in every four neighbours along the inputs. Unstructured: Han et al., Learning both Weights
and Connections, 2015.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import MissingError, StepError
from bench.types import Json
from compress.pruning.budget import Job, told

if TYPE_CHECKING:
    from torch import Tensor, nn


def make_sparse(job: Job) -> tuple[nn.Module, list[Json], tuple[str, ...]]:
    """The parent with zeros, the history of any training between, and notes with a verdict on the runtime.

    Raises:
        StepError: when no layer can take the pattern, or the runtime fails to time the result.
    """
    from compress.pruning import between

    step, rows = job.step, []
    module = copy.deepcopy(job.dense)
    layers = _layers(module)
    for stage in range(1, step.steps + 1):
        if step.sparsity == "2:4":
            left = two_of_four(layers)
        else:
            left = []
            smallest(layers, 1 - (1 - step.amount) ** (stage / step.steps), step.scope)
        job.judge.recalibrate(module)
        if step.step_epochs and stage < step.steps:
            rows += between.train(job, module, step.step_epochs, f"stage-{stage}")
    total = sum(layer.weight.numel() for _, layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for _, layer in layers)
    notes = [f"{zeros:,} of {total:,} weights are zero ({zeros / total:.3f}); MACs and parameters count them"]
    if left:
        notes.append(f"left dense, their inputs are not a multiple of 4: {', '.join(left)}")
    return module, rows, (*notes, _timed(job, module), _zipped(job, module))


def _layers(module: nn.Module) -> list[tuple[str, Any]]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return [(n, m) for n, m in module.named_modules() if isinstance(m, (_ConvNd, nn.Linear))]


def two_of_four(layers: Sequence[tuple[str, Any]]) -> list[str]:
    """Zero the two smallest of every four weights along the inputs, in place; returns the layers left out.

    Raises:
        StepError: when that is so of every layer.
    """
    left = [name for name, layer in layers if layer.weight.shape[1] % 4]
    if len(left) == len(layers):
        raise StepError(
            "No layer of this model can take 2:4 sparsity",
            "inputs that are not a multiple of 4 (depthwise convolutions have 1)",
            "Use sparsity = unstructured",
        )
    for _, layer in layers:
        if layer.weight.shape[1] % 4 == 0:
            _zero(layer.weight, _smallest_pairs(layer.weight.detach()))
    return left


def _smallest_pairs(weight: Tensor) -> Tensor:
    """Where two of every four neighbours along dimension 1 are the smallest: bool, of ``weight``'s shape."""
    import torch

    fours = weight.abs().transpose(1, -1).unflatten(-1, (-1, 4))  # (O, ..., I/4, 4)
    mask = torch.zeros_like(fours, dtype=torch.bool)
    mask.scatter_(-1, fours.argsort(stable=True)[..., :2], True)
    return mask.flatten(-2).transpose(1, -1)


def smallest(layers: Sequence[tuple[str, Any]], amount: float, scope: str) -> None:
    """Zero the smallest share ``amount`` of the weights, in place: of each layer (``local``), else of all.

    No layer loses more than 98% of its weights.
    """
    import torch

    sizes = [layer.weight.detach().abs().flatten() for _, layer in layers]
    if scope == "local":
        counts = [round(amount * len(size)) for size in sizes]
    else:
        together = torch.cat(sizes)
        gone = together.argsort(stable=True)[: round(amount * len(together))]
        owner = torch.repeat_interleave(torch.tensor([len(size) for size in sizes]))
        counts = torch.bincount(owner[gone], minlength=len(sizes)).tolist()
    for (_, layer), size, count in zip(layers, sizes, counts, strict=True):
        mask = torch.zeros(len(size), dtype=torch.bool)
        mask[size.argsort(stable=True)[: min(count, int(0.98 * len(size)))]] = True
        _zero(layer.weight, mask.view_as(layer.weight))


def _zero(weight: Tensor, mask: Tensor) -> None:
    weight.data.masked_fill_(mask, 0.0)


def _timed(job: Job, module: nn.Module) -> str:
    """Whether the runtime gains from the zeros: measured against the dense parent."""
    from compress.pruning.latency import Timer

    name = job.step.runtime
    if job.ctx.target is None:
        return f"whether {name} gains from the zeros was not measured: no runtime was lent to this step"
    try:
        timer = Timer(job)
    except MissingError as error:
        return f"whether {name} gains from the zeros was not measured: {error}"
    try:
        latency = timer.ratio(module, ())
    finally:
        timer.close()
    if latency.high is not None and latency.high < 1.0:
        return f"{name} gains from the zeros: latency {told(latency)} of the dense parent's"
    why = "its kernels multiply zeros like any number"
    return f"no win on {name}: latency {told(latency)} of the dense parent's; {why}"


def _zipped(job: Job, module: nn.Module) -> str:
    """What the zeros save where files are compressed, and only there."""
    dense, sparse = (len(zlib.compress(_bytes(net), 6)) for net in (job.dense, module))
    return (
        f"weights when zipped {dense:,} -> {sparse:,} bytes ({sparse / dense:.2f}): a smaller download; "
        "the file as shipped and the memory it takes stay the same"
    )


def _bytes(module: nn.Module) -> bytes:
    return b"".join(p.detach().contiguous().numpy().tobytes() for p in module.parameters())
