"""From measurements to coefficients: published rows, or a person's own runs, fitted and written into profiles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean, median, pstdev
from typing import TYPE_CHECKING

from bench.errors import MissingError
from bench.types import Fact, Json, Profile
from hardware_profiles import load
from hardware_profiles.prediction import features, fit, published
from hardware_profiles.prediction.coefficients import group_of, offset
from hardware_profiles.prediction.fit import Fitted, Kind, Sample
from hardware_profiles.prediction.graph import Graph
from hardware_profiles.prediction.kinds import KINDS
from hardware_profiles.prediction.published import Row, Series
from hardware_profiles.prediction.rates import clusters, kind_of, number, rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Graphs = Mapping[tuple[str, int], Graph]
"""Graphs of nets by canonical name and input size."""
Progress = Callable[[int, int], None]
"""(done, of)."""
LEAST = 1
"""Different nets that a series must have before it gives a device coefficients of its own."""


@cache
def device(name: str) -> Profile:
    """The profile of a device of the table of published measurements."""
    if name in published.FACTS:
        kind, cpu, bandwidth = published.FACTS[name]
        facts = {"cpu": Fact(cpu, "published"), "memory_bw_gbs": Fact(bandwidth, "published")}
        return Profile(name, name, kind, (), facts=facts)
    return load.load(profile_name(name))


def profile_name(name: str) -> str:
    """The name of the profile that a device of the table belongs to."""
    known = published.PROFILES.get(name, name)
    return known.removesuffix("-cpu") if known not in published.PROFILES.values() else known


def threads_of(series: Series) -> int:
    """Threads of a series; all cores of the device where it does not say."""
    if series.threads:
        return series.threads
    profile = device(series.device)
    cores = clusters(profile.facts["cpu"].value) if "cpu" in profile.facts else []
    return sum(c.count for c in cores) or int(number(profile.facts, "cpu_cores") or 1)


def rebuild(
    rows: Iterable[Row], progress: Progress = lambda done, of: None
) -> tuple[dict[tuple[str, int], Graph], Counter[str]]:
    """The graphs of the nets that rows name, and how many rows have a net that cannot be rebuilt, by its name.

    Raises:
        MissingError: torch, torchvision or timm is not installed.
    """
    try:
        import timm  # noqa: F401
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except ImportError as error:
        raise MissingError(
            "Rebuilding published nets needs torch, torchvision and timm",
            str(error),
            "pip install 'edgefit[train]'",
        ) from error
    from hardware_profiles.prediction import read_torch, zoo

    needed = Counter((row.model, row.size) for row in rows)
    graphs: dict[tuple[str, int], Graph] = {}
    left: Counter[str] = Counter()
    for done, ((model, size), count) in enumerate(sorted(needed.items())):
        progress(done, len(needed))
        net = zoo.build(model, size)
        if net is None:
            left[model] += count
        else:
            graphs[model, size] = read_torch.read(net, 3, size, size)
    return graphs, left


@dataclass(frozen=True)
class Entry:
    """One distinct measurement of a series: the median of its repetitions."""

    version: str
    model: str
    size: int
    batch: int
    ms: float
    source: str

    @property
    def family(self) -> str:
        from hardware_profiles.prediction import zoo

        return zoo.family(self.model)


def series_of(rows: Iterable[Row], graphs: Graphs) -> dict[Series, list[Entry]]:
    """The measurements of each series whose nets could be rebuilt, repetitions merged."""
    repeated: dict[tuple[Series, str, str, int, int, str], list[float]] = defaultdict(list)
    for row in rows:
        if (row.model, row.size) in graphs:
            series = replace(row.series, threads=threads_of(row.series))
            repeated[series, row.version, row.model, row.size, row.batch, row.source].append(row.ms)
    found: dict[Series, list[Entry]] = defaultdict(list)
    for (series, version, model, size, batch, source), times in repeated.items():
        found[series].append(Entry(version, model, size, batch, median(times), source))
    return dict(found)


class Maker:
    """Makes the samples of a fit from entries; keeps what it has counted in graphs."""

    def __init__(self, graphs: Graphs, kinds: Mapping[str, Kind] = KINDS) -> None:
        self.graphs, self.kinds = graphs, kinds
        self.rows: dict[Series, Sequence[Entry]] = {}
        self.seen: dict[tuple[object, ...], Floats] = {}

    def amounts(self, series: Series, kind: Kind, entry: Entry) -> Floats:
        from hardware_profiles.predict import ON_CHIP_MB

        chip = ON_CHIP_MB.get(device(series.device).kind, 0.0) * 1e6
        key = (entry.model, entry.size, entry.batch, series.precision, kind.shape, chip, kind.absent)
        if key not in self.seen:
            found = features.total(
                self.graphs[entry.model, entry.size], entry.batch, series.precision, kind.shape, chip
            )
            self.seen[key] = found * [term not in kind.absent for term in features.TERMS]
        return self.seen[key]

    def sample(self, series: Series, entries: Sequence[Entry]) -> Sample | None:
        """The sample of a series; None where the device's facts give no rate."""
        import numpy as np

        self.rows[series] = entries
        profile = device(series.device)
        name = kind_of(profile, series.runtime)
        kind = self.kinds[name]
        here = rates(profile, series.runtime, series.precision, series.threads, series.mode)
        if here is None:
            return None
        versions = sorted({entry.version for entry in entries})
        return Sample(
            group_of(series.runtime, series.precision),
            name,
            np.array([self.amounts(series, kind, entry) for entry in entries]),
            np.log([entry.ms for entry in entries]),
            np.array([[entry.version == v for v in versions] for entry in entries], dtype=float),
            fit.crowd_weights([entry.family for entry in entries], kind.crowd),
            offset(here, name),
        )

    def samples(self, table: Mapping[Series, Sequence[Entry]]) -> dict[object, Sample]:
        made = {series: self.sample(series, entries) for series, entries in table.items()}
        return {series: sample for series, sample in made.items() if sample is not None}


