"""A run, or several, in a terminal: tables as wide as it is, then verdicts, what is missing and the legend."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reports import layout, text, verdicts
from reports import rows as model
from reports.against import against
from reports.columns import told
from reports.layout import Grid, View
from reports.predict import predicted_lines
from reports.rows import Row
from reports.tables import absent_lines, legend, missing_lines, summary, verdict_lines
from reports.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from bench.store import RunData


PIECE = 16
"""A heading's word of more characters is broken inside."""
NARROW = 12
"""In the narrowest style the columns of runtimes, hosts and runs are folded to this."""


@dataclass(frozen=True)
class Shape:
    """A grid as strings. ``sectioned`` gives what tells the lines apart a heading instead of columns."""

    grid: Grid
    style: str
    sectioned: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """What has a column of its own after the first."""
        return () if self.sectioned else self.grid.places[1:]

    @cached_property
    def cells(self) -> list[list[str]]:
        """Of each line everything after the first column."""
        found = []
        for line in self.grid.lines:
            told_by = line.places[1:] if self.places else ()
            if self.style == "short":
                told_by = tuple(text.fold(place, NARROW) for place in told_by)
            found.append([*told_by, *(field.fill(self.style) for field in line.fields)])
        return found

    @cached_property
    def headings(self) -> list[str]:
        """Of each of those columns; a place above one is folded to what the column needs anyway."""
        found = list(self.places)
        for at, (column, above) in enumerate(zip(self.grid.columns, self.grid.headings, strict=True)):
            below = [part for part in (column.heading(self.style), column.unit) if part]
            longest = max(map(len, re.split(r"(?<=[-_./])", above)))
            cells = [line[len(self.places) + at] for line in self.cells]
            width = max(min(longest, PIECE), *map(len, (*below, *cells)))
            found.append("\n".join([*([text.fold(above, width)] if above else []), *below]))
        return found

    @cached_property
    def widths(self) -> list[int]:
        columns = zip(self.headings, *self.cells, strict=True)
        return [max(len(part) for cell in column for part in cell.split("\n")) for column in columns]

    def room(self, width: int) -> int:
        """Columns left for the first one when nothing else is cut."""
        return width - sum(1 + own for own in self.widths)


def _table(shape: Shape, room: int) -> Iterable[RenderableType]:
    """``shape`` as rich tables of the same columns, one a section; names longer than ``room`` are folded, numbers never."""
    from rich.text import Text

    grid, room = shape.grid, max(1, room)
    names = [text.fold(line.places[0], room) for line in grid.lines]
    marks = [" failed" if line.row.status == "failed" else "" for line in grid.lines]
    widest = max(
        len(part) for name, mark in zip(names, marks, strict=True) for part in (name + mark).split("\n")
    )
    first = min(room, max(widest, len(grid.places[0])))
    part, before = _columns(shape, first, True), None
    for line, name, mark, cells in zip(grid.lines, names, marks, shape.cells, strict=True):
        rest = line.places[1:]
        if rest != before and shape.sectioned:
            yield part
            title = ", ".join(told(*pair) for pair in zip(grid.places[1:], rest, strict=True))
            yield Text(f"\n{title}" if before else title, style="italic cyan")
            part = _columns(shape, first, False)
        elif rest != before and before and _sections(grid):
            part.add_section()
        before = rest
        style = "bold" if line.row.is_reference else "" if line.row.status == "ok" else "dim"
        shown = Text(name, style=style).append(mark, style="red")
        part.add_row(shown, *(Text(cell, style=style) for cell in cells))
    yield part


