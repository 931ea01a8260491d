"""`bench choose`: limits as people type them, the right cell, and why the others were refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import NothingFitsError, UsageError
from bench.types import Quantity
from reports.answer import choice_json, commands, render_choice
from reports.choose import OBJECTIVES, choose
from reports.front import front
from reports.limits import METRICS, UNITS, UNSAID, Constraints, parse_constraints, parse_limit, parse_quantity
from reports.objective import Candidate, Judge, parse_objective
from reports.reasons import explain, sensitivity, warnings
from tests.fixtures import NO_HOST, FakeRun, example_run


def within(*limits: str) -> Constraints:
    return parse_constraints(limits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("run"), batches=(1, 8))


def edited(run: FakeRun, variant: str, runtime: str, **metrics: Any) -> FakeRun:
    """The run with other metrics in one variant's cells on one runtime."""
    cells = json.loads(json.dumps(run.cells))
    for cell in cells:
        if (cell["cell"]["variant"], cell["cell"]["runtime"]) == (variant, runtime):
            cell["metrics"] |= {name: q.to_json() for name, q in metrics.items()}
    return dataclasses.replace(run, cells=cells)


# ---------------------------------------------------------------- limits as typed


@pytest.mark.parametrize(
    ("typed", "kind", "value"),
    [
        ("10ms", "latency", 10.0),
        ("1.5 s", "latency", 1500.0),
        ("250us", "latency", 0.25),
        ("250µs", "latency", 0.25),
        ("5MB", "size", 5e6),
        ("5mb", "size", 5e6),
        ("512KiB", "size", 524_288.0),
        ("200MB", "memory", 200.0),
        ("1GiB", "memory", 1073.741824),
        ("300mJ", "energy", 300.0),
        ("2J", "energy", 2000.0),
        ("1%", "drop", 0.01),
        ("0%", "drop", 0.0),
        ("0.9", "accuracy", 0.9),
        ("1e-3s", "latency", 1.0),
        (".5ms", "latency", 0.5),
    ],
)
def test_limits_are_read(typed: str, kind: str, value: float) -> None:
    assert parse_quantity(typed, kind) == pytest.approx(value)


