"""The loop of a search: what is made next, when the time is up, and the front.

Its order: the reference, the recipe's variants made by hand, the first values of every list, then what Optuna
proposes. All choices are made on validation images; the test set is in the run for its report, and is not
looked at here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from bench.errors import ConfigError, StepError
from bench.tune.maker import Result, on_scale
from bench.tune.points import Point, Points
from bench.tune.setup import Objective
from bench.tune.space import RUNGS, Params
from bench.tune.stop import Hopeless, TimeIsUp, Watch
from bench.tune.study import Study
from bench.types import Json, Notify

OVERRUN = 0.1
"""Share of the time by which a trial may exceed it, before it is stopped and left for the next session."""
LEAST_OVERRUN = 60.0
MOST_REPEATS = 20
"""Proposals in a row that were tried before: the space is exhausted then."""


class Makes(Protocol):
    """What the search needs of :class:`bench.tune.maker.Maker`."""

    def done(self, point: Point) -> bool: ...
    def trains(self, point: Point) -> bool: ...
    def weight(self, point: Point) -> int | None: ...
    def make(self, point: Point, notify: Notify) -> Result: ...
    def forget(self, point: Point) -> None: ...
    def note(self, number: int, params: Params, result: Result) -> None: ...
    def keep(self, points: Sequence[Point]) -> None: ...


class Budget:
    """The time of a search: ``seconds`` in all (None: no end), of which earlier sessions took ``before``."""

    def __init__(
        self, seconds: float | None, before: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self._before, self._clock, self._start = seconds, before, clock, clock()

    @property
    def spent(self) -> float:
        """Seconds of all sessions."""
        return self._before + self._clock() - self._start

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0; infinite without one."""
        return math.inf if self.seconds is None else max(0.0, self.seconds - self.spent)

    @property
    def over(self) -> bool:
        """Whether even the bound of a trial in progress is passed."""
        end = math.inf if self.seconds is None else self.seconds
        return self.spent > end + max(LEAST_OVERRUN, OVERRUN * end)


@dataclass(frozen=True)
class Found:
    """One line of the answer. ``trial`` is None where no trial made it; ``here``: this run holds it."""

    name: str
    result: Result
    trial: int | None = None
    params: Params | None = None
    by_hand: bool = False
    on_front: bool = False
    here: bool = True


def front_of(found: Sequence[Result]) -> list[Result]:
    """Those that no other beats: at least as accurate for no more cost, and better in one. Cheapest first."""
    complete = [r for r in found if r.state == "complete"]
    best: list[Result] = []
    for result in sorted(complete, key=lambda r: (r.cost.value or 0.0, -(r.accuracy.value or 0.0))):
        if not best or (result.accuracy.value or 0.0) > (best[-1].accuracy.value or 0.0):
            best.append(result)
    return best


