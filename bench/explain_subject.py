"""What `bench explain` explains: a file on its own, or the file of a variant that a run measured. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import runtimes
from bench.errors import StoreError, UsageError, nearest
from bench.measure.artifact import describe_file, open_artifact
from bench.runtimes.base import Runtime
from bench.types import Artifact, Json, Quantity

if TYPE_CHECKING:
    from bench.store import RunData

PROFILED = ("onnxruntime", "litert", "openvino")
"""Runtimes whose profiler is read here."""


@dataclass(frozen=True)
class Subject:
    """What is explained: a file, how it is run, and what a run knows of it.

    ``run`` and ``variant`` are empty for a file outside a run; ``float_path`` is the float file with its weights, or
    ``float_model`` a model that can be written as one.
    """

    artifact: Artifact
    path: Path
    runtime: Runtime
    variant: str = ""
    run: RunData | None = None
    cell_ms: Quantity = field(default_factory=lambda: Quantity.missing("not of a run", "ms"))
    float_path: Path | None = None
    float_model: Path | None = None
    float_reason: str = "the float file it was made from is not known: name a variant of a run"


def subject_of_file(path: Path, runtime: str) -> Subject:
    """A file on its own.

    Raises:
        UsageError, MissingError, WorkerError: see :func:`bench.measure.artifact.open_artifact`.
    """
    if not runtime:
        artifact, _ = describe_file(path)
        takers = [name for name in runtimes.taking(artifact.format) if name in PROFILED]
        runtime = takers[0] if takers else ""
    _check_runtime(runtime)
    opened = open_artifact(path, runtime)
    return Subject(opened.artifact, path, opened.runtime)


def subject_of_run(run: RunData, variant: str, runtime: str, batch: int, threads: int) -> Subject:
    """The file of a variant that a run measured on a runtime.

    Raises:
        UsageError: no such variant or runtime, or the run has no file of it for that runtime.
    """
    if variant not in run.variants:
        raise UsageError(
            f"The run {run.path} has no variant {variant!r}", todo=nearest(variant, run.variants)
        )
    cells = [c for c in run.cells if c["cell"]["variant"] == variant and c.get("artifact")]
    measured = dict.fromkeys(c["cell"]["runtime"] for c in cells)
    if not runtime:
        runtime = next((name for name in PROFILED if name in measured), next(iter(measured), ""))
    _check_runtime(runtime)
    here = [c for c in cells if c["cell"]["runtime"] == runtime]
    here.sort(key=lambda c: c["cell"]["host"] != "local")
    record = next((r for c in here if (r := run.artifacts.get(c["artifact"])) and r["status"] == "ok"), None)
    if record is None:
        raise UsageError(
            f"The run {run.path} has no file of {variant} for {runtime}",
            f"it was measured on: {', '.join(measured) or 'nothing'}",
        )
    artifact = Artifact.from_json(record["artifact"])
    float_path, float_model, reason = _float_weights(run, variant, record)
    return Subject(
        artifact,
        run.object_path(artifact.sha256),
        runtimes.get(runtime),
        variant,
        run,
        _cell_latency(run, variant, runtime, batch, threads),
        float_path,
        float_model,
        reason,
    )


def _check_runtime(runtime: str) -> None:
    if runtime not in PROFILED:
        known = ", ".join(PROFILED)
        if runtime not in runtimes.names() and runtime:
            raise UsageError(f"No runtime is called {runtime!r}", todo=nearest(runtime, PROFILED))
        raise UsageError(
            f"Layers of {runtime or 'this file'} are not profiled here", todo=f"Give one of: {known}"
        )


def _float_weights(run: RunData, variant: str, record: Json) -> tuple[Path | None, Path | None, str]:
    """The float file, or else the model, that has an int8 file's weights before they were rounded; or why there is none."""
    precision = record["artifact"]["precision"]
    if precision != "int8":
        return None, None, f"a {precision} file has no quantization noise"
    made = run.variants.get(variant) or {}
    step, ladder = made.get("step") or {}, record.get("ladder") or []
    try:
        if step.get("kind") == "qat":
            return None, run.object_path(made["model"]["sha256"]), ""
        climbed = [r for r in ladder if r.get("drop")]
        chosen = min(climbed, key=lambda r: (not r["held"], r["drop"]["value"])) if climbed else {}
        if chosen.get("rung") == "qat":
            return None, None, "its weights were trained in int8, and their float model was not kept"
        equalized = step.get("equalize") or step.get("correct_bias")
        if chosen.get("equalized", equalized) or chosen.get("rung") == "equalize":
            return None, None, "equalisation gave it other weights than its float parent's"
        return _float_parent(run, variant, record["artifact"]["format"]), None, ""
    except StoreError as error:
        return None, None, str(error)


def _float_parent(run: RunData, variant: str, fmt: str) -> Path:
    """The float file of its parent.

    Raises:
        StoreError: the run has none, or has lost it.
    """
    parent = (run.variants.get(variant) or {}).get("parent") or ""
    for record in run.artifacts.values():
        made = record.get("artifact") or {}
        plain = made.get("precision", "fp32") == "fp32" and made.get("format") == fmt
        if plain and record["variant"] == parent:
            return run.object_path(made["sha256"])
    raise StoreError(f"the run has no float {fmt} file of {parent or variant}")


def _cell_latency(run: RunData, variant: str, runtime: str, batch: int, threads: int) -> Quantity:
    """What the report shows for the same cell on this kind of machine."""
    from reports import rows as model

    wanted = (variant, runtime, batch, threads, "local")
    for row in model.rows(run):
        cell = row.cell
        if (cell.variant, cell.runtime, cell.batch, cell.threads, cell.host) == wanted:
            return row.metrics["latency_ms"]
    return Quantity.missing(f"the run has no cell of batch {batch} and {threads} thread(s) for it", "ms")
