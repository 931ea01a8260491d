"""The one row model behind every report: a run becomes a list of rows, one per cell.

A row has every metric (missing ones with a reason) and the columns relative to the reference
variant (``manifest["reference"]``, usually the teacher).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import stats
from bench.errors import StoreError
from bench.types import Cell, Json, Provenance, Quantity
from reports.spread import steadied

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.store import RunData

METRICS: dict[str, str] = {
    "latency_ms": "ms",
    "p90_ms": "ms",
    "p95_ms": "ms",
    "p99_ms": "ms",
    "throughput_ips": "images/s",
    "first_call_ms": "ms",
    "load_ms": "ms",
    "memory_mb": "MB",
    "device_memory_mb": "MB",
    "energy_mj": "mJ",
    "size_bytes": "B",
    "macs": "",
    "params": "",
    "accuracy": "",
    "val_accuracy": "",
    "top5": "",
}
"""Every metric of a cell and its unit; ``accuracy`` is of the test set, ``val_accuracy`` of validation."""

RATIOS: dict[str, str] = {
    "x_faster": "latency_ms",
    "x_smaller": "size_bytes",
    "x_less_memory": "memory_mb",
    "x_less_energy": "energy_mj",
}
"""Relative columns: the reference's value divided by the row's, so more than 1 is better."""

CHANGES: dict[str, str] = {"accuracy_change": "test", "val_accuracy_change": "validation"}
"""Relative columns: the row's accuracy minus the reference's on the same images of a split."""

_PREFIX = {"test": "test", "validation": "val"}
_WITHIN = "ratio of medians, interval within one process each (variation between processes not included)"
_FORETOLD = "ratio of two values of which at least one is predicted, as if their errors were independent"
BETWEEN = "ratio of medians over processes, interval of another run's ratio"
_RANK: dict[Provenance | None, int] = {None: 0, "measured": 0, "estimated": 1, "predicted": 2}


@dataclass(frozen=True)
class Row:
    """One cell, ready to print. ``metrics`` has all of METRICS, ``relative`` all of RATIOS and CHANGES."""

    cell: Cell
    status: str
    reason: str
    remedy: str
    metrics: dict[str, Quantity]
    relative: dict[str, Quantity]
    is_reference: bool
    format: str
    record: Json = field(repr=False)
    run: str = ""

    @property
    def setting(self) -> tuple[str, int, int]:
        """(host, batch, threads): rows of one setting can be compared with each other."""
        return self.cell.host, self.cell.batch, self.cell.threads

    @property
    def compared(self) -> dict[str, Quantity]:
        """``relative`` for files of numbers: the reference is not compared with itself."""
        if not self.is_reference:
            return self.relative
        return {
            name: Quantity.missing("the reference itself", quantity.unit)
            if quantity.value is not None
            else quantity
            for name, quantity in self.relative.items()
        }

    @property
    def has_values(self) -> bool:
        """Whether anything worth a line of a table is known: MACs and parameters alone are not."""
        names = ("accuracy", "latency_ms", "size_bytes", "memory_mb", "energy_mj")
        return any(self.metrics[name].value is not None for name in names)


@dataclass(frozen=True)
class Problem:
    """Failures or skips that share one reason. ``subjects`` are labels of cells, variants or artifacts."""

    status: str
    kind: str
    where: str
    reason: str
    remedy: str
    subjects: tuple[str, ...]


class Predictions:
    """Reads the stored predictions of a run, each file once."""

    def __init__(self, run: RunData) -> None:
        self._run = run
        self._cache: dict[tuple[str, str], Any] = {}
        self._changes: dict[tuple[str, str, str], Quantity] = {}

    def _load(self, sha256: str, split: str) -> tuple[NDArray[np.bool_], NDArray[Any]] | str:
        """(which images were right, their labels), or why they cannot be read."""
        import numpy as np

        key = (sha256, split)
        if key not in self._cache:
            try:
                with np.load(self._run.object_path(sha256), allow_pickle=False) as archive:
                    truth = archive[f"{_PREFIX[split]}_true"]
                    self._cache[key] = (archive[f"{_PREFIX[split]}_pred"] == truth, truth)
            except (StoreError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
                self._cache[key] = f"the stored predictions cannot be read ({type(error).__name__})"
        return self._cache[key]  # type: ignore[no-any-return]

    def change(self, base: Json, other: Json, split: str) -> Quantity:
        """Accuracy of cell record ``other`` minus ``base`` on the same images of ``split`` (a fraction)."""
        names = (base.get("predictions"), other.get("predictions"))
        if not all(names):
            whose = "the reference" if not names[0] else "this cell"
            return Quantity.missing(f"no predictions were stored for {whose}")
        key = (str(names[0]), str(names[1]), split)
        if key not in self._changes:  # batch sizes and thread counts share predictions
            self._changes[key] = self._compare(*key)
        return self._changes[key]

    def _compare(self, base: str, other: str, split: str) -> Quantity:
        left, right = self._load(base, split), self._load(other, split)
        if isinstance(left, str):
            return Quantity.missing(left)
        if isinstance(right, str):
            return Quantity.missing(right)
        if left[1].shape != right[1].shape or (left[1] != right[1]).any():
            return Quantity.missing("the two were tested on different images")
        if not left[1].size:
            return Quantity.missing(f"no {split} images")
        difference, low, high, p = stats.paired_accuracy(left[0], right[0])
        return Quantity(
            difference,
            "fraction",
            low=low,
            high=high,
            n=int(left[1].size),
            provenance="measured",
            method=f"paired on {split} images, Agresti-Min interval, exact McNemar p={p:.3g}",
        )


def weakest(*quantities: Quantity) -> Provenance:
    """The provenance of something derived from several values: that of the least certain one."""
    found = max((q.provenance for q in quantities), key=lambda p: _RANK[p])
    return found or "measured"


def alike(base: Json, other: Json) -> float | None:
    """Half-width (a logarithm) of the ratio of two latencies predicted for one device and runtime; None for all others."""
    both = [record.get("prediction") or {} for record in (base, other)]
    if any("alike" not in p for p in both) or any(
        base["cell"][key] != other["cell"][key] for key in ("host", "runtime")
    ):
        return None
    apart = (base["cell"]["precision"] == "int8") != (other["cell"]["precision"] == "int8")
    return None if apart else max(float(p["alike"]) for p in both)


def ratio(base: Quantity, other: Quantity, method: str = "", shared: float | None = None) -> Quantity:
    """``base / other`` with an interval where both have one; missing (with the reason) where one is.

    ``shared``: see :func:`alike`; two predictions that share their errors have a narrower ratio than their intervals say.

    Without a ``method`` it is a ratio of latencies: BETWEEN when both intervals cover the differences between processes.
    """
    between = stats.NEXT_RUN in base.method and stats.NEXT_RUN in other.method
    foretold = "predicted" in (base.provenance, other.provenance)
    method = method or (BETWEEN if between else _FORETOLD if foretold else _WITHIN)
    for who, quantity in (("the reference's value", base), ("the value", other)):
        if quantity.value is None:
            return Quantity.missing(f"{who} is missing: {quantity.reason or 'not recorded'}")
        if quantity.value <= 0:
            return Quantity.missing(f"{who} is not positive")
    if shared is not None and base.value and other.value:
        value, reach = base.value / other.value, math.exp(shared)
        method = "ratio of two predictions for one device; 90% interval"
        return Quantity(value, "x", value / reach, value * reach, None, "predicted", method)
    triples = [_triple(base), _triple(other)]
    if triples[0] is None or triples[1] is None:
        value, low, high = base.value / other.value, None, None  # type: ignore[operator]
    else:
        value, low, high = stats.ratio_interval(triples[0], triples[1])
    return Quantity(value, "x", low, high, other.n, weakest(base, other), method)


def _triple(quantity: Quantity) -> tuple[float, float, float] | None:
    value, low, high = quantity.value, quantity.low, quantity.high
    if value is None or low is None or high is None or low <= 0:
        return None
    return value, low, high


def _quantities(record: Json) -> dict[str, Quantity]:
    metrics = record.get("metrics") or {}
    reason = record.get("reason") or "not recorded"
    return {
        name: Quantity.from_json(metrics[name]) if metrics.get(name) else Quantity.missing(reason, unit)
        for name, unit in METRICS.items()
    }


Known = tuple[Json, dict[str, Quantity]]
"""A cell's record and its metrics."""


