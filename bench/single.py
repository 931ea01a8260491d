"""One step alone, outside a run: ``bench train | distill | prune | quantize | export | measure``.

The same step configs and handlers as in a recipe; results go to a file the person names. Nothing
here prints.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench.errors import UsageError, nearest
from bench.steps import DataOptions, QuantizeStep, Step
from bench.types import Artifact, Json, Notify, StepContext, Target, to_json

FORMATS = {
    ".onnx": ("onnx", "onnxruntime"),
    ".tflite": ("tflite", "litert"),
    ".pt2": ("pt2", "torch"),
    ".pte": ("pte", "executorch"),
    ".mlpackage": ("mlpackage", ""),
}
"""What `bench export` writes: a file's ending, its format, and the runtime it is for, if there is one here."""

SEEN = (
    "validation and test here are not those of the model's training: accuracies may be of images it has seen"
)


def run_step(
    step: Step,
    data: DataOptions,
    output: Path,
    *,
    seed: int,
    notify: Notify,
    split: str = "validation",
    parent: Path | None = None,
    teachers: tuple[Path, ...] = (),
) -> Json:
    """Run one Train, Distill or Prune step and write its model to ``output`` (``.safetensors``).

    The result is judged once on ``split`` (validation or test): accuracy, top-5, per-class figures,
    confusion matrix, AUC-ROC.

    An interrupted training goes on from its checkpoint in ``OUTPUT.work`` when the same command is
    given again.
    """
    from bench.pipeline import run_handler

    if output.suffix != ".safetensors":
        raise UsageError(f"--output must end in .safetensors, not {output.name!r}")
    from bench.store import explain_disk_errors
    from distill import data as datasets
    from distill.train import check_unseen

    index = datasets.index(data, seed)
    for path in (parent, *teachers):
        if path is not None:
            check_unseen(_held_out(path, index), index, f"model {path.name}")
    datasets.check_channels(index)
    _check_output(output)
    work = output.with_name(output.name + ".work")
    with explain_disk_errors(output):
        work.mkdir(parents=True, exist_ok=True)
    loaded: list[Any] = []

    def load() -> Any:
        if not loaded:
            loaded.append(datasets.load(index))
        return loaded[0]

    result = run_handler(step, StepContext(output.stem, seed, load, parent, teachers, work, notify, _target))
    _move(result.model, output)
    judged = _judge(output, load(), split)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "model": str(output),
        "step": to_json(step),
        "data": index.to_json(),
        "macs": result.macs,
        "params": result.params,
        "best_epoch": result.best_epoch,
        "history": list(result.history),
        "notes": list(result.notes),
        "classification": judged,
    }


def _target(runtime: str) -> Target:
    from bench.measure import environment
    from bench.targets import open_target

    return open_target(runtime, environment.describe())


def _check_output(output: Path) -> None:
    """Refuse an output that cannot become a file, before any work."""
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder", todo="Name the file to write")
    parent = next(p for p in output.absolute().parents if p.exists())
    if not parent.is_dir():
        raise UsageError(f"--output {output} cannot be written", f"{parent} is a file")


def _held_out(model: Path, index: Any) -> str:
    """Refuse a model of other classes or channels than the data's; what its training held out."""
    from distill import models
    from distill.train import check_classes

    if not model.is_file():
        raise UsageError(f"There is no model file {model}")
    spec = models.read_spec(model)
    check_classes(spec, index, f"model {model.name}")
    return spec.held_out


def _move(source: Path, target: Path) -> None:
    """Move a finished file (or the folder that a Core ML package is) into place: whole or not at all."""
    from bench.store import explain_disk_errors, write_atomic

    with explain_disk_errors(target):
        if source.is_file():
            write_atomic(target, source.read_bytes())
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            Path(shutil.copytree(source, Path(beside) / target.name)).rename(target)