@pytest.mark.parametrize(
    ("typed", "kind", "hint"),
    [
        ("10", "latency", "needs a unit"),
        ("10MB", "latency", "no unit 'MB'"),
        ("10ms", "size", "no unit 'ms'"),
        ("3MJ", "energy", "no unit 'MJ'"),
        ("-1ms", "latency", "must be positive"),
        ("0MB", "size", "must be positive"),
        ("90", "accuracy", "90%"),
        ("1", "drop", "1%"),
        ("0.5", "drop", "0.5%"),
        ("150%", "drop", "from 0 to 1"),
        ("-1%", "drop", "must be positive"),
        ("fast", "latency", "number and a unit"),
        ("", "size", "number and a unit"),
        ("nan ms", "latency", "number and a unit"),
        ("1e999ms", "latency", "too large a number"),
        ("1,5ms", "latency", "number and a unit"),
    ],
)
def test_bad_limits_say_what_to_write(typed: str, kind: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_quantity(typed, kind)
    assert hint in str(caught.value)


@given(st.sampled_from(sorted(UNITS)), st.floats(1e-3, 1e6), st.data())
def test_a_written_limit_reads_back(kind: str, number: float, data: st.DataObject) -> None:
    units = {u: f for u, f in UNITS[kind].items() if kind not in ("accuracy", "drop") or number * f <= 1}
    if not units:
        return
    if kind == "drop" and number > UNSAID:
        units.pop("", None)
    unit = data.draw(st.sampled_from(sorted(units)))
    spaces = data.draw(st.sampled_from(["", " ", "  "]))
    assert parse_quantity(f" {number!r}{spaces}{unit} ", kind) == pytest.approx(number * units[unit])


@given(st.text(max_size=12), st.sampled_from(sorted(UNITS)))
def test_any_text_is_a_finite_limit_or_a_clear_error(typed: str, kind: str) -> None:
    try:
        value = parse_quantity(typed, kind)
    except UsageError as error:
        assert kind in str(error)
    else:
        assert math.isfinite(value) and value >= 0


@pytest.mark.parametrize(
    ("typed", "words", "target"),
    [
        ("latency<=10ms", "latency at most 10 ms", ""),
        ("p99 <= 20ms", "p99 at most 20 ms", ""),
        ("accuracy>=90%", "accuracy at least 90%", ""),
        ("pixel-8:drop<=1%", "accuracy drop at most 1 point on pixel-8", "pixel-8"),
        ("runs/a:b/local:size<512KiB", "size at most 524 kB on runs/a:b/local", "runs/a:b/local"),
        ("throughput>=100/s", "throughput at least 100 images/s", ""),
        ("params<=2.5M", "params at most 2.50M", ""),
    ],
)
def test_limits_on_any_metric_and_target_are_read(typed: str, words: str, target: str) -> None:
    limit = parse_limit(typed)
    assert (limit.words, limit.target) == (words, target)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("latency", "p99<=20ms"),
        ("latency>=10ms", "latency is better lower"),
        ("accuracy<=90%", "accuracy is better higher"),
        ("latancy<=10ms", "latency"),
        ("latency<=10", "needs a unit"),
        ("", "not a limit"),
    ],
)
def test_bad_limits_are_refused_with_what_to_write(typed: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_limit(typed)


# ---------------------------------------------------------------- choosing


def test_the_fastest_that_fits_is_chosen_and_can_be_exported(run: FakeRun) -> None:
    choice = choose([run], within("latency<=0.2ms", "drop<=0.02"))
    assert (choice.chosen.rows[0].cell.variant, choice.chosen.rows[0].cell.runtime) == (
        "student-kd-int8",
        "onnxruntime",
    )
    assert choice.chosen.rows[0].cell.batch == 1 and choice.chosen.rows[0].cell.host == "local"
    assert commands(choice)[0][0].startswith(
        f"bench export {run.path} --variant student-kd-int8 --runtime onnxruntime --output "
    )
    latencies = [c.rows[0].metrics["latency_ms"].value for c in choice.runners_up]
    assert latencies == sorted(latencies) and latencies
    assert all(value <= 0.2 for value in latencies)


def test_every_other_cell_is_refused_with_its_number(run: FakeRun) -> None:
    choice = choose([run], within("latency<=0.2ms", "drop<=0.02"))
    reasons = {(r.cell.variant, r.cell.runtime): " ".join(why) for r, why in choice.refused}
    assert reasons["student", "onnxruntime"] == "accuracy drop 3.1 [1.2, 4.9] points, wanted at most 2 points"
    assert "wanted at most 0.2 ms" in reasons["teacher", "torch"]
    assert "SIGSEGV" in reasons["teacher-fp16", "onnxruntime"]
    assert "no int8 path" in reasons["teacher-int8", "torch"]
    assert NO_HOST in reasons["teacher", "tensorrt"]
    assert (choice.chosen.rows[0].cell.variant, choice.chosen.rows[0].cell.runtime) not in reasons


def test_an_objective_that_nobody_measured_says_so(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError, match="device-memory is not measured anywhere"):
        choose([run], within("accuracy>=0.9"), "device-memory")


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"device-memory", "p99"}))
def test_no_fitting_cell_is_clearly_better_than_the_chosen_one(run: FakeRun, objective: str) -> None:
    choice = choose([run], within("accuracy>=0.9"), objective, hosts=["local"])
    metric, less = OBJECTIVES[objective], OBJECTIVES[objective].less
    best = metric.read(choice.chosen.rows[0]).value
    assert best is not None
    for candidate in choice.runners_up:
        value = metric.read(candidate.rows[0]).value
        assert value is not None
        slack = (
            0.03 * best if metric.kind in ("latency", "rate") else 0.02 if objective == "accuracy" else 0.0
        )
        assert (value >= best - slack) if less else (value <= best + slack)
    json.dumps(choice_json(choice), allow_nan=False)
    assert commands(choice)[0][0] in render_choice(choice)


def test_ties_go_to_the_smaller_artifact(run: FakeRun) -> None:
    close = Quantity(0.0604, "ms", 0.0598, 0.0610, 600, "measured")
    tied = edited(run, "teacher-int8", "onnxruntime", latency_ms=close)
    choice = choose([tied], within(), "latency", runtime="onnxruntime")
    assert choice.chosen.rows[0].cell.variant in ("student-int8", "student-kd-int8")
    assert "cannot be told" in explain(choice) and "teacher-int8" in explain(choice)


