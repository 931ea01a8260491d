"""What the reports say of each variant against what it was made from, and why it is not faster."""

from __future__ import annotations

import dataclasses
import html as escapes
import json
import re
from typing import Any

import pytest

from bench.types import Quantity
from reports import causes, claims, rows, tables, verdicts
from tests.fixtures import FakeRun, example_run, graph_facts

FACTS = graph_facts("teacher", "fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def found(run: FakeRun) -> dict[tuple[str, str], verdicts.Verdict]:
    compared = verdicts.compare(run, rows.rows(run))
    return {(v.row.cell.variant, v.row.cell.runtime): v for v in compared}


def with_graphs(run: FakeRun, **changes: Any) -> FakeRun:
    """The run with the graph facts of every artifact changed."""
    artifacts = {
        k: r | {"graph": (r["graph"] | changes) if r["graph"] else {}} for k, r in run.artifacts.items()
    }
    return dataclasses.replace(run, artifacts=artifacts)


def with_ladder(run: FakeRun, ladder: list[dict[str, Any]]) -> FakeRun:
    key = next(k for k, r in run.artifacts.items() if (r["variant"], r["format"]) == ("teacher-int8", "onnx"))
    return dataclasses.replace(run, artifacts={key: run.artifacts[key] | {"ladder": ladder}})


def with_variant(run: FakeRun, name: str, **changes: Any) -> FakeRun:
    return dataclasses.replace(run, variants=run.variants | {name: run.variants[name] | changes})


# --- a sentence for each variant


def test_every_variant_has_its_sentence_in_every_format(run: FakeRun) -> None:
    said = verdicts.sentences(verdicts.compare(run, rows.rows(run)))
    cells = [c for c in run.cells if c["metrics"] and c["cell"]["variant"] != "teacher"]
    assert len(said) == len(cells)
    document = json.loads(tables.render([run], "json"))
    assert set(said) <= set(document["verdicts"])
    assert [c["sentence"] for c in document["comparisons"]] == said
    markdown = tables.render([run], "md").replace("\\", "")
    page = escapes.unescape(tables.render([run], "html"))
    assert all(line in markdown and f">{line}</li>" in page for line in said)


@pytest.fixture(scope="module")
def threads(run: FakeRun) -> FakeRun:
    """The run with each cell once more at 4 threads, where int8 on onnxruntime is three times slower."""
    more = []
    for cell in json.loads(json.dumps(run.cells)):
        cell["cell"]["threads"] = 4
        latency = cell["metrics"].get("latency_ms") or {"value": None}
        if (
            "int8" in cell["cell"]["variant"]
            and cell["cell"]["runtime"] == "onnxruntime"
            and latency["value"]
        ):
            latency |= {key: 3 * latency[key] for key in ("value", "low", "high")}
        more.append(cell)
    return dataclasses.replace(run, cells=[*run.cells, *more])


def test_sentences_of_several_thread_counts_name_theirs(threads: FakeRun) -> None:
    items = rows.rows(threads)
    compared = verdicts.compare(threads, items)
    document = json.loads(tables.render([threads], "json"))
    said = [c["sentence"] for c in document["comparisons"]]
    assert said == verdicts.sentences(compared) and len(set(said)) == len(said)
    for line in (*said, *claims.chains(threads, items)):
        assert ("1 thread)" in line) != ("4 threads)" in line), line
    (quick,) = [s for s in said if s.startswith("teacher-int8 on onnxruntime (local, batch 1, 1 thread)")]
    (slow,) = [s for s in said if s.startswith("teacher-int8 on onnxruntime (local, batch 1, 4 threads)")]
    assert "1.80x faster" in quick and "slower" in slow
    for line in verdicts.lines(compared)[:-1]:
        assert "thread" in line


def test_what_was_not_timed_names_its_threads_too(threads: FakeRun) -> None:
    cells = json.loads(json.dumps(threads.cells))
    for cell in cells:
        if cell["cell"]["threads"] == 4:
            cell["metrics"].pop("latency_ms", None)
    untimed = dataclasses.replace(threads, cells=cells)
    said = verdicts.sentences(verdicts.compare(untimed, rows.rows(untimed)))
    assert said and all("thread" in line for line in said)


def test_the_terminal_compares_with_the_parent_in_every_setting(threads: FakeRun) -> None:
    shown = tables.render([threads], "terminal", width=100)
    parts = shown.split("Against what each was made from ")[1:]
    assert [part.splitlines()[0] for part in parts] == [
        "(local, batch 1, 1 thread)",
        "(local, batch 1, 4 threads)",
    ]
    lines = [next(x for x in part.splitlines() if x.startswith("teacher-int8")) for part in parts]
    assert [line.split()[3] for line in lines] == ["1.80x", "0.60x▼"]


def test_what_has_nothing_to_be_compared_with_is_told(run: FakeRun) -> None:
    cells = [
        c for c in run.cells if c["cell"]["runtime"] != "litert" or "teacher" not in c["cell"]["variant"]
    ]
    orphan = dataclasses.replace(run, cells=cells)
    items = rows.rows(orphan)
    (line,) = verdicts.uncompared(items, verdicts.compare(orphan, items))
    assert line.startswith("not compared with what it was made from: 2 cells (student on litert, student-kd")
    for fmt in ("terminal", "md"):
        assert "".join(line.split()) in "".join(tables.render([orphan], fmt).replace("\\", "").split())


def test_a_win_is_said_with_speed_size_and_accuracy_against_the_parent(
    found: dict[tuple[str, str], verdicts.Verdict],
) -> None:
    line = verdicts.sentence(found["teacher-int8", "onnxruntime"])
    number = r"\[[-+\d.]+, [-+\d.]+\]"
    assert re.fullmatch(
        rf"teacher-int8 on onnxruntime: 1\.80x faster {number}, 3\.78x smaller, "
        rf"accuracy [-+][\d.]+ points {number} against teacher\.",
        line,
    )
    child = verdicts.sentence(found["teacher-pruned-int8", "onnxruntime"])
    assert child.endswith("against teacher-pruned.")


def test_no_win_is_said_with_its_causes_and_the_ratio(
    found: dict[tuple[str, str], verdicts.Verdict],
) -> None:
    line = verdicts.sentence(found["teacher-pruned", "onnxruntime"])
    assert "no win on this runtime because channel counts are no multiple of 8" in line
    assert "stage3.2.main.0 37 -> 40" in line
    assert "(0.99x [0.98, 1.01], no measurable difference)" in line


def test_predictions_measure_no_difference_and_are_not_explained_here(
    found: dict[tuple[str, str], verdicts.Verdict],
) -> None:
    measured = dataclasses.replace(found["teacher-pruned", "onnxruntime"], causes=())
    predicted = dataclasses.replace(
        measured, ratio=dataclasses.replace(measured.ratio, provenance="predicted")
    )
    assert "no measurable difference" not in verdicts.sentence(predicted)
    assert "the prediction cannot tell" in verdicts.sentence(predicted)
    assert verdicts.to_json(predicted)["outcome"] == "no measurable difference"
    assert any("bench explain" in line for line in verdicts.lines([measured]))
    said = verdicts.lines([predicted])
    assert len(said) == 1 and said[0].startswith(
        "pruned on onnxruntime: the prediction cannot tell whether it wins (teacher-pruned "
    )
    assert "no win" not in verdicts.sentence(predicted)


def test_an_interval_that_holds_a_gain_does_not_show_that_there_is_none(
    found: dict[tuple[str, str], verdicts.Verdict],
) -> None:
    equal = found["teacher-pruned", "onnxruntime"]
    wide = dataclasses.replace(equal, ratio=dataclasses.replace(equal.ratio, low=0.6, high=2.4))
    assert (equal.said, wide.said) == (verdicts.SAME, verdicts.UNTOLD)
    assert "the measurements cannot tell whether it is faster (0.99x [0.60, 2.40])" in verdicts.sentence(wide)
    (alone,) = verdicts.lines([wide])
    assert "the measurements cannot tell whether it wins" in alone and "no win" not in alone
    slower = dataclasses.replace(equal, outcome=verdicts.SLOWER)
    mixed = verdicts.lines([wide, slower])[0]
    assert ": no win seen (the measurements cannot tell: " in mixed and "slower: " in mixed


def test_a_device_that_was_not_there_gets_size_and_accuracy_but_no_speed(
    found: dict[tuple[str, str], verdicts.Verdict],
) -> None:
    verdict = found["student", "tensorrt"]
    line = verdicts.sentence(verdict)
    assert line.startswith("student on tensorrt (jetson-agx-xavier): not timed, 3.33x smaller, accuracy")
    assert verdicts.to_json(verdict)["outcome"] == "not timed"
    assert not verdict.causes


def test_a_larger_file_is_not_called_smaller(found: dict[tuple[str, str], verdicts.Verdict]) -> None:
    verdict = found["student", "litert"]
    larger = dataclasses.replace(verdict, smaller=Quantity(0.5, "x"))
    same = dataclasses.replace(verdict, smaller=Quantity(1.001, "x"))
    assert "2.00x larger" in verdicts.sentence(larger)
    assert "the same size" in verdicts.sentence(same)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_every_variant_once_against_its_parent(run: FakeRun, width: int) -> None:
    shown = tables.render([run], "terminal", width=width)
    part = shown[shown.index("Against what each was made from") : shown.index("Verdicts")]
    assert max(map(len, part.splitlines())) <= width
    line = next(x for x in part.splitlines() if x.startswith("teacher-int8"))
    assert line.split()[:4] == ["teacher-int8", "teacher", "0.58x▼", "1.80x"]
    assert next(x for x in part.splitlines() if x.startswith("teacher-pruned ")).count("≈") == 2


# --- causes


def graph(**changes: Any) -> dict[str, Any]:
    return FACTS | {"kernels": 100} | changes


SLOW = Quantity(1.0, "ms")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (graph(int8_layers=18), "only 18 of 22 layers run in int8"),
        (graph(int8_layers=22, unfused_qdq=30), "30 of 100 operator calls are quantize or dequantize nodes"),
        (
            graph(int8_layers=22, float_islands=9, island_ops={"HardSigmoid": 12, "ReduceMean": 3}),
            "9 float islands lie between int8 operators (12 HardSigmoid, 3 ReduceMean)",
        ),
        (
            graph(int8_layers=22, outside={"HARD_SWISH": 19}, parts=20),
            "19 operators outside XNNPACK (19 HARD_SWISH) cut the graph into 20 parts",
        ),
        (graph(int8_layers=22, kernels=700), "700 operator calls take 1.4 µs each"),
    ],
)
def test_what_the_graph_shows_becomes_a_cause(facts: dict[str, Any], said: str) -> None:
    assert any(said in cause for cause in causes.graph_causes(facts, {}, "int8", SLOW, causes.NOTICEABLE))


