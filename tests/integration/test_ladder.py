"""The quantization ladder: which rung ends it, what is kept when none does, and what is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import StepError
from bench.steps import QuantizeStep, Training, TrainStep
from bench.types import Artifact, ExportResult, Quantity, StepContext, Target
from compress import parity, quantize
from compress.export import export
from compress.int8 import ladder, sensitivity
from compress.quiet import quiet
from distill import models, train
from distill.data import Dataset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")

# --- the climb, with files that lose what a test says ---------------------------------------------

N = 1000


@dataclass
class Script:
    """Points of accuracy that each rung loses, and a recorder of what was asked for."""

    folder: Path
    lost: dict[str, float]
    asked: list[QuantizeStep]

    def write_int8(self, path: Path, step: QuantizeStep) -> tuple[str, ...]:
        self.asked.append(step)
        name = path.stem
        if name not in self.lost:
            raise StepError(f"no file for {name}")
        path.write_text(str(self.lost[name]))
        return (f"note of {name}",)


class Labels:
    def __init__(self) -> None:
        self.labels = {"validation": torch.zeros(N, dtype=torch.int64)}


def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: dict[str, float], step: QuantizeStep, *,
    target: Target | None = None, trained: Any = None,
) -> tuple[ladder.Ladder, Script]:  # fmt: skip
    """A ladder over scripted files: the float file is right for all images, each other for all but its loss."""
    script = Script(tmp_path, lost, [])
    plain: Any = script
    plain.path, plain.fmt, plain.scheme = tmp_path / "float.onnx", "onnx", "u8s8"
    plain.path.write_text("0")

    def predictions(path: Path, *_: Any) -> np.ndarray:
        wrong = round(float(path.read_text()) / 100 * N)
        return np.arange(N) < wrong

    monkeypatch.setattr(parity, "predictions", predictions)
    monkeypatch.setattr(parity, "validation_images", lambda *_: (None, torch.zeros(1)))
    rows = [
        {"layer": f"conv{i}", "int8": True, "source": None, "sqnr_db": 10.0 + i, "input_sqnr_db": 40.0}
        for i in range(8)
    ]
    monkeypatch.setattr(sensitivity, "layer_sqnr", lambda *_: rows)

    def described(path: Path, precision: str) -> ExportResult:
        return ExportResult(path, Artifact("onnx", "", 1, path.name, precision), {})

    makers = ladder.Makers(plain, lambda s, p: (plain, ("equalised",)), described, trained, lambda f: f())
    return ladder.Ladder(step, Labels(), makers, target, lambda *_: None), script


def test_the_first_rung_that_holds_ends_the_climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"channel": 3.0, "equalize": 0.9, "mse": 0.0}
    climb, script = made(tmp_path, monkeypatch, lost, QuantizeStep(max_drop=0.01))
    notes, trail = climb.climb(tmp_path / "model.onnx")
    assert [row["rung"] for row in trail] == ["channel", "equalize"]
    assert [row["held"] for row in trail] == [False, True]
    assert [row["drop"]["value"] for row in trail] == pytest.approx([0.03, 0.009])
    drop = trail[1]["drop"]
    assert drop["low"] < drop["value"] < drop["high"] and drop["n"] == N and drop["provenance"] == "measured"
    assert (tmp_path / "model.onnx").read_text() == "0.9"
    assert notes[0].startswith("ladder: equalize holds max_drop 1 points: 0.90 points lost [")
    assert "note of equalize" in notes and "equalised" in notes
    assert [(s.equalize, s.correct_bias, s.per_channel) for s in script.asked] == [
        (False, False, True),
        (True, True, True),
    ]
    assert not (tmp_path / "ladder").exists()


@pytest.mark.parametrize("asked", [{"input": "int8"}, {"float_layers": ("fc",)}])
def test_the_last_rung_is_left_out_where_it_cannot_do_what_is_asked(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = QuantizeStep(max_drop=0.01, ladder=("channel", "qat"), **asked)
    climb, _ = made(tmp_path, monkeypatch, {"channel": 3.0}, step, trained=lambda path: ())
    notes, trail = climb.climb(tmp_path / "model.onnx")
    assert "float32 images" in trail[1]["skipped"] and notes[0].startswith("NO RUNG")


def test_when_nothing_holds_the_best_is_kept_and_told_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {
        "channel": 3.0,
        "equalize": 2.0,
        "mse": 2.5,
        "float-1": 4.0,
        "float-2": 4.0,
        "float-3": 4.0,
        "float-4": 4.0,
    }
    climb, _ = made(tmp_path, monkeypatch, lost, QuantizeStep(max_drop=0.01))
    notes, trail = climb.climb(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "2.0"
    assert notes[0].startswith(
        "NO RUNG OF THE LADDER HOLDS max_drop 1 points: the best one is kept, 2.00 points"
    )
    assert not any(row["held"] for row in trail)
    assert trail[-1] | {"seconds": 0} == {
        "rung": "qat", "held": False, "drop": None, "accuracy": None, "skipped": "nothing here trains", "seconds": 0,
    }  # fmt: skip


def test_a_rung_builds_on_the_best_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for equalised, expected in ((4.0, False), (2.0, True)):
        lost = {"channel": 3.0, "equalize": equalised, "mse": 0.5}
        climb, script = made(tmp_path, monkeypatch, lost, QuantizeStep(max_drop=0.01))
        climb.climb(tmp_path / "model.onnx")
        assert script.asked[-1].ranges == "mse"
        assert script.asked[-1].equalize is expected


FLOATS = {"channel": 3.0, "float-1": 2.0, "float-2": 1.5, "float-3": 0.5}


def timed(ratios: list[float | None]) -> Target:
    left = list(ratios)

    def ratio(base: ExportResult, head: ExportResult) -> Quantity:
        assert (base.artifact.precision, head.artifact.precision) == ("fp32", "int8")
        return Quantity(left.pop(0), "ratio", n=3, provenance="measured")

    return Target("onnxruntime", "onnx", "u8s8", ratio)


@pytest.mark.parametrize(
    ("ratios", "held", "said"),
    [
        (None, True, "ladder: float holds"),
        ([0.6], True, "ladder: float holds"),
        ([1.02, 0.8], False, "no longer faster than float"),
        ([1.02, 1.01], True, "ladder: float holds"),  # there was no gain to lose
    ],
)
def test_the_noisiest_layers_go_back_to_float_while_int8_stays_faster(
    ratios: list[float | None] | None, held: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = QuantizeStep(max_drop=0.01, ladder=("channel", "float"))
    target = timed(ratios) if ratios else None
    climb, script = made(tmp_path, monkeypatch, FLOATS, step, target=target)
    notes, trail = climb.climb(tmp_path / "model.onnx")
    row = trail[-1]
    assert row["held"] is held
    assert said in notes[0]
    assert row["float_layers"] == ["conv0", "conv1", "conv2"], "the least signal over noise first"
    assert row["tried"] == [[1, pytest.approx(0.02)], [2, pytest.approx(0.015)], [3, pytest.approx(0.005)]]
    assert script.asked[-1].float_layers == ("conv0", "conv1", "conv2")
    assert "conv0, conv1, conv2" in notes[0], "culprits are named"
    if ratios is None:
        assert row["latency"] == {"value": None, "unit": "", "reason": "no runtime to time on was given"}
    else:
        assert row["latency"]["value"] == ratios[0]


def test_training_is_the_last_rung_and_its_failure_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = QuantizeStep(max_drop=0.01, ladder=("channel", "qat"))

    def trained(path: Path) -> tuple[str, ...]:
        path.write_text("0.2")
        return ("trained",)

    def failing(path: Path) -> tuple[str, ...]:
        raise StepError("NaN in training")

    climb, _ = made(tmp_path, monkeypatch, {"channel": 3.0}, step, trained=trained)
    notes, trail = climb.climb(tmp_path / "model.onnx")
    assert trail[-1]["held"] and "trained" in notes
    climb, _ = made(tmp_path, monkeypatch, {"channel": 3.0}, step, trained=failing)
    notes, trail = climb.climb(tmp_path / "model.onnx")
    assert trail[-1]["skipped"] == "failed: NaN in training."
    assert (tmp_path / "model.onnx").read_text() == "3.0"
    climb, _ = made(tmp_path, monkeypatch, {}, step, trained=failing)
    with pytest.raises(
        StepError, match=r"No rung of the ladder made a file.*no file for channel.*NaN in training"
    ):
        climb.climb(tmp_path / "model.onnx")


# --- real files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained net with one channel 3,000 times as large as it was, and weights after it that make up for that.

    The function is the same; rounded activations, which share one scale, lose all other channels.
    """
    work = tmp_path_factory.mktemp("uneven")
    step = TrainStep("edgefit:tiny", training=Training(epochs=6, batch_size=64, augment=()))
    path = train.run_train(step, StepContext("v", 0, lambda: digits, None, (), work, lambda *_: None)).model
    module, spec = models.load(path)
    layers: Any = module.features
    with torch.no_grad():
        values = layers[:3](digits.normalise(digits.images["validation"]))
        channel = int(values.amax((0, 2, 3)).argmax())
        for tensor in (layers[1].weight, layers[1].bias):
            tensor[channel] *= 3000
        layers[3].weight[:, channel] /= 3000
    models.save(module, spec, work / "uneven.safetensors")
    return work / "uneven.safetensors"


