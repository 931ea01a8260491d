"""Simulated machines: how often the check is wrong where the truth is known, beside what people use now.

Each process of a program has a time of its own (layout of its memory, placement of its pages) and runs at a mood of the machine
(clocks, neighbours). A process makes CALLS calls that agree far better with each other than processes do. The numbers of the moods
are worse than what we met on a shared two-core VM, where two processes timed one after the other differed by 13% (bench.measure.turns).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.gate.lines import one_sided, paired, together
from bench.gate.looks import LOOKS, judge
from bench.gate.sides import Subject
from bench.measure.paired import GATE
from bench.types import Quantity

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


def processes(
    rng: np.random.Generator, mood: Mood, n: int, change: float = 0.0, spread: float = PROCESS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of base and of head in n pairs of processes that ran one after the other in random order; head is ``change`` slower.

    Pairs timed by turns share their mood and do better than this.
    """
    import numpy as np

    times = np.exp(mood(rng, 2 * n) + rng.normal(0, spread, 2 * n)).reshape(n, 2)
    head_first = rng.random(n) < 0.5
    head = np.where(head_first, times[:, 0], times[:, 1])
    base = np.where(head_first, times[:, 1], times[:, 0])
    return base, head * (1.0 + change)


# --- what people use now, on the same samples

CALLS = 100
"""Calls of each process."""
CALL = 0.02
"""Relative deviation of the calls of one process."""
Calls = Sequence["NDArray[np.float64]"]
"""The times of the calls of each process."""


def mean_threshold(base: Calls, head: Calls, gate: float) -> bool:
    """Is the mean of all of head's calls more than ``gate`` above base's?"""
    import numpy as np

    return bool(np.concatenate(list(head)).mean() > np.concatenate(list(base)).mean() * (1 + gate))


def mann_whitney(base: Calls, head: Calls, gate: float) -> bool:
    """Are the calls of one process of each another population (Mann-Whitney, two-sided, p < 0.01), head the slower?"""
    import numpy as np
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(base[0], head[0]).pvalue < 0.01 and np.median(head[0]) > np.median(base[0]))


def compare_fail(base: Calls, head: Calls, gate: float) -> bool:
    """pytest-benchmark's ``--benchmark-compare-fail=mean:3%``: the mean of one run, a process, against that of a stored one."""
    return bool(head[0].mean() > base[0].mean() * (1 + gate))


OTHERS: dict[str, Callable[[Calls, Calls, float], bool]] = {
    "mean": mean_threshold,
    "Mann-Whitney": mann_whitney,
    "pytest-benchmark": compare_fail,
}
"""Do they call head slower? Each is fed the first look's pairs, or the first pair where it knows one process of each."""


def calls(rng: np.random.Generator, times: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The calls of processes whose times are these."""
    import numpy as np

    return [t * np.exp(rng.normal(0, CALL, CALLS)) for t in times]


# --- the simulation


@dataclass(frozen=True)
class Tally:
    """How many of ``n`` simulated checks ended with each verdict, the pairs they took on average, and how often OTHERS said slower."""

    machine: str
    change: float
    spread: float
    n: int
    verdicts: dict[str, int]
    pairs: float
    others: dict[str, int]


SUBJECT = Subject("simulated", "onnxruntime")
SIDE = Quantity.missing("only ratios are simulated")


def check(ratios: NDArray[np.float64], gate: float = GATE) -> tuple[str, int]:
    """The verdict of a check that is fed these pairs and stops when it knows, and after how many."""
    for looks in LOOKS:
        judged = judge(list(ratios[:looks]), gate)
        [line] = one_sided(together([paired(SUBJECT, "latency", gate, judged, (SIDE, SIDE))]))
        if not line.open or looks == LOOKS[-1]:
            return line.verdict, looks
    raise AssertionError("LOOKS is empty")


def simulate(
    machine: str,
    change: float,
    n: int,
    gate: float = GATE,
    seed: int = 0,
    spread: float = PROCESS,
    others: bool = False,
) -> Tally:
    """``n`` checks on one of MACHINES; with ``others``, what people use now is asked about the same processes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    verdicts: dict[str, int] = {}
    alarms = dict.fromkeys(OTHERS, 0) if others else {}
    total = 0
    for _ in range(n):
        base, head = processes(rng, MACHINES[machine], LOOKS[-1], change, spread)
        verdict, took = check(head / base, gate)
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        total += took
        if others:
            seen = [calls(rng, side[: LOOKS[0]]) for side in (base, head)]
            for name in alarms:
                alarms[name] += OTHERS[name](seen[0], seen[1], gate)
    return Tally(machine, change, spread, n, verdicts, total / n, alarms)


def table(n: int, seed: int = 0) -> list[Tally]:
    """``n`` checks of a program against itself on each machine, then of one that is 5% slower, at two deviations between processes."""
    same = [simulate(m, 0.0, n, seed=seed, others=True) for m in MACHINES]
    slower = [simulate(m, 0.05, n, seed=seed, spread=s, others=True) for s in (0.01, 0.02) for m in MACHINES]
    return same + slower
