"""A deployment folder: the chosen model for its runtime, with all that a person needs who has only that runtime.

NAME.onnx            the file that was measured, byte for byte
NAME.onnx.json       preprocessing, layout and labels; bench reads it too
prepare.py           pictures to input: numpy alone, Pillow for photos
example.py           the model on its runtime
images.npy           eight test images, as uint8 of the model's size
expected.json        the scores they got when it was exported
verify.py            checksums and scores; needs the runtime and numpy
MODEL_CARD.md        data, recipe, numbers with their provenance, licences
requirements.txt, labels.txt, SHA256SUMS
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.deploy.choice import Chosen
from bench.errors import UsageError, WorkerError
from bench.hosts import open_host
from bench.measure import accuracy
from bench.measure.artifact import Opened, pick_runtime, write_images
from bench.runtimes.base import CellJob
from bench.store import explain_disk_errors, file_sha256
from bench.types import Artifact, Json, Quantity, to_json
from reports import text
from reports.rows import Row, rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.store import RunData

REQUIREMENTS = {
    "onnxruntime": ("onnxruntime", "onnxruntime"),
    "litert": ("litert", "ai-edge-litert"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", "torch"),
    "executorch": ("executorch", "executorch", "torch"),
}
"""Runtime -> its example, and the packages that it needs."""
IMAGES = 8
CARD = "MODEL_CARD.md"
"""Has no checksum: people fill it in."""
INT8_SHARE = 0.05
"""How far scores of other kernels may lie, of their range: twice the largest that we saw.

12 INT8 files on onnxruntime, OpenVINO and onnxruntime without its optimisations: 0.1 to 2.1% of the range.
"""
EXACT = " answers in exact arithmetic, as kernels do that do not saturate (an x86 CPU without VNNI does, and answers otherwise)"
LICENCE = "not stated: fill it in here before you ship"


def write(run: RunData, chosen: Chosen, output: Path, licence: str = "", data_licence: str = "") -> list[str]:
    """Write the folder, whole or not at all; the names of its files.

    Raises:
        UsageError: the folder is there already, the cell is not, or there is no example for its runtime.
        DataError: the run's images are not here any more.
        WorkerError: the runtime could not run the file.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already", todo="Name a new folder with --output, or remove it")
    row = _row(run, chosen)
    record = run.artifacts[row.record["artifact"]]
    artifact = Artifact.from_json(record["artifact"])
    runtime = chosen.runtime if chosen.runtime in REQUIREMENTS else _like(chosen.runtime, artifact)
    source = run.object_path(artifact.sha256)
    exact = _exact(row, artifact, runtime)
    images, scores = _answers(run, artifact, source, runtime, exact)
    with explain_disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as place:
            folder = Path(place) / "deploy"
            folder.mkdir()
            name = f"{chosen.variant}{source.suffix}"
            shutil.copyfile(source, folder / name)
            _texts(
                folder, run, chosen, row, artifact, runtime, name, licence or LICENCE, data_licence or LICENCE
            )
            _expected(
                folder,
                artifact,
                images,
                scores,
                runtime + (EXACT if exact else " answered where this folder was made"),
            )
            names = sorted(p.name for p in folder.iterdir())
            sums = "".join(f"{file_sha256(folder / n)}  {n}\n" for n in names if n != CARD)
            (folder / "SHA256SUMS").write_text(sums)
            if output.is_dir():
                output.rmdir()
            folder.rename(output)
    return [*names, "SHA256SUMS"]


def _row(run: RunData, chosen: Chosen) -> Row:
    for row in rows(run):
        cell = row.cell
        if (cell.variant, cell.runtime, cell.host, cell.batch, cell.threads) == (
            chosen.variant, chosen.runtime, chosen.host, chosen.batch, chosen.threads,
        ) and row.record.get("artifact") in run.artifacts:  # fmt: skip
            return row
    raise UsageError(
        f"The run has no file of {chosen.variant} for {chosen.runtime} any more",
        todo=f"Choose again: bench choose {run.path}",
    )


def _like(runtime: str, artifact: Artifact) -> str:
    """The runtime whose example runs a file that was made for another one: TensorRT's ONNX on onnxruntime."""
    by_format = {"onnx": "onnxruntime", "tflite": "litert", "pt2": "torch"}
    if artifact.format not in by_format:
        raise UsageError(
            f"There is no example for {runtime} ({artifact.format} files) yet",
            todo=f"Choose with --runtime: {', '.join(REQUIREMENTS)}; or take the file alone with bench export --variant",
        )
    return by_format[artifact.format]


