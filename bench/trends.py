"""The history as a document: each series with its latest results and the changes of its level, which are looked for once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import history
from bench.errors import MissingError
from bench.gate.thresholds import METRICS
from bench.history import Change, Result, Series
from bench.types import SCHEMA, Json, to_json

VERSION = 1
"""Of the way changes are found: what was found otherwise is found anew."""
CACHE = "~/.cache/edgefit/changes"


def to_document(path: Path, metrics: Sequence[str], match: str, last: int) -> Json:
    """``series``: subject, metric, machine, the ``last`` results and the changes of level among all of them.

    ``least``: fewer results of a series have no change; ``missing``: why none was looked for.

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
            "relative": METRICS[series.metric].relative,
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
        "least": 2 * history.LEAST,
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
        text = f"{VERSION} {series.metric} {[r.value for r in results]}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        places: Any = self._known.get(key)
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
