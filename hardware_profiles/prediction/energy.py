"""Energy of one inference: the power of the board while it computes, times the predicted latency.

Boards whose power was published while they ran image classifiers have it in their profile (``[[power]]``: watts of the
whole board at the wall, as MLPerf measures). Elsewhere the power mode's or the chip's rated power bounds it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench.types import Profile
from hardware_profiles.prediction.rates import number, on_cpu

BUSY = (0.35, 0.6, 1.0)
"""Share of the rated power that one stream of single images takes: low, middle, high. A GPU of 60 W rated power took 28 to
42 W, one of 30 W 15 to 16 W, processors of 15 W boards 5 to 7 W (MLPerf Inference v1.0 to v3.0, SingleStream)."""


@dataclass(frozen=True)
class Power:
    """Watts with a 90% interval; ``how`` says in words where they are from."""

    watts: float
    low: float
    high: float
    how: str


def power(profile: Profile, runtime: str, precision: str, mode: str = "", threads: int = 1) -> Power | str:
    """The power of a device that runs a model without a pause, or why nobody knows it.

    Of a processor's rated power counts what ``threads`` of its cores may take, and a quarter for the rest of it.
    """
    unit = "cpu" if on_cpu(profile, runtime) else "accelerator"
    entries = [e for e in profile.power if e["unit"] == unit and e.get("power_mode", "") == mode]
    exact = [e for e in entries if e["precision"] == precision] or entries
    if exact:
        entry = exact[0]
        low, high = entry["watts"] - 1.645 * entry["deviation"], entry["watts"] + 1.645 * entry["deviation"]
        how = f"board at the wall, {entry['rows']} published runs on its {unit}"
        return Power(entry["watts"], max(low, 0.1 * entry["watts"]), high, how)
    rated, what = _rated(profile, mode)
    if rated is None:
        return "the profile states neither its power nor its rated power"
    if profile.kind == "phone":
        return "a phone's rated power says little of one of its processors"
    low, middle, high = BUSY
    cores = number(profile.facts, "cpu_cores")
    if unit == "cpu" and profile.kind == "x86-cpu" and cores:
        rated *= 0.25 + 0.75 * min(1.0, threads / cores)
    return Power(rated * middle, rated * low, rated * high, f"{low:.0%} to {high:.0%} of {what}")


def _rated(profile: Profile, mode: str) -> tuple[float | None, str]:
    found = re.search(r"(\d+)W", mode)
    if found:
        return float(found[1]), f"the {found[1]} W of {mode}"
    rated = number(profile.facts, "tdp_w")
    return rated, f"its rated {rated:g} W" if rated else ""


def product(
    value: tuple[float, float, float], other: tuple[float, float, float]
) -> tuple[float, float, float]:
    """The product of two quantities with intervals (value, low, high), their relative widths added in quadrature."""
    low = math.hypot(math.log(value[0] / value[1]), math.log(other[0] / other[1]))
    high = math.hypot(math.log(value[2] / value[0]), math.log(other[2] / other[0]))
    middle = value[0] * other[0]
    return middle, middle * math.exp(-low), middle * math.exp(high)
