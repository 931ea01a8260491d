"""Intervals over processes, from what all cells of a run say about the machine.

Two or three processes of one cell say little about how much its processes differ. The run's other cells on the same runtime
and host do: their spread joins the cell's own (:func:`bench.stats.process_interval`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from bench import stats
from bench.types import Json, Quantity

LEAST_OTHERS = 2
"""Fewer other cells say nothing about the machine in general."""

Place = tuple[str, str]


def steadied(records: Sequence[Json], found: Sequence[dict[str, Quantity]]) -> list[dict[str, Quantity]]:
    """The cells' metrics with the intervals of those that several processes measured.

    Args:
        records: cells of one run.
        found: their metrics, in the same order.
    """
    values = [process_values(record) for record in records]
    places = [(r["cell"]["runtime"], r["cell"]["host"]) for r in records]
    groups: dict[tuple[Place, str], list[int]] = defaultdict(list)
    for i, named in enumerate(values):
        for name in named:
            groups[places[i], name].append(i)
    result = [dict(metrics) for metrics in found]
    for (_, name), members in groups.items():
        for i in members:
            others = [values[j][name] for j in members if j != i]
            spread = stats.pooled_spread(others) if len(others) >= LEAST_OTHERS else None
            if spread is not None and result[i][name].value:
                within = _within(records[i]) if name == "latency_ms" else 0.0
                result[i][name] = _with(result[i][name], values[i][name], within, spread, len(others))
    for i, metrics in enumerate(result):
        latency = metrics["latency_ms"]
        if "latency_ms" in values[i] and metrics["throughput_ips"].value and latency.low and latency.high:
            images = records[i]["cell"]["batch"] * 1e3
            metrics["throughput_ips"] = replace(
                metrics["throughput_ips"], low=images / latency.high, high=images / latency.low
            )
    return result


def _processes(record: Json) -> Sequence[Json]:
    return (record.get("runtime") or {}).get("processes") or ()


def _within(record: Json) -> float:
    """The relative half-width that the calls of one process give: no interval is narrower than a run of those."""
    return max((p.get("half_width") or 0.0 for p in _processes(record)), default=0.0)


def process_values(record: Json) -> dict[str, list[float]]:
    """Each metric's values in the processes of a cell, where there are several and all of them are known."""
    processes = _processes(record)
    names = dict.fromkeys(name for p in processes for name in p.get("values") or ())
    found = {}
    for name in names:
        values = [v for p in processes if (v := (p.get("values") or {}).get(name)) is not None and v > 0]
        if len(values) == len(processes) > 1:
            found[name] = values
    return found


def _with(
    quantity: Quantity, values: Sequence[float], within: float, spread: stats.Spread, others: int
) -> Quantity:
    value, low, high = stats.process_interval(values, within=within, others=spread)
    own = quantity.value or value
    method = quantity.method
    if stats.NEXT_RUN not in method:
        method += f"; {stats.NEXT_RUN}"
    method += f", with the spread of {others} other cells"
    return replace(quantity, low=own * low / value, high=own * high / value, method=method)
