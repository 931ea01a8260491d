"""Reports of the example run, word for word. Regenerate with EDGEFIT_UPDATE_GOLDEN=1 and read the diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reports import tables
from reports.answer import render_choice
from reports.choose import choose
from reports.limits import parse_constraints
from tests.fixtures import FakeRun, example_run

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("golden"))


def golden(name: str, made: str) -> str:
    """The stored text of that name; ``made`` takes its place first when the person asked for that."""
    path = HERE / name
    if os.environ.get("EDGEFIT_UPDATE_GOLDEN") == "1":
        path.write_text(made, encoding="utf-8")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
def test_terminal(run: FakeRun, width: int) -> None:
    made = tables.render([run], "terminal", width=width)
    assert made == golden(f"terminal_{width}.txt", made)


@pytest.mark.parametrize("fmt", ["md", "csv"])
def test_text_formats(run: FakeRun, fmt: str) -> None:
    made = tables.render([run], fmt)
    assert made == golden(f"report.{fmt}", made)


def test_choice(run: FakeRun) -> None:
    choice = choose([run], parse_constraints(["latency<=0.2ms", "drop<=2%"]))
    made = render_choice(choice).replace(str(run.path), "runs/demo")
    assert made == golden("choice.md", made)
