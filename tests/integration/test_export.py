"""Every artifact of a trained model: what it takes and answers, that it agrees with its parent, and how it fails."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError, MissingError, ParityError, StepError
from bench.steps import QuantizeStep, Training, TrainStep
from bench.types import StepContext
from compress import float_files, parity, quantize
from compress.export import export
from distill import models, train
from distill.data import Dataset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("model")
    step = TrainStep("edgefit:tiny", training=Training(epochs=6, batch_size=64, augment=()))
    ctx = StepContext("v", 0, lambda: digits, None, (), work, lambda *_: None)
    return train.run_train(step, ctx).model


@pytest.fixture(scope="module")
def floats(digits: Dataset, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fp32 artifact of every format."""
    work = tmp_path_factory.mktemp("floats")
    return {f: export(model, f, "fp32", "", None, digits, work / f) for f in ("pt2", "onnx", "tflite")}


def images_of(digits: Dataset, n: int = 64) -> Any:
    return parity.validation_images(digits, n)[1]


def logits_of(model: Path, images: Any) -> np.ndarray:
    return parity.run_module(models.load(model)[0], images)


@pytest.mark.parametrize("fmt", ["pt2", "onnx", "tflite"])
def test_float_artifacts_compute_what_the_model_computes(
    fmt: str, floats: dict[str, Any], model: Path, digits: Dataset
) -> None:
    result = floats[fmt]
    images = images_of(digits)
    found, expected = parity.run_file(result.path, fmt, images), logits_of(model, images)
    assert np.abs(found - expected).max() <= 1e-3 * max(1, np.abs(expected).max())
    assert result.parity["agreement"] == 1.0
    assert result.parity["n"] == 64
    artifact = result.artifact
    assert artifact.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert artifact.size_bytes == result.path.stat().st_size
    assert (artifact.format, artifact.precision, artifact.scheme) == (fmt, "fp32", "")
    assert artifact.labels == tuple(str(i) for i in range(10))
    assert artifact.preprocess == digits.preprocess


def test_the_onnx_file_is_plain(floats: dict[str, Any], model: Path, digits: Dataset) -> None:
    """Named ends, a free batch, one opset, nothing beside it, and no operators that memory layouts leave behind."""
    import onnx
    import onnxruntime

    path = floats["onnx"].path
    graph = onnx.load(path)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", float_files.OPSET)]
    assert {n.op_type for n in graph.graph.node} <= {
        "Conv",
        "Relu",
        "ReduceMean",
        "GlobalAveragePool",
        "Reshape",
        "Flatten",
        "Gemm",
    }
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].name == "input"
    assert session.get_inputs()[0].shape[0] == "batch"
    images = images_of(digits, 5)
    for n in (1, 5):
        (found,) = session.run(["logits"], {"input": images[:n].numpy()})
        assert found.shape == (n, 10)
        assert np.allclose(found, logits_of(model, images[:n]), atol=1e-3)


