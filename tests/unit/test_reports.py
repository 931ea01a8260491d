"""What a person relies on in every report: right numbers, marks, reasons, and no text that acts as code."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports
from bench import stats
from bench.errors import UsageError
from bench.store import RunData
from bench.types import Quantity
from reports import html, plots, rows, tables, text, verdicts
from reports import page as page_module
from tests.fixtures import GIVE_HOST, NO_HOST, VARIANTS, FakeRun, example_run, large_run

HOSTILE = "</script><img src=x onerror=alert(1)>|`*é"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def items(run: FakeRun) -> list[rows.Row]:
    return rows.rows(run)


def find(items: list[rows.Row], variant: str, runtime: str) -> rows.Row:
    return next(r for r in items if (r.cell.variant, r.cell.runtime) == (variant, runtime))


def changed(run: FakeRun, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> FakeRun:
    """The run with each cell replaced by what ``change`` gives; None drops it."""
    cells = [new for cell in run.cells if (new := change(json.loads(json.dumps(cell)))) is not None]
    return dataclasses.replace(run, cells=cells)


# ---------------------------------------------------------------- rows


def test_ratios_compare_with_the_reference_on_the_same_runtime(items: list[rows.Row]) -> None:
    faster = find(items, "teacher-int8", "onnxruntime").relative["x_faster"]
    assert faster.value == pytest.approx(0.198 / 0.110)
    assert faster.low is not None and faster.high is not None
    assert faster.low < 0.198 / 0.110 < faster.high
    assert "within one process" in faster.method
    several = [dataclasses.replace(q, method=stats.NEXT_RUN) for q in (faster, faster)]
    assert rows.ratio(*several).method == rows.BETWEEN
    assert find(items, "teacher-int8", "litert").relative["x_faster"].value == pytest.approx(0.412 / 0.71)


@pytest.mark.parametrize("fmt", ["csv", "json"])
def test_files_of_numbers_do_not_compare_the_reference_with_itself(run: FakeRun, fmt: str) -> None:
    names = (*rows.RATIOS, *rows.CHANGES)
    made = tables.render([run], fmt)
    if fmt == "csv":
        cells = list(csv.DictReader(io.StringIO(made)))
        values = [(c["variant"], c[n], c[f"{n}_reason"]) for c in cells if c["status"] == "ok" for n in names]
    else:
        known = [c for c in json.loads(made)["cells"] if c["status"] == "ok"]
        values = [(c["variant"], c[n]["value"], c[n].get("reason")) for c in known for n in names]
    own = [(value, reason) for variant, value, reason in values if variant == "teacher"]
    assert own and not any(value for value, _ in own)
    assert "the reference itself" in {reason for _, reason in own}
    assert any(value for variant, value, _ in values if variant != "teacher")


@pytest.mark.parametrize(("name", "prefix"), [("accuracy_change", "test"), ("val_accuracy_change", "val")])
def test_accuracy_change_is_paired_and_of_the_right_split(
    run: FakeRun, items: list[rows.Row], name: str, prefix: str
) -> None:
    import numpy as np

    base = find(items, "teacher", "litert")
    for row in [r for r in items if r.cell.runtime == "litert"]:
        paths = [run.object_path(r.record["predictions"]) for r in (base, row)]
        right = []
        for path in paths:
            with np.load(path) as stored:
                right.append(stored[f"{prefix}_pred"] == stored[f"{prefix}_true"])
        change = row.relative[name]
        assert (change.value, change.low, change.high) == stats.paired_accuracy(*right)[:3]
        assert f"paired on {rows.CHANGES[name]} images" in change.method


def test_accuracy_and_size_fall_back_to_another_runtime_but_latency_does_not(run: FakeRun) -> None:
    lonely = changed(
        run,
        lambda c: None if (c["cell"]["variant"], c["cell"]["runtime"]) == ("teacher", "litert") else c,
    )
    row = find(rows.rows(lonely), "student", "litert")
    assert row.relative["accuracy_change"].value is not None
    assert row.relative["x_smaller"].value is not None
    assert row.relative["x_faster"].value is None
    assert "no latency_ms at litert" in row.relative["x_faster"].reason


def test_missing_predictions_give_a_reason_not_zero(run: FakeRun) -> None:
    none = changed(
        run, lambda c: c | {"predictions": None if c["cell"]["variant"] == "student" else c["predictions"]}
    )
    assert "no predictions" in find(rows.rows(none), "student", "torch").relative["accuracy_change"].reason
    gone = changed(
        run,
        lambda c: c | {"predictions": "0" * 64 if c["cell"]["variant"] == "student" else c["predictions"]},
    )
    reason = find(rows.rows(gone), "student", "torch").relative["accuracy_change"].reason
    assert "cannot be read" in reason


def test_a_run_of_the_store_with_a_lost_object_still_reports(run: FakeRun) -> None:
    """The store's own run raises where an object is gone; a report must not."""
    lost = RunData(run.path, run.manifest, run.variants, run.artifacts, run.cells)
    change = find(rows.rows(lost), "student", "torch").relative["accuracy_change"]
    assert change.value is not None
    empty = RunData(run.path / "nowhere", run.manifest, run.variants, run.artifacts, run.cells)
    assert "cannot be read" in find(rows.rows(empty), "student", "torch").relative["accuracy_change"].reason


