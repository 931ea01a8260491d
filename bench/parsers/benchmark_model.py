"""The text of TensorFlow Lite's ``benchmark_model``, old and new, and of LiteRT's ``benchmark_litert_model``.

Format after LiteRT, tflite/tools/benchmark/benchmark_model.cc and litert/tools/benchmark_litert_model.h. Times are in microseconds,
sometimes as 9.99242e+06. Each phase prints one ``count=`` line: the one before "Inference timings" is that of the measured runs, the one before it
the warm-up's. "Replacing N out of M node(s)" with N below M leaves M - N operators to whoever comes next, in the end the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.litert_results import Results, ResultsBlock
from bench.parsers.op_profile import Profile, ProfileReader
from bench.parsers.text import Fields, Text, number, whole

_LOGCAT = re.compile(r"[0-9]{2}-[0-9]{2} [0-9:.]{8,20} +[0-9]+ +[0-9]+ ([VDIWEF]) [\w.]+ *: ?(.*)")
_TAG = re.compile(r"(VERBOSE|INFO|WARNING|WARN|ERROR|FATAL): (?:\[[\w.]+:[0-9]+\] ?)?(.*)")
_PAIR = re.compile(r"(\w+)=(\S+)")
_PHASE = re.compile(r"Running benchmark for at least .*")
_TIMINGS = re.compile(
    r"Inference timings in us: Init: (\S+), First inference: (\S+), Warmup \(avg\): (\S+), (?:Inference \(avg\)|no stats): (\S+)"
)
_OLD_TIMINGS = re.compile(
    r"Average inference timings in us: Warmup: (\S+), Init: (\S+), (?:Inference|no stats): (\S+)"
)
_FOOTPRINT = re.compile(r"Memory footprint delta from the start of the tool \(MB\): init=(\S+) overall=(\S+)")
_REPLACED = re.compile(
    r"Replacing ([0-9]{1,7})(?: out of ([0-9]{1,7}))? node\(s\) with delegate \((.*?)\)(?: node)?"
    r"(?:, yielding ([0-9]{1,7}) partitions(?: for (.*?))?)?\.?"
)
_APPLIED = re.compile(
    r"Explicitly applied (.*) delegate, and the model graph will be (completely|partially) executed by the delegate"
    r"(?: w/ ([0-9]{1,7}) delegate kernels)?\."
)
_NOT_APPLIED = re.compile(
    r"Though (.*) delegate is explicitly applied, the model graph will not be executed by the delegate\."
)
_PARAMETER = re.compile(r"([A-Z#][^\[\]]{0,80}): \[(.*)\]")
_FIELDS = Fields(
    ("model_mb", number, r"The input model file size \(MB\): (\S+)"),
    ("session_ms", number, r"Initialized session in (\S+)ms\.?"),
    ("peak_mb", number, r"Overall peak memory footprint \(MB\) via periodic monitoring: (\S+)"),
    ("graph", str, r"Loaded model (.+)"),
)
_KNOWN = re.compile(
    r"STARTING!|Note: as the benchmark tool itself affects memory footprint.*|Initialized TensorFlow Lite runtime\."
    r"|Created TensorFlow Lite .*delegate .*|(?:Saving|Saved) benchmark result to: .*|Memory status at the end of exeution:"
    r"|[-+] (?:VmRSS|RssAnnon|RssFile \+ RssShmem) +: [0-9]+ MB|Duplicate flags: .*|=+"
)


@dataclass(frozen=True)
class Stats:
    """One ``count=`` line, in microseconds; with one run, or when all took the same, there is only ``curr_us``."""

    count: int | None = None
    first_us: float | None = None
    curr_us: float | None = None
    min_us: float | None = None
    max_us: float | None = None
    avg_us: float | None = None
    std_us: float | None = None
    p5_us: float | None = None
    median_us: float | None = None
    p95_us: float | None = None


@dataclass(frozen=True)
class Delegation:
    """One delegate's take of a graph; ``total`` is what was left to take, None in releases that do not print it."""

    delegate: str
    replaced: int
    total: int | None
    partitions: int | None
    graph: str | None

    @property
    def fell_back(self) -> bool | None:
        """Whether operators were left to others; None when the total is not printed."""
        return None if self.total is None else self.replaced < self.total


@dataclass(frozen=True)
class Applied:
    """What the tool says of a delegate that was asked for: ``completely``, ``partially`` or ``not`` used."""

    delegate: str
    how: str
    kernels: int | None = None


@dataclass(frozen=True)
class Run:
    """One run of the tool. ``results`` is what ``benchmark_litert_model`` prints instead of "Inference timings"."""

    graph: str | None = None
    model_mb: float | None = None
    session_ms: float | None = None
    warmup: Stats | None = None
    inference: Stats | None = None
    init_us: float | None = None
    first_inference_us: float | None = None
    warmup_avg_us: float | None = None
    inference_avg_us: float | None = None
    init_mb: float | None = None
    overall_mb: float | None = None
    peak_mb: float | None = None
    results: Results | None = None
    delegations: tuple[Delegation, ...] = ()
    applied: tuple[Applied, ...] = ()
    profile: Profile | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    truncated: bool = False


