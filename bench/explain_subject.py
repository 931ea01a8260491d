"""What `bench explain` explains: a file on its own, or the file of a variant that a run measured. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import runtimes
from bench.errors import StoreError, UsageError, nearest
from bench.measure.artifact import describe_file, open_artifact
from bench.runtimes.base import Runtime
from bench.types import Artifact, Quantity

if TYPE_CHECKING:
    from bench.store import RunData

PROFILED = ("onnxruntime", "litert", "openvino")
"""Runtimes whose profiler is read here."""


@dataclass(frozen=True)
class Subject:
    """What is explained: a file, how it is run, and what a run knows of it.

    ``run`` and ``variant`` are empty for a file outside a run; ``float_path`` is the float file it was made from.
    """

    artifact: Artifact
    path: Path
    runtime: Runtime
    variant: str = ""
    run: RunData | None = None
    cell_ms: Quantity = field(default_factory=lambda: Quantity.missing("not of a run", "ms"))
    float_path: Path | None = None
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
    float_path, reason = _float_parent(run, variant, artifact)
    return Subject(
        artifact,
        run.object_path(artifact.sha256),
        runtimes.get(runtime),
        variant,
        run,
        _cell_latency(run, variant, runtime, batch, threads),
        float_path,
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


def _float_parent(run: RunData, variant: str, artifact: Artifact) -> tuple[Path | None, str]:
    """The float file of the same format that an int8 file was made from, or why there is none."""
    if artifact.precision != "int8":
        return None, f"a {artifact.precision} file has no quantization noise"
    name = (run.variants[variant].get("parent") or "") if variant in run.variants else ""
    while name:
        for record in run.artifacts.values():
            made = record.get("artifact") or {}
            if (
                record["variant"] == name
                and made.get("precision", "fp32") == "fp32"
                and made.get("format") == artifact.format
            ):
                try:
                    return run.object_path(made["sha256"]), ""
                except StoreError as error:
                    return None, str(error)
        name = (run.variants.get(name) or {}).get("parent") or ""
    return None, f"the run has no float {artifact.format} file of its parents"


def _cell_latency(run: RunData, variant: str, runtime: str, batch: int, threads: int) -> Quantity:
    """What the report shows for the same cell on this kind of machine."""
    from reports import rows as model

    wanted = (variant, runtime, batch, threads, "local")
    for row in model.rows(run):
        cell = row.cell
        if (cell.variant, cell.runtime, cell.batch, cell.threads, cell.host) == wanted:
            return row.metrics["latency_ms"]
    return Quantity.missing(f"the run has no cell of batch {batch} and {threads} thread(s) for it", "ms")
