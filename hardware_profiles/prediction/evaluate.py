"""How wrong predictions are: every row is predicted by a fit that has not seen its family, its source or its device.

Beside each stand two baselines on the same folds: MACs alone, and MACs, activations and parameters (non-negative least
squares of relative errors; Lawson and Hanson, Solving Least Squares Problems, 1974), per series where it has rows
left, else per runtime with the device's rates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.types import Json
from hardware_profiles.prediction import fit
from hardware_profiles.prediction.calibrate import Entry, Maker, device, profile_name
from hardware_profiles.prediction.fit import Fitted, Kind, Result, Sample
from hardware_profiles.prediction.graph import Graph
from hardware_profiles.prediction.kinds import KINDS
from hardware_profiles.prediction.published import Series
from hardware_profiles.prediction.rates import rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MANY = 12
"""Different nets of a series that is judged on its own."""
STATED, MOST = 0.90, 0.95
ENOUGH = 30
"""Rows that a runtime must have for a width of its own."""
BASELINES = ("macs", "macs_activations_parameters")
FOLDS: dict[str, Callable[[Series, Entry], str]] = {
    "family": lambda series, entry: entry.family,
    "source": lambda series, entry: entry.source,
    "device": lambda series, entry: profile_name(series.device),
}
"""What is left out together, and how rows are told apart by it."""


@dataclass
class Held:
    """Rows of a series that were predicted without them: logarithms of ratios, and of the model its standard deviations."""

    series: Series
    kind: str
    group: str
    entries: list[Entry]
    folds: list[str]
    error: Floats
    deviation: Floats
    baselines: dict[str, Floats]
    predicted: Floats
    calibrated: bool


def hold_out(
    table: Mapping[Series, Sequence[Entry]],
    maker: Maker,
    by: str,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Held]:
    """Predict every row by fits that have not seen what it shares with others ``by`` family, source or device."""
    import numpy as np

    fold_of = FOLDS[by]
    samples = {s: maker.sample(s, entries) for s, entries in table.items()}
    folds = {s: [fold_of(s, e) for e in entries] for s, entries in table.items() if samples[s] is not None}
    held = {s: _empty(s, samples[s], list(table[s]), folds[s]) for s in folds}
    names = sorted({f for values in folds.values() for f in values})
    for done, name in enumerate(names):
        progress(done, len(names))
        out = {s: np.array([f == name for f in values]) for s, values in folds.items()}
        touched = [s for s in folds if out[s].any()]
        kinds = {held[s].kind for s in touched}
        rest: dict[object, Sample] = {}
        for s in folds:
            if held[s].kind in kinds and not out[s].all():
                rest[s] = _part(samples[s], ~out[s], table[s], maker.kinds)
        result = fit.fit(rest, maker.kinds)
        for s in touched:
            _judge(held[s], samples[s], out[s], result, maker, rest)
    return [h for h in held.values() if np.isfinite(h.error).any()]


def _empty(series: Series, sample: Sample | None, entries: list[Entry], folds: list[str]) -> Held:
    import numpy as np

    assert sample is not None
    nothing = np.full(len(entries), np.nan)
    baselines = {name: nothing.copy() for name in BASELINES}
    return Held(
        series,
        sample.kind,
        sample.group,
        entries,
        folds,
        nothing.copy(),
        nothing.copy(),
        baselines,
        nothing.copy(),
        True,
    )


def _part(
    sample: Sample | None, keep: NDArray[np.bool_], entries: Sequence[Entry], kinds: Mapping[str, Kind]
) -> Sample:
    """A sample with some of its rows, weighted anew."""
    assert sample is not None
    families = [e.family for e, k in zip(entries, keep, strict=True) if k]
    return replace(
        sample,
        amounts=sample.amounts[keep],
        log_ms=sample.log_ms[keep],
        versions=sample.versions[keep],
        weights=fit.crowd_weights(families, kinds[sample.kind].crowd),
    )


def _judge(
    held: Held, sample: Sample | None, out: NDArray[np.bool_], result: Result, maker: Maker, rest: Mapping[object, Sample]
) -> None:  # fmt: skip
    """Fill in the predictions of the rows that were left out."""
    import numpy as np

    assert sample is not None
    kind = maker.kinds[held.kind]
    own = result.series.get(held.series)
    known = own or Fitted(
        result.groups.get(sample.group, result.kinds[held.kind]) + sample.offset, fit.spread(kind)
    )
    held.calibrated = held.calibrated and own is not None
    times = sample.amounts[out] * np.exp(known.theta)
    shares = times / times.sum(1, keepdims=True)
    predicted = np.log(times.sum(1))
    if known.versions is not None:
        predicted = predicted + sample.versions[out] @ known.versions
    held.predicted[out] = predicted
    held.error[out] = predicted - sample.log_ms[out]
    # A profile stores deviations, not covariances: its intervals are judged as they will be made.
    covariance = known.covariance if own is None else np.diag(np.diag(known.covariance))
    variance = np.einsum("ij,jk,ik->i", shares, covariance, shares)
    held.deviation[out] = np.sqrt(variance + kind.noise**2)
    for name, width in zip(BASELINES, (1, 3), strict=True):
        held.baselines[name][out] = _baseline(held, sample, out, width, maker, rest) - sample.log_ms[out]


def _simple(graph: Graph, batch: int) -> list[float]:
    return [graph.macs * batch / 1e9, graph.activations * batch / 1e6, graph.params / 1e6]


def _baseline(
    held: Held, sample: Sample, out: NDArray[np.bool_], width: int, maker: Maker, rest: Mapping[object, Sample]
) -> Floats:  # fmt: skip
    """Logarithms of the times that a baseline predicts for the rows that were left out."""
    import numpy as np
    from scipy.optimize import nnls

    counts = np.array([_simple(maker.graphs[e.model, e.size], e.batch)[:width] for e in held.entries])
    table = np.hstack([counts, np.ones((len(counts), 1))])
    scale = np.zeros(len(table))
    if (~out).sum() >= 2:
        known, ms = table[~out], np.exp(sample.log_ms[~out])
        scale = _version_scale(sample.versions, sample.log_ms, out)
        ms = ms / np.exp(scale[~out])
    else:
        known, ms = _others(held, sample, maker, rest, width)
        table = table * _speed(held.series, width)
        if not len(known):
            return np.full(int(out.sum()), np.nan)
    weights, _ = nnls(known / ms[:, None], np.ones(len(ms)))
    result: Floats = np.log(np.maximum(table[out] @ weights, 1e-9)) + scale[out]
    return result


def _version_scale(versions: Floats, log_ms: Floats, out: NDArray[np.bool_]) -> Floats:
    """How much slower each toolchain version is than all rows that are left: medians of logarithms."""
    import numpy as np

    middle = np.median(log_ms[~out])
    if versions.shape[1] < 2:
        return np.zeros(len(log_ms))
    factors = [
        0.5 * (np.median(log_ms[~out & (column > 0)]) - middle) if (~out & (column > 0)).sum() >= 5 else 0.0
        for column in versions.T
    ]
    result: Floats = versions @ np.array(factors)
    return result


def _speed(series: Series, width: int) -> Floats:
    """Seconds a MAC, an activation and a parameter take at a device's peak rates, for devices without own rows."""
    import numpy as np

    found = rates(device(series.device), series.runtime, series.precision, series.threads, series.mode)
    assert found is not None
    return np.array([*[1 / found.gmacs, 1 / found.gbs, 1 / found.gbs][:width], 1.0])