def _columns(shape: Shape, first: int, head: bool) -> Table:
    """An empty table of the shape's columns, the first of them ``first`` wide."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False, show_header=head)
    table.add_column(shape.grid.places[0], overflow="fold", width=first)
    for place, (heading, width) in enumerate(zip(shape.headings, shape.widths, strict=True)):
        words = place < len(shape.places) and heading not in ("batch", "threads")
        table.add_column(Text(heading), justify="left" if words else "right", no_wrap=True, width=width)
    return table


def _sections(grid: Grid) -> bool:
    """Whether lines that differ in their first place alone stand together, several in most of such groups."""
    rest = [line.places[1:] for line in grid.lines]
    groups = len(dict.fromkeys(rest))
    together = groups == 1 + sum(a != b for a, b in itertools.pairwise(rest))
    return bool(rest[0]) and together and 2 * groups <= len(rest)


def _shapes(grid: Grid, width: int, enough: int) -> Iterable[list[Shape]]:
    """From the widest to the narrowest way to show a grid; the last is as many tables as it takes."""
    sectioned = _sections(grid)
    yield [Shape(grid, "interval")]
    yield [Shape(grid, "±")]
    yield [Shape(grid, "short", sectioned)]
    parts, start = [], 0
    while start < len(grid.columns):
        stop = len(grid.columns)
        while stop > start + 1 and Shape(grid.cut(start, stop), "short", sectioned).room(width) < enough:
            stop -= 1
        whole = [at for at in range(start + 1, stop) if grid.columns[at] is not grid.columns[at - 1]]
        if stop < len(grid.columns) and whole and grid.columns[stop] is grid.columns[stop - 1]:
            stop = whole[-1]  # a column of several places stays in one table
        parts.append(Shape(grid.cut(start, stop), "short", sectioned))
        start = stop
    yield parts


def tables(grid: Grid, width: int) -> Iterable[RenderableType]:
    """The widest layout that leaves most names whole."""
    enough = min(max(len(line.places[0]) for line in grid.lines), 16)
    shapes: list[Shape] = []
    for shapes in _shapes(grid, width, enough):
        if all(shape.room(width) >= enough for shape in shapes):
            break
    for shape in shapes:
        yield from _table(shape, shape.room(width))


class TerminalReport:
    """A rich renderable: chooses, when printed, the widest layout that fits the console."""

    def __init__(self, runs: Sequence[RunData], view: View = layout.USUAL_VIEW) -> None:
        self.runs, self.view = runs, view
        self.rows = model.rows_of(runs)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for run in self.runs:
            yield Text(summary(run), style="bold")
        grids = layout.grids([row for rows in self.rows for row in rows], self.view)
        for grid in grids:
            yield Text(f"\n{grid.title}" if grid.title else "", style="bold")
            yield from tables(grid, options.max_width)
        for run, rows in zip(self.runs, self.rows, strict=True):
            found = verdicts.compare(run, rows)
            if self.view.usual:
                yield from against(found, options.max_width)
            yield from self._notes(run, rows, found)
        yield from _listed("Missing side by side", absent_lines(grids))
        yield Text("\nLegend", style="bold")
        for line in legend():
            yield Text(f"- {line}", style="dim")

    def _notes(self, run: RunData, rows: list[Row], found: list[Verdict]) -> Iterable[RenderableType]:
        of = f" of {rows[0].run}" if len(self.runs) > 1 and rows else ""
        wrong = missing_lines(run, rows, self.view) + verdicts.uncompared(rows, found)
        yield from _listed(f"Verdicts{of}", verdict_lines(run, rows, found))
        yield from _listed(f"Predicted{of}", predicted_lines(rows))
        yield from _listed(f"Missing{of}", wrong)


def _listed(title: str, lines: Sequence[str]) -> Iterable[RenderableType]:
    """A heading and a line for each, if there is any."""
    from rich.text import Text

    if lines:
        yield Text(f"\n{title}", style="bold")
    for line in lines:
        yield Text(f"- {line}")


def render_terminal(runs: Sequence[RunData], view: View = layout.USUAL_VIEW, width: int | None = None) -> str:
    """The terminal report as plain text of at most ``width`` columns (default 80)."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width or 80, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(TerminalReport(runs, view))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
