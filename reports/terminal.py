"""A run, or several, in a terminal: tables as wide as it is, then verdicts, what is missing and the legend."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports import layout, verdicts
from reports import rows as model
from reports.against import against
from reports.columns import Column
from reports.layout import Grid, Line, View
from reports.predict import predicted_lines
from reports.rows import Row
from reports.tables import gap_lines, legend, problem_line, summary, verdict_lines
from reports.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

    from bench.store import RunData


@dataclass(frozen=True)
class Shape:
    """A grid as strings. ``by_runtime`` gives each runtime a heading instead of a column."""

    grid: Grid
    style: str
    by_runtime: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """What has a column of its own after the variant."""
        return tuple(p for p in self.grid.places[1:] if not (self.by_runtime and p == "runtime"))

    def cells(self, line: Line) -> list[str]:
        """Everything after the first column."""
        told = dict(zip(self.grid.places, line.places, strict=True))
        return [told[p] for p in self.places] + [field.fill(self.style) for field in line.fields]

    @property
    def headings(self) -> list[str]:
        numbers = zip(self.grid.columns, self.grid.above, strict=True)
        return [*self.places, *(self._heading(column, place) for column, place in numbers)]

    def _heading(self, column: Column, place: str) -> str:
        parts = (place, column.heading(self.style), column.unit)
        return "\n".join(part for part in parts if part)

    def room(self, width: int) -> int:
        """Columns left for the names when nothing else is cut."""
        table = (
            [h.split("\n") for h in self.headings],
            [[[c] for c in self.cells(x)] for x in self.grid.lines],
        )
        lines = [table[0], *table[1]]
        return width - sum(
            1 + max(len(part) for line in lines for part in line[i]) for i in range(len(table[0]))
        )


def _table(shape: Shape, room: int) -> Table:
    """``shape`` as a rich table; names longer than ``room`` are folded, numbers never."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
    table.add_column(shape.grid.places[0], overflow="fold", max_width=max(1, room))
    for place, heading in enumerate(shape.headings):
        words = place < len(shape.places) and heading not in ("batch", "threads")
        table.add_column(Text(heading), justify="left" if words else "right", no_wrap=True)
    runtime, sections = "", "runtime" in shape.grid.places and _in_order(shape.grid)
    for line in shape.grid.lines:
        row = line.row
        if sections and row.cell.runtime != runtime:
            if runtime:
                table.add_section()
            runtime = row.cell.runtime
            if shape.by_runtime:
                table.add_row(Text(runtime, style="italic cyan"))
        style = "bold" if row.is_reference else "" if row.status == "ok" else "dim"
        name = Text(line.places[0], style=style)
        if row.status == "failed":
            name.append(" failed", style="red")
        table.add_row(name, *(Text(shown, style=style) for shown in shape.cells(line)))
    return table


def _in_order(grid: Grid) -> bool:
    """Whether the lines of each runtime are together."""
    runtimes = [line.row.cell.runtime for line in grid.lines]
    return len(dict.fromkeys(runtimes)) == 1 + sum(a != b for a, b in itertools.pairwise(runtimes))


def _shapes(grid: Grid, width: int, enough: int) -> Iterable[list[Shape]]:
    """From the widest to the narrowest way to show a grid; the last is as many tables as it takes."""
    by_runtime = "runtime" in grid.places and _in_order(grid)
    yield [Shape(grid, "interval")]
    yield [Shape(grid, "±")]
    yield [Shape(grid, "short", by_runtime)]
    parts, start = [], 0
    while start < len(grid.columns):
        stop = len(grid.columns)
        while stop > start + 1 and Shape(grid.cut(start, stop), "short", by_runtime).room(width) < enough:
            stop -= 1
        whole = [at for at in range(start + 1, stop) if grid.columns[at] is not grid.columns[at - 1]]
        if stop < len(grid.columns) and whole and grid.columns[stop] is grid.columns[stop - 1]:
            stop = whole[-1]  # a column of several places stays in one table
        parts.append(Shape(grid.cut(start, stop), "short", by_runtime))
        start = stop
    yield parts


def tables(grid: Grid, width: int) -> list[Table]:
    """The widest layout that leaves most names whole."""
    enough = min(max(len(line.places[0]) for line in grid.lines), 16)
    shapes: list[Shape] = []
    for shapes in _shapes(grid, width, enough):
        if all(shape.room(width) >= enough for shape in shapes):
            break
    return [_table(shape, shape.room(width)) for shape in shapes]


class TerminalReport:
    """A rich renderable: chooses, when printed, the widest layout that fits the console."""

    def __init__(self, runs: Sequence[RunData], view: View = layout.USUAL_VIEW) -> None:
        self.runs, self.view = runs, view
        self.rows = model.rows_of(runs)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for run in self.runs:
            yield Text(summary(run), style="bold")
        for grid in layout.grids([row for rows in self.rows for row in rows], self.view):
            yield Text(f"\n{grid.title}" if grid.title else "", style="bold")
            yield from tables(grid, options.max_width)
        for run, rows in zip(self.runs, self.rows, strict=True):
            found = verdicts.compare(run, rows)
            if self.view.usual:
                yield from against(found, options.max_width)
            yield from self._notes(run, rows, found)
        yield Text("\nLegend", style="bold")
        for line in legend():
            yield Text(f"- {line}", style="dim")

    def _notes(self, run: RunData, rows: list[Row], found: list[Verdict]) -> Iterable[RenderableType]:
        from rich.text import Text

        said = verdict_lines(run, rows, found)
        wrong = [problem_line(p) for p in model.problems(run, rows)] + gap_lines(rows)
        of = f" of {rows[0].run}" if len(self.runs) > 1 and rows else ""
        for title, lines in (("Verdicts", said), ("Predicted", predicted_lines(rows)), ("Missing", wrong)):
            if lines:
                yield Text(f"\n{title}{of}", style="bold")
            for line in lines:
                yield Text(f"- {line}")


def render_terminal(runs: Sequence[RunData], view: View = layout.USUAL_VIEW, width: int | None = None) -> str:
    """The terminal report as plain text of at most ``width`` columns (default 80)."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width or 80, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(TerminalReport(runs, view))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"
