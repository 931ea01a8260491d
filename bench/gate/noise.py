"""Simulated machines: how often the check is wrong where the truth is known, beside what people use now.

Each process of a program has a time of its own (layout of its memory, placement of its pages) and runs at a mood of the machine
(clocks, neighbours). A process makes CALLS calls that agree far better with each other than processes do. The numbers of the moods
are worse than what we met on a shared two-core VM, where two processes timed one after the other differed by 13% (bench.measure.turns).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.gate.looks import ALPHA, LOOKS, judge
from bench.measure.paired import GATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mood = Callable[[np.random.Generator, int], NDArray[np.float64]]

PROCESS = 0.015
"""Relative deviation between processes of one program."""


def _white(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    import numpy as np

    return np.zeros(n)


def _drift(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """AR(1) of coefficient 0.95 from process to process, deviation 5%."""
    import numpy as np

    steps, mood = rng.normal(0, 0.05 * (1 - 0.95**2) ** 0.5, n), np.empty(n)
    mood[0] = rng.normal(0, 0.05)
    for i in range(1, n):
        mood[i] = 0.95 * mood[i - 1] + steps[i]
    return mood


def _bimodal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Three processes in ten are 8% slower."""
    import numpy as np

    return np.where(rng.random(n) < 0.3, 0.08, 0.0)


def _heavy(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Student's t with 2 degrees of freedom, scaled to PROCESS: now and then a process is twice as slow."""
    return PROCESS * rng.standard_t(2, n)


def _step(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """From some process on, in the middle half, all are 30% slower: a hog was started."""
    import numpy as np

    return np.where(np.arange(n) >= rng.integers(n // 4, 3 * n // 4), 0.26, 0.0)


MACHINES: dict[str, Mood] = {
    "white": _white,
    "AR(1) drift": _drift,
    "bimodal": _bimodal,
    "heavy tail": _heavy,
    "step in the middle": _step,
}


def pairs(
    rng: np.random.Generator, mood: Mood, n: int, change: float = 0.0, spread: float = PROCESS
) -> NDArray[np.float64]:
    """Ratios of n pairs of processes that ran one after the other in random order, head ``change`` slower than base.

    Pairs timed by turns share their mood and do better than this.
    """
    import numpy as np

    times = (mood(rng, 2 * n) + rng.normal(0, spread, 2 * n)).reshape(n, 2)
    head_first = rng.random(n) < 0.5
    head = np.where(head_first, times[:, 0], times[:, 1])
    base = np.where(head_first, times[:, 1], times[:, 0])
    found: NDArray[np.float64] = np.exp(head - base) * (1.0 + change)
    return found


@dataclass(frozen=True)
class Tally:
    """How many of ``n`` simulated checks ended with each verdict, and the pairs they took on average."""

    machine: str
    change: float
    n: int
    verdicts: dict[str, int]
    pairs: float


def check(ratios: NDArray[np.float64], gate: float = GATE) -> tuple[str, int]:
    """The verdict of a check that is fed these pairs and stops when it knows, and after how many."""
    for looks in LOOKS:
        found = judge(list(ratios[:looks]), gate)
        stands = found.verdict == "SAME" or (found.verdict != "INCONCLUSIVE" and found.p <= ALPHA)
        if stands or looks == LOOKS[-1]:
            return found.verdict if stands else "INCONCLUSIVE", looks
    raise AssertionError("LOOKS is empty")


def simulate(
    machine: str, change: float, n: int, gate: float = GATE, seed: int = 0, spread: float = PROCESS
) -> Tally:
    """``n`` checks on one of MACHINES."""
    import numpy as np

    rng = np.random.default_rng(seed)
    verdicts: dict[str, int] = {}
    total = 0
    for _ in range(n):
        verdict, took = check(pairs(rng, MACHINES[machine], LOOKS[-1], change, spread), gate)
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        total += took
    return Tally(machine, change, n, verdicts, total / n)