def test_a_few_conversions_among_many_operators_are_no_cause() -> None:
    facts = graph(
        int8_layers=22, unfused_qdq=2, float_islands=1, island_ops={"ReduceMean": 1}, layout_changes=2
    )
    assert causes.graph_causes(facts, {}, "int8", SLOW, causes.NOTICEABLE) == []
    assert len(causes.graph_causes(facts, {}, "int8", SLOW)) == 3


def test_widths_that_the_parent_has_as_well_explain_no_difference() -> None:
    odd = graph(odd_layers=1, odd_channels=[["body", 37, 40]])
    assert causes.graph_causes(odd, graph(), "fp32", SLOW) != []
    assert causes.graph_causes(odd, odd, "fp32", SLOW) == []


def test_another_runtime_is_not_explained_by_the_graph_of_onnxruntime() -> None:
    facts = graph(unfused_qdq=30, odd_channels=[["body", 37, 40]])
    assert causes.facts_of(facts, "onnx", "onnxruntime") == facts
    elsewhere = causes.facts_of(facts, "onnx", "openvino")
    assert "unfused_qdq" not in elsewhere and elsewhere["odd_channels"]
    assert causes.facts_of({"error": "no such operator"}, "onnx", "onnxruntime") == {}


@pytest.mark.parametrize(("features", "said"), [(["avx2"], True), (["avx512f", "avx512_bf16"], False)])
def test_a_cpu_with_bf16_arithmetic_is_not_said_to_lack_it(
    run: FakeRun, features: list[str], said: bool
) -> None:
    row = next(r for r in rows.rows(run) if r.cell.runtime == "torch" and r.cell.precision == "bf16")
    record = dict(row.record) | {"environment": {"cpu": {"features": features}, "gpus": []}}
    named = causes.causes(dataclasses.replace(row, record=record), row, {}, {})
    assert any("may compute in fp32" in cause for cause in named) == said


