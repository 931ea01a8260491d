"""Training and distillation for real, on the embedded digits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import ConfigError, ModelError, StepError
from bench.steps import DistillStep, Training, TrainStep
from bench.types import StepContext, StepResult
from distill import devices, loop, models, train
from distill.data import Dataset

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = Training(epochs=4, batch_size=128, augment=("crop",), ema=0.9)


class Stop(BaseException):
    """What a killed process looks like to the loop: nothing can run after it."""


def context(digits: Dataset, workdir: Path, **more: Any) -> StepContext:
    fields = {"seed": 0, "parent": None, "teachers": (), "notify": lambda *_: None, **more}
    workdir.mkdir(parents=True, exist_ok=True)
    return StepContext(variant="v", data=lambda: digits, workdir=workdir, **fields)


def weights(result: StepResult) -> dict[str, torch.Tensor]:
    return models.load(result.model)[0].state_dict()


def same(one: StepResult, two: StepResult) -> bool:
    a, b = weights(one), weights(two)
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def teacher(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> StepResult:
    options = Training(epochs=4, batch_size=64, augment=("crop",))
    return train.run_train(
        TrainStep("edgefit:resnet8", training=options), context(digits, tmp_path_factory.mktemp("t"))
    )


def test_a_short_training_learns_the_digits_and_keeps_its_best_epoch(
    teacher: StepResult, digits: Dataset
) -> None:
    assert [row["epoch"] for row in teacher.history] == [1, 2, 3, 4]
    wanted = {"epoch", "lr", "train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy"}
    assert wanted | {"seconds", "images_per_second"} == set(teacher.history[0])
    best = max(row["val_accuracy"] for row in teacher.history)
    assert best > 0.85
    assert teacher.best_epoch is not None
    assert teacher.history[teacher.best_epoch - 1]["val_accuracy"] == best
    module, spec = models.load(teacher.model)
    assert loop.evaluate(module, digits, "validation", None)[1] == pytest.approx(best)
    assert (teacher.params, spec.labels, spec.preprocess) == (77_754, digits.index.classes, digits.preprocess)


def test_few_images_are_seen_more_often_until_there_are_enough_steps(digits: Dataset, tmp_path: Path) -> None:
    short = Training(epochs=1, batch_size=512, augment=())  # 2 steps an epoch
    step = TrainStep("edgefit:tiny", training=replace(short, min_steps=5))
    result = train.run_train(step, context(digits, tmp_path / "more"))
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert (
        result.history[-1]["lr"] < 0.2 * result.history[0]["lr"]
    )  # the schedule ends where the training does
    enough = TrainStep("edgefit:tiny", training=replace(short, min_steps=2))
    assert len(train.run_train(enough, context(digits, tmp_path / "enough")).history) == 1


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_an_interrupted_training_ends_with_the_same_bits(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:  # fmt: skip
    step = TrainStep("edgefit:tiny", training=replace(QUICK, mixup=0.2, optimizer="adamw", lr=0.01))
    whole = train.run_train(step, context(digits, tmp_path / "whole"))
    epoch = loop.Trainer.epoch

    def stopping(self: loop.Trainer, number: int) -> Any:
        row = epoch(self, number)
        if number == stop_after:
            raise Stop
        return row

    monkeypatch.setattr(loop.Trainer, "epoch", stopping)
    with pytest.raises(Stop):
        train.run_train(step, context(digits, tmp_path / "parts"))
    monkeypatch.setattr(loop.Trainer, "epoch", epoch)
    torch.rand(3)  # another process starts with other global random numbers
    resumed = train.run_train(step, context(digits, tmp_path / "parts"))
    assert same(whole, resumed)
    assert len(resumed.history) == 4
    assert not (tmp_path / "parts" / "checkpoint.tmp").exists()


def test_the_seed_decides_and_the_global_random_numbers_are_left_alone(
    digits: Dataset, tmp_path: Path
) -> None:
    step = TrainStep("edgefit:tiny", training=replace(QUICK, epochs=2))
    state = torch.random.get_rng_state()
    one, two = (train.run_train(step, context(digits, tmp_path / name)) for name in "ab")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(one, two)
    assert not same(one, train.run_train(step, context(digits, tmp_path / "c", seed=1)))


@pytest.mark.parametrize("damage", [b"", b"rubbish", "half"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_over(
    digits: Dataset, tmp_path: Path, damage: Any
) -> None:
    step = TrainStep("edgefit:tiny", training=replace(QUICK, epochs=2))
    first = train.run_train(step, context(digits, tmp_path))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    said: list[str] = []
    again = train.run_train(
        step,
        context(
            digits, tmp_path, notify=lambda event, details: said.append(f"{event} {details.get('text')}")
        ),
    )
    assert same(first, again)
    assert (tmp_path / "checkpoint.pt.damaged").is_file()
    assert "damaged" in said[0]


def test_a_checkpoint_of_other_options_is_not_taken_over(digits: Dataset, tmp_path: Path) -> None:
    for lr in (0.1, 0.05):
        step = TrainStep("edgefit:tiny", training=replace(QUICK, epochs=2, lr=lr))
        shared = train.run_train(step, context(digits, tmp_path / "shared"))
    assert same(shared, train.run_train(step, context(digits, tmp_path / "own")))


def test_a_checkpoint_of_other_files_is_not_taken_over(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    """The same command, and another model under the same name."""
    step = TrainStep(training=replace(QUICK, epochs=2))

    def run(seed: int, work: str, stop: bool) -> StepResult | None:
        torch.manual_seed(seed)
        module, spec = models.build("edgefit:tiny", 10, 1), models.read_spec(teacher.model)
        models.save(module, replace(spec, arch="edgefit:tiny"), tmp_path / "parent.safetensors")

        def notify(event: str, info: dict[str, Any]) -> None:
            if stop and event == "epoch":
                raise KeyboardInterrupt

        ctx = replace(context(digits, tmp_path / work, parent=tmp_path / "parent.safetensors"), notify=notify)
        if not stop:
            return train.run_train(step, ctx)
        with pytest.raises(KeyboardInterrupt):
            train.run_train(step, ctx)
        return None

    run(1, "shared", stop=True)
    assert (tmp_path / "shared" / "checkpoint.pt").is_file()
    assert same(run(2, "shared", stop=False), run(2, "own", stop=False))


def test_a_checkpoint_of_other_code_is_not_taken_over(digits: Dataset, tmp_path: Path) -> None:
    """The same command after an edit that leaves every tensor its shape."""
    step = TrainStep(f"py:{tmp_path / 'net.py'}:make", training=replace(QUICK, epochs=2))
    code = """
