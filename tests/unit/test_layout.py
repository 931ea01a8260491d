"""Columns, order, groups and places side by side: the same view in every format."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from reports import layout, rows, tables, text
from reports.columns import COLUMNS
from reports.layout import View, grids, parse_view
from tests.fixtures import FakeRun, example_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return example_run(tmp_path_factory.mktemp("run"), batches=(1, 8))


@pytest.fixture(scope="module")
def items(run: FakeRun) -> list[rows.Row]:
    return rows.rows(run)


@pytest.fixture(scope="module")
def twin(run: FakeRun) -> FakeRun:
    """The same run on another device: twice as slow, without the pruned nets."""
    cells = []
    for cell in json.loads(json.dumps(run.cells)):
        latency = (cell.get("metrics") or {}).get("latency_ms")
        if latency and latency["value"]:
            latency |= {key: 2 * latency[key] for key in ("value", "low", "high")}
        if "pruned" not in cell["cell"]["variant"]:
            cells.append(cell)
    return dataclasses.replace(run, cells=cells, path=run.path.parent / "twin")


@given(
    st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=1, max_size=6),
    st.sampled_from(["", *sorted(COLUMNS), *(f"-{name}" for name in sorted(COLUMNS)), "variant", "-batch"]),
    st.sampled_from([None, (), ("runtime",), ("host",), ("variant", "batch"), ("precision",)]),
)
def test_every_row_is_in_one_table_once_in_the_order_asked_for(
    items: list[rows.Row], columns: list[str], sort: str, groups: tuple[str, ...] | None
) -> None:
    found = grids(items, View(tuple(columns), sort, groups))
    shown = [line.row for grid in found for line in grid.lines]
    wanted = [row for row in items if row.has_values or row.status == "failed"]
    assert {id(row) for row in shown} == {id(row) for row in wanted} and len(shown) == len(wanted)
    for grid in found:
        assert [c.name for c in grid.columns] == columns
        if sort.removeprefix("-") in COLUMNS:
            values = [COLUMNS[sort.removeprefix("-")].read(line.row).value for line in grid.lines]
            known = [v for v in values if v is not None]
            assert known == sorted(known, reverse=sort.startswith("-"))
            assert values[len(known) :] == [None] * (len(values) - len(known))
        told = [line.places for line in grid.lines]
        assert len(set(told)) == len(told), "two lines that nothing tells apart"


def test_runs_stand_side_by_side_and_a_gap_is_a_dash(run: FakeRun, twin: FakeRun) -> None:
    items = [row for of_run in rows.rows_of([run, twin]) for row in of_run]
    view = parse_view("latency", "", "", "", runs=2)
    (grid,) = grids(items, view)
    assert grid.above == (run.path.name, "twin") and grid.places == ("variant", "runtime", "host", "batch")
    by_name = {line.places: [f.fill("interval") for f in line.fields] for line in grid.lines}
    here, there = by_name["student-kd", "litert", "local", "1"]
    assert here.startswith("0.13") and there.startswith("0.26")
    assert by_name["teacher-pruned", "litert", "local", "1"][1] == "–"


def test_titles_and_headings_name_what_they_are(run: FakeRun, twin: FakeRun) -> None:
    items = rows.rows(run)
    titles = [grid.title for grid in grids(items, parse_view("latency", "", "", "host"))]
    assert titles == ["Hosts side by side, batch 1, 1 thread", "Hosts side by side, batch 8, 1 thread"]
    assert grids(items, View(group_by=("runtime",)))[0].title == "litert, local, 1 thread"
    for aside, head in (
        ("run", "latency in twin, ms"),
        ("host", "latency on local, ms"),
        ("batch", "latency at batch 8, ms"),
        ("threads", "latency with 1 thread, ms"),
    ):
        assert f"| {head} |" in tables.render([run, twin], "md", parse_view("latency", "", "", aside))
    assert "batch 8" in tables.render([run], "html", parse_view("latency", "", "", "batch"))


@pytest.mark.parametrize(("sort", "blocks"), [("", 1), ("latency", 2)])
def test_two_runs_with_long_names_stand_together_in_80_columns(
    run: FakeRun, twin: FakeRun, sort: str, blocks: int
) -> None:
    names = ("jetson-agx-xavier-demo-digits", "raspberry-pi-5-demo-digits")
    runs = [
        dataclasses.replace(one, path=run.path.parent / name)
        for one, name in zip((run, twin), names, strict=True)
    ]
    shown = tables.render(runs, "terminal", parse_view("accuracy,latency", sort, "", "", 2), 80)
    table = shown[shown.index("Runs side by side") : shown.index("Verdicts of")]
    assert max(map(len, table.splitlines())) <= 80
    heads = [line for line in table.splitlines() if line.startswith("variant")]
    assert len(heads) == blocks and all(line.count("%") + line.count("ms") >= 2 for line in heads)
    assert {line.split()[0] for line in table.splitlines() if line.startswith("student")} == {
        "student", "student-kd", "student-int8", "student-kd-int8", "student-kd-bf16",
    }  # fmt: skip
    head = table[: table.index("variant")]
    assert all(piece in head for piece in ("jetson-", "xavier-", "raspberry-"))


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("aside", ["run", "host", "runtime", "batch", "threads"])
def test_places_side_by_side_fit_the_terminal_in_any_order(run: FakeRun, width: int, aside: str) -> None:
    names = ("jetson-agx-xavier-demo-digits", "raspberry-pi-5-demo-digits", "x" * 40)
    runs = [dataclasses.replace(run, path=run.path.parent / name) for name in names]
    for sort in ("", "-latency"):
        shown = tables.render(runs, "terminal", parse_view("", sort, "", aside, 3), width)
        assert max(map(len, shown.splitlines())) <= width and "…" not in shown


VIEWS = [
    (1, View()),
    (1, View(("p99", "p95", "less-memory", "val-change", "top5", "device-memory"))),
    (1, View(sort="-energy", group_by=("runtime",))),
    (2, parse_view("", "", "", "", 2)),
    (2, parse_view("", "", "", "host")),
    (2, parse_view("latency,energy", "", "host", "threads")),
    (1, parse_view("", "", "", "runtime")),
    (2, parse_view("", "", "runtime", "batch")),
]


@pytest.mark.parametrize(("n", "view"), VIEWS)
@pytest.mark.parametrize("fmt", ["terminal", "md", "latex", "html"])
def test_every_dash_has_its_reason_below(run: FakeRun, twin: FakeRun, n: int, view: View, fmt: str) -> None:
    fewer = [c for c in twin.cells if c["cell"]["runtime"] != "torch" or c["cell"]["batch"] == 1]
    runs = [run, dataclasses.replace(twin, cells=fewer)][:n]
    shown = tables.render(runs, fmt, view)
    items = [row for of_run in rows.rows_of(runs) for row in of_run]
    fields = [field for grid in grids(items, view) for line in grid.lines for field in line.fields]
    missing = {field.quantity.reason for field in fields if field.quantity.value is None}
    assert missing and "" not in missing
    if fmt == "md":
        shown = shown.replace("\\", "")
    if fmt == "html":
        shown = html.unescape(shown[shown.index('<section id="missing">') :])
    said = "".join(shown.split())
    for reason in missing:
        assert "".join(reason.split()) in said, reason


@given(st.text("ab-_./", min_size=1, max_size=40), st.integers(1, 20))
def test_a_folded_name_breaks_inside_a_word_only_where_it_must(name: str, width: int) -> None:
    lines = text.fold(name, width).split("\n")
    assert "".join(lines) == name and max(map(len, lines)) <= width
    pieces = re.split(r"(?<=[-_./])", name)
    if max(map(len, pieces)) <= width:
        assert all(line[-1] in "-_./" for line in lines[:-1])


def test_runtimes_side_by_side_give_a_line_for_each_variant(run: FakeRun) -> None:
    first = grids(rows.rows(run), parse_view("latency", "", "host,batch", "runtime"))[0]
    assert first.above == ("litert", "onnxruntime", "torch") and first.places == ("variant",)
    assert len({line.places for line in first.lines}) == len(first.lines) > 5


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("latncy", "", "", ""), "latency"),
        (("latency,latency", "", "", ""), "twice"),
        (("", "speed", "", ""), "speed"),
        (("", "", "colour", ""), "colour"),
        (("", "", "", "variant"), "side by side"),
        (("", "", "host", "host"), "side by side"),
    ],
)
def test_bad_views_name_what_there_is(options: tuple[str, str, str, str], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_view(*options)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "view", [View(tuple(COLUMNS)), View(("p99",), "-p99", ("variant",)), View(side_by_side="runtime")]
)
def test_any_view_fits_the_terminal(run: FakeRun, view: View, width: int) -> None:
    shown = tables.render([run], "terminal", view, width)
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown
    for name in view.columns:
        assert COLUMNS[name].title in shown or (name == "accuracy" and "acc" in shown)


def test_markdown_is_a_table_to_the_parser_that_github_uses(run: FakeRun, twin: FakeRun) -> None:
    cmark = pytest.importorskip("cmarkgfm", reason="cmarkgfm is not installed: pip install 'edgefit[dev]'")
    predicted = json.loads(json.dumps(run.cells[0]))
    predicted["metrics"]["latency_ms"] |= {"provenance": "predicted"}
    predicted["cell"] |= {"variant": "a|b *c* <img>_d_"}
    one = dataclasses.replace(run, cells=[*run.cells, predicted])
    for runs in ([one], [one, twin]):
        made = cmark.github_flavored_markdown_to_html(
            tables.render(runs, "md", layout.parse_view("", "", "", "", len(runs)))
        )
        assert "a|b *c* &lt;img&gt;_d_" in made and "<img" not in made and "<em>" not in made
        lines = re.findall(r"<tr>(.*?)</tr>", made, re.DOTALL)
        wide = {len(re.findall(r"<t[hd][ >]", line)) for line in lines}
        assert len(lines) > 20 and len(wide) == 1


def test_latex_has_every_field_and_escapes_what_means_something(run: FakeRun) -> None:
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": r"a_b%c&d#e{f}\g~h^i"}}
    made = tables.render(
        [dataclasses.replace(run, cells=[*run.cells, cell])], "latex", View(("accuracy", "change", "energy"))
    )
    assert r"a\_b\%c\&d\#e\{f\}\textbackslash{}g$\sim$h\textasciicircum{}i" in made
    body = [line for line in made.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {4}
    assert (
        made.count(r"\begin{tabular}")
        == made.count(r"\end{tabular}")
        == made.count(r"\toprule")
        == len(grids(rows.rows(run), View()))
    )
    assert re.search(r"\$-\$\d", made), "a drop has a minus sign, not a hyphen"
    outside = "\n".join(line for line in made.splitlines() if not line.startswith("%"))
    assert outside.isascii()


def test_latex_names_each_quantity_once_above_its_places_and_goes_on_over_pages(
    run: FakeRun, twin: FakeRun
) -> None:
    view = layout.parse_view("latency,size", "", "", "", 2)
    made = tables.render([run, twin], "latex", view)
    assert made.count(r"\multicolumn{2}{c}{latency, ms}") == made.count(r"\multicolumn{2}{c}{size}") >= 1
    (wide,) = {len(c) for c in re.findall(r"\\begin{(?:longtable|tabular)}{([lr]+)}", made)}
    for line in (line for line in made.splitlines() if line.endswith(r"\\") and "&" in line):
        spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
        assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == wide
    many = [dataclasses.replace(run, path=run.path.parent / str(number)) for number in range(6)]
    long = tables.render(many, "latex", View(("latency",), "", ()))
    assert "booktabs, longtable" in long.splitlines()[0] and long.count(r"\endhead") == 1
    assert long.count(r"\toprule") == long.count(r"\bottomrule") == 1


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-recommended)"
)
def test_latex_is_taken_by_latex(run: FakeRun, twin: FakeRun, tmp_path: Path) -> None:
    view = layout.parse_view("", "", "", "", 2)
    cell = run.cells[0] | {"cell": run.cells[0]["cell"] | {"variant": r"a_b%c&d#e{f}\g~h^i"}}
    odd = dataclasses.replace(run, cells=[*run.cells, cell])
    body = tables.render([odd, twin], "latex", view) + tables.render([run], "latex")
    page = (
        r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}" + body + r"\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_csv_and_json_have_all_of_several_runs(run: FakeRun, twin: FakeRun) -> None:
    read = list(csv.DictReader(io.StringIO(tables.render([run, twin], "csv"))))
    assert {line["run"] for line in read} == {run.path.name, "twin"}
    assert len(read) == len(run.cells) + len(twin.cells)
    document = json.loads(tables.render([run, twin], "json"))
    assert [len(r["cells"]) for r in document["runs"]] == [len(run.cells), len(twin.cells)]
    with pytest.raises(UsageError, match="every cell"):
        tables.render([run], "csv", View(("latency",)))


def test_runs_in_directories_of_one_name_are_told_apart(run: FakeRun, tmp_path: Path) -> None:
    same = dataclasses.replace(run, path=tmp_path / run.path.name)
    assert len({row.run for of_run in rows.rows_of([run, same]) for row in of_run}) == 2