def test_of_equally_small_ties_the_more_accurate_is_chosen(run: FakeRun) -> None:
    choice = choose([run], within(), "latency", runtime="onnxruntime")
    assert choice.chosen.rows[0].cell.variant == "student-kd-int8"


def test_validation_decides_not_test(run: FakeRun) -> None:
    low = Quantity(0.5, "", 0.45, 0.55, 360, "measured")
    worse_on_validation = edited(run, "student-kd-int8", "onnxruntime", val_accuracy=low)
    choice = choose([worse_on_validation], within("accuracy>=0.9"))
    assert (choice.chosen.rows[0].cell.variant, choice.chosen.rows[0].cell.runtime) != (
        "student-kd-int8",
        "onnxruntime",
    )
    worse_on_test = edited(run, "student-kd-int8", "onnxruntime", accuracy=low)
    assert choose([worse_on_test], within("accuracy>=0.9")).chosen.variant == "student-kd-int8"
    assert "validation" in explain(choice)


def test_without_validation_the_test_set_is_used_and_said(run: FakeRun) -> None:
    none = Quantity.missing("no validation split")
    choice = choose(
        [edited(run, "student-kd-int8", "onnxruntime", val_accuracy=none)], within("accuracy>=0.9")
    )
    assert choice.chosen.rows[0].cell.variant == "student-kd-int8"
    assert any("no validation split" in warning for warning in warnings(choice))


def test_an_interval_across_the_limit_is_a_warning(run: FakeRun) -> None:
    choice = choose([run], within("latency<=0.0606ms"), runtime="onnxruntime")
    assert any("crosses the limit" in warning for warning in warnings(choice))
    sure = choose([run], within("latency<=0.07ms"), runtime="onnxruntime", hosts=["local"])
    assert not warnings(sure)


def test_estimated_energy_is_a_warning(run: FakeRun) -> None:
    assert any("estimated" in w for w in warnings(choose([run], within("energy<=3.0mJ"))))


def test_a_missing_metric_is_refused_with_its_reason(run: FakeRun) -> None:
    none = Quantity.missing("no meter")
    choice = choose([edited(run, "student-kd-int8", "onnxruntime", energy_mj=none)], within("energy<=3.0mJ"))
    reasons = {(r.cell.variant, r.cell.runtime): why for r, why in choice.refused}
    assert reasons["student-kd-int8", "onnxruntime"] == ("energy not measured: no meter",)


def test_nothing_fits_names_the_nearest_of_each_limit(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError) as caught:
        choose([run], within("latency<=0.01ms", "accuracy>=0.99"))
    said = str(caught.value)
    assert "latency at most 0.01 ms" in said and "student-kd-int8 on onnxruntime: 0.0605" in said
    assert "accuracy at least 99%" in said and "teacher on" in said
    assert caught.value.exit_code == 6


def test_only_what_is_missed_is_said_and_a_prediction_misses_by_its_worse_end(run: FakeRun) -> None:
    wide = Quantity(0.3, "ms", 0.05, 1.9, None, "predicted")
    sharp = Quantity(0.4, "ms", 0.2, 1.2, None, "predicted")
    found = edited(run, "student-int8", "tensorrt", latency_ms=wide)
    found = edited(found, "student-kd-int8", "tensorrt", latency_ms=sharp)
    with pytest.raises(NothingFitsError) as caught:
        choose([found], within("latency<=1ms", "drop<=50%"), hosts=["jetson-agx-xavier"])
    said = str(caught.value)
    assert "missed by all, nearest is student-kd-int8" in said and "--trust-predictions" in said
    assert "drop" not in said


def test_a_choice_on_another_machine_than_the_runs_target_is_a_warning(run: FakeRun) -> None:
    choice = choose([run], within())
    assert "no latency is known for jetson-agx-xavier" in explain(choice)
    assert "this is the best on local, which is not jetson-agx-xavier" in warnings(choice)
    assert not any("best on local" in w for w in warnings(choose([run], within(), hosts=["local"])))


def test_limits_that_fit_one_by_one_but_not_together_say_so(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError) as caught:
        choose([run], within("size<=120000B", "accuracy>=0.98"), hosts=["local"])
    assert "best is" in str(caught.value)


