"""What is not compared, and why: a sentence for each kind of it."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gate.lines import Line
from bench.gate.sides import Source
from reports import text


def cells(base: Source, head: Source) -> list[str]:
    """Cells of the two that are no sides: predictions, and what other machines measured."""
    parts = []
    for source, where in ((base, "base"), (head, "now")):
        kinds = [f"{text.plural(n, 'cell')} {what}" for what, n in source.left_out.items()]
        if kinds:
            parts.append(f"{text.listed(kinds)} ({where})")
    if not parts:
        return []
    return [f"not compared (only what was measured on this kind of machine is): {'; '.join(parts)}"]


def metrics(
    found: Sequence[Line], asked: frozenset[str], comparing: bool = False
) -> tuple[list[Line], list[str]]:
    """(the lines that stay, sentences about the others): a metric that nobody asked for and nobody can answer is no line.

    Args:
        asked: metrics that must be known.
        comparing: for `bench compare`, which has no line for a noisy metric that neither side has. A gate has none for
            accuracies without the answers to each image, where they are too few to tell.
    """
    stay: list[Line] = []
    absent: dict[tuple[str, str], int] = {}
    for line in found:
        lacks = [quantity.value is None for quantity in (line.base, line.head)]
        unknown = any(lacks) if line.metric == "accuracy" else comparing and all(lacks)
        unknown |= not comparing and line.mode == "unpaired"
        if unknown and line.verdict == "INCONCLUSIVE" and line.metric not in asked:
            key = (line.metric, line.note)
            absent[key] = absent.get(key, 0) + 1
        else:
            stay.append(line)
    notes = [
        f"{metric} of {text.plural(n, 'subject')} is not compared: {why}"
        for (metric, why), n in absent.items()
    ]
    return stay, notes
