"""What may be said of a choice: why it was made, what each limit costs and what weakens it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reports import rows as model
from reports import text
from reports.choose import SAME_SIZE, Choice
from reports.limits import METRICS, Metric, percent
from reports.objective import Candidate
from reports.rows import Row

NAMED = 4
"""A sentence names at most so many candidates."""


def cell_name(row: Row) -> str:
    many = f", {row.cell.threads} threads" if row.cell.threads != 1 else ""
    return f"{row.cell.variant} on {row.cell.runtime}{many}"


def named(choice: Choice, candidate: Candidate) -> str:
    """``student-kd on litert``; for several targets the variant alone."""
    return cell_name(candidate.rows[0]) if len(choice.targets) == 1 else candidate.variant


def shown(choice: Choice, candidate: Candidate, metric: Metric) -> str:
    """A value with its unit, of the worst target, which is named where there are several."""
    place = choice.judge.worst(candidate, metric)
    value = metric.show(metric.read(candidate.rows[place]))
    return value if len(choice.targets) == 1 else f"{value} on {choice.targets[place].name}"


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


# --- the paragraph


def explain(choice: Choice) -> str:
    """One paragraph a person can repeat to someone else."""
    return " ".join(
        [_verdict(choice), *_where(choice), *_against(choice), *_tested(choice), *_elsewhere(choice)]
    )


def _verdict(choice: Choice) -> str:
    several = len(choice.targets) > 1
    fitting, refused = 1 + len(choice.runners_up), len(choice.refused)
    asked = " and ".join(limit.words for limit in choice.constraints.limits) or "no constraints"
    places = f" on {text.listed([t.name for t in choice.targets])}" if several else ""
    what, fit = "variant" if several else "cell", "fits" if fitting == 1 else "fit"
    rest = f"{text.plural(refused, 'cell')} {'was' if refused == 1 else 'were'} refused."
    counted = f"{text.plural(fitting, what)} that {fit}{places} ({asked}); {rest}"
    chosen, values = named(choice, choice.chosen), _values(choice)
    if fitting == 1:
        return (
            f"{chosen} is the only {what} that fits{places} ({asked}), with {_values(choice, True)}; {rest}"
        )
    worst = "worst-case " if several else ""
    tied = some([named(choice, c) for c in choice.tied])
    if choice.objective is None:
        line = f"{worst}{choice.by.name} and accuracy"
        bent = choice.chosen in choice.curve[1:-1]
        where = f"is the knee of {line}" if bent else f"is the accurate end of {line}, which have no knee"
        said = f"No objective was given: {chosen} {where} ({values}) among the {counted}"
        return f"{said} It is the smallest of those that cannot be told from it: {tied}." if tied else said
    single = len(choice.objective.terms) == 1
    goal = choice.objective.words if single else f"balance of {choice.objective.words}"
    if tied:
        size = METRICS["size"]
        own = choice.judge.value(choice.chosen, size) or 0.0
        alike = any((choice.judge.value(c, size) or math.inf) <= own * (1 + SAME_SIZE) for c in choice.tied)
        return (
            f"{chosen} is {'among ' if alike else ''}the smallest of {len(choice.tied) + 1} whose {worst}{goal} cannot be told from the best "
            f"({values}); tied: {tied}. They are among the {counted}"
        )
    return f"{chosen} has the best {worst}{goal} ({values}) of the {counted}"


def _values(choice: Choice, with_names: bool = False) -> str:
    several = with_names or len(choice.metrics) > 1
    return ", ".join(
        f"{metric.name} {shown(choice, choice.chosen, metric)}"
        if several
        else shown(choice, choice.chosen, metric)
        for metric in choice.metrics
    )


def _against(choice: Choice) -> list[str]:
    several, found = len(choice.targets) > 1, []
    for target, row in zip(choice.targets, choice.chosen.rows, strict=True):
        faster, smaller = row.relative["x_faster"], row.relative["x_smaller"]
        if row.is_reference or faster.value is None or smaller.value is None:
            continue
        on = f" on {target.name}" if several else ""
        reference = target.run.manifest.get("reference", "")
        found.append(
            f"Against {reference}{on}: {text.ratio(faster, 'interval')} faster, {text.ratio(smaller)} smaller."
        )
    return found


def _where(choice: Choice) -> list[str]:
    """What to run on each target."""
    if len(choice.targets) == 1:
        return []
    latency = METRICS["latency"]
    parts = []
    for target, row in zip(choice.targets, choice.chosen.rows, strict=True):
        value = latency.read(row)
        time = f" ({latency.show(value)})" if value.value is not None else ""
        parts.append(f"{row.cell.runtime} on {target.name}{time}")
    return [f"Run it with {text.listed(parts)}."]


def _tested(choice: Choice) -> list[str]:
    """Accuracy on the test set, which decided nothing."""
    known = [
        row.metrics["accuracy"] for row in choice.chosen.rows if row.metrics["accuracy"].value is not None
    ]
    if not known:
        return []
    said = text.listed(list(dict.fromkeys(percent(quantity) for quantity in known)))
    return [f"Decided on the validation set; accuracy on the test set, not used here, is {said}."]


def _elsewhere(choice: Choice) -> list[str]:
    target = choice.targets[0]
    if len(choice.targets) > 1 or target.asked or target.wanted in ("", "local", target.host):
        return []
    rows = [r for r in model.rows(target.run) if r.cell.host == target.wanted and r.status != "failed"]
    asked = {m.name: m for m in (*choice.metrics, *(x.metric for x in choice.constraints.limits))}
    unknown = [name for name, m in asked.items() if all(m.read(r).value is None for r in rows)]
    what = f"no {text.listed(unknown)}" if rows and unknown else "nothing comparable"
    return [f"Compared on {target.host}: {what} is known for {target.wanted}."]


# --- sensitivity


def _apart(choice: Choice, one: Candidate, other: Candidate, metric: Metric) -> str:
    """``31% less latency``, ``0.8 points more accuracy``: ``other`` against ``one``."""
    base, value = choice.judge.value(one, metric), choice.judge.value(other, metric)
    if base is None or value is None or base <= 0:
        return ""
    if metric.name == "accuracy":
        points = 100 * (value - base)
        return f"{abs(points):.1f} points {'more' if points > 0 else 'less'} accuracy"
    share = value / base - 1
    if share > 1:
        return f"{value / base:.1f} times the {metric.name}"
    return f"{abs(share):.0%} {'more' if share > 0 else 'less'} {metric.name}"


def _instead(choice: Choice, other: Candidate) -> str:
    """Another candidate's name; of the same variant, where it would run on something else."""
    if len(choice.targets) == 1 or other.variant != choice.chosen.variant:
        return named(choice, other)
    changed = [
        f"{new.cell.runtime} on {target.name}"
        for target, old, new in zip(choice.targets, choice.chosen.rows, other.rows, strict=True)
        if old.cell != new.cell
    ]
    return f"{other.variant} with {text.listed(changed)}" if changed else other.variant


