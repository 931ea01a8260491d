"""Rows into tables: which columns, in which order, one table for which rows, and what stands side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.errors import UsageError, nearest
from bench.types import Quantity
from reports.columns import COLUMNS, PLACES, SIDE_BY_SIDE, USUAL, Column, named, place_of, told, where
from reports.rows import Row

SETTING = ("host", "batch", "threads")
"""Rows of one setting can be compared with each other: a table of its own for each, unless something else is asked."""


@dataclass(frozen=True)
class View:
    """What a person asked of a table; empty is the usual.

    ``columns``: names of :data:`reports.columns.COLUMNS`. ``sort``: one of them or of PLACES, ``-name`` for the largest
    first. ``group_by``: PLACES that have a table each; None is SETTING. ``side_by_side``: the place whose values become
    columns.
    """

    columns: tuple[str, ...] = ()
    sort: str = ""
    group_by: tuple[str, ...] | None = None
    side_by_side: str = ""

    @property
    def usual(self) -> bool:
        return self == View()


USUAL_VIEW = View()

ASIDE = {"run": "Runs", "runtime": "Runtimes", "precision": "Precisions", "batch": "Batch sizes", "threads": "Thread counts", "host": "Hosts", "format": "Formats"}  # fmt: skip
"""What a table's title calls the places that stand side by side."""


def parse_view(columns: str, sort: str, group_by: str, side_by_side: str, runs: int = 1) -> View:
    """A view from options as typed; several runs stand side by side unless they are grouped.

    Raises:
        UsageError: a name that does not exist.
    """

    def split(value: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in value.split(",") if part.strip())

    groups = None if not group_by else () if group_by == "none" else split(group_by)
    aside = side_by_side or ("run" if runs > 1 and "run" not in (groups or ()) else "")
    for name in (*(groups or ()), *([aside] if aside else [])):
        if name not in PLACES:
            raise UsageError(f"tables cannot be grouped by {name!r}", todo=nearest(name, PLACES))
    if aside == "variant" or aside in (groups or ()):
        raise UsageError(f"{aside} cannot stand side by side", todo="Choose another of " + ", ".join(PLACES))
    key = sort.removeprefix("-")
    if sort and key not in COLUMNS and key not in PLACES:
        raise UsageError(
            f"there is nothing called {key!r} to sort by", todo=nearest(key, [*COLUMNS, *PLACES])
        )
    named(split(columns))
    return View(split(columns), sort, groups, aside)


@dataclass(frozen=True)
class Field:
    """One number of a line: a column of a row, which is None where there is no such cell, for the reason ``absent``."""

    column: Column
    row: Row | None
    absent: str = ""

    @property
    def quantity(self) -> Quantity:
        return self.column.read(self.row) if self.row else Quantity.missing(self.absent)

    def fill(self, style: str) -> str:
        return self.column.fill(self.row, style) if self.row else "–"


@dataclass(frozen=True)
class Line:
    """A line of a table: what says which cell it is, and its numbers."""

    row: Row
    places: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Grid:
    """One table. ``above`` has, for each column, the value of ``aside`` that it belongs to where places stand side by side."""

    title: str
    places: tuple[str, ...]
    columns: tuple[Column, ...]
    above: tuple[str, ...]
    lines: tuple[Line, ...]
    aside: str = ""

    @property
    def headings(self) -> list[str]:
        """Above each column the place in words; empty where none stand side by side."""
        return [told(self.aside, value) if value else "" for value in self.above]

    def cut(self, start: int, stop: int) -> Grid:
        """The same table with some of its columns."""
        lines = tuple(replace(line, fields=line.fields[start:stop]) for line in self.lines)
        return replace(self, columns=self.columns[start:stop], above=self.above[start:stop], lines=lines)


def grids(items: Sequence[Row], view: View, alike: bool = False) -> list[Grid]:
    """The tables of ``items``, without rows of which nothing is known; ``alike``: all with the same columns, and with those rows."""
    shown = [row for row in items if alike or row.has_values or row.status == "failed"]
    keys = _keys(view)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in shown:
        groups.setdefault(tuple(place_of(row, key) for key in keys), []).append(row)
    found, absent = [], _Absent(items)
    for values, rows in groups.items():
        every_row = shown if alike else rows
        rest = _telling(every_row, keys, view.side_by_side)
        aside = _aside(every_row, view.side_by_side) if view.side_by_side else [""]
        columns = columns_of(view)
        lines = _lines(_sorted(rows, view.sort), rest, columns, view.side_by_side, aside, absent)
        if not view.sort:
            lines = _together(lines)
        every = tuple((column, place) for column in columns for place in aside)
        title = _title(rows[0], dict(zip(keys, values, strict=True)), rest, view.side_by_side)
        above = tuple(place for _, place in every)
        found.append(Grid(title, rest, tuple(c for c, _ in every), above, tuple(lines), view.side_by_side))
    return found


def columns_of(view: View) -> list[Column]:
    """Those asked for, or the usual ones."""
    return named(view.columns or (SIDE_BY_SIDE if view.side_by_side else USUAL))


