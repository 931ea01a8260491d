"""One small run of the whole path, shared by the tests that look at its results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).with_name("tiny.toml")


def bench(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from bench.cli import main; main()", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False, **options
    )


def run_arguments(out: str = "run") -> list[str]:
    return ["run", "--profile", "jetson-xavier", "--recipe", str(RECIPE), "--out", out]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The directory that holds the finished run ``run``."""
    folder = tmp_path_factory.mktemp("finished")
    done = bench(*run_arguments(), cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder
