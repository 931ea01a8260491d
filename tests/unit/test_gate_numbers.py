"""`bench compare` of records without artifacts: exports of runs, one record on both sides, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from bench.gate import accuracy, check, left_out, numbers, sources
from bench.gate.lines import Line
from bench.gate.sides import Answers, Side, Source, Subject
from bench.gate.thresholds import Settings, thresholds
from bench.types import Artifact, Json, Quantity
from reports import tables
from tests.command import bench
from tests.fixtures import example_run

SUBJECT = Subject("student", "onnxruntime")
LATENCY = Quantity(1.2345678, "ms", 1.2, 1.3, 800, "measured", "median")
MEMORY = Quantity(4.096, "MB", n=1, provenance="measured")


def side(digest: str = "", **known: Quantity) -> Side:
    return Side(
        Artifact("onnx", digest, 7, "m.onnx"), None, {"latency_ms": LATENCY, "memory_mb": MEMORY, **known}
    )


# --- one record


def test_a_record_is_the_same_as_itself_and_says_so() -> None:
    found = numbers.identical(SUBJECT, "memory", 0.05, side(), side("a"))
    assert found is not None and found.verdict == "SAME" and found.mode == "identical"
    assert found.change.value == found.change.low == found.change.high == 0.0 and "one record" in found.note


@pytest.mark.parametrize(
    "other",
    [
        side(latency_ms=replace(LATENCY, value=1.2345679)),
        side(latency_ms=replace(LATENCY, n=801)),
        side(memory_mb=replace(MEMORY, value=4.1)),
        side(memory_mb=Quantity.missing("not read")),
    ],
)
def test_two_measurements_that_agree_in_one_number_are_two(other: Side) -> None:
    assert not numbers.one_record(side(), other) and not numbers.one_record(other, side())


def test_numbers_without_an_interval_and_of_two_files_prove_no_record() -> None:
    coarse = side(latency_ms=Quantity(2.5, "ms", provenance="measured"))
    assert not numbers.one_record(coarse, coarse)
    assert not numbers.one_record(side("a"), side("b"))
    assert numbers.identical(SUBJECT, "energy", 0.05, side(), side()) is None, "nobody has an energy"


def test_a_run_against_itself_is_the_same_though_its_energy_is_never_paired(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"weights")
    energy = Quantity(0.7, "mJ/image", n=1, provenance="estimated")
    own = Source(
        "run",
        {SUBJECT: replace(side("a", energy_mj=energy), path=tmp_path / "m.onnx")},
        {"cpu": {"model": "A"}},
    )
    wanted = thresholds(("latency", "energy"), Settings())
    for recorded, modes in ((False, ["exact", "identical"]), (True, ["identical", "identical"])):
        found = check.check(own, own, wanted, sources.Options(recorded=recorded), lambda event, details: None)
        assert [(line.mode, line.verdict) for line in found.lines] == [(mode, "SAME") for mode in modes]


# --- accuracies without their answers


def share(right: int, n: int | None) -> Quantity:
    return Quantity(right / (n or 1000), "fraction", n=n, provenance="measured")


def test_newcombe_s_interval_as_published() -> None:
    """Table II of Statistics in Medicine 17 (1998), method 10: 56/70 - 48/80 and 9/10 - 3/10."""
    difference, low, high, p = stats.unpaired_accuracy((48, 80), (56, 70))
    assert (difference, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5) and 0.005 < p < 0.01
    assert stats.unpaired_accuracy((3, 10), (9, 10))[1:3] == pytest.approx((0.1705, 0.8090), abs=5e-5)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_an_unpaired_interval_holds_the_difference_and_turns_with_the_sides(
    n: int, m: int, data: st.DataObject
) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    difference, low, high, p = stats.unpaired_accuracy((a, n), (b, m))
    assert -1.0 <= low <= difference <= high <= 1.0 and 0.0 <= p <= 1.0
    turned = stats.unpaired_accuracy((b, m), (a, n))
    assert turned == pytest.approx((-difference, -high, -low, p), abs=1e-12)


def test_the_same_images_say_more_than_two_numbers() -> None:
    right = np.arange(359) < 350
    other = right ^ (np.arange(359) % 120 == 1)
    paired = stats.paired_accuracy(right, other)
    alone = stats.unpaired_accuracy((350, 359), (int(other.sum()), 359))
    assert alone[0] == pytest.approx(paired[0]) and alone[2] - alone[1] > paired[2] - paired[1]


def unpaired(base: Quantity, head: Quantity) -> Line:
    return accuracy.unpaired(SUBJECT, 0.005, base, head, "neither has the answers")


def test_two_accuracies_are_shown_and_judged_with_an_honest_interval() -> None:
    few = unpaired(share(350, 359), share(349, 359))
    assert (
        few.verdict == "INCONCLUSIVE"
        and few.base.value == 350 / 359
        and few.note == "neither has the answers"
    )
    assert few.change.low < -0.02 < few.change.value < 0.0 < few.change.high and few.smallest > 0.02
    assert unpaired(share(95_000, 100_000), share(95_000, 100_000)).verdict == "SAME"
    assert unpaired(share(9500, 10_000), share(9300, 10_000)).verdict == "REGRESSED"
    assert unpaired(share(9300, 10_000), share(9500, 10_000)).verdict == "IMPROVED"


def test_without_the_number_of_images_there_is_no_interval_and_no_verdict() -> None:
    found = unpaired(share(950, None), share(500, None))
    assert found.verdict == "INCONCLUSIVE" and found.change.value == pytest.approx(-0.45)
    assert found.change.low is None and "how many images" in found.note


def test_answers_have_an_accuracy_of_so_many_images() -> None:
    found = Answers(np.arange(10) < 9, "x").accuracy()
    assert found.value == 0.9 and found.n == 10 and found.low < 0.9 < found.high


# --- what is no line


def line(metric: str, verdict: str, base: float | None, head: float | None) -> Line:
    values = [Quantity(v, reason="" if v else "no meter") for v in (base, head)]
    return Line(SUBJECT, metric, "recorded", 0.05, *values, Quantity(None), verdict, note="no meter")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "asked", "both", "stays"),
    [
        (line("energy", "INCONCLUSIVE", None, None), (), True, False),
        (line("energy", "INCONCLUSIVE", None, None), (), False, True),
        (line("energy", "INCONCLUSIVE", None, None), ("energy",), True, True),
        (line("energy", "INCONCLUSIVE", 1.0, None), (), True, True),
        (line("accuracy", "INCONCLUSIVE", 0.9, None), (), False, False),
        (line("accuracy", "SAME", None, None), (), True, True),  # one file: known without a number
        (line("latency", "FAILED", None, None), (), True, True),
    ],
)
def test_only_what_nobody_asked_for_and_nobody_can_answer_is_no_line(
    found: Line, asked: tuple[str, ...], both: bool, stays: bool
) -> None:
    kept, notes = left_out.metrics([found], frozenset(asked), both)
    assert bool(kept) == stays
    assert notes == ([] if stays else [f"{found.metric} of 1 subject is not compared: no meter"])


# --- the command on exports

Edit = Callable[[Json], object]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Json:
    return tables.to_json(example_run(tmp_path_factory.mktemp("run")))  # type: ignore[arg-type]


def compared(folder: Path, exported: Json, edit: Edit, *options: str) -> Json:
    """The export against itself after ``edit``."""
    other = json.loads(json.dumps(exported))
    edit(other)
    (folder / "a.json").write_text(json.dumps(exported))
    (folder / "b.json").write_text(json.dumps(other))
    done = bench("compare", "a.json", "b.json", "--json", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def local(document: Json) -> list[Json]:
    return [c for c in document["cells"] if c["status"] == "ok" and c["host"] == "local"]


def other_latency(document: Json) -> None:
    for cell in local(document):
        cell["latency_ms"]["value"] *= 1.001


def test_an_export_against_itself_is_the_same_everywhere(tmp_path: Path, exported: Json) -> None:
    found = compared(tmp_path, exported, lambda document: None)
    assert found["verdict"] == "PASSED" and {line["verdict"] for line in found["lines"]} == {"SAME"}
    modes = {line["metric"]: line["mode"] for line in found["lines"]}
    assert modes["accuracy"] == modes["latency"] == "identical" and modes["size"] == "exact"


def test_two_exports_show_both_accuracies_and_why_they_are_not_judged_by_image(
    tmp_path: Path, exported: Json
) -> None:
    found = compared(tmp_path, exported, other_latency)
    lines = [line for line in found["lines"] if line["metric"] == "accuracy"]
    assert lines and {line["mode"] for line in lines} == {"unpaired"}
    for line in lines:
        assert line["base"]["value"] == line["head"]["value"] > 0 and line["change"]["low"] < 0
        assert line["note"] == "neither has the answers to each image"
    said = bench("compare", "a.json", "b.json", cwd=tmp_path).stdout
    assert "McNemar's test wants the answers" in " ".join(said.split())


def test_a_gate_that_was_not_asked_for_accuracy_does_not_fail_for_want_of_answers(
    tmp_path: Path, exported: Json
) -> None:
    other = json.loads(json.dumps(exported))
    other_latency(other)
    for name, document in (("a", exported), ("b", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    gate = ("gate", "b.json", "--baseline", "a.json", "--json", "--allow-inconclusive")
    found = json.loads(bench(*gate, cwd=tmp_path).stdout)
    assert not [line for line in found["lines"] if line["metric"] == "accuracy"]
    assert any("accuracy of" in note and "the answers to each image" in note for note in found["notes"])
    asked = json.loads(bench(*gate, "--metric", "accuracy:0.5pt", cwd=tmp_path).stdout)
    assert {line["mode"] for line in asked["lines"]} == {"unpaired"}


def test_accuracies_on_different_data_are_shown_and_not_compared(tmp_path: Path, exported: Json) -> None:
    def other_data(document: Json) -> None:
        other_latency(document)
        document["run"]["data"]["digest"] = "another"

    found = compared(tmp_path, exported, other_data)
    lines = [line for line in found["lines"] if line["metric"] == "accuracy"]
    assert {line["note"] for line in lines} == {"the two were tested on different data"}
    assert all(line["change"]["value"] is None and line["base"]["value"] for line in lines)


def test_what_neither_has_is_said_once_and_is_no_line(tmp_path: Path, exported: Json) -> None:
    def without_accuracy(document: Json) -> None:
        for cell in document["cells"]:
            cell["accuracy"] = {"value": None, "unit": "fraction", "reason": "no images"}

    found = compared(tmp_path, exported, without_accuracy)
    assert not [line for line in found["lines"] if line["metric"] == "accuracy"]
    (note,) = [note for note in found["notes"] if note.startswith("accuracy of")]
    assert note.endswith("subjects is not compared: not both have an accuracy") and "--data" not in note
    asked = bench("compare", "a.json", "b.json", "--metric", "accuracy", cwd=tmp_path)
    assert (
        asked.returncode == 2 and "not both have an accuracy" in asked.stderr and "--data" not in asked.stderr
    )


def test_predicted_cells_and_those_of_other_hosts_are_counted(tmp_path: Path, exported: Json) -> None:
    def others(document: Json) -> None:
        first = json.loads(json.dumps(local(document)[:3]))
        for cell in first[:2]:
            cell |= {"host": "pi", "prediction": {"why": "no host"}}
        first[2]["host"] = "ssh://nano"
        document["cells"] += first

    found = compared(tmp_path, exported, others)
    (note,) = [note for note in found["notes"] if note.startswith("not compared")]
    assert "2 cells predicted for pi and 1 cell measured on ssh://nano (now)" in note
    assert note in " ".join(bench("compare", "a.json", "b.json", cwd=tmp_path).stdout.split())


def test_one_runtime_of_exports(tmp_path: Path, exported: Json) -> None:
    found = compared(tmp_path, exported, lambda document: None, "--runtime", "litert")
    assert {line["place"]["runtime"] for line in found["lines"]} == {"litert"}


def test_nothing_in_common_says_what_each_of_the_two_has(tmp_path: Path, exported: Json) -> None:
    (tmp_path / "a.json").write_text(json.dumps(exported))
    predicted = json.loads(json.dumps(exported))
    for cell in predicted["cells"]:
        cell |= {"host": "pi", "prediction": {"why": "no host"}}
    (tmp_path / "b.json").write_text(json.dumps(predicted))
    empty = {"kind": "edgefit gate baseline", "schema": 1, "subjects": []}
    (tmp_path / "zero.json").write_text(json.dumps(empty))
    none = bench("compare", "zero.json", "a.json", cwd=tmp_path)
    assert none.returncode == 2 and "the base zero.json has no subject;" in none.stderr
    assert "the other a.json has " in none.stderr and "has ;" not in none.stderr
    elsewhere = bench("compare", "a.json", "b.json", cwd=tmp_path)
    assert "b.json has nothing that was measured on this kind of machine (" in elsewhere.stderr
    assert "cells predicted for pi)" in elsewhere.stderr


def test_a_file_that_is_not_there_is_answered_for_the_command_that_asks(tmp_path: Path) -> None:
    done = bench("compare", "a.json", "b.json", cwd=tmp_path)
    assert (
        done.returncode == 2
        and "bench report RUN --format json" in done.stderr
        and "--update" not in done.stderr
    )


def test_another_machine_is_refused_with_what_compare_can_do(tmp_path: Path, exported: Json) -> None:
    other = json.loads(json.dumps(exported))
    for cell in other["cells"]:
        cell["environment"] = {"cpu": {"model": "Cray-1"}}
        if cell["latency_ms"]["value"]:
            cell["latency_ms"]["value"] *= 2
    (tmp_path / "a.json").write_text(json.dumps(exported))
    (tmp_path / "b.json").write_text(json.dumps(other))
    done = bench("compare", "a.json", "b.json", cwd=tmp_path)
    assert (
        done.returncode == 2 and "Give --allow-mismatch" in done.stderr and "new baseline" not in done.stderr
    )
