"""`bench export --chosen`: a folder that verifies itself where only its runtime is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import bench


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
    assert bench("export", "run", "--chosen", "--output", str(ship), cwd=mine).returncode == 2, (
        "there already"
    )
    (ship / "labels.txt").write_text("other\n")
    assert python("verify.py").returncode == 1


def test_nothing_is_shipped_before_something_was_chosen(mine):
    done = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert done.returncode == 2 and "Choose first: bench choose" in done.stderr
    (mine / "run" / "choice.json").write_text("{")
    broken = bench("export", "run", "--chosen", "--output", "ship", cwd=mine)
    assert broken.returncode == 2 and "cannot be read" in broken.stderr and not (mine / "ship").exists()
