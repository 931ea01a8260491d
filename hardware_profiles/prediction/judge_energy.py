"""How wrong predicted energies are: published joules of single images against power times predicted latency, family held out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from bench.types import Json
from hardware_profiles.prediction import published
from hardware_profiles.prediction.calibrate import device, threads_of
from hardware_profiles.prediction.evaluate import Held
from hardware_profiles.prediction.published import Series
from hardware_profiles.prediction.zoo import family

Key = tuple[Series, str, str, int]
"""Series, toolchain version, net and input size."""


def judge_energy(path: Path, held: Sequence[Held]) -> Json:
    """Rows, median and mean absolute relative error of energies, and of the power alone, over boards whose power was published.

    The power of a board, unit, precision and mode is the mean over the other families' rows.
    """
    import numpy as np

    joules, watts = (_values(path, metric) for metric in ("energy_j", "power_w"))
    found: list[tuple[float, float]] = []
    for h in held:
        own = [(k, w) for k, w in watts.items() if _alike(k[0], h.series)]
        for entry, predicted in zip(h.entries, h.predicted, strict=True):
            key = (h.series, entry.version, entry.model, entry.size)
            others = [w for k, w in own if family(k[2]) != entry.family]
            if entry.batch != 1 or key not in joules or not others or not np.isfinite(predicted):
                continue
            power = mean(others)
            energy = power * float(np.exp(predicted)) / 1000.0
            found.append(
                (abs(energy / joules[key] - 1), abs(power / watts[key] - 1) if key in watts else 0.0)
            )
    if not found:
        return {"rows": 0, "median_ape": None, "mape": None, "power_mape": None}
    errors = [e for e, _ in found]
    return {
        "rows": len(found),
        "median_ape": median(errors),
        "mape": mean(errors),
        "power_mape": mean(p for _, p in found),
    }


def _alike(one: Series, other: Series) -> bool:
    """Of one board, unit, precision and power mode: what one power is stored for."""
    return (one.device, one.precision, one.mode) == (other.device, other.precision, other.mode)


def _values(path: Path, metric: str) -> dict[Key, float]:
    """The published values of a metric of single images; the mean where a run was repeated."""
    table = [
        e | {"metric": "latency_ms"}
        for e in published.entries(path)
        if e["metric"] == metric and e["batch"] == "1" and device(e["device_profile"]).kind != "server-gpu"
    ]
    rows, _ = published.rows_of(table)
    values: dict[Key, list[float]] = defaultdict(list)
    for row in rows:
        series = replace(row.series, threads=threads_of(row.series))
        values[series, row.version, row.model, row.size].append(row.ms)
    return {key: mean(numbers) for key, numbers in values.items()}