def test_a_device_that_was_not_there_can_not_be_chosen_for_latency(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError, match=NO_HOST):
        choose([run], within("latency<=5ms"), hosts=["jetson-agx-xavier"])
    assert "Compared on local" in explain(choose([run], within()))


def test_predictions_for_the_target_are_used_and_said(run: FakeRun) -> None:
    guess = Quantity(2.0, "ms", 1.5, 2.7, None, "predicted", "roofline")
    choice = choose([edited(run, "student-int8", "tensorrt", latency_ms=guess)], within(), "latency")
    assert choice.chosen.rows[0].cell.host == "jetson-agx-xavier"
    assert "latency is predicted, not measured" in warnings(choice)
    both = edited(
        edited(run, "student-int8", "tensorrt", latency_ms=guess), "teacher", "tensorrt", latency_ms=guess
    )
    said = render_choice(choose([both], within(), "latency"))
    assert "Runners-up (jetson-agx-xavier, batch 1; predictions by their worse end):" in said


def test_batches_are_not_compared_with_each_other(run: FakeRun) -> None:
    choice = choose([run], within(), "throughput", batch=8)
    assert {c.rows[0].cell.batch for c in (choice.chosen, *choice.runners_up)} == {8}
    with pytest.raises(UsageError, match="batch 3"):
        choose([run], within(), batch=3)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"objective": "speed"}, "speed"),
        ({"runtime": "onnx"}, "onnxruntime"),
        ({"hosts": ["jetson"]}, "jetson-agx-xavier"),
    ],
)
def test_wrong_names_offer_the_nearest(run: FakeRun, options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        choose([run], within(), **options)


def test_a_run_without_cells_fits_nothing(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError, match="no measured cells"):
        choose([dataclasses.replace(run, cells=[])], within())


def test_odd_paths_are_quoted_in_the_command(run: FakeRun) -> None:
    odd = dataclasses.replace(run, path=Path("runs/my run; rm -rf x"))
    assert "'runs/my run; rm -rf x'" in commands(choose([odd], within()))[0][0]


# ---------------------------------------------------------------- the knee and the front


def test_without_an_objective_the_knee_is_taken_and_its_neighbours_named(run: FakeRun) -> None:
    bent = edited(run, "teacher-int8", "onnxruntime")
    for cell in bent.cells:  # told apart by their intervals: no images are shared
        if cell["status"] == "ok":
            name = cell["cell"]["variant"]
            accuracy = 0.96 if name == "teacher-int8" else 0.99 if name == "teacher" else 0.90
            known = Quantity(accuracy, "", accuracy - 0.005, accuracy + 0.005, 360, "measured")
            cell["metrics"]["val_accuracy"] = known.to_json()
            cell["predictions"] = None
    choice = choose([bent], within(), runtime="onnxruntime")
    assert choice.objective is None and "is the knee of latency and accuracy" in explain(choice)
    assert choice.chosen.variant == "teacher-int8"
    said = sensitivity(choice)
    assert said[0].startswith("Next cheaper: student-kd-int8") and said[1].startswith("Next dearer: teacher")
    assert choice.chosen.variant in [one.variant for one, _ in choice.front.members]


def test_a_front_without_a_knee_says_so_and_a_limit_on_accuracy_means_latency(run: FakeRun) -> None:
    choice = choose([run], within(), runtime="onnxruntime")
    assert "which have no knee" in explain(choice) and choice.chosen.variant == "teacher-pruned"
    with_limit = choose([run], within("drop<=1%"), runtime="onnxruntime")
    assert with_limit.objective is not None and with_limit.objective.words == "latency"


_KNOWN: dict[int, tuple[Any, ...]] = {}


def _some_row(run: FakeRun) -> tuple[Any, ...]:
    """A cell's row to make others from; of each run computed once, as hypothesis asks hundreds of times."""
    if id(run) not in _KNOWN:
        _KNOWN[id(run)] = choose([run], within(), "latency", runtime="onnxruntime").chosen.rows
    return _KNOWN[id(run)]


def cells_of(run: FakeRun, values: list[tuple[float, float]]) -> list[Candidate]:
    """Candidates of these latencies and accuracies, each known to a thousandth."""
    rows = _some_row(run)
    found = []
    for place, (latency, accuracy) in enumerate(values):
        metrics = {
            **rows[0].metrics,
            "latency_ms": Quantity(latency, "ms", latency * 0.999, latency * 1.001, 9, "measured"),
            "val_accuracy": Quantity(accuracy, "", accuracy - 1e-4, accuracy + 1e-4, 9, "measured"),
            "size_bytes": Quantity(1e5 + place),
        }
        cell = dataclasses.replace(rows[0].cell, variant=f"v{place}")
        record = {**rows[0].record, "predictions": None}
        found.append(Candidate((dataclasses.replace(rows[0], cell=cell, metrics=metrics, record=record),)))
    return found


def names(candidates: Any) -> list[str]:
    return [c.variant for c in candidates]


def test_the_knee_is_the_point_farthest_above_the_line_between_the_ends(run: FakeRun) -> None:
    from reports.front import knee

    judge = Judge([run])
    bent = cells_of(run, [(1.0, 0.5), (2.0, 0.9), (4.0, 0.95), (16.0, 1.0), (8.0, 0.4)])
    found, curve = knee(judge, bent, METRICS["latency"])
    assert found.variant == "v1" and names(curve) == ["v0", "v1", "v2", "v3"]
    two = cells_of(run, [(1.0, 0.5), (2.0, 0.9)])
    assert knee(judge, two, METRICS["latency"])[0].variant == "v1"
    sagging = cells_of(run, [(1.0, 0.5), (2.0, 0.51), (4.0, 0.9)])
    assert knee(judge, sagging, METRICS["latency"])[0].variant == "v2"


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 30)).map(lambda p: (float(p[0]), p[1] / 31)),
        min_size=1,
        max_size=12,
    )
)
def test_nobody_on_the_front_is_beaten(run: FakeRun, values: list[tuple[float, float]]) -> None:
    candidates = cells_of(run, values)
    metrics = [METRICS[name] for name in ("accuracy", "latency", "size")]
    judge = Judge([run])
    found = front(judge, candidates)
    on = {c.variant for one, others in found.members for c in (one, *others)}

    def beats(a: Candidate, b: Candidate) -> bool:
        pairs = [(m.less, m.read(a.rows[0]).value or 0.0, m.read(b.rows[0]).value or 0.0) for m in metrics]
        better = [(x < y) if less else (x > y) for less, x, y in pairs]
        worse = [(x > y) if less else (x < y) for less, x, y in pairs]
        return any(better) and not any(worse)

    for b in candidates:
        if any(beats(a, b) for a in candidates):
            assert b.variant not in on
    assert on


