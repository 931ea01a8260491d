"""The log of ``trtexec``, TensorRT 8, 10 and 11: what was measured, what that includes, and why a build failed.

Format and meaning after NVIDIA/TensorRT, samples/common/sampleReporting.cpp, sampleOptions.cpp and logging.h (8.0 to 11.1). "Latency" is
H2D + GPU compute + D2H; without data transfers (the default since 11) it is GPU compute alone. Which of both holds is printed among the
options only: a log without them has ``latency_includes`` None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Fields, Text, flag, integer, number, whole

_PREFIX = re.compile(r"(?:\[[0-9/]{8,10}-[0-9:]{8}\] )*\[([VIWEF])\] ?(\[TRT\] ?)?(.*)")
_TEST = re.compile(r"&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec(?: \[TensorRT v([0-9]{4,6})\])?(.*)")
_TIMING = re.compile(
    r"(Latency|End-to-End Host Latency|Enqueue Time|H2D Latency|GPU Compute Time|D2H Latency): (min = .*)"
)
_PAIR = re.compile(r"(min|max|mean|median|percentile\(([0-9.]{1,10})%\)) = (\S+) ms")
_HEADER = re.compile(r"=== (.{1,60}) ===")
_OPTION = re.compile(r"([A-Za-z][\w /.()-]{0,60}): ?(.*)")
_FELL_BACK = tuple(
    re.compile(pattern)
    for pattern in (
        r"Layer '(.*)' \(\w+\): Unsupported on DLA\. Switching this layer's device type to GPU\.",
        r"Default DLA is enabled but layer (.*) is not (?:supported|running) on DLA, falling back to GPU\.",
        r"DLA only supports .* precision type\. Switching (.*) device type to GPU\.",
    )
)
_VARIATION = re.compile(r"\* GPU compute time is unstable, with coefficient of variance = (\S+)%\.")

WHOLE = ("h2d", "gpu_compute", "d2h")
GPU_ONLY = ("gpu_compute",)
_NAMES = {
    "Latency": "latency",
    "End-to-End Host Latency": "end_to_end",
    "Enqueue Time": "enqueue",
    "H2D Latency": "h2d",
    "GPU Compute Time": "gpu_compute",
    "D2H Latency": "d2h",
}
_FIELDS = Fields(
    ("version", str, r"TensorRT version: ([0-9]{1,3}(?:\.[0-9]{1,3}){1,3})"),
    ("data_transfers", flag, r"Data transfers: (\w+)"),
    ("cuda_graph_asked", flag, r"CUDA Graph: (\w+)"),
    ("streams", whole, r"(?:Inference )?Streams: (\S+)"),
    ("dla_core", integer, r"DLACore: (\S+)"),
    ("precision", str, r"Precision: (\S.*)"),
    ("throughput_qps", number, r"Throughput: (\S+) qps"),
    ("walltime_s", number, r"Total Host Walltime: (\S+) s"),
    ("gpu_compute_total_s", number, r"Total GPU Compute Time: (\S+) s"),
    ("build_s", number, r"Engine built in (\S+) sec\."),
    ("engine_mib", number, r"(?:Created|Loaded) engine with size: (\S+) MiB"),
    ("parse_s", number, r"Finished parsing network model\. Parse time: (\S+)"),
    ("warmup_queries", whole, r"Warmup completed (\S+) queries over \S+ ms"),
    ("queries", whole, r"Timing trace has (\S+) queries over \S+ s"),
)
_KNOWN = re.compile(
    r"Starting inference|Average on .*|Trace averages of .*|Explanations of the performance .*|Capturing CUDA graph .*"
    r"|\.\.\. Omitting .*|Engine deserialized in .*|Engine loaded in .*|Start(?:ed)? parsing network model.*|Finish parsing .*"
)


@dataclass(frozen=True)
class Timing:
    """Statistics over the queries, in ms; ``percentiles_ms`` by percent."""

    min_ms: float | None = None
    max_ms: float | None = None
    mean_ms: float | None = None
    median_ms: float | None = None
    percentiles_ms: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Run:
    """One log.

    ``passed`` is None when the log ends before the verdict. ``latency_includes`` names the parts of ``latency``; ``h2d`` and
    ``d2h`` are None when nothing was transferred (trtexec prints 0 then). ``cuda_graph``: whether one was captured; releases
    before 10 tell only a failure. ``on_dla`` counts what the builder put on the DLA (a chain of layers is one), ``on_gpu`` the
    rest, both None when it has not said; ``fell_back`` are the layers it wanted on the DLA and could not have there.
    """

    version: str | None = None
    command: str | None = None
    passed: bool | None = None
    precision: str | None = None
    dla_core: int | None = None
    streams: int | None = None
    data_transfers: bool | None = None
    cuda_graph_asked: bool | None = None
    cuda_graph: bool | None = None
    parse_s: float | None = None
    build_s: float | None = None
    engine_mib: float | None = None
    warmup_queries: int | None = None
    queries: int | None = None
    throughput_qps: float | None = None
    latency: Timing | None = None
    end_to_end: Timing | None = None
    enqueue: Timing | None = None
    h2d: Timing | None = None
    gpu_compute: Timing | None = None
    d2h: Timing | None = None
    walltime_s: float | None = None
    gpu_compute_total_s: float | None = None
    variation_percent: float | None = None
    on_dla: int | None = None
    on_gpu: int | None = None
    fell_back: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def latency_includes(self) -> tuple[str, ...] | None:
        """The parts of ``latency``; None when the log does not say."""
        if self.data_transfers is None:
            return None
        return WHOLE if self.data_transfers else GPU_ONLY


class _Log:
    """Collects one log."""

    def __init__(self, text: str) -> None:
        self.source = Text(text)
        self.found: dict[str, Any] = {}
        self.options: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.fell_back: list[str] = []
        self.in_options = False

    def read(self) -> Run:
        for line in self.source.lines:
            match = _PREFIX.fullmatch(line)
            if match is None:
                if not self.verdict(line):
                    self.source.left(line)
            elif match[1] == "W":
                self.warning(match[3])
            elif match[1] in "EF":
                self.errors.append(match[3])
            elif match[1] == "I" and not self.info(match[3], library=bool(match[2])):
                self.source.left(line)
        if self.found.get("data_transfers") is False:
            # nothing was transferred: the printed zeros are no measurement
            self.found.pop("h2d", None)
            self.found.pop("d2h", None)
        return Run(
            **self.found,
            fell_back=tuple(self.fell_back),
            options=tuple(self.options),
            warnings=tuple(self.warnings),
            errors=tuple(self.errors),
            unknown=tuple(self.source.unknown),
            truncated=self.source.truncated,
        )

    def verdict(self, line: str) -> bool:
        match = _TEST.fullmatch(line.strip())
        if match is None:
            return False
        if match[1] != "RUNNING":
            self.found["passed"] = match[1] == "PASSED"
        if match[2]:
            self.found.setdefault("version", _version(int(match[2])))
        _, mark, command = match[3].partition("# ")
        if mark:
            self.found["command"] = command
        return True

    def warning(self, message: str) -> None:
        self.warnings.append(message)
        for pattern in _FELL_BACK:
            match = pattern.fullmatch(message)
            if match:
                self.fell_back.append(match[1])
        match = _VARIATION.fullmatch(message)
        if match:
            self.found["variation_percent"] = number(match[1])
        elif message.startswith("CUDA graph capture failed"):
            self.found["cuda_graph"] = False

    def info(self, message: str, library: bool) -> bool:
        message = message.strip()
        if not message or message.startswith("TensorRT version: "):
            self.in_options = False
        if not message:
            return True
        if library:
            return self.placement(message)
        header = _HEADER.fullmatch(message)
        if header:
            self.in_options = header[1].endswith("Options")
            return True
        timing = _TIMING.fullmatch(message)
        if timing:
            value = _timing(timing[2])
            if value is not None:
                self.found[_NAMES[timing[1]]] = value
            return value is not None
        if message.startswith("Successfully captured CUDA graph"):
            self.found["cuda_graph"] = True
            return True
        understood = _FIELDS.read(message, self.found)
        option = _OPTION.fullmatch(message) if self.in_options else None
        if option:
            self.options.append((option[1], option[2]))
        if self.found.get("cuda_graph_asked") is False:
            self.found["cuda_graph"] = False
        return understood or option is not None or _KNOWN.fullmatch(message) is not None

    def placement(self, message: str) -> bool:
        """The builder's list of what runs where."""
        for title, mark, name in (("DLA", "[DlaLayer]", "on_dla"), ("GPU", "[GpuLayer]", "on_gpu")):
            if f"Layers Running on {title}" in message:
                self.found[name] = 0
                return True
            if message.startswith(mark) and name in self.found:
                self.found[name] += 1
                return True
        return False


def _version(code: int) -> str:
    """NV_TENSORRT_VERSION: 8601 is 8.6.1, since 10 100300 is 10.3.0 (NvInferVersion.h)."""
    if code < 10_000:
        return f"{code // 1000}.{code // 100 % 10}.{code % 100}"
    return f"{code // 10_000}.{code // 100 % 100}.{code % 100}"


def _timing(text: str) -> Timing | None:
    """``min = 1 ms, max = 2 ms, ...``; None where any part of it is not understood."""
    values: dict[str, Any] = {}
    percentiles: list[tuple[float, float]] = []
    for part in text.split(", "):
        match = _PAIR.fullmatch(part)
        if match is None:
            return None
        value = number(match[3])
        if match[2] is None:
            values[f"{match[1]}_ms"] = value
        elif value is not None and (rank := number(match[2])) is not None:
            percentiles.append((rank, value))
    return Timing(**values, percentiles_ms=tuple(percentiles))


def parse(text: str) -> Run:
    """A log of trtexec, both output streams together; verbose lines are passed over."""
    return _Log(text).read()