def test_predictions_on_other_images_are_not_paired(run: FakeRun, tmp_path: Path) -> None:
    other = example_run(tmp_path, n=300)
    mixed = changed(run, lambda c: c)
    source = find(rows.rows(other), "student", "torch").record["predictions"]
    target = run.path / "objects" / ("f" * 64)
    target.write_bytes(other.object_path(source).read_bytes())
    for cell in mixed.cells:
        if cell["cell"]["variant"] == "student":
            cell["predictions"] = "f" * 64
    assert "different images" in find(rows.rows(mixed), "student", "torch").relative["accuracy_change"].reason


def test_derived_values_carry_the_weakest_provenance() -> None:
    measured, predicted = Quantity(2.0, provenance="measured"), Quantity(1.0, provenance="predicted")
    assert rows.ratio(measured, predicted).provenance == "predicted"
    estimated = Quantity(4.0, provenance="estimated")
    assert rows.ratio(measured, estimated).provenance == "estimated"
    assert rows.ratio(measured, Quantity(0.0, provenance="measured")).value is None


def test_no_row_of_the_front_is_beaten_and_every_other_one_is(items: list[rows.Row]) -> None:
    here = [r for r in items if r.setting == ("local", 1, 1) and r.metrics["latency_ms"].value is not None]
    front = rows.pareto(here)

    def beats(a: rows.Row, b: rows.Row) -> bool:
        pair = [(r.metrics["latency_ms"].value, -(r.metrics["accuracy"].value or 0)) for r in (a, b)]
        return pair[0] != pair[1] and all(x <= y for x, y in zip(*pair, strict=True))  # type: ignore[operator]

    assert 1 < len(front) < len(here)
    assert not any(beats(other, row) for row in front for other in here)
    assert all(any(beats(f, row) for f in front) for row in here if row not in front)