def _rounded(bound: float, metric: Metric) -> float:
    """A bound of three digits that lets in what needs ``bound``."""
    if bound == 0:
        return bound
    step = 10.0 ** (math.floor(math.log10(abs(bound))) - 2)
    return (math.ceil(bound / step - 1e-9) if metric.less else math.floor(bound / step + 1e-9)) * step


def sensitivity(choice: Choice) -> list[str]:
    """What each limit costs; without an objective, what lies on both sides of the knee."""
    said = []
    for relaxed in choice.relaxed:
        metric = relaxed.limit.metric
        gains = [_apart(choice, choice.chosen, relaxed.candidate, m) for m in choice.metrics]
        if relaxed.bound is None:
            said.append(
                f"Without the limit on {relaxed.limit.name}, {_instead(choice, relaxed.candidate)} "
                f"would give {text.listed(gains)} (its {relaxed.limit.name} is not known)."
            )
            continue
        more = "more" if metric.less else "less"
        bound = _rounded(relaxed.bound, metric)
        by = metric.amount(abs(relaxed.limit.miss(bound)))
        where = f" on {relaxed.limit.target}" if relaxed.limit.target else ""
        said.append(
            f"If {relaxed.limit.name}{where} could be {metric.amount(bound)} ({by} {more}), "
            f"{_instead(choice, relaxed.candidate)} would give {text.listed(gains)}."
        )
    if choice.chosen in choice.curve:
        at = choice.curve.index(choice.chosen)
        for place in (at - 1, at + 1):
            if 0 <= place < len(choice.curve):
                other = choice.curve[place]
                parts = [_apart(choice, choice.chosen, other, m) for m in (choice.by, METRICS["accuracy"])]
                side = "cheaper" if place < at else "dearer"
                said.append(f"Next {side}: {named(choice, other)}, {text.listed(parts)}.")
    limits, objective = choice.constraints.limits, choice.objective
    if limits and objective and not choice.relaxed:
        goal = objective.words if len(objective.terms) == 1 else f"balance of {objective.words}"
        it = "limit" if len(limits) == 1 else "limits"
        said.append(f"Without the {it} nothing would have a better {goal} beyond doubt.")
    return said


def warnings(choice: Choice) -> list[str]:
    """What weakens the answer."""
    several, found = len(choice.targets) > 1, []
    for target, row in zip(choice.targets, choice.chosen.rows, strict=True):
        on = f" on {target.name}" if several else ""
        if not target.asked and target.wanted not in ("", "local", target.host):
            found.append(f"this is the best on {target.host}, which is not {target.wanted}")
        limits = choice.constraints.on(target.name)
        for limit in limits:
            quantity = limit.metric.read(row)
            if limit.crossed(quantity):
                found.append(
                    f"the interval of {limit.name}{on}, {limit.metric.show(quantity)}, crosses the limit"
                )
        needs = {x.name: x.metric.read(row) for x in limits} | {m.name: m.read(row) for m in choice.metrics}
        for name, quantity in needs.items():
            if quantity.provenance in ("estimated", "predicted"):
                found.append(f"{name}{on} is {quantity.provenance}, not measured")
        missing = row.metrics["val_accuracy"]
        if missing.value is None and any("accuracy" in name for name in needs):
            found.append(
                f"no validation accuracy{on} ({missing.reason}): the test set was used and cannot test this choice"
            )
    return [*found, *_trained_apart(choice)]


def _trained_apart(choice: Choice) -> list[str]:
    """One name may stand for two nets, each trained in its own run."""
    name = choice.chosen.variant
    keys = {(t.run.variants.get(name) or {}).get("key") for t in choice.targets}
    if len(keys) < 2:
        return []
    return [f"{name} was made apart in each run, so that its weights differ between the targets"]
