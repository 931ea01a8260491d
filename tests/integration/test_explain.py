"""`bench explain`: the runtimes' own profilers, what is found beside each operator, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import explain_subject
from bench.errors import UsageError
from bench.explain import explain
from bench.explain_subject import subject_of_file, subject_of_run
from bench.store import read_run
from compress.quiet import quiet
from compress.speed.facts import read_graph
from reports.explain import render_html, render_md, render_terminal
from tests.command import bench
from tests.tiny import CLASSES, Tiny

MACS = 144 * 8 * 3 * 9 + 36 * 16 * 8 * 9 + 16 * CLASSES


def explained(path: Path, runtime: str, **options: Any) -> dict[str, Any]:
    given = {"batch": 1, "threads": 1, "seed": 0, "notify": lambda event, info: None} | options
    return explain(subject_of_file(path, runtime), **given)


@pytest.fixture(scope="module")
def found(tiny: Tiny) -> dict[str, Any]:
    return explained(tiny.path("onnx"), "onnxruntime")


@pytest.mark.parametrize(
    ("runtime", "fmt"), [("onnxruntime", "onnx"), ("litert", "tflite"), ("openvino", "onnx")]
)
def test_every_runtime_names_the_layers_and_their_time(tiny: Tiny, runtime: str, fmt: str) -> None:
    found = explained(tiny.path(fmt), runtime)
    layers = [row for row in found["layers"] if row["macs"]["value"]]
    assert len(layers) == 3 and sum(row["macs"]["value"] for row in layers) == MACS
    assert {row["state"] for row in layers} == {"float"}
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1.0)
    # together they are what a call takes without the profiler, as far as whole microseconds tell
    total = sum(row["time_us"]["value"] for row in found["layers"])
    assert 0 < total < 1.5e3 * found["plain_ms"]["value"] + len(found["layers"])
    for row in found["layers"]:
        time = row["time_us"]
        assert time["low"] <= time["value"] <= time["high"] and time["provenance"] == "measured"
        assert found["profiler"] in time["method"]
        assert row["sqnr_db"]["value"] is None and row["sqnr_db"]["reason"]
    assert found["profiled_ms"]["n"] == found["plain_ms"]["n"] >= 10


def test_layers_of_a_file_of_quantized_operators_share_scales_and_are_told_apart(
    tiny: Tiny, tmp_path: Path
) -> None:
    """The scale of a convolution's output is an input of the next one, and QGemm's weights are its fourth input."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            images = np.random.default_rng(0).random((1, 3, 12, 12), dtype=np.float32)
            self._left = iter([{"input": images}])

        def get_next(self) -> Any:
            return next(self._left, None)

    path = tmp_path / "operators.onnx"
    quantize_static(tiny.path("onnx"), path, Images(), quant_format=QuantFormat.QOperator)
    graph = read_graph(path, "onnx")
    assert sum(layer.macs for layer in graph.layers) == MACS
    assert [k.layer.name for k in graph.kernels if k.layer] == [layer.name for layer in graph.layers]
    assert [k.op for k in graph.kernels if k.layer] == ["QLinearConv", "QLinearConv", "QGemm"]


def test_the_profiled_litert_model_computes_what_the_interpreter_computes(tiny: Tiny) -> None:
    from bench.agent.backends.litert import LiteRt
    from bench.agent.backends.litert_c import ProfiledLiteRt

    image = np.random.default_rng(0).standard_normal((1, 12, 12, 3)).astype("float32")
    answers = []
    with quiet():
        for backend in (LiteRt(), ProfiledLiteRt()):
            backend.load(str(tiny.path("tflite")), 1, "cpu")
            backend.set_batch(1)
            backend.feed(image)
            backend.call()
            answers.append(backend.fetch())
    np.testing.assert_array_equal(*answers)


def test_an_operator_outside_the_delegate_is_named(tmp_path: Path) -> None:
    """Hard swish in int8 is not taken by XNNPACK: it must not look like one of its kernels."""
    import torch
    from ai_edge_quantizer import quantizer, recipe
    from torch import nn

    from compress.float_files import write_tflite

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 64, 4)
    )
    plain, whole = tmp_path / "net.tflite", tmp_path / "int8.tflite"
    with quiet():
        write_tflite(net.eval(), torch.randn(1, 3, 12, 12), plain)
        tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
        images = np.random.default_rng(0).standard_normal((8, 1, 12, 12, 3)).astype("float32")
        ranges = tool.calibrate({"serving_default": [{"args_0": image} for image in images]})
        tool.quantize(ranges).export_model(str(whole))
    found = explained(whole, "litert")
    assert found["precision"] == "int8" and found["graph"]["int8_layers"] == 3
    outside = [row for row in found["layers"] if any("not taken by XNNPACK" in r for r in row["reasons"])]
    assert [row["op"] for row in outside] == ["HARD_SWISH"]
    assert any("1 HARD_SWISH" in cause for cause in found["causes"])


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_lists_the_slowest_first_and_a_total(found: dict[str, Any], width: int) -> None:
    shown = render_terminal(found, width, top=2)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    slowest = max(found["layers"], key=lambda row: row["time_us"]["value"])
    head = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert lines[head + 2].startswith(slowest["name"])
    assert any(line.startswith(f"{len(found['layers']) - 2} others") for line in lines)
    total = next(line for line in lines if line.startswith(f"all {len(found['layers'])}"))
    assert "100.0" in total
    assert "% of a call without the profiler" in shown.replace("\n", " ")
    assert "no SQNR" in shown


