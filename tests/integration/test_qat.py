"""Training in simulated int8: what is simulated is what ships, on both runtimes, and how it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, ModelError, ParityError, StepError
from bench.steps import DistillStep, PruneStep, QatStep, QuantizeStep, Training, TrainStep
from bench.types import StepContext, StepResult
from compress import parity, qat, quantize
from compress.export import export
from compress.int8 import fake_quant, qat_export, qat_graph
from compress.prune import run_prune
from compress.pruning.sparsity import two_of_four
from compress.quiet import quiet
from distill import models, train
from distill.data import Dataset
from distill.evaluate import evaluate
from tests.integration.conftest import DigitsAt

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

MOBILE = '''
from torch import nn


class Mobile(nn.Module):
    """Depthwise, squeeze-and-excitation, hard-swish and a residual sum, as in MobileNetV3."""

    def __init__(self, classes, channels):
        super().__init__()
        def unit(a, b, k, stride=1, groups=1, act=nn.Hardswish):
            conv = nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(b, eps=1e-3), act(inplace=True) if act else
            nn.Identity())
        self.stem = unit(channels, 16, 3)
        self.expand, self.deep = unit(16, 32, 1), unit(32, 32, 3, groups=32)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.Hardsigmoid()
        )
        self.project, self.last = unit(32, 16, 1, act=None), unit(16, 32, 3, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, classes)

    def forward(self, x):
        x = self.stem(x)
        y = self.deep(self.expand(x))
        x = x + self.project(y * self.gate(y))
        return self.fc(self.pool(self.last(x)).flatten(1))


def mobile(num_classes, in_channels):
    return Mobile(num_classes, in_channels)


def pooled(num_classes, in_channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d((2, 5)), nn.Flatten())
'''
SHORT = QatStep(
    scheme="u8s8",
    images=64,
    training=Training(epochs=2, batch_size=64, lr=1e-3, weight_decay=0.0, warmup_epochs=0.2, augment=()),
)


@pytest.fixture(scope="module")
def digits(digits_at: DigitsAt) -> Dataset:
    return digits_at(16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qat")
    (made / "nets.py").write_text(MOBILE)
    return made


def trained(arch: str, digits: Dataset, path: Path) -> Path:
    """A float net that is right on most digits."""
    torch.manual_seed(0)
    module = models.build(arch, 10, 1)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    images, labels = digits.normalise(digits.images["train"]), digits.labels["train"]
    for _ in range(4):
        for rows in torch.randperm(len(images)).split(64):
            loss = torch.nn.functional.cross_entropy(module.train()(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    models.save(module, models.ModelSpec(arch, 10, 1, digits.index.classes, digits.preprocess), path)
    return path


@pytest.fixture(scope="module")
def residual(digits: Dataset, folder: Path) -> Path:
    return trained("edgefit:resnet8x0.5", digits, folder / "residual.safetensors")


@pytest.fixture(scope="module")
def mobile(digits: Dataset, folder: Path) -> Path:
    return trained(f"py:{folder / 'nets.py'}:mobile", digits, folder / "mobile.safetensors")


def run(
    step: QatStep,
    parent: Path | None,
    digits: Dataset,
    work: Path,
    notify: Any = lambda *_: None,
    teachers: tuple[Path, ...] = (),
) -> StepResult:
    work.mkdir(parents=True, exist_ok=True)
    return qat.run_qat(step, StepContext("v", 0, lambda: digits, parent, teachers, work, notify))


@pytest.fixture(scope="module")
def results(residual: Path, mobile: Path, digits: Dataset, folder: Path) -> dict[str, StepResult]:
    return {p.stem: run(SHORT, p, digits, folder / f"{p.stem}-qat") for p in (residual, mobile)}


def converted(
    model: Path, digits: Dataset, target: Path, scheme: str, float_artifact: Path | None = None
) -> tuple[str, ...]:
    module, spec = models.load(model)
    with quiet():
        return qat_export.convert(module, spec, digits.calibration(32), target, scheme, float_artifact)


@pytest.fixture(scope="module")
def notes(results: dict[str, StepResult], digits: Dataset, folder: Path) -> dict[str, tuple[str, ...]]:
    """What is said of ``residual.onnx``, ``residual.tflite``, ``mobile.onnx`` and ``mobile.tflite``."""
    pytest.importorskip("litert_torch")
    return {
        f"{name}.{fmt}": converted(result.model, digits, folder / f"{name}.{fmt}", scheme)
        for name, result in results.items()
        for fmt, scheme in (("onnx", "u8s8"), ("tflite", "litert"))
    }


FILES = pytest.mark.parametrize("file", ["residual.onnx", "residual.tflite", "mobile.onnx", "mobile.tflite"])


@FILES
def test_what_ships_is_what_was_simulated(
    file: str,
    notes: dict[str, tuple[str, ...]],
    results: dict[str, StepResult],
    digits: Dataset,
    folder: Path,
) -> None:
    name, _, fmt = file.partition(".")
    module, spec = models.load(results[name].model)
    images = digits.normalise(digits.images["validation"])
    graph = qat_graph.graph(module, images)
    simulated = parity.run_module(qat.simulation(graph, spec.quantization, fmt), images)
    shipped = parity.run_file(folder / file, fmt, images)
    assert (simulated.argmax(1) == shipped.argmax(1)).mean() > 0.99
    if fmt == "onnx":  # an x86 CPU without VNNI saturates pairs of products: that is no fault of the file
        shipped = parity.run_file(folder / file, fmt, images, emulate=True)
    rounding = np.sqrt(((simulated - parity.run_module(module, images)) ** 2).mean())
    assert np.sqrt(((simulated - shipped) ** 2).mean()) < 0.3 * rounding
    found = qat_export.shipped_parity(folder / file, fmt, spec, digits)
    assert abs(found["difference"]) <= found["tolerance"] == 0.003 and found["n"] > len(images)
    assert spec.quantization["accuracy"][fmt] == pytest.approx(
        (simulated.argmax(1) == digits.labels["validation"].numpy()).mean()
    )


def test_grey_images_leave_no_strides_in_a_file(
    results: dict[str, StepResult], digits: Dataset, tmp_path: Path
) -> None:
    """Channels-last strides of one channel look contiguous, and exporters trace them: eight more operators."""
    import onnx

    last = digits.images["calibration"].to(memory_format=torch.channels_last)
    data = dataclasses.replace(digits, images={**digits.images, "calibration": last})
    images = quantize.calibration(QuantizeStep(images=64), data).sample(64)
    module, spec = models.load(results["residual"].model)
    with quiet():
        qat_export.convert(module, spec, images, tmp_path / "m.onnx", "u8s8")
    assert not {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node} & {"Range", "Gather"}


@FILES
def test_every_range_is_a_trained_one(file: str, notes: dict[str, tuple[str, ...]]) -> None:
    told = notes[file][0]
    done, _, of, *_ = told.split()
    assert told.endswith("ranges as trained") and done == of and int(of) >= 13


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_onnxruntime_runs_it_in_integers_from_the_stem_to_the_logits(
    name: str, notes: dict[str, tuple[str, ...]], folder: Path
) -> None:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / f"{name}-optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    nodes = Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)
    assert nodes["QuantizeLinear"] <= 1 and nodes["DequantizeLinear"] == 0
    assert nodes["QLinearConv"] >= 6 and nodes["QLinearAdd"] >= 1 and nodes["QGemm"] == 1


def test_the_file_is_an_ordinary_model_without_code(results: dict[str, StepResult], digits: Dataset) -> None:
    result = results["residual"]
    with result.model.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    assert "stem.0.weight" in header and not any("round" in name for name in header)
    module, spec = models.load(result.model)
    labels = digits.labels["validation"]
    with torch.no_grad():
        accuracy = (module(digits.normalise(digits.images["validation"])).argmax(1) == labels).float().mean()
    assert abs(float(accuracy) - spec.quantization["accuracy"]["onnx"]) < 0.02
    assert (result.macs, result.params) == models.count(module, spec.preprocess)
    assert any("simulated int8 (u8s8), accuracy on validation: onnx" in note for note in result.notes)


def test_training_recovers_what_rounding_costs(residual: Path, digits: Dataset, tmp_path: Path) -> None:
    """Channels of very unlike sizes, as in some MobileNets: the float net is the same, and one scale fits
    none of them."""
    module, spec = models.load(residual)
    with torch.no_grad():
        for stage in ("stage1", "stage2", "stage3"):
            main = module.get_submodule(f"{stage}.0.main")
            size = 10 ** torch.linspace(-1.3, 1.3, main[1].num_features)
            main[1].weight *= size
            main[1].bias *= size
            main[3].weight /= size.view(1, -1, 1, 1)
    models.save(module, spec, tmp_path / "uneven.safetensors")
    training = Training(epochs=4, optimizer="adamw", lr=3e-4, batch_size=64, warmup_epochs=0.2, augment=())
    step = dataclasses.replace(SHORT, training=training)
    graph = qat_graph.graph(module, digits.calibration(1))
    before = fake_quant.insert(graph, qat.first_grids(graph, digits, step), "u8s8")
    accuracy = evaluate(before, digits, "validation", None)[1]
    result = run(step, tmp_path / "uneven.safetensors", digits, tmp_path)
    after = models.read_spec(result.model).quantization["accuracy"]["onnx"]
    assert accuracy < 0.5 < 0.8 < after


class Stopped(Exception):
    pass


def test_a_training_that_was_stopped_ends_with_the_same_file(
    residual: Path, results: dict[str, StepResult], digits: Dataset, tmp_path: Path
) -> None:
    def stop(event: str, details: dict[str, Any]) -> None:
        if details.get("epoch") == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run(SHORT, residual, digits, tmp_path, stop)
    assert run(SHORT, residual, digits, tmp_path).model.read_bytes() == results["residual"].model.read_bytes()


def test_it_learns_from_another_teacher(
    residual: Path, mobile: Path, digits: Dataset, tmp_path: Path
) -> None:
    step = dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, epochs=1))
    own = run(step, residual, digits, tmp_path / "a")
    other = run(step, residual, digits, tmp_path / "b", teachers=(mobile,))
    assert own.history[0]["train_loss"] < other.history[0]["train_loss"]


LONG = pytest.mark.skipif(
    "EDGEFIT_LONG_TESTS" not in os.environ, reason="takes 20 s; set EDGEFIT_LONG_TESTS=1"
)


@pytest.mark.parametrize(
    ("scheme", "limit", "net"),
    [pytest.param("s8s8", 127, "mobile", marks=LONG), ("u8s8-7bit", 64, "residual")],
)
def test_other_schemes_ship_what_was_trained(
    scheme: str, limit: int, net: str, residual: Path, mobile: Path, digits: Dataset, tmp_path: Path
) -> None:
    import onnx
    from onnx import numpy_helper

    step = dataclasses.replace(SHORT, scheme=scheme, training=dataclasses.replace(SHORT.training, epochs=1))
    result = run(step, {"mobile": mobile, "residual": residual}[net], digits, tmp_path / "work")
    assert "ranges as trained" in converted(result.model, digits, tmp_path / "m.onnx", scheme)[0]
    spec = models.read_spec(result.model)
    found = qat_export.shipped_parity(tmp_path / "m.onnx", "onnx", spec, digits, scheme)
    assert abs(found["difference"]) <= found["tolerance"]
    constants = [numpy_helper.to_array(i) for i in onnx.load(tmp_path / "m.onnx").graph.initializer]
    weights = [c for c in constants if c.dtype == np.int8 and c.ndim >= 2]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == limit


@LONG
def test_what_was_trained_for_seven_bits_ships_for_litert_too(
    residual: Path, digits: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch")
    result = run(dataclasses.replace(SHORT, scheme="u8s8-7bit"), residual, digits, tmp_path / "work")
    notes = converted(result.model, digits, tmp_path / "m.tflite", "litert")
    assert not any("other grids" in note for note in notes)
    found = qat_export.shipped_parity(
        tmp_path / "m.tflite", "tflite", models.read_spec(result.model), digits, "litert"
    )
    assert found["unlike"] <= 0.003 * found["n"]


def test_zeroed_weights_stay_zero(residual: Path, digits: Dataset, tmp_path: Path) -> None:
    module, spec = models.load(residual)
    two_of_four([(n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Conv2d)])
    models.save(module, dataclasses.replace(spec, sparsity="2:4"), tmp_path / "sparse.safetensors")
    result = run(SHORT, tmp_path / "sparse.safetensors", digits, tmp_path / "work")
    trained, after = models.load(result.model)
    before = dict(module.named_modules())
    zeros = 0
    for name, layer in trained.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            zeros += int((before[name].weight == 0).sum())
            assert torch.equal(layer.weight == 0, before[name].weight == 0)
    assert zeros > 1000 and after.sparsity == "2:4"


def test_options_of_a_calibration_are_refused_for_what_was_trained(
    results: dict[str, StepResult], digits: Dataset, tmp_path: Path
) -> None:
    step = QuantizeStep(input="int8", max_drop=0.01)
    with pytest.raises(ConfigError, match=r"decides all that input, max_drop would.*float parent"):
        export(results["residual"].model, "tflite", "int8", "litert", step, digits, tmp_path)


def test_another_scheme_than_the_trained_one_is_told(
    notes: dict[str, tuple[str, ...]],
    results: dict[str, StepResult],
    digits: Dataset,
    folder: Path,
    tmp_path: Path,
) -> None:
    floats = folder / "residual-fp32.onnx"
    said = converted(results["residual"].model, digits, tmp_path / "m.onnx", "s8s8", floats)
    assert "trained for u8s8, written as s8s8" in said[1]


def test_a_file_that_is_not_as_accurate_as_its_simulation_fails(
    notes: dict[str, tuple[str, ...]], results: dict[str, StepResult], digits: Dataset, folder: Path
) -> None:
    spec = models.read_spec(results["residual"].model)
    wrong = "00" * ((len(digits.labels["validation"]) + 7) // 8)
    better = spec.quantization | {"right": {"onnx": wrong, "tflite": wrong}}
    for fmt in ("onnx", "tflite"):
        with pytest.raises(ParityError, match="not as accurate as its simulation"):
            qat_export.shipped_parity(
                folder / f"residual.{fmt}", fmt, dataclasses.replace(spec, quantization=better), digits
            )


def test_parity_is_only_judged_on_the_images_of_the_training(
    notes: dict[str, tuple[str, ...]], results: dict[str, StepResult], digits_at: DigitsAt, folder: Path
) -> None:
    spec = models.read_spec(results["residual"].model)
    with pytest.raises(StepError, match="its own validation images"):
        qat_export.shipped_parity(folder / "residual.onnx", "onnx", spec, digits_at(None))


def test_a_graph_that_was_not_trained_is_refused(
    results: dict[str, StepResult], digits: Dataset, tmp_path: Path
) -> None:
    module, spec = models.load(results["residual"].model)
    fewer = dict(list(spec.quantization["activations"].items())[1:])
    other = dataclasses.replace(spec, quantization=spec.quantization | {"activations": fewer})
    with pytest.raises(StepError, match="not the one that was trained"):
        qat_export.convert(module, other, digits.calibration(8), tmp_path / "m.onnx", "u8s8")


def test_impossible_parents_are_refused(
    results: dict[str, StepResult], residual: Path, digits: Dataset, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no parent"):
        run(SHORT, None, digits, tmp_path)
    mine = results["residual"].model
    with pytest.raises(ModelError, match="in simulated int8 already"):
        run(SHORT, mine, digits, tmp_path)
    ctx = StepContext("v", 0, lambda: digits, mine, (mine,), tmp_path, lambda *_: None)
    for again in (
        lambda: train.run_train(TrainStep(), ctx),
        lambda: train.run_distill(DistillStep(("t",)), ctx),
        lambda: run_prune(PruneStep(0.5), ctx),
    ):
        with pytest.raises(ModelError, match="The parent was trained in simulated int8 already"):
            again()
    module, spec = models.load(residual)
    models.save(
        module, dataclasses.replace(spec, labels=tuple("abcdefghij")), tmp_path / "letters.safetensors"
    )
    with pytest.raises(ModelError, match="does not fit the data set digits"):
        run(SHORT, tmp_path / "letters.safetensors", digits, tmp_path)
    arch = f"py:{folder / 'nets.py'}:pooled"
    models.save(
        models.build(arch, 10, 1), dataclasses.replace(spec, arch=arch), tmp_path / "pooled.safetensors"
    )
    with pytest.raises(StepError, match="Nothing in the model can be quantized"):
        run(SHORT, tmp_path / "pooled.safetensors", digits, tmp_path)


def test_the_last_rung_is_trained_once_for_both_formats(
    residual: Path, digits: Dataset, tmp_path: Path
) -> None:
    step, events = QuantizeStep(qat_epochs=1, images=64), []

    def rung(scheme: str) -> Path:
        return qat.qat_rung(
            residual, step, digits, tmp_path, scheme, 0, lambda event, _: events.append(event)
        )

    first = rung("u8s8")
    assert models.read_spec(first).quantization["scheme"] == "u8s8" and events
    events.clear()
    assert rung("litert") == first and not events
