"""Results per commit, in one append-only file that git merges: how a number came to be what it is.

Each line is one subject's numbers at one commit, with a checksum, so that `git merge` may join two branches line by line
(``*.jsonl merge=union`` in .gitattributes) and a damaged line is left out and counted. Results are ordered by the time of their commit.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bench.errors import StoreError, UsageError, missing_extra
from bench.gate.sides import Source, Subject
from bench.gate.thresholds import METRICS
from bench.types import SCHEMA, Json, to_json

DEFAULT = Path("bench-history.jsonl")
SUM = b',"sum":"'
"""What stands before a line's checksum, which is of all that stands before this."""
LEAST = 3
"""Results on either side of a change, at least."""
PENALTY = 4.0
"""Of a change point, in variances times the logarithm of the series' length; BIC's would be 1 for each of level and place."""


@dataclass(frozen=True, slots=True)
class Result:
    """One subject's value of one metric at one commit; ``machine`` is a digest of what decides times."""

    time: str
    commit: str
    value: float
    low: float | None
    high: float | None
    provenance: str = "measured"


@dataclass(frozen=True, order=True)
class Series:
    """Results that can be compared: one subject and metric on one kind of machine."""

    subject: Subject
    metric: str
    machine: str


@dataclass(frozen=True)
class Change:
    """The level changed between two results: ``last`` is the last commit of the old one, ``first`` the first of the new.

    ``share`` is after / before - 1 of the medians (accuracy: the difference), ``p`` of Mann and Whitney's test between the two levels.
    """

    last: Result
    first: Result
    before: float
    after: float
    share: float
    p: float


def machine_of(environment: Json) -> str:
    """``AMD EPYC, 2 cores, 3f2a``: a machine by what decides times, and a digest of that."""
    cpu = environment.get("cpu") or {}
    parts = [cpu.get("model"), cpu.get("cores"), cpu.get("features"), cpu.get("governor")]
    parts += [gpu.get("name") for gpu in environment.get("gpus") or ()]
    mark = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:4]
    return f"{cpu.get('model') or 'unknown CPU'}, {cpu.get('cores') or '?'} cores, {mark}"


# --- the file


def add(path: Path, source: Source, commit: str, time: str) -> int:
    """Append a side's numbers; how many subjects. The same numbers of a commit, subject and artifact are not added again.

    Raises:
        UsageError: it has no numbers.
        StoreError: the file cannot be written.
    """
    from bench.store import explain_disk_errors

    known = {_same(record) for record in read(path)[0]} if path.exists() else set()
    machine, lines = machine_of(source.machine), []
    for subject, side in source.sides.items():
        keys = [
            m.key
            for m in METRICS.values()
            if (q := side.numbers.get(m.key)) is not None and q.value is not None
        ]
        record: Json = {
            "schema": SCHEMA,
            "kind": "result",
            "time": time,
            "commit": commit,
            "subject": to_json(subject),
            "machine": machine,
            "artifact": side.artifact.sha256[:12],
            "numbers": {key: side.numbers[key].to_json() for key in keys},
        }
        if not keys or _same(record) in known:
            continue
        body = json.dumps(record, separators=(",", ":"))[:-1].encode()
        lines.append(body + SUM + _sum(body) + b'"}\n')
    if not lines and not known:
        raise UsageError(
            f"{source.title} has no numbers to keep",
            todo="Measure it first: bench run, or bench history add FILE",
        )
    with explain_disk_errors(path), path.open("ab") as file:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            file.write(b"\n")
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())
    return len(lines)


def _same(record: Json) -> str:
    """What two records of one session have in common, and those of two sessions have not.

    A report in JSON does not know the artifacts; where a latency was measured, the numbers tell one session from another.
    """
    keys = ["commit", "subject", "machine", "numbers"]
    keys += [] if "latency_ms" in record["numbers"] else ["artifact"]
    return json.dumps([record[key] for key in keys], sort_keys=True)


