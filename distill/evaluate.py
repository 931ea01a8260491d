"""How well a model answers a split, and whether a training is beyond hope."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.stats import wilson
from distill.devices import autocast

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill.data import Dataset

EVAL_PIXELS = 2**22
"""Values per evaluation batch: 1,365 images of 3x32x32."""
ONE_ANSWER = 0.98
"""The share of images with the same answer from which a net has collapsed."""
ABOVE_CHANCE = (1.2, 0.02)
"""What a net must be able to reach after a quarter of its training: the accuracy of guessing, times or plus this."""


def answers(model: nn.Module, data: Dataset, split: str, dtype: torch.dtype | None) -> tuple[float, Tensor]:
    """(mean cross-entropy, answered classes (N) on the CPU) of a split; leaves the model in eval mode."""
    import torch
    from torch.nn import functional

    where = next(model.parameters()).device
    images, labels = data.images[split], data.labels[split]
    size = max(16, min(1024, EVAL_PIXELS // images[0].numel()))
    loss, found = torch.zeros((), device=where), []
    model.eval()
    with torch.inference_mode(), autocast(where, dtype):
        for start in range(0, len(labels), size):
            target = labels[start : start + size].to(where)
            logits = model(data.normalise(images[start : start + size].to(where))).float()
            loss += functional.cross_entropy(logits, target, reduction="sum")
            found.append(logits.argmax(1).cpu())
    return float(loss) / len(labels), torch.cat(found)


def accuracies(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """(accuracy, balanced accuracy); the latter is the mean recall of the classes in ``labels``."""
    import torch

    right = found == labels
    recalls = [right[labels == label].float().mean() for label in labels.unique()]
    return float(right.float().mean()), float(torch.stack(recalls).mean())


def evaluate(
    model: nn.Module, data: Dataset, split: str, dtype: torch.dtype | None
) -> tuple[float, float, float]:
    """(mean cross-entropy, accuracy, balanced accuracy) on a split; leaves the model in eval mode."""
    loss, found = answers(model, data, split, dtype)
    return loss, *accuracies(found, data.labels[split])


def hopeless(loss: float, found: Tensor, labels: Tensor, classes: int) -> str:
    """Why a net that answers so has learned nothing, or "".

    It gives nearly every image one answer, though no class is that large, and its loss is no better than
    that of the bare class frequencies (which a net that learns passes at once, even while it still answers
    the largest class only); or the upper Wilson bound of its accuracy (or balanced accuracy, if that is
    better) is about what guessing gives. Few images condemn no net.
    """
    import torch

    n = len(labels)
    common = int(torch.bincount(found, minlength=classes).max()) / n
    shares = (torch.bincount(labels, minlength=classes) / n).tolist()
    blind = -sum(p * math.log(p) for p in shares if p)
    if common > ONE_ANSWER >= max(shares) and not loss < ONE_ANSWER * blind:  # also when it is not a number
        return f"it gives {common:.1%} of the validation images the same answer"
    right, chance = max(accuracies(found, labels)), 1 / classes
    if wilson(round(right * n), n)[1] < min(ABOVE_CHANCE[0] * chance, ABOVE_CHANCE[1] + chance):
        return f"{right:.1%} of the validation images are right, and guessing gives {chance:.1%}"
    return ""
