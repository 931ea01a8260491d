"""Reports of the example run, word for word. Regenerate with EDGEFIT_UPDATE_GOLDEN=1 and read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reports import tables
from reports.answer import render_choice
from reports.choose import Constraints, choose
from tests.fixtures import FakeRun, example_run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("golden"))


def compare(name: str, made: str) -> None:
    path = HERE / name
    if os.environ.get("EDGEFIT_UPDATE_GOLDEN") == "1":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
def test_terminal(run: FakeRun, width: int) -> None:
    compare(f"terminal_{width}.txt", tables.render(run, "terminal", width))


@pytest.mark.parametrize("fmt", ["md", "csv"])
def test_text_formats(run: FakeRun, fmt: str) -> None:
    compare(f"report.{fmt}", tables.render(run, fmt))


def test_choice(run: FakeRun) -> None:
    choice = choose(run, Constraints(max_latency_ms=0.2, max_drop=0.02))
    compare("choice.md", render_choice(choice).replace(str(run.path), "runs/demo"))
