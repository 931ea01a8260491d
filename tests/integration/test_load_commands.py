"""`bench load` and `bench sweep` on small ONNX files, from the command to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli import cli
from bench.errors import EXIT_DONE, EXIT_SOME_FAILED, MissingError
from bench.measure import load as measuring
from bench.measure import sweep as sweeping
from bench.measure.load import SCENARIOS, LoadOptions, load_file

pytest.importorskip("onnxruntime")


def write_onnx(path: Path, batch: int | str = "n", breaks: bool = False) -> Path:
    """An ONNX file: a mean over channels and a matrix product; ``breaks`` fails on every bright picture."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((144, 7)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weight, "w")]
    if breaks:  # a row that is not there is asked for as soon as the mean of a picture is above 0.5
        nodes[2:] = [
            helper.make_node("ReduceMean", ["f"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "two"], ["doubled"]),
            helper.make_node("Cast", ["doubled"], ["row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["one", "row"], ["factor"]),
            helper.make_node("MatMul", ["f", "w"], ["z"]),
            helper.make_node("Mul", ["z", "factor"], ["y"]),
        ]
        constants += [
            numpy_helper.from_array(np.float32(2), "two"),
            numpy_helper.from_array(np.ones(1, np.float32), "one"),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 7])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Short warm-ups, and a folder of one's own in which nothing may be left behind."""
    monkeypatch.setattr(measuring, "WARMUP_SECONDS", 0.1)
    monkeypatch.setattr(sweeping, "STREAMS_WARMUP", 0.1)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def invoke(*arguments: str):
    return CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize(
    ("scenario", "extra"),
    [
        ("single-stream", []),
        ("multi-stream", ["--batch", "8"]),
        ("offline", ["--batch", "4", "--streams", "2"]),
        ("server", ["--qps", "200", "--latency-bound", "1000"]),
    ],
)
def test_a_scenario_has_loadgens_verdict_and_mlperfs_figure(
    scenario: str, extra: list, tmp_path: Path, soon: Path
) -> None:
    pytest.importorskip("mlperf_loadgen")
    path = write_onnx(tmp_path / "m.onnx")
    done = invoke("load", str(path), "--scenario", scenario, "--seconds", "0.5", *extra)
    found = json.loads(done.stdout)
    assert done.return_value == EXIT_DONE and found["status"] == "ok", found["reason"]
    assert found["verdict"] in ("VALID", "INVALID")
    assert bool(found["verdict_reasons"]) is (found["verdict"] == "INVALID")
    best = found[found["headline"]]
    assert best["value"] > 0 and best["n"] > 0 and best["provenance"] == "measured"
    assert f"LoadGen {found['loadgen']}, {SCENARIOS[scenario][0]}" in best["method"]
    assert any("not an MLPerf submission" in note for note in found["notes"])
    assert any("random" in note for note in found["notes"])
    assert list(soon.iterdir()) == []


def test_a_bound_that_is_not_kept_is_invalid_and_no_failure(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    path = write_onnx(tmp_path / "m.onnx")
    arguments = ["--scenario", "server", "--qps", "100", "--latency-bound", "0.001", "--seconds", "0.5"]
    done = invoke("load", str(path), *arguments)
    found = json.loads(done.stdout)
    assert done.return_value == EXIT_DONE and found["status"] == "ok"
    assert found["verdict"] == "INVALID"
    assert "Performance constraints satisfied: no" in found["verdict_reasons"]
    assert (found["qps"], found["latency_bound_ms"]) == (100.0, 0.001)


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_a_model_that_fails_on_some_images_ends_the_test_with_the_reason(
    scenario: str, tmp_path: Path
) -> None:
    pytest.importorskip("mlperf_loadgen")
    from bench.hosts import open_host
    from bench.runtimes import get
    from bench.runtimes.base import CellJob
    from bench.types import Artifact, Preprocess

    images = np.zeros((8, 12, 12, 3), np.uint8)
    images[5] = 255
    np.save(tmp_path / "images.npy", images)
    path = write_onnx(tmp_path / "breaks.onnx", breaks=True)
    preprocess = Preprocess(12, 12, 3, (0.0,) * 3, (1.0,) * 3)
    artifact = Artifact("onnx", "", path.stat().st_size, path.name, preprocess=preprocess)
    ask = {"scenario": scenario, "streams": 1, "seconds": 0.5}
    job = CellJob(artifact, path, tmp_path, images=tmp_path / "images.npy", predict=False, load=ask)
    raw, quantities, verdict = measuring.run_load(
        job, get("onnxruntime"), open_host("local"), lambda *_: None
    )
    assert raw["status"] == "failed" and "Gather" in raw["reason"] and verdict is None
    assert all(q.value is None and q.reason == raw["reason"] for q in quantities.values())


def test_without_loadgen_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "bench.measure.load.importlib.util.find_spec",
        lambda name: None if name == "mlperf_loadgen" else real(name),
    )
    path = write_onnx(tmp_path / "m.onnx")
    with pytest.raises(MissingError, match=r'pip install "edgefit\[loadgen\]"'):
        load_file(
            path,
            LoadOptions("offline"),
            runtime="",
            data="",
            batch=1,
            threads=1,
            seed=0,
            notify=lambda *_: None,
        )


def test_a_sweep_has_a_row_a_setting_and_a_reason_where_one_failed(tmp_path: Path, soon: Path) -> None:
    path = write_onnx(tmp_path / "fixed.onnx", batch=2)
    arguments = ["--batches", "2,3", "--threads", "1", "--streams", "1,2", "--max-seconds", "0.3"]
    done = invoke("sweep", str(path), *arguments)
    assert done.return_value == EXIT_SOME_FAILED
    found = json.loads(done.stdout)
    rows = {(r["batch"], r["streams"]): r for r in found["settings"]}
    assert set(rows) == {(2, 1), (3, 1), (2, 2), (3, 2)}
    for (batch, streams), row in rows.items():
        if batch == 3:
            assert row["status"] == "failed" and "batch of 2" in row["reason"]
            assert row["latency_ms"] == {"value": None, "unit": "ms", "reason": row["reason"]}
            continue
        latency, rate = row["latency_ms"], row["throughput_ips"]
        assert row["status"] == "ok" and 0 < latency["low"] <= latency["value"] <= latency["high"]
        assert 0 < rate["low"] <= rate["value"] <= rate["high"]
        assert ("2 instances" in rate["method"]) is (streams == 2)
    assert list(soon.iterdir()) == []


def test_the_tables_are_for_people(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    done = CliRunner().invoke(
        cli, ["sweep", str(path), "--batches", "1", "--max-seconds", "0.2"], standalone_mode=False
    )
    assert done.return_value == EXIT_DONE
    assert "throughput, images/s" in done.stdout and "m.onnx on onnxruntime" in done.stdout
