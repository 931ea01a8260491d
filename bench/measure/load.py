"""Load on one artifact: MLPerf's scenarios with LoadGen's own verdict, and instances side by side.

LoadGen is MLPerf Inference's load generator (https://github.com/mlcommons/inference/tree/master/loadgen; Reddi
et al., *MLPerf Inference Benchmark*, ISCA 2020). Its figures and its VALID or INVALID are kept as they are; what
it does not give, intervals, comes from the same queries and calls timed beside it. Nothing here prints.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError, WorkerError, missing_extra
from bench.stats import CONFIDENCE, quantile_interval
from bench.types import SCHEMA, Json, Notify, Protocol, Quantity, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.hosts.base import Host
    from bench.measure.feeding import Feeding
    from bench.runtimes.base import CellJob, Runtime

    Floats = NDArray[np.float64]

SCENARIOS = {
    "single-stream": ("SingleStream", "p90_ms", 0.9),
    "multi-stream": ("MultiStream", "p99_ms", 0.99),
    "offline": ("Offline", "throughput_ips", 0.0),
    "server": ("Server", "p99_ms", 0.99),
}
"""LoadGen's name, the metric by which MLPerf ranks, and the quantile that it is."""
SAMPLES_PER_QUERY = 8
"""Images in a query of MultiStream (LoadGen's default)."""
MOST_QUERIES = 2_000_000
"""LoadGen prepares every query of a Server test beforehand, some hundred bytes each."""
SLICES, LEAST_SLICES, LEAST_CALLS = 20, 5, 4
"""Time slices of a throughput, the fewest that give an interval, and the fewest calls a slice has on average."""
WARMUP_SECONDS = 1.0
SILENCE_SECONDS = 120.0
NOT_A_SUBMISSION = (
    "not an MLPerf submission: the model, the data, the duration and the system are not MLPerf's"
)
METRICS = {"latency_ms": "ms", "p90_ms": "ms", "p99_ms": "ms", "throughput_ips": "images/s"}


@dataclass(frozen=True)
class LoadOptions:
    """What to ask of LoadGen. ``qps`` and ``latency_bound_ms`` are of the server scenario."""

    scenario: str
    seconds: float = 10.0
    streams: int = 1
    qps: float | None = None
    latency_bound_ms: float = 15.0

    def check(self, batch: int) -> None:
        """Raise UsageError when the options contradict each other or the batch."""
        one_at_a_time = self.scenario in ("single-stream", "multi-stream")
        if one_at_a_time and self.streams > 1:
            raise UsageError(
                f"{self.scenario} asks one query at a time: --streams {self.streams} has nothing to do",
                todo="Leave --streams out, or use --scenario offline or server",
            )
        most = {"single-stream": 1, "multi-stream": SAMPLES_PER_QUERY}.get(self.scenario, batch)
        if batch > most:
            raise UsageError(f"A query of {self.scenario} has {most} image(s): --batch is at most {most}")
        if self.scenario == "server" and self.qps is None:
            raise UsageError(
                "The server scenario needs a rate", todo="Say with --qps how many queries arrive per second"
            )
        if self.scenario != "server" and self.qps is not None:
            raise UsageError(f"--qps is for the server scenario, not for {self.scenario}")
        if (self.qps or 0) * self.seconds > MOST_QUERIES:
            raise UsageError(
                f"--qps {self.qps:g} for {self.seconds:g} s are more than {MOST_QUERIES:,} queries",
                todo="Lower --qps or --seconds",
            )


@dataclass(frozen=True)
class Verdict:
    """LoadGen's last word: VALID or INVALID, its reasons, its version and the values of its detail log."""

    result: str
    reasons: tuple[str, ...]
    version: str
    values: Json


