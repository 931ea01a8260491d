"""A page's clock moves in steps: how large they are, and how many calls a sample needs to be told by it.

Browsers coarsen ``performance.now`` against timing attacks: Chromium to 5 us in a cross-origin isolated page and to
100 us in others (Chrome for Developers, *Aligning timers with cross origin isolation restrictions*).
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np

FINE = 10
"""Steps that a call lasts whose single time says something."""
STEPS = 200
"""A sample lasts at least so many steps of the clock: one step is half a percent of it."""


def step(stamps: Sequence[float]) -> float:
    """The clock's step: the least difference between readings that follow each other and differ; in their unit.

    Raises:
        ValueError: all readings are the same.
    """
    differences = np.diff(stamps)
    if not (differences > 0).any():
        raise ValueError("the page's clock stands still")
    return float(differences[differences > 0].min())


def typical(calls: Sequence[float], tick: float) -> float:
    """What one call of a short run takes: the median, which a stall does not move; the mean where the clock's steps hide single calls.

    Args:
        calls: seconds of each call.
        tick: the clock's step in seconds.
    """
    middle = float(np.median(calls))
    return middle if middle >= FINE * tick else float(np.mean(calls))


def calls_per_sample(call: float, tick: float) -> int:
    """How many calls of ``call`` seconds last STEPS of the clock's ``tick`` seconds; at least 1."""
    wanted = STEPS * tick
    return max(1, math.ceil(wanted / max(call, tick / STEPS)))