def test_a_net_that_is_always_wrong_does_not_break_the_front(run: FakeRun) -> None:
    def zero(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["metrics"].get("accuracy"):
            cell["metrics"]["accuracy"]["value"] = 0.0
        return cell

    assert len(rows.pareto(rows.rows(changed(run, zero)))) == 1


def test_failures_come_first_and_skips_are_grouped_by_reason(run: FakeRun, items: list[rows.Row]) -> None:
    found = rows.problems(run, items)
    assert [p.status for p in found] == ["failed", "skipped", "skipped"]
    device = next(p for p in found if p.where == "jetson-agx-xavier")
    assert (device.reason, device.remedy, len(device.subjects)) == (NO_HOST, GIVE_HOST, 8)


def test_failed_variants_and_artifacts_are_reported(run: FakeRun) -> None:
    variants = run.variants | {
        "student": run.variants["student"] | {"status": "failed", "reason": "loss is NaN"}
    }
    key = next(iter(run.artifacts))
    artifacts = run.artifacts | {key: run.artifacts[key] | {"status": "failed", "reason": "parity broke"}}
    broken = dataclasses.replace(run, variants=variants, artifacts=artifacts)
    shown = tables.render([broken], "terminal", width=200)
    assert "loss is NaN" in shown and "parity broke" in shown


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (1.5, 1.4, 1.6, "faster"),
        (0.6, 0.5, 0.7, "slower"),
        (1.5, 0.9, 2.1, "no measurable difference"),
        (1.02, 1.01, 1.03, "no measurable difference"),
        (0.98, 0.97, 0.99, "no measurable difference"),
        (1.5, None, None, "no measurable difference"),
    ],
)
def test_a_difference_is_stated_only_beyond_its_interval(
    value: float, low: float | None, high: float | None, said: str
) -> None:
    assert verdicts.outcome(Quantity(value, "x", low, high)) == said


def test_ratios_over_processes_need_no_margin_for_what_their_intervals_cover() -> None:
    close = {"value": 1.06, "unit": "x", "low": 1.02, "high": 1.1}
    assert verdicts.outcome(Quantity(**close)) == "no measurable difference"
    assert verdicts.outcome(Quantity(**close, method=rows.BETWEEN)) == "faster"
    within_gate = {"value": 1.02, "unit": "x", "low": 1.01, "high": 1.03}
    assert verdicts.outcome(Quantity(**within_gate, method=rows.BETWEEN)) == "no measurable difference"


def test_compressed_variants_are_compared_with_what_they_were_made_from(
    run: FakeRun, items: list[rows.Row]
) -> None:
    found = {(v.row.cell.variant, v.row.cell.runtime): v for v in verdicts.verdicts(run, items)}
    assert found["student-int8", "litert"].base.cell.variant == "student"
    pruned = found["teacher-pruned", "litert"]
    assert (pruned.base.cell.variant, pruned.change) == ("teacher", "pruned")
    assert found["student", "torch"].change == "smaller net"
    assert not any(v.row.is_reference for v in found.values())


def test_no_wins_are_said_with_the_likely_cause(run: FakeRun, items: list[rows.Row]) -> None:
    said = verdicts.lines(verdicts.verdicts(run, items))
    line = next(s for s in said if s.startswith("int8 on litert"))
    assert "no win" in line and "VNNI" in line
    assert any(s.startswith("int8: faster on onnxruntime") for s in said)
    assert any("teacher-pruned " in s and "no measurable difference" in s for s in said)


def test_no_cause_is_made_up_where_the_cpu_has_the_instructions(run: FakeRun) -> None:
    def vnni(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["environment"]:
            cell["environment"]["cpu"]["flags"] = ["avx2", "avx512_vnni"]
        return cell

    quick = changed(run, vnni)
    said = verdicts.lines(verdicts.verdicts(quick, rows.rows(quick)))
    assert "VNNI" not in next(s for s in said if s.startswith("int8 on litert"))


def test_a_collapse_of_accuracy_is_said_once_per_variant(items: list[rows.Row]) -> None:
    (line,) = verdicts.collapses(items)
    assert line.startswith("teacher-pruned-int8 lost accuracy") and "onnxruntime" in line


def test_sentences_stay_short_in_a_large_run(tmp_path: Path) -> None:
    big = large_run(tmp_path, 300)
    items = rows.rows(big)
    said = tables.verdict_lines(big, items, verdicts.compare(big, items))
    assert any("more" in line for line in said)
    assert max(map(len, said)) < 1500


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "half", "shown"),
    [
        (1.8342, 0.03, "1.83"),
        (0.31234, 0.0004, "0.312"),
        (0.1201, 0.02, "0.120"),
        (0.7132, 0.7, "0.71"),
        (1234.5, 40.0, "1234"),
        (12.3456, None, "12.3"),
        (0.0, None, "0.0"),
        (0.0, 0.3, "0.00"),
    ],
)
def test_numbers_have_three_digits_and_two_where_the_interval_is_wide(
    value: float, half: float | None, shown: str
) -> None:
    assert text.number(value, half) == shown


