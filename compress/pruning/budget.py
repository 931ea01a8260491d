"""Smaller candidates of a net, and the one that meets a budget of MACs or parameters best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.errors import StepError
from bench.steps import PruneStep
from bench.types import Quantity, StepContext, digest
from compress.pruning import blocks, channels, costs
from compress.pruning.costs import Budget, Costs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compress.pruning.judge import Judge
    from compress.pruning.memory import Memory
    from distill.models import ModelSpec


@dataclass(frozen=True)
class Job:
    """One pruning: the dense parent, what it costs, and all that its candidates are made and judged with.

    ``whole`` are layers that start groups of channels which must stay as they are.
    """

    step: PruneStep
    ctx: StepContext
    data: Any
    spec: ModelSpec
    dense: nn.Module
    example: torch.Tensor
    macs: int
    params: int
    judge: Judge
    memory: Memory
    whole: tuple[str, ...] = ()

    def budget(self, what: str, share: float) -> Budget:
        """``share`` of the dense parent's; a file's ``size`` is counted by its parameters, a ``latency`` by MACs."""
        if what in ("macs", "latency"):
            return Budget("macs", share, self.macs, what)
        return Budget("params", share, self.params, what)


@dataclass(frozen=True)
class Candidate:
    """A smaller net, its batch norms measured anew: ``removed`` blocks and a share ``cut`` of units went.

    ``damage`` is :meth:`compress.pruning.judge.Judge.damage`; ``trained`` the same after the step's ``trial_steps``, None
    before; ``widths`` describes the groups of channels.
    """

    module: nn.Module
    removed: tuple[str, ...]
    cut: float
    macs: int
    params: int
    damage: float
    widths: str
    latency: Quantity | None = None
    trained: float | None = None

    @property
    def loss(self) -> float:
        """What candidates are compared by: the damage that a short training leaves, where there was one."""
        return self.damage if self.trained is None else self.trained

    def describe(self, job: Job) -> str:
        """One line of the table of candidates."""
        gone = f"{len(self.removed)} block{'s' * (len(self.removed) != 1)} and " if job.step.blocks else ""
        shares = f"MACs {self.macs / job.macs:.3f}, parameters {self.params / job.params:.3f}"
        timed = f"{told(self.latency)}, " if self.latency is not None else ""
        text = f"{gone}{self.cut:.2f} of the units gone: {timed}{shares}, damage {self.damage:.3f}"
        if self.trained is None:
            return text
        return f"{text}, {self.trained:.3f} after {job.step.trial_steps} steps of training"


def told(latency: Quantity) -> str:
    """A ratio with its interval: ``0.61x [0.59, 0.63], n=3``."""
    bounds = "" if latency.low is None else f" [{latency.low:.2f}, {latency.high:.2f}]"
    return f"{latency.value:.2f}x{bounds}, n={latency.n}"


@dataclass(frozen=True)
class _Shorter:
    """The net with some blocks gone, and what can still be pruned of it."""

    module: nn.Module
    removed: tuple[str, ...]
    groups: Sequence[channels.Group]
    costs: Costs


class Shrinker:
    """Makes candidates of one net: some blocks ``removed``, the channels of the rest narrowed to a budget.

    The net is what a ``stage`` of the pruning begins with: ``gone`` are the blocks that earlier ones left out.
    """

    def __init__(self, job: Job, module: nn.Module, stage: int = 1, gone: tuple[str, ...] = ()) -> None:
        self.job, self.module, self.stage, self.gone = job, module, stage, gone
        self._shorter: dict[tuple[str, ...], _Shorter] = {}
        self._made: dict[tuple[Any, ...], Candidate] = {}

    @cached_property
    def orders(self) -> list[tuple[str, ...]]:
        """In which orders blocks may go; one empty order when none may.

        The one that is missed least goes first. What is missed before any training is often soon learned again, while
        weights that are gone are not: with trials, which tell, there is a second order, by the fewest weights a MAC.
        """
        if not self.job.step.blocks:
            return [()]
        found = blocks.removable(self.module, self.job.example)
        self.job.ctx.notify("log", {"text": f"ranking {len(found)} blocks that can be left out"})
        missed = tuple(blocks.order(self.module, found, self.job.judge))
        light = tuple(sorted(missed, key=self._weights_a_mac)) if self.job.step.trial_steps else missed
        return list(dict.fromkeys([missed, light]))

    def _weights_a_mac(self, name: str) -> float:
        costs = self.shorter(()).costs
        left = self.shorter((name,)).costs
        return (costs.params - left.params) / max(1, costs.macs - left.macs)

    def shorter(self, removed: tuple[str, ...]) -> _Shorter:
        """The net without the ``removed`` blocks."""
        if removed not in self._shorter:
            from distill import models

            job = self.job
            module = blocks.without(self.module, removed)
            present = dict(module.named_modules())
            whole = [name for name in job.whole if name in present]
            groups, _ = channels.find_groups(
                module, job.example, job.step.importance, job.spec.classes, job.data, whole, job.ctx.seed
            )
            cost = costs.find_costs(module, job.example[:1], *models.count(module, job.spec.preprocess))
            self._shorter[removed] = _Shorter(module, removed, groups, cost)
        return self._shorter[removed]

    def full(self, removed: tuple[str, ...]) -> Candidate:
        """Without these blocks, at full width."""
        found = self.shorter(removed)
        return self._candidate(found, [group.units for group in found.groups])

    def narrow(self, removed: tuple[str, ...], budget: Budget) -> Candidate:
        """Without these blocks, and as narrow as the budget wants it.

        Raises:
            StepError: when the narrowest is above the budget.
        """
        found, step = self.shorter(removed), self.job.step
        return self._candidate(
            found, costs.search(found.groups, found.costs, budget, step.scope, step.round_to)
        )

    def sketch(self, removed: tuple[str, ...], budget: Budget) -> nn.Module:
        """The net that :meth:`narrow` would judge, cut but not judged; raises as that does."""
        found, step = self.shorter(removed), self.job.step
        kept = costs.search(found.groups, found.costs, budget, step.scope, step.round_to)
        return channels.cut(found.module, self.job.example, found.groups, kept)

    def narrowest(self, removed: tuple[str, ...]) -> float:
        """The share of the dense parent's MACs that is left without these blocks, at the least width."""
        found = self.shorter(removed)
        kept = costs.narrowest(found.groups, self.job.step.round_to)
        return (found.costs.after(found.groups, kept)[0] + 0.5) / self.job.macs  # half: so that it is enough

    def trial(self, candidate: Candidate) -> Candidate:
        """The candidate with its damage after the step's short training; as it is where none is asked for.

        The candidate's own weights stay as they were cut (cf. Yang et al., NetAdapt, 2018, which trains each proposal a little).

        Raises:
            StepError: when the loss is not finite.
        """
        if not self.job.step.trial_steps:
            return candidate
        from compress.pruning import between

        key = ("trained", self.stage, candidate.removed, candidate.widths)
        damage = self.job.memory.get(*key)
        if damage is None:
            module = between.trial(self.job, candidate.module, f"trial-{digest(key)}")
            damage = self.job.judge.damage(module)
            self.job.memory.put(damage, *key)
        return replace(candidate, trained=damage)

    def _candidate(self, found: _Shorter, kept: channels.Kept) -> Candidate:
        key = (found.removed, *kept)
        if key not in self._made:
            self._made[key] = self._make(found, kept)
        return self._made[key]

    def _make(self, found: _Shorter, kept: channels.Kept) -> Candidate:
        from distill import models

        job = self.job
        module = channels.cut(found.module, job.example, found.groups, kept)
        job.judge.recalibrate(module)
        macs, params = models.count(module, job.spec.preprocess)
        share = 1 - sum(kept) / sum(group.units for group in found.groups)
        widths = _widths(found, kept)
        return Candidate(module, found.removed, share, macs, params, job.judge.damage(module), widths)


