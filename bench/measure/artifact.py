"""One artifact measured outside a run: what `bench measure` does. Nothing here prints."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import runtimes
from bench.errors import EdgefitError, MissingError, ModelError, UsageError, WorkerError
from bench.hosts import open_host
from bench.measure import accuracy, environment, power, precision
from bench.measure.feeding import Feeding, match_classes, resolve
from bench.measure.latency import METRICS, all_missing
from bench.measure.processes import measure_processes
from bench.runtimes.base import CellJob, Runtime, WorkerResult
from bench.steps import DataOptions
from bench.types import SCHEMA, Artifact, Json, Notify, Protocol, Quantity, TensorSpec, to_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DESCRIBE_SECONDS = 300.0
"""A runtime may take so long to read a large file."""


@dataclass(frozen=True)
class Opened:
    """A file with its description, the runtime and device for it, and how the description was found."""

    artifact: Artifact
    runtime: Runtime
    device: str
    notes: tuple[str, ...] = ()


def describe_file(path: Path) -> tuple[Artifact, bool]:
    """What is known of a file without a runtime, and whether that is all that feeding it takes.

    Files of ours are described by the ``.json`` beside them or, model files, by themselves.

    Raises:
        UsageError: no such file, an empty one, or one of another kind.
        ModelError: a damaged description.
    """
    from bench.store import file_sha256

    if path.is_dir():
        if path.suffix == ".mlpackage":
            raise UsageError(
                f"{path.name} is a Core ML package, which Apple's systems alone run",
                todo="Time it with Xcode's Performance tab on a Mac; `bench export` writes the same model as ONNX or TFLite",
            )
        raise UsageError(f"{path} is a folder", todo=f"Name a file: {', '.join(runtimes.SUFFIXES)}")
    if not path.is_file():
        raise UsageError(f"There is no file {path}")
    if path.suffix not in runtimes.SUFFIXES:
        raise UsageError(
            f"{path.name} is no model that a runtime here takes",
            todo=f"Known: {', '.join(runtimes.SUFFIXES)}",
        )
    if path.stat().st_size == 0:
        raise UsageError(f"{path} is empty", todo="Export or download it again")
    fmt = runtimes.SUFFIXES[path.suffix]
    sidecar = path.with_name(path.name + ".json")
    if sidecar.is_file():
        try:
            artifact = Artifact.from_json(json.loads(sidecar.read_text()))
        except (ValueError, TypeError, KeyError) as err:
            raise ModelError(
                f"{sidecar} does not describe an artifact", str(err), "Delete it or export the model again"
            ) from err
        digest = file_sha256(path)
        if artifact.sha256 not in ("", digest):
            raise ModelError(
                f"{sidecar} describes another file than {path}",
                f"{path.name} has the SHA-256 {digest[:12]}..., described is {artifact.sha256[:12]}...",
                f"Export the model again, or delete {sidecar.name} and say how pixels become the input (--preprocess)",
            )
        return replace(artifact, format=fmt, sha256=digest, size_bytes=path.stat().st_size), True
    artifact = Artifact(fmt, file_sha256(path), path.stat().st_size, path.name, precision.of_file(path, fmt))
    if fmt != "safetensors":
        return artifact, False
    from distill import models

    spec = models.read_spec(path)
    pre = spec.preprocess
    image = TensorSpec("input", (None, pre.channels, pre.height, pre.width))
    logits = TensorSpec("logits", (None, spec.classes), layout="NC")
    return replace(artifact, inputs=(image,), outputs=(logits,), preprocess=pre, labels=spec.labels), True


def pick_runtime(artifact: Artifact, name: str, device: str | None = None) -> tuple[Runtime, str]:
    """The runtime of that name, or the one our exports in this format are for, and the device: the CPU unless said.

    Raises:
        UsageError: no such runtime, or one that does not take the file.
        MissingError: it is not installed, or has no such device here.
    """
    takers = runtimes.taking(artifact.format)
    chosen = runtimes.get(name or takers[0])
    if artifact.format not in chosen.formats:
        raise UsageError(
            f"{chosen.name} takes {', '.join(chosen.formats)} files, not {artifact.filename}",
            todo=f"It is taken by: {', '.join(takers)}",
        )
    probe = chosen.probe(open_host("local"))
    if not probe.available:
        raise MissingError(f"The runtime {chosen.name} is not available", probe.reason, probe.remedy)
    if device and device not in probe.devices:
        raise MissingError(
            f"The runtime {chosen.name} has no {device} device here", f"it has: {', '.join(probe.devices)}"
        )
    return chosen, device or ("cpu" if "cpu" in probe.devices else probe.devices[0])


def open_artifact(
    path: Path,
    runtime: str = "",
    feeding: Feeding | None = None,
    with_data: bool = False,
    device: str | None = None,
) -> Opened:
    """Find out how a file is fed, by asking a runtime where nothing beside it says so.

    Raises:
        UsageError: a file or options that cannot be; see :func:`bench.measure.feeding.resolve`.
        MissingError: the runtime or the device is not here.
        WorkerError: the runtime cannot read the file, with its reason.
    """
    feeding = feeding or Feeding()
    artifact, complete = describe_file(path)
    chosen, device = pick_runtime(artifact, runtime, device)
    if complete:
        if replace(feeding, label_offset=None).said:
            raise UsageError(
                f"How {path.name} is fed is known already",
                todo=f"Leave the options out, or remove {path.name}.json if it is another file's",
            )
        return Opened(artifact, chosen, device)
    with tempfile.TemporaryDirectory() as work:
        protocol = Protocol(timeout_seconds=DESCRIBE_SECONDS)
        job = CellJob(artifact, path, Path(work), device=device, protocol=protocol, describe=True)
        found = chosen.measure(job, open_host("local"), lambda event, details: None)
    if found.status != "ok":
        raise WorkerError(found.reason)
    artifact, notes = resolve(artifact, found.runtime, feeding, with_data, path)
    return Opened(artifact, chosen, device, notes)


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
    feeding: Feeding | None = None,
    device: str | None = None,
) -> Json:
    """Measure one artifact in fresh processes; one cell as JSON. What the file cannot do is its reason.

    Raises:
        UsageError: no such file, a runtime that does not take it, or images it cannot be fed.
        MissingError: the runtime or the device is not here.
    """
    said = feeding or Feeding()
    cell = _cell(path, runtime, device, batch, threads)
    try:
        opened = open_artifact(path, runtime, said, bool(data), device)
        cell |= {
            "runtime": opened.runtime.name,
            "device": opened.device,
            "precision": opened.artifact.precision,
        }
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            bounds = write_images(opened.artifact, data, seed, folder, path) if data else {}
            judge = _Judge(opened, said, bounds, folder) if data else None
            job = CellJob(
                opened.artifact,
                path,
                folder,
                batch,
                threads,
                device=opened.device,
                protocol=protocol,
                images=folder / "images.npy" if data else None,
                predict=bool(data),
            )
            result = _run(opened.runtime, job, notify)
            judged, classification, judge_notes = _judged(judge, result)
    except WorkerError as err:
        cell["runtime"] = cell["runtime"] or runtimes.taking(runtimes.SUFFIXES[path.suffix])[0]
        return cell | _failed(str(err))
    metrics = {**result.metrics, "accuracy": judged, **_not_counted()}
    machine = environment.describe()
    notes = [*opened.notes, *result.notes, *judge_notes, *_scheme_note(opened, machine)]
    return cell | {
        "status": result.status,
        "reason": result.reason,
        "stopped": result.stopped,
        **{k: to_json(v) for k, v in metrics.items()},
        "classification": classification,
        "environment": machine | {"runtime": result.runtime},
        "notes": notes,
    }


def answer(
    path: Path, opened: Opened, data: str, seed: int = 0, threads: int = 1, feeding: Feeding | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which test images a file classifies right on its runtime, and their labels; both (n,).

    Raises:
        UsageError: images that it cannot be fed.
        WorkerError: the runtime could not run it.
    """
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        bounds = write_images(opened.artifact, data, seed, folder, path)
        judge = _Judge(opened, feeding or Feeding(), bounds, folder)
        job = CellJob(
            opened.artifact,
            path,
            folder,
            1,
            threads,
            opened.device,
            accuracy.ONLY,
            folder / "images.npy",
            predict=True,
        )
        result = opened.runtime.measure(job, open_host("local"), lambda event, details: None)
        if result.outputs is None:
            raise WorkerError(f"{path.name} could not answer on {opened.runtime.name}", result.reason)
        logits, labels, _ = judge.read(result.outputs)
        return logits.argmax(1) == labels, labels


