"""Pairs are looked at more than once, and each look is paid for; what is judged together shares one risk.

Measuring on until something shows, and stopping there, calls a difference sooner or later where there is none. Here the looks
are planned, and the risk of a false alarm is divided among them. An interval at each look, of the confidence that the look
may spend, holds at all looks at once: repeated confidence intervals (Jennison and Turnbull, *Interim analyses: the repeated
confidence interval approach*, JRSS B 51, 1989). The division is Bonferroni's, an alpha-spending plan (Lan and DeMets, Biometrika 70,
1983) in equal parts that holds for any dependence between the looks and any distribution of the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.measure.paired import GATE, PairedRatio, Verdict, compare

LOOKS = (12, 18, 26, 40)
"""After so many pairs their ratios are looked at."""
ALPHA = 0.005
"""Risk that a check calls any difference where there is none, over all of its looks, metrics and variants."""
K = TypeVar("K")


@dataclass(frozen=True)
class Judged:
    """``paired`` is of the latest look, its interval a repeated one; ``p`` holds over all looks, before Holm."""

    paired: PairedRatio
    p: float
    looks: int

    @property
    def verdict(self) -> Verdict:
        return self.paired.verdict


def judge(
    ratios: Sequence[float], gate: float = GATE, looks: Sequence[int] = LOOKS, alpha: float = ALPHA
) -> Judged:
    """What the pairs measured so far tell, at the looks that they have reached.

    The latest look decides, unless an earlier one has found no change: then nothing was measured for this question since.

    Args:
        ratios: head against base, one of each pair, in the order they were measured.
        gate: the relative change that matters.
        looks: after how many pairs they are looked at, growing.

    Raises:
        ValueError: fewer pairs than the first look wants.
    """
    reached = [n for n in looks if n <= len(ratios)]
    if not reached:
        raise ValueError(f"{len(ratios)} pairs; the first look is after {looks[0]}")
    p, number = 1.0, 0
    for number, n in enumerate(reached, 1):  # noqa: B007 (the number is used after the loop)
        found = compare(ratios[:n], gate, confidence=1.0 - alpha / len(looks))
        p = min(p, len(looks) * found.p)
        if found.verdict == "SAME":
            break
    return Judged(found, p, number)


def holm(p: Mapping[K, float], alpha: float = ALPHA) -> set[K]:
    """The keys whose difference stands when all are judged together (Holm, Scand. J. Statist. 6, 1979)."""
    found: set[K] = set()
    for number, key in enumerate(sorted(p, key=lambda k: p[k])):
        if p[key] > alpha / (len(p) - number):
            break
        found.add(key)
    return found
