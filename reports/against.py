"""The terminal's table of what each step brought: every variant against the one it was made from, a column a runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.types import Quantity
from reports import rows as model
from reports import text, verdicts
from reports.verdicts import FASTER, SAME, SLOWER, UNSURE, UNTOLD, Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {FASTER: "green", SLOWER: "red", SAME: "dim", UNSURE: "dim", UNTOLD: "dim", "": "dim"}
MARKS = {SAME: "≈", UNSURE: "?", UNTOLD: "?", SLOWER: "▼"}
LEGEND = (
    "x: latency before over after, ≈ no measurable difference, ▼ slower, ? cannot be told; Δacc: points, "
    "the worst runtime's; – no such cell, see Missing; all sentences with intervals and causes: --format md."
)


def against(found: list[Verdict], width: int) -> Iterable[RenderableType]:
    """Renderables: a heading and a table for each setting in which anything was timed, and a line that explains them."""
    settings: dict[tuple[str, int, int], list[Verdict]] = {}
    for verdict in found:
        if verdict.outcome:
            settings.setdefault(verdict.row.setting, []).append(verdict)
    if not settings:
        return
    from rich.text import Text

    several = verdicts.several(v.row for v in found)
    for setting, timed in settings.items():
        title = "Against what each was made from" + (f" ({model.setting_title(setting)})" if several else "")
        yield Text(f"\n{title}", style="bold")
        yield _table(timed, width)
    yield Text(LEGEND, style="dim")


def _table(found: list[Verdict], width: int) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    runtimes = list(dict.fromkeys(v.row.cell.runtime for v in found))
    lines = [_line([v for v in found if v.row.cell.variant == name], runtimes) for name in _names(found)]
    heads = ["variant", "against", *runtimes, "smaller", "Δacc"]
    widths = [
        max(len(cells[i][0]) for cells in (*lines, [(h, "") for h in heads])) for i in range(len(heads))
    ]
    room = max(8, width - sum(widths[1:]) - len(heads))
    lines = [[(text.fold(name, room), style), *rest] for (name, style), *rest in lines]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if i < 2 else "right", overflow="fold")
    for cells in lines:
        table.add_row(*(Text(shown, style=style) for shown, style in cells))
    return table


def _names(found: list[Verdict]) -> list[str]:
    return list(dict.fromkeys(v.row.cell.variant for v in found))


def _line(own: list[Verdict], runtimes: list[str]) -> list[tuple[str, str]]:
    """One variant's cells with their styles."""
    smaller = next((v.smaller for v in own if v.smaller.value is not None), Quantity(None))
    return [
        (own[0].row.cell.variant, ""),
        (", ".join(dict.fromkeys(v.base.cell.variant for v in own)), "dim"),
        *(_speed(next((v for v in own if v.row.cell.runtime == r), None)) for r in runtimes),
        (text.ratio(smaller), ""),
        (_worst(own), ""),
    ]


def _speed(verdict: Verdict | None) -> tuple[str, str]:
    if verdict is None:
        return text.MISSING, "dim"
    return text.ratio(verdict.ratio) + MARKS.get(verdict.said, ""), STYLES[verdict.said]


def _worst(own: list[Verdict]) -> str:
    """The change of accuracy on the runtime where it is lowest."""
    known = [v.accuracy for v in own if v.accuracy.value is not None]
    worst = min(known, key=lambda q: q.value or 0.0, default=Quantity(None))
    return text.points(worst, "±", "+")