def test_nothing_is_made_up_where_nothing_was_recorded(run: FakeRun) -> None:
    bare = dataclasses.replace(
        run, artifacts={k: {n: v for n, v in r.items() if n != "graph"} for k, r in run.artifacts.items()}
    )
    compared = verdicts.compare(bare, rows.rows(bare))
    pruned = next(
        v for v in compared if (v.row.cell.variant, v.row.cell.runtime) == ("teacher-pruned", "onnxruntime")
    )
    assert pruned.causes == () and "because" not in verdicts.sentence(pruned)
    assert any("bench explain teacher-pruned --runtime onnxruntime" in x for x in verdicts.lines(compared))


def test_a_line_about_many_gives_shared_causes_once_and_others_with_their_owner(run: FakeRun) -> None:
    fallen = with_graphs(run, outside={"HARD_SWISH": 19}, parts=20)
    line = next(
        x
        for x in verdicts.lines(verdicts.compare(fallen, rows.rows(fallen)))
        if x.startswith("int8 on litert")
    )
    assert line.count("19 HARD_SWISH") == 1 and line.count("VNNI") == 1


# --- distillation


def test_a_distilled_student_is_compared_with_its_twin_on_the_same_images(run: FakeRun) -> None:
    (line,) = claims.alone(run, rows.rows(run))
    compared = rows.Predictions(run).change(
        *(
            next(c for c in run.cells if c["cell"]["variant"] == n and c["predictions"])
            for n in ("student", "student-kd")
        ),
        "test",
    )
    assert line.startswith("student-kd: 96.9% with its teacher, 95.6% without (student): +1.4 points [")
    assert compared.value is not None and f"{100 * compared.value:+.1f} points" in line
    assert "360 test images in pairs" in line