def _title(row: Row, keys: dict[str, str], rest: tuple[str, ...], aside: str) -> str:
    """What all lines of a table have in common: what it is grouped by, then what no column tells because it is the same."""
    same = [key for key in ("runtime", *SETTING) if key not in (*keys, *rest, aside)]
    said = [told(key, value) for key, value in keys.items()] + [told(key, place_of(row, key)) for key in same]
    return ", ".join([f"{ASIDE[aside]} side by side", *said] if aside else said)


def _keys(view: View) -> tuple[str, ...]:
    """What has a table of its own; runs side by side are of different devices, so that nothing has."""
    if view.group_by is not None:
        return view.group_by
    return () if view.side_by_side == "run" else tuple(key for key in SETTING if key != view.side_by_side)


def _telling(rows: list[Row], keys: Iterable[str], aside: str) -> tuple[str, ...]:
    """What tells the lines apart: the variant always, the runtime if nothing stands side by side, others where they differ."""
    out = []
    for key in ("variant", "runtime", "host", "batch", "threads", "run"):
        if key in keys or key == aside:
            continue
        if (
            key == "variant"
            or (key == "runtime" and not aside)
            or len({place_of(row, key) for row in rows}) > 1
        ):
            out.append(key)
    return tuple(out)


def _aside(rows: list[Row], key: str) -> list[str]:
    values = list(dict.fromkeys(place_of(row, key) for row in rows))
    return sorted(values, key=int) if key in ("batch", "threads") else values


def _sorted(rows: list[Row], sort: str) -> list[Row]:
    """Missing values last, whatever the direction."""
    if not sort:
        return rows
    key, sign = sort.removeprefix("-"), -1.0 if sort.startswith("-") else 1.0
    if key in PLACES:
        ordered = sorted(rows, key=lambda r: (float(v) if (v := place_of(r, key)).isdigit() else 0.0, v))
        return ordered[::-1] if sign < 0 else ordered

    def order(row: Row) -> float:
        value = COLUMNS[key].read(row).value
        return math.inf if value is None else sign * value

    return sorted(rows, key=order)


def _lines(
    rows: list[Row],
    places: tuple[str, ...],
    columns: Sequence[Column],
    aside: str,
    values: list[str],
    absent: _Absent,
) -> list[Line]:
    """One line for each row, or for all rows that differ in ``aside`` alone."""
    by_line: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(place_of(row, place) for place in places)
        at = place_of(row, aside) if aside else ""
        if not aside and key in by_line:
            key = (*key, str(len(by_line)))  # a place that no column shows
        by_line.setdefault(key, {}).setdefault(at, row)
    lines = []
    for key, found in by_line.items():
        first = next(iter(found.values()))
        why = {value: absent.why(first, aside, value) for value in values if value not in found}
        fields = tuple(
            Field(column, found.get(value), why.get(value, "")) for column in columns for value in values
        )
        lines.append(Line(first, key[: len(places)], fields))
    return lines


def _together(lines: list[Line]) -> list[Line]:
    """Lines that differ in their first place alone together, in the order in which such groups begin."""
    order: dict[tuple[str, ...], int] = {}
    for line in lines:
        order.setdefault(line.places[1:], len(order))
    return sorted(lines, key=lambda line: order[line.places[1:]])


class _Absent:
    """Why a line has no cell for one of the places that stand side by side."""

    def __init__(self, items: Sequence[Row]) -> None:
        self._items = items
        self._reasons: dict[str, dict[tuple[str, ...], str]] = {}
        self._there: dict[tuple[str, str, str], set[str]] = {}

    def why(self, line: Row, aside: str, value: str) -> str:
        """The reason recorded for the cell, or for it in another setting; else what there is none of at ``value``."""
        if aside not in self._reasons:
            self._reasons[aside] = _reasons(self._items, aside)
        for key in _alike(line, aside, value):
            if key in self._reasons[aside]:
                return self._reasons[aside][key]
        run = value if aside == "run" else line.run
        if run not in self._places("run", aside, value, run):
            return f"none {where('run', run)}"
        for name in ("host", "runtime", "batch", "threads"):
            place = place_of(line, name)
            if name != aside and place not in self._places(name, aside, value, run):
                return f"none {where(name, place)}"
        return "the run has no such cell"

    def _places(self, key: str, aside: str, value: str, run: str) -> set[str]:
        """The values of ``key`` in the cells of a run at the place ``value``."""
        if (key, value, run) not in self._there:
            at = [r for r in self._items if place_of(r, aside) == value and r.run == run]
            self._there[key, value, run] = {place_of(r, key) for r in at}
        return self._there[key, value, run]


def _reasons(items: Sequence[Row], aside: str) -> dict[tuple[str, ...], str]:
    """Why cells were not done, by what they are, and by that without batch and threads."""
    found: dict[tuple[str, ...], str] = {}
    for row in items:
        if row.status != "ok":
            for key in _alike(row, aside, place_of(row, aside)):
                found.setdefault(key, row.reason or "no reason was recorded")
    return found


def _alike(row: Row, aside: str, value: str) -> list[tuple[str, ...]]:
    """What says which cell stands at ``value`` in the line of ``row``: exactly, then whatever its batch and threads."""
    keys = ("run", "variant", "runtime", "host", "batch", "threads")
    told_by = [*(place_of(row, key) if key != aside else "" for key in keys)]
    return [("exact", value, *told_by), ("alike", value, *told_by[:4])]