class Search:
    """One session of a search. ``trials`` bounds those of all sessions together; None is no bound."""

    def __init__(
        self, points: Points, study: Study, maker: Makes, budget: Budget, notify: Notify,
        objective: Objective, trials: int | None = None,
    ) -> None:  # fmt: skip
        self.points, self.study, self.maker, self.budget = points, study, maker, budget
        self.notify, self.objective, self.trials = notify, objective, trials
        self.reference: Result | None = None
        self.failed: list[str] = []
        self.ended = ""
        self._rungs: dict[str, str | None] = {points.recipe.reference: "none"}
        self._repeats = 0

    def run(self) -> str:
        """Search until the time is up, the trials are done or nothing new is left; says which.

        KeyboardInterrupt passes through: the trial in progress is queued again and what it made is kept.

        Raises:
            StepError: the reference could not be made.
            StoreError: the disk is full.
        """
        try:
            self._make_reference()
            self._make_by_hand()
            while not self.ended:
                self.ended = self._reason_to_stop()
                if not self.ended:
                    self._one()
        finally:
            self._settle()
        return self.ended

    # --- before Optuna

    def _make_reference(self) -> None:
        result = self._make(self.points.reference, self.notify)
        if result.state != "complete":
            raise StepError("The reference could not be made or measured", result.reason)
        if result.ratio.value is not None:
            result = replace(result, cost=self.study.scale(result.cost))
        if result.cost.provenance != "measured":
            text = f"{self.objective} is {result.cost.provenance} here, not measured: {result.cost.method}"
            self.notify("warning", {"text": text})
        self.reference = result

    def _make_by_hand(self) -> None:
        """Make the recipe's own variants (one worker of a study does, for all); queue those that the space has too."""
        if not self.study.claim("by hand"):
            return
        for point in self.points.hand_made():
            made, _ = self.study.by_hand(self.points.signs).get(point.variant, (None, ""))
            if made and made.state == "complete" and self.maker.done(point):
                continue
            if self.maker.trains(point) and self.budget.left <= 0:
                self.notify(
                    "warning", {"text": f"the time is up: {point.variant}, made by hand, was left out"}
                )
                continue
            watch = self._watch(point, front=[], over=lambda: self.budget.over)
            result = self._make(point, watch)
            if isinstance(watch.stopped, TimeIsUp):
                self.ended = f"the time is up; {point.variant}, made by hand, goes on in the next session"
                continue
            params = self.points.params_of(point.variant) if result.state == "complete" else None
            if params is not None:
                self.study.enqueue(params, by_hand=point.variant)
            self.study.made_by_hand(point.variant, self.points.signs[point.variant], result)
            if result.state != "complete":
                self.failed.append(f"{point.variant}: {result.reason}")
        space = self.points.space
        for route in space.values("route"):
            self.study.enqueue(space.first(route, space.values("quantize")[0]))

    # --- one trial

    def _reason_to_stop(self) -> str:
        counted = self._counted()
        if self.trials is not None and counted >= self.trials:
            return f"{counted} of {self.trials} trials are done"
        if self._repeats >= MOST_REPEATS:
            return f"{MOST_REPEATS} proposals in a row were tried before: the space is exhausted"
        return "the time is up" if counted and self.budget.left <= 0 else ""

    def _counted(self) -> int:
        """Trials that came to an end; one that repeats another counts once."""
        return len({t.result.variant or t.number for t in self.study.told() if t.counts and t.result})

    def _one(self) -> None:
        number, params = self.study.ask()
        try:
            point = self.points.of(params)
            known = self._known(point)
            if known is not None:
                self._repeats += 1
                self.study.tell(number, known)
            elif self._has_time(number, point):
                self._repeats = 0
                self._try(number, params, point)
        except ConfigError as err:
            self.study.tell(number, Result("", "pruned", str(err)))
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):
                self.study.put_back(number)
            raise

    def _known(self, point: Point) -> Result | None:
        """What an earlier trial says of this point: it was the same, or a part of this one cannot be had."""
        told = [t.result for t in self.study.told() if t.result and t.state in ("complete", "pruned")]
        by_hand = self.study.by_hand(self.points.signs).values()
        told += [r for r, who in by_hand if who != self.study.worker and r.state == "complete"]
        parts = {v.name for v in point.recipe.variants}
        made = (r for r in told if r.variant == point.variant or (r.broken and r.broken in parts))
        known = next(made, None)
        return None if known is None else replace(known, variant=point.variant)

    def _has_time(self, number: int, point: Point) -> bool:
        """Whether a trial may begin; one that may not goes back to the queue, and the session ends."""
        if self.maker.done(point):
            return True
        expected = self._expected(self.maker.trains(point))
        if expected <= self.budget.left:
            return True
        if not self._counted():
            self.notify("warning", {"text": "the time is shorter than one trial: one is made all the same"})
            return True
        self.study.put_back(number)
        self.ended = f"the next trial takes about {expected:.0f} s, and {self.budget.left:.0f} s are left"
        return False

    def _expected(self, trains: bool) -> float:
        """Seconds of the next trial: the mean of those like it, that train a net or that do not."""
        mine = [t for t in self.study.told() if t.counts and t.worker == self.study.worker]
        seconds = [t.result.seconds for t in mine if t.result and t.result.trained == trains]
        by_hand = self.study.by_hand(self.points.signs).values()
        seconds = seconds or [
            r.seconds for r, who in by_hand if who == self.study.worker and r.trained == trains
        ]
        return sum(seconds) / len(seconds) if seconds else 0.0

    def _try(self, number: int, params: Params, point: Point) -> None:
        self.notify("log", {"text": f"trial {number}: {point.variant}"})
        front = front_of([f.result for f in self._candidates()])
        watch = self._watch(point, front, (lambda: self.budget.over) if self._counted() else lambda: False)
        result = self._make(point, watch)
        if isinstance(watch.stopped, TimeIsUp):
            self.study.put_back(number)
            self.ended = "the time is up; the trial in progress goes on in the next session"
            return
        if isinstance(watch.stopped, Hopeless):
            self.maker.forget(point)
        self.study.tell(number, result)
        self.maker.note(number, params, result)
        self._after(number, params, result)

    def _watch(self, point: Point, front: Sequence[Result], over: Callable[[], bool]) -> Watch:
        """Passes on what is told of a point's making, and ends it where it lags behind ``front`` or the time is ``over``."""
        margin = self.points.space.margin
        return Watch(
            self.notify,
            point.net,
            weight=lambda: self.maker.weight(point),
            front=front,
            margin=margin,
            over=over,
        )

    def _after(self, number: int, params: Params, result: Result) -> None:
        """Say what a trial gave. Where no net of its own rung beats it, queue its cheap other rungs.

        Its own rung, because an int8 net can be on the front whose float parent is beaten by other int8 nets.
        """
        if result.state == "failed":
            self.failed.append(f"trial {number}, {result.variant}: {result.reason}")
        if result.state != "complete":
            self.notify("log", {"text": f"trial {number}: {result.state}: {result.reason}"})
            return
        found = self.answer()
        if any(f.on_front and f.name == result.variant for f in found):
            self.notify("log", {"text": f"trial {number}: on the front"})
        rung = params.get("quantize")
        alike = front_of([f.result for f in found if self._rung(f) == rung])
        if rung is None or result.variant not in {r.variant for r in alike}:
            return
        for other in self.points.space.values("quantize"):
            if RUNGS[other].get("step") != "qat":
                kept = {k: v for k, v in params.items() if not k.startswith(("int8.", "qat."))}
                self.study.enqueue({**kept, "quantize": other})

    def _rung(self, found: Found) -> str | None:
        """How a variant is quantized, in the search's word for it; None where it has none."""
        if found.params is not None:
            return str(found.params.get("quantize"))
        if found.name not in self._rungs:
            params = self.points.params_of(found.name)
            self._rungs[found.name] = self.points.space.value(params, "quantize") if params else None
        return self._rungs[found.name]

    def _make(self, point: Point, notify: Notify) -> Result:
        """Make a point. The run's manifest goes on speaking of what was found so far."""
        start = self.budget.spent

        def watched(event: str, info: Json) -> None:
            if event == "stage" and info.get("name") == "variants":  # the plan of this point was just written
                self._settle()
            notify(event, info)

        result = self.maker.make(point, watched)
        if self.reference is not None:
            result = on_scale(result, self.reference.cost)
        return replace(result, seconds=round(max(result.seconds, self.budget.spent - start), 1))

    # --- the answer

    def answer(self) -> list[Found]:
        """Every variant tried, with what it gave; ``on_front`` marks the Pareto set on validation."""
        found = list(self._candidates())
        front = {id(r) for r in front_of([f.result for f in found])}
        return [replace(f, on_front=id(f.result) in front) for f in found]

    def _candidates(self) -> Iterator[Found]:
        """The reference, what was made by hand, and every trial that is not one of those again."""
        if self.reference is not None:
            yield Found(self.reference.variant, self.reference, by_hand=True)
        by_hand = self.study.by_hand(self.points.signs)
        names = {self.points.recipe.reference, *(n for n, (r, _) in by_hand.items() if r.state == "complete")}
        for result, worker in by_hand.values():
            yield Found(result.variant, result, by_hand=True, here=worker == self.study.worker)
        for told in self.study.told():
            result = told.result  # type: ignore[assignment]
            if result is None or result.variant in names:
                continue
            if told.state == "complete":
                names.add(result.variant)
            here = told.worker == self.study.worker
            yield Found(result.variant, result, told.number, told.params, bool(told.by_hand), here=here)

    def _settle(self) -> None:
        """Write down the time spent and what belongs to the run: reference, made by hand, front."""
        self.study.spent = self.budget.spent
        mine = [f for f in self.answer() if f.here and f.result.state == "complete"]
        by_hand = [self.points.by_hand(f.name) for f in mine if f.by_hand and f.trial is None]
        best = [self.points.of(f.params) for f in mine if f.on_front and f.params is not None]
        there = [
            p for p in (*by_hand, *best) if p.variant != self.points.recipe.reference and self.maker.done(p)
        ]
        self.maker.keep([self.points.reference, *there])
