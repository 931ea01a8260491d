"""`bench choose`: limits as people type them, the right cell, and why the others were refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import NothingFitsError, UsageError
from bench.types import Quantity
from reports.answer import choice_json, render_choice
from reports.choose import (
    OBJECTIVES,
    Constraints,
    choose,
    parse_constraints,
    parse_quantity,
)
from reports.limits import UNITS
from tests.fixtures import NO_HOST, FakeRun, example_run


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


def test_constraints_are_read_from_the_command_line() -> None:
    assert parse_constraints() == Constraints()
    read = parse_constraints("10ms", "5MB", "50MB", "3mJ", "90%", "1%")
    assert read == Constraints(10.0, 5e6, 50.0, 3.0, 0.9, 0.01)
    with pytest.raises(UsageError, match="size"):
        parse_constraints(max_size="5")


# ---------------------------------------------------------------- choosing


def test_the_fastest_that_fits_is_chosen_and_can_be_exported(run: FakeRun) -> None:
    choice = choose(run, Constraints(max_latency_ms=0.2, max_drop=0.02))
    assert (choice.chosen.cell.variant, choice.chosen.cell.runtime) == ("student-kd-int8", "onnxruntime")
    assert choice.chosen.cell.batch == 1 and choice.chosen.cell.host == "local"
    assert choice.command.startswith(
        f"bench export {run.path} --variant student-kd-int8 --runtime onnxruntime --output "
    )
    latencies = [row.metrics["latency_ms"].value for row in choice.runners_up]
    assert latencies == sorted(latencies) and latencies
    assert all(value <= 0.2 for value in latencies)


def test_every_other_cell_is_refused_with_its_number(run: FakeRun) -> None:
    choice = choose(run, Constraints(max_latency_ms=0.2, max_drop=0.02))
    reasons = {(r.cell.variant, r.cell.runtime): " ".join(why) for r, why in choice.refused}
    assert reasons["student", "onnxruntime"] == "accuracy drop 3.1 [1.2, 4.9] points, wanted at most 2 points"
    assert "wanted at most 0.2 ms" in reasons["teacher", "torch"]
    assert "SIGSEGV" in reasons["teacher-fp16", "onnxruntime"]
    assert "no int8 path" in reasons["teacher-int8", "torch"]
    assert NO_HOST in reasons["teacher", "tensorrt"]
    assert (choice.chosen.cell.variant, choice.chosen.cell.runtime) not in reasons


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_no_fitting_cell_is_clearly_better_than_the_chosen_one(run: FakeRun, objective: str) -> None:
    choice = choose(run, Constraints(min_accuracy=0.9), objective, host="local")
    metric, less = OBJECTIVES[objective]
    best = choice.chosen.metrics[metric].value
    assert best is not None
    for row in choice.runners_up:
        value = row.metrics[metric].value
        assert value is not None
        slack = (
            0.03 * best
            if objective in ("latency", "throughput")
            else 0.02
            if objective == "accuracy"
            else 0.0
        )
        assert (value >= best - slack) if less else (value <= best + slack)
    json.dumps(choice_json(choice), allow_nan=False)
    assert choice.command in render_choice(choice)


def test_ties_go_to_the_smaller_artifact(run: FakeRun) -> None:
    close = Quantity(0.0604, "ms", 0.0598, 0.0610, 600, "measured")
    tied = edited(run, "teacher-int8", "onnxruntime", latency_ms=close)
    choice = choose(tied, Constraints(), runtime="onnxruntime")
    assert choice.chosen.cell.variant in ("student-int8", "student-kd-int8")
    assert "cannot be told" in choice.explanation and "teacher-int8" in choice.explanation


def test_of_equally_small_ties_the_more_accurate_is_chosen(run: FakeRun) -> None:
    choice = choose(run, Constraints(), runtime="onnxruntime")
    assert choice.chosen.cell.variant == "student-kd-int8"


def test_validation_decides_not_test(run: FakeRun) -> None:
    low = Quantity(0.5, "", 0.45, 0.55, 360, "measured")
    worse_on_validation = edited(run, "student-kd-int8", "onnxruntime", val_accuracy=low)
    choice = choose(worse_on_validation, Constraints(min_accuracy=0.9))
    assert (choice.chosen.cell.variant, choice.chosen.cell.runtime) != ("student-kd-int8", "onnxruntime")
    worse_on_test = edited(run, "student-kd-int8", "onnxruntime", accuracy=low)
    assert choose(worse_on_test, Constraints(min_accuracy=0.9)).chosen.cell.variant == "student-kd-int8"
    assert "validation" in choice.explanation


def test_without_validation_the_test_set_is_used_and_said(run: FakeRun) -> None:
    none = Quantity.missing("no validation split")
    choice = choose(
        edited(run, "student-kd-int8", "onnxruntime", val_accuracy=none), Constraints(min_accuracy=0.9)
    )
    assert choice.chosen.cell.variant == "student-kd-int8"
    assert any("no validation split" in warning for warning in choice.warnings)


def test_an_interval_across_the_limit_is_a_warning(run: FakeRun) -> None:
    choice = choose(run, Constraints(max_latency_ms=0.0606), runtime="onnxruntime")
    assert any("crosses the limit" in warning for warning in choice.warnings)
    sure = choose(run, Constraints(max_latency_ms=0.07), runtime="onnxruntime")
    assert not sure.warnings


def test_estimated_energy_is_a_warning(run: FakeRun) -> None:
    assert any("estimated" in w for w in choose(run, Constraints(max_energy_mj=3.0)).warnings)


def test_a_missing_metric_is_refused_with_its_reason(run: FakeRun) -> None:
    none = Quantity.missing("no meter")
    choice = choose(
        edited(run, "student-kd-int8", "onnxruntime", energy_mj=none), Constraints(max_energy_mj=3.0)
    )
    reasons = {(r.cell.variant, r.cell.runtime): why for r, why in choice.refused}
    assert reasons["student-kd-int8", "onnxruntime"] == ("energy not measured: no meter",)


def test_nothing_fits_names_the_nearest_of_each_limit(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError) as caught:
        choose(run, Constraints(max_latency_ms=0.01, min_accuracy=0.99))
    said = str(caught.value)
    assert "latency at most 0.01 ms" in said and "student-kd-int8 on onnxruntime: 0.0605" in said
    assert "accuracy at least 99%" in said and "teacher on" in said
    assert caught.value.exit_code == 6


def test_limits_that_fit_one_by_one_but_not_together_say_so(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError) as caught:
        choose(run, Constraints(max_size_bytes=1.2e5, min_accuracy=0.98), host="local")
    assert "best is" in str(caught.value)


def test_a_device_that_was_not_there_can_not_be_chosen_for_latency(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError, match=NO_HOST):
        choose(run, Constraints(max_latency_ms=5), host="jetson-agx-xavier")
    assert "Compared on local" in choose(run, Constraints()).explanation


def test_predictions_for_the_target_are_used_and_said(run: FakeRun) -> None:
    guess = Quantity(2.0, "ms", 1.5, 2.7, None, "predicted", "roofline")
    choice = choose(edited(run, "student-int8", "tensorrt", latency_ms=guess), Constraints())
    assert choice.chosen.cell.host == "jetson-agx-xavier"
    assert "latency is predicted, not measured" in choice.warnings


def test_batches_are_not_compared_with_each_other(run: FakeRun) -> None:
    choice = choose(run, Constraints(), "throughput", batch=8)
    assert {row.cell.batch for row in (choice.chosen, *choice.runners_up)} == {8}
    with pytest.raises(UsageError, match="batch 3"):
        choose(run, Constraints(), batch=3)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"objective": "speed"}, "speed"),
        ({"runtime": "onnx"}, "onnxruntime"),
        ({"host": "jetson"}, "jetson-agx-xavier"),
    ],
)
def test_wrong_names_offer_the_nearest(run: FakeRun, options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        choose(run, Constraints(), **options)


def test_a_run_without_cells_fits_nothing(run: FakeRun) -> None:
    with pytest.raises(NothingFitsError, match="no measured cells"):
        choose(dataclasses.replace(run, cells=[]), Constraints())


def test_odd_paths_are_quoted_in_the_command(run: FakeRun) -> None:
    odd = dataclasses.replace(run, path=Path("runs/my run; rm -rf x"))
    assert "'runs/my run; rm -rf x'" in choose(odd, Constraints()).command
