"""One self-contained HTML file: no network, every string escaped, numbers with their provenance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.errors import NothingFitsError
from bench.types import Json, Quantity
from reports import html_table, plots, tables, text, verdicts
from reports import page as plumbing
from reports import rows as model
from reports.choose import choose
from reports.columns import Column, named
from reports.history import trends
from reports.layout import USUAL_VIEW, View
from reports.limits import parse_constraints
from reports.page import flatten
from reports.predict import predicted_lines
from reports.rows import Row

if TYPE_CHECKING:
    from bench.store import RunData

CONFUSION_BUDGET = 400_000
"""Numbers of all embedded confusion matrices together, so that many classes do not swell the file."""

SKIPPED_FILES = 50
_BARS = ("size_bytes", "memory_mb", "energy_mj")


def environments(items: Iterable[Row]) -> list[tuple[str, str]]:
    """The cells' environments as one table; what differs between cells shows its different values."""
    seen: dict[str, dict[str, None]] = {}
    for row in items:
        for key, value in flatten(row.record.get("environment") or {}).items():
            seen.setdefault(key, {})[value] = None
    return [
        (
            key,
            next(iter(values))
            if len(values) == 1
            else f"varies ({len(values)}): {', '.join(list(values)[:4])}",
        )
        for key, values in seen.items()
    ]


def _card(title: str, value: str, name: str, note: str) -> Json:
    return {"title": title, "value": value, "name": name, "note": note}


def _pick(run: RunData, items: list[Row], objective: str, title: str) -> Json:
    """What ``choose`` picks within one point of the reference."""
    try:
        row = choose([run], parse_constraints(["drop<=1%"]), objective, items=items).chosen.rows[0]
    except NothingFitsError:
        return _card(title, text.MISSING, "", "nothing is known to be within 1 point")
    change, place = row.relative["val_accuracy_change"], f"{row.cell.runtime} on {row.cell.host}"
    if objective == "latency":
        metric, against, word = row.metrics["latency_ms"], row.relative["x_faster"], "faster"
        value = f"{text.mark(metric)}{text.number(metric.value or 0.0, text.half_width(metric))} ms"
    else:
        metric, against, word = row.metrics["size_bytes"], row.relative["x_smaller"], "smaller"
        value = text.size(metric)
    better = f"{text.ratio(against)} {word}, " if against.value is not None else ""
    note = "the reference itself" if row.is_reference else f"{better}{text.points(change, sign='+')} points"
    return _card(
        title, value, row.cell.variant, f"{place}; {note}{' on validation' * (not row.is_reference)}"
    )


def _cards(run: RunData, items: list[Row]) -> list[Json]:
    """The reference, the best within one point of it, and how many cells there are."""
    cards = []
    reference = next((r for r in items if r.is_reference and r.metrics["accuracy"].value is not None), None)
    if reference is not None:
        accuracy, size = reference.metrics["accuracy"], text.size(reference.metrics["size_bytes"])
        note = f"{text.points(accuracy)} % of the test set on {reference.cell.runtime}; {size}"
        cards.append(
            _card("Reference", f"{100 * (accuracy.value or 0.0):.1f} %", reference.cell.variant, note)
        )
    cards.append(_pick(run, items, "latency", "Fastest within 1 point"))
    cards.append(_pick(run, items, "size", "Smallest within 1 point"))
    counts = {status: sum(r.status == status for r in items) for status in ("ok", "failed", "skipped")}
    foretold = sum(bool(r.record.get("prediction")) for r in items)
    note = f"{counts['failed']} failed, {counts['skipped']} skipped"
    note = f"{foretold} predicted, {note}" if foretold else note
    return [*cards, _card("Cells", f"{counts['ok'] - foretold} of {len(items)}", "measured", note)]


def _figures(items: list[Row], runs: Sequence[RunData]) -> Json:
    order = plots.runtime_order(items)
    places = []
    for title, group in html_table.settings(items).items():
        made = {"latency_ms": plots.tradeoff(group, order)}
        made |= {name: plots.bars(group, name, order) for name in _BARS}
        missing = {
            name: next((r.metrics[name].reason for r in group if r.metrics[name].reason), "not recorded")
            for name, figure in made.items()
            if figure is None
        }
        places.append(
            {
                "title": title,
                "figures": {name: plots.to_json(figure) for name, figure in made.items()},
                "missing": missing,
            }
        )
    trained = {
        name if len(runs) == 1 else f"{run.path.name}: {name}": record
        for run in runs
        for name, record in run.variants.items()
    }
    columns = ("val_accuracy", "val_loss", "train_loss")
    return {
        "settings": places,
        "curves": {name: plots.to_json(plots.curves(trained, name)) for name in columns},
    }


def _classified(items: list[Row]) -> tuple[list[Json], int]:
    """What the views of classes show, reference and Pareto front first; and how many were left out."""
    front = {id(row) for group in html_table.settings(items).values() for row in model.pareto(group)}
    seen: set[tuple[str, ...]] = set()
    chosen: list[Json] = []
    budget, left_out = CONFUSION_BUDGET, 0
    for row in sorted(items, key=lambda r: (not r.is_reference, id(r) not in front)):
        found = row.record.get("classification")
        key = (row.run, row.cell.variant, row.cell.runtime, row.cell.host, row.cell.precision)
        if not found or key in seen:
            continue
        seen.add(key)
        budget -= len(found["labels"]) ** 2
        if budget < 0 and chosen:
            left_out += 1
            continue
        title = f"{row.run}: " if len({r.run for r in items}) > 1 else ""
        title += f"{row.cell.variant} on {row.cell.runtime}"
        title += "" if row.cell.host == "local" else f" (scheme of {row.cell.host})"
        shown = [
            at for at, r in enumerate(items) if r.record.get("predictions") == row.record.get("predictions")
        ]
        chosen.append(
            {**found, "title": title, "cells": shown, "accuracy": text.points(row.metrics["accuracy"])}
        )
    return chosen, left_out


