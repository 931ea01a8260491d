"""The columns of every table: what they are called, where they come from and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.errors import UsageError, nearest
from bench.types import Quantity
from reports import text
from reports.rows import Row

PLACES = ("run", "variant", "runtime", "precision", "batch", "threads", "host", "format")
"""What says which cell a row is. Tables can be grouped by it, and set side by side."""


@dataclass(frozen=True)
class Column:
    """A quantity of a row. ``show`` takes the quantity and a style (``interval``, ``±`` or ``short``).

    ``reference``: the reference variant's own field says so, as it is compared with itself. ``stored``: the metric's name
    in the records of processes, for what is measured in them.
    """

    name: str
    title: str
    unit: str
    read: Callable[[Row], Quantity]
    show: Callable[[Quantity, str], str]
    about: str = ""
    reference: bool = False
    stored: str = ""

    def fill(self, row: Row, style: str, itself: str = "ref") -> str:
        """The field as text."""
        quantity = self.read(row)
        if self.reference and row.is_reference and quantity.value is not None:
            return itself
        return self.show(quantity, style)

    def heading(self, style: str) -> str:
        return "acc" if self.name == "accuracy" and style == "short" else self.title


def _number(quantity: Quantity, style: str) -> str:
    return {"interval": text.interval, "±": text.plus_minus, "short": text.percent_arm}[style](quantity)


def _share(quantity: Quantity, style: str) -> str:
    if style != "short" or quantity.value is None:
        return text.points(quantity, style)
    return f"{text.mark(quantity)}{quantity.value * 100:.1f}"


def _size(quantity: Quantity, style: str) -> str:
    return text.size(quantity, " " if style == "interval" else "")


def _metric(
    name: str, stored: str, unit: str, about: str = "", show: Callable[[Quantity, str], str] = _number
) -> Column:
    return Column(name, name, unit, lambda r: r.metrics[stored], show, about, stored=stored)


def _relative(
    name: str, stored: str, unit: str, about: str, show: Callable[[Quantity, str], str], title: str = ""
) -> Column:
    return Column(name, title or name, unit, lambda r: r.relative[stored], show, about, True)


def _change(quantity: Quantity, style: str) -> str:
    return text.points(quantity, style, "+")


_CHANGED = "Accuracy minus the reference's on the same test images"
_ALL = (
    _metric("accuracy", "accuracy", "%", "Test set, with its Wilson interval", _share),
    _relative("change", "accuracy_change", "points", _CHANGED, _change, "Δacc"),
    _metric("latency", "latency_ms", "ms", "Median of the steady state over the processes"),
    _relative(
        "faster",
        "x_faster",
        "",
        "The reference's latency over this one, same runtime and setting",
        text.ratio,
    ),
    _metric("size", "size_bytes", "", "Of the artifact as shipped", _size),
    _relative("smaller", "x_smaller", "", "The reference's size over this one", lambda q, s: text.ratio(q)),
    _metric("memory", "memory_mb", "MB", "Peak of the worker above the runtime's own"),
    _metric("energy", "energy_mj", "mJ", "For one image"),
    _metric("p90", "p90_ms", "ms"),
    _metric("p95", "p95_ms", "ms"),
    _metric("p99", "p99_ms", "ms"),
    _metric("throughput", "throughput_ips", "img/s"),
    _metric("first-call", "first_call_ms", "ms", "The first call of a fresh process"),
    _metric("load", "load_ms", "ms", "From the file to a model that is ready"),
    _metric("device-memory", "device_memory_mb", "MB"),
    _metric("val-accuracy", "val_accuracy", "%", "Validation set, which decides choices", _share),
    _relative(
        "val-change", "val_accuracy_change", "points", "As Δacc, on the validation set", _change, "Δval"
    ),
    _metric("top5", "top5", "%", "Test set", _share),
    _relative("less-memory", "x_less_memory", "", "The reference's memory over this one", text.ratio),
    _relative("less-energy", "x_less_energy", "", "The reference's energy over this one", text.ratio),
    _metric("macs", "macs", "", "Multiply-accumulates of one image", lambda q, s: text.count(q)),
    _metric("params", "params", "", "", lambda q, s: text.count(q)),
)
COLUMNS = {column.name: column for column in _ALL}
"""By the name that people type."""

USUAL = ("accuracy", "change", "latency", "faster", "size", "smaller", "memory", "energy")
"""Those of a table that nobody asked for other columns."""

SIDE_BY_SIDE = ("accuracy", "latency", "size")
"""Those of a table with several places in one line."""


def named(names: Sequence[str]) -> list[Column]:
    """The columns of these names.

    Raises:
        UsageError: one does not exist, or is named twice.
    """
    for place, name in enumerate(names):
        if name not in COLUMNS:
            raise UsageError(f"there is no column {name!r}", todo=nearest(name, COLUMNS))
        if name in names[:place]:
            raise UsageError(f"the column {name!r} is named twice")
    return [COLUMNS[name] for name in names]


def place_of(row: Row, key: str) -> str:
    """The row's variant, runtime, host, ... as text."""
    if key in ("run", "format"):
        return str(getattr(row, key))
    return str(getattr(row.cell, key))


_BEFORE = {"run": "in", "batch": "at", "threads": "with", "precision": "in", "format": "as"}


def told(key: str, value: str) -> str:
    """A place in words: ``batch 8``, ``2 threads``; of other keys the value itself."""
    if key == "batch":
        return f"batch {value}"
    return text.plural(int(value), "thread") if key == "threads" else value or "unknown"


def where(key: str, value: str) -> str:
    """``in RUN``, ``on pixel-8``, ``with 2 threads``: a place after what it is said of."""
    return f"{_BEFORE.get(key, 'on')} {told(key, value)}"
