"""The log of ExecuTorch's ``executor_runner``, old and new.

Lines after pytorch/executorch, examples/portable/executor_runner/executor_runner.cpp. A line begins as its platform has it
(runtime/platform/default): ``I 00:00:00.000123 executorch:FILE:LINE] `` on standard error of a POSIX build, and
``I/ExecuTorch: `` where ``logcat -v tag`` reads an Android build's back; or with the message, as ``logcat -v raw`` prints it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Fields, Text, number, whole

MOST_ITERATIONS = 10_000
"""Calls that are kept; a log of more is ``truncated``."""
_LONGEST_MS = 1e9
"""No call takes eleven days: a longer time is not understood."""


def _ms(text: str) -> float | None:
    value = number(text)
    return value if value is not None and 0 <= value <= _LONGEST_MS else None


_FIELDS = Fields(
    ("threads", whole, r"Resetting threadpool with num threads = (\S+)"),
    ("model", str, r"Model file (.+) is loaded\."),
    ("method", str, r"Using method (\S+)"),
    ("load_ms", _ms, r"Model loaded in (\S+) ms\."),
    ("shapes", str, r"Inputs resized to (\S+)"),
    ("outputs", whole, r"(\S+) outputs:"),
    ("etdump", str, r"ETDump written to file '(.+)'\."),
)
_PREFIX = re.compile(
    r"(?:([A-Z?])/ExecuTorch *: |([A-Z?]) [0-9]{2,10}:[0-9]{2}:[0-9]{2}\.[0-9]{1,9} executorch:[^\s\]]{1,300}\] )"
)
_BUFFER = re.compile(r"Setting up (?:CPU )?planned buffer [0-9]+, size ([0-9]+)\.")
_ITERATION = re.compile(r"Iteration ([0-9]+) of ([0-9]+): (\S+) ms")
_DONE = re.compile(r"Model executed successfully(?: (\S+) time\(s\)(?: in (\S+) ms)?)?\.")
_PROBLEM = re.compile(
    r"(?:ERROR: |In function .*assert failed|Failed to |Extra commandline args:|Unknown --print_output mode).*"
    r"|(?:Execution|Loading) of method .* failed.*"
)
_DIVIDER = re.compile(r"-{5,20} (?:beginning of|switch to) \w+")


@dataclass(frozen=True)
class Run:
    """One run. ``iterations`` are (number of the call, ms), as the log has them: the phone's may have lost lines.

    ``planned`` are the calls that were asked for, where iterations say it. ``total_ms`` is of all ``executions``, the
    preparation of their inputs left out. ``buffers`` are the planned memory's sizes in bytes; ``shapes`` is what the
    inputs were resized to; ``etdump`` is the trace that a build with the event tracer writes.
    """

    threads: int | None = None
    model: str | None = None
    method: str | None = None
    load_ms: float | None = None
    shapes: str | None = None
    outputs: int | None = None
    etdump: str | None = None
    buffers: tuple[int, ...] = ()
    iterations: tuple[tuple[int, float], ...] = ()
    planned: int | None = None
    executed: bool = False
    executions: int | None = None
    total_ms: float | None = None
    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: bool = False


def parse(text: str) -> Run:
    """The tool's standard output and error, and what the phone's log has of it."""
    source, found = Text(text), dict[str, Any]()
    iterations: list[tuple[int, float]] = []
    buffers: list[int] = []
    errors: list[str] = []
    for line in map(str.strip, source.lines):
        level, message = _split(line)
        if level in ("E", "F") or _PROBLEM.fullmatch(message):
            errors.append(message)
        elif (size := _buffer(message)) is not None:
            buffers.append(size)
        elif not (
            _iteration(message, iterations, found)
            or _done(message, found)
            or _FIELDS.read(message, found)
            or _DIVIDER.fullmatch(message)
        ):
            source.left(line)
    return Run(
        **found,
        buffers=tuple(buffers),
        iterations=tuple(iterations[:MOST_ITERATIONS]),
        errors=tuple(errors),
        unknown=tuple(source.unknown),
        truncated=source.truncated or len(iterations) > MOST_ITERATIONS,
    )


def _split(line: str) -> tuple[str, str]:
    """A line's level, "" where it says none, and its message."""
    match = _PREFIX.match(line)
    return (match[1] or match[2], line[match.end() :].strip()) if match else ("", line)


def _buffer(message: str) -> int | None:
    match = _BUFFER.fullmatch(message)
    return whole(match[1]) if match else None


def _iteration(message: str, iterations: list[tuple[int, float]], found: dict[str, Any]) -> bool:
    match = _ITERATION.fullmatch(message)
    if not match:
        return False
    at, planned, ms = whole(match[1]), whole(match[2]), _ms(match[3])
    if at is None or planned is None or ms is None:
        return False
    found["planned"] = planned
    if len(iterations) <= MOST_ITERATIONS:  # one more than is kept says that there were more
        iterations.append((at, ms))
    return True


def _done(message: str, found: dict[str, Any]) -> bool:
    """The line at the end; the oldest releases say no numbers there."""
    match = _DONE.fullmatch(message)
    if not match:
        return False
    executions = whole(match[1]) if match[1] else None
    total = _ms(match[2]) if match[2] else None
    if (match[1] and executions is None) or (match[2] and total is None):
        return False
    found.update(executed=True, executions=executions, total_ms=total)
    return True
