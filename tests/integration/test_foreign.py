"""`bench measure` on files made elsewhere: what they take is found or asked for, and what is broken has a reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli import cli
from tests.tiny import Tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
SIDE = 8
QUICK = ["--max-seconds", "0.1", "--processes", "1", "--json"]
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no reports from tests


def measure(*arguments: object) -> tuple[int, dict, str]:
    """Exit status, the JSON document, and what was said besides."""
    done = CliRunner().invoke(cli, ["measure", *map(str, arguments), *QUICK], standalone_mode=False)
    assert not isinstance(done.exception, SystemExit), done.output
    if done.exception is not None:
        from bench.errors import EdgefitError

        assert isinstance(done.exception, EdgefitError), repr(done.exception)
        return done.exception.exit_code, {}, str(done.exception)
    return done.return_value, json.loads(done.stdout), done.stderr


def pixel_classifier(shape: list, classes: int, dtype: str = "FLOAT", first: int = 0) -> onnx.ModelProto:
    """Flattens its input, takes it to float, and multiplies; column ``first`` and after are the classes."""
    from onnx import TensorProto, helper, numpy_helper

    sides = [d for d in shape[1:] if isinstance(d, int)]
    weight = np.random.default_rng(1).standard_normal((int(np.prod(sides)), classes)).astype(np.float32)
    weight[:, :first] = -10
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["real"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", getattr(TensorProto, dtype), shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [shape[0], classes])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def nodes(*made: object, shape: tuple = (1, 3, SIDE, SIDE), **opsets: int) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        list(made),
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(n, v) for n, v in opsets.items())]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


# What a file takes


@pytest.mark.parametrize(
    ("shape", "dtype", "arguments", "note"),
    [
        (["n", 3, SIDE, SIDE], "FLOAT", ["--batch", 4], "layout NCHW found"),
        ([1, SIDE, SIDE, 3], "UINT8", [], "fed with pixels, 0 to 255"),
        ([1, 3, SIDE, SIDE], "FLOAT16", ["--preprocess", "imagenet"], "random images"),
        (["n", 3, SIDE, SIDE], "INT8", [], "the whole range of int8"),
    ],
)
def test_inputs_of_many_kinds_are_fed(
    shape: list, dtype: str, arguments: list, note: str, tmp_path: Path
) -> None:
    path = save(pixel_classifier(shape, 5, dtype), tmp_path / "m.onnx")
    code, cell, _ = measure(path, *arguments)
    assert code == 0, cell["reason"]
    assert cell["latency_ms"]["value"] > 0 and any(note in n for n in cell["notes"]), cell["notes"]


def test_every_runtime_that_takes_the_file_has_its_cell(tmp_path: Path) -> None:
    path = save(pixel_classifier(["n", 3, SIDE, SIDE], 5), tmp_path / "m.onnx")
    code, found, _ = measure(path, "--runtime", "all")
    assert code == 0 and found["schema"] == 1
    measured = {c["runtime"] for c in found["cells"]}
    assert "onnxruntime" in measured and measured | set(found["absent"]) == {
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt-dla",
        "browser",
        "browser-webgpu",
    }
    assert all(c["latency_ms"]["value"] > 0 for c in found["cells"])


def test_a_quantized_file_is_int8_wherever_it_is_described(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    from bench.gate.sides import from_file
    from reports.cell import render_cell

    net = pixel_classifier([1, 3, SIDE, SIDE], 5)
    weight = numpy_helper.to_array(net.graph.initializer[0])
    whole = np.clip(np.round(weight / 0.05), -128, 127).astype(np.int8)
    net.graph.initializer[0].CopyFrom(numpy_helper.from_array(whole, "q"))
    net.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "scale"))
    net.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]))
    path = save(net, tmp_path / "m.onnx")
    code, cell, _ = measure(path)
    assert code == 0 and cell["precision"] == "int8"
    assert render_cell(cell).startswith(f"{path} on onnxruntime, int8, batch 1, 1 thread")
    (side,) = from_file(path, "onnxruntime").sides.values()
    assert side.artifact.precision == "int8"


def test_a_free_side_is_asked_for_and_then_taken(tmp_path: Path) -> None:
    from onnx import helper

    path = save(nodes(helper.make_node("GlobalAveragePool", ["image"], ["scores"]), shape=("n", 3, "h", "w")),
                tmp_path / "m.onnx")  # fmt: skip
    code, _, said = measure(path)
    assert code == 2 and "--input-size" in said
    code, cell, _ = measure(path, "--input-size", "12x20")
    assert code == 0, cell["reason"]


def test_classes_after_a_background_are_judged(tmp_path: Path) -> None:
    """Digits have 10 classes; the file answers 11, takes colour and raw pixels."""
    path = save(pixel_classifier(["n", SIDE, SIDE, 3], 11, "UINT8", first=1), tmp_path / "m.onnx")
    code, cell, _ = measure(path, "--data", "digits")
    assert code == 0, cell["reason"]
    assert 0 <= cell["accuracy"]["value"] <= 1 and len(cell["classification"]["labels"]) == 10
    assert any("the first taken for the background" in n for n in cell["notes"])
    code, other, _ = measure(path, "--data", "digits", "--label-offset", 1)
    assert other["accuracy"]["value"] == cell["accuracy"]["value"]


def test_preprocessing_is_never_guessed_for_accuracy(tmp_path: Path) -> None:
    path = save(pixel_classifier(["n", 3, SIDE, SIDE], 10), tmp_path / "m.onnx")
    code, _, said = measure(path, "--data", "digits")
    assert (
        code == 2 and "How pixels become the input of m.onnx is not known" in said and "--preprocess" in said
    )
    code, cell, _ = measure(path, "--data", "digits", "--range=-1..1")
    assert code == 0 and cell["accuracy"]["n"] > 100
    code, _, said = measure(
        save(pixel_classifier(["n", 3, SIDE, SIDE], 7), path), "--data", "digits", "--range", "0..1"
    )
    assert code == 2 and "7 classes" in said and "--label-offset" in said


def test_a_quantised_tflite_says_its_range(tiny: Tiny, tmp_path: Path) -> None:
    quantizer = pytest.importorskip("ai_edge_quantizer")
    pytest.importorskip("ai_edge_litert")
    from compress.quiet import quiet

    signature = "serving_default"
    with quiet():
        made = quantizer.Quantizer(str(tiny.path("tflite")), quantizer.recipe.static_wi8_ai8())
        images = np.load(tiny.images).astype(np.float32) / 255
        data = {signature: [{"args_0": image[None]} for image in images]}
        path = tmp_path / "m.tflite"
        path.write_bytes(made.quantize(made.calibrate(data)).quantized_model)
    code, cell, _ = measure(path)
    assert code == 0, cell["reason"]
    assert cell["environment"]["runtime"]["inputs"][0]["dtype"] == "int8"
    assert any("0..1 found from the input's scale" in n for n in cell["notes"]), cell["notes"]


# What is broken


def custom(folder: Path) -> Path:
    from onnx import helper

    return save(
        nodes(helper.make_node("Mystery", ["image"], ["scores"], domain="other"), other=1), folder / "m.onnx"
    )


def future(folder: Path) -> Path:
    model = pixel_classifier([1, 3, SIDE, SIDE], 5)
    model.opset_import[0].version = 999
    return save(model, folder / "m.onnx")


def truncated(folder: Path) -> Path:
    path = save(pixel_classifier([1, 3, SIDE, SIDE], 5), folder / "m.onnx")
    path.write_bytes(path.read_bytes()[:-400])
    return path


def not_a_number(folder: Path) -> Path:
    from onnx import helper

    root = helper.make_node("Sqrt", ["image"], ["root"])
    return save(nodes(root, helper.make_node("GlobalAveragePool", ["root"], ["scores"])), folder / "m.onnx")


def two_inputs(folder: Path) -> Path:
    from onnx import TensorProto, helper

    model = nodes(helper.make_node("Add", ["image", "second"], ["scores"]))
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 3, SIDE, SIDE]))
    return save(model, folder / "m.onnx")


def two_outputs(folder: Path) -> Path:
    from onnx import TensorProto, helper

    model = nodes(
        helper.make_node("Relu", ["image"], ["scores"]), helper.make_node("Neg", ["image"], ["other"])
    )
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    return save(model, folder / "m.onnx")


def text(folder: Path) -> Path:
    pytest.importorskip("ai_edge_litert")
    path = folder / "m.tflite"
    path.write_text("a label\n" * 200)
    return path


def half_an_ir(folder: Path) -> Path:
    pytest.importorskip("openvino")
    path = folder / "m.xml"
    path.write_text('<?xml version="1.0"?><net name="m" version="11"><layers/></net>')
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (custom, "Mystery"),
        (future, "opset"),
        (truncated, "m.onnx"),
        (not_a_number, "non-finite outputs"),
        (two_inputs, "2 inputs (image"),
        (two_outputs, "2 outputs (scores"),
        (text, "load: "),
        (half_an_ir, "needs m.bin beside it"),
    ],
)
def test_what_cannot_be_run_has_its_reason(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    code, cell, _ = measure(make(tmp_path), "--range=-1..1")
    assert code == 3 and cell["status"] == "failed"
    assert words in cell["reason"] and "Traceback" not in cell["reason"] and cell["device"] in ("cpu", None)
    assert cell["latency_ms"] == {"value": None, "unit": "ms", "reason": cell["reason"]}


@pytest.mark.parametrize("name", ["folder.onnx", "empty.onnx", "gone.onnx", "m.h5"])
def test_what_is_no_model_file_is_wrong_usage(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "m.h5").write_bytes(b"1")
    code, _, said = measure(tmp_path / name)
    assert code == 2 and name in said


def test_another_size_than_the_file_takes_is_wrong_usage(tmp_path: Path) -> None:
    path = save(pixel_classifier([1, 3, SIDE, SIDE], 5), tmp_path / "m.onnx")
    code, _, said = measure(path, "--input-size", 224)
    assert code == 2 and "takes images of 8 x 8" in said


def test_a_batch_that_the_file_or_the_memory_cannot_take(tmp_path: Path) -> None:
    fixed = save(pixel_classifier([1, 3, SIDE, SIDE], 5), tmp_path / "fixed.onnx")
    code, cell, _ = measure(fixed, "--batch", 2)
    assert code == 3 and "fixed batch of 1, not 2" in cell["reason"]
    from onnx import helper

    wide = nodes(helper.make_node("GlobalAveragePool", ["image"], ["scores"]), shape=("n", 3, "h", "w"))
    code, cell, _ = measure(save(wide, tmp_path / "wide.onnx"), "--batch", 4096, "--input-size", 8000)
    assert code == 3 and "a batch of 4096 takes" in cell["reason"] and "GB are free" in cell["reason"]