def test_an_advantage_that_may_be_chance_keeps_nobody_on_the_front(run: FakeRun) -> None:
    a, b = cells_of(run, [(1.0, 0.9), (1.01, 0.5)])
    b.rows[0].metrics["size_bytes"] = a.rows[0].metrics["size_bytes"]
    b.rows[0].metrics["memory_mb"] = Quantity(4.0, "MB", 3.9, 4.2, 5, "measured")
    a.rows[0].metrics["memory_mb"] = Quantity(4.01, "MB", 3.8, 4.3, 5, "measured")
    assert [one.variant for one, _ in front(Judge([run]), [a, b]).members] == ["v0"]
    b.rows[0].metrics["memory_mb"] = Quantity(2.0, "MB", 1.9, 2.1, 5, "measured")
    assert len(front(Judge([run]), [a, b]).members) == 2


def test_ties_in_every_metric_are_one_choice_of_the_front(run: FakeRun) -> None:
    a, b = cells_of(run, [(1.0, 0.9), (1.0, 0.9)])
    wide = Quantity(1.01, "ms", 0.95, 1.07, 9, "measured")
    b = Candidate((dataclasses.replace(b.rows[0], metrics={**b.rows[0].metrics, "latency_ms": wide}),))
    for name in ("size_bytes",):
        b.rows[0].metrics[name] = a.rows[0].metrics[name]
    found = front(Judge([run]), [a, b])
    assert [(one.variant, names(others)) for one, others in found.members] in ([("v0", ["v1"])], [("v0", [])])


# ---------------------------------------------------------------- weights


def test_weights_move_the_choice_from_fast_to_accurate(run: FakeRun) -> None:
    fast = choose([run], within(), "accuracy + 2*latency", runtime="onnxruntime").chosen.variant
    accurate = choose([run], within(), "20*accuracy + 0.01*latency", runtime="onnxruntime").chosen.variant
    assert fast == "student-kd-int8"
    assert accurate.startswith("teacher")


