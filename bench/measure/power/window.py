"""A measured window with the idle ones around it, and what one image cost.

Idle is a window like any other, taken before and after the measured one; what a model costs is the difference.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure.power.base import Clock, EnergySource, Reading
from bench.stats import mean_interval
from bench.types import Json, Quantity

PER_IMAGE = "mJ/image"


@dataclass(frozen=True)
class Window:
    """A measured window and the idle ones around it (None where idle is not subtracted, or after a crash)."""

    gross: Reading
    before: Reading | None = None
    after: Reading | None = None

    @property
    def idle_watts(self) -> float | None:
        """Mean of the idle powers that were read."""
        found = [r.watts for r in (self.before, self.after) if r is not None and r.watts is not None]
        return sum(found) / len(found) if found else None

    def net(self) -> Quantity:
        """Joules above idle: gross minus idle power times the window's length."""
        gross, idles = self.gross, [r for r in (self.before, self.after) if r is not None]
        if gross.joules is None:
            return Quantity.missing(gross.reason, "J")
        value, text = gross.joules, "idle not subtracted"
        if idles:
            if self.idle_watts is None:
                return Quantity.missing(f"idle was not read: {idles[0].reason}", "J")
            value -= self.idle_watts * gross.seconds
            text = f"idle of {self.idle_watts:.4g} W subtracted ({_idle_text(self)})"
        if value <= 0:
            return Quantity.missing(
                f"no more than idle was drawn: {gross.watts:.4g} W, idle {self.idle_watts:.4g} W", "J"
            )
        return Quantity(value, "J", n=1, provenance=gross.provenance, method=f"{_method(gross)}; {text}")

    def to_json(self) -> Json:
        """For the record: what was read, before any subtraction."""

        def told(reading: Reading | None) -> Json | None:
            if reading is None:
                return None
            keep = ("joules", "seconds", "watts", "updates", "parts", "reason")
            return {key: getattr(reading, key) for key in keep if getattr(reading, key) not in ("", {})}

        gross = self.gross
        return {
            "source": gross.source,
            "mode": gross.mode,
            "covers": gross.covers,
            "gross": told(gross),
            "idle_before": told(self.before),
            "idle_after": told(self.after),
        }


def _idle_text(window: Window) -> str:
    named = (("before", window.before), ("after", window.after))
    return ", ".join(
        f"{name} {'not read' if r is None or r.watts is None else f'{r.watts:.4g} W'}" for name, r in named
    )


def _method(reading: Reading) -> str:
    return f"{reading.method}; counts {reading.covers}"


def idle(source: EnergySource, clock: Clock = time) -> Reading | None:
    """One idle window, while whatever will be measured waits; None for a source that subtracts none."""
    if not source.idle_seconds:
        return None
    source.start()
    try:
        clock.sleep(source.idle_seconds)
    finally:
        reading = source.stop()
    return reading


def per_image(windows: Sequence[Window], images: Sequence[int], gross: bool = False) -> Quantity:
    """Energy for one image in mJ, above idle (or all of it, with ``gross``).

    Args:
        windows: one for each process.
        images: how many images were classified in each window.

    Returns:
        The mean over the windows with a t interval (``n`` windows), or one window's figure without
        interval. Windows without a figure are left out and counted in the method; when all are, the
        result is missing with the first one's reason.
    """
    joules = [_gross(w) if gross else w.net() for w in windows]
    found = [(q, q.value * 1e3 / n) for q, n in zip(joules, images, strict=True) if q.value is not None]
    if not found:
        return Quantity.missing(joules[0].reason if joules else "no energy window", PER_IMAGE)
    first, values = found[0][0], [value for _, value in found]
    lost = len(joules) - len(found)
    mean, low, high = mean_interval(values) if len(values) > 1 else (values[0], None, None)
    if len(found) == 1:
        text = (
            f"{first.method}; one window of {windows[joules.index(first)].gross.seconds:.2f} s, no interval"
        )
    else:
        text = f"{first.method} (the first of {len(found)} windows, one a process; t interval over them)"
    if lost:
        text += f"; {lost} more without a figure"
    return Quantity(mean, PER_IMAGE, low, high, len(found), first.provenance, text)


def _gross(window: Window) -> Quantity:
    reading = window.gross
    if reading.joules is None:
        return Quantity.missing(reading.reason, "J")
    method = f"{_method(reading)}; idle included"
    return Quantity(reading.joules, "J", n=1, provenance=reading.provenance, method=method)