def measure_everywhere(path: Path, **options: Any) -> Json:
    """Measure one artifact on every runtime that is here and takes it, one after the other.

    Takes the options of :func:`measure_file` but ``runtime``. A runtime that cannot run the file has its reason
    in its cell, and the rest go on.

    Returns:
        ``{"schema": 1, "cells": [...], "absent": {runtime: reason}}``.

    Raises:
        UsageError: what the first runtime finds wrong with the file or the options.
        MissingError: no runtime that takes the file is here.
    """
    artifact, _ = describe_file(path)
    cells: list[Json] = []
    absent: dict[str, str] = {}
    for name in runtimes.taking(artifact.format):
        probe = runtimes.get(name).probe(open_host("local"))
        if not probe.available:
            absent[name] = f"{probe.reason}. {probe.remedy}"
            continue
        try:
            cells.append(measure_file(path, runtime=name, **options))
        except EdgefitError as err:
            if not cells:
                raise
            shown = _cell(path, name, options.get("device"), options["batch"], options["threads"])
            cells.append(shown | _failed(str(err)))
    if not cells:
        reasons = "; ".join(f"{n}: {r}" for n, r in absent.items())
        raise MissingError(f"No runtime that takes {path.name} is available", reasons)
    return {"schema": SCHEMA, "cells": cells, "absent": absent}


