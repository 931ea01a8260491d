"""OpenVINO's ``benchmark_app``, Python and C++, 2021 to 2026: its text.

Format after openvinotoolkit/openvino, tools/benchmark_tool and samples/cpp/benchmark_app. Since 2026 the Python tool prints latencies below a
millisecond in microseconds; here all are in ms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Fields, Text, number, whole

_PREFIX = re.compile(r"\[ ?(INFO|WARNING|ERROR|STEP) ?\] ?(.*)")
_STEP = re.compile(r"\[Step [0-9]{1,2}/[0-9]{1,2}\] ?([^(]*)(?:\((.*)\))?\s*")
_LATENCY = re.compile(
    r"(Median|Average|AVG|Min|Max|([0-9]{1,3}) percentile)(?: latency)?: +(\S+) (ms|us)", re.IGNORECASE
)
_OLD_LATENCY = re.compile(r"Latency(?: \(([0-9]{1,3}) percentile\))?: +(\S+) ms")
_HINT = re.compile(
    r"PERFORMANCE_HINT: (?:PerformanceMode\.)?(\w+)|.*performance hint will be set to (?:PerformanceMode\.)?(\w+)\."
)
_REQUESTS = re.compile(r"([0-9]{1,9}) inference requests?")
_BUILD = re.compile(r"Build \.* ?(\S+)")
_DEVICES = re.compile(r"Execution Devices: ?(.+)")
_GROUPS = "Latency for each data shape group"
_FIELDS = Fields(
    ("read_ms", number, r"Read (?:model|network) took (\S+) ms"),
    ("compile_ms", number, r"(?:Compile model|Load network) took (\S+) ms"),
    ("compile_ram_kb", whole, r"Compile model ram used (\S+) KB"),
    ("first_ms", number, r"First inference took (\S+) ms"),
    ("count", whole, r"Count: +(\S+) iterations"),
    ("duration_ms", number, r"Duration: +(\S+) ms"),
    ("throughput_fps", number, r"Throughput: +(\S+) FPS"),
    ("batch", whole, r"(?:Model|Network) batch size: (\S+)"),
    ("streams", str, r"NUM_STREAMS: (\S+)"),
    ("threads", whole, r"INFERENCE_NUM_THREADS: (\S+)"),
    ("precision", str, r"INFERENCE_PRECISION_HINT: (.+)"),
)
_KNOWN = re.compile(
    r"Latency: *|OpenVINO:|Device info:?|Model(?: inputs| outputs)?:|Parsing input parameters|Loading model files"
    r"|Original model I/O parameters:|.* \(node: .*\) : .*|[A-Z][A-Z0-9_]*: .*|Fill input .*|(?:Start|End) of compilation memory usage: .*|Statistics report is stored to .*"
)
_INPUTS = {
    "Benchmarking in inference only mode (inputs filling are not included in measurement loop).": False,
    "BENCHMARK IS IN INFERENCE ONLY MODE.": False,
    "BENCHMARK IS IN FULL MODE.": True,
    "Benchmarking in full mode (inputs filling are included in measurement loop).": True,
}


@dataclass(frozen=True)
class Run:
    """One run. ``api`` is sync or async; ``filling_included``: whether filling the inputs was timed as well.

    With more than one request in flight a latency includes waiting for the others; ``requests`` says how many (None: not printed).
    """

    version: str | None = None
    devices: str | None = None
    hint: str | None = None
    api: str | None = None
    requests: int | None = None
    streams: str | None = None
    threads: int | None = None
    precision: str | None = None
    batch: int | None = None
    filling_included: bool | None = None
    read_ms: float | None = None
    compile_ms: float | None = None
    compile_ram_kb: int | None = None
    first_ms: float | None = None
    count: int | None = None
    duration_ms: float | None = None
    median_ms: float | None = None
    percentiles_ms: tuple[tuple[int, float], ...] = ()
    average_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    throughput_fps: float | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: bool = False


class _Log:
    """Collects one log."""

    def __init__(self, text: str) -> None:
        self.source = Text(text)
        self.found: dict[str, Any] = {}
        self.percentiles: dict[int, float] = {}
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.in_groups = False

    def read(self) -> Run:
        for line in map(str.strip, self.source.lines):
            prefix = _PREFIX.fullmatch(line)
            kind, message = (prefix[1], prefix[2].strip()) if prefix else ("", line)
            if kind == "ERROR":
                self.errors.append(message)
                continue
            if kind == "WARNING":
                self.warnings.append(message)
            understood = self.message(message)
            if not understood and kind != "WARNING":
                self.source.left(line)
        return Run(
            **self.found,
            percentiles_ms=tuple(self.percentiles.items()),
            warnings=tuple(self.warnings),
            errors=tuple(self.errors),
            unknown=tuple(self.source.unknown),
            truncated=self.source.truncated,
        )

    def message(self, message: str) -> bool:
        if not message or _FIELDS.read(message, self.found):
            return True
        if step := _STEP.fullmatch(message):
            self.measuring(step[2] or "")
        elif message.startswith(_GROUPS):
            self.in_groups = True
        elif message in _INPUTS:
            self.found["filling_included"] = _INPUTS[message]
        elif match := _BUILD.fullmatch(message):
            self.found.setdefault("version", match[1])
        elif match := _DEVICES.fullmatch(message):
            self.found["devices"] = match[1].strip("[] ").replace("'", "")
        elif match := _HINT.fullmatch(message):
            self.found["hint"] = match[1] or match[2]
        elif match := _LATENCY.fullmatch(message):
            return self.in_groups or self.latency(match)
        elif match := _OLD_LATENCY.fullmatch(message):
            return self.old_latency(match)
        else:
            return _KNOWN.fullmatch(message) is not None
        return True

    def measuring(self, how: str) -> None:
        """``Start inference asynchronously, 4 inference requests, limits: 60000 ms duration``."""
        if "asynchronously" in how:
            self.found["api"] = "async"
        elif "synchronously" in how:
            self.found["api"] = "sync"
        if match := _REQUESTS.search(how):
            self.found["requests"] = int(match[1])

    def latency(self, match: re.Match[str]) -> bool:
        value = number(match[3])
        if value is None:
            return False
        milliseconds = value / 1000 if match[4].lower() == "us" else value
        if match[2]:
            self.percentiles[int(match[2])] = milliseconds
        else:
            name = {"avg": "average"}.get(match[1].lower(), match[1].lower())
            self.found[f"{name}_ms"] = milliseconds
        return True

    def old_latency(self, match: re.Match[str]) -> bool:
        """2021 and before print one latency: the median, unless a percentile was asked for."""
        value = number(match[2])
        if value is not None and match[1]:
            self.percentiles[int(match[1])] = value
        elif value is not None:
            self.found["median_ms"] = value
        return value is not None


def parse(text: str) -> Run:
    """The tool's standard output; latencies per data shape are passed over."""
    return _Log(text).read()
