"""The answer of :mod:`reports.choose` as text and as JSON."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING

from bench.types import SCHEMA, Json
from reports import tables, text
from reports.choose import Choice
from reports.limits import METRICS, PESSIMISTIC, drop, percent, points_text, validation
from reports.objective import Candidate
from reports.reasons import cell_name, explain, named, sensitivity, shown, some, warnings
from reports.rows import Row

if TYPE_CHECKING:
    from bench.store import RunData


def commands(choice: Choice) -> list[tuple[str, str]]:
    """For each target: what takes the file out of its run, and what writes a deployment folder."""
    found = []
    for target, row in zip(choice.targets, choice.chosen.rows, strict=True):
        run, name = str(target.run.path), row.cell.variant
        place = "" if len(choice.targets) == 1 else f"-{target.name.replace('/', '-')}"
        output = f"deploy/{name}{place}"
        words = [run, "--variant", name, "--runtime", row.cell.runtime]
        words += [] if row.cell.host == "local" else ["--host", row.cell.host]
        several = sum(t.run is target.run for t in choice.targets) > 1
        chosen = [run, "--chosen", *(["--host", target.host] if several else [])]
        found.append(
            (
                shlex.join(["bench", "export", *words, "--output", output]),
                shlex.join(["bench", "export", *chosen, "--output", output]),
            )
        )
    return found


# --- the whole


def _summary(choice: Choice, candidate: Candidate) -> str:
    names = [m.name for m in choice.metrics]
    parts = [f"{m.name} {shown(choice, candidate, m)}" for m in choice.metrics if m.name != "accuracy"]
    row = candidate.rows[choice.judge.worst(candidate, METRICS["accuracy"])]
    lost = drop(row)
    parts.append(
        f"validation accuracy {percent(validation(row))}"
        if names != ["accuracy"]
        else f"accuracy {percent(validation(row))}"
    )
    if not row.is_reference and lost.value is not None:
        parts.append(f"drop {points_text(lost)}")
    if "size" not in names:
        parts.append(text.size(row.metrics["size_bytes"]))
    return ", ".join(parts)


def _places(rows: list[Row]) -> str:
    """``a, b and c on litert``; of many, the first three and how many more."""
    by_runtime: dict[str, list[str]] = {}
    for row in rows:
        by_runtime.setdefault(cell_name(row).partition(" on ")[2], []).append(row.cell.variant)
    said = []
    for place, names in by_runtime.items():
        more = [f"{len(names) - 3} more"] if len(names) > 4 else []
        listed = [*(names[:3] if more else names), *more]
        said.append(f"{text.listed(listed)} on {place}")
    return ", ".join(said)


def render_choice(choice: Choice, limit: int = 10, width: int | None = None) -> str:
    """The choice as Markdown that reads well as plain text; at most ``limit`` runners-up.

    ``width`` breaks lines at that many columns, but never the command.
    """
    lines = _lines(choice, limit)
    if width is None:
        return "\n".join(lines)
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    out = []
    for line in lines:
        wrapper.subsequent_indent = "  " if line.startswith("- ") else ""
        out.append(line if line.startswith(" ") or not line else wrapper.fill(line))
    return "\n".join(out)


def _lines(choice: Choice, limit: int) -> list[str]:
    out = [f"Choose: {named(choice, choice.chosen)}", "", explain(choice), ""]
    for said in (sensitivity(choice), [f"Warning: {warning}." for warning in warnings(choice)]):
        out += [*said, ""] if said else []
    both = commands(choice)
    out += ["Export it with:", "", *(f"    {file}" for file, _ in both), ""]
    out += [
        "With an example, eight images, a check and a model card:",
        "",
        *(f"    {folder}" for _, folder in both),
        "",
    ]
    out += _front(choice, limit)
    considered = ", ".join(f"{t.name}, batch {t.batch}" for t in choice.targets)
    if choice.runners_up:
        out.append(f"Runners-up ({considered}{_order(choice)}):")
        out += [f"- {named(choice, c)}: {_summary(choice, c)}" for c in choice.runners_up[:limit]]
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


def _order(choice: Choice) -> str:
    """By which end of an interval predictions are ordered, which their values do not show."""
    rows = [row for c in choice.runners_up for row in c.rows]
    foretold = any(m.read(row).provenance == "predicted" for m in choice.metrics for row in rows)
    return "; predictions by their worse end" if foretold and choice.judge.predictions == PESSIMISTIC else ""


def _front(choice: Choice, limit: int) -> list[str]:
    metrics = text.listed([m.name for m in choice.front.metrics])
    if len(choice.front.members) < 2:
        alone = choice.front.members and choice.front.members[0][0]
        if not alone or not choice.runners_up:
            return []
        name = named(choice, alone)
        return [
            f"Pareto front in {metrics}: {name} alone; nothing else that fits is better in one of them beyond doubt.",
            "",
        ]
    out = [f"Pareto front in {metrics}, the fastest first:"]
    for one, others in choice.front.members[:limit]:
        values = ", ".join(f"{m.name} {shown(choice, one, m)}" for m in choice.front.metrics)
        like = f" (not to be told from it: {some([named(choice, c) for c in others])})" if others else ""
        out.append(f"- {named(choice, one)}: {values}{like}")
    more = len(choice.front.members) - limit
    return [*out, *([f"- and {more} more"] if more > 0 else []), ""]


# --- JSON


def choice_json(choice: Choice, run: RunData | None = None) -> Json:
    """The choice as a JSON document; cells have the shape of ``bench report --format json``.

    ``targets`` are all, or those of ``run`` alone; ``chosen`` is the cell of the first of them.
    """
    own = [i for i, t in enumerate(choice.targets) if run in (None, t.run)]
    both, cells = commands(choice), _cells(choice, choice.chosen)
    return {
        "schema": SCHEMA,
        "objective": choice.objective.words if choice.objective else None,
        "constraints": {
            "limits": [limit.to_json() for limit in choice.constraints.limits],
            "predictions": choice.constraints.predictions,
        },
        "considered": ", ".join(f"{t.name}, batch {t.batch}" for t in choice.targets),
        "chosen": cells[own[0]],
        "targets": [
            {
                "target": choice.targets[i].name,
                "run": str(choice.targets[i].run.path),
                "command": both[i][0],
                "folder": both[i][1],
                "cell": cells[i],
            }
            for i in own
        ],
        "command": both[own[0]][0],
        "explanation": explain(choice),
        "sensitivity": [
            {
                "limit": relaxed.limit.to_json(),
                "bound": relaxed.bound,
                "cells": [vars(row.cell) | {} for row in relaxed.candidate.rows],
            }
            for relaxed in choice.relaxed
        ],
        "said": sensitivity(choice),
        "warnings": warnings(choice),
        "tied": [[vars(row.cell) | {} for row in c.rows] for c in choice.tied],
        "front": {
            "metrics": [m.name for m in choice.front.metrics],
            "members": [
                {
                    "cells": [vars(r.cell) | {} for r in one.rows],
                    "tied": [[vars(r.cell) | {} for r in c.rows] for c in others],
                }
                for one, others in choice.front.members
            ],
        },
        "runners_up": [cell for c in choice.runners_up for cell in _cells(choice, c)],
        "refused": [
            {"cell": vars(row.cell) | {}, "reasons": list(reasons)} for row, reasons in choice.refused
        ],
    }


def _cells(choice: Choice, candidate: Candidate) -> list[Json]:
    """``pareto``: it is on the front of the choice, or cannot be told from a member."""
    on_front = any(candidate is c for one, others in choice.front.members for c in (one, *others))
    return [tables.finite(tables.cell_json(row, on_front)) for row in candidate.rows]