def _cell(path: Path, runtime: str, device: str | None, batch: int, threads: int) -> Json:
    """What was asked for; ``device`` and ``precision`` are None until the file was opened."""
    return {
        "schema": SCHEMA,
        "file": str(path),
        "runtime": runtime,
        "device": device,
        "precision": None,
        "batch": batch,
        "threads": threads,
    }


def _not_counted() -> dict[str, Quantity]:
    return {key: Quantity.missing("not counted in a file", key) for key in ("macs", "params")}


def _failed(reason: str) -> Json:
    missing = {k: q for k, q in all_missing(reason).items() if k in METRICS}
    missing |= {"accuracy": Quantity.missing(reason, "fraction"), **_not_counted()}
    return {
        "status": "failed",
        "reason": reason,
        "stopped": "",
        **{k: to_json(v) for k, v in missing.items()},
        "classification": None,
        "environment": environment.describe(),
        "notes": [],
    }


def _run(runtime: Runtime, job: CellJob, notify: Notify) -> WorkerResult:
    source = power.open_source(job.device)
    try:
        return measure_processes(runtime, job, open_host("local"), notify, energy=source)
    finally:
        source.close()


class _Judge:
    """Accuracy from the worker's outputs. Classes are matched before anything is measured, where it can be."""

    def __init__(self, opened: Opened, said: Feeding, bounds: Json, folder: Path) -> None:
        self._opened, self._said, self._bounds, self._folder = opened, said, bounds, folder
        shape = opened.artifact.outputs[0].shape[1:] if opened.artifact.outputs else (None,)
        if all(shape):
            self._match(_product(shape))

    def _match(self, count: int) -> tuple[list[int], tuple[str, ...]]:
        artifact = self._opened.artifact
        classes = tuple(self._bounds["classes"])
        return match_classes(count, artifact.labels, classes, self._said.label_offset, artifact.filename)

    def read(self, outputs: Path) -> tuple[Any, Any, tuple[str, ...]]:
        """Of the test images: logits of the data's classes (n, classes), labels (n,), and notes."""
        import numpy as np

        logits, labels = np.load(outputs), np.load(self._folder / "labels.npy")
        columns, notes = self._match(logits.shape[1])
        if _probabilities(logits):
            logits = np.log(np.maximum(logits, 1e-12))
            notes = (*notes, "the model answers probabilities: their logarithms are taken for logits")
        test = slice(*self._bounds["test"])
        return logits[test][:, columns], labels[test], notes

    def __call__(self, outputs: Path) -> tuple[Quantity, Json, tuple[str, ...]]:
        chosen, truth, notes = self.read(outputs)
        found = accuracy.metrics(chosen, truth, list(self._bounds["classes"]))
        right = int((chosen.argmax(1) == truth).sum())
        how = f"test images, {self._opened.runtime.name} on this machine"
        return accuracy.accuracy_quantity(right, found["n"], how), found, notes


