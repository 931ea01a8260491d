"""Two accuracies: by the answers to the same images where they are known, else as two numbers."""

from __future__ import annotations

import math
from dataclasses import replace

from bench import stats
from bench.gate import lines, numbers
from bench.gate.lines import Line, direction
from bench.gate.looks import ALPHA
from bench.gate.sides import Answers, Side, Source, Subject
from bench.gate.sources import Options
from bench.measure.paired import Verdict
from bench.types import Notify, Quantity
from reports.rows import weakest


def judge(
    subject: Subject, gate: float, base: Source, head: Source, options: Options, notify: Notify
) -> Line:
    """From the answers to the same images, asked for now where they were not stored; else from the two numbers."""
    both = base.sides[subject], head.sides[subject]
    pre = both[0].artifact.preprocess or both[1].artifact.preprocess
    # a file made elsewhere is fed as its other version
    fed = [replace(s, artifact=replace(s.artifact, preprocess=s.artifact.preprocess or pre)) for s in both]
    data = options.data or base.data or head.data
    answers = [answered(subject, side, data, options, notify) for side in fed]
    known = [
        a.accuracy() if a is not None else s.numbers.get("accuracy")
        for a, s in zip(answers, both, strict=True)
    ]
    one, other = answers
    if one is not None and other is not None:
        if one.images != other.images:
            return lines.unknown(subject, "accuracy", gate, "the two were tested on different images", known)
        return lines.accuracy(subject, gate, one, other)
    before, after = known
    if before is None or after is None or before.value is None or after.value is None:
        ask = "not both have an accuracy" if options.compare else "no answers to the same images: give --data"
        return lines.unknown(subject, "accuracy", gate, ask, known)
    if base.digest and head.digest and base.digest != head.digest:
        return lines.unknown(subject, "accuracy", gate, "the two were tested on different data", known)
    if line := numbers.identical(subject, "accuracy", gate, *both):
        return line
    lacks = "neither has" if one is other else f"the {'base' if one is None else 'head'} lacks"
    return unpaired(subject, gate, before, after, f"{lacks} the answers to each image")


def answered(subject: Subject, side: Side, data: str, options: Options, notify: Notify) -> Answers | None:
    if side.answers is not None or side.path is None or not data or options.compare:
        return side.answers
    from bench.measure.artifact import Opened, answer, pick_runtime

    notify("item", {"name": f"{subject.label}: answers to the test images of {data}", "done": False})
    runtime, device = pick_runtime(side.artifact, subject.runtime)
    right, labels = answer(
        side.path,
        Opened(side.artifact, runtime, device),
        data,
        options.seed,
        subject.threads,
        options.feeding,
    )
    return Answers.of(right, labels)


def unpaired(subject: Subject, gate: float, base: Quantity, head: Quantity, why: str) -> Line:
    """Two accuracies as of two independent samples (:func:`bench.stats.unpaired_accuracy`).

    REGRESSED or IMPROVED: beyond the gate and beyond chance; SAME: the interval lies inside the gate. Else INCONCLUSIVE,
    which it mostly is: without the answers to each image, few images say little.

    Args:
        base, head: fractions with the number of images.
        why: what is missing to judge them by the same images.
    """
    before, after = base.value or 0.0, head.value or 0.0
    line = Line(subject, "accuracy", "unpaired", gate, base, head, Quantity(None), "INCONCLUSIVE", note=why)
    sure = weakest(base, head)
    if not base.n or not head.n:
        change = Quantity(
            after - before, "fraction", provenance=sure, method="no interval: of how many images is not known"
        )
        return replace(line, change=change, note=f"{why}, and not of how many images they are")
    counts = (round(before * base.n), base.n), (round(after * head.n), head.n)
    difference, low, high, p = stats.unpaired_accuracy(*counts)
    verdict: Verdict = "INCONCLUSIVE"
    if abs(difference) > gate and p <= ALPHA:
        verdict = direction("accuracy", difference)
    elif -gate <= low and high <= gate:
        verdict = "SAME"
    method = f"{base.n} and {head.n} images as independent samples, Newcombe interval, z test p={p:.3g}"
    change = Quantity(difference, "fraction", low, high, min(base.n, head.n), sure, method)
    share = (counts[0][0] + counts[1][0]) / (base.n + head.n)
    variance = max(share * (1.0 - share), 1.0 / (base.n + head.n))
    seen = (1.96 + 0.84) * math.sqrt(variance * (1.0 / base.n + 1.0 / head.n))
    return replace(line, change=change, verdict=verdict, p=p, smallest=max(gate, seen))
