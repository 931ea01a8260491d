"""Fits the coefficients of :mod:`hardware_profiles.prediction.features` to measured latencies, sharing between devices.

``latency = sum(exp(theta) * amounts)``, fitted to log latencies. The coefficients of a series (device x runtime x
precision x threads x mode) scatter around those of its runtime, divided by what its device can do
(:mod:`hardware_profiles.prediction.rates`); those of runtimes scatter around those of the kind of processor. Both
levels and every series are found together: maximum a posteriori of a hierarchical normal model (Gelman et al.,
Bayesian Data Analysis, 3rd ed., chapters 5 and 15) by coordinate descent, each series by Gauss-Newton with Huber's
loss (Huber, Annals of Mathematical Statistics 35, 1964), so that the result is the same on every run. A series that
has few rows, or none, stays near its runtime's coefficients, and its interval says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hardware_profiles.prediction.features import MEMORY, OVERHEAD, TERMS, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SWEEPS = 6
HUBER = 2.0
"""Standard deviations beyond which a row counts linearly."""


@dataclass(frozen=True)
class Kind:
    """A kind of processor: how shapes count on it, and how much coefficients scatter (standard deviations of logarithms).

    ``start``: coefficients in the units of TERMS where nothing is known, for a device of 1 GMAC/s and 1 GB/s.
    ``own``, ``gathering``, ``bytes``, ``overhead``: of single coefficients of a series around its runtime's; ``together``: of
    all compute, memory and overhead coefficients of a series at once, which is how far a device is from its facts.
    ``runtime``: of a runtime's coefficients around the kind's, ``level``: of all of them at once. ``version``: of a toolchain
    version. ``noise``: of one row. ``launches``: with which power of the compute rate launches get cheaper. ``crowd``: by which
    power of its rows a family's weight falls. ``absent``: terms that this kind does not have.
    """

    shape: Shape
    start: Mapping[str, float]
    own: float = 0.4
    gathering: float = 0.6
    bytes: float = 0.5
    overhead: float = 0.6
    together: tuple[float, float, float] = (0.5, 0.5, 0.8)
    runtime: float = 0.7
    level: float = 0.8
    version: float = 0.3
    noise: float = 0.1
    launches: float = 0.3
    crowd: float = 0.0
    absent: frozenset[str] = frozenset()


@dataclass
class Sample:
    """The rows of one series: ``amounts`` (n x TERMS), ``log_ms`` (n), ``versions`` (n x versions, one-hot), ``weights`` (n).

    ``offset``: what the device's facts add to the logarithm of each coefficient.
    """

    group: str
    kind: str
    amounts: Floats
    log_ms: Floats
    versions: Floats
    weights: Floats
    offset: Floats


@dataclass
class Fitted:
    """Logarithms of coefficients with their covariance; ``versions`` are a series' factors of its toolchain versions."""

    theta: Floats
    covariance: Floats
    versions: Floats | None = None


@dataclass
class Result:
    series: dict[object, Fitted] = field(default_factory=dict)
    groups: dict[str, Floats] = field(default_factory=dict)
    kinds: dict[str, Floats] = field(default_factory=dict)


def blocks() -> Floats:
    """Membership of each term in compute, memory and overhead (TERMS x 3)."""
    import numpy as np

    table = np.zeros((len(TERMS), 3))
    for i, name in enumerate(TERMS):
        table[i, 1 if name in MEMORY else 2 if name in OVERHEAD else 0] = 1.0
    return table


def spread(kind: Kind) -> Floats:
    """Covariance of a series' coefficients around its runtime's."""
    import numpy as np

    single = np.full(len(TERMS), kind.own)
    for i, name in enumerate(TERMS):
        if name in ("gather", "smooth"):
            single[i] = kind.gathering
        elif name in MEMORY:
            single[i] = kind.bytes
        elif name in OVERHEAD:
            single[i] = kind.overhead
    member = blocks()
    result: Floats = np.diag(single**2) + member @ np.diag(np.square(kind.together)) @ member.T
    return result