def parse_summary(text: str) -> tuple[str, tuple[str, ...]]:
    """``mlperf_log_summary.txt``: the word after ``Result is :`` and why, in LoadGen's words.

    The reasons are the conditions that are not satisfied and the recommendations after them; none when VALID.

    Raises:
        WorkerError: there is no result in it.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("Result is :")), None)
    result = lines[start].partition(":")[2].strip() if start is not None else ""
    if start is None or result not in ("VALID", "INVALID"):
        raise WorkerError("LoadGen left no result", found=repr(result) if result else "no line 'Result is :'")
    if result == "VALID":
        return result, ()
    reasons: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith("==="):
            break
        if line.startswith(" * "):
            reasons.append(line[3:].strip())
        elif line.rstrip().endswith(": NO"):
            reasons.append(" ".join(line.replace(":", "").removesuffix("NO").split()) + ": no")
        elif line.startswith(" ") and reasons and ":" not in line:
            reasons[-1] += " " + line.strip()
    return result, tuple(r for r in reasons if r)


def parse_detail(text: str) -> tuple[Json, tuple[str, ...]]:
    """``mlperf_log_detail.txt``: last value of every key, and LoadGen's errors; lines of another form are skipped.

    One ``:::MLLOG`` and a JSON object with ``key``, ``value`` and ``metadata`` a line (MLPerf logging format).
    """
    values: Json = {}
    errors: list[str] = []
    for line in text.splitlines():
        if not line.startswith(":::MLLOG "):
            continue
        try:
            entry = json.loads(line[len(":::MLLOG ") :])
            key, value, is_error = str(entry["key"]), entry["value"], entry["metadata"]["is_error"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if is_error:
            errors.append(str(value))
        else:
            values[key] = value
    return values, tuple(errors)


def read_verdict(folder: Path) -> Verdict:
    """The verdict from the logs in ``folder``. Raises WorkerError when LoadGen left none."""
    texts = []
    for name in ("mlperf_log_summary.txt", "mlperf_log_detail.txt"):
        try:
            texts.append((folder / name).read_text(errors="replace"))
        except OSError as err:
            raise WorkerError("LoadGen left no result", found=str(err)) from err
    result, reasons = parse_summary(texts[0])
    values, errors = parse_detail(texts[1])
    version = str(values.get("loadgen_version", "of unknown version")).split("@")[0].strip()
    return Verdict(result, (*reasons, *errors), version, values)


def scenario_quantities(
    scenario: str, verdict: Verdict, calls: Floats, queries: Floats
) -> dict[str, Quantity]:
    """LoadGen's figures of one test as quantities.

    Args:
        scenario: one of SCENARIOS.
        verdict: what LoadGen said.
        calls: (n, 3) start, end and images of every call, in the order of their ends.
        queries: (n,) seconds from issue to answer, timed on our side of LoadGen; empty for offline.

    Returns:
        ``latency_ms`` (median) and the scenario's percentile of one query, ``throughput_ips``. LoadGen's
        value comes with the width that our own samples of the same queries give.
    """
    official, headline, quantile = SCENARIOS[scenario]
    values, how = verdict.values, f"LoadGen {verdict.version}, {official}"
    found: dict[str, Quantity] = {}
    if quantile:
        kind = "per_query_" if scenario == "multi-stream" else ""
        since = "its scheduled arrival" if scenario == "server" else "its issue"
        for name, q in (("latency_ms", 0.5), (headline, quantile)):
            key = f"result_{100 * q:.2f}_percentile_{kind}latency_ns"
            what = f"{how}: {'median' if q == 0.5 else f'{q:.0%} quantile'} of a query from {since} to its answer"
            found[name] = _latency(values.get(key), queries, q, what)
    if scenario == "offline":
        what, rate = "samples per second", values.get("result_samples_per_second")
    elif scenario == "server":
        what, rate = "completed samples per second", values.get("result_completed_samples_per_sec")
    elif scenario == "single-stream":
        what, rate = (
            "queries per second, its own cost included",
            values.get("result_qps_with_loadgen_overhead"),
        )
    else:
        what, rate = "images / span of all calls", None
    begin, end = float(calls[:, 0].min()), float(calls[:, 1].max())
    found["throughput_ips"] = _rate(calls, begin, end, f"{how}: {what}", rate)
    return found


def _latency(nanoseconds: float | None, queries: Floats, q: float, method: str) -> Quantity:
    from bench.agent.timing import dependence

    if nanoseconds is None:
        return Quantity.missing("LoadGen did not report it", "ms")
    value, n = float(nanoseconds) * 1e-6, len(queries)
    bounds = quantile_interval(queries, q, weight=dependence(queries, q))
    if bounds is None:
        why = f"{method}; no interval: too few queries"
        return Quantity(value, "ms", n=n, provenance="measured", method=why)
    ours, low, high = (b * 1e3 for b in bounds)
    return Quantity(
        value,
        "ms",
        max(0.0, value - (ours - low)),
        value + (high - ours),
        n,
        "measured",
        f"{method}; interval: order statistics of the same queries timed beside LoadGen, around its value",
    )


def _rate(calls: Floats, begin: float, end: float, method: str, value: float | None = None) -> Quantity:
    """Images per second between ``begin`` and ``end``, or ``value`` with the width of that."""
    ours, arm = rate_of_slices(calls, begin, end)
    value = ours if value is None else float(value)
    if arm is None:
        why = f"{method}; no interval: too few calls"
        return Quantity(value, "images/s", n=len(calls), provenance="measured", method=why)
    how = f"{method}; interval: t of the means of time slices"
    return Quantity(value, "images/s", max(0.0, value - arm), value + arm, len(calls), "measured", how)


def rate_of_slices(calls: Floats, begin: float, end: float) -> tuple[float, float | None]:
    """Images per second between two times, and half of its 95% interval (None: too few calls).

    Batch means: the t interval of the rates of up to 20 time slices (Law, *Simulation Modeling and Analysis*,
    5th ed., section 9.5.3), which holds where neighbouring slices depend little on each other. A call counts
    in every slice for the share of it that lies there.
    """
    import numpy as np
    from scipy.special import stdtrit

    slices = min(SLICES, len(calls) // LEAST_CALLS)
    edges = np.linspace(begin, end, max(1, slices) + 1)
    took = np.maximum(calls[:, 1] - calls[:, 0], 1e-9)
    done = [float((calls[:, 2] * np.clip((e - calls[:, 0]) / took, 0.0, 1.0)).sum()) for e in edges]
    rates = np.diff(done) / np.diff(edges)
    if slices < LEAST_SLICES:
        return float(rates.mean()), None
    factor = float(stdtrit(slices - 1, 0.5 + CONFIDENCE / 2.0))
    return float(rates.mean()), factor * float(rates.std(ddof=1)) / slices**0.5


def stream_quantities(calls: Floats, begin: float, end: float, streams: int) -> dict[str, Quantity]:
    """Latency of one call while ``streams`` instances work, and what all of them do per second.

    ``calls`` (n, 3) as above; only those that end between ``begin`` and ``end`` (s) count for the latency.
    """
    from bench.agent.timing import dependence

    took = (calls[:, 1] - calls[:, 0])[calls[:, 1] <= end]
    found: dict[str, Quantity] = {}
    for name, q in (("latency_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
        bounds = quantile_interval(took, q, weight=dependence(took, q))
        what = "median" if q == 0.5 else f"{q:.0%} quantile"
        if bounds is None:
            reason = f"{len(took)} calls cannot support a 95% interval of the {what}"
            found[name] = Quantity.missing(reason, "ms")
            continue
        value, low, high = (b * 1e3 for b in bounds)
        method = f"{what} of the calls of {streams} instances at the same time in one process; order-statistic interval"
        found[name] = Quantity(value, "ms", low, high, len(took), "measured", method)
    method = f"images of {streams} instances at the same time in one process / time"
    found["throughput_ips"] = _rate(calls, begin, end, method)
    return found


def run_load(
    job: CellJob, runtime: Runtime, host: Host, notify: Notify
) -> tuple[Json, dict[str, Quantity], Verdict | None]:
    """Run one CellJob with its ``load`` in a fresh process.

    Returns:
        The worker's result, the quantities (missing with the reason when it failed), and LoadGen's verdict.

    Raises:
        WorkerError: the worker crashed or hung, or LoadGen left no result.
    """
    import numpy as np

    from bench.runtimes.worker import run_cell

    raw, _, _ = run_cell(job, runtime.name, host, notify, None, None)
    if raw["status"] != "ok":
        return raw, {name: Quantity.missing(raw["reason"], unit) for name, unit in METRICS.items()}, None
    load, asked = raw["load"], job.load or {}
    calls = np.load(job.outdir / load["calls"], allow_pickle=False)
    if asked["scenario"] == "streams":
        return raw, stream_quantities(calls, load["begin"], load["end"], asked["streams"]), None
    verdict = read_verdict(job.outdir)
    queries = np.load(job.outdir / load["queries"], allow_pickle=False)
    return raw, scenario_quantities(asked["scenario"], verdict, calls, queries), verdict


def load_file(
    path: Path,
    options: LoadOptions,
    *,
    runtime: str,
    data: str,
    batch: int,
    threads: int,
    seed: int,
    notify: Notify,
    feeding: Feeding | None = None,
    device: str | None = None,
) -> Json:
    """One of MLPerf's scenarios on one artifact, as JSON. INVALID is a result, not a failure.

    Raises:
        UsageError: no such file, options that contradict each other, images it cannot be fed.
        MissingError: LoadGen, the runtime or the device is not here.
        WorkerError: the worker crashed or hung.
    """
    from bench.hosts import open_host
    from bench.measure import environment
    from bench.measure.artifact import open_artifact, write_images
    from bench.runtimes.base import CellJob

    options.check(batch)
    opened = open_artifact(path, runtime, feeding, bool(data), device)
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise missing_extra("mlcommons-loadgen", "loadgen", f"--scenario {options.scenario}")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if data:
            write_images(opened.artifact, data, seed, folder, path)
        job = CellJob(
            opened.artifact,
            path,
            folder,
            batch,
            threads,
            opened.device,
            protocol=Protocol(warmup_seconds=WARMUP_SECONDS, timeout_seconds=SILENCE_SECONDS),
            images=folder / "images.npy" if data else None,
            predict=False,
            load=to_json(options),
        )
        raw, quantities, verdict = run_load(job, opened.runtime, open_host("local"), notify)
    machine = environment.describe()
    server = options.scenario == "server"
    return {
        "schema": SCHEMA,
        "file": str(path),
        "runtime": opened.runtime.name,
        "device": opened.device,
        "batch": batch,
        "threads": threads,
        **to_json(options),
        "latency_bound_ms": options.latency_bound_ms if server else None,
        "status": raw["status"],
        "reason": raw["reason"],
        "verdict": verdict.result if verdict else None,
        "verdict_reasons": list(verdict.reasons) if verdict else [],
        "loadgen": verdict.version if verdict else None,
        "samples": raw.get("load", {}).get("samples"),
        "headline": SCENARIOS[options.scenario][1],
        **{name: to_json(q) for name, q in quantities.items()},
        "environment": machine | {"runtime": raw["runtime"]},
        "notes": [*load_notes(raw, threads, options.streams, machine), NOT_A_SUBMISSION],
    }


def load_notes(raw: Json, threads: int, streams: int, machine: Json) -> list[str]:
    """What a reader of a figure under load must know."""
    notes = list(raw["notes"])
    if not raw.get("load", {}).get("settled", True):
        notes.append("still drifting at the end of the warm-up")
    return [*notes, *oversubscription(threads, streams, machine)]


def oversubscription(threads: int, streams: int, machine: Json) -> list[str]:
    """The note when more threads compute than this process has cores, or none."""
    cpu = machine["cpu"]
    cores = min(cpu["cores"], cpu["cgroup_cpus"] or cpu["cores"])
    wanted = threads * streams
    if wanted <= cores:
        return []
    return [f"oversubscribed: {streams} x {threads} = {wanted} compute threads on {cores:g} cores"]
