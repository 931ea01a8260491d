"""Distillation for real: every loss, ensembles, remembered answers, adapters, and trainings that end early."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import ConfigError, ModelError, StepError
from bench.steps import DistillStep, Training, TrainStep
from bench.types import Json, StepContext, StepResult
from distill import loop, losses, models, train
from distill.data import Dataset

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = Training(epochs=2, batch_size=128, augment=())
STUDENT = "edgefit:resnet8x0.5"


class Stop(Exception):
    """What a listener raises to end a training."""


def context(digits: Dataset, workdir: Path, **more: Any) -> StepContext:
    fields = {"seed": 0, "parent": None, "teachers": (), "notify": lambda *_: None, **more}
    workdir.mkdir(parents=True, exist_ok=True)
    return StepContext(variant="v", data=lambda: digits, workdir=workdir, **fields)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return models.load(path)[0].state_dict()


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def teacher(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> StepResult:
    options = Training(epochs=3, batch_size=64, augment=())
    return train.run_train(
        TrainStep("edgefit:resnet8", training=options), context(digits, tmp_path_factory.mktemp("t"))
    )


def counted(path: Path) -> tuple[torch.nn.Module, list[int]]:
    """A teacher, and the batches it was asked about."""
    module, asked = models.load(path)[0], []
    module.register_forward_hook(lambda module, given, answer: asked.append(len(answer)))
    return module, asked


def trainer(
    digits: Dataset, workdir: Path, objective: Any, options: Training = PLAIN, arch: str = STUDENT,
    notify: Callable[[str, Json], None] = lambda *_: None,
) -> loop.Trainer:  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = models.build(arch, 10, 1)
    return loop.Trainer(
        module, digits, options, seed=0, objective=objective, notify=notify, variant="v", workdir=workdir,
        identity="x",
    )  # fmt: skip


def objective(digits: Dataset, loss: str, *teachers: torch.nn.Module, **more: Any) -> Any:
    return train.kd_objective(loss, 4.0, 0.7, teachers, train.label_loss(PLAIN, digits), **more)


@pytest.mark.parametrize("loss", [*losses.NAMES, "dkd + 0.5*at + hint"])
def test_a_student_learns_by_every_loss_and_keeps_nothing_of_it(
    digits: Dataset, tmp_path: Path, teacher: StepResult, loss: str
) -> None:
    alpha = 0.5 if loss in losses.FEATURE_LOSSES else 1.0  # features alone teach no classifier
    options = replace(PLAIN, epochs=4, batch_size=64, mixup=0.2 if loss == "dkd" else 0.0)
    step = DistillStep(("t",), STUDENT, loss, 2.0, alpha, options)
    result = train.run_distill(step, context(digits, tmp_path, teachers=(teacher.model,)))
    assert max(row["val_accuracy"] for row in result.history) > 0.6
    module, _ = models.load(result.model)
    assert set(module.state_dict()) == set(models.build(STUDENT, 10, 1).state_dict())
    assert not any(m._forward_hooks for m in module.modules())


@pytest.mark.parametrize("loss", losses.FEATURE_LOSSES)
def test_features_alone_come_closer_to_the_teachers(
    digits: Dataset, tmp_path: Path, teacher: StepResult, loss: str
) -> None:
    taught = train.kd_objective(
        loss, 4.0, 1.0, [models.load(teacher.model)[0]], train.label_loss(PLAIN, digits)
    )
    made = trainer(digits, tmp_path, taught, replace(PLAIN, epochs=4, batch_size=64))
    for parameter in made.adapters.parameters() if made.adapters is not None else ():
        parameter.requires_grad_(False)  # what falls is the student's doing
    history = made.run().history
    assert history[-1]["train_loss"] < 0.85 * history[0]["train_loss"]


def test_only_the_student_and_its_adapters_get_gradients(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    first, second = (models.load(teacher.model)[0].train().requires_grad_() for _ in range(2))
    before = {k: v.clone() for k, v in first.state_dict().items()}
    made = trainer(digits, tmp_path, objective(digits, "kd + at + hint", first, second))
    adapters = {k: v.clone() for k, v in made.adapters.state_dict().items()}
    assert [tuple(v.shape) for v in adapters.values()] == [(16, 8, 1, 1), (32, 16, 1, 1), (64, 32, 1, 1)]
    made.epoch(0)
    assert not any(torch.equal(v, adapters[k]) for k, v in made.adapters.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    assert all(p.grad is None for net in (first, second) for p in net.parameters())


@pytest.mark.parametrize(
    ("loss", "options", "note"),
    [
        ("kd", PLAIN, "answered each training image once"),
        ("dkd + kd-std", replace(PLAIN, imbalance="sampler"), "answered each training image once"),
        ("kd", replace(PLAIN, augment=("flip",)), "ran at every step (augmentation: flip)"),
        ("kd", replace(PLAIN, mixup=0.2), "ran at every step (augmentation: mixup)"),
        ("kd + at", PLAIN, "ran at every step (its features are compared)"),
    ],
    ids=["plain", "sampler", "flip", "mixup", "features"],
)
def test_teachers_are_asked_once_per_image_only_where_their_answers_stay(
    digits: Dataset, tmp_path: Path, teacher: StepResult, loss: str, options: Training, note: str
) -> None:
    module, asked = counted(teacher.model)
    made = trainer(digits, tmp_path, objective(digits, loss, module), options)
    asked.clear()  # looking for features asks about an example
    outcome = made.run()
    assert outcome.notes[0].endswith(note)
    once = len(digits.labels["train"])
    assert sum(asked) == (once if "once" in note else 2 * made.steps * made.batch)


def test_remembered_answers_are_the_teachers_and_outlive_an_interruption(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    options = replace(PLAIN, precision="fp32")
    module, asked = counted(teacher.model)
    taught = objective(digits, "kd", module)
    trainer(digits, tmp_path, taught, options).run()
    with torch.no_grad():
        wanted = module(digits.normalise(digits.images["train"][:100]))
    torch.testing.assert_close(taught.remembered[:100], wanted, rtol=1e-4, atol=1e-4)
    asked.clear()
    trainer(digits, tmp_path, objective(digits, "kd", module), options).run()
    assert asked == []
    other, asked = counted(teacher.model)
    torch.nn.init.zeros_(other.fc.weight)
    trainer(digits, tmp_path, objective(digits, "kd", other), options).run()
    assert sum(asked) == len(digits.labels["train"])  # another teacher's answers are never taken over
    (tmp_path / "teacher.safetensors").write_bytes(b"rubbish")
    asked.clear()
    trainer(digits, tmp_path, objective(digits, "kd", other), options).run()
    assert sum(asked) == len(digits.labels["train"])


@pytest.mark.parametrize(
    ("loss", "augment"), [("kd", ()), ("dkd + 0.5*at + hint", ("crop",))], ids=["once", "features"]
)
def test_a_listener_may_stop_a_distillation_that_then_ends_with_the_same_bits(
    digits: Dataset, tmp_path: Path, teacher: StepResult, loss: str, augment: tuple[str, ...]
) -> None:
    options = replace(PLAIN, epochs=3, augment=augment, ema=0.9)
    step = DistillStep(("t",), STUDENT, loss, training=options)
    told: list[Json] = []

    def listen(event: str, details: Json) -> None:
        if event == "epoch":
            told.append(details)

    def stop(event: str, details: Json) -> None:
        if event == "epoch" and details["epoch"] == 2:
            raise Stop

    fields = {"teachers": (teacher.model,)}
    whole = train.run_distill(step, context(digits, tmp_path / "whole", notify=listen, **fields))
    assert [row["epoch"] for row in told] == [1, 2, 3]
    assert told[1] == {
        "variant": "v", "epoch": 2, "epochs": 3, "val_accuracy": whole.history[1]["val_accuracy"],
        "val_loss": whole.history[1]["val_loss"],
    }  # fmt: skip
    with pytest.raises(Stop):
        train.run_distill(step, context(digits, tmp_path / "parts", notify=stop, **fields))
    resumed = train.run_distill(step, context(digits, tmp_path / "parts", notify=stop, **fields))
    assert same(whole.model, resumed.model)
    assert len(resumed.history) == 3
    assert resumed.notes == whole.notes


def test_an_ensemble_teaches_and_the_teacher_that_does_not_fit_is_named(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    second = train.run_train(
        TrainStep("edgefit:tiny", training=replace(PLAIN, epochs=4)), context(digits, tmp_path / "2", seed=1)
    ).model
    step = DistillStep(("large", "small"), STUDENT, alpha=1.0, training=replace(PLAIN, epochs=4))
    both = train.run_distill(step, context(digits, tmp_path / "both", teachers=(teacher.model, second)))
    assert max(row["val_accuracy"] for row in both.history) > 0.6
    alone = replace(step, teacher=("large",))
    one = train.run_distill(alone, context(digits, tmp_path / "one", teachers=(teacher.model,)))
    assert not same(both.model, one.model)
    module, spec = models.load(second)
    models.save(module, replace(spec, labels=tuple("abcdefghij")), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="teacher small does not fit the data"):
        train.run_distill(
            step, context(digits, tmp_path, teachers=(teacher.model, tmp_path / "other.safetensors"))
        )


def test_nets_without_features_of_the_same_size_are_told_to_use_logits(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    file = tmp_path / "flat.py"
    file.write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    step = DistillStep(("t",), f"py:{file}:make", "kd + hint", training=PLAIN)
    with pytest.raises(StepError, match=r"none \(only convolutional.*8 x 8, 4 x 4, 2 x 2 in the teacher.*kd"):
        train.run_distill(step, context(digits, tmp_path, teachers=(teacher.model,)))
    assert train.run_distill(replace(step, loss="kd"), context(digits, tmp_path, teachers=(teacher.model,)))


def test_a_penalty_is_part_of_the_loss_and_an_objective_works_without_a_trainer(
    digits: Dataset, teacher: StepResult
) -> None:
    module, student = models.load(teacher.model)[0], models.build("edgefit:tiny", 10, 1).eval()
    pixels, target = digits.normalise(digits.images["train"][:8]), digits.labels["train"][:8]
    plain = objective(digits, "kd", module)(student, pixels, target)
    heavier = objective(digits, "kd", module, penalty=lambda net: net.fc.bias.sum() * 0 + 3.0)
    torch.testing.assert_close(heavier(student, pixels, target), plain + 3.0)
    with pytest.raises(StepError, match="needs to know the student"):
        objective(digits, "at", module)(student, pixels, target)
    with pytest.raises(ModelError, match="needs a teacher"):
        objective(digits, "kd")


def test_the_weight_of_decoupled_distillation_grows_in_the_first_twelfth(
    digits: Dataset, teacher: StepResult
) -> None:
    module, student = models.load(teacher.model)[0], models.build("edgefit:tiny", 10, 1).eval()
    pixels, target = digits.normalise(digits.images["train"][:8]), digits.labels["train"][:8]
    taught = train.kd_objective("dkd", 4.0, 1.0, [module], train.label_loss(PLAIN, digits))
    with torch.no_grad():
        at = [float(taught(student, pixels, target, progress=p)) for p in (0.0, 1 / 24, 1 / 12, 1.0)]
    assert at[0] == 0
    assert at[1] == pytest.approx(at[3] / 2, rel=1e-5)
    assert at[2] == pytest.approx(at[3], rel=1e-5)


def test_a_student_larger_than_its_teacher_is_warned_of(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    said: list[str] = []

    def listen(event: str, details: Json) -> None:
        if event == "warning":
            said.append(details["text"])

    step = DistillStep(("t",), "edgefit:resnet14", training=replace(PLAIN, epochs=1))
    result = train.run_distill(step, context(digits, tmp_path, teachers=(teacher.model,), notify=listen))
    assert said == ["the student has more parameters than its teacher (174,970 and 77,754)"]
    assert said[0] in result.notes


def test_a_student_of_the_family_inherits_the_teachers_weights(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    still = replace(PLAIN, epochs=1, lr=1e-6, warmup_epochs=0)
    step = DistillStep(("t",), "edgefit:resnet8", training=still, inherit=True)
    result = train.run_distill(step, context(digits, tmp_path, teachers=(teacher.model,)))
    assert "started from the teacher's weights: 77,754 of 77,754" in result.notes
    assert teacher.best_epoch is not None
    before = teacher.history[teacher.best_epoch - 1]["val_accuracy"]
    assert result.history[0]["val_accuracy"] == pytest.approx(before, abs=0.03)


def test_what_has_another_shape_or_is_not_there_is_not_inherited() -> None:
    deep, shallow = (models.build(f"edgefit:{name}", 10, 1) for name in ("resnet20", "resnet8"))
    assert "77,754 of 77,754" in train.inherit(shallow, deep)
    theirs = deep.state_dict()
    assert all(torch.equal(mine, theirs[name]) for name, mine in shallow.state_dict().items())
    other = models.build("edgefit:resnet8", 7, 1)
    own = other.fc.weight.clone()
    assert "77,104 of 77,559" in train.inherit(other, deep)
    assert torch.equal(other.fc.weight, own)
    with pytest.raises(ConfigError, match="finds no weights of the teacher"):
        train.inherit(models.build("edgefit:tiny", 7, 1), deep)
    with pytest.raises(ConfigError, match="inherit gives a fresh student"):
        train.check_distill(DistillStep(("t",), inherit=True))


def test_training_without_a_model_goes_on_from_the_parent(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    step = TrainStep(training=replace(PLAIN, epochs=1, lr=1e-6, warmup_epochs=0))
    result = train.run_train(step, context(digits, tmp_path, parent=teacher.model))
    assert teacher.best_epoch is not None
    before = teacher.history[teacher.best_epoch - 1]["val_accuracy"]
    assert result.history[0]["val_accuracy"] == pytest.approx(before, abs=0.03)
    assert models.read_spec(result.model).arch == "edgefit:resnet8"
    with pytest.raises(ModelError, match="neither a model nor a parent"):
        train.run_train(step, context(digits, tmp_path))
    with pytest.raises(ConfigError, match="weights need a model"):
        train.run_train(
            replace(step, weights=str(teacher.model)), context(digits, tmp_path, parent=teacher.model)
        )


def dead(model: torch.nn.Module, pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """An objective that drives all logits to nothing, whatever the image."""
    return model(pixels).square().mean()


@pytest.mark.parametrize(("epochs", "frozen", "stopped"), [(12, 0, 3), (16, 0, 4), (16, 6, 10)])
def test_a_training_that_learns_nothing_is_stopped_after_a_quarter(
    digits: Dataset, tmp_path: Path, epochs: int, frozen: int, stopped: int
) -> None:
    options = Training(
        epochs=epochs,
        freeze_epochs=frozen,
        batch_size=512,
        augment=(),
        lr=1.0,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    made = trainer(digits, tmp_path, dead, options, "edgefit:tiny")
    torch.nn.init.zeros_(made.model.fc.weight)
    torch.nn.init.zeros_(made.model.fc.bias)
    with pytest.raises(StepError, match=rf"learned nothing.*same answer, after {stopped} of {epochs} epochs"):
        made.run()
    assert len(made.history) == stopped


def test_a_short_training_that_learns_nothing_ends_as_it_is(digits: Dataset, tmp_path: Path) -> None:
    made = trainer(digits, tmp_path, dead, replace(PLAIN, epochs=3), "edgefit:tiny")
    torch.nn.init.zeros_(made.model.fc.weight)
    torch.nn.init.zeros_(made.model.fc.bias)
    assert len(made.run().history) == 3


def test_after_a_second_divergence_the_best_weights_are_where_the_error_says(
    digits: Dataset, tmp_path: Path
) -> None:
    calls = {"n": 0}

    def breaking(model: torch.nn.Module, pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls["n"] += 1
        loss = torch.nn.functional.cross_entropy(model(pixels), target)
        return loss * (math.nan if calls["n"] > 2 * made.steps else 1.0)

    made = trainer(digits, tmp_path, breaking, replace(PLAIN, epochs=4))
    with pytest.raises(StepError, match=r"epoch 3; the weights of epoch 2, the best one, are in .*checkpoint\.pt") as told:  # fmt: skip
        made.run()
    assert str(tmp_path / "checkpoint.pt") in str(told.value)
    best = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["best"]
    assert best["epoch"] == 2
    module = models.build(STUDENT, 10, 1)
    module.load_state_dict(best["state"])
    assert loop.evaluate(module, digits, "validation", made.dtype)[1] == made.history[1]["val_accuracy"]