def test_an_export_writes_the_same_bytes_every_time(
    floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    again = export(model, "onnx", "fp32", "", None, digits, tmp_path)
    assert again.artifact.sha256 == floats["onnx"].artifact.sha256


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_programs_take_and_answer_float32(
    precision: str, floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    result = export(model, "pt2", precision, "", QuantizeStep(precision), digits, tmp_path)
    program = torch.export.load(result.path)
    assert {p.dtype for p in program.state_dict.values() if p.is_floating_point()} == {
        {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    }
    answer = program.module()(images_of(digits, 3))
    assert answer.dtype == torch.float32
    assert answer.shape == (3, 10)
    assert result.parity["agreement"] >= 0.95
    assert result.artifact.size_bytes < floats["pt2"].artifact.size_bytes


@pytest.mark.parametrize(
    ("fmt", "precision", "scheme", "share"),
    [
        ("onnx", "fp16", "", 0.7),
        ("onnx", "int8", "u8s8", 0.65),
        ("onnx", "int8", "u8s8-7bit", 0.65),
        ("onnx", "int8", "s8s8", 0.65),
        ("tflite", "fp16", "", 0.8),
        ("tflite", "int8", "litert", 0.65),
    ],
)
def test_reduced_artifacts_are_smaller_and_agree(
    fmt: str,
    precision: str,
    scheme: str,
    share: float,
    floats: dict[str, Any],
    model: Path,
    digits: Dataset,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stored = tmp_path / "0123abcd"  # a store names files by content: no suffix
    shutil.copy(floats[fmt].path, stored)
    step = QuantizeStep(precision, images=64)
    result = export(model, fmt, precision, scheme, step, digits, tmp_path / "work", float_artifact=stored)
    assert result.artifact.size_bytes < share * floats[fmt].artifact.size_bytes
    assert result.parity["agreement"] >= 0.9
    assert result.parity["reference"] == "torch fp32"
    assert not list((tmp_path / "work").glob("model-fp32*")), "the given float file was used"
    if precision == "int8":
        count = 2 if scheme.startswith("u8s8") else 3  # that of the image is faster in float there
        assert f"int8: {count} of 3 convolutions, 1 of 1 matrix products" in result.notes
        assert "calibrated on 64 images (minmax)" in result.notes
        assert result.ladder == ()
    if fmt == "onnx":
        import onnx

        graph = onnx.load(result.path).graph
        read = {name for node in graph.node for name in node.input}
        assert {constant.name for constant in graph.initializer} <= read, "onnxruntime warns of the others"
    out, err = capfd.readouterr()
    assert out + err == "", "converters are silent"


def test_tflite_takes_one_image_channels_last_in_float32(
    floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    small = export(model, "tflite", "int8", "litert", None, digits, tmp_path, floats["tflite"].path)
    for result in (floats["tflite"], small):
        interpreter = Interpreter(model_path=str(result.path))
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        assert tuple(source["shape"]) == result.artifact.inputs[0].shape == (1, 8, 8, 1)
        assert source["dtype"] == target["dtype"] == np.float32
        assert result.artifact.inputs[0].layout == "NHWC"
        ((_, ends),) = interpreter.get_signature_list().items()
        assert ends["inputs"] == [result.artifact.inputs[0].name]
        assert ends["outputs"] == [result.artifact.outputs[0].name]


@pytest.mark.parametrize(("fmt", "scheme"), [("onnx", "u8s8"), ("tflite", "litert")])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranges": "mse"}, "calibrated on 64 images (mse)"),
        ({"ranges": "percentile", "per_channel": False}, "calibrated on 64 images (percentile)"),
        ({"equalize": True, "correct_bias": True}, "equalised 2 pairs of 4 layers"),
        ({"activations": "dynamic"}, "int8"),
        ({"float_layers": ("features.3", "fc")}, "kept float as asked: features.3, fc"),
    ],
)
def test_every_option_makes_a_file_that_agrees(
    fmt: str, scheme: str, options: dict[str, Any], said: str, floats: dict[str, Any], model: Path,
    digits: Dataset, tmp_path: Path,
) -> None:  # fmt: skip
    step = QuantizeStep(images=64, **options)
    result = export(model, fmt, "int8", scheme, step, digits, tmp_path, floats[fmt].path)
    assert result.parity["agreement"] >= 0.9
    assert any(note.startswith(said) for note in result.notes), result.notes
    assert result.artifact.size_bytes < floats[fmt].artifact.size_bytes


def test_a_layer_kept_float_keeps_its_float_weights(
    floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    import onnx

    from compress.int8 import litert_graph, litert_int8

    step = QuantizeStep(images=32, float_layers=(r"features\.[03]",))
    made = export(model, "onnx", "int8", "u8s8", step, digits, tmp_path, floats["onnx"].path)
    kinds = {i.name: i.data_type for i in onnx.load(made.path).graph.initializer}
    assert kinds["features.3.weight"] == onnx.TensorProto.FLOAT
    assert kinds["features.6.weight_quantized"] == onnx.TensorProto.INT8
    made = export(model, "tflite", "int8", "litert", step, digits, tmp_path, floats["tflite"].path)
    graph = litert_graph.Graph(made.path)
    layers = {
        graph.layer(op): graph.dtype(op.inputs[1]) for k, op in graph.operators if k in litert_int8.LAYERS
    }
    assert layers == {"features.0": "FLOAT32", "features.3": "FLOAT32", "features.6": "INT8", "fc": "INT8"}
    with pytest.raises(
        StepError, match=r"No layer is named features\.4.*features\.0, features\.3, features\.6, fc"
    ):
        export(model, "tflite", "int8", "litert", QuantizeStep(float_layers=("features.4",)), digits, tmp_path,
               floats["tflite"].path)  # fmt: skip


def test_a_tflite_file_that_takes_int8_says_its_scale_and_the_worker_feeds_it(
    floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    from bench.agent import inputs
    from bench.agent.backends.litert import LiteRt
    from bench.types import to_json

    step = QuantizeStep(images=64, input="int8")
    result = export(model, "tflite", "int8", "litert", step, digits, tmp_path, floats["tflite"].path)
    spec = result.artifact.inputs[0]
    assert spec.dtype == "int8"
    assert spec.scale is not None and spec.zero_point is not None
    values = digits.normalise(digits.images["validation"][:200])
    low, high = (spec.scale * (end - spec.zero_point) for end in (-128, 127))
    assert low <= float(values.min()) + spec.scale and high >= float(values.max()) - spec.scale
    assert result.artifact.outputs[0].dtype == "float32", "logits are not rounded to 8 bits"
    assert result.parity["agreement"] >= 0.9

    backend = LiteRt()
    backend.load(str(result.path), 1, "cpu")
    found = inputs.single_input([to_json(spec)], backend.inputs())
    pixels = digits.images["validation"][:1].numpy().transpose(0, 2, 3, 1)
    fed = inputs.to_input(pixels, to_json(digits.preprocess), found)
    assert fed.dtype == np.int8
    backend.set_batch(1)
    backend.feed(fed)
    backend.call()
    expected = parity.run_file(result.path, "tflite", digits.normalise(digits.images["validation"][:1]))
    assert np.allclose(backend.fetch(), expected)


def test_litert_keeps_in_float_what_has_no_fast_int8_kernel(tmp_path: Path) -> None:
    """Int8 hard swish runs on a reference kernel and cuts the graph in two: MobileNetV3 was 2.5 times slower than in float.

    The padding of max pooling holds minus infinity, which is no activation.
    """
    from torch import nn

    from compress.int8 import litert_graph, litert_int8, ranges
    from compress.quiet import quiet

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Hardswish(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(72, 4),
    )
    source, mixed, whole = (tmp_path / f"{name}.tflite" for name in ("float", "mixed", "whole"))
    with torch.no_grad():  # and a dead channel, whose bias a scale of almost nothing would lose
        net[3].weight[2] = 1e-25
        net[3].bias[2] = 3.0
    images = torch.randn(16, 3, 12, 12)
    with quiet():
        float_files.write(net.eval(), images, source)
        found = ranges.find(litert_int8.collect(source, [images.numpy()]), "minmax")
        notes = litert_int8.write(source, mixed, found)
        litert_int8.write(source, whole, found, int8_input=True)
    assert "float, for XNNPACK has no int8 kernel: HARD_SWISH x1" in notes
    assert "int8: 2 of 2 convolutions, 1 of 1 matrix products" in notes
    assert any(note.startswith("guarded: 1 scales") for note in notes)
    kinds = {kind for kind, _ in litert_graph.Graph(mixed).operators}
    assert {"HARD_SWISH", "QUANTIZE", "DEQUANTIZE"} <= kinds
    slow = litert_graph.outside(source)
    assert litert_graph.outside(mixed) == slow
    assert len(litert_graph.outside(whole) - slow) == 1, "who asks for int8 input has no use for float inside"
    expected = parity.run_file(source, "tflite", images)
    for path in (mixed, whole):
        assert np.abs(parity.run_file(path, "tflite", images) - expected).max() < 0.1 * np.abs(expected).max()


# --- calibration images -----------------------------------------------------------------------


def test_calibration_reads_the_same_images_in_batches_and_says_which(digits: Dataset) -> None:
    step = QuantizeStep(images=70)
    calibration = quantize.calibration(step, digits)
    batches = list(calibration)
    assert [len(b) for b in batches] == [32, 32, 6]
    assert np.array_equal(np.concatenate(batches), digits.calibration(70).contiguous().numpy())
    pixels = digits.images["calibration"][calibration.rows].numpy()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert calibration.notes == (f"calibration images: 70, sha256 {digest}",)
    assert quantize.calibration(step, digits).digest == digest
    assert quantize.calibration(QuantizeStep(images=71), digits).digest != digest
    assert len(calibration.sample(5)) == 5
    assert len(calibration.sample(500)) == 70


def test_few_calibration_images_and_one_class_are_told(
    floats: dict[str, Any], model: Path, digits: Dataset, tmp_path: Path
) -> None:
    import dataclasses

    samples = digits.index.samples["calibration"]
    threes = [i for i, s in enumerate(samples) if s.label == 3][:5]
    index = dataclasses.replace(
        digits.index,
        samples={**digits.index.samples, "calibration": tuple(samples[i] for i in threes)},
    )
    few = dataclasses.replace(
        digits, index=index,
        images={**digits.images, "calibration": digits.images["calibration"][threes]},
        labels={**digits.labels, "calibration": digits.labels["calibration"][threes]},
    )  # fmt: skip
    result = export(model, "onnx", "int8", "u8s8", QuantizeStep(), few, tmp_path, floats["onnx"].path)
    assert "5 calibration images where 256 were asked for: the data has no more" in result.notes
    assert any(note.startswith("all calibration images are of one class, 3") for note in result.notes)


def test_the_float_file_is_made_when_none_is_given(model: Path, digits: Dataset, tmp_path: Path) -> None:
    result = export(model, "onnx", "int8", "u8s8-7bit", QuantizeStep(images=32), digits, tmp_path)
    assert result.path.name == "model-int8-u8s8-7bit.onnx"
    assert result.parity["agreement"] >= 0.9


def test_a_file_of_another_model_does_not_pass(model: Path, digits: Dataset, tmp_path: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    program = torch.onnx.export(other, (torch.zeros(2, 1, 8, 8),), dynamo=True, verbose=False,
                                dynamic_shapes=({0: torch.export.Dim("batch")},))  # fmt: skip
    program.save(str(tmp_path / "other.onnx"), external_data=False)
    with pytest.raises(ParityError, match="validation image"):
        export(
            model, "onnx", "fp16", "", None, digits, tmp_path / "w", float_artifact=tmp_path / "other.onnx"
        )


def test_a_failing_converter_is_named_with_its_reason(digits: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "branchy.py"
    source.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(64, n)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        return self.fc(x) if x.sum() > 0 else self.fc(-x)\n"
        "def make(num_classes):\n"
        "    return Net(num_classes)\n"
    )
    arch = f"py:{source}:make"
    path = tmp_path / "branchy.safetensors"
    spec = models.ModelSpec(arch, 10, 1, tuple("0123456789"), digits.preprocess)
    models.save(models.build(arch, 10, 1), spec, path)
    with pytest.raises(StepError, match=r"Exporting to onnx failed.*(?i:data-dependent)"):
        export(path, "onnx", "fp32", "", None, digits, tmp_path / "w")


def test_without_the_litert_packages_the_error_names_the_extra(
    model: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingError, match=r"edgefit\[litert\]"):
        export(model, "tflite", "fp32", "", None, digits, tmp_path)


def test_a_model_above_two_gigabytes_is_refused_for_onnx(
    model: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float_files, "ONNX_LIMIT", 10_000)
    with pytest.raises(StepError, match="too large for one ONNX file"):
        export(model, "onnx", "fp32", "", None, digits, tmp_path)


def test_a_refused_export_writes_nothing(model: Path, digits: Dataset, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(StepError, match="no bf16"):
        export(model, "tflite", "bf16", "", None, digits, work)
    with pytest.raises(ConfigError, match="at least one image"):
        export(model, "onnx", "int8", "u8s8", QuantizeStep(images=0), digits, work)
    assert not work.exists()
