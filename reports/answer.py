"""The answer of :mod:`reports.choose` as text and as JSON."""

from __future__ import annotations

import textwrap

from bench.types import SCHEMA, Json
from reports import tables, text
from reports.choose import Choice, show_objective
from reports.limits import drop, percent, points_text, validation
from reports.rows import Row


def _place(row: Row) -> str:
    many = f", {row.cell.threads} threads" if row.cell.threads != 1 else ""
    return f"{row.cell.variant} on {row.cell.runtime}{many}"


def _summary(row: Row, objective: str) -> str:
    lost = drop(row)
    parts = [f"{objective} {show_objective(row, objective)}"]
    if objective != "accuracy":
        parts.append(f"validation accuracy {percent(validation(row))}")
    if not row.is_reference and lost.value is not None:
        parts.append(f"drop {points_text(lost)}")
    if objective != "size":
        parts.append(text.size(row.metrics["size_bytes"]))
    return ", ".join(parts)


def _places(rows: list[Row]) -> str:
    """``a, b and c on litert``; of many, the first three and how many more."""
    by_runtime: dict[str, list[str]] = {}
    for row in rows:
        by_runtime.setdefault(_place(row).partition(" on ")[2], []).append(row.cell.variant)
    said = []
    for place, names in by_runtime.items():
        more = [f"{len(names) - 3} more"] if len(names) > 4 else []
        shown = [*(names[:3] if more else names), *more]
        said.append(f"{text.listed(shown)} on {place}")
    return ", ".join(said)


def render_choice(choice: Choice, limit: int = 10, width: int | None = None) -> str:
    """The choice as Markdown that reads well as plain text; at most ``limit`` runners-up.

    ``width`` breaks lines at that many columns, but never the command.
    """
    lines = _lines(choice, limit)
    if width is None:
        return "\n".join(lines)
    hanging = {"width": width, "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(
        line
        if line.startswith(" ") or not line
        else textwrap.fill(line, subsequent_indent="  " if line.startswith("- ") else "", **hanging)
        for line in lines
    )


def _lines(choice: Choice, limit: int) -> list[str]:
    out = [f"Choose: {_place(choice.chosen)}", "", choice.explanation, ""]
    out += [f"Warning: {warning}." for warning in choice.warnings] + ([""] if choice.warnings else [])
    out += ["Export it with:", "", f"    {choice.command}", ""]
    out += ["With an example, eight images, a check and a model card:", "", f"    {choice.folder}", ""]
    if choice.runners_up:
        out.append(f"Runners-up ({choice.considered}):")
        out += [f"- {_place(row)}: {_summary(row, choice.objective)}" for row in choice.runners_up[:limit]]
        if len(choice.runners_up) > limit:
            out.append(f"- and {len(choice.runners_up) - limit} more")
        out.append("")
    if choice.refused:
        groups: dict[str, list[Row]] = {}
        out.append("Refused:")
        for row, reasons in choice.refused:
            groups.setdefault("; ".join(reasons), []).append(row)
        out += [f"- {_places(rows)}: {why}" for why, rows in groups.items()]
        out.append("")
    return out


def choice_json(choice: Choice) -> Json:
    """The choice as a JSON document; cells have the shape of ``bench report --format json``."""
    limits = {name: value for name, value in vars(choice.constraints).items() if value is not None}
    return {
        "schema": SCHEMA,
        "objective": choice.objective,
        "constraints": limits,
        "considered": choice.considered,
        "chosen": tables.finite(tables.cell_json(choice.chosen)),
        "command": choice.command,
        "explanation": choice.explanation,
        "warnings": list(choice.warnings),
        "runners_up": [tables.finite(tables.cell_json(row)) for row in choice.runners_up],
        "refused": [
            {"cell": vars(row.cell) | {}, "reasons": list(reasons)} for row, reasons in choice.refused
        ],
    }
