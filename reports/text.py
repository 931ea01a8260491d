"""How numbers and provenance look in every report: digits, intervals, units and marks."""

from __future__ import annotations

import math
import re

from bench.types import Quantity

MARKS = {"measured": "", "estimated": "~", "predicted": "*"}
MISSING = "–"
LEGEND = (
    "No mark: measured on that machine; ~ estimated by a model of this machine; "
    "* predicted, the device was not there (latency with a 90% interval, memory and energy with bounds); ×÷2: from half to twice the value; – missing, with its reason under Missing."
)
INTERVAL_NOTE = (
    'Intervals of what is measured are 95%. Those of latency and of "faster" say where another run falls if several processes were '
    "timed; of one process they cover its own variation only, and another can differ by more. ± is the wider side of an interval. "
    "Accuracy changes compare the same test images in pairs."
)
SPLIT_NOTE = "Accuracy here is of the test set; bench choose decides on the validation set."
WIDE = 0.5
"""An interval that reaches further than this share of the value is a wide one."""
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNTS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def mark(quantity: Quantity) -> str:
    """The provenance mark that precedes a value: nothing, ``~`` or ``*``."""
    return MARKS.get(quantity.provenance or "measured", "?")


def half_width(quantity: Quantity) -> float | None:
    """The longer arm of the interval, or None when there is no interval."""
    if quantity.value is None or quantity.low is None or quantity.high is None:
        return None
    return max(quantity.value - quantity.low, quantity.high - quantity.value)


def decimals(value: float, half: float | None) -> int:
    """Decimals of three significant digits; of two where the interval reaches further than half the value.

    How sure a value is, its interval says: the digits of a column do not change with it.
    """
    if not math.isfinite(value):
        return 0
    if value == 0:
        return 1 if not half else max(0, 1 - math.floor(math.log10(half)))
    digits = 2 if half is not None and half >= WIDE * abs(value) else 3
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def number(value: float, half: float | None = None) -> str:
    """``0.312``; ``0.31`` with a half-width of 0.2."""
    return f"{value:.{decimals(value, half)}f}"


def interval(quantity: Quantity, scale: float = 1.0, digits: int | None = None, sign: str = "") -> str:
    """``~1.83 [1.81, 1.86]``: mark, value and interval, all to the same decimals; no unit."""
    if quantity.value is None:
        return MISSING
    half = half_width(quantity)
    places = (
        decimals(quantity.value * scale, None if half is None else half * scale) if digits is None else digits
    )
    shown = f"{mark(quantity)}{quantity.value * scale:{sign}.{places}f}"
    if quantity.low is None or quantity.high is None:
        return shown
    return f"{shown} [{quantity.low * scale:{sign}.{places}f}, {quantity.high * scale:{sign}.{places}f}]"


def plus_minus(quantity: Quantity, scale: float = 1.0, digits: int | None = None, sign: str = "") -> str:
    """``~1.83±0.03``: the interval's longer arm, rounded up, so that nothing looks sharper than it is."""
    if quantity.value is None:
        return MISSING
    half = half_width(quantity)
    if digits is None and (factor := _factor(quantity, half)):
        return f"{mark(quantity)}{number(quantity.value * scale, (half or 0.0) * scale)}{factor}"
    value = quantity.value * scale
    places = decimals(value, None if half is None else half * scale) if digits is None else digits
    shown = f"{mark(quantity)}{value:{sign}.{places}f}"
    if half is None:
        return shown
    arm = max(1, math.ceil(half * scale * 10**places - 1e-9)) / 10**places  # never ±0
    return f"{shown}±{arm:.{places}f}"


def _factor(quantity: Quantity, half: float | None) -> str:
    """``×÷2.2``: the arm of a prediction's wide interval, as a factor rounded up; an arm of ± would reach below 0."""
    value, low, high = quantity.value or 0.0, quantity.low or 0.0, quantity.high or 0.0
    if quantity.provenance != "predicted" or half is None or low <= 0 or value <= 0 or half < WIDE * value:
        return ""
    return f"×÷{math.ceil(10 * max(high / value, value / low) - 1e-9) / 10:g}"


def percent_arm(quantity: Quantity) -> str:
    """``~0.412±1%``: as :func:`plus_minus`, with the arm as a whole percentage of the value, rounded up."""
    half = half_width(quantity)
    if quantity.value is None or half is None or quantity.value <= 0:
        return plus_minus(quantity)
    if factor := _factor(quantity, half):
        return f"{mark(quantity)}{number(quantity.value, half)}{factor}"
    share = max(1, math.ceil(100 * half / quantity.value - 1e-9))  # never ±0%
    return f"{mark(quantity)}{number(quantity.value, half)}±{share}%"


def points(quantity: Quantity, style: str = "interval", sign: str = "") -> str:
    """A fraction as percent (or percentage points): ``94.7 [92.1, 96.4]``, ``-0.8±1.1``."""
    half = half_width(quantity)
    digits = 2 if half is not None and 0 < half < 0.001 else 1
    return (interval if style == "interval" else plus_minus)(quantity, 100.0, digits, sign)


def ratio(quantity: Quantity, style: str = "plain") -> str:
    """``1.90x`` or ``1.90x [1.87, 1.93]``."""
    if quantity.value is None:
        return MISSING
    places = 2 if quantity.value < 10 else 1 if quantity.value < 100 else 0
    shown = f"{mark(quantity)}{quantity.value:.{places}f}x"
    if style != "interval" or quantity.low is None or quantity.high is None:
        return shown
    return f"{shown} [{quantity.low:.{places}f}, {quantity.high:.{places}f}]"


def _scaled(value: float, steps: tuple[tuple[float, str], ...], last: str) -> tuple[str, str]:
    for factor, unit in steps:
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:#.3g}".rstrip("."), unit
    return f"{value:.0f}", last


def size(quantity: Quantity, gap: str = " ") -> str:
    """Bytes for people, decimal units: ``88.1 kB``, ``1.13 MB``."""
    if quantity.value is None:
        return MISSING
    shown, unit = _scaled(quantity.value, _SIZES, "B")
    return f"{mark(quantity)}{shown}{gap}{unit}"


def count(quantity: Quantity) -> str:
    """A count for people: ``12.4M``."""
    if quantity.value is None:
        return MISSING
    return mark(quantity) + "".join(_scaled(quantity.value, _COUNTS, ""))


def fold(name: str, width: int) -> str:
    """A name in lines of at most ``width``, parted after ``-``, ``_``, ``.`` or ``/``; inside a word only where that is longer."""
    lines = [""]
    for piece in re.split(r"(?<=[-_./])", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line[at : at + width] for line in lines for at in range(0, max(1, len(line)), width))


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(n: int, word: str) -> str:
    """``1 cell``, ``3 cells``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
