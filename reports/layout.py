"""Rows into tables: which columns, in which order, one table for which rows, and what stands side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.errors import UsageError, nearest
from bench.types import Quantity
from reports import rows as model
from reports.columns import COLUMNS, PLACES, SIDE_BY_SIDE, USUAL, Column, named, place_of
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
    """One number of a line: a column of a row, which is None where there is no such cell."""

    column: Column
    row: Row | None

    @property
    def quantity(self) -> Quantity:
        return self.column.read(self.row) if self.row else Quantity.missing("no such cell")

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
    """One table. ``above`` has, for each column, the place it belongs to where places stand side by side."""

    title: str
    places: tuple[str, ...]
    columns: tuple[Column, ...]
    above: tuple[str, ...]
    lines: tuple[Line, ...]

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
    found = []
    for values, rows in groups.items():
        title = model.setting_title(rows[0].setting) if keys == SETTING else ", ".join(values)
        columns = named(view.columns or (SIDE_BY_SIDE if view.side_by_side else USUAL))
        every_row = shown if alike else rows
        rest = _telling(every_row, keys, view.side_by_side)
        aside = _aside(every_row, view.side_by_side) if view.side_by_side else [""]
        lines = _lines(_sorted(rows, view.sort), rest, columns, view.side_by_side, aside)
        every = tuple((column, place) for column in columns for place in aside)
        found.append(Grid(title, rest, tuple(c for c, _ in every), tuple(p for _, p in every), tuple(lines)))
    return found


def _keys(view: View) -> tuple[str, ...]:
    """What has a table of its own; runs side by side are of different devices, so that nothing has."""
    if view.group_by is not None:
        return view.group_by
    return () if view.side_by_side == "run" else tuple(key for key in SETTING if key != view.side_by_side)


def _telling(rows: list[Row], keys: Iterable[str], aside: str) -> tuple[str, ...]:
    """What tells the lines apart: the variant and the runtime always, other places where they differ."""
    out = []
    for key in ("variant", "runtime", "host", "batch", "threads", "run"):
        if key in keys or key == aside:
            continue
        if key in ("variant", "runtime") or len({place_of(row, key) for row in rows}) > 1:
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
    rows: list[Row], places: tuple[str, ...], columns: Sequence[Column], aside: str, values: list[str]
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
        fields = tuple(Field(column, found.get(value)) for column in columns for value in values)
        lines.append(Line(next(iter(found.values())), key[: len(places)], fields))
    return lines
