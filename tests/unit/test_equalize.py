"""Cross-layer equalisation and bias correction: the float net answers the same, the rounded one better."""

from __future__ import annotations

import copy

import pytest

from compress.int8 import equalize

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

SIZE = 8


class Block(nn.Module):
    """Conv-BN-act, depthwise-BN-act, conv-BN with a shortcut around the last two; then pooling and a classifier."""

    def __init__(self, act: type[nn.Module], width: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), act()
        )
        self.deep = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width), act()
        )
        self.last = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head((x + self.last(self.deep(x))).mean((2, 3)))


def uneven(act: type[nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    """A net whose channels differ a hundredfold, as those of MobileNets do, and images."""
    torch.manual_seed(0)
    net = Block(act)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(
                    torch.logspace(-1, 1, len(layer.weight))[torch.randperm(len(layer.weight))]
                )
                layer.bias.uniform_(-0.3, 0.3)
        images = torch.randn(64, 3, SIZE, SIZE)
        net.train()
        for _ in range(30):
            net(images)
    return net.eval(), images


def answers(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(images)


def rounded(net: nn.Module, per_channel: bool) -> nn.Module:
    """The net with the weights of its layers on the int8 grid."""
    made = copy.deepcopy(net)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight.copy_(equalize.round_weight(layer.weight, 127, per_channel))
    return made


@pytest.mark.parametrize("act", [nn.ReLU, nn.Hardswish])
def test_equalisation_does_not_change_the_float_net(act: type[nn.Module]) -> None:
    net, images = uneven(act)
    made, notes = equalize.improve(net, images, equalize=True, correct_bias=False)
    fresh = torch.randn(32, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    expected = answers(net, fresh)
    assert (answers(made, fresh) - expected).abs().max() < 1e-4 * expected.abs().max()
    # The shortcut reads the first layer's output as well; only what is linear in between can be scaled.
    pairs = 1 if act is nn.ReLU else 0
    assert notes == (f"equalised {pairs} pairs of 4 layers",)
    assert made.state_dict().keys() == net.state_dict().keys(), "the same architecture holds it"


def test_equalisation_through_relu6_holds_where_the_images_stay_under_the_clip() -> None:
    net, images = uneven(nn.ReLU6)
    made, notes = equalize.improve(net, images, equalize=True, correct_bias=False)
    assert "1 of them through a clip" in notes[0]
    expected = answers(net, images)
    assert (answers(made, images) - expected).abs().max() < 1e-4 * expected.abs().max()
    before, after = net.deep[1].weight, made.deep[1].weight
    assert not torch.allclose(before, after)


def test_equalised_weights_of_two_layers_are_equally_large_and_round_with_less_error() -> None:
    net, images = uneven(nn.ReLU)
    made, _ = equalize.improve(net, images, equalize=True, correct_bias=False)
    into = made.deep[0].weight.abs().flatten(1).amax(1)
    out = made.last[0].weight.abs().amax((0, 2, 3))
    within = (into / out).log().abs()
    assert within.median() < 0.01, "but for channels whose activation is the tensor's largest already"
    expected = answers(net, images)
    plain, better = (
        (answers(rounded(folded, per_channel=False), images) - expected).pow(2).mean()
        for folded in (equalize.improve(net, images, False, False)[0], made)
    )
    assert better < 0.8 * plain


def test_no_activation_grows_beyond_the_largest_of_its_tensor() -> None:
    """A channel that is almost off would otherwise be blown up until its bias alone sets the scale of all others."""
    net, images = uneven(nn.ReLU)
    with torch.no_grad():
        net.deep[1].weight[3] = 1e-6
        net.deep[1].bias[3] = 0.5
    seen: list[float] = []

    def peak(_: nn.Module, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
        seen.append(float(inputs[0].abs().max()))

    made, _ = equalize.improve(net, images, equalize=True, correct_bias=False)
    for module in (net, made):
        handle = module.last[0].register_forward_hook(peak)
        answers(module, images)
        handle.remove()
    assert seen[1] <= seen[0] * 1.001


@pytest.mark.parametrize("per_channel", [True, False])
def test_bias_correction_gives_the_rounded_net_the_means_of_the_float_net(per_channel: bool) -> None:
    net, images = uneven(nn.ReLU)
    folded, _ = equalize.improve(net, images, False, False, per_channel=per_channel)
    made, notes = equalize.improve(net, images, False, True, limit=127, per_channel=per_channel)
    assert notes == ("corrected the biases of 4 of 4 layers on 64 images",)
    expected = answers(net, images).mean(0)
    off, corrected = (
        (answers(rounded(m, per_channel), images).mean(0) - expected).abs().max() for m in (folded, made)
    )
    assert corrected < 0.2 * off
    weights = {k: v for k, v in folded.state_dict().items() if k.endswith("0.weight")}
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in weights.items()), "weights stay"


def test_layers_that_stay_float_are_not_corrected() -> None:
    net, images = uneven(nn.ReLU)
    _, notes = equalize.improve(net, images, False, True, float_layers=("deep.*", "head"), fmt="onnx")
    assert notes == ("corrected the biases of 1 of 1 layers on 64 images",)


def test_the_model_itself_stays_as_it_is() -> None:
    net, images = uneven(nn.ReLU)
    before = copy.deepcopy(net.state_dict())
    equalize.improve(net, images, True, True)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
