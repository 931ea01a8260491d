"""Pruning of many kinds of nets: files give them back, attention loses heads, blocks go, zeros stay."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StepError
from bench.steps import DistillStep, PruneStep, Training
from bench.types import StepContext, StepResult
from compress.prune import run_prune
from compress.pruning import blocks, channels, importance
from compress.pruning.judge import Judge
from distill import models
from distill.data import Dataset
from tests.integration.conftest import DigitsAt
from tests.integration.test_prune import saved, trained

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = Training(batch_size=64, lr=0.02)


@pytest.fixture(scope="module")
def digits(digits_at: DigitsAt) -> Dataset:
    return digits_at(32)


@pytest.fixture(scope="module")
def learned(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(digits, tmp_path_factory.mktemp("learned"))


def prune(step: PruneStep, parent: Path, digits: Dataset, work: Path, seed: int = 0) -> StepResult:
    work.mkdir(parents=True, exist_ok=True)
    return run_prune(step, StepContext("v", seed, lambda: digits, parent, (), work, lambda *_: None))


def noted(result: StepResult, text: str) -> bool:
    return any(text in note for note in result.notes)


# --- architectures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "step"),
    [
        ("timm:mobilenetv3_small_050", PruneStep(0.5, scope="isomorphic", round_to=4)),
        ("timm:regnety_002", PruneStep(params=0.5, importance="lamp")),
        ("timm:test_efficientnet", PruneStep(0.4, importance="taylor", round_to=4)),
        ("timm:test_convnext", PruneStep(size=0.6, importance="fpgm", round_to=1)),
        ("timm:test_byobnet", PruneStep(0.5, importance="hessian", scope="local", round_to=1)),
        ("torchvision:squeezenet1_1", PruneStep(0.5, round_to=16)),
    ],
)
def test_nets_of_many_kinds_meet_their_target(
    arch: str, step: PruneStep, digits: Dataset, tmp_path: Path
) -> None:
    """Depthwise and grouped convolutions, squeeze-and-excitation, layer norms and scales, concatenations."""
    parent = saved(arch, digits, tmp_path)
    dense, spec = models.load(parent)
    before = models.count(dense, spec.preprocess)
    result = prune(step, parent, digits, tmp_path / "w")
    module, after = models.load(result.model)
    assert (result.macs, result.params) == models.count(module, after.preprocess)
    share = result.macs / before[0] if step.macs else result.params / before[1]
    wanted = step.macs or step.params or step.size
    assert 0.85 * wanted <= share <= wanted
    assert noted(result, f"target {wanted:.3f}, reached {share:.3f}")
    assert noted(result, "4 bytes a parameter") is bool(step.size)


DENSE = '''
import torch
from torch import nn

class Dense(nn.Module):
    """Two layers of a dense block: each sees all that came before it; then attention of PyTorch's own."""
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, stride=4)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 16, 3, padding=1)) for n in (16, 32)
        )
        self.fc = nn.Linear(48, classes)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.fc(x.mean((2, 3)))