def test_markdown_and_page_hold_every_operator(found: dict[str, Any]) -> None:
    rows = [line for line in render_md(found).splitlines() if line.startswith("| ")]
    assert len(rows) == len(found["layers"]) + 1
    page = render_html(found)
    assert page.count('<th scope="row">') == len(found["layers"])
    assert "default-src 'none'" in page and "src=" not in page.split("<script")[0]
    payload = json.loads(page.split('id="payload">')[1].split("</script>")[0])
    bars = [trace for trace in payload["figure"]["data"] if trace["type"] == "bar"]
    assert sum(len(trace["x"]) for trace in bars) == len(found["layers"])


def test_names_from_a_file_stay_text(found: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(found))
    hostile["layers"][0] |= {"name": "</script><img src=x>|", "reasons": ["<b>|"]}
    assert "<img" not in render_html(hostile).replace("\\u003cimg", "")
    rows = [line for line in render_md(hostile).splitlines() if line.startswith("| 1 |")]
    assert "\\<img" in rows[0] and rows[0].replace("\\|", "").count("|") == 11
    assert "</script><img src=x>|" in render_terminal(hostile, 200)


def test_what_cannot_be_profiled_is_an_error_that_says_what_can(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="onnxruntime, litert, openvino"):
        subject_of_file(tiny.path("pt2"), "torch")
    with pytest.raises(UsageError, match="Did you mean onnxruntime"):
        subject_of_file(tiny.path("onnx"), "onnxruntim")
    with pytest.raises(UsageError, match="no model that a runtime here takes"):
        subject_of_file(tiny.images, "")


@pytest.mark.slow
def test_a_variant_of_a_run_has_its_noise_and_the_latency_of_its_cell(finished: Path) -> None:
    run = read_run(finished / "run")
    done = bench("explain", "teacher-int8", "--run", "run", "--json", "--output", "e.html", cwd=finished)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    cell = next(
        c for c in run.cells
        if (c["cell"]["variant"], c["cell"]["runtime"], c["cell"]["host"]) == ("teacher-int8", "onnxruntime", "local")
    )  # fmt: skip
    assert found["runtime"] == "onnxruntime" and found["variant"] == "teacher-int8"
    assert found["latency_ms"]["value"] == pytest.approx(cell["metrics"]["latency_ms"]["value"])
    integer = [row for row in found["layers"] if row["state"] == "int8" and row["macs"]["value"]]
    assert integer and all(5 < row["sqnr_db"]["value"] < 150 for row in integer)
    # noise adds up on the way: what goes into a layer is not worse than what comes out of the whole net
    assert integer[0]["sqnr_db"]["value"] > integer[-1]["sqnr_db"]["value"]
    assert (finished / "e.html").stat().st_size > 1_000_000
    with pytest.raises(UsageError, match="it was measured on"):
        subject_of_run(run, "teacher", "openvino", 1, 1)
    with pytest.raises(UsageError, match="Did you mean teacher"):
        subject_of_run(run, "teachr", "", 1, 1)


def _record(step: dict[str, Any], ladder: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """A run of a net and of its int8 child, and the record of the child's file."""
    plain = {"variant": "net", "artifact": {"precision": "fp32", "format": "onnx", "sha256": "plain"}}
    child = {"variant": "int8", "artifact": {"precision": "int8", "format": "onnx"}, "ladder": ladder}
    variants = {"net": {"parent": ""}, "int8": {"parent": "net", "step": step, "model": {"sha256": "own"}}}
    run = SimpleNamespace(variants=variants, artifacts={"a": plain, "b": child}, object_path=Path)
    return run, child


def _rung(name: str, drop: float, held: bool, equalized: bool) -> dict[str, Any]:
    return {"rung": name, "drop": {"value": drop}, "held": held, "equalized": equalized}


@pytest.mark.parametrize(
    ("step", "ladder", "found"),
    [
        ({"kind": "quantize"}, [], (Path("plain"), None)),
        ({"kind": "qat"}, [], (None, Path("own"))),
        ({"kind": "quantize", "equalize": True}, [], "equalisation"),
        ({"kind": "quantize"}, [_rung("channel", 0.0, True, False)], (Path("plain"), None)),
        ({"kind": "quantize"}, [_rung("channel", 0.4, False, False), _rung("equalize", 0.1, True, True)], "equalisation"),
        ({"kind": "quantize"}, [_rung("equalize", 0.4, False, True), _rung("mse", 0.1, True, True)], "equalisation"),
        ({"kind": "quantize"}, [_rung("equalize", 0.4, False, True), _rung("mse", 0.1, True, False)], (Path("plain"), None)),
        ({"kind": "quantize"}, [_rung("mse", 0.4, False, False), _rung("qat", 0.1, True, False)], "trained in int8"),
        ({"kind": "quantize"}, [_rung("equalize", 0.1, False, True), {"rung": "qat", "drop": None}], "equalisation"),
    ],
)  # fmt: skip
def test_noise_is_measured_against_the_same_weights_in_float(step: Any, ladder: Any, found: Any) -> None:
    run, record = _record(step, ladder)
    path, model, reason = explain_subject._float_weights(run, "int8", record)
    if isinstance(found, str):
        assert path is None and model is None and found in reason
    else:
        assert (path, model, reason) == (*found, "")


@pytest.mark.slow
def test_artifacts_of_a_run_record_what_their_graphs_show(finished: Path) -> None:
    run = read_run(finished / "run")
    graphs = {(r["variant"], r["format"]): r["graph"] for r in run.artifacts.values()}
    assert graphs["teacher", "onnx"]["layers"] == graphs["teacher", "tflite"]["layers"] > 0
    assert graphs["teacher", "onnx"]["int8_layers"] == 0 < graphs["teacher-int8", "onnx"]["int8_layers"]
