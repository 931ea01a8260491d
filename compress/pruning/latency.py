"""Pruning to a measured latency: candidates are exported and timed on the runtime against their parent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.errors import ConfigError, EdgefitError, StepError
from bench.types import ExportResult, Quantity, digest
from compress.pruning.budget import Candidate, Job, Shrinker, told, while_better

if TYPE_CHECKING:
    from torch import nn

CLOSE = 0.97
"""A latency between this share of the target and the target ends the search."""
TIMED = 6
"""Candidates that are timed at most (each is exported first: about 8 s for a small net)."""
TIMED_WITH_BLOCKS = 10
GUESSES = 3
"""Nets that are cut for the predictor before the first of these widths is timed."""
NOISY = 1.1
"""An interval whose ends differ by more than a tenth."""
TRIALS = 24
"""Candidates that are made at most in one search over widths; most have a structure that was timed before."""


class Timer:
    """The latency of candidates as a share of their parent's, on the step's runtime; each structure once.

    A noisy timing that leaves open whether the target ``share`` is met is repeated; the narrower interval
    counts.

    Raises:
        ConfigError: when no runtime was lent.
        MissingError: when the runtime is not on this machine.
    """

    def __init__(self, job: Job, share: float = 0.0) -> None:
        if job.ctx.target is None:
            raise ConfigError(
                "Pruning to a latency needs a runtime to time on, and none was lent to this step",
                todo="Choose macs, params or size",
            )
        self.job, self.target, self.share = job, job.ctx.target(job.step.runtime), share
        self._folder = job.ctx.workdir / "timed"
        self._parent = self._export(job.dense, (), "parent")
        self._known: dict[str, Quantity] = {}

    def known(self, candidate: Candidate) -> Quantity | None:
        """Its latency, if a net of this structure was timed before in this search."""
        return self._known.get(_structure(candidate.module))

    def __call__(self, candidate: Candidate, gone: tuple[str, ...] = ()) -> Quantity:
        """Export the candidate, of a net that lacks the blocks ``gone``, and time it by turns with the parent.

        Raises:
            StepError: when it cannot be exported or timed.
        """
        structure = _structure(candidate.module)
        key = ("latency", self.target.runtime, self.target.machine, structure)
        kept = self.job.memory.get(*key)
        if kept is None:
            found = self._measured(candidate.module, (*gone, *candidate.removed))
            self.job.memory.put(found.to_json(), *key)
        else:
            found = Quantity.from_json(kept)
        self._known[structure] = found
        return found

    def foretold(self, module: nn.Module) -> float | None:
        """What the runtime's predictor says of it; None where it has none."""
        pre = self.job.spec.preprocess
        return self.target.foretold(module, (pre.channels, pre.height, pre.width))

    def _measured(self, module: nn.Module, removed: tuple[str, ...]) -> Quantity:
        found = self.ratio(module, removed)
        return min(found, self.ratio(module, removed), key=_spread) if self._unsure(found) else found

    def _unsure(self, found: Quantity) -> bool:
        return _spread(found) > NOISY and (found.low or 0.0) <= self.share <= (found.high or 0.0)

    def ratio(self, module: nn.Module, removed: tuple[str, ...]) -> Quantity:
        """The latency of a net without the ``removed`` blocks over the parent's; raises as a call does."""
        exported = self._export(module, removed, "candidate")
        what = f"A candidate could not be timed on {self.target.runtime}"
        todo = "Name another runtime; `bench doctor` looks at this machine"
        try:
            found = self.target.ratio(self._parent, exported)
        except Exception as error:  # the runtime's own errors, a killed worker, a full disk
            reason = str(error) if isinstance(error, EdgefitError) else f"{type(error).__name__}: {error}"
            raise StepError(what, reason, todo) from error
        if found.value is None:
            raise StepError(what, found.reason, todo)
        return found

    def close(self) -> None:
        """Delete what was exported."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _export(self, module: nn.Module, removed: tuple[str, ...], name: str) -> ExportResult:
        from compress.export import export
        from distill import models

        folder = self._folder / name
        spec, path = self.job.spec, folder / "model.safetensors"
        models.save(module, replace(spec, removed=(*spec.removed, *removed)), path)
        return export(path, self.target.format, "fp32", "", None, self.job.data, folder)


def _spread(found: Quantity) -> float:
    """How far the interval of a ratio reaches: its upper end over its lower."""
    return found.high / found.low if found.high and found.low else float("inf")


def _structure(module: nn.Module) -> str:
    from distill.widths import layer_widths

    return digest(layer_widths(module))


class Search:
    """Finds the candidate with the least damage of those within ``timer.share`` of the parent's latency.

    Widths are searched by their MACs: the first guess is the predictor's (without one, latency is taken for proportional to
    them), the next ones interpolate between what was measured. With blocks, first the least number of them is found that is enough
    at full width; then fewer blocks are tried, with narrower channels, as long as that does less damage: at once, or
    after the step's trials, which the slowest net that is fast enough gets of each number of blocks.
    """

    def __init__(self, shrinker: Shrinker, timer: Timer) -> None:
        self.shrinker, self.timer, self.share = shrinker, timer, timer.share
        self.job = shrinker.job
        self.trials = bool(self.job.step.trial_steps and self.job.step.blocks)
        self.left = 0
        self.timed: list[Candidate] = []
        self.notes: list[str] = []

    def run(self) -> Candidate:
        """The best candidate; the fastest, when none is fast enough."""
        for order in self.shrinker.orders:
            self.left = TIMED_WITH_BLOCKS if order else TIMED
            for _ in while_better(self._walk(order)):
                pass
        return self._best() or min(self.timed, key=_value)

    def _walk(self, order: tuple[str, ...]) -> Iterator[Candidate]:
        """The best candidate of each number of blocks, from the number that is enough down."""
        enough = self._enough_blocks(order) if order else 1
        yield from self._tried(order[:enough])
        for count in range(min(enough, len(order) + 1) - 1, -1, -1):
            more = self._narrow(order[:count])
            yield from self._tried(order[:count])
            if not more:
                break

    def _tried(self, removed: tuple[str, ...]) -> Iterator[Candidate]:
        """Of the candidates without these blocks that are fast enough the slowest, after its trial."""
        met = [c for c in self.timed if c.removed == removed and _value(c) <= self.share]
        if self.trials and met:
            slowest = max(met, key=_value)
            found = self.shrinker.trial(slowest)
            self.timed[self.timed.index(slowest)] = found
            self._note(f"tried: {found.describe(self.job)}")
            yield found

    def _best(self) -> Candidate | None:
        met = [c for c in self.timed if _value(c) <= self.share]
        met = [c for c in met if c.trained is not None or not self.trials]
        return min(met, key=lambda candidate: candidate.loss, default=None)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.job.ctx.notify("log", {"text": text})

    def _time(self, candidate: Candidate) -> float | None:
        """Its latency; None when it would have to be measured and the budget of measurements is used up."""
        latency = self.timer.known(candidate)
        if latency is None:
            if not self.left:
                return None
            self.left -= 1
            latency = self.timer(candidate, self.shrinker.gone)
            candidate = replace(candidate, latency=latency)
            self.timed.append(candidate)
            self._note(f"timed: {candidate.describe(self.job)}")
        return float(latency.value or 0.0)

    def _enough_blocks(self, order: tuple[str, ...]) -> int:
        """The least number of blocks that must go at full width; one more than there are when all are not enough."""
        most = len(order)
        few, many = 0, most + 1
        limit, count = self.share * self.job.macs, 1
        while count < most and self.shrinker.shorter(order[:count]).costs.macs > limit:
            count += 1
        while many - few > 1:
            latency = self._time(self.shrinker.full(order[:count]))
            if latency is None:
                break
            few, many = (few, count) if latency <= self.share else (count, many)
            saved = max(1e-3, (1 - latency) / count)
            count = min(max(round((1 - self.share) / saved), few + 1), many - 1)
        return many

    def _narrow(self, removed: tuple[str, ...]) -> bool:
        """Search the widths of the net without these blocks; False: fewer need not be tried."""
        widest = self.shrinker.shorter(removed).costs.macs / self.job.macs
        least = self.shrinker.narrowest(removed)
        slow, fast = (widest, self._at_full_width(removed)), None
        guess = self._first_guess(removed, slow, least)
        tried = False
        for _ in range(TRIALS):
            guess = min(max(guess, least), widest)
            candidate = self.shrinker.narrow(removed, self.job.budget("macs", guess))
            best = None if self.trials else self._best()
            if self.timer.known(candidate) is None and best and candidate.damage >= best.damage:
                self.notes.append(f"not timed, more damage: {candidate.describe(self.job)}")
                return tried
            latency = self._time(candidate)
            if latency is None:
                return False
            tried = True
            if latency <= self.share:
                fast = (guess, latency)
            elif guess <= least:
                return False  # the narrowest is too slow, and more blocks are slower still
            else:
                slow = (guess, latency)
            if CLOSE * self.share <= latency <= self.share or (fast and slow[0] - fast[0] < 1e-3):
                return True
            guess = _between(slow, fast, self.share, least)
        return True

    def _first_guess(self, removed: tuple[str, ...], slow: tuple[float, float], least: float) -> float:
        """The share of MACs at which the net is foretold to meet the target, from (MACs, latency) at full width."""
        widest, guess = slow[0], slow[0] * self.share / slow[1]
        full = self.timer.foretold(self.shrinker.shorter(removed).module)
        if full is None:
            return guess
        aim, enough = full * self.share / slow[1] * (1 + CLOSE) / 2, full * self.share * (1 - CLOSE) / 2
        for _ in range(GUESSES):
            guess = max(least, min(guess, 0.99 * widest))
            found = self.timer.foretold(self.shrinker.sketch(removed, self.job.budget("macs", guess)))
            if found is None or found >= full or abs(found - aim) <= enough:
                break
            guess = widest - (widest - guess) * (full - aim) / (full - found)
        return guess

    def _at_full_width(self, removed: tuple[str, ...]) -> float:
        """Latency of the net without these blocks: measured, or in proportion to a number that was."""
        if not removed:
            return self._before()
        full = self.timer.known(self.shrinker.full(removed))
        if full is not None:
            return float(full.value or 1.0)
        count = len(removed)
        known = {len(c.removed): _value(c) for c in self.timed if c.cut == 0.0}
        more = min((n for n in known if n > count), default=0)
        before = self._before()
        return before - (before - known[more]) * count / more if more else before

    def _before(self) -> float:
        """Latency of the net that this stage begins with: the parent's, or a narrower one's as it is foretold."""
        net = self.shrinker.shorter(())
        share = net.costs.macs / self.job.macs
        if share >= 1.0:
            return 1.0
        now, dense = self.timer.foretold(net.module), self.timer.foretold(self.job.dense)
        return now / dense if now and dense else share


def _between(
    slow: tuple[float, float], fast: tuple[float, float] | None, share: float, least: float
) -> float:
    """The next share of MACs to try, from (MACs, latency) that is too slow and perhaps one that is not."""
    if fast is None:
        # Proportional from the last measurement, and a little further: the bracket must be closed.
        return max(least, slow[0] * max(0.5, 0.98 * share / slow[1]))
    room = slow[0] - fast[0]
    rise = max(1e-6, slow[1] - fast[1])
    ahead = room * (0.99 * share - fast[1]) / rise
    return fast[0] + min(max(ahead, 0.2 * room), 0.8 * room)


def _value(candidate: Candidate) -> float:
    return float(candidate.latency.value or 0.0) if candidate.latency else float("inf")


def to_latency(shrinker: Shrinker, timer: Timer) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate with the least damage within ``timer.share`` of the parent's latency, and notes.

    When no candidate is that fast, the fastest is kept and said.

    Raises:
        StepError: when a candidate cannot be made, exported or timed.
    """
    job, search = shrinker.job, Search(shrinker, timer)
    best = search.run()
    aim = f"of the parent's on {job.step.runtime} (target {timer.share:.2f}x)"
    text = f"latency {told(best.latency)} {aim}" if best.latency else f"no candidate was timed {aim}"
    if _value(best) > timer.share:
        text = f"the target cannot be met, the closest is kept: {text}"
        job.ctx.notify("warning", {"variant": job.ctx.variant, "text": text})
    return best, (text, *search.notes)
