"""The trade-off table of the page, and for every number what it was computed from."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.errors import StoreError
from bench.types import Json, Quantity
from reports import layout, text
from reports import rows as model
from reports.columns import COLUMNS, SIDE_BY_SIDE, USUAL, place_of
from reports.layout import Field, Grid, View
from reports.page import flatten
from reports.rows import Row
from reports.tables import absent_lines

if TYPE_CHECKING:
    from bench.store import RunData

MORE = (*USUAL, "p90", "p99", "throughput", "first-call", "load", "device-memory", "macs", "params")
"""The page has room for more columns; those of which nothing is known are left out."""

FILTERS = ("run", "host", "runtime", "precision", "batch", "threads", "status")
"""Places that the page can be narrowed to."""

AT_ONCE = 60
"""Lines that are laid out when the page opens, the others when somebody comes near them: 500 take a second."""

SAMPLES = 150_000
"""Calls that the page has in all; of each process at most MOST and at least LEAST."""
MOST, LEAST = 200, 20

SCALES = {
    "accuracy": 100.0,
    "change": 100.0,
    "val-accuracy": 100.0,
    "val-change": 100.0,
    "top5": 100.0,
    "size": 1e-6,
}
"""From a stored value to what is typed into the filter, where they differ: percent, and MB."""


@dataclass(frozen=True)
class Number:
    """One field of the table: what is shown, what it is sorted by, the tooltip, and the cell whose details it opens."""

    value: str
    interval: str
    order: float | None
    title: str
    provenance: str
    link: str


def table(items: Sequence[Row], view: View) -> Json:
    """Headings and lines; a column that is missing everywhere is left out unless it was asked for."""
    place = {id(row): at for at, row in enumerate(items)}
    usual = SIDE_BY_SIDE if view.side_by_side else MORE
    flat = () if view.group_by is None else view.group_by
    asked = replace(view, columns=view.columns or usual, group_by=flat)
    grids = layout.grids(items, asked, alike=True)
    front = {id(row) for group in settings(items).values() for row in model.pareto(group)}
    keep = [
        at
        for at in range(len(grids[0].columns) if grids else 0)
        if view.columns or any(line.fields[at].quantity.value is not None for g in grids for line in g.lines)
    ]
    number = count()
    return {
        "places": grids[0].places if grids else ("variant",),
        "columns": [_heading(grids[0], at) for at in keep],
        "groups": [
            {
                "title": grid.title,
                "lines": [
                    {
                        "row": line.row,
                        "places": line.places,
                        "numbers": [_number(line.fields[at], place) for at in keep],
                        "front": any(id(f.row) in front for f in line.fields if f.row),
                        "filters": {key: _filter(line.row, key) for key in FILTERS},
                        "late": next(number) >= AT_ONCE,
                    }
                    for line in grid.lines
                ],
            }
            for grid in grids
        ],
        "absent": absent_lines(grids),
        "filters": {
            key: values
            for key in FILTERS
            if key != view.side_by_side and len(values := sorted({_filter(row, key) for row in items})) > 1
        },
    }


def _filter(row: Row, key: str) -> str:
    return row.status if key == "status" else place_of(row, key)


def _heading(grid: Grid, at: int) -> Json:
    column = grid.columns[at]
    return {
        "name": column.name,
        "title": column.title,
        "unit": column.unit,
        "above": grid.headings[at],
        "about": column.about,
        "scale": SCALES.get(column.name, 1.0),
    }


def _tooltip(quantity: Quantity) -> str:
    if quantity.value is None:
        return quantity.reason or "not recorded"
    parts = [quantity.provenance or "measured", quantity.method, f"n = {quantity.n}" if quantity.n else ""]
    return ", ".join(part for part in parts if part)


def _number(field: Field, place: dict[int, int]) -> Number:
    quantity, column = field.quantity, field.column
    shown = field.column.fill(field.row, "interval", "reference") if field.row else "–"
    value, bracket, rest = shown.partition(" [")
    known = quantity.value is not None
    return Number(
        value,
        f"[{rest}" if bracket else "",
        quantity.value,
        _tooltip(quantity),
        (quantity.provenance or "measured") if known else "missing",
        f"cell-{place[id(field.row)]}/{column.name}" if field.row and known else "",
    )


def settings(items: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that can be compared with each other, by the title of their host, batch, threads and run."""
    groups: dict[str, list[Row]] = {}
    runs = len({row.run for row in items}) > 1
    for row in items:
        title = model.setting_title(row.setting)
        groups.setdefault(f"{row.run}: {title}" if runs else title, []).append(row)
    return groups


