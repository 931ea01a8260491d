"""`bench export` to Core ML: what the package says of itself, that the weights are the model's, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.errors import StepError
from compress.export import export
from distill import models
from distill.data import Dataset
from tests.command import bench

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(find_spec("coremltools") is None, reason="could not import 'coremltools'"),
]


@pytest.fixture(scope="module")
def model(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "net.safetensors"
    torch.manual_seed(0)
    spec = models.ModelSpec("edgefit:tiny", 10, 1, digits.index.classes, digits.preprocess)
    models.save(models.build("edgefit:tiny", 10, 1), spec, path)
    return path


def files(package: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in package.rglob("*") if p.is_file()}


def test_a_package_is_this_model_and_says_how_to_feed_it(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.mlpackage"
    done = bench("export", str(model), "--output", str(output), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["parity"] == {} and any("Apple" in note for note in said["notes"])
    assert said["artifact"]["size_bytes"] == sum(files(output).values())
    assert json.loads((tmp_path / "net.mlpackage.json").read_text()) == said["artifact"]
    assert {p.name for p in tmp_path.iterdir()} == {"net.mlpackage", "net.mlpackage.json"}

    import coremltools  # 20 s, which only the process that runs this pays

    about = coremltools.utils.load_spec(str(output)).description
    (image,), (logits,) = about.input, about.output
    assert (image.name, list(image.type.multiArrayType.shape)) == ("input", [1, 1, 8, 8])
    assert (logits.name, list(logits.type.multiArrayType.shape)) == ("logits", [1, 10])
    for value in (image, logits):
        assert value.type.multiArrayType.dataType == value.type.multiArrayType.FLOAT32
    last = [p for p in models.load(model)[0].parameters() if p.ndim == 2][-1]
    (weights,) = output.rglob("weight.bin")
    assert last.detach().numpy().tobytes() in weights.read_bytes()

    again = bench("export", str(model), "--output", str(output), cwd=tmp_path)
    assert again.returncode == 2 and "is a folder" in again.stderr


def test_half_precision_is_smaller_and_int8_says_why_not(
    model: Path, digits: Dataset, tmp_path: Path
) -> None:
    made = {p: export(model, "mlpackage", p, "", None, digits, tmp_path / p) for p in ("fp32", "fp16")}
    sizes = {p: files(result.path)["weight.bin"] for p, result in made.items()}
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.1)
    assert made["fp16"].artifact.sha256 != made["fp32"].artifact.sha256
    with pytest.raises(StepError, match="Core ML has an int8 of its own"):
        export(model, "mlpackage", "int8", "", None, digits, tmp_path / "int8")


def test_measuring_one_says_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    done = bench("measure", "net.mlpackage", cwd=tmp_path)
    assert done.returncode == 2 and "Apple" in done.stderr and "Xcode" in done.stderr
