"""A run as text: a terminal table, Markdown, CSV and JSON. Nothing here writes or prints."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, nearest
from bench.types import SCHEMA, Json, Quantity
from reports import rows as model
from reports import text, verdicts
from reports.against import against
from reports.claims import claims
from reports.predict import predicted_lines
from reports.rows import Problem, Row
from reports.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from bench.store import RunData

FORMATS = ("terminal", "md", "html", "csv", "json")
_NAMES = {"accuracy": "accuracy", "latency_ms": "latency", "memory_mb": "memory", "energy_mj": "energy"}
_SHOWN = tuple(_NAMES)


@dataclass(frozen=True)
class Column:
    """One numeric column: its heading, its unit and how a row fills it."""

    title: str
    unit: str
    fill: Callable[[Row], str]


def _change(row: Row, style: str) -> str:
    if row.is_reference and row.relative["accuracy_change"].value is not None:
        return "ref"
    return text.points(row.relative["accuracy_change"], style, "+")


def _against(row: Row, name: str, style: str = "plain") -> str:
    return "ref" if row.is_reference and row.relative[name].value else text.ratio(row.relative[name], style)


def columns(style: str) -> list[Column]:
    """The numeric columns as ``interval`` (``1.83 [1.81, 1.86]``), ``±`` (``1.83±0.03``) or ``short``."""
    show = {"interval": text.interval, "±": text.plus_minus, "short": text.percent_arm}[style]
    wide = style == "interval"
    return [
        Column("acc" if style == "short" else "accuracy", "%", lambda r: _accuracy(r, style)),
        Column("Δacc", "points", lambda r: _change(r, style)),
        Column("latency", "ms", lambda r: show(r.metrics["latency_ms"])),
        Column("faster", "", lambda r: _against(r, "x_faster", style)),
        Column("size", "", lambda r: text.size(r.metrics["size_bytes"], " " if wide else "")),
        Column("smaller", "", lambda r: _against(r, "x_smaller")),
        Column("memory", "MB", lambda r: show(r.metrics["memory_mb"])),
        Column("energy", "mJ", lambda r: show(r.metrics["energy_mj"])),
    ]


def _accuracy(row: Row, style: str) -> str:
    quantity = row.metrics["accuracy"]
    if style != "short" or quantity.value is None:
        return text.points(quantity, style)
    return f"{text.mark(quantity)}{quantity.value * 100:.1f}"


def summary(run: RunData) -> str:
    """One line: which data, profile, recipe, seed and reference."""
    data, profile = run.manifest.get("data") or {}, run.manifest.get("profile") or {}
    counts = data.get("counts") or {}
    return (
        f"{run.manifest.get('name', '')}: data {data.get('spec', '?')} "
        f"({len(data.get('classes') or ())} classes, {counts.get('validation', '?')} validation and "
        f"{counts.get('test', '?')} test images), profile {profile.get('name', '?')}, "
        f"recipe {(run.manifest.get('recipe') or {}).get('name', '?')}, "
        f"seed {run.manifest.get('seed', '?')}, "
        f"reference {run.manifest.get('reference', '?')}"
    )


def problem_line(problem: Problem, full: bool = False) -> str:
    """``8 cells skipped on jetson-agx-xavier: no host for it; do: --host ssh://...``."""
    head = f"{text.plural(len(problem.subjects), problem.kind)} {problem.status}"
    if problem.where:
        head += f" on {problem.where}"
    names = ""
    if full or (problem.status == "failed" and len(problem.subjects) <= 3):
        names = f" ({', '.join(problem.subjects)})"
    todo = f"; do: {problem.remedy}" if problem.remedy else ""
    return f"{head}{names}: {problem.reason}{todo}"


def gap_lines(items: list[Row]) -> list[str]:
    """``energy missing in 12 cells: no instrument``, for the metrics that tables show."""
    return [
        f"{_NAMES[name]} missing in {text.plural(n, 'cell')}: {reason}"
        for name, reason, n in model.gaps(items, _SHOWN)
    ]


def verdict_lines(run: RunData, items: list[Row], found: list[Verdict]) -> list[str]:
    """What may be said about latency and accuracy, a line for many variants; ``found`` are all comparisons."""
    return [*verdicts.lines(found), *verdicts.collapses(items), *claims(run, items)]


def _legend(items: list[Row]) -> list[str]:
    return [text.LEGEND, text.INTERVAL_NOTE, text.SPLIT_NOTE]


# ---------------------------------------------------------------- terminal


