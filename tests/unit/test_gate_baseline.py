"""Stored baselines: what comes back, earlier schemas, damage."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import EdgefitError, StoreError, UsageError
from bench.gate import baseline
from bench.gate.sides import Answers, Side, Source, Subject
from bench.store import file_sha256
from bench.types import Artifact, Preprocess, Quantity, TensorSpec


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(baseline, "CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(tmp_path: Path, images: int = 10_000) -> Source:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"weights")
    artifact = Artifact(
        "onnx", file_sha256(path), 7, "m.onnx", inputs=(TensorSpec("x", (None, 3, 8, 8)),), outputs=(),
        preprocess=Preprocess(8, 8, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), labels=("cat", "dog"),
    )  # fmt: skip
    right = np.random.default_rng(0).random(images) < 0.9
    numbers = {
        "latency_ms": Quantity(1.5, "ms", 1.4, 1.6, 5, "measured", "median"),
        "energy_mj": Quantity.missing("no meter", "mJ"),
    }
    side = Side(artifact, path, numbers, Answers(right, "abc"), {"latency_ms": [1.4, 1.5, 1.6]})
    machine = {"cpu": {"model": "A"}, "load": [3.0], "packages": {"onnxruntime": "1.32.0"}}
    return Source("m.onnx", {Subject("m", "onnxruntime", 1, 2): side}, machine, "c0ffee" * 7, "digits")


def test_a_baseline_comes_back_whole_and_is_a_few_kilobytes(tmp_path: Path) -> None:
    source = made(tmp_path)
    baseline.write(tmp_path / "gate.json", source, "first", source.machine, source.data)
    found = baseline.read(tmp_path / "gate.json")
    (subject, side), (_, before) = next(iter(found.sides.items())), next(iter(source.sides.items()))
    assert subject == Subject("m", "onnxruntime", 1, 2)
    assert side.artifact == before.artifact and side.processes == before.processes
    assert side.numbers["latency_ms"] == before.numbers["latency_ms"]
    assert side.numbers["energy_mj"].value is None and side.numbers["energy_mj"].reason == "no meter"
    assert side.answers is not None and (side.answers.right == before.answers.right).all()
    assert found.data == "digits" and found.commit == source.commit and found.machine["cpu"] == {"model": "A"}
    assert (tmp_path / "gate.json").stat().st_size < 6000
    assert json.loads((tmp_path / "gate.json").read_text())["reason"] == "first"


def test_the_artifact_is_found_again_by_its_content_and_not_when_it_was_changed(
    tmp_path: Path, cache: Path
) -> None:
    source = made(tmp_path)
    baseline.write(tmp_path / "gate.json", source, "first", source.machine)
    (tmp_path / "m.onnx").unlink()
    kept = next(iter(baseline.read(tmp_path / "gate.json").sides.values())).path
    assert kept is not None and kept.read_bytes() == b"weights" and kept.parent == cache
    kept.write_bytes(b"other")
    assert next(iter(baseline.read(tmp_path / "gate.json").sides.values())).path is None


def test_an_earlier_schema_is_upgraded(tmp_path: Path) -> None:
    old = {
        "kind": baseline.KIND,
        "schema": 0,
        "subjects": [
            {
                "name": "m",
                "runtime": "onnxruntime",
                "latency_ms": 2.5,
                "size_bytes": 7,
                "sha256": "ab",
                "filename": "m.onnx",
            }
        ],
    }
    (tmp_path / "gate.json").write_text(json.dumps(old))
    (subject, side), *_ = baseline.read(tmp_path / "gate.json").sides.items()
    assert subject == Subject("m", "onnxruntime") and side.numbers["latency_ms"].value == 2.5
    assert side.artifact.sha256 == "ab" and "schema 0" in side.numbers["latency_ms"].method


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("{", StoreError, "cannot be read"),
        ("[]", StoreError, "neither a baseline nor a report"),
        ('{"kind": "edgefit gate baseline", "schema": 99}', StoreError, "newer edgefit"),
        ('{"kind": "edgefit gate baseline", "schema": "x"}', StoreError, "newer edgefit"),
        ('{"kind": "edgefit gate baseline", "schema": 1, "subjects": [{}]}', StoreError, "cannot be read"),
        ('{"kind": "edgefit gate baseline", "schema": 1}', StoreError, "KeyError"),
        ("[" * 100_000, StoreError, "cannot be read"),
    ],
)
def test_damage_is_a_clear_error(tmp_path: Path, text: str, error: type[EdgefitError], match: str) -> None:
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(error, match=match):
        baseline.read(tmp_path / "gate.json")


def test_no_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--update-baseline"):
        baseline.read(tmp_path / "gate.json")


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_a_baseline_cut_or_spoilt_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("b")
    source = made(folder, images=50)
    source = replace(source, sides={k: replace(v, path=None) for k, v in source.sides.items()})
    path = folder / "gate.json"
    baseline.write(path, source, "first", source.machine)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with contextlib.suppress(EdgefitError):
        baseline.read(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("numbers", "latency_ms", "value"), "fast"),
        (("numbers", "latency_ms", "value"), -1.0),
        (("numbers", "latency_ms", "low"), "slow"),
        (("processes", "latency_ms"), [5.0, -1.0]),
        (("processes", "latency_ms"), [5.0, None]),
    ],
)
def test_a_number_that_is_none_is_damage(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    one = {
        "name": "m", "runtime": "onnxruntime", "artifact": {"format": "onnx", "sha256": "", "size_bytes": 1, "filename": "m.onnx"},
        "numbers": {"latency_ms": Quantity(5.0, "ms", 4.9, 5.1, 2, "measured").to_json()}, "processes": {"latency_ms": [5.0, 5.1]},
    }  # fmt: skip
    document = {"kind": baseline.KIND, "schema": baseline.SCHEMA, "subjects": [one]}
    (tmp_path / "gate.json").write_text(json.dumps(document))
    assert baseline.read(tmp_path / "gate.json").sides
    inner: Any = one
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "gate.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="cannot be read"):
        baseline.read(tmp_path / "gate.json")