@given(st.floats(1e-6, 1e6), st.floats(1e-4, 30.0), st.sampled_from(["measured", "predicted"]))
def test_a_value_has_the_same_digits_in_every_style(value: float, share: float, provenance: Any) -> None:
    """The width of the table, its columns and its order choose the style."""
    quantity = Quantity(value, "ms", value / (1 + share), value * (1 + share), 9, provenance)
    styles = (text.interval, text.plus_minus, text.percent_arm)
    assert len({re.split(r"[ ±×]", show(quantity))[0] for show in styles}) == 1


@given(
    st.floats(1e-6, 1e6),
    st.floats(1e-6, 0.9),
)
def test_plus_minus_never_looks_sharper_than_the_interval(value: float, share: float) -> None:
    half = value * share
    quantity = Quantity(value, "ms", value - half, value + half, 9, "measured")
    shown, arm = text.plus_minus(quantity).split("±")
    places = len(shown.partition(".")[2])
    assert float(arm) >= half * (1 - 1e-6) - 1e-12
    assert abs(float(shown) - value) <= 0.5 * 10**-places * 1.001
    percent = text.percent_arm(quantity)
    assert int(percent.split("±")[1].rstrip("%")) >= 100 * share * (1 - 1e-6) - 1e-6


@given(st.floats(1e-3, 1e3), st.floats(1.6, 30.0), st.floats(1.1, 30.0))
def test_a_wide_prediction_has_a_factor_that_holds_its_interval(value: float, up: float, down: float) -> None:
    quantity = Quantity(value, "ms", value / down, value * up, None, "predicted")
    for shown in (text.plus_minus(quantity), text.percent_arm(quantity)):
        number, factor = shown.removeprefix("*").split("×÷")
        assert float(factor) >= max(up, down) * (1 - 1e-6)
        assert float(number) == pytest.approx(value, rel=0.06)


@given(st.floats(0, 1e13))
def test_sizes_read_back(value: float) -> None:
    shown, unit = text.size(Quantity(value, "B")).split(" ")
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert float(shown) * factor == pytest.approx(value, rel=0.006, abs=0.5)


def test_marks_say_how_a_value_was_obtained() -> None:
    assert text.interval(Quantity(1.0, provenance="measured")) == "1.00"
    assert text.interval(Quantity(1.0, provenance="estimated")) == "~1.00"
    assert text.interval(Quantity(1.0, provenance="predicted")) == "*1.00"
    assert text.interval(Quantity.missing("no meter")) == "–"


