"""Runs as tables for a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from reports import rows as model
from reports.layout import USUAL_VIEW, Grid, View, grids
from reports.rows import Row
from reports.tables import absent_lines, legend, missing_lines, summary, texts

if TYPE_CHECKING:
    from bench.store import RunData

PAGE = 40
"""Lines that fit on a page; a longer table goes on over the next ones."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"$\sim$", "^": r"\textasciicircum{}", "*": r"$^{*}$", "–": "--", "Δ": r"$\Delta$", "±": r"$\pm$", "µ": r"$\mu$",
    "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip
"""What means something else to LaTeX, or to its fonts."""


def escape_latex(value: str) -> str:
    """Text that stays text; a minus before a digit is a minus sign."""
    shown = "".join(_LATEX.get(character, character) for character in " ".join(value.split()))
    return re.sub(r"(?<![\w)])-(?=\d)", "$-$", shown)


def render_latex(runs: Sequence[RunData], view: View = USUAL_VIEW) -> str:
    """Tables with the rules of the package booktabs: ``tabular``, or ``longtable`` for more than PAGE lines."""
    every = model.rows_of(runs)
    found = grids([row for rows in every for row in rows], view)
    packages = "booktabs, longtable" if any(len(grid.lines) > PAGE for grid in found) else "booktabs"
    out = [f"% needs \\usepackage{{{packages}}}", *(f"% {' '.join(summary(run).split())}" for run in runs)]
    for grid in found:
        caption = rf"\caption{{{escape_latex(grid.title or 'All cells')}}}"
        columns = "l" * len(grid.places) + "r" * len(grid.columns)
        body = [_line(texts(line)) for line in grid.lines]
        if len(body) > PAGE:
            out += [rf"\begin{{longtable}}{{{columns}}}", rf"{caption} \\", *_head(grid), r"\endhead"]
            out += [*body, r"\bottomrule", r"\end{longtable}"]
        else:
            out += [
                r"\begin{table}",
                r"\centering",
                caption,
                rf"\begin{{tabular}}{{{columns}}}",
                *_head(grid),
            ]
            out += [*body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    missing = [*_missing(runs, every, view), *absent_lines(found)]
    notes = [f"Missing: {' '.join(line.split())}" for line in missing] + legend()
    return "\n".join([*out, *(f"% {line}" for line in notes), ""])


def _missing(runs: Sequence[RunData], every: list[list[Row]], view: View) -> list[str]:
    """Why there are dashes, with the run where there are several."""
    said = []
    for run, items in zip(runs, every, strict=True):
        of = f"{items[0].run}: " if len(runs) > 1 and items else ""
        said += [f"{of}{line}" for line in missing_lines(run, items, view)]
    return said


def _line(fields: Sequence[str]) -> str:
    return " & ".join(escape_latex(field) for field in fields) + r" \\"


def _head(grid: Grid) -> list[str]:
    """The titles; with places side by side each title once, above its places."""
    titles = [f"{c.title}, {c.unit}" if c.unit else c.title for c in grid.columns]
    if not any(grid.above):
        return [r"\toprule", _line([*grid.places, *titles]), r"\midrule"]
    spans, rules, at = [], [], len(grid.places) + 1
    for title, same in groupby(titles):
        wide = len(list(same))
        spans.append(rf"\multicolumn{{{wide}}}{{c}}{{{escape_latex(title)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + wide - 1}}}")
        at += wide
    above = " & ".join([""] * len(grid.places) + spans) + r" \\"
    return [r"\toprule", above, "".join(rules), _line([*grid.places, *grid.headings]), r"\midrule"]
