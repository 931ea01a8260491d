"""What a row can be judged by, and limits on it as people type them: ``5ms``, ``pixel-8:p99<=20ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.errors import UsageError, nearest
from bench.types import Json, Quantity
from reports import text
from reports.rows import Row

_TIMES = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_SHARE = {"": 1.0, "%": 0.01}
UNITS: dict[str, dict[str, float]] = {
    "latency": _TIMES,
    "size": _BYTES,
    "memory": {unit: factor / 1e6 for unit, factor in _BYTES.items()},
    "energy": {"uJ": 1e-3, "µJ": 1e-3, "μJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6, "mWh": 3.6e3, "Wh": 3.6e6},
    "accuracy": _SHARE,
    "drop": _SHARE,
    "rate": {"/s": 1.0, "images/s": 1.0, "img/s": 1.0, "fps": 1.0},
    "count": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
}
"""For each kind of limit: unit -> factor to ms, bytes, MB, mJ, a fraction, images/s or a number."""

_EXAMPLES = {
    "latency": "10ms",
    "size": "5MB",
    "memory": "200MB",
    "energy": "300mJ",
    "accuracy": "90%",
    "drop": "1%",
    "rate": "100/s",
    "count": "5M",
}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*")


UNSAID = 0.2
"""A drop without a unit above this was surely meant in points."""


def parse_quantity(value: str, kind: str, name: str = "") -> float:
    """A limit as typed (``10ms``, ``5MB``, ``2J``, ``1%``, ``0.9``) in the kind's own unit (see UNITS).

    Units are needed except for fractions and counts; kB is 1000 bytes and KiB 1024. Energy units keep
    their case (``mJ`` is not ``MJ``). ``name`` is what errors call it, if not the kind.

    Raises:
        UsageError: for what is not a number, an unknown or missing unit, or an impossible value.
    """
    units, example, limit = UNITS[kind], _EXAMPLES[kind], name or f"the limit for {kind}"
    found = _NUMBER.fullmatch(value)
    if not found:
        raise UsageError(
            f"{value!r} is not {limit}" if name else f"{value!r} is not a limit for {kind}",
            todo=f"Write a number and a unit, such as {example}",
        )
    unit = found[2] if kind == "energy" else found[2].lower()
    known = ", ".join(u for u in units if u and u.isascii())
    if unit not in units:
        problem = f"{limit} needs a unit" if not unit else f"{kind} has no unit {found[2]!r}"
        raise UsageError(problem, found=value.strip(), todo=f"Use one of {known}, as in {example}")
    number = float(found[1]) * units[unit]
    share = kind in ("accuracy", "drop")
    if not math.isfinite(number):
        raise UsageError(f"{limit} is too large a number", found=value.strip(), todo=f"Write it as {example}")
    if number < 0 or (number == 0 and not share):
        raise UsageError(f"{limit} must be positive", found=value.strip())
    if share and number > 1:
        hint = f"Did you mean {found[1]}%?" if not unit and number <= 100 else f"Write it as {example}"
        raise UsageError(f"{limit} is a fraction from 0 to 1", found=value.strip(), todo=hint)
    if kind == "drop" and not unit and number > UNSAID:
        raise UsageError(
            "the limit for drop is in points or a fraction",
            found=value.strip(),
            todo=f"Did you mean {found[1]}% (points)?",
        )
    return number


# --- metrics


def percent(quantity: Quantity) -> str:
    """A fraction as ``94.7 [92.1, 96.4]%``."""
    return f"{text.points(quantity)}%"


def points_text(quantity: Quantity) -> str:
    """A difference of fractions as ``0.8 [-0.3, 1.9] points``."""
    return f"{text.points(quantity)} points"


def validation(row: Row) -> Quantity:
    """Validation accuracy; the test set's only where that is missing (a warning says so)."""
    quantity = row.metrics["val_accuracy"]
    return quantity if quantity.value is not None else row.metrics["accuracy"]


def drop(row: Row) -> Quantity:
    """Accuracy lost against the reference on validation: positive is worse."""
    change = row.relative["val_accuracy_change"]
    if change.value is None:
        change = row.relative["accuracy_change"]
    if change.value is None or change.low is None or change.high is None:
        return change
    return Quantity(
        -change.value + 0.0, "fraction", -change.high, -change.low, change.n, change.provenance, change.method
    )


@dataclass(frozen=True)
class Metric:
    """What a row can be judged by. ``less`` is better when true; a bound is shown as ``bound * scale`` and ``unit``."""

    name: str
    kind: str
    less: bool
    read: Callable[[Row], Quantity]
    show: Callable[[Quantity], str]
    scale: float = 1.0
    unit: str = ""

    def amount(self, value: float) -> str:
        """``0.2 ms``, ``1 point``, ``120 kB``."""
        if self.kind == "size":
            return text.size(Quantity(value))
        if self.kind == "count":
            return text.count(Quantity(value))
        shown = f"{value * self.scale:.6g}"
        return (
            f"{shown}{self.unit.removesuffix('s') if shown == '1' and self.unit == ' points' else self.unit}"
        )


def _timed(name: str, stored: str) -> Metric:
    return Metric(
        name, "latency", True, lambda r: r.metrics[stored], lambda q: f"{text.interval(q)} ms", 1.0, " ms"
    )


def _megabytes(name: str, stored: str) -> Metric:
    return Metric(
        name, "memory", True, lambda r: r.metrics[stored], lambda q: f"{text.interval(q)} MB", 1.0, " MB"
    )


def _counted(name: str) -> Metric:
    return Metric(name, "count", True, lambda r: r.metrics[name], text.count)


