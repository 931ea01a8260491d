"""What each loss promises: where it is zero, what does not change it, what it says of several teachers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.steps import Training
from distill import features, losses, models, optim
from distill.evaluate import hopeless
from distill.teachers import mean_teacher

torch = pytest.importorskip("torch")
seeds = st.integers(0, 2**31)
temperatures = st.sampled_from([1.0, 2.0, 4.0])


def logits(seed: int, n: int = 6, classes: int = 5, scale: float = 3.0):
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, n: int = 6, classes: int = 5):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", losses.LOGIT_LOSSES)
@given(seed=seeds, temperature=temperatures)
@settings(max_examples=25)
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_others_have(
    name: str, seed: int, temperature: float
) -> None:
    loss = losses.LOGIT_LOSSES[name]
    teacher, target = logits(seed), labels(seed)
    assert float(loss(teacher, teacher, target, temperature)) == pytest.approx(0, abs=1e-4)
    assert float(loss(logits(seed + 1), teacher, target, temperature)) > 1e-3


@pytest.mark.parametrize("name", losses.LOGIT_LOSSES)
def test_a_step_down_the_gradient_brings_the_student_closer(name: str) -> None:
    loss = losses.LOGIT_LOSSES[name]
    student, teacher, target = logits(1).requires_grad_(), logits(2), labels(3)
    before = loss(student, teacher, target, 2.0)
    before.backward()
    moved = student.detach() - 0.1 * student.grad
    assert torch.isfinite(student.grad).all()
    assert loss(moved, teacher, target, 2.0) < before


@given(seed=seeds, shift=st.floats(-20, 20), scale=st.floats(0.1, 10))
def test_standardised_logits_may_be_shifted_and_scaled(seed: int, shift: float, scale: float) -> None:
    student, teacher = logits(seed), logits(seed + 1)
    plain = losses.standardised(student, teacher, 2.0)
    torch.testing.assert_close(losses.standardised(student * scale + shift, teacher, 2.0), plain, rtol=1e-3, atol=1e-4)  # fmt: skip
    assert float(losses.standardised(teacher * scale + shift, teacher, 2.0)) == pytest.approx(0, abs=1e-4)


@given(seed=seeds, share=st.floats(0.05, 0.9))
def test_correlation_forgives_probabilities_that_are_an_affine_image_of_the_teachers(
    seed: int, share: float
) -> None:
    teacher = logits(seed)
    softened = torch.lerp(teacher.softmax(1), torch.full((6, 5), 0.2), share).log()
    assert float(losses.correlation(softened, teacher, 1.0)) == pytest.approx(0, abs=1e-4)
    assert float(losses.distillation(softened, teacher, 1.0)) > 1e-4


@given(seed=seeds, temperature=temperatures)
def test_decoupled_adds_up_to_the_whole(seed: int, temperature: float) -> None:
    """Equation 7 of the paper: KD = TCKD + (1 - p) NCKD, with p the teacher's probability of the right class."""
    student, teacher, target = logits(seed, n=1), logits(seed + 1, n=1), labels(seed, n=1)
    p = float((teacher / temperature).softmax(1)[0, target])
    parts = losses.decoupled(student, teacher, target, temperature, beta=1 - p)
    torch.testing.assert_close(
        parts, losses.distillation(student, teacher, temperature), rtol=1e-3, atol=1e-4
    )
    soft = torch.nn.functional.one_hot(target, 5).float()
    torch.testing.assert_close(
        parts, losses.decoupled(student, teacher, soft, temperature, beta=1 - p), rtol=0, atol=0
    )