class _Log:
    """Collects one log."""

    def __init__(self, text: str) -> None:
        self.source = Text(text)
        self.found: dict[str, Any] = {}
        self.stats: list[Stats] = []
        self.phases = 0
        self.delegations: list[Delegation] = []
        self.applied: list[Applied] = []
        self.parameters: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.errors: list[str] = []
        self.profile = ProfileReader()
        self.results = ResultsBlock()

    def read(self) -> Run:
        for line in self.source.lines:
            severity, message = _message(line)
            if self.profile.read(message) or self.results.read(message) or self.message(message.strip()):
                continue
            if severity == "E":
                self.errors.append(message)
            elif severity == "W":
                self.warnings.append(message)
            else:
                self.source.left(line)
        if "inference" not in self.found and "warmup" not in self.found:
            self.phase_stats()
        return Run(
            **self.found,
            results=self.results.done(),
            delegations=tuple(self.delegations),
            applied=tuple(self.applied),
            profile=self.profile.done(),
            parameters=tuple(self.parameters),
            warnings=tuple(self.warnings),
            errors=tuple(self.errors),
            unknown=tuple(self.source.unknown),
            truncated=self.source.truncated,
        )

    def phase_stats(self) -> None:
        """A log that was cut before the timings: which phase has printed is known from the announcements only."""
        if self.phases >= 1 and self.stats:
            self.found["warmup"] = self.stats[0]
        if self.phases >= 2 and len(self.stats) >= 2:
            self.found["inference"] = self.stats[1]

    def message(self, message: str) -> bool:
        if not message or _KNOWN.fullmatch(message) or _FIELDS.read(message, self.found):
            return True
        if _PHASE.fullmatch(message):
            self.phases += 1
            return True
        if message.startswith("count="):
            return self.statistics(message)
        return self.timings(message) or self.placement(message) or self.parameter(message)

    def statistics(self, message: str) -> bool:
        pairs = [_PAIR.fullmatch(word) for word in message.replace("(all same)", "").split()]
        said = {pair[1]: pair[2] for pair in pairs if pair}
        keys = ("first", "curr", "min", "max", "avg", "std", "p5", "median", "p95")
        count = whole(said.get("count", ""))
        if count is None:
            return False
        self.stats.append(Stats(count, *(number(said.get(key, "")) for key in keys)))
        return True

    def timings(self, message: str) -> bool:
        names: tuple[str, ...]
        if match := _TIMINGS.fullmatch(message):
            names = ("init_us", "first_inference_us", "warmup_avg_us", "inference_avg_us")
            if self.stats:
                self.found["inference"] = self.stats[-1]
            if len(self.stats) > 1:
                self.found["warmup"] = self.stats[-2]
        elif match := _OLD_TIMINGS.fullmatch(message):
            names = ("warmup_avg_us", "init_us", "inference_avg_us")
        elif match := _FOOTPRINT.fullmatch(message):
            names = ("init_mb", "overall_mb")
        else:
            return False
        values = [number(text) for text in match.groups()]
        self.found.update(zip(names, values, strict=True))
        return None not in values

    def placement(self, message: str) -> bool:
        if match := _REPLACED.fullmatch(message):
            replaced, total, delegate, partitions, graph = match.groups()
            numbers = (int(replaced), whole(total or ""), whole(partitions or ""))
            self.delegations.append(Delegation(delegate, *numbers, graph))
        elif match := _APPLIED.fullmatch(message):
            self.applied.append(Applied(match[1], match[2], whole(match[3] or "")))
        elif match := _NOT_APPLIED.fullmatch(message):
            self.applied.append(Applied(match[1], "not"))
        else:
            return False
        return True

    def parameter(self, message: str) -> bool:
        match = _PARAMETER.fullmatch(message)
        if match is None:
            return False
        self.parameters.append((match[1], match[2]))
        if match[1] == "Graph":
            self.found.setdefault("graph", match[2])
        return True


def _message(line: str) -> tuple[str, str]:
    """(severity, message) of a line, with logcat's or the tool's own prefix taken off; severity is empty without one."""
    severity, message = "", line
    if match := _LOGCAT.fullmatch(message):
        severity, message = match[1], match[2]
    if match := _TAG.fullmatch(message):
        severity, message = match[1][0], match[2]
    return ("E" if severity == "F" else severity), message


def parse(text: str) -> Run:
    """Both output streams of one run, or ``adb logcat`` of its app. Of several runs in one text the last one's numbers are kept."""
    return _Log(text).read()
