"""A runtime lent to a step: real files, timed by turns."""

from __future__ import annotations

import pytest

from bench.errors import MissingError, UsageError
from bench.measure import environment
from bench.runtimes.base import Probe
from bench.runtimes.onnxruntime_ import OnnxRuntime
from bench.targets import _foretold, open_target
from bench.types import ExportResult
from distill import models
from hardware_profiles.predict import Setting
from tests.tiny import Tiny


def test_a_file_against_itself_takes_as_long(tiny: Tiny):
    target = open_target("onnxruntime", environment.describe())
    made = ExportResult(tiny.path("onnx"), tiny.artifact("onnx"), {})
    found = target.ratio(made, made)
    assert target.format == "onnx" and target.scheme.startswith("u8s8")
    assert found.n == 3 and found.low <= found.value <= found.high
    assert found.value == pytest.approx(1.0, abs=0.4)  # of three short pairs beside other tests
    assert found.provenance == "measured" and "by turns" in found.method


def test_nets_are_foretold_in_one_unit_and_only_where_there_is_a_predictor():
    machine = environment.describe()
    big, small = (models.build(f"edgefit:resnet{n}", 10, 3).eval() for n in (20, 8))
    for runtime in ("onnxruntime", "litert"):
        target = open_target(runtime, machine)
        ratio = target.foretold(small, (3, 32, 32)) / target.foretold(big, (3, 32, 32))
        assert 0.25 < ratio < 0.45  # of MACs it is 0.31, of kernels 0.5
    assert _foretold(Setting("wasm", "fp32"), small, (3, 32, 32)) is None
    assert _foretold(Setting("onnxruntime", "fp32"), small, (5, 32, 32)) is None  # it cannot be run


def test_a_runtime_that_is_not_here_says_what_to_do(monkeypatch):
    absent = Probe(False, reason="the package onnxruntime is not installed", remedy="pip install onnxruntime")
    monkeypatch.setattr(OnnxRuntime, "probe", lambda self, host: absent)
    with pytest.raises(MissingError, match=r"not here.*pip install onnxruntime"):
        open_target("onnxruntime", {})


def test_an_unknown_runtime_is_named():
    with pytest.raises(UsageError, match="Did you mean onnxruntime"):
        open_target("onnxruntmie", {})
