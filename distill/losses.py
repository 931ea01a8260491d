"""Loss functions. Logits are (N, classes); targets are classes (N) or probabilities (N, classes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy weighted by ``(1 - p)**gamma`` (Lin et al., Focal Loss, 2017)."""
    from torch.nn import functional

    classes = logits.shape[1]
    soft = target if target.is_floating_point() else functional.one_hot(target, classes).to(logits.dtype)
    soft = soft * (1 - smoothing) + smoothing / classes
    log_p = functional.log_softmax(logits, dim=1)
    return -(soft * (1 - log_p.exp()) ** gamma * log_p).sum(dim=1).mean()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` at temperature T (Hinton, Vinyals and Dean, 2015)."""
    from torch.nn import functional

    soft = functional.log_softmax(teacher / temperature, dim=1)
    mine = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(mine, soft, reduction="batchmean", log_target=True) * temperature**2


def class_weights(counts: Sequence[int]) -> list[float]:
    """``n / (classes * count)``: all classes weigh the same in sum (King and Zeng, 2001); empty ones 0."""
    present = [c for c in counts if c]
    return [sum(counts) / (len(present) * c) if c else 0.0 for c in counts]


def classification(imbalance: str, smoothing: float, counts: Sequence[int], device: str = "cpu") -> Loss:
    """The loss on labels that ``Training.imbalance`` asks for; ``counts`` are the train images per class."""
    import torch
    from torch.nn import functional

    if imbalance == "focal":
        return lambda logits, target: focal(logits, target, smoothing=smoothing)
    weight = torch.tensor(class_weights(counts), device=device) if imbalance == "weighted" else None

    def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)

    return cross_entropy
