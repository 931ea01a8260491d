"""What the check judges and how much of a change matters: ``latency:3%``, ``accuracy:0.5pt``, ``size:1%``.

Options win over ``[tool.edgefit.gate]`` of pyproject.toml, and what it says of one variant over what it says of all:

    [tool.edgefit.gate]
    metrics = ["latency:3%", "accuracy:0.5pt", "size:1%"]
    [tool.edgefit.gate.variants."student-*"]
    metrics = ["latency:5%"]
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, UsageError, nearest
from bench.measure.feeding import PRESETS
from hardware_profiles.load import read_toml


@dataclass(frozen=True)
class Metric:
    """``less`` is better when true. ``relative``: the change is a share of the base, else a difference in points of accuracy.

    ``noisy``: it differs from process to process; ``pairs``: pairs of processes timed by turns tell it.
    """

    name: str
    key: str
    less: bool
    relative: bool
    noisy: bool
    pairs: bool
    default: float


METRICS = {
    m.name: m
    for m in (
        Metric("latency", "latency_ms", True, True, True, True, 0.03),
        Metric("throughput", "throughput_ips", False, True, True, True, 0.03),
        Metric("memory", "memory_mb", True, True, True, True, 0.05),
        Metric("energy", "energy_mj", True, True, True, False, 0.05),
        Metric("size", "size_bytes", True, True, False, False, 0.01),
        Metric("accuracy", "accuracy", False, False, False, False, 0.005),
    )
}
DEFAULT = ("latency", "accuracy", "size")
_UNITS = {"%": 0.01, "pt": 0.01, "pts": 0.01, "points": 0.01}
_THRESHOLD = re.compile(r"(?P<name>[a-z]+)(?::(?P<number>\d+\.?\d*|\.\d+)(?P<unit>%|pts?|points))?")


def parse(text: str) -> tuple[str, float]:
    """``latency:3%`` as (``latency``, 0.03); without a number the metric's default.

    Raises:
        UsageError: no such metric, no number with a unit, points of what is no share, or a threshold outside (0, 100%).
    """
    example = "Write it as latency:3%, accuracy:0.5pt or size:1%"
    found = _THRESHOLD.fullmatch(text.strip())
    name = text.split(":")[0].strip()
    if name not in METRICS:
        raise UsageError(f"There is no metric {name!r} to check", todo=nearest(name, METRICS))
    if not found:
        raise UsageError(f"{text!r} is no threshold", todo=example)
    metric = METRICS[name]
    if found["number"] is None:
        return name, metric.default
    if (found["unit"] == "%") != metric.relative:
        unit = "percent of the base, such as 3%" if metric.relative else "points, such as 0.5pt"
        raise UsageError(f"the threshold for {name} is in {unit}", text)
    value = float(found["number"]) * _UNITS[found["unit"]]
    if value >= 1.0 or (value == 0.0 and name != "size"):  # only a size is known exactly
        least = "from 0" if name == "size" else "above 0"
        raise UsageError(f"the threshold for {name} must be {least} and below 100{found['unit']}", text)
    return name, value


@dataclass(frozen=True)
class Thresholds:
    """For all, and for variants whose names match a pattern (the last that matches counts)."""

    common: Mapping[str, float]
    patterns: tuple[tuple[str, Mapping[str, float]], ...] = ()
    explicit: frozenset[str] = frozenset()
    """Metrics that somebody asked for: they must be known, where a default may be missing."""

    def of(self, variant: str) -> dict[str, float]:
        """Metric -> the change that matters, for one variant; 0 takes a metric out."""
        found = dict(self.common)
        for pattern, values in self.patterns:
            if fnmatch.fnmatchcase(variant, pattern):
                found |= values
        return {name: value for name, value in found.items() if value > 0}

    def unused(self, variants: Sequence[str]) -> list[str]:
        """Patterns that match none of the variants."""
        return [p for p, _ in self.patterns if not any(fnmatch.fnmatchcase(v, p) for v in variants)]


@dataclass(frozen=True)
class Settings:
    """``[tool.edgefit.gate]`` of the pyproject.toml at ``path`` (None where there is none)."""

    path: Path | None = None
    baseline: str = ""
    subject: str = ""
    build: str = ""
    data: str = ""
    preprocess: str = ""
    history: str = ""
    metrics: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_settings(folder: Path) -> Settings:
    """The settings of the nearest pyproject.toml at or above ``folder``.

    Raises:
        ConfigError: a file that cannot be read, or keys and values that make no sense.
    """
    for place in (folder, *folder.resolve().parents):
        path = place / "pyproject.toml"
        if path.is_file():
            break
    else:
        return Settings()
    part = read_toml(path).get("tool", {})
    part = part.get("edgefit", {}) if isinstance(part, dict) else {}
    part = part.get("gate", {}) if isinstance(part, dict) else {}
    return _settings(part, path)


def _settings(part: Any, path: Path) -> Settings:
    where = f"[tool.edgefit.gate] of {path}"
    if not isinstance(part, dict):
        raise ConfigError(f"{where} is no table")
    names = ("baseline", "subject", "build", "data", "preprocess", "history")
    for key in part:
        if key not in (*names, "metrics", "variants"):
            known = (*names, "metrics", "variants")
            raise ConfigError(f"{where} has no {key!r}", f"known: {', '.join(known)}", nearest(key, known))
    texts = {name: part.get(name, "") for name in names}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise ConfigError(f"{name} in {where} must be a text", repr(value))
    if texts["preprocess"] and texts["preprocess"] not in PRESETS:
        raise ConfigError(
            f"preprocess in {where} is unknown", texts["preprocess"], f"Known: {', '.join(PRESETS)}"
        )
    variants = part.get("variants", {})
    todo = 'Write [tool.edgefit.gate.variants."NAME"] with metrics = [...]'
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise ConfigError(f"variants in {where} must be tables", todo=todo)
    for name, value in variants.items():
        for key in set(value) - {"metrics"}:
            raise ConfigError(f"variants.{name!r} in {where} has no {key!r}", "known: metrics", todo)
    own = {name: _metrics(v.get("metrics", []), where) for name, v in variants.items()}
    return Settings(path, **texts, metrics=_metrics(part.get("metrics", []), where), variants=own)


def _metrics(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ConfigError(
            f"metrics in {where} must be a list of texts", repr(value), 'Write metrics = ["latency:3%"]'
        )
    return tuple(value)


def thresholds(options: Iterable[str], settings: Settings) -> Thresholds:
    """From ``--metric`` options (each may hold several, by commas or spaces) or else the settings, or else DEFAULT.

    Raises:
        UsageError: see :func:`parse`; the same metric twice.
    """
    given = [part for option in options for part in re.split(r"[,\s]+", option) if part]
    asked = given or list(settings.metrics)
    common = dict(parse(part) for part in asked or DEFAULT)
    if len(common) < len(asked):
        raise UsageError("a metric is named twice", ", ".join(asked))
    own = () if given else tuple((p, dict(parse(m) for m in ms)) for p, ms in settings.variants.items())
    return Thresholds(common, own, frozenset(parse(part)[0] for part in asked))