_ALL = (
    _timed("latency", "latency_ms"),
    Metric("size", "size", True, lambda r: r.metrics["size_bytes"], text.size),
    _megabytes("memory", "memory_mb"),
    Metric(
        "energy",
        "energy",
        True,
        lambda r: r.metrics["energy_mj"],
        lambda q: f"{text.interval(q)} mJ",
        1.0,
        " mJ",
    ),
    Metric("accuracy", "accuracy", False, validation, percent, 100.0, "%"),
    Metric("drop", "drop", True, drop, points_text, 100.0, " points"),
    _timed("p90", "p90_ms"),
    _timed("p95", "p95_ms"),
    _timed("p99", "p99_ms"),
    _timed("first-call", "first_call_ms"),
    _timed("load", "load_ms"),
    _megabytes("device-memory", "device_memory_mb"),
    Metric(
        "throughput",
        "rate",
        False,
        lambda r: r.metrics["throughput_ips"],
        lambda q: f"{text.interval(q)} images/s",
        1.0,
        " images/s",
    ),
    _counted("macs"),
    _counted("params"),
)
METRICS = {metric.name: metric for metric in _ALL}
"""By the name that people type. Accuracy and its drop against the reference are of the validation set."""


# --- limits

PESSIMISTIC, MIDDLE, REFUSED = "pessimistic", "middle", "refused"


def judged(quantity: Quantity, less: bool, predictions: str) -> float | None:
    """What a quantity counts as: its value, or the end of a prediction's interval that is worse."""
    if quantity.provenance != "predicted" or predictions != PESSIMISTIC:
        return quantity.value
    end = quantity.high if less else quantity.low
    return quantity.value if end is None else end


@dataclass(frozen=True)
class Limit:
    """A bound on a metric, on one target or (``target`` empty) on every one."""

    metric: Metric
    bound: float
    target: str = ""
    predictions: str = PESSIMISTIC

    @property
    def name(self) -> str:
        return "accuracy drop" if self.metric.name == "drop" else self.metric.name

    @property
    def words(self) -> str:
        return f"{self.name} {self.bound_words}{f' on {self.target}' if self.target else ''}"

    @property
    def bound_words(self) -> str:
        return f"{'at most' if self.metric.less else 'at least'} {self.metric.amount(self.bound)}"

    def holds(self, quantity: Quantity) -> bool:
        """Does a quantity that has a value keep the limit?"""
        value = judged(quantity, self.metric.less, self.predictions)
        return value is not None and self.allows(value)

    def allows(self, value: float) -> bool:
        slack = 1e-9 * max(1.0, abs(self.bound))
        return value <= self.bound + slack if self.metric.less else value >= self.bound - slack

    def crossed(self, quantity: Quantity) -> bool:
        """Whether the interval reaches beyond the limit although the value does not."""
        end = quantity.high if self.metric.less else quantity.low
        return end is not None and not self.allows(end)

    def miss(self, value: float) -> float:
        """How far ``value`` is beyond the limit, in the limit's direction."""
        return value - self.bound if self.metric.less else self.bound - value

    def to_json(self) -> Json:
        return {
            "metric": self.metric.name,
            "at_most" if self.metric.less else "at_least": self.bound,
            "unit": self.metric.unit.strip() if self.metric.scale == 1.0 else "",
            "target": self.target or None,
        }


@dataclass(frozen=True)
class Constraints:
    """What a variant must satisfy.

    ``predictions``: what a predicted value counts as: the ``pessimistic`` end of its interval, its ``middle``, or ``refused``.
    """

    limits: tuple[Limit, ...] = ()
    predictions: str = PESSIMISTIC

    def on(self, target: str) -> list[Limit]:
        """The limits that a row of ``target`` must keep."""
        return [limit for limit in self.limits if limit.target in ("", target)]

    @property
    def bounds_accuracy(self) -> bool:
        return any(limit.metric.name in ("accuracy", "drop") for limit in self.limits)


_TYPED = re.compile(r"(?:(?P<target>.+):)?\s*(?P<name>[\w-]+)\s*(?P<sign><=|>=|=<|=>|<|>|=)\s*(?P<value>.*)")


def parse_limit(typed: str, predictions: str = PESSIMISTIC) -> Limit:
    """``[TARGET:]METRIC<=VALUE`` (``>=`` for accuracy and throughput) as a limit.

    Raises:
        UsageError: what is not of that form, an unknown metric, the wrong direction, or a bad value (see :func:`parse_quantity`).
    """
    found = _TYPED.fullmatch(typed.strip())
    if not found:
        raise UsageError(
            f"{typed!r} is not a limit", todo="Write it as 'p99<=20ms' or 'pixel-8:latency<=30ms'"
        )
    name = found["name"]
    if name not in METRICS:
        raise UsageError(f"there is no metric {name!r} to limit", todo=nearest(name, METRICS))
    metric = METRICS[name]
    sign = "<=" if metric.less else ">="
    if found["sign"][0] != sign[0] and found["sign"][-1] != sign[0]:
        raise UsageError(
            f"{name} is better {'lower' if metric.less else 'higher'}",
            found=typed,
            todo=f"Write {name}{sign}VALUE",
        )
    return Limit(metric, parse_quantity(found["value"], metric.kind), found["target"] or "", predictions)


def parse_constraints(limits: Iterable[str] = (), predictions: str = PESSIMISTIC) -> Constraints:
    """Constraints from limits as typed; raises UsageError as :func:`parse_limit`."""
    return Constraints(tuple(parse_limit(typed, predictions) for typed in limits), predictions)
