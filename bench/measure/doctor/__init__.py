"""What on this machine will spoil a measurement, and how to mend it: the checks of `bench doctor`.

A check is a function that takes a :class:`Look` and yields findings; none reads anything itself.
"""

from __future__ import annotations

from bench.measure.doctor import board, cpu, extras
from bench.measure.doctor.findings import Finding
from bench.measure.doctor.look import Look, look_around

__all__ = ["Finding", "Look", "examine", "look_around"]


def examine(seen: Look) -> list[Finding]:
    """Every finding, in the order of the checks."""
    checks = (*cpu.CHECKS, *board.CHECKS, *extras.CHECKS)
    return [finding for check in checks for finding in check(seen)]