def read(path: Path) -> tuple[list[Json], list[tuple[int, str]]]:
    """(results in the order of their commits, each once; damaged lines with their reasons).

    Raises:
        UsageError: there is no such file.
        StoreError: it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"There is no history {path}", todo="Begin one with `bench history add RUN`")
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"The history {path} cannot be read", str(error)) from error
    found, bad = {}, []
    for number, line in enumerate(lines, 1):
        body, mark, end = line.rpartition(SUM)
        if not line.strip():
            continue
        if not mark or _sum(body) != end[:12]:
            bad.append((number, "its checksum does not match" if mark else "not a result"))
        elif end not in found:
            found[end] = json.loads(line)
    if any(r["schema"] > SCHEMA for r in found.values()):
        raise StoreError(f"{path} was written by a newer edgefit", todo="Upgrade edgefit to read it")
    return sorted(found.values(), key=lambda r: (r["time"], r["commit"])), bad


def _sum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:12].encode()


def series(
    records: Iterable[Json], metrics: Sequence[str] = (), match: str = "*"
) -> dict[Series, list[Result]]:
    """The records by what can be compared; ``match`` is a pattern of subjects' names."""
    from fnmatch import fnmatchcase

    names = {METRICS[name].key: name for name in metrics or METRICS}
    found: dict[tuple[tuple[object, ...], str, str], list[Result]] = {}
    for record in records:
        subject, machine = tuple(record["subject"].values()), record["machine"]
        time, commit = record["time"], record["commit"]
        for key, number in record["numbers"].items():
            if key in names:
                result = Result(
                    time, commit, number["value"], number.get("low"), number.get("high"), number["provenance"]
                )
                found.setdefault((subject, names[key], machine), []).append(result)
    by_series = {Series(Subject(*key[0]), key[1], key[2]): results for key, results in found.items()}  # type: ignore[arg-type]
    return {one: results for one, results in by_series.items() if fnmatchcase(one.subject.name, match)}


# --- what it tells


def session_spread(found: dict[Series, list[Result]], metric: str, machine: str) -> tuple[float, int] | None:
    """(relative deviation between sessions, number of results behind it) of a metric on a machine; None where too little is known.

    From the differences of neighbouring results, by their median absolute deviation: a change of level is one outlier among them.
    """
    steps = [
        math.log(after.value / before.value)
        for one, results in found.items()
        if one.metric == metric and one.machine == machine and METRICS[metric].relative
        for before, after in itertools.pairwise(results)
        if before.value > 0 and after.value > 0
    ]
    if len(steps) < LEAST:
        return None
    return 1.4826 * statistics.median(abs(s) for s in steps) / math.sqrt(2.0), len(steps) + 1


def changes(results: Sequence[Result], relative: bool = True) -> list[Change]:
    """Where the level of a series changed, found after the fact.

    Optimal segmentation of the (logarithms of the) values by kernel change point detection with a linear kernel, which compares means
    (Killick et al., JASA 107, 2012; Truong et al., Signal Processing 167, 2020: ruptures), noise from neighbouring differences. A change
    stands if Mann and Whitney's test between the two levels has p < 0.01.

    Raises:
        MissingError: ruptures is not installed.
    """
    if len(results) < 2 * LEAST:
        return []
    try:
        import ruptures
    except ImportError as error:
        raise missing_extra("ruptures", "history", "Finding change points") from error
    import numpy as np
    from scipy.stats import mannwhitneyu

    values = np.array([r.value for r in results])
    if relative and values.min() > 0:
        values = np.log(values)
    else:
        relative = False
    step = float(np.median(np.abs(np.diff(values)))) * 1.4826 / math.sqrt(2.0)
    noise = max(step, 1e-9 + 1e-4 * abs(float(np.median(values))) if not relative else 1e-4)
    cost = PENALTY * noise**2 * math.log(len(values))
    ends = (
        ruptures.KernelCPD(kernel="linear", min_size=LEAST).fit(values / noise).predict(pen=cost / noise**2)
    )
    found = []
    bounds = [0, *ends]
    for begin, at, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        old, new = values[begin:at], values[at:end]
        p = float(mannwhitneyu(old, new).pvalue)
        # so few results cannot say more than that all of them lie apart
        apart = new.min() > old.max() or new.max() < old.min()
        if p >= 0.01 and not (apart and len(old) + len(new) < 10):
            continue
        before, after = float(np.median(old)), float(np.median(new))
        share = math.expm1(after - before) if relative else after - before
        levels = (math.exp(before), math.exp(after)) if relative else (before, after)
        found.append(Change(results[at - 1], results[at], *levels, share, p))
    return found


def now() -> str:
    """The time as the history writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
