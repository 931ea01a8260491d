"""Steps alone, by their commands: each reads the data as its model was trained, and says where that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from distill import models
from tests.command import bench

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("--set", "epochs=1", "--set", "warmup_epochs=0.2", "--set", "augment=[]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net trained on digits of 12 pixels."""
    folder = tmp_path_factory.mktemp("single")
    done = bench(
        "train",
        "--model",
        "edgefit:tiny",
        "--image-size",
        "12",
        "--output",
        "t.safetensors",
        *QUICK,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder / "t.safetensors"


def test_a_student_and_its_twin_see_the_same_images_and_are_one_document(made: Path, tmp_path: Path) -> None:
    asked = ("distill", "--teacher", made, "--model", "edgefit:tiny", "--alone", "--json", *QUICK)
    done = bench(*asked, "--output", "s.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["model"] == "s.safetensors" and told["alone"]["model"] == "s-alone.safetensors"
    specs = [
        models.read_spec(tmp_path / told[k] if k == "model" else tmp_path / told["alone"]["model"])
        for k in ("model", "alone")
    ]
    assert specs[0].preprocess == specs[1].preprocess == models.read_spec(made).preprocess
    assert told["data"]["digest"] == told["alone"]["data"]["digest"]


@pytest.mark.parametrize("command", ["export", "quantize", "prune"])
def test_a_model_of_the_same_classes_in_another_order_is_refused(
    command: str, made: Path, tmp_path: Path
) -> None:
    module, spec = models.load(made)
    other = tmp_path / "other.safetensors"
    models.save(module, replace(spec, labels=tuple(reversed(spec.labels))), other)
    output = "x.safetensors" if command == "prune" else "x.onnx"
    done = bench(command, other, "--output", output, cwd=tmp_path)
    assert done.returncode == 2 and "does not fit the data set digits" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["other.safetensors"]


def test_images_it_may_have_been_trained_on_are_refused_to_train_on_and_said_to_calibrate_with(
    made: Path, tmp_path: Path
) -> None:
    done = bench("prune", made, "--output", "x.safetensors", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 2 and "held out here" in done.stderr and not list(tmp_path.iterdir())
    notes = {}
    for seed in ("0", "1"):
        done = bench("quantize", made, "--output", f"{seed}.onnx", "--seed", seed, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        notes[seed] = json.loads(done.stdout)["notes"]
    assert not any("images it has seen" in n for n in notes["0"]) and "images it has seen" in notes["1"][-1]
    fed = [json.loads((tmp_path / f"{seed}.onnx.json").read_text())["preprocess"] for seed in "01"]
    assert fed[0] == fed[1]


def test_weights_of_ours_keep_what_they_held_out(made: Path, tmp_path: Path) -> None:
    asked = (
        "train",
        "--model",
        "edgefit:tiny",
        "--weights",
        made,
        "--image-size",
        "12",
        "--output",
        "w.safetensors",
    )
    done = bench(*asked, "--seed", "1", *QUICK, cwd=tmp_path)
    assert done.returncode == 2 and "held out here" in done.stderr
    assert bench(*asked, "--set", "epochs=0", cwd=tmp_path).returncode == 0
    assert models.read_spec(tmp_path / "w.safetensors").held_out == models.read_spec(made).held_out != ""


def test_weights_are_imported_with_the_normalisation_they_were_trained_with(
    made: Path, tmp_path: Path
) -> None:
    asked = ("train", "--model", "edgefit:tiny", "--weights", made, "--set", "epochs=0", "--image-size", "12")
    save_file(load_file(made), tmp_path / "bare.safetensors")
    bare = tuple(a if a != made else "bare.safetensors" for a in asked)
    done = bench(*bare, "--mean", "0.25", "--std", "0.5", "--output", "i.safetensors", cwd=tmp_path)
    assert done.returncode == 0 and "set data.mean" not in done.stderr, done.stderr
    pre = models.read_spec(tmp_path / "i.safetensors").preprocess
    assert (pre.mean, pre.std) == ((0.25,), (0.5,))
    known = bench(*asked, "--output", "k.safetensors", cwd=tmp_path)  # the file tells that it saw the same
    assert known.returncode == 0 and "other images" not in known.stderr, known.stderr
    own = bench(*bare, "--output", "o.safetensors", cwd=tmp_path)
    assert own.returncode == 0 and "set data.mean and data.std" in own.stderr
    for different in (("--image-size", "10"), ("--mean", "0.25", "--std", "0.5")):
        other = bench(*asked, *different, "--output", "t.safetensors", cwd=tmp_path)
        assert other.returncode == 0 and "other images than these" in " ".join(other.stderr.split()), (
            different
        )
    for wrong in (("--mean", "0.25"), ("--mean", "a", "--std", "0.5"), ("--mean", "1,2", "--std", "1,1")):
        bad = bench(*asked, *wrong, "--output", "b.safetensors", cwd=tmp_path)
        assert bad.returncode == 2 and len(bad.stderr.splitlines()) < 6, bad.stderr