class Encoder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 8, stride=8)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        return self.fc(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

def dense(num_classes): return Dense(num_classes)
def encoder(num_classes): return Encoder(num_classes)
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.py"
    path.write_text(DENSE)
    return f"py:{path}"


def test_what_is_concatenated_stays_in_step(own: str, digits: Dataset, tmp_path: Path) -> None:
    parent = saved(f"{own}:dense", digits, tmp_path)
    module, _ = models.load(prune(PruneStep(0.5, round_to=4), parent, digits, tmp_path / "w").model)
    stem, (first, second) = module.stem.out_channels, module.layers
    assert first[2].in_channels == first[0].num_features == stem
    assert second[2].in_channels == second[0].num_features == stem + first[2].out_channels
    assert module.fc.in_features == stem + first[2].out_channels + second[2].out_channels
    assert module.fc.in_features < 48


def test_what_attention_fixes_is_left_whole_and_named(own: str, digits: Dataset, tmp_path: Path) -> None:
    parent = saved(f"{own}:encoder", digits, tmp_path)
    result = prune(PruneStep(params=0.8, round_to=8), parent, digits, tmp_path / "w")
    module, _ = models.load(result.model)
    assert module.patches.out_channels == module.layer.self_attn.embed_dim == 32
    assert module.layer.linear1.out_features < 64
    assert noted(result, "left whole")


# --- attention heads ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(digits_at: DigitsAt, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    large = digits_at(160)
    return saved("timm:test_vit", large, tmp_path_factory.mktemp("vit")), large


def test_heads_and_widths_of_a_vision_transformer_come_back(
    vit: tuple[Path, Dataset], tmp_path: Path
) -> None:
    parent, large = vit
    result = prune(PruneStep(0.5, scope="local", round_to=8), parent, large, tmp_path / "w")
    module, spec = models.load(result.model)
    dense, _ = models.load(parent)
    assert 0.35 <= result.macs / models.count(dense, spec.preprocess)[0] <= 0.5
    attention = module.blocks[0].attn
    assert attention.num_heads < dense.blocks[0].attn.num_heads
    assert attention.qkv.out_features == 3 * attention.num_heads * attention.head_dim
    assert module.pos_embed.shape[2] == module.cls_token.shape[2] == attention.qkv.in_features
    with torch.no_grad():
        assert module(torch.zeros(1, 1, 160, 160)).isfinite().all()


def test_without_a_head_the_net_answers_as_if_it_said_nothing(vit: tuple[Path, Dataset]) -> None:
    dense, _ = models.load(vit[0])
    example = torch.rand(2, 1, 160, 160, generator=torch.Generator().manual_seed(1))
    groups, _ = channels.find_groups(dense, example, "l2", 10)
    heads = [group for group in groups if group.remove is None]
    assert [group.units for group in heads] == [dense.blocks[0].attn.num_heads] * len(dense.blocks)
    kept = [1 if group is heads[0] else group.units for group in groups]
    smaller = channels.cut(dense, example, groups, kept)
    silent = copy.deepcopy(dense)
    attention = silent.blocks[0].attn
    for head in heads[0].scores.argsort()[:-1].tolist():
        first = head * attention.head_dim
        attention.proj.weight.data[:, first : first + attention.head_dim] = 0
    with torch.no_grad():
        assert torch.allclose(smaller(example), silent(example), atol=1e-5)
        assert not torch.allclose(smaller(example), dense(example), atol=1e-3)


# --- scores -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "taylor", "hessian", "bn"])
def test_a_channel_that_does_nothing_goes_first(name: str, digits: Dataset, tmp_path: Path) -> None:
    module, _ = models.load(saved("edgefit:tiny", digits, tmp_path))
    first, norm, second = module.features[0], module.features[1], module.features[3]
    with torch.no_grad():
        first.weight[5] = 0
        norm.weight[5] = 0
        second.weight[:, 5] = 0
    groups, _ = channels.find_groups(module, torch.zeros(2, 1, 32, 32), name, 10, digits)
    scores = next(group.scores for group in groups if group.root is first)
    assert scores.argmin() == 5
    assert scores.isfinite().all()


def test_fpgm_takes_the_filter_that_others_can_replace(digits: Dataset, tmp_path: Path) -> None:
    module, _ = models.load(saved("edgefit:tiny", digits, tmp_path))
    last = module.features[6]
    with torch.no_grad():
        last.weight[3] = last.weight.abs().mean(0)
        module.fc.weight[:, 3] = module.fc.weight.abs().mean(1)
    groups, _ = channels.find_groups(module, torch.zeros(2, 1, 32, 32), "fpgm", 10)
    assert next(group.scores for group in groups if group.root is last).argmin() == 3


def test_gradients_are_those_of_the_calibration_images(digits: Dataset, tmp_path: Path) -> None:
    """The mean gradient, and the mean of each image's squares; twice the same, and only where wanted."""
    module, _ = models.load(saved("edgefit:tiny", digits, tmp_path))
    importance.accumulate("l1", module, digits)
    assert all(p.grad is None for p in module.parameters())
    weight = module.fc.weight
    found = {}
    for name in ("taylor", "hessian"):
        importance.accumulate(name, module, digits)
        found[name] = weight.grad.clone()
        importance.accumulate(name, module, digits)
        assert torch.equal(found[name], weight.grad)
    images, labels = digits.images["calibration"], digits.labels["calibration"]
    with torch.no_grad():
        features = module[:-1](digits.normalise(images))
        errors = module.fc(features).softmax(1) - torch.nn.functional.one_hot(labels, 10)
    each = torch.einsum("nc,nf->ncf", errors, features)  # the gradient of cross-entropy, image by image
    assert torch.allclose(found["taylor"], each.mean(0), atol=1e-5)
    rows = torch.linspace(0, len(labels) - 1, min(128, len(labels))).round().long()
    assert torch.allclose(found["hessian"], each[rows].square().mean(0), atol=1e-4)


# --- blocks -------------------------------------------------------------------------------


def test_blocks_that_can_go_are_found_where_input_and_output_meet(digits: Dataset, tmp_path: Path) -> None:
    example = torch.zeros(2, 1, 32, 32)
    resnet = models.build("edgefit:resnet14", 10, 1)
    assert blocks.removable(resnet, example) == ["stage1.0", "stage1.1", "stage2.1", "stage3.1"]
    mobile = models.build("timm:mobilenetv3_small_050", 10, 1)
    assert "blocks.4.2" in blocks.removable(mobile, example)
    assert not any(name.endswith(".se") for name in blocks.removable(mobile, example))
    assert blocks.removable(models.build("edgefit:tiny", 10, 1), example) == []


def test_the_block_that_does_nothing_goes_first(digits: Dataset, tmp_path: Path) -> None:
    module, _ = models.load(saved("edgefit:resnet14", digits, tmp_path))
    with torch.no_grad():
        module.stage2[1].main[4].weight.zero_()
        module.stage2[1].main[4].bias.zero_()
    names = blocks.removable(module, torch.zeros(2, 1, 32, 32))
    judge = Judge(module, digits)
    assert blocks.order(module, names, judge)[0] == "stage2.1"
    assert judge.damage(blocks.without(module, ["stage2.1"])) == pytest.approx(0, abs=1e-5)
    assert judge.damage(module) == pytest.approx(0, abs=1e-6)


def test_blocks_go_for_a_budget_of_macs_where_that_does_less_damage(digits: Dataset, tmp_path: Path) -> None:
    module, spec = models.load(saved("edgefit:resnet14", digits, tmp_path))
    with torch.no_grad():
        for block in (module.stage1[1], module.stage2[1], module.stage3[1]):
            block.main[4].weight.zero_()
            block.main[4].bias.zero_()
    Judge(module, digits).recalibrate(module)
    models.save(module, spec, tmp_path / "idle.safetensors")
    step = PruneStep(0.6, round_to=4, blocks=True)
    first = prune(step, tmp_path / "idle.safetensors", digits, tmp_path / "w")
    removed = models.read_spec(first.model).removed
    assert set(removed) >= {"stage1.1", "stage2.1", "stage3.1"}
    again = prune(PruneStep(0.8, round_to=4, blocks=True), first.model, digits, tmp_path / "w2")
    assert models.read_spec(again.model).removed[: len(removed)] == removed
    assert again.macs <= 0.8 * first.macs


def test_with_trials_fewer_blocks_are_tried_as_long_as_a_short_training_prefers_them(
    digits: Dataset, tmp_path: Path
) -> None:
    parent = saved("edgefit:resnet14", digits, tmp_path)
    dense, spec = models.load(parent)
    step = PruneStep(0.6, round_to=4, blocks=True, trial_steps=2, training=TRAINING)
    result = prune(step, parent, digits, tmp_path / "w")
    tried = [re.search(r"tried: (\d) block.* ([\d.]+) after 2 steps", note) for note in result.notes]
    found = [(int(match[1]), float(match[2])) for match in tried if match]
    assert len(found) >= 2
    assert len(models.read_spec(result.model).removed) == min(found, key=lambda one: one[1])[0]
    assert result.macs <= 0.6 * models.count(dense, spec.preprocess)[0]


def test_a_net_without_blocks_to_leave_out_loses_channels_and_says_so(
    digits: Dataset, tmp_path: Path
) -> None:
    parent = saved("edgefit:tiny", digits, tmp_path)
    result = prune(PruneStep(0.5, round_to=2, blocks=True), parent, digits, tmp_path / "w")
    assert noted(result, "no residual block of this net can be left out")
    assert models.read_spec(result.model).removed == ()


# --- stages, group sparsity, zeros --------------------------------------------------------


def test_stages_train_between_and_end_at_the_target(learned: Path, digits: Dataset, tmp_path: Path) -> None:
    parent = learned
    dense, spec = models.load(parent)
    step = PruneStep(0.4, round_to=2, steps=2, step_epochs=1, training=TRAINING)
    result = prune(step, parent, digits, tmp_path / "w")
    share = result.macs / models.count(dense, spec.preprocess)[0]
    assert 0.35 <= share <= 0.4
    assert [row["epoch"] for row in result.history] == [1]
    assert noted(result, "stage 1 of 2")
    again = prune(step, parent, digits, tmp_path / "w2")
    assert again.model.read_bytes() == result.model.read_bytes()


def test_group_sparse_training_makes_small_channels_smaller(
    learned: Path, digits: Dataset, tmp_path: Path
) -> None:
    from compress.pruning.between import group_penalty

    module, _ = models.load(learned)
    groups, _ = channels.find_groups(module, torch.zeros(2, 1, 32, 32), "l2", 10)
    penalty = group_penalty(groups)
    first = next(group for group in groups if group.root is module.features[0])
    weakest, strongest = int(first.scores.argmin()), int(first.scores.argmax())
    value = penalty(module)
    value.backward()
    pull = module.features[0].weight.grad.abs() / module.features[0].weight.detach().abs()
    assert pull[weakest].mean() == pytest.approx(16 * float(pull[strongest].mean()), rel=1e-3)
    assert value > 0
    step = PruneStep(0.5, round_to=2, sparse_epochs=1, training=TRAINING)
    result = prune(step, learned, digits, tmp_path / "w")
    assert [row["epoch"] for row in result.history] == [1]
    assert noted(result, "group-sparse training, epochs 1: validation accuracy 0.")


def test_zeros_survive_the_file_and_a_distillation(learned: Path, digits: Dataset, tmp_path: Path) -> None:
    from distill.train import run_distill

    parent = learned
    step = PruneStep(sparsity="unstructured", amount=0.6, steps=2, step_epochs=1, training=TRAINING)
    result = prune(step, parent, digits, tmp_path / "w")
    module, spec = models.load(result.model)
    assert spec.sparsity == "unstructured"
    zeros = {n: p == 0 for n, p in module.named_parameters() if p.ndim > 1}
    share = sum(int(z.sum()) for z in zeros.values()) / sum(z.numel() for z in zeros.values())
    assert share == pytest.approx(0.6, abs=0.01)
    assert noted(result, "no runtime was lent")
    (tmp_path / "d").mkdir()
    recovery = DistillStep(("t",), training=Training(epochs=1, batch_size=64, lr=0.02))
    ctx = StepContext("d", 0, lambda: digits, result.model, (parent,), tmp_path / "d", lambda *_: None)
    after, spec = models.load(run_distill(recovery, ctx).model)
    assert spec.sparsity == "unstructured"
    parameters: dict[str, Any] = dict(after.named_parameters())
    assert all(torch.equal(parameters[n] == 0, z) for n, z in zeros.items())
    assert not torch.equal(parameters["fc.weight"], dict(module.named_parameters())["fc.weight"])


def test_channels_cut_from_a_2_4_net_leave_zeros_without_the_pattern(
    learned: Path, digits: Dataset, tmp_path: Path
) -> None:
    sparse = prune(PruneStep(sparsity="2:4"), learned, digits, tmp_path / "a")

    def zeros(path: Path) -> float:
        weights = [p for p in models.load(path)[0].parameters() if p.ndim > 1]
        return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)

    step = PruneStep(0.5, round_to=2, steps=2, step_epochs=1, training=TRAINING)  # which must not fill them
    cut = prune(step, sparse.model, digits, tmp_path / "b")
    assert models.read_spec(cut.model).sparsity == "unstructured"
    assert zeros(cut.model) > 0.8 * zeros(sparse.model)


def test_a_file_that_does_not_give_the_net_back_is_refused(digits: Dataset, tmp_path: Path) -> None:
    from compress.prune import _check_saved

    module, spec = models.load(saved("edgefit:tiny", digits, tmp_path))
    models.save(module, spec, tmp_path / "x.safetensors")
    with torch.no_grad():
        module.fc.bias.add_(1)
    with pytest.raises(StepError, match="changes when it is saved"):
        _check_saved(module, tmp_path / "x.safetensors", torch.zeros(2, 1, 32, 32))
