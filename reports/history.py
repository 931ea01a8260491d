"""The history of results: the latest of each series, where the level changed, and the page with the trends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import history
from bench.errors import MissingError
from bench.gate.thresholds import METRICS
from bench.types import SCHEMA, Json, to_json
from reports import text

if TYPE_CHECKING:
    from bench.history import Change, Result, Series

VERSION = 1
"""Of the way changes are found: what was found otherwise is found anew."""
CACHE = "~/.cache/edgefit/changes"
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


def to_document(path: Path, metrics: Sequence[str], match: str, last: int) -> Json:
    """``series``: subject, metric, machine, the ``last`` results and the changes of level among all of them.

    Raises:
        UsageError: no such file.
    """
    records, damaged = history.read(path)
    found, told, missing = [], _Changes(), ""
    for series, results in sorted(history.series(records, metrics, match).items()):
        try:
            changed = told.of(series, results)
        except MissingError as error:
            changed, missing = [], str(error)
        found.append({
            "subject": series.subject.label,
            "metric": series.metric,
            "machine": series.machine,
            "unit": UNITS[series.metric],
            "n": len(results),
            "results": [to_json(r) for r in results[-last:]],
            "changes": [_change(series, c) for c in changed],
        })  # fmt: skip
    told.keep()
    return {
        "schema": SCHEMA,
        "file": str(path),
        "series": found,
        "damaged": [list(d) for d in damaged],
        "missing": missing,
    }


def _change(series: Series, change: Change) -> Json:
    metric = METRICS[series.metric]
    return {**to_json(change), "better": (change.share < 0) == metric.less}


class _Changes:
    """Changes of level, remembered by the content of their series: finding them imports more than showing them."""

    def __init__(self) -> None:
        self._path = Path(CACHE).expanduser() / "changes.json"
        try:
            known = json.loads(self._path.read_text())
            self._known: dict[str, Any] = known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            self._known = {}
        self._used: dict[str, Any] = {}

    def of(self, series: Series, results: list[Result]) -> list[Change]:
        key = hashlib.sha256(f"{VERSION} {series.metric} {[r.value for r in results]}".encode()).hexdigest()[
            :16
        ]
        places = self._known.get(key)
        if not _fits(places, len(results)):
            found = history.changes(results, METRICS[series.metric].relative)
            at = {id(r): i for i, r in enumerate(results)}
            places = [[at[id(c.first)], c.before, c.after, c.share, c.p] for c in found]
        self._used[key] = places
        return [history.Change(results[i - 1], results[i], *rest) for i, *rest in places]

    def keep(self) -> None:
        """Write what was found for the next time; a folder that cannot be written costs that time only."""
        from contextlib import suppress

        from bench.store import write_atomic

        if self._used.items() <= self._known.items():
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps({**self._known, **self._used}).encode())


def _fits(places: Any, n: int) -> bool:
    return isinstance(places, list) and all(
        isinstance(p, list) and len(p) == 5 and isinstance(p[0], int) and 0 < p[0] < n for p in places
    )


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
        latest = f"{_shown(one['metric'], values[-1])} {one['unit']}"
        step = ""
        if len(values) > 1:
            relative = METRICS[one["metric"]].relative
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
    levels = (
        f"{_shown(one['metric'], change['before'])} to {_shown(one['metric'], change['after'])} {one['unit']}"
    )
    where = f"between {change['last']['commit'][:9]} and {change['first']['commit'][:9]}"
    return f"{'better' if change['better'] else 'worse'} by {_share(one, change).lstrip('+-')} {where} ({levels}, p={change['p']:.2g})"


def _share(one: Json, change: Json) -> str:
    return f"{change['share'] * 100:+.1f}{'%' if METRICS[one['metric']].relative else 'pt'}"


def page(document: Json) -> str:
    """The trends as one HTML file that needs no network."""
    from reports.page import render

    plots = [
        {
            "title": f"{one['subject']}, {one['metric']}",
            "unit": one["unit"],
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
         "order": one["results"][-1]["value"], "latest": f"{_shown(one['metric'], one['results'][-1]['value'])} {one['unit']}",
         "changes": [{"better": c["better"], "text": sentence(one, c)} for c in one["changes"]]}
        for one in document["series"]
    ]  # fmt: skip
    return render(
        "trend",
        plots,
        title=f"Trend of {Path(document['file']).name}",
        file=document["file"],
        rows=rows,
        missing=document["missing"],
    )
