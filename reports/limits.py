"""Limits as people type them, and what they are compared with in a row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.errors import UsageError
from bench.types import Quantity
from reports import text
from reports.rows import Row

_TIMES = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
UNITS: dict[str, dict[str, float]] = {
    "latency": _TIMES,
    "size": _BYTES,
    "memory": {unit: factor / 1e6 for unit, factor in _BYTES.items()},
    "energy": {"uJ": 1e-3, "µJ": 1e-3, "μJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6, "mWh": 3.6e3, "Wh": 3.6e6},
    "accuracy": {"": 1.0, "%": 0.01},
    "drop": {"": 1.0, "%": 0.01},
}
"""For each kind of limit: unit -> factor to ms, bytes, MB, mJ or a fraction."""

_EXAMPLES = {
    "latency": "10ms",
    "size": "5MB",
    "memory": "200MB",
    "energy": "300mJ",
    "accuracy": "90%",
    "drop": "1%",
}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*")


def parse_quantity(value: str, kind: str) -> float:
    """A limit as typed (``10ms``, ``5MB``, ``2J``, ``1%``, ``0.9``) in ms, bytes, MB, mJ or as a fraction.

    ``kind`` is ``latency``, ``size``, ``memory``, ``energy``, ``accuracy`` or ``drop``. Units are needed
    except for fractions; kB is 1000 bytes and KiB 1024. Energy units keep their case (``mJ`` is not ``MJ``).

    Raises:
        UsageError: for what is not a number, an unknown or missing unit, or an impossible value.
    """
    units, example = UNITS[kind], _EXAMPLES[kind]
    found = _NUMBER.fullmatch(value)
    if not found:
        raise UsageError(
            f"{value!r} is not a limit for {kind}", todo=f"Write a number and a unit, such as {example}"
        )
    unit = found[2] if kind == "energy" else found[2].lower()
    known = ", ".join(u for u in units if u and u.isascii())
    if unit not in units:
        problem = f"the limit for {kind} needs a unit" if not unit else f"{kind} has no unit {found[2]!r}"
        raise UsageError(problem, found=value.strip(), todo=f"Use one of {known}, as in {example}")
    number = float(found[1]) * units[unit]
    share = kind in ("accuracy", "drop")
    if not math.isfinite(number):
        raise UsageError(
            f"the limit for {kind} is too large a number", found=value.strip(), todo=f"Write it as {example}"
        )
    if number < 0 or (number == 0 and not share):
        raise UsageError(f"the limit for {kind} must be positive", found=value.strip())
    if share and number > 1:
        hint = f"Did you mean {found[1]}%?" if not unit and number <= 100 else f"Write it as {example}"
        raise UsageError(f"the limit for {kind} is a fraction from 0 to 1", found=value.strip(), todo=hint)
    return number


PESSIMISTIC, MIDDLE, REFUSED = "pessimistic", "middle", "refused"


def judged(quantity: Quantity, less: bool, predictions: str) -> float | None:
    """What a quantity counts as: its value, or the end of a prediction's interval that is worse."""
    if quantity.provenance != "predicted" or predictions != PESSIMISTIC:
        return quantity.value
    end = quantity.high if less else quantity.low
    return quantity.value if end is None else end


@dataclass(frozen=True)
class Constraints:
    """What a variant must satisfy. ``min_accuracy`` and ``max_drop`` are fractions, of validation.

    ``predictions``: what a predicted value counts as: the ``pessimistic`` end of its interval, its ``middle``, or ``refused``.
    """

    max_latency_ms: float | None = None
    max_size_bytes: float | None = None
    max_memory_mb: float | None = None
    max_energy_mj: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    predictions: str = PESSIMISTIC


def parse_constraints(
    max_latency: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    max_energy: str | None = None,
    min_accuracy: str | None = None,
    max_drop: str | None = None,
    predictions: str = PESSIMISTIC,
) -> Constraints:
    """Constraints from limits as typed; None is no limit. Raises UsageError as :func:`parse_quantity`."""

    def read(value: str | None, kind: str) -> float | None:
        return None if value is None else parse_quantity(value, kind)

    return Constraints(
        max_latency_ms=read(max_latency, "latency"),
        max_size_bytes=read(max_size, "size"),
        max_memory_mb=read(max_memory, "memory"),
        max_energy_mj=read(max_energy, "energy"),
        min_accuracy=read(min_accuracy, "accuracy"),
        max_drop=read(max_drop, "drop"),
        predictions=predictions,
    )


@dataclass(frozen=True)
class Limit:
    """One active constraint. ``read`` gives the quantity of a row; ``less`` is better when true."""

    name: str
    bound: float
    less: bool
    read: Callable[[Row], Quantity]
    show: Callable[[Quantity], str]
    scale: float
    unit: str
    predictions: str = PESSIMISTIC

    def holds(self, quantity: Quantity) -> bool:
        """Does a quantity that has a value keep the limit?"""
        value = judged(quantity, self.less, self.predictions)
        return value is not None and self.allows(value)

    @property
    def words(self) -> str:
        return f"{self.name} {self.bound_words}"

    @property
    def bound_words(self) -> str:
        sign = "at most" if self.less else "at least"
        shown = f"{self.bound * self.scale:.6g}"
        return f"{sign} {shown}{self.unit.removesuffix('s') if shown == '1' and self.unit == ' points' else self.unit}"

    def allows(self, value: float) -> bool:
        slack = 1e-9 * max(1.0, abs(self.bound))
        return value <= self.bound + slack if self.less else value >= self.bound - slack

    def crossed(self, quantity: Quantity) -> bool:
        """Whether the interval reaches beyond the limit although the value does not."""
        end = quantity.high if self.less else quantity.low
        return end is not None and not self.allows(end)

    def miss(self, value: float) -> float:
        """How far ``value`` is beyond the limit, in the limit's direction."""
        return value - self.bound if self.less else self.bound - value


def _with_unit(unit: str) -> Callable[[Quantity], str]:
    return lambda q: f"{text.interval(q)} {unit}"


def percent(quantity: Quantity) -> str:
    """A fraction as ``94.7 [92.1, 96.4]%``."""
    return f"{text.points(quantity)}%"


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
        -change.value + 0.0, "", -change.high, -change.low, change.n, change.provenance, change.method
    )


def points_text(quantity: Quantity) -> str:
    """A difference of fractions as ``0.8 [-0.3, 1.9] points``."""
    return f"{text.points(quantity)} points"


def limits(constraints: Constraints) -> Iterator[Limit]:
    """The constraints that are set."""

    def metric(name: str) -> Callable[[Row], Quantity]:
        return lambda row: row.metrics[name]

    c = constraints
    table = (
        ("latency", c.max_latency_ms, True, metric("latency_ms"), _with_unit("ms"), 1.0, " ms"),
        ("size", c.max_size_bytes, True, metric("size_bytes"), text.size, 1e-6, " MB"),
        ("memory", c.max_memory_mb, True, metric("memory_mb"), _with_unit("MB"), 1.0, " MB"),
        ("energy", c.max_energy_mj, True, metric("energy_mj"), _with_unit("mJ"), 1.0, " mJ"),
        ("accuracy", c.min_accuracy, False, validation, percent, 100.0, "%"),
        ("accuracy drop", c.max_drop, True, drop, points_text, 100.0, " points"),
    )
    for name, bound, less, read, show, scale, unit in table:
        if bound is not None:
            yield Limit(name, bound, less, read, show, scale, unit, c.predictions)
