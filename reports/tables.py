"""Runs as text: Markdown, CSV and JSON. Nothing here writes or prints."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, nearest
from bench.types import SCHEMA, Json, Quantity
from reports import rows as model
from reports import text, verdicts
from reports.claims import claims
from reports.columns import Column, where
from reports.layout import USUAL_VIEW, Grid, Line, View, columns_of, grids
from reports.predict import predicted_lines
from reports.rows import Problem, Row
from reports.verdicts import Verdict

if TYPE_CHECKING:
    from bench.store import RunData

FORMATS = ("terminal", "md", "latex", "html", "csv", "json")


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


def gap_lines(items: list[Row], columns: Sequence[Column]) -> list[str]:
    """``memory and energy missing in 12 cells: no instrument``, of the columns of a table.

    Not for cells that were not done, where the reason is that: :func:`problem_line` says it.
    """
    counts: dict[tuple[str, str], int] = {}
    for row in items:
        reasons: dict[str, list[str]] = {}
        for column in columns:
            quantity = column.read(row)
            reason = quantity.reason or "not recorded"
            done = row.status == "ok" or (row.has_values and reason != row.reason)
            if done and quantity.value is None:
                reasons.setdefault(reason, []).append(column.title)
        for reason, titles in reasons.items():
            key = (text.listed(titles), reason)
            counts[key] = counts.get(key, 0) + 1
    return [f"{names} missing in {text.plural(n, 'cell')}: {why}" for (names, why), n in counts.items()]


def absent_lines(found: Sequence[Grid]) -> list[str]:
    """``pixel-8 has no cell in 12 lines: none on tensorrt``, for places side by side."""
    counts: dict[tuple[str, str], int] = {}
    for grid in found:
        for line in grid.lines:
            pairs = zip(grid.headings, line.fields, strict=True)
            for key in dict.fromkeys((head, field.absent) for head, field in pairs if field.row is None):
                counts[key] = counts.get(key, 0) + 1
    return [f"{head} has no cell in {text.plural(n, 'line')}: {why}" for (head, why), n in counts.items()]


def missing_lines(run: RunData, items: list[Row], view: View) -> list[str]:
    """Why each dash of a run in a table is one: failures and skips, then what cells lack that did run."""
    return [problem_line(p) for p in model.problems(run, items)] + gap_lines(items, columns_of(view))


def verdict_lines(run: RunData, items: list[Row], found: list[Verdict]) -> list[str]:
    """What may be said about latency and accuracy, a line for many variants; ``found`` are all comparisons."""
    return [*verdicts.lines(found), *verdicts.collapses(items), *claims(run, items)]


def legend() -> list[str]:
    """What the marks, the intervals and the accuracy are."""
    return [text.LEGEND, text.INTERVAL_NOTE, verdicts.RULE, text.SPLIT_NOTE]


# ---------------------------------------------------------------- Markdown


def escape_md(value: str) -> str:
    """Text that stays text inside a Markdown table."""
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", " ".join(value.split()))


def _heads(grid: Grid) -> list[str]:
    """``variant, runtime, latency, ms``; of places side by side ``latency on pixel-8, ms``, ``latency in RUN, ms``."""
    found = list(grid.places)
    for column, place in zip(grid.columns, grid.above, strict=True):
        name = f"{column.title} {where(grid.aside, place)}" if place else column.title
        found.append(f"{name}, {column.unit}" if column.unit else name)
    return found


def texts(line: Line) -> list[str]:
    failed = " (failed)" if line.row.status == "failed" else ""
    return [line.places[0] + failed, *line.places[1:], *(field.fill("interval") for field in line.fields)]


def render_md(runs: Sequence[RunData], view: View = USUAL_VIEW) -> str:
    """Markdown as GitHub renders it: a table for each group of rows, then the notes."""
    every = model.rows_of(runs)
    out = [f"# {escape_md(summary(runs[0]))}", ""]
    if len(runs) > 1:
        out = ["# Several runs", "", *(f"- {escape_md(summary(run))}" for run in runs), ""]
    shown = grids([row for rows in every for row in rows], view)
    for grid in shown:
        out += [f"## {escape_md(grid.title)}", ""] if grid.title else []
        out.append("| " + " | ".join(escape_md(head) for head in _heads(grid)) + " |")
        out.append("|" + "---|" * len(grid.places) + "---:|" * len(grid.columns))
        out += ["| " + " | ".join(escape_md(cell) for cell in texts(line)) + " |" for line in grid.lines]
        out.append("")
    for run, items in zip(runs, every, strict=True):
        out += _notes_md(run, items, f" of {items[0].run}" if len(runs) > 1 and items else "", view)
    if absent := absent_lines(shown):
        out += ["## Missing side by side", "", *(f"- {escape_md(line)}" for line in absent), ""]
    return "\n".join([*out, "## Legend", "", *(f"- {escape_md(line)}" for line in legend()), ""])


def _notes_md(run: RunData, items: list[Row], of: str, view: View) -> list[str]:
    found, out = verdicts.compare(run, items), []
    wrong = missing_lines(run, items, view) + verdicts.uncompared(items, found)
    for title, said in (
        ("Verdicts", verdict_lines(run, items, found)),
        ("Each variant against what it was made from", verdicts.sentences(found)),
        ("Predicted", predicted_lines(items)),
        ("Missing", wrong),
    ):
        if said:
            out += [f"## {escape_md(title + of)}", "", *(f"- {escape_md(line)}" for line in said), ""]
    return out


# ---------------------------------------------------------------- CSV


def _safe(value: Any) -> Any:
    """Text that a spreadsheet does not run as a formula; 9 digits of a float, the rest is rounding noise."""
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def render_csv(runs: Sequence[RunData]) -> str:
    """One line per cell; each quantity as ``name`` and ``name_low, _high, _n, _provenance, _reason``; of several runs, the run first."""
    items = [row for rows in model.rows_of(runs) for row in rows]
    first = ["run"] if len(runs) > 1 else []
    start = ("variant", "runtime", "precision", "batch", "threads", "host")
    names = (*model.METRICS, *model.RATIOS, *model.CHANGES)
    parts = ("", "_low", "_high", "_n", "_provenance", "_reason")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*first, *start, "format", "status", "reason", "remedy", *(n + p for n in names for p in parts)]
    )
    for row in items:
        known = [row.run] * len(first) + [getattr(row.cell, name) for name in start]
        values: list[Any] = []
        for name in names:
            q = row.metrics.get(name) or row.compared[name]
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
    quantities = {name: q.to_json() for name, q in {**row.metrics, **row.compared}.items()}
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
    setting = verdicts.several(v.row for v in found)
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
        "comparisons": [finite(verdicts.to_json(v, setting)) for v in found],
        "verdicts": [*verdict_lines(run, items, found), *verdicts.sentences(found)],
    }


def render_json(runs: Sequence[RunData]) -> str:
    """:func:`to_json` as text; several runs as ``{"schema": 1, "runs": [...]}``."""
    documents = [to_json(run) for run in runs]
    document = documents[0] if len(runs) == 1 else {"schema": SCHEMA, "runs": documents}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render(
    runs: Sequence[RunData],
    fmt: str,
    view: View = USUAL_VIEW,
    width: int | None = None,
    history: Json | None = None,
) -> str:
    """The report of ``runs`` in one of FORMATS; ``width`` (columns) matters to ``terminal`` only, ``history`` to ``html``.

    Raises:
        UsageError: for a format that does not exist, or a view where all cells are written.
    """
    if fmt in ("csv", "json") and (view.columns or view.sort or view.group_by):
        raise UsageError(
            f"{fmt} has every cell and column", todo="Leave --columns, --sort and --group-by out"
        )
    if fmt == "terminal":
        from reports import terminal

        return terminal.render_terminal(runs, view, width)
    if fmt == "html":
        from reports import html

        return html.render_html(runs, view, history)
    if fmt in ("csv", "json"):
        return render_csv(runs) if fmt == "csv" else render_json(runs)
    if fmt == "latex":
        from reports import latex

        return latex.render_latex(runs, view)
    shown = {"md": render_md}
    if fmt not in shown:
        raise UsageError(f"there is no report format {fmt!r}", todo=nearest(fmt, FORMATS))
    return shown[fmt](runs, view)
