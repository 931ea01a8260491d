"""One small run of the whole path, shared by the tests that look at its results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from bench.steps import DataOptions
from distill import data
from distill.data import Dataset
from tests.command import bench_process

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Two threads of such nets only wait for each other, most of all on a busy machine; and bits depend on their number."""
RECIPE = Path(__file__).with_name("tiny.toml")
DigitsAt = Callable[[int | None], Dataset]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """These nets are too small for two threads, which only wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits_at(tmp_path_factory: pytest.TempPathFactory) -> DigitsAt:
    """The embedded digits at a size; None is their own 8 pixels."""
    root = str(tmp_path_factory.mktemp("root"))
    return lambda size: data.load(data.index(DataOptions(image_size=size, root=root), 0))


@pytest.fixture(scope="module")
def digits(digits_at: DigitsAt) -> Dataset:
    return digits_at(None)


def run_arguments(out: str = "run") -> list[str]:
    return ["run", "--profile", "jetson-xavier", "--recipe", str(RECIPE), "--out", out]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The directory that holds the finished run ``run``; it is made once, also where pytest runs in several processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            done = bench_process(*run_arguments(), cwd=folder, env=ONE_THREAD)
            assert done.returncode == 0, done.stderr[-3000:]
    return folder
