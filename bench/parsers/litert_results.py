"""The block "BENCHMARK RESULTS" of LiteRT's ``benchmark_litert_model`` (C++) and ``litert-benchmark`` (Python), in milliseconds.

Format after LiteRT, litert/tools/benchmark_litert_model.h and litert/python/tools/benchmark_litert_model.py; two decimals are printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Fields, flag, number, whole

_TITLE = re.compile(r"(?:=+ )?BENCHMARK RESULTS(?: =+)?")
_RUNS = re.compile(r"((?:Warmup|Inference) \(avg\)): +(\S+) ms \(([0-9]{1,9}) runs\)")
_FIELDS = Fields(
    ("signature", str, r"Signature name: +(\S.*)"),
    ("init_ms", number, r"Model initialization: +(\S+) ms"),
    ("first_ms", number, r"Warmup \(first\): +(\S+) ms"),
    ("min_ms", number, r"Inference \(min\): +(\S+) ms"),
    ("max_ms", number, r"Inference \(max\): +(\S+) ms"),
    ("median_ms", number, r"Inference \(median\): +(\S+) ms"),
    ("std_ms", number, r"Inference \(std\): +(\S+)(?: ms)?"),
    ("p5_ms", number, r"Inference \(p5\): +(\S+) ms"),
    ("p95_ms", number, r"Inference \(p95\): +(\S+) ms"),
    ("input_mb_per_s", number, r"Throughput: +(\S+) MB/s"),
    ("init_mb", number, r"Init footprint: +(\S+) MB"),
    ("overall_mb", number, r"Overall footprint: +(\S+) MB"),
    ("peak_mb", number, r"Peak memory: +(\S+) MB"),
    ("fully_accelerated", flag, r"Fully accelerated: +(\w+)"),
)
_KNOWN = re.compile(
    r"No inference runs were performed\.|No throughput data available .*|Memory Usage:|Peak memory usage not available\. .*|=+"
)


@dataclass(frozen=True)
class Results:
    """The block's numbers. ``input_mb_per_s`` is the size of the inputs through the mean time, no speed of the model."""

    signature: str | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_avg_ms: float | None = None
    warmup_runs: int | None = None
    avg_ms: float | None = None
    runs: int | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    median_ms: float | None = None
    std_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    input_mb_per_s: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None
    peak_mb: float | None = None
    fully_accelerated: bool | None = None


class ResultsBlock:
    """Reads the block out of a log, line by line."""

    def __init__(self) -> None:
        self._inside = False
        self._found: dict[str, Any] = {}

    def read(self, message: str) -> bool:
        """Whether the line belongs to the block."""
        message = message.strip()
        if _TITLE.fullmatch(message):
            self._inside, self._found = True, {}
            return True
        if not self._inside:
            return False
        match = _RUNS.fullmatch(message)
        if match is None:
            return _KNOWN.fullmatch(message) is not None or _FIELDS.read(message, self._found)
        names = ("warmup_avg_ms", "warmup_runs") if match[1].startswith("W") else ("avg_ms", "runs")
        value = number(match[2])
        self._found.update(zip(names, (value, whole(match[3])), strict=True))
        return value is not None

    def done(self) -> Results | None:
        """What was read; None when there was no block."""
        return Results(**self._found) if self._inside else None