def _judge(model: Path, dataset: Any, split: str) -> Json:
    """Classification figures of a model file on one split, in torch, batch by batch."""
    import torch

    from bench.measure import accuracy
    from distill import models

    module, spec = models.load(model)
    images = dataset.images[split]
    with torch.inference_mode():
        parts = [module(dataset.normalise(images[i : i + 64])) for i in range(0, len(images), 64)]
    logits = torch.cat(parts).float().numpy()
    return accuracy.metrics(logits, dataset.labels[split].numpy(), list(spec.labels), split)


def export_model(
    model: Path,
    fmt: str,
    precision: str,
    scheme: str,
    step: QuantizeStep | None,
    data: DataOptions,
    output: Path,
    *,
    seed: int,
    notify: Notify = lambda *_: None,
) -> Json:
    """Export (and quantize) one model file; writes ``output`` and ``output.json`` beside it."""
    from compress.export import export
    from distill import data as datasets

    index = datasets.index(data, seed)
    seen = _held_out(model, index) not in ("", index.held_out)
    _check_output(output)
    dataset = datasets.load(index)
    lent: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        if step is not None and step.max_drop is not None:
            from compress.qat import qat_rung

            runtime = next(r for f, r in FORMATS.values() if f == fmt)
            rung = partial(qat_rung, model, step, dataset, Path(work) / "qat", scheme, seed, notify)
            lent = {"target": _target(runtime), "qat": rung, "notify": notify}
        result = export(model, fmt, precision, scheme, step, dataset, Path(work), **lent)
        _move(result.path, output)
    write_sidecar(output, result.artifact)
    return {
        "artifact": to_json(result.artifact),
        "file": str(output),
        "parity": result.parity,
        "notes": [*result.notes, *([SEEN] if seen else [])],
        "ladder": list(result.ladder),
    }


def write_sidecar(file: Path, artifact: Artifact) -> None:
    """Say beside a model file how to feed it (preprocessing, labels, inputs and outputs)."""
    from bench.store import write_atomic

    write_atomic(file.with_name(file.name + ".json"), json.dumps(to_json(artifact), indent=1).encode())


def export_variant(
    path: Path, variant: str, fmt: str, runtime: str, host: str, output: Path
) -> tuple[Path, Artifact]:
    """Copy the file that a cell measured out of a run, with its sidecar; returns the file and what it is.

    A run can hold several files of one variant in one format (INT8 for this CPU, INT8 for the
    target): ``runtime``, ``host`` and ``fmt`` say which, and without ``host`` this machine's come first.

    Raises:
        UsageError: none fits, or several do.
    """
    from bench.store import explain_disk_errors, read_run, write_atomic

    run = read_run(path)
    if variant not in run.variants:
        raise UsageError(f"The run {path} has no variant {variant!r}", todo=nearest(variant, run.variants))
    found: dict[str, tuple[Artifact, str]] = {}
    for cell in sorted(run.cells, key=lambda c: c["cell"]["host"] != "local"):
        where, record = cell["cell"], run.artifacts.get(cell["artifact"] or "")
        if where["variant"] != variant or record is None or record["status"] != "ok":
            continue
        wanted = (
            fmt in ("", record["format"])
            and runtime in ("", where["runtime"])
            and host in ("", where["host"])
        )
        if wanted and not (not host and found and where["host"] != "local"):
            label = f"{where['runtime']} on {where['host']} ({record['format']})"
            found.setdefault(record["key"], (Artifact.from_json(record["artifact"]), label))
    if not found:
        raise UsageError(
            f"The variant {variant!r} has no such file in {path}", todo="`bench report` lists what was made"
        )
    if len(found) > 1:
        labels = ", ".join(label for _, label in found.values())
        raise UsageError(
            f"The variant {variant!r} has several files", labels, "Say which with --format or --runtime"
        )
    ((artifact, _),) = found.values()
    source = run.object_path(artifact.sha256)
    target = output / f"{variant}{source.suffix}"
    with explain_disk_errors(output):
        write_atomic(target, source.read_bytes())
        write_sidecar(target, artifact)
    return target, artifact