@dataclass(frozen=True)
class Grid:
    """The rows of one setting as strings. ``by_runtime`` gives each runtime a heading instead of a column."""

    items: list[Row]
    columns: list[Column]
    by_runtime: bool

    def cells(self, row: Row) -> list[str]:
        """Everything after the name."""
        start = [] if self.by_runtime else [row.cell.runtime]
        return start + [column.fill(row) for column in self.columns]

    @property
    def headings(self) -> list[str]:
        named = [f"{c.title}\n{c.unit}" if c.unit else c.title for c in self.columns]
        return named if self.by_runtime else ["runtime", *named]

    def room(self, width: int) -> int:
        """Columns left for the variants' names when nothing else is cut."""
        table = [h.split("\n") for h in self.headings], [[[c] for c in self.cells(r)] for r in self.items]
        lines = [table[0], *table[1]]
        return width - sum(
            1 + max(len(part) for line in lines for part in line[i]) for i in range(len(table[0]))
        )


def _table(grid: Grid, room: int) -> Table:
    """``grid`` as a rich table; names longer than ``room`` are folded, numbers never."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
    table.add_column("variant", overflow="fold", max_width=max(1, room))
    for heading in grid.headings:
        table.add_column(Text(heading), justify="left" if heading == "runtime" else "right", no_wrap=True)
    runtime = ""
    for row in grid.items:
        if row.cell.runtime != runtime:
            if runtime:
                table.add_section()
            runtime = row.cell.runtime
            if grid.by_runtime:
                table.add_row(Text(runtime, style="italic cyan"))
        style = "bold" if row.is_reference else "" if row.status == "ok" else "dim"
        name = Text(row.cell.variant, style=style)
        if row.status == "failed":
            name.append(" failed", style="red")
        table.add_row(name, *(Text(shown, style=style) for shown in grid.cells(row)))
    return table


def _layouts(items: list[Row]) -> Iterable[list[Grid]]:
    """From the widest to the narrowest way to show one setting; the last is two tables."""
    short = columns("short")
    yield [Grid(items, columns("interval"), False)]
    yield [Grid(items, columns("±"), False)]
    yield [Grid(items, short, True)]
    yield [Grid(items, short[:4], True), Grid(items, [short[0], *short[4:]], True)]


def _fitting(items: list[Row], width: int) -> list[Table]:
    """The widest layout that leaves most names whole."""
    enough = min(max(len(row.cell.variant) for row in items), 16)
    grids: list[Grid] = []
    for grids in _layouts(items):
        if all(grid.room(width) >= enough for grid in grids):
            break
    return [_table(grid, grid.room(width)) for grid in grids]


class TerminalReport:
    """A rich renderable: chooses, when printed, the widest layout that fits the console."""

    def __init__(self, run: RunData) -> None:
        self.run, self.rows = run, model.rows(run)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(summary(self.run), style="bold")
        for setting, group in model.by_setting(self.rows).items():
            shown = [row for row in group if row.has_values or row.status == "failed"]
            if not shown:
                continue
            yield Text(f"\n{model.setting_title(setting)}", style="bold")
            yield from _fitting(shown, options.max_width)
        found = verdicts.compare(self.run, self.rows)
        yield from against(found, options.max_width)
        yield from self._notes(found)

    def _notes(self, found: list[Verdict]) -> Iterable[RenderableType]:
        from rich.text import Text

        said = verdict_lines(self.run, self.rows, found)
        wrong = [problem_line(p) for p in model.problems(self.run, self.rows)] + gap_lines(self.rows)
        foretold = predicted_lines(self.rows)
        titles = ("Verdicts", "Predicted", "Missing", "Legend")
        for title, shown in zip(titles, (said, foretold, wrong, _legend(self.rows)), strict=True):
            if shown:
                yield Text(f"\n{title}", style="bold")
            for line in shown:
                yield Text(f"- {line}", style="dim" if title == "Legend" else "")


def render_rich(run: RunData) -> TerminalReport:
    """The terminal report as a rich renderable: ``Console().print(render_rich(run))``."""
    return TerminalReport(run)


def render_terminal(run: RunData, width: int | None = None) -> str:
    """The terminal report as plain text of at most ``width`` columns (default 80)."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width or 80, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(render_rich(run))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


# ---------------------------------------------------------------- Markdown


def escape_md(value: str) -> str:
    """Text that stays text inside a Markdown table."""
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", " ".join(value.split()))


def render_md(run: RunData) -> str:
    """Markdown for a pull request: one table for each host, batch and threads, then the notes."""
    items = model.rows(run)
    wanted = columns("interval")
    out = [f"# {escape_md(summary(run))}", ""]
    for setting, group in model.by_setting(items).items():
        shown = [row for row in group if row.has_values or row.status == "failed"]
        if not shown:
            continue
        heads = ["variant", "runtime", *(f"{c.title}, {c.unit}" if c.unit else c.title for c in wanted)]
        out += [f"## {escape_md(model.setting_title(setting))}", ""]
        out += ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * len(wanted)]
        for row in shown:
            name = escape_md(row.cell.variant) + (" (failed)" if row.status == "failed" else "")
            cells = [name, escape_md(row.cell.runtime), *(escape_md(c.fill(row)) for c in wanted)]
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    wrong = [problem_line(p) for p in model.problems(run, items)] + gap_lines(items)
    found = verdicts.compare(run, items)
    for title, said in (
        ("Verdicts", verdict_lines(run, items, found)),
        ("Each variant against what it was made from", verdicts.sentences(found)),
        ("Predicted", predicted_lines(items)),
        ("Missing", wrong),
        ("Legend", _legend(items)),
    ):
        if said:
            out += [f"## {title}", "", *(f"- {escape_md(line)}" for line in said), ""]
    return "\n".join(out)


