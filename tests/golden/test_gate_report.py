"""How the check's document looks: terminal, pull request, JUnit, GitHub."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.errors import UsageError
from bench.gate.lines import Checked, Line
from bench.gate.sides import Source, Subject
from bench.types import Json, Quantity
from reports import gate
from tests.golden.test_golden import golden


def q(
    value: float, low: float | None = None, high: float | None = None, unit: str = "ms", n: int | None = None
) -> Quantity:
    return Quantity(value, unit, low, high, n, "measured", "median")


def line(
    name: str,
    metric: str,
    mode: str,
    base: Quantity,
    head: Quantity,
    change: Quantity,
    verdict: str,
    **more: object,
) -> Line:
    gates = {"latency": 0.03, "accuracy": 0.005, "size": 0.01, "memory": 0.05, "throughput": 0.03}
    return Line(
        Subject(name, "onnxruntime", 8 if "8" in name else 1),
        metric,
        mode,
        gates[metric],
        base,
        head,
        change,
        verdict,
        **more,
    )  # type: ignore[arg-type]


@pytest.fixture
def document() -> Json:
    none = Quantity.missing("the worker crashed (signal 11)")
    lines = (
        line("teacher", "latency", "paired", q(5.4321, n=12), q(5.71, n=12), q(0.0512, 0.041, 0.062, "ratio", 12), "REGRESSED", p=0.0004, smallest=0.03),
        line("teacher", "size", "exact", q(262_262, unit="B"), q(262_278, unit="B"), q(0.00006, 0.00006, 0.00006, "ratio"), "SAME"),
        line("teacher", "accuracy", "answers", q(0.871, unit="fraction"), q(0.868, unit="fraction"), q(-0.003, -0.012, 0.006, "fraction", 359), "INCONCLUSIVE",
             p=0.5, smallest=0.018, note="5 of 359 images have another outcome; 0.5 points want about 4,368 images"),
        line("student|8", "latency", "recorded", q(0.8123), q(0.7), q(-0.138, -0.2, -0.07, "ratio"), "IMPROVED", p=0.001, smallest=0.05, note="4 sessions differ by 1.1%"),
        line("student|8", "throughput", "paired", q(1200.0, unit="images/s"), q(1230.0, unit="images/s"), q(0.025, -0.01, 0.08, "ratio", 12), "NOT WORSE", p=0.1, smallest=0.06),
        line("student|8", "memory", "paired", none, none, none, "FAILED", note="the worker crashed (signal 11)"),
    )  # fmt: skip
    checked = Checked(
        lines,
        (Subject("gone", "litert"),),
        (Subject("new", "litert"),),
        ("environments differ: governor",),
        31.24,
    )
    return gate.to_document(checked, Source("runs/old", {}, commit="abc"), Source("runs/new", {}), 1)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_line(document: Json, width: int) -> None:
    made = gate.terminal(document, width) + "\n"
    assert made == golden(f"gate_{width}.txt", made)


def test_the_markdown_for_a_pull_request(document: Json) -> None:
    made = gate.markdown(document)
    assert made == golden("gate.md", made)


def test_the_document(document: Json) -> None:
    made = json.dumps(document, indent=1) + "\n"
    assert made == golden("gate.json", made)


def test_junit_has_a_case_for_each_line_and_its_kind(document: Json) -> None:
    suite = ElementTree.fromstring(gate.junit(document))
    assert suite.attrib | {"time": ""} == {
        "name": "edgefit gate", "tests": "6", "failures": "1", "errors": "1", "skipped": "1", "time": "",
    }  # fmt: skip
    kinds = [[child.tag for child in case if child.tag != "system-out"] for case in suite]
    assert kinds == [["failure"], [], ["skipped"], [], [], ["error"]]
    failure = suite[0].find("failure")
    assert failure is not None and "+5.1% [+4.1, +6.2]" in failure.attrib["message"]


def test_github_is_told_of_what_is_worse_or_unknown_and_escapes_hold(document: Json) -> None:
    told = list(gate.workflow_commands(document))
    assert [t.split(" ")[0] for t in told] == ["::error", "::warning", "::error"]
    assert all("\n" not in t and "%" not in t.replace("%25", "") for t in told)


def test_files_by_their_names(document: Json, tmp_path: Path) -> None:
    for suffix in gate.SUFFIXES:
        gate.write(tmp_path / f"out{suffix}", document)
    assert json.loads((tmp_path / "out.json").read_text()) == document
    assert (tmp_path / "out.xml").read_text().startswith("<?xml")
    with pytest.raises(UsageError, match="must end in"):
        gate.check_files([tmp_path / "out.txt"])


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["SAME", "IMPROVED"], "PASSED"),
        (["SAME", "NOT WORSE"], "PASSED"),
        (["SAME", "INCONCLUSIVE"], "INCONCLUSIVE"),
        (["REGRESSED", "INCONCLUSIVE"], "REGRESSED"),
        (["REGRESSED", "FAILED"], "FAILED"),
        ([], "NEW"),
    ],
)
def test_the_whole_is_named_by_its_worst_line_also_where_the_exit_code_is_0(
    verdicts: list[str], whole: str
) -> None:
    one = q(0.0, 0.0, 0.0, "ratio")
    lines = tuple(line("m", "size", "exact", one, one, one, verdict) for verdict in verdicts)
    found = gate.to_document(Checked(lines), Source("a", {}), Source("b", {}), 0)
    assert found["verdict"] == whole and found["exit_code"] == 0


def test_a_change_of_estimates_is_marked_as_one(document: Json) -> None:
    guess = Quantity(0.2, "ratio", 0.1, 0.3, None, "estimated", "")
    shown = gate.to_document(
        Checked((line("m", "memory", "recorded", guess, guess, guess, "REGRESSED"),)),
        Source("a", {}),
        Source("b", {}),
        4,
    )
    assert shown["lines"][0]["shown"]["change"].startswith("~+20.0%")