@pytest.mark.parametrize(("fmt", "scheme"), [("onnx", "u8s8"), ("tflite", "litert")])
def test_equalisation_saves_a_net_that_plain_int8_destroys(
    fmt: str, scheme: str, uneven: Path, digits: Dataset, tmp_path: Path
) -> None:
    said: list[str] = []
    step = QuantizeStep(images=128, max_drop=0.02)
    result = export(
        uneven, fmt, "int8", scheme, step, digits, tmp_path,
        notify=lambda event, info: said.append(info["text"]) if event == "log" else None,
    )  # fmt: skip
    first, second = result.ladder
    assert first["rung"] == "channel" and not first["held"] and first["drop"]["value"] > 0.1
    assert second["rung"] == "equalize" and second["held"]
    assert result.parity["agreement"] >= 0.9
    assert said == [ladder.sentence(row) for row in result.ladder]
    assert result.path.is_file() and result.artifact.size_bytes == result.path.stat().st_size
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {result.path.name, f"model-fp32.{fmt}"}


@pytest.mark.parametrize(("fmt", "scheme"), [("onnx", "s8s8"), ("tflite", "litert")])
def test_sensitive_layers_are_found_and_named(
    fmt: str, scheme: str, uneven: Path, digits: Dataset, tmp_path: Path
) -> None:
    step = QuantizeStep(images=128, max_drop=0.02, ladder=("channel", "float"))
    result = export(uneven, fmt, "int8", scheme, step, digits, tmp_path)
    row = result.ladder[-1]
    assert row["held"]
    assert row["float_layers"] == ["features.3", "features.0"], (
        "the layers on both sides of the uneven channels"
    )
    assert any("kept float as asked" in note and "features.3" in note for note in result.notes)


