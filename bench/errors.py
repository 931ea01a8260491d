"""One tree of errors. Each says what failed, what was found and what to do next.

Libraries raise; only ``bench.cli`` prints and exits. Every class has one exit code
(see the README's table): 2 wrong usage or configuration, 3 some cells failed, 4 and 5 the
gate's verdicts, 6 nothing satisfies the constraints, 7 a required device or tool is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_REGRESSED = 4
EXIT_INCONCLUSIVE = 5
EXIT_NOTHING_FITS = 6
EXIT_MISSING = 7
EXIT_INTERRUPTED = 130


class EdgefitError(Exception):
    """Something a person can act on.

    Args:
        what: what failed, one sentence.
        found: what was found instead, if that helps.
        todo: what to do next.
    """

    exit_code = EXIT_INTERNAL

    def __init__(self, what: str, found: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what, self.found, self.todo = what, found, todo

    def __str__(self) -> str:
        parts = [self.what.rstrip(".")]
        if self.found:
            parts.append(f"Found: {self.found.rstrip('.')}")
        if self.todo:
            parts.append(self.todo.rstrip("."))
        return " ".join(p if p.endswith(("?", "!")) else f"{p}." for p in parts)


class UsageError(EdgefitError):
    """A wrong option, name or value."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A recipe or profile that cannot be read or makes no sense."""


class DataError(UsageError):
    """A data set that is absent, empty or damaged."""


class ModelError(UsageError):
    """A model that cannot be built, loaded or transformed."""


class StoreError(UsageError):
    """A run directory that cannot be read or written."""


class StepError(EdgefitError):
    """A step (training, pruning, quantization, export) failed; its variant is recorded as failed."""

    exit_code = EXIT_SOME_FAILED


class ParityError(StepError):
    """An exported artifact disagrees with its parent."""


class WorkerError(EdgefitError):
    """The worker that measures a cell crashed, hung or answered nonsense."""

    exit_code = EXIT_SOME_FAILED


class NothingFitsError(EdgefitError):
    """No variant satisfies the constraints of ``bench choose``."""

    exit_code = EXIT_NOTHING_FITS


class MissingError(EdgefitError):
    """A required device, tool or optional package is missing."""

    exit_code = EXIT_MISSING


def missing_extra(package: str, extra: str, why: str) -> MissingError:
    """The error for an optional package that is not installed."""
    return MissingError(
        f"{why} needs the package {package}, which is not installed",
        todo=f'Install it with: pip install "edgefit[{extra}]"',
    )


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``Did you mean ...?`` with the closest known names; when nothing is close ``otherwise``, or the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    return otherwise or "Known: " + ", ".join(names)
