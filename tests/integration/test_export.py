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
from bench.types import QuantizeStep, StepContext, Training, TrainStep
from compress import export as module
from compress import parity
from compress.export import export
from distill import models, train
from distill.data import Dataset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("model")
    step = TrainStep("edgefit:tiny", training=Training(epochs=6, batch_size=64, augment=()))
    ctx = StepContext("v", 0, lambda: digits, None, None, work, lambda *_: None)
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
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", module.OPSET)]
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
        assert any("3 of 3 convolutions, 1 of 1 matrix products" in note for note in result.notes)
        assert "calibrated on 64 images (minmax)" in result.notes
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
    monkeypatch.setattr(module, "ONNX_LIMIT", 10_000)
    with pytest.raises(StepError, match="too large for one ONNX file"):
        export(model, "onnx", "fp32", "", None, digits, tmp_path)


def test_a_refused_export_writes_nothing(model: Path, digits: Dataset, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(StepError, match="no bf16"):
        export(model, "tflite", "bf16", "", None, digits, work)
    with pytest.raises(ConfigError, match="at least one image"):
        export(model, "onnx", "int8", "u8s8", QuantizeStep(images=0), digits, work)
    assert not work.exists()
