"""`bench export --chosen`: a folder that verifies itself where only its runtime is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bench.records import checksum
from compress import parity
from tests.command import bench


@pytest.fixture
def mine(finished, tmp_path):
    """A folder with a finished run of its own, of which nothing was chosen."""
    shutil.copytree(finished / "run", tmp_path / "run", ignore=shutil.ignore_patterns("choice.json", "work"))
    return tmp_path


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_what_was_chosen_is_shipped_with_all_it_takes_and_verifies_itself(mine, runtime):
    asked = ("choose", "run", "--runtime", runtime, "--host", "local", "--objective", "size")
    assert bench(*asked, cwd=mine).returncode == 0
    ship = mine / "ship"
    done = bench("export", "run", "--chosen", "--output", str(ship), "--license", "MIT", cwd=mine)
    assert done.returncode == 0, done.stderr
    card = (ship / "MODEL_CARD.md").read_text()
    assert "\nTHREADS = 1\n" in (ship / "example.py").read_text() and "batch 1, 1 thread |" in card
    assert (
        "| Licence of the model | MIT |" in card and "not stated: fill it in" in card and "measured;" in card
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=ship, env=env, capture_output=True, text=True, check=False
        )

    verified = python("verify.py")
    assert verified.returncode == 0 and "8 of 8 images" in verified.stdout, verified.stdout + verified.stderr
    images, labels = np.load(ship / "images.npy"), (ship / "labels.txt").read_text().split()
    Image.fromarray(images[0].squeeze()).save(ship / "one.png")
    shown = python("example.py", "one.png")
    assert shown.stdout.split() == ["one.png", json.loads((ship / "expected.json").read_text())["answers"][0]]
    assert shown.stdout.split()[1] in labels
    assert python("example.py", "none.png", "labels.txt", "one.png").stdout.count("is no picture") == 2
    assert bench("export", "run", "--chosen", "--output", str(ship), cwd=mine).returncode == 2, (
        "there already"
    )
    model = next(path for path in ship.iterdir() if path.suffix in (".onnx", ".tflite"))
    fast = ("--processes", "1", "--max-seconds", "0.2")
    measured = bench("measure", model, "--data", "digits", *fast, "--json", cwd=mine)
    assert measured.returncode == 0 and json.loads(measured.stdout)["accuracy"]["value"] > 0
    (ship / "labels.txt").write_text("other\n")
    assert python("verify.py").returncode == 1
    for nothing in ("", "no sums"):
        (ship / "SHA256SUMS").write_text(nothing)
        assert python("verify.py").stdout == "not as it was exported: SHA256SUMS\n"
    (ship / "SHA256SUMS").unlink()
    missing = python("verify.py")
    assert missing.returncode == 1 and "SHA256SUMS" in missing.stdout and not missing.stderr


def test_the_example_runs_on_as_many_threads_as_were_chosen(mine):
    assert bench("choose", "run", "--runtime", "onnxruntime", "--host", "local", cwd=mine).returncode == 0
    choice = json.loads((mine / "run" / "choice.json").read_text())
    for cell in (choice["chosen"], *(target["cell"] for target in choice["targets"])):
        cell["threads"] = 2
    (mine / "run" / "choice.json").write_text(json.dumps(choice))
    records = (mine / "run" / "records.jsonl").read_text().splitlines()
    again = []
    for line in map(json.loads, records):  # the cell as if it had been measured on 2 threads
        cell = line.get("cell") or {}
        chosen = choice["chosen"]
        if all(cell.get(k) == chosen[k] for k in ("variant", "runtime", "host")):
            cell["threads"] = 2
            line["sum"] = checksum(line)
        again.append(json.dumps(line))
    (mine / "run" / "records.jsonl").write_text("\n".join(again) + "\n")
    done = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert done.returncode == 0, done.stderr
    assert "\nTHREADS = 2\n" in (mine / "ship" / "example.py").read_text()
    assert "batch 1, 2 threads |" in (mine / "ship" / "MODEL_CARD.md").read_text()


def test_what_is_expected_of_another_device_is_not_what_this_cpu_rounds(mine):
    """INT8 with full weights saturates on a CPU without VNNI; the Jetson's kernels do not."""
    asked = ("choose", "run", "--host", "jetson-agx-xavier", "--objective", "size", "--json")
    (target,) = json.loads(bench(*asked, cwd=mine).stdout)["targets"]
    variant = target["cell"]["variant"]
    assert variant.endswith("-int8")
    ship = mine / "ship"
    assert bench("export", "run", "--chosen", "--output", str(ship), cwd=mine).returncode == 0
    model, expected = (
        json.loads((ship / f"{name}.json").read_text()) for name in (f"{variant}.onnx", "expected")
    )
    pre, images = model["preprocess"], np.load(ship / "images.npy")
    values = (images / 255.0 - np.array(pre["mean"])) / np.array(pre["std"])
    values = torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)
    exact = parity.run_file(ship / model["filename"], "onnx", values, emulate=True)
    assert np.abs(np.array(expected["logits"]) - exact).max() < 0.2 * expected["tolerance"]
    assert "exact arithmetic" in expected["made"]
    card = (ship / "MODEL_CARD.md").read_text()
    assert "tensorrt, not tried here" in card and "without VNNI" in card
    (ship / "MODEL_CARD.md").write_text(card.replace("not stated: fill it in here before you ship", "MIT"))
    verified = subprocess.run([sys.executable, "verify.py"], cwd=ship, capture_output=True, text=True)
    assert "not as it was exported" not in verified.stdout and "of 8 images" in verified.stdout
    (ship / "labels.txt").write_text("other\n")
    verified = subprocess.run([sys.executable, "verify.py"], cwd=ship, capture_output=True, text=True)
    assert verified.returncode == 1 and "labels.txt" in verified.stdout


