"""Learning from teachers: their outputs as targets (remembered, where they never change), their features."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StepError
from distill import features, losses

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from bench.steps import Training
    from distill.data import Dataset
    from distill.features import Size, Stage

TEACH_PIXELS = 2**21
"""Values per batch of a teacher's pass over the train images: 682 images of 3x32x32."""
WARM_UP = 1 / 12
"""The share of a training in which DKD's weight grows to its own: 20 of the paper's 240 epochs."""


def mean_teacher(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """One set of logits (N,C) for several teachers: ``T log(mean of softmax(z / T))``.

    Their softmax at that temperature is the mean of the teachers' probabilities. One teacher's logits stay
    as they are.
    """
    import torch

    if len(logits) == 1:
        return logits[0]
    each = torch.stack([z / temperature for z in logits]).log_softmax(dim=2)
    return temperature * (each.logsumexp(dim=0) - torch.tensor(len(logits)).log())


class Distillation:
    """An objective of :class:`distill.loop.Trainer`: ``alpha * soft + (1 - alpha) * labels + penalty``.

    ``soft`` is the sum of ``terms`` (see :func:`distill.losses.parse`); ``teachers`` are ready: on the device,
    in eval mode, without gradients. Features are the first teacher's. The Trainer calls :meth:`attach` and
    :meth:`remember` before the first step; without them logit losses work all the same, and the teachers run
    at every step.
    """

    def __init__(
        self, terms: dict[str, float], temperature: float, alpha: float, teachers: Sequence[nn.Module],
        label_loss: losses.Loss, penalty: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.temperature, self.alpha, self.teachers = temperature, alpha, tuple(teachers)
        self.label_loss, self.penalty = label_loss, penalty
        self.logit_terms = {n: f for n, f in terms.items() if n in losses.LOGIT_LOSSES}
        self.feature_terms = {n: f for n, f in terms.items() if n in losses.FEATURE_LOSSES}
        self.adapters: nn.ModuleList | None = None
        self.remembered: Tensor | None = None
        self._mine: dict[Size, Stage] = {}
        self._wanted: dict[Size, Stage] = {}

    def attach(self, model: nn.Module, pixels: Tensor, seed: int) -> nn.Module | None:
        """Match ``model``'s features to the teacher's; returns the adapters to train along, if there are any.

        ``pixels`` (N,C,H,W) is an example on the model's device.

        Raises:
            StepError: when no resolution is common to both.
        """
        import torch
        from torch import nn

        if not self.feature_terms:
            return None
        mine, wanted = features.stages(model, pixels), features.stages(self.teachers[0], pixels)
        common = [size for size in mine if size in wanted]
        if not common:
            raise StepError(
                f"The loss {' + '.join(self.feature_terms)} compares features of the same height and width",
                f"{_listed(mine)} in the student, {_listed(wanted)} in the teacher",
                'Use a loss on logits, such as loss = "kd"',
            )
        self._mine, self._wanted = ({s: net[s] for s in common} for net in (mine, wanted))
        if "hint" not in self.feature_terms:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = [nn.Conv2d(mine[s].channels, wanted[s].channels, 1, bias=False) for s in common]
        self.adapters = nn.ModuleList(made).to(pixels.device)
        return self.adapters

    def remember(self, data: Dataset, options: Training, path: Path) -> str:
        """Run the teachers once over the train images, if they always see the same ones; says what was done.

        The logits (fp32) are kept at ``path``, so that a training that goes on need not make them again.
        """
        import torch

        self.remembered = None
        changed = [*options.augment, *(n for n in ("mixup", "cutmix") if getattr(options, n))]
        if changed or self.feature_terms:
            why = f"augmentation: {', '.join(changed)}" if changed else "its features are compared"
            return f"the teacher ran at every step ({why})"
        identity = self._identity(data)
        logits = _read(path, identity)
        if logits is None:
            with torch.no_grad():
                logits = mean_teacher([_answers(t, data) for t in self.teachers], self.temperature)
            _write(path, identity, logits)
        self.remembered = logits
        return "the teacher answered each training image once"

    def _identity(self, data: Dataset) -> str:
        """What the remembered logits depend on: the images, the teachers' weights, how they are averaged."""
        import torch

        seen = hashlib.blake2b(f"{data.index.digest}/{self.temperature}".encode(), digest_size=16)
        for teacher in self.teachers:
            for tensor in teacher.state_dict().values():
                seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return seen.hexdigest()

    def __call__(
        self,
        model: nn.Module,
        pixels: Tensor,
        target: Tensor,
        rows: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """The loss of a batch of train's ``rows``; ``progress`` (0..1) is how far the training is."""
        with features.caught(model, self._mine) as mine:
            logits = model(pixels).float()
        wanted, shown = self._taught(pixels, rows)
        soft = logits.new_zeros(())
        for name, factor in self.logit_terms.items():
            ramp = min(1.0, progress / WARM_UP) if name == "dkd" else 1.0
            soft = soft + factor * ramp * losses.LOGIT_LOSSES[name](logits, wanted, target, self.temperature)
        if self.feature_terms:
            soft = soft + self._feature_loss(mine, shown)
        loss: Tensor = self.alpha * soft + (1 - self.alpha) * self.label_loss(logits, target)
        return loss if self.penalty is None else loss + self.penalty(model)

    def _taught(self, pixels: Tensor, rows: Tensor | None) -> tuple[Tensor, dict[Size, Tensor]]:
        """The teachers' logits (N,C) in fp32, and the first one's features where those are compared."""
        import torch

        if self.remembered is not None and rows is not None:
            return self.remembered[rows.to(self.remembered.device)].to(pixels.device), {}
        with torch.no_grad():
            with features.caught(self.teachers[0], self._wanted) as shown:
                answers = [self.teachers[0](pixels).float()]
            answers += [teacher(pixels).float() for teacher in self.teachers[1:]] if self.logit_terms else []
            return mean_teacher(answers, self.temperature), shown

    def _feature_loss(self, mine: dict[Size, Tensor], shown: dict[Size, Tensor]) -> Tensor:
        if not self._mine:
            raise StepError(
                "A loss on features needs to know the student", todo="Train it with distill.loop.Trainer"
            )
        import torch

        parts = []
        for i, size in enumerate(self._mine):
            if "at" in self.feature_terms:
                parts.append(self.feature_terms["at"] * losses.attention(mine[size], shown[size]))
            if self.adapters is not None:
                adapted = self.adapters[i](mine[size])
                parts.append(self.feature_terms["hint"] * losses.hint(adapted, shown[size]))
        return torch.stack(parts).sum()


def _listed(found: dict[Size, Stage]) -> str:
    return ", ".join(f"{h} x {w}" for h, w in found) or "none (only convolutional nets have them)"


def _answers(teacher: nn.Module, data: Dataset) -> Tensor:
    """A teacher's logits (N,C) for all train images, in fp32, on the CPU."""
    import torch

    where = next(teacher.parameters()).device
    images = data.images["train"]
    size = max(16, min(1024, TEACH_PIXELS // images[0].numel()))
    batches = images.split(size)
    return torch.cat([teacher(data.normalise(batch.to(where))).float().cpu() for batch in batches])


def _read(path: Path, identity: str) -> Tensor | None:
    """The remembered logits of these teachers; None when there are none, or they are damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("identity") == identity:
                logits: Tensor = file.get_tensor("logits")
                return logits
    except (OSError, SafetensorError):
        pass
    return None


def _write(path: Path, identity: str, logits: torch.Tensor) -> None:
    from safetensors.torch import save

    temporary = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):  # a full disk costs another pass; the checkpoint will complain of it
        temporary.write_bytes(save({"logits": logits}, metadata={"identity": identity}))
        temporary.replace(path)