def fit_series(sample: Sample, mean: Floats, precision: Floats, kind: Kind, start: Floats | None = None,
               most: int = 12) -> Fitted:  # fmt: skip
    """Coefficients of one series given those of its runtime (``mean``, already for this device)."""
    import numpy as np

    terms, versions = len(mean), sample.versions.shape[1]
    extra = versions if versions > 1 else 0
    centre = np.concatenate([mean, np.zeros(extra)])
    prior = np.zeros((terms + extra, terms + extra))
    prior[:terms, :terms] = precision
    prior[terms:, terms:] = np.eye(extra) / kind.version**2
    theta = centre.copy() if start is None else start.copy()
    damping = 1e-3

    def loss(at: Floats) -> tuple[float, Floats]:
        error = np.log(sample.amounts @ np.exp(at[:terms])) - sample.log_ms
        if extra:
            error = error + sample.versions @ at[terms:]
        scaled = np.abs(error) / kind.noise
        rho = np.where(scaled < HUBER, scaled**2, 2 * HUBER * scaled - HUBER**2)
        away = at - centre
        return float((sample.weights * rho).sum() + away @ prior @ away), error

    value, error = loss(theta)
    normal = prior
    for _ in range(most):
        share = sample.amounts * np.exp(theta[:terms])
        slope = share / share.sum(1, keepdims=True)
        if extra:
            slope = np.hstack([slope, sample.versions])
        robust = np.minimum(1.0, HUBER * kind.noise / np.maximum(np.abs(error), 1e-9))
        weight = sample.weights * robust / kind.noise**2
        normal = (slope * weight[:, None]).T @ slope + prior
        gradient = (slope * weight[:, None]).T @ error + prior @ (theta - centre)
        before = value
        while True:
            step = np.clip(np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -gradient), -1.5, 1.5)
            value, trial = loss(theta + step)
            if value <= before or damping > 1e8:
                break
            damping *= 5
        theta, error, damping = theta + step, trial, max(damping / 5, 1e-6)
        if before - value < 1e-4 * max(before, 1.0):
            break
    covariance: Floats = np.linalg.inv(normal)[:terms, :terms].astype(np.float64)
    return Fitted(theta[:terms], covariance, theta[terms:] if extra else None)


def starting(kind: Kind) -> Floats:
    """Logarithms of the coefficients of a kind of processor before any measurement."""
    import numpy as np

    result: Floats = np.log(
        [kind.start.get(term, 1.0) if term not in kind.absent else 1e-9 for term in TERMS]
    )
    return result


def fit(samples: Mapping[object, Sample], kinds: Mapping[str, Kind]) -> Result:
    """All series of all runtimes at once. A kind of processor without any row keeps the coefficients it starts from."""
    import numpy as np

    result = Result(kinds={name: starting(kind) for name, kind in kinds.items()})
    by_kind: dict[str, dict[str, list[object]]] = defaultdict(lambda: defaultdict(list))
    # in one order whatever the mapping's: sums of floats depend on it
    for key, sample in sorted(samples.items(), key=lambda item: str(item[0])):
        by_kind[sample.kind][sample.group].append(key)
    for name, groups in sorted(by_kind.items()):
        kind = kinds[name]
        start = starting(kind)
        centre, means = start.copy(), {group: start.copy() for group in groups}
        within: Floats = np.linalg.inv(spread(kind)).astype(np.float64)
        member = blocks()
        between = np.linalg.inv(
            np.diag(np.full(len(TERMS), kind.runtime**2)) + kind.level**2 * member @ member.T
        )
        broad = np.diag(np.full(len(TERMS), 1 / 0.7**2))
        for sweep in range(SWEEPS):
            for group, keys in sorted(groups.items()):
                gathered = np.zeros(len(TERMS))
                for key in keys:
                    sample = samples[key]
                    known = result.series.get(key)
                    at = None
                    if known is not None:
                        at = (
                            known.theta
                            if known.versions is None
                            else np.concatenate([known.theta, known.versions])
                        )
                    fitted = fit_series(
                        sample, means[group] + sample.offset, within, kind, at, 6 if sweep else 12
                    )
                    result.series[key] = fitted
                    gathered += fitted.theta - sample.offset
                means[group] = np.linalg.solve(
                    within * len(keys) + between, within @ gathered + between @ centre
                ).astype(np.float64)
            total = sum(means.values(), np.zeros(len(TERMS)))
            centre = np.linalg.solve(between * len(means) + broad, between @ total + broad @ start)
        result.groups |= means
        result.kinds[name] = centre
    return result


def crowd_weights(families: Sequence[str], power: float) -> Floats:
    """Weights that keep a family with many rows from speaking for all: its share to the power of ``-power``, mean 1."""
    import numpy as np

    counts = {f: families.count(f) for f in set(families)}
    weights = np.array([counts[f] ** -power for f in families], dtype=float)
    result: Floats = weights / weights.mean() if len(weights) else weights
    return result


def log_predictions(theta: Floats, amounts: Floats) -> Floats:
    import numpy as np

    result: Floats = np.log(amounts @ np.exp(theta))
    return result