@given(seed=seeds, scale=st.floats(0.1, 10))
def test_attention_sees_where_and_not_how_much(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(3, 4, 5, 5, generator=generator)
    teacher = torch.randn(3, 8, 5, 5, generator=generator)
    apart = losses.attention(student, teacher)
    assert 0 < float(apart) <= 2
    torch.testing.assert_close(losses.attention(student.flip(1) * scale, teacher), apart)
    torch.testing.assert_close(losses.attention(teacher.repeat(1, 2, 1, 1), teacher), torch.tensor(0.0))


@given(seed=seeds, scale=st.floats(0.1, 10))
def test_hint_is_a_share_of_the_teachers_features(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    assert float(losses.hint(teacher, teacher)) == 0
    torch.testing.assert_close(losses.hint(torch.zeros_like(teacher), teacher), torch.tensor(1.0))
    torch.testing.assert_close(
        losses.hint(student * scale, teacher * scale), losses.hint(student, teacher), rtol=1e-3, atol=1e-4
    )


@given(seed=seeds, temperature=temperatures, count=st.integers(2, 4))
def test_several_teachers_are_the_mean_of_their_probabilities(
    seed: int, temperature: float, count: int
) -> None:
    each = [logits(seed + i) for i in range(count)]
    wanted = torch.stack([(z / temperature).softmax(1) for z in each]).mean(0)
    torch.testing.assert_close((mean_teacher(each, temperature) / temperature).softmax(1), wanted)
    assert mean_teacher(each[:1], temperature) is each[0]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("kd", {"kd": 1.0}),
        ("dkd + 0.5*at", {"dkd": 1.0, "at": 0.5}),
        ("2 * kd-std+1e+1*hint +.5*dist", {"kd-std": 2.0, "hint": 10.0, "dist": 0.5}),
    ],
)
def test_a_sum_of_losses_is_read(text: str, terms: dict[str, float]) -> None:
    assert losses.parse(text) == terms


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("dkdd", "Did you mean dkd"),
        ("kd + 0.5*at2", r"'at2'.*Did you mean at"),
        ("kd +", "no distillation loss ''"),
        ("", "NAME or FACTOR"),
        ("kd*2", "no distillation loss '2'"),
        ("-1*kd", "must be a positive number"),
        ("0*kd", "must be a positive number"),
        ("nan*kd", "must be a positive number"),
        ("two*kd", r"'two' in loss"),
        ("*kd", "must be a positive number"),
        ("kd + 2*kd", "kd comes twice"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        losses.parse(text)


def test_two_standardised_logits_say_nothing_and_are_refused() -> None:
    two = torch.tensor([[3.0, 1.0], [0.2, 0.1]])
    assert float(losses.standardised(two, two * torch.tensor([[9.0], [0.1]]), 2.0)) == pytest.approx(
        0, abs=1e-6
    )
    losses.check_classes("kd + kd-std", 3)
    losses.check_classes("kd + at", 2)
    with pytest.raises(ConfigError, match="two classes"):
        losses.check_classes("kd + kd-std", 2)


def test_the_linear_schedule_ends_at_nothing() -> None:
    options = Training(epochs=10, lr=1.0, warmup_epochs=2, schedule="linear")
    rates = [optim.learning_rate(step, 10, options) for step in range(100)]
    assert rates[19] == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 80)


def test_a_net_that_has_learned_nothing_is_told_from_one_that_starts_with_the_largest_class() -> None:
    even = torch.arange(1000) % 10
    one = torch.zeros(1000, dtype=torch.int64)
    guessing = (even + 1 + torch.arange(1000) // 10 % 9) % 10  # never right, all answers
    assert "same answer" in hopeless(math.log(10), one, even, 10)
    assert "guessing gives 10.0%" in hopeless(2.0, guessing, even, 10)
    assert hopeless(1.0, even, even, 10) == ""
    assert hopeless(5.0, torch.where(even < 3, even, 0), even, 10) == ""  # three classes are a start
    tiles = torch.tensor([0] * 700 + [1] * 100 + [2] * 100 + [3] * 50 + [4] * 50)
    blind = -sum(p * math.log(p) for p in (0.7, 0.1, 0.1, 0.05, 0.05))
    assert hopeless(0.9 * blind, one, tiles, 5) == ""
    assert "same answer" in hopeless(1.1 * blind, one, tiles, 5)
    assert "same answer" in hopeless(math.nan, one, tiles, 5)
    nearly_all = torch.tensor([0] * 990 + [1] * 10)
    assert hopeless(1.0, one, nearly_all, 2) == ""
    rare = torch.where(tiles == 0, 1, tiles)  # balanced accuracy 0.8, accuracy 0.3
    assert hopeless(1.5, rare, tiles, 5) == ""
    two = torch.arange(4000) % 2
    assert (
        hopeless(0.7, torch.where(torch.arange(4000) < 400, two, torch.arange(4000) // 2 % 2), two, 2) == ""
    )
    few = torch.arange(20) % 10
    assert hopeless(2.0, (few + 1) % 10, few, 10) == ""  # 20 images are too few to say


@pytest.mark.parametrize(
    ("arch", "ends"),
    [
        ("edgefit:tiny", ["features.2", "features.5", "features"]),
        ("edgefit:resnet8", ["stage1", "stage2", "stage3"]),
        ("torchvision:resnet18", ["relu", "layer1", "layer2", "layer3"]),
        ("torchvision:mobilenet_v2", ["features.1", "features.3", "features.6", "features.13"]),
        ("timm:mobilenetv3_small_050", ["bn1", "blocks.0", "blocks.1", "blocks.3"]),
    ],
)
def test_the_last_activation_of_each_resolution_is_found(arch: str, ends: list[str]) -> None:
    module = models.build(arch, 10, 3)
    pixels = torch.rand(2, 3, 32, 32)
    found = features.stages(module, pixels)
    assert [stage.name for stage in found.values()] == ends
    assert module.training
    with features.caught(module, found) as seen:
        module(pixels)
    assert {size: tuple(f.shape) for size, f in seen.items()} == {
        size: (2, stage.channels, *size) for size, stage in found.items()
    }
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_transformer_has_no_such_activations() -> None:
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10, depth=2)
    assert features.stages(vit, torch.rand(2, 3, 32, 32)) == {}
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, num_classes=10, depths=(1, 1, 1, 1))
    assert features.stages(swin, torch.rand(2, 3, 56, 56)) == {}