def _known(cells: Iterable[Known], metric: str) -> Known | None:
    """The first cell that has a value for ``metric``; fp32 before any other precision."""
    having = [c for c in cells if c[1][metric].value is not None]
    return min(having, key=lambda c: c[0]["cell"]["precision"] != "fp32", default=None)


class _Reference:
    """Finds the cell of the reference variant that another cell is compared with."""

    def __init__(self, run: RunData, found: list[dict[str, Quantity]]) -> None:
        self.name = str(run.manifest.get("reference", ""))
        pairs = zip(run.cells, found, strict=True)
        self.cells = [(r, q) for r, q in pairs if r["cell"]["variant"] == self.name]

    def like(self, cell: Json, metric: str) -> Known | None:
        """The reference at the same runtime, batch, threads and host."""
        keys = ("runtime", "batch", "threads", "host")
        return _known([c for c in self.cells if all(c[0]["cell"][k] == cell[k] for k in keys)], metric)

    def loosely(self, cell: Json, metric: str) -> Known | None:
        """As :meth:`like`; else the same runtime; else the same host; else any cell of the reference."""
        near = [c for c in self.cells if c[0]["cell"]["runtime"] == cell["runtime"]]
        here = [c for c in self.cells if c[0]["cell"]["host"] == cell["host"]]
        return (
            self.like(cell, metric)
            or _known(near, metric)
            or _known(here, metric)
            or _known(self.cells, metric)
        )