def test_a_twin_that_was_only_trained_is_compared_on_validation(run: FakeRun) -> None:
    cells = [c for c in run.cells if c["cell"]["variant"] != "student"]
    trained = dataclasses.replace(run, cells=cells)
    (line,) = claims.alone(trained, rows.rows(trained))
    kept = [run.variants[n]["history"][6]["val_accuracy"] for n in ("student-kd", "student")]
    assert f"{100 * kept[0]:.1f}% with its teacher, {100 * kept[1]:.1f}% without" in line
    assert "360 validation images, not in pairs" in line and "no measurable gain" in line


@pytest.mark.parametrize("twin", ["", "nobody"])
def test_without_a_twin_nothing_is_said(run: FakeRun, twin: str) -> None:
    changed = with_variant(run, "student-kd", alone=twin)
    assert claims.alone(changed, rows.rows(changed)) == []


def test_the_interval_of_independent_accuracies_is_newcombes() -> None:
    """9 of 10 against 3 of 10: the paper's example, method 10."""
    difference = claims.unpaired(0.9, 0.3, 10)
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        (0.6, 0.1705, 0.8090), abs=1e-4
    )


# --- ladders


def rung(name: str, drop: float | None, held: bool = False, **more: Any) -> dict[str, Any]:
    known = (
        Quantity(drop, "", drop - 0.002, drop + 0.002, 360, "measured", "paired")
        if drop is not None
        else None
    )
    return {
        "rung": name,
        "held": held,
        "drop": known.to_json() if known else None,
        "skipped": "" if known else "x",
    } | more


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        (
            [rung("channel", 0.02), rung("float", 0.004, True, float_layers=["stem", "head"])],
            "held at rung 'float', loss 0.4 [0.2, 0.6] points (budget 1.0); culprits kept float: stem, head.",
        ),
        (
            [rung("channel", 0.03), rung("mse", None), rung("float", 0.02, no_gain=True)],
            "no rung held (tried channel and float); the best, 'float', loss 2.0 [1.8, 2.2] points (budget 1.0), "
            "which costs all that int8 gained.",
        ),
        ([rung("qat", None)], "no rung made a file."),
    ],
)
def test_a_ladder_says_which_rung_held_and_which_layers_stayed_float(
    run: FakeRun, ladder: list[dict[str, Any]], said: str
) -> None:
    (line,) = claims.ladders(with_ladder(run, ladder))
    assert line == f"int8 of teacher-int8 on onnxruntime: {said}"