# --- what is behind a number


def details(runs: Sequence[RunData], items: Sequence[Sequence[Row]]) -> Json:
    """For each row: its calls, the values of its processes, how each number came about, and where it was measured.

    What is the same in all environments is told once.
    """
    rows = [(run, row) for run, of_run in zip(runs, items, strict=True) for row in of_run]
    environments = [flatten(row.record.get("environment") or {}) for _, row in rows]
    same = {
        key: value
        for key, value in (environments[0] if environments else {}).items()
        if all(e.get(key) == value for e in environments if e)
    }
    counts = [len((row.record.get("runtime") or {}).get("processes") or ()) or 1 for _, row in rows]
    most = max(LEAST, min(MOST, SAMPLES // max(1, sum(counts))))
    words: dict[str, int] = {}
    cells = [
        {
            "title": _title(row, len(runs) > 1),
            "status": row.status,
            "reason": row.reason,
            "calls": _calls(run, row, most),
            "processes": _processes(row),
            "numbers": _numbers(row, words),
            "environment": [(k, v) for k, v in environment.items() if same.get(k) != v],
            "notes": [str(note) for note in row.record.get("notes") or ()],
        }
        for (run, row), environment in zip(rows, environments, strict=True)
    ]
    columns = {c.name: {"title": c.title, "unit": c.unit, "about": c.about} for c in COLUMNS.values()}
    return {"cells": cells, "same": list(same.items()), "words": list(words), "columns": columns}


def _title(row: Row, several: bool) -> str:
    where = f"{row.run}: " if several else ""
    return f"{where}{row.cell.variant} on {row.cell.runtime}, {model.setting_title(row.setting)}"


def _calls(run: RunData, row: Row, most: int) -> Json:
    """Milliseconds of the steady state's calls by process; ``step``: every how manieth is told."""
    import numpy as np

    stored = row.record.get("samples")
    if not stored:
        return {
            "reason": "a prediction has no calls" if row.record.get("prediction") else "no calls were stored"
        }
    try:
        with np.load(run.object_path(stored), allow_pickle=False) as archive:
            found = [np.asarray(archive[name], dtype=np.float64) for name in archive.files]
    except (StoreError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return {"reason": f"the stored calls cannot be read ({type(error).__name__})"}
    longest = max((a.size for a in found), default=0)
    step = max(1, -(-longest // most))
    return {"step": step, "ms": [[float(f"{v * 1e3:.4g}") for v in a[::step]] for a in found]}


def _processes(row: Row) -> dict[str, list[Any]]:
    """Column -> the value of each process, for what is measured once in a process."""
    processes = (row.record.get("runtime") or {}).get("processes") or ()
    found: dict[str, list[Any]] = {}
    for name, column in COLUMNS.items():
        values = [(p.get("values") or {}).get(column.stored) for p in processes]
        if any(v is not None for v in values):
            found[name] = values
    return found


def _numbers(row: Row, words: dict[str, int]) -> Json:
    """Column -> [what is shown, samples, how it was obtained, its method as a place in ``words``]."""
    found = {}
    for name, column in COLUMNS.items():
        quantity = column.read(row)
        if quantity.value is not None:
            unit = f" {column.unit}" if column.unit else ""
            shown = f"{column.show(quantity, 'interval')}{unit}"
            method = words.setdefault(quantity.method or text.MISSING, len(words))
            found[name] = [shown, quantity.n, quantity.provenance or "measured", method]
    return found