from torch import nn

def make(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2), nn.{act}(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""

    def stop(event: str, info: dict[str, Any]) -> None:
        if event == "epoch":
            raise KeyboardInterrupt

    (tmp_path / "net.py").write_text(code.format(act="ReLU"))
    with pytest.raises(KeyboardInterrupt):
        train.run_train(step, replace(context(digits, tmp_path / "shared"), notify=stop))
    (tmp_path / "net.py").write_text(code.format(act="SiLU"))
    shared = train.run_train(step, context(digits, tmp_path / "shared"))
    assert same(shared, train.run_train(step, context(digits, tmp_path / "own")))


def failing_at(calls: set[int]) -> Callable[..., Any]:
    """An objective whose loss is not a number at some calls."""
    count = itertools.count()

    def objective(model: torch.nn.Module, pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(model(pixels), target)
        return loss * (math.nan if next(count) in calls else 1.0)

    return objective


def trainer(
    digits: Dataset, workdir: Path, objective: Callable[..., Any], options: Training = QUICK
) -> loop.Trainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = models.build("edgefit:tiny", 10, 1)
    return loop.Trainer(
        module, digits, options, seed=0, objective=objective, notify=lambda *_: None, variant="v",
        workdir=workdir, identity="x",
    )  # fmt: skip


def test_a_loss_that_is_not_finite_goes_back_once_with_half_the_rate(digits: Dataset, tmp_path: Path) -> None:
    outcome = trainer(digits, tmp_path, failing_at({12})).run()
    assert len(outcome.history) == 4
    assert "epoch 2" in outcome.notes[0]
    undisturbed = trainer(digits, tmp_path / "calm", failing_at(set())).run()
    assert outcome.history[0]["train_loss"] == undisturbed.history[0]["train_loss"]
    assert outcome.history[1]["lr"] == pytest.approx(undisturbed.history[1]["lr"] / 2)
    assert all(math.isfinite(row["val_loss"]) for row in outcome.history)
    with pytest.raises(StepError, match=r"diverged again.*Lower training\.lr"):
        trainer(digits, tmp_path / "twice", failing_at({3, 11})).run()


def test_weights_that_only_the_last_update_broke_are_noticed_too(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, seen = loop.answers, list[int]()

    def broken_once(module: Any, *rest: Any) -> Any:
        loss, found = judge(module, *rest)
        seen.append(0)
        return (math.nan if len(seen) == 2 else loss), found

    monkeypatch.setattr(loop, "answers", broken_once)
    outcome = trainer(digits, tmp_path, failing_at(set())).run()
    assert "not finite in epoch 2" in outcome.notes[0]
    assert len(outcome.history) == 4 and all(math.isfinite(row["val_loss"]) for row in outcome.history)
    assert outcome.history[1]["lr"] < 0.6 * outcome.history[0]["lr"]


@pytest.mark.parametrize(
    "change",
    [
        {"imbalance": "weighted"},
        {"imbalance": "focal", "label_smoothing": 0.1},
        {"imbalance": "sampler", "clip_norm": 1.0},
        {"freeze_epochs": 1, "augment": ("rotate", "color")},
        {"optimizer": "adamw", "lr": 3e-3, "schedule": "constant"},
        {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.01},
        {"cutmix": 1.0, "restarts": 2, "ema": 0.0},
        {"precision": "bf16", "momentum": 0.0},
    ],
    ids=str,
)
def test_every_option_trains(digits: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    result = train.run_train(
        TrainStep("edgefit:tiny", training=replace(QUICK, epochs=3, **change)), context(digits, tmp_path)
    )
    assert len(result.history) == 3
    assert all(math.isfinite(row["train_loss"]) for row in result.history)
    assert result.history[-1]["val_accuracy"] > 0.15  # chance is 0.1


def test_patience_stops_early(digits: Dataset, tmp_path: Path) -> None:
    options = replace(QUICK, epochs=30, patience=2, lr=1e-12, ema=0.0, weight_decay=0.0)
    result = train.run_train(TrainStep("edgefit:tiny", training=options), context(digits, tmp_path))
    assert result.best_epoch is not None
    assert len(result.history) == result.best_epoch + 2 < 30
    assert any(f"stopped after {len(result.history)} of 30 epochs" in note for note in result.notes)


def test_patience_begins_when_the_whole_model_trains(digits: Dataset, tmp_path: Path) -> None:
    """A head on a frozen backbone is as good as it gets after an epoch or two."""
    options = replace(QUICK, epochs=7, freeze_epochs=4, patience=2, lr=1e-12, ema=0.0, weight_decay=0.0)
    result = train.run_train(TrainStep("edgefit:tiny", training=options), context(digits, tmp_path))
    assert len(result.history) >= 6


def test_a_frozen_backbone_keeps_its_bits(digits: Dataset, tmp_path: Path, teacher: StepResult) -> None:
    source = weights(teacher)
    from safetensors.torch import save_file

    save_file({k: v for k, v in source.items() if not k.startswith("fc.")} | {"fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}, tmp_path / "w.safetensors")  # fmt: skip
    options = replace(QUICK, epochs=2, freeze_epochs=1, ema=0.0, patience=0)
    step = TrainStep("edgefit:resnet8", weights=str(tmp_path / "w.safetensors"), training=options)
    seen: list[bool] = []
    original = loop.Trainer.epoch

    def watching(self: loop.Trainer, number: int) -> Any:
        row = original(self, number)
        state = self.model.state_dict()
        seen.append(all(torch.equal(state[k], v) for k, v in source.items() if not k.startswith("fc.")))
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "epoch", watching)
        result = train.run_train(step, context(digits, tmp_path / "run"))
    assert seen == [True, False]
    assert "another size" in result.notes[0]
    assert result.history[0]["val_accuracy"] > 0.6  # features of a good net and a new head


def test_norms_and_biases_do_not_decay(digits: Dataset, tmp_path: Path) -> None:
    made = trainer(digits, tmp_path, failing_at(set()))
    decayed, kept = made.optimizer.param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in kept["params"]} == {1}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (QUICK.weight_decay, 0.0)


def test_the_schedule_warms_up_and_restarts() -> None:
    options = Training(epochs=10, lr=1.0, warmup_epochs=2, restarts=2)
    rates = [loop.learning_rate(step, 10, options) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[19] == rates[20] == rates[60] == 1.0
    assert rates[40] == pytest.approx(0.5)
    assert max(rates[58], rates[99]) < 0.01
    assert loop.learning_rate(99, 10, replace(options, schedule="constant")) == 1.0


def test_progress_says_how_far_it_is(digits: Dataset, tmp_path: Path) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    train.run_train(
        TrainStep("edgefit:tiny", training=QUICK),
        context(digits, tmp_path, notify=lambda event, details: said.append((event, details))),
    )
    event, last = said[-1]
    assert event == "train"
    assert set(last) == {
        "variant", "epoch", "epochs", "step", "steps", "images_per_second", "eta_seconds", "val_accuracy", "loss"
    }  # fmt: skip
    assert (last["epoch"], last["epochs"], last["step"], last["steps"]) == (4, 4, 8, 8)
    assert last["eta_seconds"] == 0


def test_the_test_images_are_never_touched(digits: Dataset, tmp_path: Path) -> None:
    blind = replace(
        digits,
        images={k: v for k, v in digits.images.items() if k in ("train", "validation")},
        labels={k: v for k, v in digits.labels.items() if k in ("train", "validation")},
    )
    assert train.run_train(TrainStep("edgefit:tiny", training=QUICK), context(blind, tmp_path)).best_epoch


def test_a_student_learns_from_its_teacher_alone(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    options = Training(epochs=6, batch_size=32, augment=("crop",))
    step = DistillStep(
        ("teacher",), "edgefit:tiny", alpha=1.0, training=options
    )  # alpha 1: labels are not used
    result = train.run_distill(step, context(digits, tmp_path, teachers=(teacher.model,)))
    assert max(row["val_accuracy"] for row in result.history) > 0.7
    assert result.notes == ("the teacher ran at every step (augmentation: crop)",)


def test_recovery_goes_on_from_the_parent(digits: Dataset, tmp_path: Path, teacher: StepResult) -> None:
    options = Training(epochs=1, lr=1e-6, warmup_epochs=0, augment=())
    step = DistillStep(("teacher",), "", training=options)
    result = train.run_distill(
        step, context(digits, tmp_path, teachers=(teacher.model,), parent=teacher.model)
    )
    assert teacher.best_epoch is not None
    before = teacher.history[teacher.best_epoch - 1]["val_accuracy"]
    assert result.history[0]["val_accuracy"] == pytest.approx(before, abs=0.03)
    assert models.read_spec(result.model).arch == "edgefit:resnet8"


def test_distillation_refuses_what_cannot_work(digits: Dataset, tmp_path: Path, teacher: StepResult) -> None:
    step = DistillStep(("teacher",), "edgefit:tiny", training=replace(QUICK, epochs=2))
    with pytest.raises(ModelError, match="no teacher"):
        train.run_distill(step, context(digits, tmp_path))
    with pytest.raises(ModelError, match="neither a model nor a parent"):
        train.run_distill(replace(step, model=""), context(digits, tmp_path, teachers=(teacher.model,)))
    module, spec = models.load(teacher.model)
    models.save(module, replace(spec, labels=tuple("abcdefghij")), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="teacher teacher does not fit the data"):
        train.run_distill(step, context(digits, tmp_path, teachers=(tmp_path / "other.safetensors",)))
    models.save(
        module, replace(spec, preprocess=replace(spec.preprocess, mean=(0.1,))), tmp_path / "pre.safetensors"
    )
    with pytest.raises(ModelError, match="takes other images"):
        train.run_distill(step, context(digits, tmp_path, teachers=(tmp_path / "pre.safetensors",)))
    models.save(module, replace(spec, held_out="others"), tmp_path / "seen.safetensors")
    with pytest.raises(ModelError, match="trained on images that are held out here"):
        train.run_distill(step, context(digits, tmp_path, teachers=(tmp_path / "seen.safetensors",)))


def test_weights_for_a_file_that_has_its_own_are_refused(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    step = TrainStep(str(teacher.model), "other.safetensors", replace(QUICK, epochs=1))
    with pytest.raises(ConfigError, match="has its own"):
        train.run_train(step, context(digits, tmp_path))


def test_a_student_larger_than_its_teacher_is_noted(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    small = train.run_train(
        TrainStep("edgefit:tiny", training=replace(QUICK, epochs=2)), context(digits, tmp_path / "s")
    )
    step = DistillStep(("teacher",), "", training=replace(QUICK, epochs=2, lr=0.01))
    result = train.run_distill(
        step, context(digits, tmp_path / "d", teachers=(small.model,), parent=teacher.model)
    )
    assert "more parameters than its teacher" in result.notes[0]


def test_a_finished_model_can_be_imported_without_training(
    digits: Dataset, tmp_path: Path, teacher: StepResult
) -> None:
    torch.save(weights(teacher), tmp_path / "w.pt")
    step = TrainStep("edgefit:resnet8", weights=str(tmp_path / "w.pt"), training=replace(QUICK, epochs=0))
    result = train.run_train(step, context(digits, tmp_path / "run"))
    assert same(result, teacher)
    assert (result.history, result.best_epoch) == ((), None)
    said, done = result.notes
    assert "set data.mean and data.std" in said and "imported without training" in done
    options = replace(digits.index.options, mean=digits.preprocess.mean, std=digits.preprocess.std)
    asked = replace(digits, index=replace(digits.index, options=options))
    again = train.run_train(step, context(asked, tmp_path / "asked"))
    assert len(again.notes) == 1 and models.read_spec(again.model).held_out == ""


def test_a_model_with_other_outputs_is_refused(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
    )
    with pytest.raises(ModelError, match="answers 7 classes, the data set has 10"):
        train.run_train(TrainStep(f"py:{file}:make", training=QUICK), context(digits, tmp_path))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"optimizer": "sdg"}, "Did you mean sgd"),
        ({"schedule": "cosin"}, "Did you mean cosine"),
        ({"precision": "bf61"}, "bf16"),
        ({"imbalance": "focall"}, "Did you mean focal"),
        ({"augment": ("crop", "flp")}, "Did you mean flip"),
        ({"batch_size": 0}, "batch_size must be between"),
        ({"momentum": 1.0}, "momentum"),
        ({"freeze_epochs": 4}, "freeze_epochs must leave"),
        ({"ema": 1.0}, "ema"),
    ],
    ids=str,
)
def test_impossible_options_are_named(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        train.check_training(replace(QUICK, **change))


def test_impossible_distillations_are_named() -> None:
    for change, match in (
        ({"loss": "kdd"}, "kd"),
        ({"temperature": 0.0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
    ):
        with pytest.raises(ConfigError, match=match):
            train.check_distill(replace(DistillStep(("t",), "m"), **change))  # type: ignore[arg-type]


def test_fp16_on_a_cpu_is_refused_and_auto_never_emulates() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        devices.resolve_precision("fp16", cpu)
    assert (devices.resolve_precision("auto", cpu) is torch.bfloat16) == devices.native_bf16()
    assert devices.resolve_precision("fp32", cpu) is None


def test_a_torch_that_cannot_say_what_the_cpu_has_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not devices.native_bf16()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert devices.resolve_precision("auto", torch.device("cpu")) is None


def test_weighted_training_keeps_the_epoch_that_knows_all_classes_best(
    digits: Dataset, tmp_path: Path
) -> None:
    options = Training(epochs=3, batch_size=64, imbalance="weighted", augment=())
    made = train.run_train(TrainStep("edgefit:tiny", training=options), context(digits, tmp_path))
    balanced = [row["val_balanced_accuracy"] for row in made.history]
    assert made.best_epoch is not None and balanced[made.best_epoch - 1] == max(balanced)


def test_narrow_nets_train_with_the_same_gradients_every_time(digits: Dataset, tmp_path: Path) -> None:
    """oneDNN's channels-last gradients of narrow strided 1x1 convolutions are wrong on some CPUs."""
    options = Training(epochs=1, batch_size=64, warmup_epochs=0.2)
    step = TrainStep("edgefit:resnet8x0.25", training=options)
    first, second = (train.run_train(step, context(digits, tmp_path / str(i))).model for i in range(2))
    assert first.read_bytes() == second.read_bytes()
