"""Tightens a profile with what was measured on a person's own board.

What the profile knows of a series (or what its runtime needs elsewhere) is the prior, widened by how far boards of one
kind are apart; the measured nets move it. Few nets move what they have in common, and intervals stay as wide as is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.types import Json, Profile
from hardware_profiles.prediction import features, fit
from hardware_profiles.prediction.calibrate import numbers
from hardware_profiles.prediction.coefficients import find
from hardware_profiles.prediction.graph import Graph
from hardware_profiles.prediction.rates import kind_of, named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

OWN = "measured on this board"
BETWEEN_BOARDS = 0.25
"""Share of the variance between devices that boards of one model may be apart."""


@dataclass(frozen=True)
class Measured:
    """The latency of one net on the board, milliseconds a call."""

    net: str
    runtime: str
    precision: str
    batch: int
    threads: int
    ms: float


def learn(
    profile: Profile, rows: Iterable[Measured], graphs: Mapping[str, Graph]
) -> tuple[list[Json], list[str]]:
    """The profile's tables ``[[calibration]]`` with what was measured, and a line for each that changed.

    Raises:
        ConfigError: the profile has no facts to start from.
    """
    series: dict[tuple[str, str, int], list[Measured]] = defaultdict(list)
    for row in rows:
        series[named(profile, row.runtime), row.precision, row.threads].append(row)
    tables = {
        (t["runtime"], t["precision"], t.get("threads", 1), t.get("power_mode", "")): t
        for t in profile.calibration
    }
    lines = []
    for (runtime, precision, threads), measured in sorted(series.items()):
        old = tables.get((runtime, precision, threads, ""))
        table, before, after = _fitted(profile, runtime, precision, threads, measured, graphs, old)
        tables[runtime, precision, threads, ""] = table
        lines.append(
            f"{runtime} {precision}, {threads} thread{'s' if threads > 1 else ''}: {len(measured)} measured; median error "
            f"{before:.0%} before, {after:.0%} with them"
        )
    return list(tables.values()), lines


def _fitted(
    profile: Profile, runtime: str, precision: str, threads: int, measured: Sequence[Measured],
    graphs: Mapping[str, Graph], old: Json | None,
) -> tuple[Json, float, float]:  # fmt: skip
    import numpy as np

    known = find(profile, runtime, precision, threads)
    kind = known.kind
    wider = known.covariance + BETWEEN_BOARDS * fit.spread(kind)
    amounts = np.array(
        [features.total(graphs[m.net], m.batch, precision, kind.shape, lanes=profile.lanes) for m in measured]
    ) * [term not in kind.absent for term in features.TERMS]
    sample = fit.Sample(
        "", kind_of(profile, runtime), amounts, np.log([m.ms for m in measured]), np.ones((len(measured), 1)),
        np.ones(len(measured)), np.zeros(len(features.TERMS)),
    )  # fmt: skip
    precise: Floats = np.linalg.inv(wider).astype(np.float64)
    found = fit.fit_series(sample, known.theta, precise, kind)
    errors = [
        float(np.median(np.abs(np.expm1(fit.log_predictions(theta, amounts) - sample.log_ms))))
        for theta in (known.theta, found.theta)
    ]
    before = (old or {}).get("nets", 0), (old or {}).get("rows", 0), (old or {}).get("sources", [])
    table: Json = {
        "runtime": runtime, "precision": precision, "threads": threads,
        "nets": before[0] + len({m.net for m in measured}), "rows": before[1] + len(measured),
        "error": max(float(f"{errors[1]:.2g}"), 1e-4), "sources": [*(s for s in before[2] if s != OWN), OWN],
        "coefficients": numbers(np.exp(found.theta), kind, 4),
        "deviations": numbers(np.sqrt(np.diag(found.covariance)), kind, 2),
    }  # fmt: skip
    return table, errors[0], errors[1]