# ---------------------------------------------------------------- terminal, Markdown, CSV


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_the_terminal_table_fits_and_cuts_no_number(run: FakeRun, items: list[rows.Row], width: int) -> None:
    shown = tables.render([run], "terminal", width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for row in items:
        if row.metrics["latency_ms"].value is not None:
            assert (
                text.number(row.metrics["latency_ms"].value, text.half_width(row.metrics["latency_ms"]))
                in shown
            )
            assert text.interval(row.metrics["energy_mj"]) in shown
    for name in VARIANTS:
        assert width < 80 or name == "pruned-raw" or name in shown


def test_eighty_columns_hold_everything_in_one_table(run: FakeRun) -> None:
    shown = tables.render([run], "terminal", width=80)
    header = next(line for line in shown.splitlines() if line.startswith("variant"))
    heading = shown.splitlines()[shown.splitlines().index(header) - 1] + header
    assert all(
        word in heading
        for word in ("acc", "Δacc", "latency", "faster", "size", "smaller", "memory", "energy")
    )


def test_terminal_gives_reasons_remedies_legend_and_split(run: FakeRun) -> None:
    shown = " ".join(tables.render([run], "terminal", width=80).split())
    assert f"8 cells skipped on jetson-agx-xavier: {NO_HOST}; do: {GIVE_HOST}" in shown
    assert "SIGSEGV" in shown
    assert "~ estimated" in shown and "* predicted" in shown and "– missing" in shown
    assert "validation" in shown and "where another run falls" in shown


def test_cells_of_which_only_counts_are_known_take_no_line(run: FakeRun) -> None:
    def only_counts(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["status"] == "skipped" and cell["cell"]["runtime"] == "torch":
            cell["metrics"] = {"macs": Quantity(1e6, provenance="measured").to_json()}
        return cell

    assert tables.render([changed(run, only_counts)], "terminal") == tables.render([run], "terminal")


def test_very_long_names_are_folded_not_cut(run: FakeRun) -> None:
    name = "student-with-a-very-long-name-" + "x" * 40
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": name}}
    shown = tables.render([dataclasses.replace(run, cells=[*run.cells, cell])], "terminal", width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("x") >= 40


def test_markup_in_names_stays_text_in_the_terminal(run: FakeRun) -> None:
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": "[red]net[/]"}}
    assert "[red]net[/]" in tables.render([dataclasses.replace(run, cells=[cell])], "terminal", width=120)


def test_values_missing_from_cells_that_ran_are_explained(run: FakeRun) -> None:
    def without_meter(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["status"] == "ok":
            cell["metrics"]["energy_mj"] = Quantity.missing("codecarbon is not installed", "mJ").to_json()
        return cell

    shown = " ".join(tables.render([changed(run, without_meter)], "terminal", width=120).split())
    assert "energy missing in 23 cells: codecarbon is not installed" in shown


def test_markdown_rows_have_as_many_cells_as_the_head_whatever_the_names(run: FakeRun) -> None:
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": HOSTILE}}
    shown = tables.render([dataclasses.replace(run, cells=[*run.cells, cell])], "md")
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<img" not in shown.replace("\\<img", "")


def test_csv_reads_back_and_runs_no_formula(run: FakeRun, items: list[rows.Row]) -> None:
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": "=1+1"}}
    read = list(
        csv.DictReader(
            io.StringIO(tables.render([dataclasses.replace(run, cells=[*run.cells, cell])], "csv"))
        )
    )
    assert len(read) == len(items) + 1
    line = next(r for r in read if (r["variant"], r["runtime"]) == ("student-kd", "litert"))
    assert float(line["latency_ms"]) == 0.130 and line["energy_mj_provenance"] == "estimated"
    assert line["p99_ms"] == "" and "662 needed" in line["p99_ms_reason"]
    assert "'=1+1" in {r["variant"] for r in read}


def test_an_unknown_format_names_the_nearest(run: FakeRun) -> None:
    with pytest.raises(UsageError, match="Did you mean html"):
        tables.render([run], "htm")


def test_a_run_without_cells_still_reports(run: FakeRun) -> None:
    empty = dataclasses.replace(run, cells=[], artifacts={})
    for fmt in tables.FORMATS:
        assert tables.render([empty], fmt)


# ---------------------------------------------------------------- JSON


def check(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "$") -> list[str]:
    """The keywords of JSON Schema that our schema uses; returns what is wrong."""
    if "$ref" in schema:
        return check(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, where)
    if "oneOf" in schema:
        tries = [check(value, option, root, where) for option in schema["oneOf"]]
        return [] if sum(not t for t in tries) == 1 else [f"{where}: fits not exactly one of {tries}"]
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "null": type(None),
        "boolean": bool,
        "integer": int,
    }
    wrong = []
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        kinds = tuple(t for n in names for t in ((int, float) if n == "number" else (types[n],)))
        if not isinstance(value, kinds) or (isinstance(value, bool) and "boolean" not in names):
            return [f"{where}: {type(value).__name__} instead of {names}"]
    if "const" in schema and value != schema["const"]:
        wrong.append(f"{where}: {value!r}")
    if "enum" in schema and value not in schema["enum"]:
        wrong.append(f"{where}: {value!r} not in {schema['enum']}")
    if len(value) < schema.get("minLength", 0) if isinstance(value, str) else False:
        wrong.append(f"{where}: too short")
    if isinstance(value, dict):
        wrong += [f"{where}: no {key}" for key in schema.get("required", ()) if key not in value]
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                wrong += check(value[key], inner, root, f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for place, inner in enumerate(value):
            wrong += check(inner, schema["items"], root, f"{where}[{place}]")
    return wrong


def schema() -> dict[str, Any]:
    path = Path(reports.__file__).with_name("schema.json")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def test_json_fits_its_schema(run: FakeRun) -> None:
    document = json.loads(tables.render([run], "json"))
    assert check(document, schema(), schema()) == []
    assert len(document["cells"]) == len(run.cells)
    assert {v["name"] for v in document["variants"]} == set(VARIANTS)


def test_every_field_of_a_cell_is_documented(run: FakeRun) -> None:
    documented = set(schema()["properties"]["cells"]["items"]["properties"])
    assert set(tables.to_json(run)["cells"][0]) == documented
    assert documented >= set(rows.METRICS) | set(rows.RATIOS) | set(rows.CHANGES)


@pytest.mark.parametrize("damage", ["no reason", "text value", "no status"])
def test_the_schema_check_can_fail(run: FakeRun, damage: str) -> None:
    document = json.loads(tables.render([run], "json"))
    cell = document["cells"][0]
    if damage == "no reason":
        cell["latency_ms"] = {"value": None, "unit": "ms"}
    elif damage == "text value":
        cell["latency_ms"]["value"] = "fast"
    else:
        del cell["status"]
    assert check(document, schema(), schema())


def test_nan_never_reaches_json(run: FakeRun) -> None:
    record = run.variants["student"]
    history = [h | {"val_loss": float("nan"), "train_loss": float("inf")} for h in record["history"]]

    def spoil(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["status"] == "ok":
            cell["metrics"]["load_ms"]["value"] = float("nan")
        return cell

    cells = [spoil(json.loads(json.dumps(c))) for c in run.cells]
    spoilt = dataclasses.replace(
        run, variants=run.variants | {"student": record | {"history": history}}, cells=cells
    )
    document = json.loads(tables.render([spoilt], "json"), parse_constant=pytest.fail)
    assert check(document, schema(), schema()) == []
    assert "NaN" not in page_module.json_for_script({"x": float("nan")})
    assert plots.curves(spoilt.variants, "val_loss") is not None


# ---------------------------------------------------------------- HTML


class Page(HTMLParser):
    """Collects tags with their attributes, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page(run: FakeRun) -> str:
    return tables.render([run], "html")


def test_html_loads_nothing_from_anywhere(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert "src" not in attributes, tag
        assert tag != "link"
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    assert "url(" not in page.split("</style>")[0]
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy


def test_html_holds_plotly_once_and_all_figures(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.scripts) == 4
    payload = json.loads(parsed.scripts[1])
    assert [s["title"] for s in payload["settings"]] == [
        "local, batch 1, 1 thread",
        "jetson-agx-xavier, batch 1, 1 thread",
    ]
    local, device = payload["settings"]
    assert all(local["figures"].values())
    assert device["figures"]["latency_ms"] is None and device["missing"]["latency_ms"] == NO_HOST
    assert len(payload["classified"][0]["confusion"]) == 10
    assert payload["classified"][0]["accuracy"] == "98.3 [96.4, 99.2]"
    assert payload["curves"]["val_accuracy"]["data"]


def test_html_table_sorts_by_numbers_and_tells_how_each_was_obtained(page: str) -> None:
    cells = [a for t, a in Page(page).tags if t == "td" and "data-order" in a]
    assert any(a["class"] == "number estimated" and "codecarbon" in (a["title"] or "") for a in cells)
    assert any(a["class"] == "number missing" and a["data-order"] == "" and a.get("title") for a in cells)
    heads = [a for t, a in Page(page).tags if t == "th" and "aria-sort" in a]
    assert len(heads) > 10
    assert "SIGSEGV) while loading &lt;model&gt; &amp; co" in page


def test_hostile_names_stay_text(run: FakeRun) -> None:
    def rename(cell: dict[str, Any]) -> dict[str, Any]:
        if cell["cell"]["variant"] == "student":
            cell["cell"]["variant"] = HOSTILE
            cell["reason"] = cell["remedy"] = HOSTILE
        if cell["classification"]:
            cell["classification"]["labels"] = [HOSTILE] * 10
            for line in cell["classification"]["per_class"]:
                line["label"] = HOSTILE
        return cell

    hostile = changed(run, rename)
    manifest = run.manifest | {"command": HOSTILE, "environment": {HOSTILE: HOSTILE}}
    data = run.manifest["data"] | {"spec": HOSTILE, "classes": [HOSTILE], "skipped": [[HOSTILE, HOSTILE]]}
    variants = {HOSTILE if n == "student" else n: r | {"notes": [HOSTILE]} for n, r in run.variants.items()}
    hostile = dataclasses.replace(hostile, manifest=manifest | {"data": data}, variants=variants)
    page = tables.render([hostile], "html")
    parsed = Page(page)
    assert not [t for t, _ in parsed.tags if t == "img"]
    assert len(parsed.scripts) == 4
    payload = json.loads(parsed.scripts[1])
    assert payload["classified"][0]["labels"][0] == HOSTILE
    assert "<img" not in json.dumps(payload["settings"]) and "<img" not in json.dumps(payload["curves"])


def test_html_limits_confusion_matrices_of_many_classes(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "CONFUSION_BUDGET", 300)
    page = tables.render([run], "html")
    shown = json.loads(Page(page).scripts[1])["classified"]
    assert len(shown) == 3 and shown[0]["title"].startswith("teacher")
    assert "more are in the JSON report" in page


def test_html_of_500_cells_is_quick_and_small(tmp_path: Path) -> None:
    big = large_run(tmp_path, 500, classes=20)
    tables.render([example_run(tmp_path / "warm")], "html")  # imports are not what is timed
    start = time.process_time()  # other work on this machine does not count
    page = tables.render([big], "html")
    assert time.process_time() - start < 5.0
    assert len(page.encode()) < 12_000_000
    assert page.count('<th scope="row"') >= 500
    assert "*" in "".join(re.findall(r'<td class="number predicted"[^>]*><a[^>]*>([^<]*)', page))


def test_cells_that_differ_in_environment_say_so(items: list[rows.Row]) -> None:
    merged = dict(html.environments(items))
    assert merged["governor"] == "performance"
    assert merged["load"].startswith("varies (3)")


# ---------------------------------------------------------------- imports


def test_the_terminal_path_imports_no_heavy_package(run: FakeRun, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from tests.fixtures import example_run; from reports import choose, tables\n"
        f"tables.render([example_run(pathlib.Path({str(tmp_path)!r}))], 'terminal', width=80)\n"
        "print(','.join(m for m in ('pandas', 'plotly', 'sklearn', 'torch', 'jinja2') if m in sys.modules))"
    )
    root = Path(reports.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60, check=True
    )
    assert done.stdout.strip() == ""


def test_an_interval_of_no_width_is_not_shown_as_certainty() -> None:
    """The steps of the timer can make both ends of a microsecond's interval the same."""
    exact = Quantity(0.00219, "ms", 0.00219, 0.00219, 1000, "measured")
    assert text.plus_minus(exact) == "0.00219±0.00001" and text.percent_arm(exact) == "0.00219±1%"