def test_nothing_is_shipped_before_something_was_chosen(mine):
    done = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert done.returncode == 2 and "Choose first: bench choose" in done.stderr
    (mine / "run" / "choice.json").write_text("{")
    broken = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert broken.returncode == 2 and "cannot be read" in broken.stderr and not (mine / "ship").exists()


def test_when_nothing_fits_the_earlier_choice_is_not_shipped(mine):
    assert bench("choose", "run", "--host", "local", cwd=mine).returncode == 0
    assert bench("choose", "run", "--max-latency", "0.000001ms", cwd=mine).returncode == 6
    done = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert done.returncode == 2 and "Choose first" in done.stderr


def test_one_variant_for_two_targets_is_shipped_to_each(mine):
    both = ("--host", "local", "--host", "jetson-agx-xavier")
    chosen = bench("choose", "run", *both, "--max-drop", "60%", "--json", cwd=mine)
    assert chosen.returncode == 0, chosen.stderr
    targets = json.loads(chosen.stdout)["targets"]
    assert [t["target"] for t in targets] == ["local", "jetson-agx-xavier"]
    assert len({t["cell"]["variant"] for t in targets}) == 1
    for target in targets:
        assert f"--host {target['target']}" in target["folder"]
        ship = mine / f"ship-{target['target']}"
        done = bench("export", "run", "--chosen", "--host", target["target"], "--output", str(ship), cwd=mine)
        assert done.returncode == 0, done.stderr
        card = (ship / "MODEL_CARD.md").read_text()
        assert target["cell"]["variant"] in card
        assert ("a prediction for" in card) == (target["target"] != "local")
        assert "- latency on jetson-agx-xavier is predicted, not measured" in card, "a warning of the choice"
    wrong = bench("export", "run", "--chosen", "--host", "pixel-8", "--output", "ship", cwd=mine)
    assert wrong.returncode == 2 and "jetson-agx-xavier" in wrong.stderr


def test_runs_and_columns_stand_side_by_side(mine):
    shutil.copytree(mine / "run", mine / "other")
    shown = bench(
        "report", "run", "other", "--columns", "latency,size", "--sort", "-size", "--format", "md", cwd=mine
    )
    assert shown.returncode == 0, shown.stderr
    assert "| latency in run, ms | latency in other, ms |" in shown.stdout
    tex = bench("report", "run", "--columns", "latency", "--format", "latex", "--output", "t.tex", cwd=mine)
    assert tex.returncode == 0 and r"\toprule" in (mine / "t.tex").read_text()
    for arguments, hint in (
        (("--columns", "latncy"), "Did you mean latency"),
        (("--format", "csv", "--columns", "latency"), "every cell"),
        (("--history", "h.jsonl"), "--format html"),
        (("run",), "named twice"),
    ):
        wrong = bench("report", "run", *arguments, cwd=mine)
        assert wrong.returncode == 2 and hint in wrong.stderr, wrong.stderr
