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
from bench.steps import Training
from bench.types import Json, Notify
from distill import augment, checkpoint, losses, models
from distill.devices import autocast, memory_format, resolve_precision
from distill.evaluate import accuracies, answers, evaluate, hopeless
from distill.optim import learning_rate, optimizer
from distill.teachers import Distillation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from distill.data import Dataset

    Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]

REPORT_SECONDS = 0.5
LEARNS = 0.95
"""A loss on train below this share of the first epoch's says that something is learned."""
NOTHING_LEARNED = 3
"""Epochs in a row in which a net may have learned nothing, once a quarter of its training is over."""


@dataclass(frozen=True)
class Outcome:
    """What a training leaves to record; the best weights are in the module."""

    history: tuple[Json, ...]
    best_epoch: int | None
    notes: tuple[str, ...]


class _Diverged(Exception):
    """The loss of an epoch is not finite."""


class Trainer:
    """One training of ``model`` (already on its device, channels last) on ``data``.

    ``objective(model, pixels, target)`` is the loss of a batch: a function, or what
    :func:`distill.train.kd_objective` makes. ``identity`` names the configuration, so that a checkpoint of
    another one is never taken for ours.
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
        self.distillation = objective if isinstance(objective, Distillation) else None
        self.adapters = self._adapters()
        self.optimizer = optimizer(model, self.adapters, options)
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
        self.nothing_learned = 0
        self._taught = ""
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
            elif self.distillation is not None:
                path = self.path.with_name("teacher.safetensors")
                self._taught = self.distillation.remember(self.data, self.options, path)
            self._started, self._done = time.monotonic(), 0
            while len(self.history) < self.options.epochs and not self._out_of_patience():
                self._one_epoch()
        if len(self.history) < self.options.epochs:
            self.notes.append(
                f"stopped after {len(self.history)} of {self.options.epochs} epochs: "
                f"none of the last {self.options.patience} was better than epoch {self.best['epoch']}"
            )
        self.model.load_state_dict(self.best["state"])
        self.model.eval()
        notes = (self._taught, *self.notes) if self._taught else tuple(self.notes)
        return Outcome(tuple(self.history), self.best["epoch"], notes)

    def _adapters(self) -> nn.Module | None:
        """What a loss on features trains along with the model, and the result will not have."""
        if self.distillation is None:
            return None
        example = self.data.normalise(self.data.images["train"][:2].to(self.device))
        return self.distillation.attach(self.model, example, self.seed)

    def _one_epoch(self) -> None:
        import torch

        number = len(self.history)
        shown = self.average or self.model
        try:
            row = self.epoch(number)
            loss, found = answers(shown, self.data, "validation", self.dtype)
            if not math.isfinite(loss):  # the last update broke the weights: train_loss is of those before it
                raise _Diverged
        except torch.OutOfMemoryError as error:
            raise StepError(
                f"The training of {self.variant} does not fit in the GPU's memory",
                f"training.batch_size {self.options.batch_size}",
                "Halve it",
            ) from error
        except _Diverged as error:
            self._diverged(number, error)
            return
        labels = self.data.labels["validation"]
        accuracy, balanced = accuracies(found, labels)
        self.history.append(
            {**row, "val_loss": loss, "val_accuracy": accuracy, "val_balanced_accuracy": balanced}
        )
        # Who weighs the classes wants them all: accuracy would keep an epoch that only knows the largest.
        score = accuracy if self.options.imbalance == "none" else balanced
        if (score, -loss) > (self.best["score"], -self.best["loss"]) or self.best["epoch"] is None:
            state = {k: v.detach().clone() for k, v in shown.state_dict().items()}
            self.best = {"epoch": number + 1, "score": score, "loss": loss, "state": state}
        why = hopeless(loss, found, labels, self.classes)
        self.nothing_learned = self.nothing_learned + 1 if why else 0
        self._save()
        self._tell_epoch()
        self._report(number, self.steps, row["train_loss"], row["images_per_second"], force=True)
        self._stop_if_hopeless(why)

    def _diverged(self, number: int, error: _Diverged) -> None:
        """Back to the last good epoch with half the rate; the second time is the end."""
        if self.lr_scale < 1.0:
            best = self.best["epoch"]
            where = (
                f"; the weights of epoch {best}, the best one, are in {self.path} under 'best'"
                if best
                else ""
            )
            raise StepError(
                f"The training of {self.variant} diverged again at half the learning rate",
                f"a loss that is not finite in epoch {number + 1}{where}",
                f"Lower training.lr ({self.options.lr:g}), or set training.clip_norm = 1.0",
            ) from error
        self._restore()
        self.lr_scale = 0.5
        self.notes.append(f"the loss was not finite in epoch {number + 1}: went back and halved the rate")
        self.notify("warning", {"variant": self.variant, "text": self.notes[-1]})

    def _stop_if_hopeless(self, why: str) -> None:
        """Give up on a net that has learned nothing, once a quarter of its epochs is over.

        Raises:
            StepError: saying what it answers.
        """
        done, epochs = len(self.history), self.options.epochs
        trained = done - self.options.freeze_epochs
        early = trained < max(NOTHING_LEARNED, math.ceil(epochs / 4))
        # Falling on train: it learns, and only slow running statistics (a momentum of 0.01) hide it so far.
        falls = self.history[-1]["train_loss"] < LEARNS * self.history[0]["train_loss"]
        if early or done == epochs or self.nothing_learned < NOTHING_LEARNED or falls:
            return
        raise StepError(
            f"The training of {self.variant} was stopped: it has learned nothing",
            f"{why}, after {done} of {epochs} epochs",
            f"Change training.lr ({self.options.lr:g}), or look at the labels",
        )

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
        since = max(int(self.best["epoch"]), self.options.freeze_epochs)  # a head alone ends early
        return len(self.history) - since >= self.options.patience

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
            rows = order[step * self.batch : (step + 1) * self.batch]
            pixels, target = self._batch(rows, generator)
            with autocast(self.device, self.dtype):
                loss = self._loss(pixels, target, rows, number + step / self.steps)
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

    def _loss(self, pixels: Tensor, target: Tensor, rows: Tensor, epochs: float) -> Tensor:
        if self.distillation is None:
            return self.objective(self.model, pixels, target)
        return self.distillation(self.model, pixels, target, rows, epochs / self.options.epochs)

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
        """Pixels (float32, normalised, augmented, in the model's layout) and targets of rows of train."""
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

    def _tell_epoch(self) -> None:
        """Whoever listens may stop the training by raising: this epoch's checkpoint is already written."""
        row = self.history[-1]
        details = {"variant": self.variant, "epoch": row["epoch"], "epochs": self.options.epochs}
        self.notify("epoch", details | {k: row[k] for k in ("val_accuracy", "val_loss")})

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
            "adapters": self.adapters.state_dict() if self.adapters is not None else {},
            "nothing_learned": self.nothing_learned,
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
        if self.adapters is not None:
            self.adapters.load_state_dict(state["adapters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.notes = state["history"], state["notes"]
        self.lr_scale, self.best = state["lr_scale"], state["best"]
        self.nothing_learned = state["nothing_learned"]
        return True


def _floats(module: nn.Module) -> list[Tensor]:
    """What an average follows: weights and BatchNorm statistics, the tensors themselves, in a fixed order."""
    return [t.detach() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]


def _mixed(seed: int, epoch: int) -> int:
    """A seed of 60 bits for one epoch; neighbours share nothing (SplitMix64's first round)."""
    value = (seed * 1_000_003 + epoch + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1)
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    return (value ^ value >> 27) >> 4