def _product(shape: Sequence[int | None]) -> int:
    total = 1
    for d in shape:
        total *= d or 1
    return total


def _probabilities(logits: Any) -> bool:
    """Are rows of (N, classes) figures of 0 to 1 that add up to 1 (roughly: 8-bit ones are rounded)?"""
    import numpy as np

    return bool(logits.min() >= 0 and logits.max() <= 1 and np.median(np.abs(logits.sum(axis=1) - 1)) < 0.05)


def _judged(judge: _Judge | None, result: WorkerResult) -> tuple[Quantity, Json | None, tuple[str, ...]]:
    if judge is None:
        return Quantity.missing("no --data given", "fraction"), None, ()
    if result.outputs is None:
        return Quantity.missing(result.reason or "no outputs", "fraction"), None, ()
    return judge(result.outputs)


def _scheme_note(opened: Opened, machine: Json) -> list[str]:
    scheme = opened.artifact.scheme
    if scheme not in ("s8s8", "u8s8") or opened.runtime.int8_scheme(machine) != "u8s8-7bit":
        return []
    return [
        f"made as {scheme} for another target: 16-bit sums saturate on this CPU and lower its accuracy here"
    ]


def write_images(artifact: Artifact, data: str, seed: int, folder: Path, path: Path) -> Json:
    """Write validation and test images as the artifact wants them.

    Returns:
        The rows of ``validation`` and ``test`` (first, past the last) and the data's ``classes``.

    Raises:
        UsageError: an artifact whose preprocessing is not known, or that the data cannot feed.
    """
    from distill import data as datasets

    preprocess = artifact.preprocess
    if preprocess is None:
        raise UsageError(
            f"How to feed images to {path.name} is not known: there is no {path.name}.json beside it",
            todo="Leave --data out to time it on random images, or say its preprocessing as to `bench measure`",
        )
    if preprocess.height != preprocess.width:
        raise UsageError(
            f"{path.name} takes {preprocess.height} x {preprocess.width} images; only square ones are read here"
        )
    options = DataOptions(spec=data, image_size=preprocess.height, resize=preprocess.resize)
    index = datasets.index(options, seed)
    if index.channels != preprocess.channels and index.channels != 1:
        raise UsageError(f"{path.name} takes grey images", f"{index.channels} channels in {data}")
    bounds: Json = datasets.load(index).write_eval(folder)
    if index.channels != preprocess.channels:
        _repeat_channels(folder / "images.npy", preprocess.channels)
    return bounds | {"classes": list(index.classes)}


def _repeat_channels(file: Path, channels: int) -> None:
    """Grey images (N, H, W, 1) for a model of colour images: the same values in each channel."""
    import numpy as np

    grey = np.load(file, mmap_mode="r")
    part = file.with_name("colour.npy")
    out = np.lib.format.open_memmap(part, "w+", np.uint8, (*grey.shape[:3], channels))
    out[:] = grey
    out.flush()
    part.replace(file)