def _exact(row: Row, artifact: Artifact, runtime: str) -> bool:
    """A file for another device answers here as on its kernels: those do not saturate, as this CPU's may.

    Weights of 7 bits saturate nowhere.
    """
    full = artifact.precision == "int8" and not artifact.scheme.endswith("7bit")
    return row.cell.host != "local" and full and runtime == "onnxruntime"


def _answers(
    run: RunData, artifact: Artifact, source: Path, runtime: str, exact: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Eight test images spread over the set, (8, height, width, channels), and their logits on the runtime here."""
    import numpy as np

    data, seed = run.manifest["data"]["spec"], int(run.manifest["data"].get("seed", 0))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        bounds = write_images(artifact, data, seed, folder, source)
        first, past = bounds["test"]
        places = np.unique(np.linspace(first, past - 1, IMAGES).round().astype(int))
        images = np.load(folder / "images.npy", mmap_mode="r")[places]
        np.save(folder / "chosen.npy", images)
        lent, device = pick_runtime(artifact, runtime)
        opened = Opened(artifact, lent, device)
        job = CellJob(
            artifact, source, folder, 1, 1, opened.device, accuracy.ONLY, folder / "chosen.npy", predict=True,
            exact=exact,
        )  # fmt: skip
        result = lent.measure(job, open_host("local"), lambda event, details: None)
        if result.outputs is None:
            raise WorkerError(f"{source.name} could not be run on {runtime}", result.reason)
        return np.ascontiguousarray(images), np.load(result.outputs)


def _expected(
    folder: Path, artifact: Artifact, images: NDArray[np.uint8], scores: NDArray[np.float32], made: str
) -> None:
    """The images and the scores they got; other kernels of the same precision may round so much differently."""
    import numpy as np

    share = (
        INT8_SHARE
        if artifact.precision == "int8"
        else 0.02
        if artifact.precision in ("fp16", "bf16")
        else 1e-3
    )
    np.save(folder / "images.npy", images)
    found = {
        "logits": [[float(f"{v:.7g}") for v in row] for row in scores],
        "answers": [artifact.labels[i] if artifact.labels else int(i) for i in scores.argmax(1)],
        "tolerance": float(f"{share * float(scores.max() - scores.min()):.4g}"),
        "why": f"{share:.1%} of the scores' range: {artifact.precision} on other kernels",
        "made": made,
    }
    (folder / "expected.json").write_text(json.dumps(found, indent=1) + "\n")


def _texts(
    folder: Path, run: RunData, chosen: Chosen, row: Row, artifact: Artifact, runtime: str, name: str,
    licence: str, data_licence: str,
) -> None:  # fmt: skip
    example, *packages = REQUIREMENTS[runtime]
    files = resources.files("bench.deploy").joinpath("files")
    for source, target in (
        ("prepare.py", "prepare.py"),
        (f"example_{example}.py", "example.py"),
        ("verify.py", "verify.py"),
    ):
        words = files.joinpath(source).read_text(encoding="utf-8")
        (folder / target).write_text(words.replace("\nTHREADS = 1\n", f"\nTHREADS = {chosen.threads}\n"))
    versions = (row.record.get("environment") or {}).get("packages") or {}
    own = runtime == chosen.runtime  # of another runtime the device may have an older one
    wanted = [f"{name}>={versions[name]}" if own and name in versions else name for name in packages]
    (folder / "requirements.txt").write_text("\n".join([*wanted, "numpy"]) + "\n")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in artifact.labels))
    described = to_json(replace(artifact, filename=name))
    (folder / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    card = _card(run, chosen, row, artifact, runtime, name, licence, data_licence)
    (folder / CARD).write_text(card)


def _card(
    run: RunData, chosen: Chosen, row: Row, artifact: Artifact, runtime: str, name: str, licence: str,
    data_licence: str,
) -> str:  # fmt: skip
    from jinja2 import Environment, StrictUndefined

    template = resources.files("bench.deploy").joinpath("files", "card.md.j2").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    data, machine = (
        run.manifest["data"],
        row.record.get("environment") or run.manifest.get("environment") or {},
    )
    pre = artifact.preprocess
    counts = data.get("counts") or {}
    shown = {"latency_ms": "latency", "throughput_ips": "throughput", "memory_mb": "memory above the runtime's own", "energy_mj": "energy for one image",
             "size_bytes": "size", "accuracy": "accuracy on test images", "val_accuracy": "accuracy on validation images"}  # fmt: skip
    numbers = [_number(label, row.metrics[key]) for key, label in shown.items()]
    return str(environment.from_string(template).render(
        name=chosen.variant,
        sentence=chosen.explanation,
        version=metadata.version("edgefit"),
        run=run.path.name,
        commit=((run.manifest.get("environment") or {}).get("git") or {}).get("commit", ""),
        file=name, format=artifact.format, precision=artifact.precision, scheme=artifact.scheme,
        size=text.size(row.metrics["size_bytes"]),
        runtime=chosen.runtime,
        runtime_version=((row.record.get("runtime") or {}).get("version") or "") if row.metrics["latency_ms"].provenance == "measured" else "",
        stand_in=runtime if runtime != chosen.runtime else "", exact=_exact(row, artifact, runtime),
        batch=chosen.batch, threads=text.plural(chosen.threads, "thread"),
        input=f"{pre.height} x {pre.width} pixels, {pre.channels} channels, {pre.resize}" if pre else "as the file says",
        classes=", ".join(artifact.labels) or "as the file says",
        licence=licence, data_licence=data_licence,
        numbers=numbers,
        predicted=any(row.metrics[k].provenance == "predicted" for k in shown), host=chosen.host,
        machine=_machine(machine),
        test=counts.get("test", "?"), validation=counts.get("validation", "?"),
        steps=_steps(run, chosen.variant),
        data=data["spec"], seed=run.manifest.get("seed", 0), counts=", ".join(f"{n} {split}" for split, n in counts.items()),
        images=IMAGES,
        limits=[*chosen.warnings, *_limits(row)],
    ))  # fmt: skip


def _machine(environment: Json) -> str:
    cpu = environment.get("cpu") or {}
    gpus = [gpu.get("name") for gpu in environment.get("gpus") or ()]
    return ", ".join(
        [f"{cpu.get('model') or 'an unknown CPU'} ({cpu.get('cores') or '?'} cores)", *filter(None, gpus)]
    )


def _number(label: str, quantity: Quantity) -> str:
    """``latency: 2.3 [2.1, 2.6] ms (measured; median of 5 processes ...)``, or why there is none."""
    if quantity.value is None:
        return f"{label}: none ({quantity.reason or 'not recorded'})"
    if label.startswith("accuracy"):
        shown = f"{text.points(quantity)}%"
    elif label == "size":
        shown = text.size(quantity)
    else:
        shown = f"{text.interval(quantity)} {quantity.unit}"
    return f"{label}: {shown} ({quantity.provenance}; {quantity.method})"


def _steps(run: RunData, variant: str) -> list[str]:
    """How the variant came to be, from the first of its parents on."""
    found: list[str] = []
    name: Any = variant
    while name and name in run.variants and len(found) < 20:
        record = run.variants[name]
        step = {k: v for k, v in (record.get("step") or {}).items() if v not in (None, "", [], {}, False)}
        kind = step.pop("kind", "made")
        teachers, training = step.pop("teacher", []), step.get("training") or {}
        said = [f"teacher {' and '.join(teachers)}"] if teachers else []
        said += [f"{training['epochs']} epochs"] if kind in ("train", "distill", "qat") and training else []
        said += [f"{k} {v}" for k, v in step.items() if not isinstance(v, (dict, list))]
        told = ", ".join(said)
        found.append(f"`{name}`: {kind}" + (f" ({told})" if told else ""))
        name = record.get("parent")
    return found[::-1]


def _limits(row: Row) -> list[str]:
    classification = row.record.get("classification") or {}
    weak = [c for c in classification.get("per_class") or () if c.get("recall") is not None]
    weak.sort(key=lambda c: c["recall"])
    named = [f"{c['label']} {c['recall']:.0%} of {c['n']}" for c in weak[:3]]
    found = [f"least recalled: {', '.join(named)}"] if named else []
    return [*found, "measured on the images above only: other cameras, lights and classes were not tried"]
