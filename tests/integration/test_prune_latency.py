"""Pruning to a latency: the search with a stand-in for the runtime, and once for real."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError, MissingError, StepError
from bench.measure import environment
from bench.steps import PruneStep, Training
from bench.types import ExportResult, Json, Preprocess, Quantity, StepContext, StepResult, Target
from compress.prune import run_prune
from compress.pruning import between, latency
from compress.pruning.budget import Job
from distill import models
from distill.data import Dataset
from tests.integration.conftest import DigitsAt
from tests.integration.test_prune import saved

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(digits_at: DigitsAt) -> Dataset:
    return digits_at(16)


@pytest.fixture(scope="module")
def parent(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("edgefit:resnet20", digits, tmp_path_factory.mktemp("parent"))


class StandIn:
    """A runtime whose latency is a function of a file's (MACs, convolutions); counts what it times."""

    def __init__(self, time: Callable[[int, int], float], width: float = 0.01) -> None:
        self.time, self.width, self.timed = time, width, []

    def of(self, path: Path) -> float:
        module, spec = models.load(path)
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in module.modules())
        return self.time(models.count(module, spec.preprocess)[0], convolutions)

    def ratio(self, base: ExportResult, head: ExportResult) -> Quantity:
        value = self.of(head.path) / self.of(base.path)
        self.timed.append(value)
        return Quantity(value, "ratio", value * (1 - self.width), value * (1 + self.width), 3, "measured")

    def target(self, runtime: str) -> Target:
        return Target(runtime, "safetensors", "", self.ratio)

    def foretold(self, net: Any, shape: tuple[int, int, int]) -> float:
        """A predictor that is right but for the unit."""
        channels, height, width = shape
        convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in net.modules())
        return 7.0 * self.time(
            models.count(net, Preprocess(height, width, channels, (), ()))[0], convolutions
        )


