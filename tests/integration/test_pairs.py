"""Pairs of real workers timed by turns."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from bench.errors import WorkerError
from bench.hosts import open_host
from bench.measure import selftest
from bench.measure.artifact import open_artifact
from bench.measure.turns import Order, time_pair
from bench.runtimes.base import CellJob
from bench.types import Protocol

HOST = open_host("local")


@pytest.fixture
def sides(tmp_path: Path):
    path = selftest.standard_model(tmp_path)
    opened = open_artifact(path, "onnxruntime")
    artifact, runtime = opened.artifact, opened.runtime
    found = {}
    for side in ("base", "head"):
        (tmp_path / side).mkdir()
        protocol = Protocol(max_seconds=0.5, warmup_seconds=0.1, min_runs=10)
        found[side] = (
            runtime,
            CellJob(artifact, path, tmp_path / side, protocol=protocol, predict=False),
        )
    return found


def larger(path: Path) -> Path:
    """The same model for images of four times the side: sixteen times the work."""
    import onnx

    model = onnx.load(path)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value *= 4
    onnx.save(model, path.with_name("larger.onnx"))
    return path.with_name("larger.onnx")


@pytest.mark.parametrize("order", [("base", "head"), ("head", "base")])
def test_sixteen_times_the_work_is_seen_whoever_begins(sides, order: Order) -> None:
    runtime, job = sides["head"]
    path = larger(job.path)
    sides["head"] = (runtime, replace(job, path=path, artifact=open_artifact(path, "onnxruntime").artifact))
    found = time_pair(sides, order, HOST)
    assert 4 < found.ratio < 64  # a busy machine holds up the short calls more than the long ones
    by_turn = [math.log(head / base) for base, head in zip(*found.turns, strict=False)]
    assert found.ratio == pytest.approx(math.exp(statistics.median(by_turn)), rel=1e-3)
    for seconds, milliseconds in zip(found.calls, (found.base_ms, found.head_ms), strict=True):
        assert milliseconds == pytest.approx(1e3 * statistics.median(seconds))


def test_a_side_that_cannot_be_timed_is_an_error(sides, tmp_path: Path) -> None:
    runtime, job = sides["head"]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    sides["head"] = (runtime, replace(job, path=broken))
    with pytest.raises(WorkerError, match=r"broken.onnx could not be timed on onnxruntime"):
        time_pair(sides, ("base", "head"), HOST)
