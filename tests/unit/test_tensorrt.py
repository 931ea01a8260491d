"""Building and running engines, on stand-ins for TensorRT 8.6, 10.3 and 11.0 and for CUDA. Nothing here has seen a GPU."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.agent.backends import cuda, tensorrt_
from bench.agent.backends import tensorrt_rules as rules
from bench.agent.inputs import Refused
from tests.standins import flat_onnx

pytest.importorskip("onnxruntime")
STANDINS = str(Path(__file__).parents[1] / "standins")
SHAPE = (2, 3, 4, 4)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flat_onnx(tmp_path_factory.mktemp("onnx") / "net.onnx")


@pytest.fixture
def version() -> str:
    return "10.3.0"


@pytest.fixture
def standin(version: str, monkeypatch: pytest.MonkeyPatch):
    """The stand-in as the module ``tensorrt``; its ``CALLS`` are empty."""
    monkeypatch.setenv("EDGEFIT_STANDIN_TENSORRT", version)
    monkeypatch.syspath_prepend(STANDINS)
    monkeypatch.setattr(cuda, "library", cuda.library)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield importlib.import_module("tensorrt")
    sys.modules.pop("tensorrt", None)


def ready(path: Path, precision: str = "fp32", device: str = "cuda", engines: Path | None = None):
    """A backend with the file loaded for batches of two."""
    backend = tensorrt_.TensorRt()
    backend.precision, backend.engines = precision, str(engines or "")
    backend.load(str(path), 1, device)
    backend.set_batch(SHAPE[0])
    return backend


def told(standin, kind: str) -> list:
    return [call[1] for call in standin.CALLS if call[0] == kind]


@pytest.mark.parametrize(
    ("version", "precision", "network", "flags", "says"),
    [
        ("8.6.1", "fp32", ["EXPLICIT_BATCH"], [], "TF32"),
        ("8.6.1", "fp16", ["EXPLICIT_BATCH"], ["FP16"], "FP16 allowed by builder flag"),
        ("8.6.1", "int8", ["EXPLICIT_BATCH"], ["INT8"], "INT8 allowed by builder flag"),
        ("10.3.0", "fp32", [], [], "TF32"),
        ("10.3.0", "fp16", [], ["FP16"], "FP16 allowed by builder flag"),
        ("10.3.0", "int8", ["STRONGLY_TYPED"], [], "strongly typed"),
        ("11.0.0", "fp32", [], [], "TF32"),
        ("11.0.0", "fp16", [], [], "strongly typed"),
        ("11.0.0", "int8", [], [], "strongly typed"),
    ],
)
def test_each_version_is_told_only_the_flags_it_has(
    standin, onnx_file: Path, precision: str, network: list, flags: list, says: str
) -> None:
    backend = ready(onnx_file, precision)
    assert told(standin, "network") == [network] and told(standin, "flag") == flags
    assert told(standin, "profile") == [[list(SHAPE)] * 3]
    assert any(says in note for note in backend.notes)


@pytest.mark.parametrize("version", ["8.6.1", "11.0.0"])
def test_values_go_through_and_calls_are_timed_by_cuda_events(standin, onnx_file: Path) -> None:
    backend = ready(onnx_file)
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    backend.feed(values)
    backend.call()
    np.testing.assert_array_equal(backend.fetch(), values.reshape(2, 48))
    assert 0 < backend.took() < 10 and "CUDA events" in backend.clock
    assert backend.info()["latency_includes"] == "GPU compute only"


def test_an_engine_is_built_once_and_again_for_other_flags(standin, onnx_file: Path, tmp_path: Path) -> None:
    assert ready(onnx_file, engines=tmp_path).info()["engine"]["cached"] is False
    again = ready(onnx_file, engines=tmp_path).info()["engine"]
    assert again["cached"] is True and again["build_seconds"] > 0
    assert len(told(standin, "build")) == 1
    ready(onnx_file, "fp16", engines=tmp_path)
    assert len(told(standin, "build")) == 2
    assert told(standin, "timing cache") == [b"", b"timings"]


@pytest.mark.parametrize("damaged", ["plan.engine", "about.json"])
def test_a_damaged_engine_is_built_again(standin, onnx_file: Path, tmp_path: Path, damaged: str) -> None:
    ready(onnx_file, engines=tmp_path)
    (file,) = tmp_path.glob(f"*/{damaged}")
    file.write_bytes(file.read_bytes()[:-1])
    assert ready(onnx_file, engines=tmp_path).info()["engine"]["cached"] is False
    assert ready(onnx_file, engines=tmp_path).info()["engine"]["cached"] is True
    assert not list(tmp_path.glob("part-*"))


def test_a_damaged_timing_cache_is_begun_anew(standin, onnx_file: Path, tmp_path: Path) -> None:
    ready(onnx_file, engines=tmp_path)
    (file,) = tmp_path.glob("timings-*")
    file.write_bytes(b"garbage")
    ready(onnx_file, "fp16", engines=tmp_path)
    assert told(standin, "timing cache") == [b"", b""] and file.read_bytes() == b"timings"


def test_on_a_dla_what_fell_back_is_counted_also_for_a_kept_engine(
    standin, onnx_file: Path, tmp_path: Path
) -> None:
    for cached in (False, True):
        found = ready(onnx_file, "fp16", "dla1", tmp_path).info()
        assert found["device"] == "dla1" and found["engine"]["cached"] is cached
        assert (found["engine"]["on_dla"], found["engine"]["on_gpu"]) == (1, 1)
        assert "'y' (SHUFFLE)" in found["engine"]["fell_back"][0]
    assert ("build", "DLA", 1) in standin.CALLS and told(standin, "read") == [1, 1]
    assert told(standin, "flag") == ["FP16", "GPU_FALLBACK"]
    ready(onnx_file, "fp16", "cuda", tmp_path)
    assert ("build", "GPU", -1) in standin.CALLS


def test_a_core_that_is_not_there_is_refused(standin, onnx_file: Path) -> None:
    with pytest.raises(Refused, match="2 DLA cores"):
        ready(onnx_file, "fp16", "dla2")


@pytest.mark.parametrize("version", ["8.6.1"])
def test_files_that_are_none_are_refused_with_the_parsers_words(standin, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"no onnx")
    with pytest.raises(Refused, match="no such operator"):
        ready(path)
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"of another version")
    with pytest.raises(Refused, match="one version and one kind of GPU"):
        ready(engine)


@pytest.mark.parametrize("version", ["8.6.1"])
def test_python_without_named_tensors_is_refused(standin, onnx_file: Path, monkeypatch) -> None:
    monkeypatch.setattr(standin, "__version__", "8.2.1")
    with pytest.raises(Refused, match="named tensors"):
        ready(onnx_file)


@pytest.mark.parametrize(
    ("version", "precision", "device", "reason"),
    [
        ("7.1.3", "fp32", "cuda", "8 (JetPack 4.6) or newer"),
        ("", "fp32", "cuda", "unknown version"),
        ("10.3.0", "bf16", "cuda", "bf16"),
        ("10.3.0", "fp32", "cpu", "not on cpu"),
        ("10.3.0", "fp32", "dla0", "not in FP32"),
        ("8.6.1", "int8", "dla0", "QDQ"),
        ("10.8.0", "fp16", "dla0", "10.7 was the last"),
        ("11.1.0", "fp16", "dla0", "10.7 was the last"),
        ("8.5.2.2", "fp16", "dla0", ""),
        ("10.7.0", "fp16", "dla1", ""),
        ("11.4.1", "int8", "dla0", ""),
        ("11.0.0", "int8", "cuda", ""),
    ],
)
def test_what_a_version_cannot_do_is_a_reason(version: str, precision: str, device: str, reason: str) -> None:
    found = rules.refusal(version, precision, device)
    assert reason in found and bool(found) is bool(reason)


def test_trtexec_is_told_to_time_gpu_work_alone_on_every_version() -> None:
    assert rules.rules("8.2.1", "fp16").trtexec_build == ("--explicitBatch", "--buildOnly", "--fp16")
    assert rules.rules("8.6.1", "int8").trtexec_run == ("--noDataTransfers", "--useSpinWait")
    assert rules.rules("10.3.0", "int8").trtexec_build == ("--stronglyTyped", "--skipInference")
    assert rules.rules("11.1.0", "int8").trtexec_build == ("--skipInference",)
    assert rules.rules("11.1.0", "int8").trtexec_run == ("--noCudaGraph",)
    dla = rules.rules("10.3.0", "fp16", "dla0")
    assert dla.trtexec_build[-2:] == ("--useDLACore=0", "--allowGPUFallback")
    assert "--useDLACore=0" in dla.trtexec_run


@pytest.mark.parametrize(("code", "said"), [("8201", "8.2.1"), ("8601", "8.6.1"), ("100300", "10.3.0")])
def test_the_version_is_in_the_first_line_of_trtexec(code: str, said: str) -> None:
    assert rules.version_of(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{code}] # trtexec --help") == said
    assert rules.version_of("no such thing") == ""


def test_clean_knows_engines(tmp_path: Path) -> None:
    from bench.agent.device import clean

    engine = tmp_path / "engines" / "abc"
    engine.mkdir(parents=True)
    (engine / "plan.engine").write_bytes(b"x" * 100)
    asked = {"workspace": str(tmp_path), "days": 30, "most_bytes": 0}
    assert json.loads(json.dumps(clean(asked)))["removed"] == 1 and not engine.exists()
