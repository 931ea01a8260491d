"""The history of results: the latest of each series, where the level changed, and the page with the trends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.types import Json
from reports import text

SPARKS = "▁▂▃▄▅▆▇█"
UNITS = {
    "latency": "ms",
    "throughput": "images/s",
    "memory": "MB",
    "energy": "mJ",
    "size": "kB",
    "accuracy": "%",
}
SCALES = {"size": 1e-3, "accuracy": 100.0}


def _shown(metric: str, value: float) -> str:
    return text.number(value * SCALES.get(metric, 1.0))


def _spark(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if high - low < 1e-9 + 1e-4 * abs(high):
        return SPARKS[3] * len(values)
    return "".join(SPARKS[round((v - low) / (high - low) * (len(SPARKS) - 1))] for v in values)


def terminal(document: Json, width: int = 80) -> str:
    """A line for each series: the latest value, its change since the one before, the last results as a spark line."""
    lines: list[str] = []
    machine = subject = ""
    for one in document["series"]:
        if one["machine"] != machine:
            machine, subject = one["machine"], ""
            lines += ["", f"on {machine}"] if lines else [f"on {machine}"]
        if one["subject"] != subject:
            subject = one["subject"]
            lines.append(subject)
        values = [r["value"] for r in one["results"]]
        latest = f"{text.MARKS.get(one['results'][-1]['provenance'], '?')}{_shown(one['metric'], values[-1])} {UNITS[one['metric']]}"
        step = ""
        if len(values) > 1:
            relative = one["relative"]
            share = values[-1] / values[-2] - 1 if relative and values[-2] else values[-1] - values[-2]
            step = f"{share * 100:+.1f}{'%' if relative else 'pt'}"
        room = max(1, width - 48)
        lines.append(
            f"  {one['metric']:<10}  {latest:>14}  {step:>7}  {_spark(values[-room:])}  n={one['n']}"
        )
        for change in one["changes"]:
            lines.append("    " + sentence(one, change))
    if not document["series"]:
        lines.append(f"{document['file']} has no such results")
    if document["missing"]:
        lines.append(document["missing"])
    return "\n".join(lines)


def sentence(one: Json, change: Json) -> str:
    """``worse by 5.2% between 1a2b3c4d5 and 6e7f8a9b0 (5.43 to 5.71 ms, p=0.0001)``."""
    levels = f"{_shown(one['metric'], change['before'])} to {_shown(one['metric'], change['after'])} {UNITS[one['metric']]}"
    where = f"between {change['last']['commit'][:9]} and {change['first']['commit'][:9]}"
    return f"{'better' if change['better'] else 'worse'} by {_share(one, change).lstrip('+-')} {where} ({levels}, p={change['p']:.2g})"


def _share(one: Json, change: Json) -> str:
    return f"{change['share'] * 100:+.1f}{'%' if one['relative'] else 'pt'}"


def _unchanged(document: Json, one: Json) -> str:
    """What a series without changes says of them."""
    if one["n"] < document["least"]:
        return f"too few results to tell ({document['least']} needed)"
    return "not looked for" if document["missing"] else "no change found"


def trends(document: Json) -> Json:
    """What a page needs to show them: ``plots`` for its script, ``rows`` for its table."""
    plots = [
        {
            "title": f"{one['subject']}, {one['metric']}",
            "unit": UNITS[one["metric"]],
            "time": [r["time"] for r in one["results"]],
            "value": [r["value"] * SCALES.get(one["metric"], 1.0) for r in one["results"]],
            "low": [
                (r["low"] if r["low"] is not None else r["value"]) * SCALES.get(one["metric"], 1.0)
                for r in one["results"]
            ],
            "high": [
                (r["high"] if r["high"] is not None else r["value"]) * SCALES.get(one["metric"], 1.0)
                for r in one["results"]
            ],
            "commit": [r["commit"][:9] for r in one["results"]],
            "changes": [
                {
                    "time": c["first"]["time"],
                    "better": c["better"],
                    "text": sentence(one, c),
                    "short": _share(one, c),
                }
                for c in one["changes"]
            ],
        }
        for one in document["series"]
    ]
    rows = [
        {"subject": one["subject"], "metric": one["metric"], "machine": one["machine"], "n": one["n"],
         "order": one["results"][-1]["value"], "latest": f"{text.MARKS.get(one['results'][-1]['provenance'], '?')}{_shown(one['metric'], one['results'][-1]['value'])} {UNITS[one['metric']]}",
         "changes": [{"better": c["better"], "text": sentence(one, c)} for c in one["changes"]], "unchanged": _unchanged(document, one)}
        for one in document["series"]
    ]  # fmt: skip
    return {"plots": plots, "rows": rows}


def page(document: Json) -> str:
    """The trends as one HTML file that needs no network."""
    from reports.page import render

    found = trends(document)
    return render(
        "trend",
        found["plots"],
        title=f"Trend of {Path(document['file']).name}",
        file=document["file"],
        history=document,
        trends=found["rows"],
    )
