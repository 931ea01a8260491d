"""One artifact measured outside a run: what `bench measure` does. Nothing here prints."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import runtimes
from bench.errors import MissingError, ModelError, UsageError
from bench.hosts import open_host
from bench.measure import accuracy, environment, power
from bench.runtimes.base import CellJob, Runtime, WorkerResult
from bench.single import FORMATS
from bench.types import Artifact, DataOptions, Json, Notify, Protocol, Quantity, to_json


def describe_file(path: Path, runtime: str = "") -> tuple[Artifact, str]:
    """The Artifact of a file made here or elsewhere, and the runtime that takes it."""
    from bench.store import file_sha256

    if not path.is_file():
        raise UsageError(f"There is no file {path}")
    if path.suffix not in FORMATS:
        raise UsageError(
            f"{path.name} is no model that a runtime here takes", todo=f"Known: {', '.join(FORMATS)}"
        )
    fmt, default = FORMATS[path.suffix]
    sidecar = path.with_name(path.name + ".json")
    if sidecar.is_file():
        try:
            artifact = Artifact.from_json(json.loads(sidecar.read_text()))
        except (ValueError, TypeError, KeyError) as err:
            raise ModelError(
                f"{sidecar} does not describe an artifact", str(err), "Delete it or export the model again"
            ) from err
        return replace(artifact, format=fmt), runtime or default
    return Artifact(fmt, file_sha256(path), path.stat().st_size, path.name), runtime or default


def measure_file(
    path: Path,
    *,
    runtime: str,
    data: str,
    batch: int,
    threads: int,
    seed: int,
    protocol: Protocol,
    notify: Notify,
) -> Json:
    """Measure one artifact in a fresh process; one cell as JSON.

    Raises:
        UsageError: no such file, a runtime that does not take it, or images it cannot be fed.
        MissingError: the runtime is not installed.
        WorkerError: the worker crashed or hung.
    """
    artifact, name = describe_file(path, runtime)
    chosen = runtimes.get(name)
    if chosen.format != artifact.format:
        raise UsageError(f"{name} takes {chosen.format} files, not {path.name}")
    probe = chosen.probe(open_host("local"))
    if not probe.available:
        raise MissingError(f"The runtime {name} is not available", probe.reason, probe.remedy)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        bounds = _write_images(artifact, data, seed, folder, path) if data else {}
        images = folder / "images.npy" if data else None
        job = CellJob(
            artifact, path, folder, batch, threads, protocol=protocol, images=images, predict=bool(data)
        )
        result = _run(chosen, job, notify)
        judged, classification = _judge(result, artifact, folder, bounds, name)
    metrics = {**result.metrics, "accuracy": judged}
    metrics |= {key: Quantity.missing("not counted in a file", key) for key in ("macs", "params")}
    machine = environment.describe()
    return {
        "schema": 1,
        "file": str(path),
        "runtime": name,
        "batch": batch,
        "threads": threads,
        "status": result.status,
        "reason": result.reason,
        "stopped": result.stopped,
        **{k: to_json(v) for k, v in metrics.items()},
        "classification": classification,
        "environment": machine | {"runtime": result.runtime},
        "notes": [*result.notes, *_scheme_note(artifact, chosen, machine)],
    }


def _run(runtime: Runtime, job: CellJob, notify: Notify) -> WorkerResult:
    source = power.open_source()
    try:
        return runtime.measure(job, open_host("local"), notify, energy=source)
    finally:
        source.close()


def _judge(
    result: WorkerResult, artifact: Artifact, folder: Path, bounds: Json, name: str
) -> tuple[Quantity, Json | None]:
    """Accuracy on the test images and the classification figures, where there was data."""
    import numpy as np

    if result.outputs is None:
        return Quantity.missing("no --data given" if not bounds else result.reason, "fraction"), None
    logits, labels = np.load(result.outputs), np.load(folder / "labels.npy")
    test = slice(*bounds["test"])
    found = accuracy.metrics(logits[test], labels[test], list(artifact.labels))
    right = int((logits[test].argmax(1) == labels[test]).sum())
    return accuracy.accuracy_quantity(right, found["n"], f"test images, {name} on this machine"), found


def _scheme_note(artifact: Artifact, runtime: Runtime, machine: Json) -> list[str]:
    if artifact.scheme not in ("s8s8", "u8s8") or runtime.int8_scheme(machine) != "u8s8-7bit":
        return []
    return [
        f"made as {artifact.scheme} for another target: 16-bit sums saturate on this CPU and lower its accuracy here"
    ]


def _write_images(artifact: Artifact, data: str, seed: int, folder: Path, path: Path) -> Json:
    """Write validation and test images as the artifact wants them; returns the split bounds."""
    from distill import data as datasets

    preprocess = artifact.preprocess
    if preprocess is None:
        raise UsageError(
            f"How to feed images to {path.name} is not known: there is no {path.name}.json beside it",
            todo="Leave --data out to time it on random images, or export it with `bench export`, which writes that file",
        )
    if preprocess.height != preprocess.width:
        raise UsageError(
            f"{path.name} takes {preprocess.height} x {preprocess.width} images; only square ones are read here"
        )
    options = DataOptions(spec=data, image_size=preprocess.height, resize=preprocess.resize)
    index = datasets.index(options, seed)
    if artifact.labels and artifact.labels != index.classes:
        raise UsageError(
            f"{path.name} knows other classes than {data}",
            f"{len(artifact.labels)} and {len(index.classes)} classes",
            "Give the data it was trained on with --data",
        )
    bounds: Json = datasets.load(index).write_eval(folder)
    return bounds
