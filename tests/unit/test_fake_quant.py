"""Simulated int8: the formulas of the quantizers it must agree with, its gradients, and the graph it works
on."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import ConfigError, StepError
from bench.steps import QatStep, Training

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from compress import qat  # noqa: E402
from compress.int8 import fake_quant, qat_export, qat_graph  # noqa: E402
from compress.int8.fake_quant import Grid  # noqa: E402


class Block(nn.Module):
    """What small nets are made of: stem, depthwise, squeeze-and-excitation, residual, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, eps=1e-3), nn.Hardswish()
        )
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.deep(x)
        y = self.point(y * self.squeeze(y))
        y += x
        return self.fc(torch.relu(y).mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net(images: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    module = Block()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    with torch.no_grad():
        module.train()(images)
    return module.eval()


@pytest.fixture(scope="module")
def graph(net: nn.Module, images: torch.Tensor) -> torch.fx.GraphModule:
    return qat_graph.graph(net, images)


def kinds(labels: dict[str, str]) -> list[str]:
    return [name.rpartition("_")[0] for name in labels]


# --- options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (QatStep(scheme="u8u8"), "Unknown quantization scheme"),
        (QatStep(ranges="best"), "Unknown way to find first ranges"),
        (QatStep(images=0), "at least one image"),
        (QatStep(loss="kd + at"), "compares features"),
        (QatStep(loss="nothing"), "no distillation loss"),
        (QatStep(temperature=0), "temperature"),
        (QatStep(alpha=1.5), "alpha"),
        (QatStep(training=Training(epochs=0)), "epochs"),
        (QatStep(training=Training(freeze_epochs=1)), "whole model"),
        (QatStep(training=Training(optimizer="muon")), "Muon"),
    ],
)
def test_impossible_options_are_refused(step: QatStep, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qat.check_qat(step)


def test_its_own_training_is_one_that_qat_takes() -> None:
    step = QatStep()
    qat.check_qat(step)
    assert step.training.optimizer == "adamw" and step.training.epochs > 0


# --- the formulas of the runtimes' quantizers -----------------------------------------------


@pytest.mark.parametrize("ends", [(0.0, 5.3), (-0.4, 5.9), (-3.0, 0.2), (-1.0, 1.0), (0.5, 2.0), (0.0, 1.0)])
def test_a_grid_survives_both_quantizers(ends: tuple[float, float]) -> None:
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    grid = fake_quant.grid(ends, "u8s8")
    low, high = (np.float32(v) for v in grid.ends)
    zero, scale = compute_scale_zp(low, high, np.uint8(0), np.uint8(255))
    assert (int(zero), float(scale)) == (-grid.low, pytest.approx(grid.scale, rel=1e-6))
    uniform = pytest.importorskip("ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    from ai_edge_quantizer import qtyping

    zero, scale = uniform.tensor_zp_scale_from_min_max(
        np.array([low]), np.array([high]), 8, False, qtyping.QuantGranularity.TENSORWISE
    )
    assert (int(zero[0]), float(scale[0])) == (-grid.low - 128, pytest.approx(grid.scale, rel=1e-6))


def test_a_symmetric_grid_survives_the_quantizer() -> None:
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    for ends, low in (((-2.0, 1.0), -127), ((0.0, 3.0), 0)):
        grid = fake_quant.grid(ends, "s8s8")
        assert (grid.low, grid.high) == (low, 127)
        zero, scale = compute_scale_zp(*np.float32(grid.ends), np.int8(-127), np.int8(127), symmetric=True)
        assert (int(zero), float(scale)) == (0, pytest.approx(grid.scale, rel=1e-6))


@pytest.mark.parametrize("limit", [127, 64])
def test_weights_have_the_scales_the_quantizers_give_them(limit: int) -> None:
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    mine = fake_quant.weight_scale(weight, limit).flatten()
    for row, scale in zip(weight.numpy(), mine, strict=True):
        wanted = compute_scale_zp(row.min(), row.max(), np.int8(-limit), np.int8(limit), symmetric=True)[1]
        assert float(scale) == pytest.approx(float(wanted), rel=1e-6)
    rounded = fake_quant.modules().weight(limit)(weight) / fake_quant.weight_scale(weight, limit)
    assert torch.allclose(rounded, rounded.round(), atol=1e-4)
    assert rounded.abs().max() == pytest.approx(limit, rel=1e-6)


# --- rounding -----------------------------------------------------------------------------


def test_rounding_is_that_of_torch_and_stops_gradients_outside() -> None:
    x = torch.linspace(-3, 5, 319, requires_grad=True)
    module = fake_quant.modules().activation(Grid(0.02, -100, 155))
    y = module(x)
    assert torch.allclose(y, torch.fake_quantize_per_tensor_affine(x, 0.02, 100, 0, 255), atol=1e-6)
    y.sum().backward()
    inside = (x > -2.0) & (x < 3.1)
    assert torch.equal(x.grad, inside.float())


def test_the_gradient_of_a_scale_is_that_of_lsq() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 50, generator=generator, requires_grad=True)
    weight = torch.randn(4, 50, generator=generator)
    module = fake_quant.modules().activation(Grid(0.01, -100, 155))
    (module(x) * weight).sum().backward()
    scale = 0.01
    steps = x.detach() / scale
    each = torch.where(steps <= -100, -100.0, torch.where(steps >= 155, 155.0, steps.round() - steps))
    # Every fourth image stands for all of them; of the logarithm; divided by sqrt(values x largest integer).
    wanted = (weight * each)[::4].sum() * 4 * scale / (200 * 155) ** 0.5
    assert module.change.grad == pytest.approx(float(wanted), rel=1e-3)
    assert torch.equal(x.grad, torch.where((steps > -100) & (steps < 155), weight, 0.0))


def test_rounding_in_bf16_computes_in_float32() -> None:
    x = torch.linspace(0, 6, 1000)
    module = fake_quant.modules().activation(Grid(6 / 255, 0, 255))
    short = module(x.bfloat16())
    assert short.dtype == torch.bfloat16
    assert torch.equal(short, module(x.bfloat16().float()).bfloat16())


def test_a_gate_of_zero_is_rounded_up_as_the_kernels_do() -> None:
    ends = fake_quant.grid(fake_quant.gate_range("onnx", "hardsigmoid"), "u8s8")
    gated = fake_quant.modules().gated("hardsigmoid", ends)
    assert float(gated.round(torch.tensor([0.5]))) == pytest.approx(128 / 255, abs=1e-6)
    assert gated.round(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


# --- the graph ----------------------------------------------------------------------------


def test_folding_keeps_the_outputs_and_leaves_a_state_the_architecture_takes(
    net: nn.Module, graph: torch.fx.GraphModule, images: torch.Tensor
) -> None:
    with torch.no_grad():
        assert torch.allclose(graph(images), net(images), atol=1e-5)
        assert graph(images[:3]).shape == (3, 10)  # the batch is free
        other = Block()
        other.load_state_dict(
            other.state_dict() | {k: v for k, v in graph.state_dict().items() if k in other.state_dict()}
        )
        assert torch.allclose(other.eval()(images), net(images), atol=1e-5)
    norm = other.deep[1]
    assert torch.equal(norm.running_mean, torch.zeros(8)) and torch.equal(norm.running_var, torch.ones(8))
    assert torch.equal(other.deep[0].bias, torch.zeros(8))
    assert not torch.equal(net.deep[1].running_var, norm.running_var)  # the parent is left alone


def test_activations_are_rounded_where_the_files_round_them(graph: torch.fx.GraphModule) -> None:
    both = [
        "placeholder",
        "relu",
        "conv2d",
        "hardswish",
        "adaptive_avg_pool2d",
        "conv2d",
        "hardsigmoid",
        "mul",
        "conv2d",
        "relu",
        "mean",
    ]
    assert kinds(qat_graph.points(graph)) == both
    # ONNX files have a float stem; LiteRT's gate is part of the convolution before it.
    assert kinds(qat_graph.points(graph, "onnx")) == both[1:]
    assert kinds(qat_graph.points(graph, "onnx", "s8s8")) == both
    assert kinds(qat_graph.points(graph, "tflite")) == [*both[:5], *both[6:]]


def test_a_rounded_graph_answers_almost_the_same_and_learns_scales_and_weights(
    graph: torch.fx.GraphModule, images: torch.Tensor
) -> None:
    values = qat_graph.record(graph, images, qat_graph.points(graph))
    grids = {n: fake_quant.grid((float(v.min()), float(v.max())), "u8s8") for n, v in values.items()}
    rounded = fake_quant.insert(graph, grids, "u8s8")
    answer, wanted = rounded(images), graph(images)
    assert 0 < (answer - wanted).abs().max() < 0.05 * wanted.abs().max()
    answer.square().sum().backward()
    names = {n for n, p in rounded.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"stem.0.weight", "deep.0.weight", "deep.1.bias", "fc.weight"} <= names
    assert sum(n.endswith("change") for n in names) >= 9  # all but the gate's, which is from 0 to 1
    after = fake_quant.grids_of(rounded)
    assert {n: (g.low, g.high) for n, g in after.items()} == {n: (g.low, g.high) for n, g in grids.items()}


def test_a_net_without_layers_has_nothing_to_quantize(images: torch.Tensor) -> None:
    made = qat_graph.graph(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), images)
    with pytest.raises(StepError, match="Nothing in the model can be quantized"):
        fake_quant.insert(made, {}, "u8s8")


def test_a_net_that_cannot_be_traced_says_so(images: torch.Tensor) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(StepError, match="cannot be traced"):
        qat_graph.graph(Odd(), images)


# --- files --------------------------------------------------------------------------------


def test_tensors_are_matched_by_value_in_either_layout() -> None:
    generator = np.random.default_rng(0)
    a, b = (
        generator.normal(size=(2, 3, 4, 4)).astype(np.float32),
        generator.normal(size=(2, 3)).astype(np.float32),
    )
    known = [(a, (0.0, 1.0)), (b, (-1.0, 2.0))]
    tensors = {
        "same": a, "last": a.transpose(0, 2, 3, 1), "flat": b[:, :, None, None], "near": a * (1 + 1e-5),
        "other": a + 0.1, "shape": a[:, :2],
    }  # fmt: skip
    found = qat_export.match(tensors, known)
    assert found == {"same": (0.0, 1.0), "last": (0.0, 1.0), "flat": (-1.0, 2.0), "near": (0.0, 1.0)}


def test_a_tensor_that_is_never_positive_trains_with_finite_gradients():
    module = fake_quant.modules().activation(fake_quant.grid((-1.0, 0.0), "u8s8"))
    x = (-torch.rand(8, 5)).requires_grad_()
    module(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert 0 < float(module.change.grad.abs()) < 100