# --- what is stored


def numbers(values: Floats, kind: Kind, digits: int) -> dict[str, float]:
    """A table of the terms that a kind has, rounded."""
    return {
        term: float(f"{value:.{digits}g}")
        for term, value in zip(features.TERMS, values, strict=True)
        if term not in kind.absent
    }


def calibration(series: Series, entries: Sequence[Entry], fitted: Fitted, sample: Sample) -> Json:
    """A table ``[[calibration]]`` of a profile."""
    import numpy as np

    kind = KINDS[sample.kind]
    error = fit.log_predictions(fitted.theta, sample.amounts) - sample.log_ms
    common = spread = 0.0
    if fitted.versions is not None:
        factors = sample.versions @ fitted.versions
        error = error + factors
        common, spread = float(factors.mean()), float(factors.std())
    found: Json = {"runtime": series.runtime, "precision": series.precision, "threads": series.threads}
    if series.mode:
        found["power_mode"] = series.mode
    found |= {
        "nets": len({(e.model, e.size, e.batch) for e in entries}),
        "rows": len(entries),
        "error": max(float(f"{np.median(np.abs(np.expm1(error))):.2g}"), 1e-4),
    }
    if spread > 0.005:
        found["versions"] = float(f"{spread:.2g}")
    return found | {
        "sources": sorted({e.source for e in entries}),
        "coefficients": numbers(np.exp(fitted.theta + common), kind, 4),
        "deviations": numbers(np.sqrt(np.diag(fitted.covariance)), kind, 2),
    }


def powers(entries: Iterable[Mapping[str, str]]) -> dict[str, list[Json]]:
    """Tables ``[[power]]`` by profile, from the rows of watts; whole servers say nothing of one card and are left out."""
    watts: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    sources: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for entry in entries:
        name = entry["device_profile"]
        if entry["metric"] != "power_w" or not entry["batch"].isdigit() or device(name).kind == "server-gpu":
            continue
        precision = published.PRECISIONS.get(entry["precision"], "")
        mode = published.mode(entry["power_mode"])
        if not precision or " " in mode:  # clocks of one submission, which no mode of ours has
            continue
        on_gpu = device(name).kind == "edge-gpu" and not name.endswith("-cpu")
        key = (profile_name(name), "accelerator" if on_gpu else "cpu", precision, mode)
        watts[key].append(float(entry["value"]))
        sources[key].add(entry["source"].partition("@")[0])
    found: dict[str, list[Json]] = defaultdict(list)
    for (profile, unit, precision, mode), values in sorted(watts.items()):
        least = 0.1 * mean(values)  # one run, or runs of one model, say little of others
        found[profile].append(
            {"unit": unit, "precision": precision}
            | ({"power_mode": mode} if mode else {})
            | {
                "watts": float(f"{mean(values):.3g}"),
                "deviation": float(f"{max(pstdev(values), least):.2g}"),
                "rows": len(values),
                "sources": sorted(sources[profile, unit, precision, mode]),
            }
        )
    return dict(found)