def _others(
    held: Held, sample: Sample, maker: Maker, rest: Mapping[object, Sample], width: int
) -> tuple[Floats, Floats]:
    """Counts (at the devices' rates) and times of the same runtime on other devices."""
    import numpy as np

    tables, times = [], []
    for key, other in rest.items():
        if other.group == sample.group and isinstance(key, Series) and key in maker.rows:
            counts = np.array(
                [_simple(maker.graphs[e.model, e.size], e.batch)[:width] for e in maker.rows[key]]
            )
            tables.append(np.hstack([counts, np.ones((len(counts), 1))]) * _speed(key, width))
            times.append(np.array([e.ms for e in maker.rows[key]]))
    if not tables:
        return np.zeros((0, width + 1)), np.zeros(0)
    return np.vstack(tables), np.concatenate(times)


# --- figures


def quantiles(held: Iterable[Held], without: str | None = None) -> dict[str, float]:
    """Standard deviations that hold 90% of the rows, by runtime and by kind of processor; runtimes with few rows have none.

    What is left out is alike in itself, so the folds count, not the rows: with n of them the quantile is that of
    0.9 (n + 1) / n (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005: conformal prediction), at most
    0.95, or the one worst row of a few folds would speak for all.
    ``without``: a fold whose rows do not count.
    """
    import numpy as np

    found: dict[str, list[float]] = defaultdict(list)
    folds: dict[str, set[str]] = defaultdict(set)
    for h in held:
        scaled = np.abs(h.error) / h.deviation
        for fold, z in zip(h.folds, scaled, strict=True):
            if np.isfinite(z) and fold != without:
                for name in (h.kind, h.group):
                    found[name].append(float(z))
                    folds[name].add(fold)
    return {
        name: float(np.quantile(values, min(MOST, STATED * (1 + 1 / len(folds[name])))))
        for name, values in found.items()
        if len(values) >= ENOUGH or name in KINDS
    }


