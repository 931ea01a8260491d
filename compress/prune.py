"""The pruning step: fewer channels and blocks, or zeros among the weights, until a target is met."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, StepError, nearest
from bench.steps import NOT_IN_PRUNING, PruneStep
from bench.types import Json, StepContext, StepResult, digest, to_json
from compress.pruning import importance

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from compress.pruning.budget import Candidate, Job

TARGETS = ("macs", "params", "size", "latency")
SCOPES = ("global", "local", "isomorphic")
SPARSITIES = ("", "2:4", "unstructured")
LEAST_MULTIPLE = 8
"""Of channels, where the step names none: the floats of AVX2, two registers of NEON."""
CLOSE = 0.9
"""A multiple suits a net that comes this close to the target with it."""


def check_prune(step: PruneStep) -> None:
    """Refuse impossible options, without importing torch.

    Raises:
        ConfigError: a value out of range, an unknown name, or options that exclude each other.
    """
    given = [name for name in TARGETS if getattr(step, name) != 0]
    for name in given:
        if not 0.0 < getattr(step, name) < 1.0:
            raise ConfigError(
                f"{name} must be a fraction of the parent's between 0 and 1",
                f"{name} = {getattr(step, name)}",
                "Try 0.5",
            )
    if len(given) > 1:
        raise ConfigError(
            "Pruning takes one target",
            " and ".join(f"{name} = {getattr(step, name)}" for name in given),
            "Leave out all but one",
        )
    for name, known in (
        ("importance", importance.NAMES),
        ("scope", SCOPES),
        ("sparsity", SPARSITIES),
    ):
        value = getattr(step, name)
        if value not in known:
            raise ConfigError(f"Unknown {name} {value!r}", todo=nearest(value, filter(None, known)))
    for name, least in (
        ("round_to", 0), ("kernels", 1), ("steps", 1), ("step_epochs", 0), ("sparse_epochs", 0), ("trial_steps", 0),
    ):  # fmt: skip
        value = getattr(step, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}", f"{name} = {value}")
    if step.step_epochs and step.steps == 1:
        raise ConfigError(
            "step_epochs trains between the stages of a pruning, and there is one", "steps = 1", "Raise steps"
        )
    if step.trial_steps and not step.blocks:
        raise ConfigError(
            "trial_steps trains candidates that differ in their blocks", "blocks = false", "Use blocks = true"
        )
    if step.sparsity:
        _check_sparsity(step, given)
    elif step.amount != PruneStep.amount:
        raise ConfigError(
            "amount is the share of zeros of an unstructured sparsity",
            f'amount = {step.amount} and sparsity = ""',
            'Use sparsity = "unstructured", or a target such as macs',
        )
    elif step.runtime != PruneStep.runtime and not step.latency:
        raise ConfigError(
            "Pruning to a share of MACs, parameters or size times nothing",
            f"runtime = {step.runtime}",
            "Leave it out, or prune to a latency",
        )
    if step.trains:
        from distill.train import check_training

        check_training(step.training)


def check_trained(step: PruneStep, chosen: Iterable[str], place: str = "") -> None:
    """Refuse options of training, ``chosen`` for this pruning, that it does not use."""
    unused = [name for name in chosen if not step.trains or name in NOT_IN_PRUNING]
    if not unused:
        return
    why = "says with options of its own how long it trains" if step.trains else "trains nothing"
    raise ConfigError(
        f"{place}this pruning {why}, and {', '.join(unused)} would do nothing",
        todo="It trains by sparse_epochs, by step_epochs between its steps, or by trial_steps with blocks; "
        "its accuracy is recovered by a distill or train step after it",
    )


def _check_sparsity(step: PruneStep, given: list[str]) -> None:
    if not 0.0 < step.amount < 1.0:
        raise ConfigError(
            "amount must be a fraction of the weights between 0 and 1", f"amount = {step.amount}"
        )
    default = {field.name: field.default for field in fields(PruneStep)}
    never = ("blocks", "sparse_epochs", "round_to")
    unused = [*given, *(n for n in never if getattr(step, n) != default[n])]
    if step.importance not in ("l1", "l2"):
        unused.append("importance")
    if step.sparsity == "unstructured" and step.scope == "isomorphic":
        unused.append("scope = isomorphic")
    if step.sparsity == "2:4":
        unused += [n for n in ("amount", "steps", "scope") if getattr(step, n) != default[n]]
    if unused:
        raise ConfigError(
            f"sparsity = {step.sparsity!r} makes weights zero and does not use {', '.join(unused)}",
            todo="Leave them out; channels and zeros take two steps, one after the other",
        )


def run_prune(step: PruneStep, ctx: StepContext) -> StepResult:
    """Make the parent smaller until the step's target is met, and write it to ``ctx.workdir``.

    The batch-norm statistics are measured anew on calibration images; after the last stage the weights are
    not trained: recover them with a distillation step. A latency that cannot be met leaves the closest
    candidate and says so.

    Raises:
        ConfigError: see :func:`check_prune`.
        MissingError: when the runtime to time on is not here.
        StepError: when the target cannot be reached (with the closest that can), or the model not be pruned.
    """
    check_prune(step)
    if ctx.parent is None:
        raise ConfigError("Pruning needs a parent", todo="Name the variant to prune in the recipe")
    with _said() as said:
        job = _job(step, ctx)
        if step.sparsity:
            from compress.pruning import sparsity

            module, rows, notes = sparsity.make_sparse(job)
            spec = replace(job.spec, sparsity=step.sparsity)
        else:
            found, rows, notes = _shrink(job)
            module, spec = found.module, _smaller_spec(job, found)
    return _finish(job, module, spec, rows, (*notes, *said))


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collects what Torch-Pruning warns of."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        yield said
    said += dict.fromkeys(str(w.message) for w in caught if "torch_pruning" in w.filename)


def _job(step: PruneStep, ctx: StepContext) -> Job:
    """Load the parent, count it, and find out what of it cannot get narrower."""
    import torch

    from compress.pruning import channels
    from compress.pruning.budget import Job
    from compress.pruning.judge import Judge
    from compress.pruning.memory import Memory
    from distill import models
    from distill.train import check_float

    parent: Path = ctx.parent  # type: ignore[assignment]
    module, spec = models.load(parent)
    check_float(spec, "parent")
    data, pre = ctx.data(), spec.preprocess
    weights = hashlib.sha256(parent.read_bytes()).hexdigest()
    memory = Memory(
        ctx.workdir / "search.json", digest([to_json(step), ctx.seed, data.index.digest, weights])
    )
    macs, params = models.count(module, pre)
    example = torch.zeros(2, pre.channels, pre.height, pre.width)
    job = Job(step, ctx, data, spec, module, example, macs, params, Judge(module, data), memory)
    if step.sparsity:
        return job
    groups, whole = channels.find_groups(module, example, step.importance, spec.classes, data)
    module.requires_grad_(False)
    for multiple in (step.round_to,) if step.round_to else _multiples(step.kernels):
        unfit = channels.unfit(module, example, groups, multiple)
        job = replace(job, step=replace(step, round_to=multiple), whole=(*whole, *unfit))
        if step.round_to or _comes_close(job):
            break
    return job


def _multiples(kernels: int) -> Iterator[int]:
    yield kernels
    while (kernels := kernels // 2) >= LEAST_MULTIPLE:
        yield kernels


def _comes_close(job: Job) -> bool:
    """Whether fewer channels alone, in the job's multiples, spend most of the budget; a latency's is that of MACs."""
    from compress.pruning import costs
    from compress.pruning.budget import Shrinker

    what, share = target(job.step)
    budget = job.budget(what, share)
    net = Shrinker(replace(job, step=replace(job.step, importance="l1")), job.dense).shorter(())
    try:
        kept = costs.search(net.groups, net.costs, budget, job.step.scope, job.step.round_to)
    except StepError:
        return False
    return budget.spent(net.costs, net.groups, kept) >= CLOSE * budget.limit


def _shrink(job: Job) -> tuple[Candidate, list[Json], tuple[str, ...]]:
    """All stages; returns the last candidate (with every block that went), the history and notes."""
    from compress.pruning import between
    from compress.pruning.budget import Shrinker, to_budget
    from compress.pruning.judge import accuracy
    from compress.pruning.latency import Timer, to_latency

    step, (what, share) = job.step, target(job.step)
    module, removed = copy.deepcopy(job.dense), tuple[str, ...]()
    rows: list[Json] = []
    notes: list[str] = []
    # Before any training: a runtime that is not here should not be found out after hours.
    with closing(Timer(job, share)) if what == "latency" else nullcontext() as timer:
        if step.sparse_epochs:
            rows += between.train(job, module, step.sparse_epochs, "sparse", between.penalty_of(job, module))
            seen = accuracy(module, job.data)
            notes.append(
                f"group-sparse training, epochs {step.sparse_epochs}: validation accuracy {seen:.4f}"
            )
        for stage in range(1, step.steps + 1):
            last, shrinker = stage == step.steps, Shrinker(job, module, stage, removed)
            if last and timer is not None:
                found, table = to_latency(shrinker, timer)
            else:
                # On the way to a latency, the same share of MACs: nobody needs to time what nobody ships.
                aim = job.budget(what, share ** (stage / step.steps))
                found, table = to_budget(shrinker, aim)
            removed, module = (*removed, *found.removed), found.module
            if not last and step.step_epochs:
                rows += between.train(job, module, step.step_epochs, f"stage-{stage}")
                seen = accuracy(module, job.data)
                notes.append(
                    f"stage {stage} of {step.steps}: {found.describe(job)}, then trained to {seen:.4f}"
                )
    if step.blocks:
        notes.append(_about_blocks(shrinker.orders, removed))
    notes += [*table, f"widths, in multiples of {step.round_to}: {found.widths}"]
    if job.whole:
        unscored = ", or has no batch norm to score them by" * (step.importance == "bn")
        notes.append(
            f"left whole, since the net does not run with them narrower{unscored}: {', '.join(job.whole)}"
        )
    return replace(found, removed=removed), rows, tuple(notes)


def target(step: PruneStep) -> tuple[str, float]:
    """(what, share of the parent's): half of the MACs where the step names nothing."""
    return next(((name, getattr(step, name)) for name in TARGETS if getattr(step, name)), ("macs", 0.5))


def _about_blocks(orders: list[tuple[str, ...]], removed: tuple[str, ...]) -> str:
    if not any(orders) and not removed:
        return "no residual block of this net can be left out: only channels went"
    names = ("the least missed", "the fewest weights a MAC")
    tried = "; ".join(f"from {name}: {', '.join(order)}" for name, order in zip(names, orders, strict=False))
    return f"blocks left out: {', '.join(removed) or 'none'} ({tried})"


def _smaller_spec(job: Job, found: Candidate) -> Any:
    """The parent's description and the blocks that went; missing channels break the pattern of 2:4."""
    kept_zeros = "unstructured" if job.spec.sparsity else ""
    return replace(job.spec, removed=(*job.spec.removed, *found.removed), sparsity=kept_zeros)


def _finish(job: Job, module: nn.Module, spec: Any, rows: list[Json], notes: tuple[str, ...]) -> StepResult:
    """Save the result, check that the file gives it back, and put into words what was reached."""
    from compress.pruning.judge import accuracy
    from distill import models

    path = job.ctx.workdir / "pruned.safetensors"
    models.save(module, spec, path)
    macs, params = models.count(module, spec.preprocess)
    _check_saved(module, path, job.example)
    before, now = accuracy(job.dense, job.data), accuracy(module, job.data)
    job.ctx.notify("pruned", {"macs": macs, "params": params, "val_accuracy": now})
    return StepResult(
        model=path,
        macs=macs,
        params=params,
        history=tuple(row | {"epoch": i} for i, row in enumerate(rows, 1)),
        notes=(
            *_reached(job, macs, params),
            *notes,
            f"validation accuracy right after pruning {now:.4f}, before {before:.4f}",
        ),
    )


def _reached(job: Job, macs: int, params: int) -> tuple[str, ...]:
    what, share = target(job.step)
    aim = {what: f"target {share:.3f}, "} if not job.step.sparsity else {}
    counted = " (of a file's size: 4 bytes a parameter, the graph comes on top)" if what == "size" else ""
    parameters = aim.get("params", "") or aim.get("size", "")
    return (
        f"MACs {job.macs:,} -> {macs:,} ({aim.get('macs', '')}reached {macs / job.macs:.3f})",
        f"parameters {job.params:,} -> {params:,} ({parameters}reached {params / job.params:.3f}){counted}",
    )


def _check_saved(module: nn.Module, path: Path, example: torch.Tensor) -> None:
    """A file that does not give the same model back is found here, not by the steps that build on it."""
    import torch

    from distill import models

    again = models.load(path)[0]
    with torch.no_grad():
        if not torch.allclose(again(example + 0.5), module.eval()(example + 0.5), atol=1e-5):
            raise StepError(
                "The pruned model changes when it is saved and loaded",
                todo="Its architecture keeps widths outside its layers and cannot be pruned",
            )
