"""Smaller candidates of a net, and the one that meets a budget of MACs or parameters best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.errors import StepError
from bench.steps import PruneStep
from bench.types import Quantity, StepContext
from compress.pruning import blocks, channels, costs
from compress.pruning.costs import Budget, Costs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compress.pruning.judge import Judge
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
    whole: tuple[str, ...] = ()

    def budget(self, what: str, share: float) -> Budget:
        """``share`` of the dense parent's; a file's ``size`` is counted by its parameters."""
        return Budget("macs", share, self.macs) if what == "macs" else Budget("params", share, self.params)


@dataclass(frozen=True)
class Candidate:
    """A smaller net, its batch norms measured anew: ``removed`` blocks and a share ``cut`` of units went.

    ``damage`` is :meth:`compress.pruning.judge.Judge.damage`; ``widths`` describes the groups of channels.
    """

    module: nn.Module
    removed: tuple[str, ...]
    cut: float
    macs: int
    params: int
    damage: float
    widths: str
    latency: Quantity | None = None

    def describe(self, job: Job) -> str:
        """One line of the table of candidates."""
        gone = f"{len(self.removed)} block{'s' * (len(self.removed) != 1)} and " if job.step.blocks else ""
        shares = f"MACs {self.macs / job.macs:.3f}, parameters {self.params / job.params:.3f}"
        timed = f"{told(self.latency)}, " if self.latency is not None else ""
        return f"{gone}{self.cut:.2f} of the units gone: {timed}{shares}, damage {self.damage:.3f}"


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
    """Makes candidates of one net: so many blocks gone, the channels of the rest narrowed to a budget."""

    def __init__(self, job: Job, module: nn.Module) -> None:
        self.job, self.module = job, module
        self._shorter: dict[int, _Shorter] = {}
        self._made: dict[tuple[int, ...], Candidate] = {}

    @cached_property
    def order(self) -> list[str]:
        """The blocks that may go, the one that is missed least first; empty when none may."""
        if not self.job.step.blocks:
            return []
        found = blocks.removable(self.module, self.job.example)
        self.job.ctx.notify("log", {"text": f"ranking {len(found)} blocks that can be left out"})
        return blocks.order(self.module, found, self.job.judge)

    @property
    def counts(self) -> range:
        """How many blocks may go."""
        return range(len(self.order) + 1)

    def shorter(self, count: int) -> _Shorter:
        """The net without the ``count`` blocks that are missed least."""
        if count not in self._shorter:
            from distill import models

            job, removed = self.job, tuple(self.order[:count])
            module = blocks.without(self.module, removed)
            present = dict(module.named_modules())
            whole = [name for name in job.whole if name in present]
            groups, _ = channels.find_groups(
                module, job.example, job.step.importance, job.spec.classes, job.data, whole, job.ctx.seed
            )
            cost = costs.find_costs(module, job.example[:1], *models.count(module, job.spec.preprocess))
            self._shorter[count] = _Shorter(module, removed, groups, cost)
        return self._shorter[count]

    def full(self, count: int) -> Candidate:
        """Without ``count`` blocks, at full width."""
        found = self.shorter(count)
        return self._candidate(found, [group.units for group in found.groups])

    def narrow(self, count: int, budget: Budget) -> Candidate:
        """Without ``count`` blocks, and as narrow as the budget wants it.

        Raises:
            StepError: when the narrowest is above the budget.
        """
        found, step = self.shorter(count), self.job.step
        return self._candidate(
            found, costs.search(found.groups, found.costs, budget, step.scope, step.round_to)
        )

    def narrowest(self, count: int) -> float:
        """The share of the dense parent's MACs that is left without ``count`` blocks, at the least width."""
        found = self.shorter(count)
        kept = costs.narrowest(found.groups, self.job.step.round_to)
        return (found.costs.after(found.groups, kept)[0] + 0.5) / self.job.macs  # half: so that it is enough

    def _candidate(self, found: _Shorter, kept: channels.Kept) -> Candidate:
        key = (len(found.removed), *kept)
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

    With blocks, every number of them is tried, up to the one at which no channel has to go.

    Raises:
        StepError: when none is within the budget; says how close one gets.
    """
    found, problem = [], StepError("There is nothing to prune in this model")
    for count in shrinker.counts:
        try:
            found.append(shrinker.narrow(count, budget))
        except StepError as error:
            problem = error
            continue
        if found[-1].cut == 0.0:
            break
    if not found:
        raise problem
    best = min(found, key=lambda candidate: candidate.damage)
    table = tuple(f"tried: {candidate.describe(shrinker.job)}" for candidate in found)
    return best, table if len(found) > 1 else ()