def _relative(
    record: Json, metrics: dict[str, Quantity], reference: _Reference, read: Predictions
) -> dict[str, Quantity]:
    cell, columns = record["cell"], {}
    where = f"{cell['runtime']}, batch {cell['batch']}, {cell['threads']} threads on {cell['host']}"
    for name, metric in RATIOS.items():
        find = reference.loosely if metric == "size_bytes" else reference.like
        base = find(cell, metric)
        if metrics[metric].value is None:
            columns[name] = Quantity.missing(metrics[metric].reason or "not recorded", "x")
        elif base is None:
            columns[name] = Quantity.missing(
                f"the reference {reference.name} has no {metric} at {where}", "x"
            )
        else:
            method = "" if metric == "latency_ms" else "ratio of values"
            shared = alike(base[0], record) if metric == "latency_ms" else None
            columns[name] = ratio(base[1][metric], metrics[metric], method, shared)
    for name, split in CHANGES.items():
        metric = "accuracy" if split == "test" else "val_accuracy"
        base = reference.loosely(cell, metric)
        if metrics[metric].value is None:
            columns[name] = Quantity.missing(metrics[metric].reason or "not recorded")
        elif base is None:
            columns[name] = Quantity.missing(f"the reference {reference.name} has no accuracy")
        else:
            columns[name] = read.change(base[0], record, split)
    return columns


def rows_of(runs: Sequence[RunData]) -> list[list[Row]]:
    """The rows of each run, which have the name of its directory, or its whole path where two have the same name."""
    names = [run.path.name for run in runs]
    return [
        rows(run, name if names.count(name) == 1 else str(run.path))
        for run, name in zip(runs, names, strict=True)
    ]


def rows(run: RunData, name: str = "") -> list[Row]:
    """One row per cell of ``run``: by host, batch and threads, then runtime, then in the recipe's order.

    Latency, memory and energy are compared with the reference at the same runtime, batch, threads and
    host only. Size and accuracy fall back to the reference on any other runtime where that one is missing.
    """
    found = steadied(run.cells, [_quantities(record) for record in run.cells])
    reference, read = _Reference(run, found), Predictions(run)
    order = {name: place for place, name in enumerate(run.variants)}
    result = []
    for record, metrics in zip(run.cells, found, strict=True):
        artifact = run.artifacts.get(record.get("artifact") or "") or {}
        result.append(
            Row(
                cell=Cell(**record["cell"]),
                status=record["status"],
                reason=record.get("reason") or "",
                remedy=record.get("remedy") or "",
                metrics=metrics,
                relative=_relative(record, metrics, reference, read),
                is_reference=record["cell"]["variant"] == reference.name,
                format=artifact.get("format", ""),
                record=record,
                run=name,
            )
        )
    local_first = {"local": 0}
    return sorted(
        result,
        key=lambda r: (
            local_first.get(r.cell.host, 1),
            *r.setting,
            r.cell.runtime,
            not r.is_reference,
            order.get(r.cell.variant, len(order)),
            r.cell.precision,
        ),
    )


def by_setting(items: list[Row]) -> dict[tuple[str, int, int], list[Row]]:
    """Rows by (host, batch, threads), in order."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in items:
        groups.setdefault(row.setting, []).append(row)
    return groups


def setting_title(setting: tuple[str, int, int]) -> str:
    """``local, batch 1, 1 thread``."""
    host, batch, threads = setting
    return f"{host}, batch {batch}, {threads} thread{'s' if threads != 1 else ''}"


def pareto(items: list[Row], cost: str = "latency_ms", gain: str = "accuracy") -> list[Row]:
    """The rows that no other row beats on both ``cost`` (less) and ``gain`` (more), cheapest first."""
    points = [
        (row.metrics[cost].value, -(row.metrics[gain].value or 0.0), place, row)
        for place, row in enumerate(items)
        if row.metrics[cost].value is not None and row.metrics[gain].value is not None
    ]
    front: list[Row] = []
    best = 1.0
    for _, negative, _, row in sorted(points, key=lambda p: p[:3]):
        if negative < best:
            front.append(row)
            best = negative
    return front


def problems(run: RunData, items: list[Row]) -> list[Problem]:
    """Failures first, then skips, of variants, artifacts and cells; those with one reason together."""
    groups: dict[tuple[str, str, str, str, str], list[str]] = {}
    for name, record in run.variants.items():
        if record["status"] != "ok":
            key = (record["status"], "variant", "", record.get("reason") or "no reason recorded", "")
            groups.setdefault(key, []).append(name)
    for record in run.artifacts.values():
        if record["status"] != "ok":
            key = (record["status"], "artifact", "", record.get("reason") or "no reason recorded", "")
            groups.setdefault(key, []).append(f"{record['variant']} as {record['format']}")
    for row in items:
        if row.status != "ok":
            key = (row.status, "cell", row.cell.host, row.reason or "no reason recorded", row.remedy)
            groups.setdefault(key, []).append(row.cell.label)
    found = [Problem(s, k, w, why, todo, tuple(names)) for (s, k, w, why, todo), names in groups.items()]
    return sorted(found, key=lambda p: (p.status != "failed", ("variant", "artifact", "cell").index(p.kind)))
