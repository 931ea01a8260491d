"""The text of ``onnxruntime_perf_test``, old (before 1.2) and new.

Format after microsoft/onnxruntime, onnxruntime/test/perftest/performance_runner.cc and main.cc. Units as printed: seconds for sums and percentiles,
milliseconds for the mean and the first inference, which is rounded to a whole one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Fields, Text, number, whole

_FIELDS = Fields(
    ("session_s", number, r"Session creation time cost: ?(\S+) s"),
    ("first_ms", number, r"First inference time cost: ?(\S+) ms"),
    ("total_s", number, r"Total inference time cost: ?(\S+) s"),
    ("total_s", number, r"Total time cost: ?(\S+)"),
    ("requests", whole, r"Total inference requests: ?(\S+)"),
    ("requests", whole, r"Total iterations: ?(\S+)"),
    ("average_ms", number, r"Average inference time cost(?: total)?: ?(\S+) ms"),
    ("average_ms", number, r"Average time cost: ?(\S+) ms"),
    ("submission_ms", number, r"Average inference time cost submission: ?(\S+) ms"),
    ("run_s", number, r"Total inference run time: ?(\S+) s"),
    ("per_second", number, r"Number of inferences per second: ?(\S+)"),
    ("cpu_percent", whole, r"Avg CPU usage: ?(\S+?)(?: %)?"),
    ("peak_bytes", whole, r"Peak working set size: ?(\S+?)(?: bytes)?"),
    ("runs", whole, r"Runs: ?(\S+)"),
    ("min_s", number, r"Min Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("max_s", number, r"Max Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("p50_s", number, r"P50 Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("p90_s", number, r"P90 Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("p95_s", number, r"P95 Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("p99_s", number, r"P99 Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
    ("p999_s", number, r"P999 Latency(?: is|:) ?(\S+?) ?s(?:ec)?"),
)
_SETTING = re.compile(r"(?:Setting|Disabling|Enabling|Using|using) .*")
_PROBLEM = re.compile(
    r".*(?:\[E:onnxruntime:|failed to initialize|there is no test data|not a valid model|ONNXRuntimeError|terminate called).*"
)
_ITERATION = re.compile(r"iteration:[0-9]+,time_cost:\S+")


@dataclass(frozen=True)
class Run:
    """One run. ``cpu_percent`` and ``peak_bytes`` are of the whole process; percentiles are printed with ``-s`` only."""

    session_s: float | None = None
    first_ms: float | None = None
    total_s: float | None = None
    requests: int | None = None
    average_ms: float | None = None
    submission_ms: float | None = None
    run_s: float | None = None
    per_second: float | None = None
    cpu_percent: int | None = None
    peak_bytes: int | None = None
    runs: int | None = None
    min_s: float | None = None
    max_s: float | None = None
    p50_s: float | None = None
    p90_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    p999_s: float | None = None
    settings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: bool = False


def parse(text: str) -> Run:
    """The tool's standard output and error."""
    source, found = Text(text), dict[str, Any]()
    settings: list[str] = []
    errors: list[str] = []
    for line in map(str.strip, source.lines):
        if _FIELDS.read(line, found) or _ITERATION.fullmatch(line):
            continue
        if _SETTING.fullmatch(line):
            settings.append(line)
        elif _PROBLEM.fullmatch(line):
            errors.append(line)
        else:
            source.left(line)
    return Run(
        **found,
        settings=tuple(settings),
        errors=tuple(errors),
        unknown=tuple(source.unknown),
        truncated=source.truncated,
    )
