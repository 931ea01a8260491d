"""A pair of processes timed by turns: what disturbs the machine for a second disturbs both alike.

A neighbour, a hotter clock or a busy hypervisor lasts for tenths of a second to minutes. Two processes timed one after
the other meet different moods of the machine; two that alternate every twentieth of a second share them, and their
ratio is left with what differs between the programs, and between processes of one program. (Running both sides at the
same time to that end: Bulej et al., *Duet benchmarking*, ICPE 2020; here they alternate, so that they do not compete.)
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bench.errors import WorkerError
from bench.runtimes.base import CellJob, Runtime
from bench.types import Json, Notify, Quantity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.hosts.base import Host
    from bench.runtimes.worker import Worker

T = TypeVar("T")
TURN_SECONDS = 0.05
Order = tuple[str, str]
"""``("base", "head")`` or the other way round."""


def orders(pairs: int, seed: int) -> list[Order]:
    """Which side of each pair begins, at random."""
    draw = random.Random(seed)
    return [("base", "head") if draw.random() < 0.5 else ("head", "base") for _ in range(pairs)]


@dataclass(frozen=True)
class TimedPair:
    """``ratio``: head against base, from turns next to each other. Medians of all calls in ms.

    ``memory``: peak of base and of head above their runtime's own (MB). Energy is not here: a meter of the machine cannot tell
    two programs apart that work by turns.
    """

    ratio: float
    base_ms: float
    head_ms: float
    memory: tuple[Quantity, Quantity] | None = None
    calls: tuple[NDArray[np.float64], NDArray[np.float64]] | None = field(
        default=None, repr=False, compare=False
    )
    """Seconds of each call of base and of head."""
    turns: tuple[tuple[float, ...], tuple[float, ...]] = field(default=((), ()), repr=False, compare=False)
    """Median of each turn of base and of head in ms, in the order of time."""


def time_pair(sides: Mapping[str, tuple[Runtime, CellJob]], order: Order, host: Host) -> TimedPair:
    """Time ``base`` and ``head`` by turns, each in a fresh process and for all of its ``max_seconds``.

    Args:
        sides: the two; each job needs an ``outdir`` of its own.
        order: which begins.

    Raises:
        WorkerError: a side that crashed, hung or could not be timed.
    """
    import numpy as np

    with ExitStack() as stack:
        work = {}
        for side in order:  # both import their runtime before either is timed
            runtime, job = sides[side]
            worker = stack.enter_context(runtime.start(host, job.threads, job.protocol.cpus))
            work[side] = partial(_time, runtime, job, host, worker)
        found = by_turns(work, order)
    (base, of_base), (head, of_head) = found["base"], found["head"]
    memory = (of_base["memory_mb"], of_head["memory_mb"])
    calls = np.concatenate(base), np.concatenate(head)
    base_ms, head_ms = (float(np.median(c)) * 1e3 for c in calls)
    turns = tuple(tuple(float(f"{np.median(t) * 1e3:.5g}") for t in side) for side in (base, head))
    return TimedPair(ratio(base, head), base_ms, head_ms, memory, calls, (turns[0], turns[1]))


def _time(
    runtime: Runtime, job: CellJob, host: Host, worker: Worker, notify: Notify
) -> tuple[list[NDArray[np.float64]], dict[str, Quantity]]:
    """The samples of each turn of one side, and what else was measured of its process."""
    import numpy as np

    protocol = replace(job.protocol, half_width=1e-9)  # both sides end together, at the cap
    result = runtime.measure(replace(job, turn_seconds=TURN_SECONDS, protocol=protocol), host, notify, worker)
    if result.samples is None:
        raise WorkerError(f"{job.path.name} could not be timed on {runtime.name}", result.reason)
    samples = np.load(result.samples, allow_pickle=False)
    turns = [turn for turn in np.split(samples, result.runtime.get("turns", [])) if len(turn)]
    return turns, result.metrics


def ratio(base: Sequence[NDArray[np.float64]], head: Sequence[NDArray[np.float64]]) -> float:
    """Head against base: the median over the turns of the ratio of two neighbouring turns' medians.

    In our trial on a machine that changes its speed by 30% for seconds (INT8 ResNet on onnxruntime, 25 pairs of processes on
    a shared two-core VM) this ratio spread by 1.6% from pair to pair, that of the medians of all calls by 3.4%, and
    processes timed one after the other by 13%.
    """
    import numpy as np

    logs = [math.log(float(np.median(h) / np.median(b))) for b, h in zip(base, head, strict=False)]
    return math.exp(float(np.median(logs)))


class Ended(Exception):
    """The other side failed or the person interrupted: nobody's turn comes any more."""


class Turns:
    """Whose turn it is. A side waits for its own, passes it on, and leaves when it is done."""

    def __init__(self, sides: Sequence[str]) -> None:
        self._waiting = list(sides)
        self._changed = threading.Condition()
        self._ended = False

    def wait(self, side: str) -> None:
        """Raises Ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting[0] == side)
            if self._ended:
                raise Ended

    def pass_on(self, side: str) -> None:
        """To the side that has waited longest; returns when the turn is back. Raises Ended."""
        with self._changed:
            self._waiting.remove(side)
            self._waiting.append(side)
            self._changed.notify_all()
        self.wait(side)

    def leave(self, side: str) -> None:
        with self._changed:
            self._waiting.remove(side)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def by_turns(work: Mapping[str, Callable[[Notify], T]], order: Sequence[str]) -> dict[str, T]:
    """Run each side's work in a thread of its own, one at a time; what each returned.

    Args:
        work: a function for each side, handed the ``notify`` of its measurement: the turn passes on when the side is
            ready to be timed, and from then on at every rest.
        order: in which they begin.

    Raises:
        Whatever a side raises; the other one is ended.
    """
    turns = Turns(order)

    def run(side: str) -> T:
        def notify(event: str, info: Json) -> None:
            if event == "turn" or (event == "phase" and info["name"] == "steady"):
                turns.pass_on(side)

        try:
            turns.wait(side)
            found = work[side](notify)
            turns.leave(side)
        except BaseException:
            turns.end()
            raise
        return found

    with ThreadPoolExecutor(len(order)) as pool:
        futures = [pool.submit(run, side) for side in order]
        try:
            wait(futures)
        finally:  # also when the person interrupts
            turns.end()
    errors = [e for f in futures if (e := f.exception()) is not None]
    if errors:
        raise next((e for e in errors if not isinstance(e, Ended)), errors[0])
    return {side: future.result() for side, future in zip(order, futures, strict=True)}