# --- chains


def test_a_chain_that_is_worse_than_one_of_its_steps_says_so(run: FakeRun) -> None:
    (line,) = claims.chains(run, rows.rows(run))
    assert line.startswith("teacher-pruned-int8 on litert: the chain is worse than teacher-pruned")
    assert "0.56x [0.55, 0.57] the speed" in line and "3.82x smaller" in line
    assert line.endswith("; the difference is its quantize step.")


def test_a_chain_whose_speed_cannot_be_told_is_not_called_worse(run: FakeRun, monkeypatch) -> None:
    exact = rows.ratio

    def wide(*given: Any, **options: Any) -> Quantity:
        found = exact(*given, **options)
        return dataclasses.replace(found, value=0.98, low=0.6, high=1.6) if found.value else found

    monkeypatch.setattr(rows, "ratio", wide)
    assert claims.chains(run, rows.rows(run)) == []


def test_a_chain_whose_teacher_had_nothing_to_teach_says_so(run: FakeRun) -> None:
    steps = {
        "teacher-pruned": {"kind": "prune"},
        "teacher-pruned-int8": {"kind": "distill", "teacher": ["teacher"], "model": ""},
    }
    variants = run.variants | {name: run.variants[name] | {"step": step} for name, step in steps.items()}
    accuracy = {c["cell"]["variant"]: c["metrics"]["accuracy"]["value"] for c in run.cells if c["metrics"]}
    lines = {}
    for change in (-0.2, 0.2):
        cells = [_with_accuracy(c, accuracy["teacher-pruned"] + change) for c in run.cells]
        found = dataclasses.replace(run, variants=variants, cells=cells)
        (lines[change],) = claims.chains(found, rows.rows(found))
    assert (
        "; its teacher teacher (" in lines[-0.2]
        and "is no better than teacher-pruned without it" in lines[-0.2]
    )
    assert lines[0.2].endswith("; the difference is its distill step.")


def _with_accuracy(cell: Any, value: float) -> Any:
    """The cell; a teacher's with another accuracy."""
    if cell["cell"]["variant"] != "teacher" or not cell["metrics"]:
        return cell
    return cell | {"metrics": cell["metrics"] | {"accuracy": cell["metrics"]["accuracy"] | {"value": value}}}


def test_a_chain_that_pays_is_not_blamed(run: FakeRun) -> None:
    kept = [
        c
        for c in run.cells
        if not (c["cell"]["variant"] == "teacher-pruned-int8" and c["cell"]["runtime"] == "litert")
    ]
    paying = dataclasses.replace(run, cells=kept)
    assert claims.chains(paying, rows.rows(paying)) == []