# ---------------------------------------------------------------- CSV


def _safe(value: Any) -> Any:
    """Text that a spreadsheet does not run as a formula; 9 digits of a float, the rest is rounding noise."""
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def render_csv(run: RunData) -> str:
    """One line per cell; each quantity as ``name`` and ``name_low, _high, _n, _provenance, _reason``."""
    items = model.rows(run)
    start = ("variant", "runtime", "precision", "batch", "threads", "host")
    names = (*model.METRICS, *model.RATIOS, *model.CHANGES)
    parts = ("", "_low", "_high", "_n", "_provenance", "_reason")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*start, "format", "status", "reason", "remedy", *(n + p for n in names for p in parts)])
    for row in items:
        known = [getattr(row.cell, name) for name in start]
        values: list[Any] = []
        for name in names:
            q = row.metrics.get(name) or row.relative[name]
            values += [q.value, q.low, q.high, q.n, q.provenance, q.reason if q.value is None else ""]
        writer.writerow([_safe(v) for v in (*known, row.format, row.status, row.reason, row.remedy, *values)])
    return out.getvalue()


# ---------------------------------------------------------------- JSON


def finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null (a diverged loss in a training history)."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cell_json(row: Row, on_front: bool = False) -> Json:
    """One cell as in every JSON document: coordinates, status and quantities side by side."""
    quantities = {name: q.to_json() for name, q in {**row.metrics, **row.relative}.items()}
    for name, quantity in quantities.items():
        if quantity["value"] is not None and not math.isfinite(quantity["value"]):
            quantities[name] = Quantity.missing("not a finite number", quantity["unit"]).to_json()
    return {
        "variant": row.cell.variant,
        "runtime": row.cell.runtime,
        "precision": row.cell.precision,
        "batch": row.cell.batch,
        "threads": row.cell.threads,
        "host": row.cell.host,
        "format": row.format,
        "status": row.status,
        "reason": row.reason,
        "remedy": row.remedy,
        "reference": row.is_reference,
        "pareto": on_front,
        **quantities,
        "environment": row.record.get("environment") or {},
        "classification": row.record.get("classification"),
        "prediction": row.record.get("prediction"),
        "stopped": row.record.get("stopped"),
        "notes": list(row.record.get("notes") or ()),
    }


def to_json(run: RunData) -> Json:
    """The document of ``bench report --format json``; its schema is ``reports/schema.json``."""
    items = model.rows(run)
    found = verdicts.compare(run, items)
    front = {id(row) for group in model.by_setting(items).values() for row in model.pareto(group)}
    about = ("name", "created", "command", "seed", "reference", "profile", "recipe", "data", "environment")
    fields = (
        "name",
        "parent",
        "step",
        "status",
        "reason",
        "macs",
        "params",
        "seconds",
        "history",
        "best_epoch",
    )
    return {
        "schema": SCHEMA,
        "run": {key: finite(run.manifest.get(key)) for key in about},
        "variants": [
            {
                **{key: finite(record.get(key)) for key in fields},
                "intermediate": bool(record.get("intermediate")),
                "notes": list(record.get("notes") or ()),
            }
            for record in run.variants.values()
        ],
        "cells": [finite(cell_json(row, id(row) in front)) for row in items],
        "comparisons": [finite(verdicts.to_json(v)) for v in found],
        "verdicts": [*verdict_lines(run, items, found), *verdicts.sentences(found)],
    }


def render_json(run: RunData) -> str:
    """:func:`to_json` as text."""
    return json.dumps(to_json(run), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render(run: RunData, fmt: str, width: int | None = None) -> str:
    """The report of ``run`` in one of FORMATS; ``width`` (columns) matters to ``terminal`` only.

    Raises:
        UsageError: for a format that does not exist.
    """
    if fmt == "terminal":
        return render_terminal(run, width)
    if fmt == "html":
        from reports import html

        return html.render_html(run)
    simple: dict[str, Callable[[RunData], str]] = {"md": render_md, "csv": render_csv, "json": render_json}
    if fmt not in simple:
        raise UsageError(f"there is no report format {fmt!r}", todo=nearest(fmt, FORMATS))
    return simple[fmt](run)