def _widths(found: _Shorter, kept: channels.Kept) -> str:
    names = {layer: name for name, layer in found.module.named_modules()}
    return ", ".join(
        f"{names[group.root]} {group.units * group.sets}"
        + (f" -> {keep * group.sets}" if keep < group.units else "")
        for group, keep in zip(found.groups, kept, strict=True)
    )


def to_budget(shrinker: Shrinker, budget: Budget) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate within ``budget`` that does the least damage, and notes on those it was chosen from.

    With blocks, every number of them is tried, up to the one at which no channel has to go; with trials, from that one
    down for as long as it helps.

    Raises:
        StepError: when none is within the budget; says how close one gets.
    """
    found: list[Candidate] = []
    problem = StepError(
        "There is nothing to prune in this model",
        todo="Distil a smaller model from it, or choose another model",
    )
    for order in shrinker.orders:
        within: list[Candidate] = []
        for count in range(len(order) + 1):
            try:
                within.append(shrinker.narrow(order[:count], budget))
            except StepError as error:
                problem = error
                continue
            if within[-1].cut == 0.0:
                break
        found += list(while_better(map(shrinker.trial, reversed(within)))) if len(order) else within
    if not found:
        raise problem
    best = min(found, key=lambda candidate: candidate.loss)
    table = tuple(f"tried: {candidate.describe(shrinker.job)}" for candidate in found)
    return best, table if len(found) > 1 else ()


def while_better(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Candidates up to the first that a trial found worse than the one before it."""
    before = math.inf
    for candidate in candidates:
        yield candidate
        if candidate.trained is not None and candidate.trained >= before:
            return
        before = candidate.loss
