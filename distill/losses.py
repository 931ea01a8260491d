"""Loss functions. Logits are (N, classes); targets are classes (N) or probabilities (N, classes).

Those of distillation compare a student's logits or features with a teacher's. All are means over the
batch and at least 0. :func:`parse` reads the sums of them that a recipe may ask for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""(logits, target) -> loss."""
SoftLoss = Callable[["Tensor", "Tensor", "Tensor", float], "Tensor"]
"""(student's logits, teacher's logits, target, temperature) -> loss."""


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy weighted by ``(1 - p)**gamma`` (Lin et al., Focal Loss, 2017)."""
    from torch.nn import functional

    classes = logits.shape[1]
    soft = target if target.is_floating_point() else functional.one_hot(target, classes).to(logits.dtype)
    soft = soft * (1 - smoothing) + smoothing / classes
    log_p = functional.log_softmax(logits, dim=1)
    return -(soft * (1 - log_p.exp()) ** gamma * log_p).sum(dim=1).mean()


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


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` at temperature T (Hinton, Vinyals and Dean, 2015)."""
    from torch.nn import functional

    soft = functional.log_softmax(teacher / temperature, dim=1)
    mine = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(mine, soft, reduction="batchmean", log_target=True) * temperature**2


def standardised(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """:func:`distillation` of logits with mean 0 and deviation 1 in each image.

    Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024: the student copies how the
    teacher's logits relate and need not copy their scale. The paper's temperature is 2 and its factor 9:
    without one it is weak beside the labels.
    """
    return distillation(_z_score(student), _z_score(teacher), temperature)


def _z_score(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, keepdim=True) + 1e-7)


def decoupled(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 2.0,
) -> Tensor:
    """``T^2 (alpha TCKD + beta NCKD)``: the right class against the rest, and the rest among themselves.

    Zhao et al., Decoupled Knowledge Distillation, CVPR 2022; beta is the paper's for CIFAR ResNets. Of a
    mixed target the largest class counts as the right one.
    """
    import torch
    from torch.nn import functional

    label = target.argmax(dim=1) if target.is_floating_point() else target
    right = functional.one_hot(label, student.shape[1]).bool()
    mine, wanted = (functional.log_softmax(z / temperature, dim=1) for z in (student, teacher))

    def binary(log_p: Tensor) -> Tensor:
        rest = log_p.masked_fill(right, -math.inf).logsumexp(dim=1)
        return torch.stack([log_p[right], rest], dim=1)

    def others(log_p: Tensor) -> Tensor:
        left = log_p[~right].view(len(log_p), -1)
        return functional.log_softmax(left, dim=1)

    parts = [
        functional.kl_div(part(mine), part(wanted), reduction="batchmean", log_target=True)
        for part in (binary, others)
    ]
    return (alpha * parts[0] + beta * parts[1]) * temperature**2


def correlation(
    student: Tensor, teacher: Tensor, temperature: float, inter: float = 2.0, intra: float = 2.0
) -> Tensor:
    """``T^2`` times 1 - Pearson's r, of each image's classes (inter) and of each class's images (intra).

    Huang et al., Knowledge Distillation from A Stronger Teacher (DIST), NeurIPS 2022, with its weights. What
    counts is how probabilities relate, not their values.
    """
    mine, wanted = ((z / temperature).softmax(dim=1) for z in (student, teacher))
    between = inter * _apart(mine, wanted) + intra * _apart(mine.t(), wanted.t())
    return between * temperature**2


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """1 - Pearson's correlation of the rows, on average; a constant row counts as uncorrelated."""
    from torch.nn import functional

    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return 1 - functional.cosine_similarity(a, b, dim=1, eps=1e-8).mean()


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """``|| Qs/|Qs| - Qt/|Qt| ||^2``, Q the mean square over channels of features (N,C,H,W): 0 to 2.

    Zagoruyko and Komodakis, Paying More Attention to Attention, 2017. Widths may differ, sizes may not.
    """
    import torch
    from torch.nn import functional

    # One pass over the features; the mean's divisor goes with the norm of the map.
    maps = [torch.linalg.vector_norm(f, dim=1, dtype=torch.float32).square() for f in (student, teacher)]
    mine, wanted = (functional.normalize(m.flatten(1)) for m in maps)
    return (mine - wanted).square().sum(dim=1).mean()


def hint(adapted: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features (N,C,H,W) behind a 1x1 adapter, as a share of the teacher's mean square.

    FitNets (Romero et al., 2015), at every resolution as in Chen et al., ReviewKD, CVPR 2021; the share makes
    one factor fit nets of any scale.
    """
    wanted = teacher.float()
    return (adapted.float() - wanted).square().mean() / (wanted.square().mean() + 1e-8)


LOGIT_LOSSES: dict[str, SoftLoss] = {
    "kd": lambda mine, wanted, target, temperature: distillation(mine, wanted, temperature),
    "kd-std": lambda mine, wanted, target, temperature: standardised(mine, wanted, temperature),
    "dkd": decoupled,
    "dist": lambda mine, wanted, target, temperature: correlation(mine, wanted, temperature),
}
FEATURE_LOSSES = ("at", "hint")
NAMES = (*LOGIT_LOSSES, *FEATURE_LOSSES)


def parse(text: str) -> dict[str, float]:
    """``dkd + 0.5*at`` as {name: factor}, in the order written. Needs no torch.

    Raises:
        ConfigError: for an unknown name, a name that comes twice, and a factor that is no positive number.
    """
    terms: dict[str, float] = {}
    for term in re.split(r"(?<![\d.][eE])\+", text):  # the + of 1e+3 does not separate
        factor, star, name = (part.strip() for part in term.rpartition("*"))
        if name not in NAMES:
            raise ConfigError(
                f"There is no distillation loss {name!r}",
                "" if name == text else f"loss = {text!r}",
                nearest(name, NAMES) if name else f"Write NAME or FACTOR*NAME + ..., of {', '.join(NAMES)}",
            )
        if name in terms:
            raise ConfigError(
                f"The distillation loss {name} comes twice", f"loss = {text!r}", "Add the factors"
            )
        terms[name] = _factor(factor, text) if star else 1.0
    return terms


def check_classes(text: str, classes: int) -> None:
    """Raise ConfigError for a loss that says nothing of so few classes: two standardised logits are always -0.7 and 0.7."""
    if classes < 3 and "kd-std" in parse(text):
        raise ConfigError(
            "kd-std teaches nothing where there are two classes",
            "two logits with mean 0 and deviation 1 are the same for every image",
            'Use loss = "kd"',
        )


def _factor(text: str, loss: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(
            "The factor of a distillation loss must be a positive number",
            f"{text!r} in loss = {loss!r}",
            "Write for example dkd + 0.5*at",
        )
    return value