def test_sqnr_falls_where_the_noise_enters(uneven: Path, digits: Dataset, tmp_path: Path) -> None:
    images = parity.validation_images(digits, 16)[1].numpy()
    for fmt, scheme in (("onnx", "s8s8"), ("tflite", "litert")):
        plain = export(uneven, fmt, "fp32", "", None, digits, tmp_path / "float").path
        step = QuantizeStep(images=64, float_layers=("fc",))
        calibration = quantize.calibration(step, digits)
        with quiet():
            quantize.FloatFile(plain, fmt, scheme, calibration).write_int8(tmp_path / f"q.{fmt}", step)
            rows = sensitivity.layer_sqnr(plain, tmp_path / f"q.{fmt}", images, fmt)
            same = sensitivity.layer_sqnr(plain, plain, images, fmt)
        assert [row["layer"] for row in rows] == ["features.0", "features.3", "features.6", "fc"]
        assert [row["source"] for row in rows] == [None, "features.0", "features.3", None]
        assert [row["int8"] for row in rows] == [True, True, True, False]
        assert rows[1]["sqnr_db"] < 10 < rows[1]["input_sqnr_db"], (
            "the sum hides small channels that the layer needs"
        )
        assert sensitivity.ranked(rows)[0] == ("features.3", "features.0")
        assert all(row["sqnr_db"] > 120 for row in same)