@given(st.floats(0.01, 100.0), st.floats(0.1, 10.0))
def test_units_do_not_change_the_order_of_a_weighted_choice(
    run: FakeRun, scale: float, weight: float
) -> None:
    objective = parse_objective(f"accuracy + {weight:f}*latency")
    judge = Judge([run])
    values = [(1.0, 0.5), (2.0, 0.7), (3.0, 0.95)]
    here = cells_of(run, values)
    there = cells_of(run, [(scale * ms, accuracy) for ms, accuracy in values])
    order = [sorted(range(3), key=lambda i: judge.cost(c[i], objective)) for c in (here, there)]
    costs = sorted(judge.cost(c, objective) for c in here)
    if min(b - a for a, b in itertools.pairwise(costs)) > 1e-9:
        assert order[0] == order[1]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("latency + latency", "twice"),
        ("0*latency", "above 0"),
        ("latency + speed", "speed"),
        ("latency +", "no part"),
        ("2latency", "no objective"),
        ("drop", "no objective"),
    ],
)
def test_bad_objectives_are_refused(run: FakeRun, typed: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        choose([run], within(), typed)


# ---------------------------------------------------------------- what a limit costs


def test_a_limit_says_what_it_costs(run: FakeRun) -> None:
    choice = choose([run], within("drop<=1.2%"), runtime="onnxruntime")
    said = sensitivity(choice)
    assert choice.chosen.variant == "teacher-int8"
    assert said == [
        "If accuracy drop could be 1.67 points (0.47 points more), student-kd-int8 on onnxruntime would give 45% less latency."
    ]
    relaxed = choose([run], within("drop<=1.67%"), runtime="onnxruntime")
    assert relaxed.chosen.variant == "student-kd-int8"


def test_limits_that_cost_nothing_say_so(run: FakeRun) -> None:
    [said] = sensitivity(choose([run], within("size<=100MB"), "latency", runtime="onnxruntime"))
    assert said == "Without the limit nothing would have a better latency beyond doubt."
    assert sensitivity(choose([run], within(), "latency", runtime="onnxruntime")) == []


def test_what_a_limit_costs_is_said_though_nobody_knows_who_keeps_it(run: FakeRun) -> None:
    unknown = run
    for name in ("student-kd-int8", "student-int8"):
        unknown = edited(unknown, name, "onnxruntime", memory_mb=Quantity.missing("not read"))
    choice = choose([unknown], within("memory<=1000MB"), "size", runtime="onnxruntime")
    [relaxed] = choice.relaxed
    assert relaxed.candidate.variant == "student-int8" and relaxed.bound is None
    [said] = sensitivity(choice)
    assert said.startswith("Without the limit on memory, student-int8 on onnxruntime would give ")
    assert said.endswith(" less size (its memory is not known).")
    json.dumps(choice_json(choice), allow_nan=False)


def test_a_cell_says_whether_it_is_on_the_front_of_the_choice(run: FakeRun) -> None:
    choice = choose([run], within(), "size", runtime="onnxruntime")
    document = choice_json(choice)
    named = [cell["variant"] for cell in (document["chosen"], *document["runners_up"]) if cell["pareto"]]
    members = [one for member in document["front"]["members"] for one in [member["cells"], *member["tied"]]]
    assert sorted(named) == sorted(cells[0]["variant"] for cells in members) and named


def test_a_front_of_one_is_said(run: FakeRun) -> None:
    only = {"latency_ms": Quantity(0.01, "ms", 0.01, 0.01, 5, "measured"), "size_bytes": Quantity(10.0, "B")}
    only |= {"val_accuracy": Quantity(1.0, "fraction", 1.0, 1.0, 900, "measured")}
    best = edited(run, "student-kd", "onnxruntime", **only)
    choice = choose([best], within(), "latency", runtime="onnxruntime")
    assert choice.runners_up and len(choice.front.members) > 1, "the others may be better in memory or energy"
    narrow = dataclasses.replace(
        choice, front=dataclasses.replace(choice.front, members=choice.front.members[:1])
    )
    assert "student-kd on onnxruntime alone; nothing else that fits is better" in render_choice(narrow)


# ---------------------------------------------------------------- several targets


@pytest.fixture(scope="module")
def phone(run: FakeRun) -> FakeRun:
    """The same nets measured on a phone: three times slower on litert, nothing on onnxruntime."""
    cells = []
    for cell in json.loads(json.dumps(run.cells)):
        if cell["cell"]["runtime"] == "litert":
            cell["cell"]["host"] = "pixel-8"
            for name in ("latency_ms", "p90_ms", "p99_ms"):
                quantity = (cell.get("metrics") or {}).get(name)
                if quantity and quantity["value"] is not None:
                    cell["metrics"][name] = {
                        **quantity,
                        **{key: 3 * quantity[key] for key in ("value", "low", "high") if quantity[key]},
                    }
            cells.append(cell)
    manifest = {**run.manifest, "profile": {**run.manifest["profile"], "name": "pixel-8"}}
    (run.path.parent / "phone").symlink_to(run.path)
    return dataclasses.replace(run, cells=cells, manifest=manifest, path=run.path.parent / "phone")


def test_one_variant_is_chosen_for_several_targets_by_the_worst(run: FakeRun, phone: FakeRun) -> None:
    choice = choose([run, phone], within("drop<=2%"))
    assert [t.name for t in choice.targets] == ["local", "pixel-8"]
    assert {row.cell.variant for row in choice.chosen.rows} == {"student-kd"}  # fastest on the phone
    assert [row.cell.runtime for row in choice.chosen.rows] == ["onnxruntime", "litert"]
    said = explain(choice)
    assert "worst-case latency (0.390" in said and "on pixel-8" in said
    assert "onnxruntime on local (0.0821" in said
    assert "Against teacher on local: " in said and "Against teacher on pixel-8: " in said
    document = choice_json(choice)
    assert [t["cell"]["host"] for t in document["targets"]] == ["local", "pixel-8"]
    kept = choice_json(choice, phone)
    assert kept["chosen"]["host"] == "pixel-8" and len(kept["targets"]) == 1
    assert "runs" not in kept["targets"][0]["target"]
    for command, folder in commands(choice):
        assert command in render_choice(choice) and folder in render_choice(choice)


def test_a_limit_on_one_target_leaves_the_other_alone(run: FakeRun, phone: FakeRun) -> None:
    free = choose([run, phone], within("drop<=2%", "local:latency<=0.1ms"))
    assert free.chosen.variant == "student-kd"
    with pytest.raises(NothingFitsError, match="on all of local and pixel-8") as caught:
        choose([run, phone], within("drop<=2%", "pixel-8:latency<=0.1ms"))
    assert "latency at most 0.1 ms on pixel-8: missed by all, nearest is" in str(caught.value)
    with pytest.raises(UsageError, match="pixel-8"):
        choose([run, phone], within("pixel-9:latency<=0.1ms"))


def test_a_variant_without_a_cell_on_a_target_cannot_be_chosen(run: FakeRun, phone: FakeRun) -> None:
    without = dataclasses.replace(
        phone, cells=[c for c in phone.cells if c["cell"]["variant"] != "student-kd"]
    )
    choice = choose([run, without], within("drop<=2%"))
    assert choice.chosen.variant != "student-kd"
    reasons = {row.cell.variant: why for row, why in choice.refused}
    assert reasons["student-kd"] == ("on pixel-8: no cell",)


def test_nets_of_one_name_that_were_trained_apart_are_a_warning(run: FakeRun, phone: FakeRun) -> None:
    assert not any("made apart" in w for w in warnings(choose([run, phone], within("drop<=2%"))))
    variants = {n: {**v, "key": f"other-{n}"} for n, v in phone.variants.items()}
    other = dataclasses.replace(phone, variants=variants)
    assert any("made apart" in w for w in warnings(choose([run, other], within("drop<=2%"))))


@pytest.mark.parametrize("objective", [None, "latency", "size", "accuracy", "accuracy + 0.1*latency"])
def test_one_target_named_twice_over_changes_nothing(run: FakeRun, objective: str | None) -> None:
    """Worst over two equal targets is the one target, for cells of one runtime."""
    if not (run.path.parent / "twin").exists():
        (run.path.parent / "twin").symlink_to(run.path)
    twin = dataclasses.replace(run, path=run.path.parent / "twin")
    one = choose([run], within("drop<=2%"), objective, runtime="onnxruntime")
    both = choose([run, twin], within("drop<=2%"), objective, runtime="onnxruntime")
    assert both.chosen.variant == one.chosen.variant