def prune(
    step: PruneStep, parent: Path, digits: Dataset, work: Path, target: Callable[[str], Target] | None
) -> tuple[StepResult, list[tuple[str, Json]]]:
    said: list[tuple[str, Json]] = []
    work.mkdir(parents=True, exist_ok=True)
    ctx = StepContext(
        "v", 0, lambda: digits, parent, (), work, lambda event, info: said.append((event, info)), target
    )
    return run_prune(step, ctx), said


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_the_target_is_met_closely_with_few_measurements(
    floor: float, parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    dense = models.count(models.load(parent)[0], digits.preprocess)[0]
    runtime = StandIn(lambda macs, _: floor * dense + (1 - floor) * macs)
    result, said = prune(PruneStep(latency=0.6, round_to=2), parent, digits, tmp_path, runtime.target)
    reached = runtime.of(result.model) / runtime.of(parent)
    assert 0.9 * 0.6 <= reached <= 0.6
    assert len(runtime.timed) == len(set(runtime.timed)) <= latency.TIMED
    assert any(f"latency {reached:.2f}x" in note and "target 0.60x" in note for note in result.notes)
    assert sum(note.startswith("timed: ") for note in result.notes) == len(runtime.timed)
    assert not any(event == "warning" for event, _ in said)
    assert not (tmp_path / "timed").exists()


def test_a_predictor_that_is_right_makes_the_first_width_the_last(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    dense = models.count(models.load(parent)[0], digits.preprocess)[0]
    alone, foretold = (StandIn(lambda macs, _: 0.3 * dense + 0.7 * macs) for _ in range(2))
    step = PruneStep(latency=0.6, round_to=1)
    prune(step, parent, digits, tmp_path / "alone", alone.target)
    found, _ = prune(
        step, parent, digits, tmp_path / "foretold",
        lambda name: replace(foretold.target(name), foretold=foretold.foretold),
    )  # fmt: skip
    assert latency.CLOSE * 0.6 <= foretold.timed[0] == foretold.of(found.model) / foretold.of(parent) <= 0.6
    assert len(foretold.timed) == 1 < len(alone.timed)


def test_the_last_stage_knows_that_its_net_is_narrower_than_the_parent(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    dense = models.count(models.load(parent)[0], digits.preprocess)[0]
    runtime = StandIn(lambda macs, _: 0.1 * dense + 0.9 * macs)
    prune(
        PruneStep(latency=0.5, round_to=1, steps=2), parent, digits, tmp_path,
        lambda name: replace(runtime.target(name), foretold=runtime.foretold),
    )  # fmt: skip
    assert len(runtime.timed) == 1 and latency.CLOSE * 0.5 <= runtime.timed[0] <= 0.5


def test_where_only_depth_counts_the_least_blocks_that_are_enough_go(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    runtime = StandIn(lambda _, convolutions: convolutions)  # 21 in the parent, 2 in each block that can go
    step = PruneStep(latency=0.7, round_to=8, blocks=True)
    result, _ = prune(step, parent, digits, tmp_path, runtime.target)
    spec = models.read_spec(result.model)
    assert len(spec.removed) == 4
    assert not spec.widths
    assert len(runtime.timed) <= latency.TIMED_WITH_BLOCKS
    assert any("blocks left out: " + ", ".join(spec.removed) in note for note in result.notes)
    module, _ = models.load(result.model)
    assert runtime.of(result.model) / runtime.of(parent) == pytest.approx(13 / 21)
    assert module(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_blocks_and_channels_go_together_where_neither_is_enough(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    dense = models.count(models.load(parent)[0], digits.preprocess)[0]
    runtime = StandIn(lambda macs, convolutions: 0.5 * macs / dense + 0.5 * convolutions / 21)
    step = PruneStep(latency=0.25, round_to=2, blocks=True)
    result, said = prune(step, parent, digits, tmp_path, runtime.target)
    spec = models.read_spec(result.model)
    assert runtime.of(result.model) / runtime.of(parent) <= 0.25
    assert len(spec.removed) >= 5
    assert spec.widths
    assert len(runtime.timed) <= latency.TIMED_WITH_BLOCKS
    assert not any(event == "warning" for event, _ in said)


def test_trials_choose_the_net_that_a_short_training_repairs_best(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    runtime = StandIn(lambda _, convolutions: convolutions)
    training = Training(batch_size=64, lr=0.02, epochs=1)
    step = PruneStep(latency=0.7, round_to=8, blocks=True, trial_steps=2, training=training)
    result, said = prune(step, parent, digits, tmp_path, runtime.target)
    tried = [note for note in result.notes if note.startswith("tried: ")]
    after = [float(re.search(r"([\d.]+) after 2 steps of training", note)[1]) for note in tried]
    # one from each order: by what is missed, and by the weights that go with a MAC (early blocks have few)
    removed = models.read_spec(result.model).removed
    orders = re.findall(r"from the [^:]+: ([^;)]+)", next(n for n in result.notes if "blocks left out" in n))
    assert len(orders) == 2
    assert len(after) == 2
    assert removed == tuple(orders[after.index(min(after))].split(", ")[: len(removed)])
    assert orders[1].startswith("stage1")
    assert {name for name, _ in said} == {"log", "pruned"}  # a trial's epochs are nobody's business
    assert {path.name for path in tmp_path.iterdir()} == {"pruned.safetensors", "search.json"}
    # what a trial trained is thrown away: the weights are the parent's
    theirs, ours = models.load(parent)[0].state_dict(), models.load(result.model)[0].state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours if n.endswith("main.0.weight"))


def test_an_interrupted_search_goes_on_from_what_it_measured_and_ends_the_same(
    parent: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(batch_size=64, lr=0.02, epochs=1)
    step = PruneStep(latency=0.7, round_to=8, blocks=True, trial_steps=2, training=training)

    def noisy() -> StandIn:
        """Timings that never come out the same: a search that repeated one would go another way."""
        runtime = StandIn(lambda _, convolutions: convolutions)
        exact = runtime.ratio
        draw = random.Random(len(runs))

        def ratio(base: ExportResult, head: ExportResult) -> Quantity:
            found = exact(base, head)
            return replace(found, value=(found.value or 1.0) * draw.uniform(0.98, 1.02))

        monkeypatch.setattr(runtime, "ratio", ratio)
        runs.append(runtime)
        return runtime

    trials = list[str]()
    trained, runs = between.train, list[StandIn]()

    def stopped(job: Job, module: Any, epochs: int, part: str, penalty: Any = None) -> list[Json]:
        trials.append(part)
        rows = trained(job, module, epochs, part, penalty)
        if len(trials) == 2:
            raise KeyboardInterrupt  # its checkpoint is there, its result is not
        return rows

    monkeypatch.setattr(between, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        prune(step, parent, digits, tmp_path / "a", noisy().target)
    before = json.loads((tmp_path / "a" / "search.json").read_text())["values"]
    result, _ = prune(step, parent, digits, tmp_path / "a", noisy().target)
    again = json.loads((tmp_path / "a" / "search.json").read_text())["values"]
    assert before.items() <= again.items() and len(before) >= 3
    timed = sum(isinstance(value, dict) for value in again.values())
    assert len(runs[0].timed) + len(runs[1].timed) == timed  # each structure once
    assert len(trials) == len(again) - timed + 1 and trials[1] == trials[2]
    assert models.read_spec(result.model).removed
    (tmp_path / "a" / "search.json").write_text("{")  # a file that does not read is no loss but of time
    prune(step, parent, digits, tmp_path / "a", noisy().target)


def test_blocks_that_an_earlier_stage_left_out_stay_out_in_the_last(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    runtime = StandIn(lambda _, convolutions: convolutions)
    step = PruneStep(latency=0.5, round_to=16, blocks=True, steps=2)
    result, said = prune(step, parent, digits, tmp_path, runtime.target)
    removed = models.read_spec(result.model).removed
    tables = [info["text"] for event, info in said if event == "log" and info["text"].startswith("timed: ")]
    last = [int(re.match(r"timed: (\d+) block", text)[1]) for text in tables]
    assert len(set(removed)) == len(removed) > min(last)  # the first stage left out some, the last the others
    assert runtime.of(result.model) / runtime.of(parent) <= 0.5


def test_the_closest_is_kept_and_said_when_the_target_cannot_be_met(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    dense = models.count(models.load(parent)[0], digits.preprocess)[0]
    runtime = StandIn(lambda macs, _: dense + macs)
    result, said = prune(PruneStep(latency=0.4, round_to=8), parent, digits, tmp_path, runtime.target)
    reached = runtime.of(result.model) / runtime.of(parent)
    assert reached == pytest.approx(min(runtime.timed))
    assert 0.5 < reached < 0.8
    text = next(info["text"] for event, info in said if event == "warning")
    assert f"cannot be met, the closest is kept: latency {reached:.2f}x" in text
    assert text in result.notes


def test_a_noisy_timing_that_leaves_the_answer_open_is_repeated(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    quiet, noisy = StandIn(lambda macs, _: macs), StandIn(lambda macs, _: macs, width=0.4)
    for runtime, work in ((quiet, "quiet"), (noisy, "noisy")):
        prune(PruneStep(latency=0.6, round_to=2), parent, digits, tmp_path / work, runtime.target)
    assert len(noisy.timed) > len(quiet.timed)


def broken(base: ExportResult, head: ExportResult) -> Quantity:
    raise OSError("the worker was killed")


def unmeasured(base: ExportResult, head: ExportResult) -> Quantity:
    return Quantity.missing("timed out")


@pytest.mark.parametrize(("ratio", "said"), [(broken, "worker was killed"), (unmeasured, "timed out")])
def test_a_measurement_that_fails_is_an_error_that_says_why(
    ratio: Callable[[ExportResult, ExportResult], Quantity],
    said: str,
    parent: Path,
    digits: Dataset,
    tmp_path: Path,
) -> None:
    def target(runtime: str) -> Target:
        return Target(runtime, "safetensors", "", ratio)

    with pytest.raises(StepError, match=f"could not be timed on onnxruntime.*{said}"):
        prune(PruneStep(latency=0.6), parent, digits, tmp_path, target)
    assert not (tmp_path / "timed").exists()


def test_a_runtime_that_is_not_here_or_not_lent_is_said(
    parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    def absent(runtime: str) -> Target:
        raise MissingError(f"{runtime} is not here", todo="Install it")

    with pytest.raises(MissingError, match="litert is not here"):
        prune(PruneStep(latency=0.6, runtime="litert"), parent, digits, tmp_path, absent)
    with pytest.raises(ConfigError, match="needs a runtime to time on"):
        prune(PruneStep(latency=0.6), parent, digits, tmp_path, None)


@pytest.mark.parametrize(
    ("share", "said"), [(1.0, "no win on onnxruntime"), (0.8, "onnxruntime gains from the zeros")]
)
def test_sparsity_gives_an_honest_verdict(
    share: float, said: str, parent: Path, digits: Dataset, tmp_path: Path
) -> None:
    def ratio(base: ExportResult, head: ExportResult) -> Quantity:
        assert models.read_spec(head.path).widths == models.read_spec(base.path).widths
        return Quantity(share, "ratio", share - 0.01, share + 0.01, 3, "measured")

    step = PruneStep(sparsity="2:4")
    result, _ = prune(
        step, parent, digits, tmp_path, lambda runtime: Target(runtime, "safetensors", "", ratio)
    )
    assert any(said in note for note in result.notes)
    assert any("when zipped" in note for note in result.notes)
    assert models.read_spec(result.model).sparsity == "2:4"


def test_pruning_is_timed_on_the_real_runtime(
    parent: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One candidate on ONNX Runtime: half of the blocks of a ResNet-20 cannot take as long as all."""
    pytest.importorskip("onnxruntime")
    from bench.targets import open_target

    monkeypatch.setattr(latency, "TIMED_WITH_BLOCKS", 1)
    step = PruneStep(latency=0.8, round_to=16, blocks=True)
    result, _ = prune(
        step, parent, digits, tmp_path, lambda name: open_target(name, environment.describe(), pairs=2)
    )
    assert models.read_spec(result.model).removed
    assert any(note.startswith("timed: ") and "n=2" in note for note in result.notes)
