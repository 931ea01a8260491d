"""The training loop: schedule, EMA, mixed precision, checkpoints, early stopping, divergence.

Everything random in an epoch comes from (seed, epoch), so a training that goes on from a checkpoint
ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ModelError, StepError
from bench.types import Json, Notify, Training
from distill import augment, checkpoint, losses, models
from distill.devices import autocast, memory_format, resolve_precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill.data import Dataset

    Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]

REPORT_SECONDS = 0.5
EVAL_PIXELS = 2**22
"""Values per evaluation batch: 1,365 images of 3x32x32."""


@dataclass(frozen=True)
class Outcome:
    """What a training leaves to record; the best weights are in the module."""

    history: tuple[Json, ...]
    best_epoch: int | None
    notes: tuple[str, ...]


class _Diverged(Exception):
    """The loss of an epoch is not finite."""


def learning_rate(step: int, steps_per_epoch: int, options: Training) -> float:
    """The rate of a step: linear warm-up (half of the training at most), then cosine to 0 in ``restarts`` equal cycles, or constant.

    Cosine with warm restarts: Loshchilov and Hutter, SGDR, 2017.
    """
    warm = round(min(options.warmup_epochs, options.epochs / 2) * steps_per_epoch)
    if step < warm:
        return options.lr * (step + 1) / warm
    if options.schedule == "constant":
        return options.lr
    share = (step - warm) / max(1, options.epochs * steps_per_epoch - warm)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (share * options.restarts % 1.0)))


class Trainer:
    """One training of ``model`` (already on its device, channels last) on ``data``.

    ``objective(model, pixels, target)`` is the loss of a batch; ``identity`` names the configuration, so that
    a checkpoint of another one is never taken for ours.
    """

    def __init__(
        self, model: nn.Module, data: Dataset, options: Training, *, seed: int, objective: Objective,
        notify: Notify, variant: str, workdir: Path, identity: str,
    ) -> None:  # fmt: skip
        import torch

        self.model, self.data, self.seed = model, data, seed
        self.objective, self.notify, self.variant, self.identity = objective, notify, variant, identity
        self.path = workdir / "checkpoint.pt"
        self.device = next(model.parameters()).device
        self.dtype = resolve_precision(options.precision, self.device)
        self.layout = memory_format(model)
        self.images, self.labels = self._placed(data.images["train"]), data.labels["train"].to(self.device)
        count = len(self.labels)
        self.batch = min(options.batch_size, count)
        self.steps = count // self.batch  # a last, smaller batch would upset BatchNorm
        epochs = max(options.epochs, math.ceil(options.min_steps / self.steps)) if options.epochs else 0
        self.options = options = replace(options, epochs=epochs)
        self.classes = len(data.index.classes)
        self.optimizer = _optimizer(model, options)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.average = copy.deepcopy(model).requires_grad_(False) if options.ema else None
        self.averaged = (_floats(self.average), _floats(model)) if self.average else None
        self.head = models.head(model, self.classes) if options.freeze_epochs else ""
        if options.freeze_epochs and not self.head:
            raise ModelError(
                "The model has no classifier that could be trained alone",
                todo="Use training.freeze_epochs = 0",
            )
        self.best: Json = {"epoch": None, "score": -1.0, "loss": math.inf, "state": {}}
        self.history: list[Json] = []
        self.notes: list[str] = []
        self.lr_scale = 1.0
        self._reported = 0.0
        self._started, self._done = time.monotonic(), 0

    def run(self) -> Outcome:
        """Train to the end (or go on from a checkpoint), and leave the best epoch's weights in the model."""
        import torch

        devices = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            torch.backends.cudnn.flags(enabled=True, deterministic=True),
        ):
            if not self._restore():
                self._save()
            if not self.options.epochs:
                self._import()
            self._started, self._done = time.monotonic(), 0
            while len(self.history) < self.options.epochs and not self._out_of_patience():
                self._one_epoch()
        self.model.load_state_dict(self.best["state"])
        self.model.eval()
        return Outcome(tuple(self.history), self.best["epoch"], tuple(self.notes))

    def _one_epoch(self) -> None:
        import torch

        number = len(self.history)
        try:
            row = self.epoch(number)
        except torch.OutOfMemoryError as error:
            raise StepError(
                f"The training of {self.variant} does not fit in the GPU's memory",
                f"training.batch_size {self.options.batch_size}",
                "Halve it",
            ) from error
        except _Diverged as error:
            if self.lr_scale < 1.0:
                raise StepError(
                    f"The training of {self.variant} diverged again at half the learning rate",
                    f"a loss that is not finite in epoch {number + 1}",
                    f"Lower training.lr ({self.options.lr:g}), or set training.clip_norm = 1.0",
                ) from error
            self._restore()
            self.lr_scale = 0.5
            self.notes.append(f"the loss was not finite in epoch {number + 1}: went back and halved the rate")
            self.notify("warning", {"variant": self.variant, "text": self.notes[-1]})
            return
        shown = self.average or self.model
        loss, accuracy, balanced = evaluate(shown, self.data, "validation", self.dtype)
        self.history.append(
            {**row, "val_loss": loss, "val_accuracy": accuracy, "val_balanced_accuracy": balanced}
        )
        # Who weighs the classes wants them all: plain accuracy would keep an epoch that only knows the largest.
        score = accuracy if self.options.imbalance == "none" else balanced
        if (score, -loss) > (self.best["score"], -self.best["loss"]) or self.best["epoch"] is None:
            state = {k: v.detach().clone() for k, v in shown.state_dict().items()}
            self.best = {"epoch": number + 1, "score": score, "loss": loss, "state": state}
        self._save()
        self._report(number, self.steps, row["train_loss"], row["images_per_second"], force=True)

    def _import(self) -> None:
        """No training was asked for: the model is the result, as it is."""
        loss, accuracy, _ = evaluate(self.model, self.data, "validation", self.dtype)
        self.best["state"] = self.model.state_dict()
        self.notes.append(
            f"imported without training: {accuracy:.4f} accuracy, {loss:.4f} loss on validation"
        )

    def _out_of_patience(self) -> bool:
        if not self.options.patience or self.best["epoch"] is None:
            return False
        return len(self.history) - int(self.best["epoch"]) >= self.options.patience

    def epoch(self, number: int) -> Json:
        """One pass over train; returns epoch (from 1), lr, train_loss, seconds, images_per_second.

        Raises:
            _Diverged: when the loss is not finite (looked at when it is reported, and at the end).
        """
        import torch

        generator = torch.Generator().manual_seed(_mixed(self.seed, number))
        torch.manual_seed(_mixed(self.seed, number) + 1)  # dropout
        order = self._order(generator)
        self._set_mode(number)
        total = torch.zeros((), device=self.device)
        start, rate = time.monotonic(), 0.0
        for step in range(self.steps):
            rate = self.lr_scale * learning_rate(number * self.steps + step, self.steps, self.options)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            pixels, target = self._batch(order[step * self.batch : (step + 1) * self.batch], generator)
            with autocast(self.device, self.dtype):
                loss = self.objective(self.model, pixels, target)
            self._update(loss, number * self.steps + step)
            total += loss.detach()
            self._done += 1
            if time.monotonic() - self._reported > REPORT_SECONDS:
                self._report(
                    number,
                    step + 1,
                    float(total) / (step + 1),
                    (step + 1) * self.batch / (time.monotonic() - start),
                )
        mean = float(total) / self.steps
        if not math.isfinite(mean):
            raise _Diverged
        seconds = time.monotonic() - start
        return {
            "epoch": number + 1,
            "lr": rate,
            "train_loss": mean,
            "seconds": seconds,
            "images_per_second": self.steps * self.batch / max(seconds, 1e-9),
        }

    def _update(self, loss: Tensor, step: int) -> None:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.options.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            # The ramp keeps the average from remembering the random start in a short training.
            decay = min(self.options.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(*self.averaged, 1 - decay)

    def _batch(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (float32, normalised, augmented, in the model's layout) and targets of some rows of train."""
        from torch.nn import functional

        images = self.images[rows.to(self.images.device)].to(self.device, non_blocking=True)
        target = self.labels[rows.to(self.device)]
        pixels = self.data.normalise(augment.augment(images, self.options.augment, generator))
        pixels = pixels.contiguous(memory_format=self.layout)
        if self.options.mixup or self.options.cutmix:
            soft = functional.one_hot(target, self.classes).to(pixels.dtype)
            pixels, target = augment.mix(pixels, soft, self.options.mixup, self.options.cutmix, generator)
        return pixels, target

    def _order(self, generator: torch.Generator) -> Tensor:
        """The rows of an epoch: a permutation, or (sampler) drawn so that every class comes equally often."""
        import torch

        if self.options.imbalance != "sampler":
            return torch.randperm(len(self.labels), generator=generator)
        weights = torch.tensor(losses.class_weights(self.data.index.per_class["train"]))
        each = weights[self.data.labels["train"]]
        return torch.multinomial(each, len(each), replacement=True, generator=generator)

    def _set_mode(self, number: int) -> None:
        """Train mode; while the backbone is frozen only the head learns, and BatchNorm is still."""
        self.model.train()
        if not self.head:
            return
        frozen = number < self.options.freeze_epochs
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith(f"{self.head}."))
        if frozen:
            self.model.eval()
            self.model.get_submodule(self.head).train()

    def _placed(self, images: Tensor) -> Tensor:
        """The training images on the GPU when they take less than a quarter of what is free there."""
        import torch

        if self.device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(self.device)[0] / 4:
            return images
        return images.to(self.device)

    def _report(self, number: int, step: int, loss: float, rate: float, force: bool = False) -> None:
        """Tell how far we are; a loss that is not finite is noticed here, half a second after it happened."""
        if not math.isfinite(loss):
            raise _Diverged
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS and not (force and number + 1 == self.options.epochs):
            return
        self._reported = now
        left = self.options.epochs * self.steps - number * self.steps - step
        details = {
            "variant": self.variant,
            "epoch": number + 1,
            "epochs": self.options.epochs,
            "step": step,
            "steps": self.steps,
            "images_per_second": rate,
            "eta_seconds": left * (now - self._started) / max(1, self._done),
            "val_accuracy": self.history[-1]["val_accuracy"] if self.history else None,
            "loss": loss,
        }
        self.notify("train", details)

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "notes": self.notes,
            "lr_scale": self.lr_scale,
            "best": self.best,
        }
        checkpoint.write(self.path, state)

    def _restore(self) -> bool:
        """Go on from the checkpoint, if there is a good one of this very training."""
        state, problem = checkpoint.read(self.path, self.device)
        if problem:
            message = (
                f"the checkpoint of {self.variant} was damaged ({problem}) and set aside; it starts over"
            )
            self.notify("warning", {"variant": self.variant, "text": message})
        if state is None or state["identity"] != self.identity:
            return False
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.notes = state["history"], state["notes"]
        self.lr_scale, self.best = state["lr_scale"], state["best"]
        return True


def evaluate(
    model: nn.Module, data: Dataset, split: str, dtype: torch.dtype | None
) -> tuple[float, float, float]:
    """(mean cross-entropy, accuracy, balanced accuracy) on a split, in big batches; leaves the model in eval mode.

    Balanced accuracy is the mean recall of the classes that occur in the split.
    """
    import torch
    from torch.nn import functional

    where = next(model.parameters()).device
    images, labels = data.images[split], data.labels[split]
    size = max(16, min(1024, EVAL_PIXELS // images[0].numel()))
    loss, answers = torch.zeros((), device=where), []
    model.eval()
    with torch.inference_mode(), autocast(where, dtype):
        for start in range(0, len(labels), size):
            target = labels[start : start + size].to(where)
            logits = model(data.normalise(images[start : start + size].to(where))).float()
            loss += functional.cross_entropy(logits, target, reduction="sum")
            answers.append(logits.argmax(1).cpu())
    right = torch.cat(answers) == labels
    recalls = [right[labels == label].float().mean() for label in labels.unique()]
    return float(loss) / len(labels), float(right.float().mean()), float(torch.stack(recalls).mean())


def _floats(module: nn.Module) -> list[Tensor]:
    """What an average follows: weights and BatchNorm statistics, the tensors themselves, in a fixed order."""
    return [t.detach() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]


def _optimizer(model: nn.Module, options: Training) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases (one dimension) do not decay."""
    import torch

    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = (
        not options.freeze_epochs
    )  # fused SGD cannot take up parameters that were frozen at its first step
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, fused=fused)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov, fused=fused)


def _mixed(seed: int, epoch: int) -> int:
    """A seed of 60 bits for one epoch; neighbours share nothing (SplitMix64's first round)."""
    value = (seed * 1_000_003 + epoch + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    return (value ^ value >> 27) >> 4