def _data_facts(run: RunData) -> list[tuple[str, str]]:
    data = {k: v for k, v in (run.manifest.get("data") or {}).items() if k not in ("skipped", "classes")}
    classes = [str(c) for c in (run.manifest.get("data") or {}).get("classes") or ()]
    shown = ", ".join(classes[:30]) + (f" and {len(classes) - 30} more" if len(classes) > 30 else "")
    return [*flatten(data).items(), (f"classes ({len(classes)})", shown or "unknown")]


def _profile_facts(run: RunData) -> list[tuple[str, str]]:
    """The profile's own fields; each published fact with its source."""
    profile = dict(run.manifest.get("profile") or {})
    facts = profile.pop("facts", None) or {}
    shown = list(flatten(profile).items())
    for name, fact in facts.items():
        if isinstance(fact, dict) and "value" in fact:
            shown.append(
                (name, f"{next(iter(flatten(fact['value']).values()))} ({fact.get('source', 'no source')})")
            )
        else:
            shown += list(flatten(fact, name).items())
    return shown


def _variants(run: RunData) -> list[Json]:
    result = []
    for name, record in run.variants.items():
        step = record.get("step") or {}
        options = [
            f"{k}={v}" for k, v in step.items() if k not in ("kind", "version", "training") and v != ""
        ]
        macs, params = record.get("macs"), record.get("params")
        result.append(
            {
                "name": name,
                "parent": record.get("parent") or text.MISSING,
                "step": ", ".join([str(step.get("kind", "")), *options]),
                "macs": text.count(Quantity(macs)) if macs else text.MISSING,
                "params": text.count(Quantity(params)) if params else text.MISSING,
                "seconds": f"{record.get('seconds') or 0:.1f}",
                "status": record["status"] + (" (intermediate)" if record.get("intermediate") else ""),
                "notes": "; ".join(str(n) for n in record.get("notes") or ()),
            }
        )
    return result


def _section(run: RunData, items: list[Row], several: bool, columns: Sequence[Column]) -> Json:
    """All that the page says of one run; ``name`` is empty where there is no other, ``columns`` are those of the table."""
    data, profile = run.manifest.get("data") or {}, run.manifest.get("profile") or {}
    skipped = [
        (str(s[0]), str(s[1])) if isinstance(s, (list, tuple)) else (str(s), "")
        for s in data.get("skipped") or ()
    ]
    found = verdicts.compare(run, items)
    return {
        "name": (items[0].run if items else run.path.name) if several else "",
        "title": f"{data.get('spec', 'data')} on {profile.get('title') or profile.get('name', 'local')}",
        "summary": tables.summary(run),
        "command": run.manifest.get("command", ""),
        "created": run.manifest.get("created", ""),
        "cards": _cards(run, items),
        "verdicts": tables.verdict_lines(run, items, found),
        "sentences": verdicts.sentences(found),
        "predicted": predicted_lines(items),
        "problems": model.problems(run, items),
        "gaps": tables.gap_lines(items, columns) + verdicts.uncompared(items, found),
        "data": _data_facts(run),
        "skipped": skipped[:SKIPPED_FILES],
        "skipped_more": max(0, len(skipped) - SKIPPED_FILES),
        "variants": _variants(run),
        "environment": list(flatten(run.manifest.get("environment") or {}).items()),
        "cell_environment": environments(items),
        "profile": _profile_facts(run),
    }


def render_html(runs: Sequence[RunData], view: View = USUAL_VIEW, history: Json | None = None) -> str:
    """The whole report as one HTML document that needs no network (about 5 MB, most of it plotly).

    ``history``: the document of ``bench history show``, whose trends the page shows too.
    """
    by_run = model.rows_of(runs)
    items = [row for rows in by_run for row in rows]
    classified, left_out = _classified(items)
    table = html_table.table(items, view)
    columns = named(list(dict.fromkeys(column["name"] for column in table["columns"])))
    sections = [_section(run, rows, len(runs) > 1, columns) for run, rows in zip(runs, by_run, strict=True)]
    most = max((len(c["labels"]) for c in classified), default=0)
    trend = trends(history) if history else {"plots": [], "rows": []}
    payload = {
        **_figures(items, runs),
        "classified": classified,
        "confusion": plots.to_json(plots.confusion(most)) if classified else None,
        "details": html_table.details(runs, by_run),
        "trends": trend["plots"],
    }
    return plumbing.render(
        "report",
        payload,
        title=sections[0]["title"] if len(runs) == 1 else f"{len(runs)} runs side by side",
        runs=sections,
        table=table,
        legend=tables.legend(),
        settings=[s["title"] for s in payload["settings"]],
        curves=[name for name, figure in payload["curves"].items() if figure],
        classified=[c["title"] for c in classified],
        left_out=left_out,
        history=history,
        trends=trend["rows"],
    )