def ratios(held: Iterable[Held]) -> dict[str, float]:
    """By how much (a logarithm) the ratio of two nets on one device is wrong, 90% of the time: what a device's errors have in
    common cancels. By runtime and by kind of processor, mean over series."""
    import numpy as np

    found: dict[str, list[float]] = defaultdict(list)
    for h in held:
        errors = h.error[np.isfinite(h.error)]
        if len(errors) >= 4:
            apart = np.abs(errors[:, None] - errors[None, :])[np.triu_indices(len(errors), 1)]
            for name in (h.kind, h.group):
                found[name].append(float(np.quantile(apart, STATED)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def inside(held: Sequence[Held]) -> dict[Series, Floats]:
    """Which rows lie in their 90% interval, whose width was set on all other folds; NaN where there is no prediction."""
    import numpy as np

    widths = {fold: quantiles(held, fold) for fold in sorted({f for h in held for f in h.folds})}

    def hit(h: Held, fold: str, error: float, deviation: float) -> float:
        known = widths[fold]
        width = known.get(h.group, known.get(h.kind, 2.0))
        return float(abs(error) <= width * deviation) if np.isfinite(error) else np.nan

    return {
        h.series: np.array([hit(h, *row) for row in zip(h.folds, h.error, h.deviation, strict=True)])
        for h in held
    }


def figures(h: Held, hits: Floats) -> Json:
    """The figures of one series."""
    import numpy as np
    from scipy.stats import spearmanr

    good = np.isfinite(h.error)
    ape = np.abs(np.expm1(h.error[good]))
    truth = h.predicted[good] - h.error[good]
    nets = len({(e.model, e.size) for e, g in zip(h.entries, good, strict=True) if g})
    models = len({e.model for e, g in zip(h.entries, good, strict=True) if g})
    rank = float(spearmanr(h.predicted[good], truth)[0]) if nets >= 3 else None
    found: Json = {
        "device": h.series.device, "runtime": h.series.runtime, "precision": h.series.precision,
        "threads": h.series.threads, "power_mode": h.series.mode, "kind": h.kind, "rows": int(good.sum()), "nets": nets, "models": models,
        "mape": float(ape.mean()), "median_ape": float(np.median(ape)), "bias": float(np.mean(h.error[good])),
        "within_10": float((ape <= 0.1).mean()), "within_20": float((ape <= 0.2).mean()),
        "spearman": rank, "coverage": float(np.nanmean(hits)),
    }  # fmt: skip
    for name in BASELINES:
        errors = np.abs(np.expm1(h.baselines[name][good]))
        whole = bool(np.isfinite(errors).all())
        found[name] = {
            "mape": float(errors.mean()) if whole else None,
            "median_ape": float(np.median(errors)) if whole else None,
        }
    return found


def worst(held: Iterable[Held], count: int = 3) -> list[Json]:
    """The rows that are most wrong, one a net and runtime."""
    import numpy as np

    def every() -> Iterator[tuple[float, Held, Entry]]:
        for h in held:
            for error, entry in zip(h.error, h.entries, strict=True):
                if np.isfinite(error):
                    yield float(error), h, entry

    found: list[Json] = []
    seen = set()
    for error, h, entry in sorted(every(), key=lambda t: -abs(t[0])):
        if (entry.model, h.series.runtime) not in seen and len(found) < count:
            seen.add((entry.model, h.series.runtime))
            found.append(
                {"series": str(h.series), "model": entry.model, "size": entry.size, "batch": entry.batch,
                 "measured_ms": entry.ms, "predicted_ms": entry.ms * float(np.exp(error)), "source": entry.source}
            )  # fmt: skip
    return found


def summary(rows: Sequence[Json]) -> Json:
    """The mean of the series' figures, each series once; coverage over all rows."""
    import numpy as np

    def over(key: str, of: Sequence[Json] = rows) -> float | None:
        values = [r[key] for r in of if r[key] is not None]
        return float(np.mean(values)) if values else None

    total = sum(r["rows"] for r in rows)
    found: Json = {
        "series": len(rows),
        "rows": total,
        **{k: over(k) for k in ("mape", "median_ape", "within_10", "within_20", "spearman")},
        "coverage": sum(r["coverage"] * r["rows"] for r in rows) / total if total else None,
    }
    for name in BASELINES:
        values = [r[name] for r in rows if r[name]["mape"] is not None]
        found[name] = {k: over(k, values) for k in ("mape", "median_ape")}
    return found
