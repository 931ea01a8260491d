"""Pruning to a MACs budget: on our nets, on shapes that make dependency graphs hard, and how it fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import ConfigError, StepError
from bench.steps import PruneStep
from bench.types import StepContext, StepResult
from compress.prune import run_prune
from compress.pruning import channels, costs
from compress.pruning.judge import Judge
from distill import models
from distill.data import Dataset
from tests.integration.conftest import DigitsAt

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(digits_at: DigitsAt) -> Dataset:
    return digits_at(16)


def saved(arch: str, digits: Dataset, folder: Path) -> Path:
    """A model file with random weights and batch-norm statistics that were seen."""
    torch.manual_seed(0)
    module = models.build(arch, 10, 1)
    with torch.no_grad():
        module.train()(digits.calibration(64))
    path = folder / "parent.safetensors"
    models.save(module, models.ModelSpec(arch, 10, 1, tuple("0123456789"), digits.preprocess), path)
    return path


def prune(step: PruneStep, parent: Path, digits: Dataset, work: Path, seed: int = 0) -> StepResult:
    work.mkdir(parents=True, exist_ok=True)
    return run_prune(step, StepContext("v", seed, lambda: digits, parent, (), work, lambda *_: None))


def trained(digits: Dataset, folder: Path) -> Path:
    """A tiny net that is right on most digits."""
    torch.manual_seed(0)
    module = models.build("edgefit:tiny", 10, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.05, 0.9)
    images, labels = digits.normalise(digits.images["train"]), digits.labels["train"]
    for _ in range(6):
        for rows in torch.randperm(len(images)).split(64):
            loss = torch.nn.functional.cross_entropy(module(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = folder / "trained.safetensors"
    spec = models.ModelSpec("edgefit:tiny", 10, 1, tuple("0123456789"), digits.preprocess)
    models.save(module, spec, path)
    return path


@pytest.mark.parametrize(
    ("arch", "step"),
    [
        ("edgefit:resnet8", PruneStep(0.5)),
        ("edgefit:resnet20", PruneStep(0.3, importance="l2", scope="local")),
        ("edgefit:resnet8", PruneStep(0.7, importance="bn", round_to=4)),
        ("edgefit:resnet8", PruneStep(0.4, importance="random", round_to=1)),
        ("edgefit:mobilenet_v3_small", PruneStep(0.5)),
    ],
)
def test_the_budget_is_met_closely_and_the_file_gives_the_model_back(
    arch: str, step: PruneStep, digits: Dataset, tmp_path: Path
) -> None:
    parent = saved(arch, digits, tmp_path)
    dense, spec = models.load(parent)
    before = models.count(dense, spec.preprocess)
    result = prune(step, parent, digits, tmp_path / "work")
    module, after = models.load(result.model)
    assert (result.macs, result.params) == models.count(module, after.preprocess)
    assert 0.9 * step.macs <= result.macs / before[0] <= step.macs
    assert result.params < before[1]
    assert (after.arch, after.labels, after.preprocess) == (arch, spec.labels, spec.preprocess)
    assert module(torch.zeros(3, 1, 16, 16)).shape == (3, 10)
    multiple, own = step.round_to or 8, models.layer_widths(dense)
    for name, (_, outputs, _) in after.widths.items():
        assert outputs == own[name][1] or outputs % multiple == 0, name
        assert outputs >= own[name][1] / 8, name
    assert any(f"target {step.macs:.3f}, reached {result.macs / before[0]:.3f}" in n for n in result.notes)


def test_the_same_seed_prunes_the_same_channels(digits: Dataset, tmp_path: Path) -> None:
    parent = saved("edgefit:tiny", digits, tmp_path)
    step = PruneStep(0.5, importance="random", round_to=1)
    files = [
        prune(step, parent, digits, tmp_path / str(i), seed).model.read_bytes()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_pruned_net_can_be_pruned_again(digits: Dataset, tmp_path: Path) -> None:
    parent = saved("edgefit:resnet8", digits, tmp_path)
    once = prune(PruneStep(0.6, round_to=4), parent, digits, tmp_path / "a")
    twice = prune(PruneStep(0.6, round_to=4), once.model, digits, tmp_path / "b")
    assert 0.5 * once.macs <= twice.macs <= 0.6 * once.macs
    assert models.load(twice.model)[1].arch == "edgefit:resnet8"


def test_what_matters_is_kept(digits: Dataset, tmp_path: Path) -> None:
    """By weight a trained net keeps more of its accuracy than by chance, and the notes give the figure."""
    parent = trained(digits, tmp_path)

    def accuracy(importance: str, seed: int) -> float:
        result = prune(
            PruneStep(0.7, importance=importance, round_to=2), parent, digits, tmp_path / importance, seed
        )
        module = models.load(result.model)[0]
        with torch.no_grad():
            right = module(digits.normalise(digits.images["validation"])).argmax(1)
        share = float((right == digits.labels["validation"]).float().mean())
        assert any(f"right after pruning {share:.4f}" in note for note in result.notes)
        return share

    by_chance = sorted(accuracy("random", seed) for seed in range(5))[2]
    assert accuracy("l2", 0) > by_chance


def test_batch_norms_see_all_classes_in_every_batch(digits: Dataset) -> None:
    """Images of a folder come sorted by class; the variance within one class is smaller than that of all."""
    order = digits.labels["calibration"].argsort(stable=True)
    images = {**digits.images, "calibration": digits.images["calibration"][order]}
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 16), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8, 10)
    )
    judge = Judge(module, replace(digits, images=images))
    judge.recalibrate(module)
    found, whole = module[1].running_var, module[0](judge.images).var((0, 2, 3))
    assert float((found / whole).detach().mean()) == pytest.approx(1.0, abs=0.03)


def test_every_image_counts_the_same_in_batch_norms(digits: Dataset) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 16), torch.nn.BatchNorm2d(8))
    judge = Judge(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10)), digits)
    judge.images = judge.images[:130]  # not 64, 64 and 2
    judge.recalibrate(module)
    with torch.no_grad():
        wanted = module[0](judge.images).mean((0, 2, 3))
    assert torch.allclose(module[1].running_mean, wanted, atol=0.02 * float(wanted.abs().max()))


def test_what_an_importance_cannot_score_is_named() -> None:
    nn = torch.nn
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    example = torch.zeros(2, 1, 16, 16)
    groups, left = channels.find_groups(module, example, "bn", 10)
    assert (len(groups), left) == (1, ("3",))
    assert len(channels.find_groups(module, example, "l1", 10)[0]) == 2


def test_batch_norm_is_measured_again_and_nothing_is_left_in_training(
    digits: Dataset, tmp_path: Path
) -> None:
    result = prune(PruneStep(0.5), saved("edgefit:resnet8", digits, tmp_path), digits, tmp_path / "w")
    module = models.load(result.model)[0]
    stem = module.get_submodule("stem.1")
    with torch.no_grad():
        seen = module.get_submodule("stem.0")(digits.calibration(256))
    assert torch.allclose(stem.running_mean, seen.mean((0, 2, 3)), atol=0.05)
    assert stem.momentum == 0.1


# --- hard shapes --------------------------------------------------------------------------

HARD = '''
import torch
from torch import nn

class Concat(nn.Module):
    """Two branches of different widths, joined; a grouped and a depthwise convolution; flattened pixels."""
    def __init__(self, classes):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, stride=4), nn.BatchNorm2d(12), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(1, 20, 1, stride=4), nn.BatchNorm2d(20), nn.ReLU())
        self.join = nn.Conv2d(32, 24, 1)
        self.grouped = nn.Conv2d(24, 48, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.fc = nn.Linear(48 * 16, classes)

    def forward(self, x):
        x = self.join(torch.cat([self.a(x), self.b(x)], 1)).relu()
        return self.fc(self.depthwise(self.grouped(x).relu()).flatten(1))

class Fixed(nn.Module):
    """Its forward spells a width out, so that no narrower net can run."""
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)).view(-1, 16))

class Tail(nn.Module):
    """Ends in something that is no classifier."""
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(256, classes)
        self.mix = nn.Conv1d(1, 1, 3, padding=1)
        self.last = nn.Linear(classes, 2 * classes)

    def forward(self, x):
        x = self.head(x.flatten(1))
        return self.last(x)[:, ::2]

def concat(num_classes): return Concat(num_classes)
def fixed(num_classes): return Fixed(num_classes)
def tail(num_classes): return Tail(num_classes)
'''


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hard") / "hard.py"
    path.write_text(HARD)
    return path


@pytest.mark.parametrize("scope", ["global", "local"])
def test_branches_groups_and_flattened_pixels_are_followed(
    scope: str, hard: Path, digits: Dataset, tmp_path: Path
) -> None:
    parent = saved(f"py:{hard}:concat", digits, tmp_path)
    result = prune(PruneStep(0.5, scope=scope, round_to=4), parent, digits, tmp_path / "w")
    dense, spec = models.load(parent)
    module, _ = models.load(result.model)
    assert 0.8 * 0.5 <= result.macs / models.count(dense, spec.preprocess)[0] <= 0.5
    assert module.join.in_channels == module.a[0].out_channels + module.b[0].out_channels
    assert module.grouped.groups == 4
    assert module.depthwise.groups == module.depthwise.out_channels == module.grouped.out_channels
    assert module.fc.in_features == 16 * module.depthwise.out_channels


@pytest.mark.parametrize("arch", ["edgefit:resnet8", "edgefit:mobilenet_v3_small", "concat"])
def test_the_cost_model_counts_what_pytorch_counts(
    arch: str, hard: Path, digits: Dataset, tmp_path: Path
) -> None:
    arch = arch if ":" in arch else f"py:{hard}:{arch}"
    module, spec = models.load(saved(arch, digits, tmp_path))
    total = models.count(module, spec.preprocess)
    example = torch.zeros(2, 1, 16, 16)
    groups, _ = channels.find_groups(module, example, "l1", 10)
    cost = costs.find_costs(module, example[:1], *total)
    kept = [max(1, group.units * (3 + i % 4) // 7) for i, group in enumerate(groups)]
    promised = cost.after(groups, kept)
    assert models.count(channels.cut(module, example, groups, kept), spec.preprocess) == promised


def test_a_target_out_of_reach_says_how_close_one_can_get(digits: Dataset, tmp_path: Path) -> None:
    parent = saved("edgefit:tiny", digits, tmp_path)
    with pytest.raises(StepError, match=r"target of 0\.050.*0\.\d+ at best"):
        prune(PruneStep(0.05), parent, digits, tmp_path / "w")
    assert not list((tmp_path / "w").iterdir())


def test_a_net_that_cannot_be_narrower_names_the_module(hard: Path, digits: Dataset, tmp_path: Path) -> None:
    parent = saved(f"py:{hard}:fixed", digits, tmp_path)
    with pytest.raises(StepError, match="does not run at the module fc"):
        prune(PruneStep(0.5), parent, digits, tmp_path / "w")


def test_a_net_without_a_classifier_at_its_end_is_refused(
    hard: Path, digits: Dataset, tmp_path: Path
) -> None:
    parent = saved(f"py:{hard}:tail", digits, tmp_path)
    with pytest.raises(StepError, match="classifier was not found"):
        prune(PruneStep(0.5), parent, digits, tmp_path / "w")


def test_pruning_needs_a_parent(digits: Dataset, tmp_path: Path) -> None:
    ctx = StepContext("v", 0, lambda: digits, None, (), tmp_path, lambda *_: None)
    with pytest.raises(ConfigError, match="parent"):
        run_prune(PruneStep(), ctx)


def test_a_net_of_timm(digits: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    parent = saved("timm:resnet18", digits, tmp_path)
    dense, spec = models.load(parent)
    result = prune(PruneStep(0.5), parent, digits, tmp_path / "w")
    assert 0.45 <= result.macs / models.count(dense, spec.preprocess)[0] <= 0.5
