"""What ``trtexec`` left on another machine, read here: its log and its table of times become a worker's result. Not run on hardware yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure.latency import UNITS
from bench.parsers import trtexec
from bench.parsers.trtexec_exports import Times, parse_times
from bench.runtimes.base import CellJob, WorkerResult
from bench.runtimes.listener import Observed
from bench.runtimes.local import worker_result
from bench.types import Json, Quantity

if TYPE_CHECKING:
    from bench.runtimes.remote import Machine

WORKER = "trtexec"
"""The backend's name in the agent."""
PROGRAMS = ("trtexec", "/usr/src/tensorrt/bin/trtexec")
ANSWER = 60.0
WITH_WARMUP = (8, 5)
"""Releases before this one export the warm-up's queries as well (exportJSONTrace in sampleReporting.cpp)."""
MISSING = {
    "load_ms": "trtexec does not say when its engine was ready",
    "first_call_ms": "trtexec does not tell its first query apart",
    "memory_mb": "trtexec is a process of its own, whose memory is not read",
    "device_memory_mb": "trtexec does not say what it holds",
    "energy_mj": "trtexec's start and warm-up cannot be told from its timing",
    "accuracy": "trtexec is fed by itself and gives no logits; TensorRT's Python bindings (8.5 or newer) measure it",
}


def version(machine: Machine) -> str:
    """The version of a machine's trtexec; empty when there is none, or it does not say. Asked once."""
    if WORKER not in machine.versions:
        found = [p for p in PROGRAMS if p in machine.seen["programs"]]
        said = machine.workspace.host.exec([found[0], "--help"], ANSWER, check=False).stdout if found else ""
        machine.versions[WORKER] = trtexec.parse(said).version or ""
    return machine.versions[WORKER]


def result(raw: Json, job: CellJob, name: str, seconds: dict[str, float]) -> WorkerResult:
    """The worker's result with what its files say. Latency is GPU compute alone, in seconds a query like every sample."""
    if raw["status"] == "ok":
        raw = _completed(raw, job)
    raw["runtime"]["name"] = name
    found = worker_result(raw, job, Observed(peaks={}), seconds)
    if found.status != "ok":
        return found
    metrics = {n: Quantity.missing(r, UNITS.get(n, "fraction")) for n, r in MISSING.items()}
    metrics["val_accuracy"] = metrics["accuracy"]
    return replace(found, metrics=found.metrics | metrics)


def _completed(raw: Json, job: CellJob) -> Json:
    import numpy as np

    build, run = (trtexec.parse(_text(job.outdir / name)) for name in ("build.txt", "run.txt"))
    times = parse_times(_text(job.outdir / "times.json"))
    taken = _seconds(run, times, job.protocol.warmup_seconds * 1e3)
    why = _refusal(run, times, taken)
    if why:
        return raw | {"status": "failed", "reason": f"trtexec: {why}", "stopped": ""}
    np.save(job.outdir / "samples.npy", np.array(taken))
    about = {
        "build_seconds": build.build_s, "engine_mib": build.engine_mib, "precision": build.precision,
        "on_dla": build.on_dla, "on_gpu": build.on_gpu, "fell_back": list(build.fell_back),
    }  # fmt: skip
    runtime = raw["runtime"] | {
        "latency_includes": "GPU compute only",
        "throughput_qps": run.throughput_qps,
        "engine": raw["runtime"]["engine"] | {k: v for k, v in about.items() if v is not None},
    }
    unstable = run.variation_percent
    notes = [f"trtexec: GPU compute time varies by {unstable:g}%"] if unstable is not None else []
    return raw | {"samples": "samples.npy", "runtime": runtime, "notes": [*raw["notes"], *notes]}


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _seconds(run: trtexec.Run, times: Times, warmup_ms: float) -> list[float]:
    number = tuple(int(p) for p in (run.version or "").split(".")[:2] if p)
    queries = times.queries
    if number < WITH_WARMUP:
        # as trtexec's own report does: from the first query that began after the warm-up
        late = (i for i, q in enumerate(queries) if q.start_ms is not None and q.start_ms >= warmup_ms)
        queries = queries[next(late, len(queries)) :]
    return [q.compute_ms * 1e-3 for q in queries if q.compute_ms is not None and q.compute_ms > 0]


def _refusal(run: trtexec.Run, times: Times, taken: list[float]) -> str:
    """Why the figures would not mean what they mean elsewhere; empty when they do."""
    if run.passed is not True:
        return "; ".join(run.errors[:3]) or "its log ends before the verdict"
    if run.data_transfers is not False:
        return "data transfers were not left out, or the log does not say"
    if run.cuda_graph is not False:
        return "CUDA graphs were not turned off, or the log does not say"
    if times.problem or times.unknown or not taken:
        return f"its table of times is not understood ({times.problem or 'no query'})"
    return ""
