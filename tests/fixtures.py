"""A realistic run, built by hand: 10 variants x 3 runtimes, a device that was not there, one failure."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.types import Json, Profile, Quantity

LABELS = tuple(str(d) for d in range(10))
RUNTIMES = ("litert", "onnxruntime", "torch")
FORMATS = {"litert": "tflite", "onnxruntime": "onnx", "torch": "pt2", "tensorrt": "onnx"}
NO_HOST = "no host for jetson-agx-xavier"
GIVE_HOST = "--host ssh://user@jetson"
NO_INT8 = "torch has no int8 path here"

# name: (parent, step, test accuracy, MACs, params, latency in ms on litert, onnxruntime, torch)
VARIANTS: dict[str, tuple[str, Json, float, int, int, tuple[float, float, float]]] = {
    "teacher": (
        "",
        {"kind": "train", "model": "edgefit:resnet20"},
        0.986,
        2_561_000,
        272_474,
        (0.412, 0.198, 1.61),
    ),
    "student": (
        "",
        {"kind": "train", "model": "edgefit:resnet8"},
        0.958,
        782_000,
        78_042,
        (0.131, 0.082, 0.72),
    ),
    "student-kd": (
        "",
        {"kind": "distill", "teacher": "teacher", "model": "edgefit:resnet8"},
        0.972,
        782_000,
        78_042,
        (0.130, 0.0821, 0.71),
    ),
    "pruned-raw": ("teacher", {"kind": "prune", "macs": 0.5}, 0.31, 1_270_000, 141_300, (0.2, 0.1, 1.0)),
    "teacher-pruned": (
        "pruned-raw",
        {"kind": "distill", "teacher": "teacher", "model": ""},
        0.981,
        1_270_000,
        141_300,
        (0.274, 0.199, 1.59),
    ),
    "teacher-int8": (
        "teacher",
        {"kind": "quantize", "precision": "int8", "max_drop": 0.01},
        0.983,
        2_561_000,
        272_474,
        (0.71, 0.11, 0),
    ),
    "student-int8": (
        "student",
        {"kind": "quantize", "precision": "int8"},
        0.956,
        782_000,
        78_042,
        (0.22, 0.061, 0),
    ),
    "student-kd-int8": (
        "student-kd",
        {"kind": "quantize", "precision": "int8"},
        0.969,
        782_000,
        78_042,
        (0.221, 0.0605, 0),
    ),
    "teacher-pruned-int8": (
        "teacher-pruned",
        {"kind": "quantize", "precision": "int8"},
        0.81,
        1_270_000,
        141_300,
        (0.49, 0.09, 0),
    ),
    "teacher-fp16": (
        "teacher",
        {"kind": "quantize", "precision": "fp16"},
        0.986,
        2_561_000,
        272_474,
        (0.413, 0.31, 1.8),
    ),
    "student-kd-bf16": (
        "student-kd",
        {"kind": "quantize", "precision": "bf16"},
        0.972,
        782_000,
        78_042,
        (0, 0, 0.66),
    ),
}
LADDER = [
    {
        "rung": rung,
        "held": held,
        "drop": Quantity(drop, "", drop - 0.007, drop + 0.007, 360, "measured", "paired").to_json(),
        "skipped": "",
    }
    for rung, drop, held in (("channel", 0.021, False), ("equalize", 0.004, True))
]
"""The quantization ladder of teacher-int8's ONNX file."""
BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0}


@dataclass(frozen=True)
class FakeRun:
    """What ``bench.store.read_run`` gives."""

    path: Path
    manifest: Json
    variants: dict[str, Json]
    artifacts: dict[str, Json]
    cells: list[Json]

    def object_path(self, sha256: str) -> Path:
        return self.path / "objects" / sha256


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write_predictions(run: Path, name: str, accuracy: float, n: int) -> tuple[str, Any, Any]:
    """Stores predictions that are right for about ``accuracy`` of ``n`` test and ``n`` validation images."""
    sha = _sha(name)
    target = run / "objects" / sha
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for split in ("test", "val"):
        truth = np.arange(n) % len(LABELS)
        hard = np.random.default_rng(len(split)).random(n)  # the same images are hard for every variant
        noise = np.random.default_rng(int(sha[:8], 16)).random(n) * 0.02
        share = accuracy if split == "test" else accuracy - 0.004 * (int(sha[:2], 16) % 2)
        wrong = hard + noise > np.quantile(hard + noise, share)
        arrays[f"{split}_true"] = truth
        arrays[f"{split}_pred"] = np.where(wrong, (truth + 1 + (truth % 3)) % len(LABELS), truth)
    with target.open("wb") as file:
        np.savez(file, **arrays)
    return sha, arrays["test_true"], arrays["test_pred"]


def classification(truth: Any, predicted: Any, labels: tuple[str, ...] = LABELS) -> Json:
    """The record's ``classification`` of the test set."""
    k = len(labels)
    confusion = np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k)
    per_class = []
    for i, label in enumerate(labels):
        hit, n, said = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
        low, high = stats.wilson(hit, n)
        recall, precision = hit / n, hit / said if said else None
        f1 = 2 * hit / (n + said) if n + said else None
        per_class.append(
            {
                "label": label,
                "n": n,
                "precision": precision,
                "recall": recall,
                "recall_low": low,
                "recall_high": high,
                "f1": f1,
            }
        )
    return {
        "split": "test",
        "n": len(truth),
        "labels": list(labels),
        "confusion": confusion.tolist(),
        "per_class": per_class,
        "accuracy": float((truth == predicted).mean()),
        "top5": 1.0,
        "auc_roc": 0.998,
        "macro_f1": float(np.mean([c["f1"] or 0.0 for c in per_class])),
        "balanced_accuracy": float(np.mean([c["recall"] for c in per_class])),
    }


def _share(right: int, n: int) -> Json:
    low, high = stats.wilson(right, n)
    return Quantity(right / n, "", low, high, n, "measured", "Wilson").to_json()


def _timed(ms: float, batch: int, size: float) -> Json:
    def measured(value: float, unit: str, spread: float = 0.008, n: int | None = 620) -> Json:
        return Quantity(
            value, unit, value * (1 - spread), value * (1 + spread), n, "measured", "median"
        ).to_json()

    energy = Quantity(ms * 14.2, "mJ", n=1, provenance="estimated", method="codecarbon, TDP x load").to_json()
    return {
        "latency_ms": measured(ms, "ms"),
        "p90_ms": measured(ms * 1.06, "ms", 0.02),
        "p95_ms": measured(ms * 1.1, "ms", 0.03),
        "p99_ms": Quantity.missing("620 samples, 662 needed", "ms").to_json(),
        "throughput_ips": measured(1000 * batch / ms, "images/s"),
        "first_call_ms": Quantity(ms * 9, "ms", n=1, provenance="measured").to_json(),
        "load_ms": Quantity(12.5, "ms", n=1, provenance="measured").to_json(),
        "memory_mb": Quantity(
            2.0 + size / 4e5, "MB", n=1, provenance="measured", method="peak PSS"
        ).to_json(),
        "energy_mj": energy,
    }


def _variant(name: str, place: int) -> Json:
    parent, step, accuracy, macs, params, _ = VARIANTS[name]
    trained = step["kind"] in ("train", "distill")
    history = [
        {
            "epoch": e + 1,
            "lr": 0.1 * (1 - e / 8),
            "train_loss": 2.3 * 0.6**e,
            "val_loss": 2.3 * 0.62**e + 0.03,
            "val_accuracy": accuracy * (1 - 0.8 * 0.5 ** (e + 1)),
            "seconds": 0.9,
            "images_per_second": 1190.0,
        }
        for e in range(8)
    ]
    return {
        "kind": "variant",
        "key": f"{place:016x}",
        "name": name,
        "parent": parent,
        "step": step,
        "intermediate": name == "pruned-raw",
        "alone": "student" if name == "student-kd" else "",
        "status": "ok",
        "reason": "",
        "model": {
            "format": "safetensors",
            "sha256": _sha(name + "model"),
            "size_bytes": params * 4,
            "filename": "m",
        },
        "macs": macs,
        "params": params,
        "seconds": 7.4,
        "history": history if trained else [],
        "best_epoch": 7 if trained else None,
        "notes": [],
    }


def example_run(root: Path, n: int = 360, batches: tuple[int, ...] = (1,)) -> FakeRun:
    """A finished run under ``root`` (only the predictions are files), the same at every call."""
    path = root / "runs" / "demo"
    variants = {name: _variant(name, place) for place, name in enumerate(VARIANTS)}
    artifacts: dict[str, Json] = {}
    cells: list[Json] = []
    for name, record in variants.items():
        if record["intermediate"]:
            continue
        precision = record["step"].get("precision", "fp32")
        for place, runtime in enumerate(RUNTIMES):
            ms = VARIANTS[name][5][place]
            if ms or (precision == "int8" and runtime == "torch"):
                for batch in batches:
                    cells.append(
                        _cell(path, record, precision, runtime, ms * batch**0.8, batch, n, artifacts)
                    )
        if precision in ("fp32", "int8"):
            cells.append(_device_cell(path, record, precision, n, artifacts))
    return FakeRun(path, _manifest(n), variants, artifacts, cells)


def _artifact(record: Json, precision: str, runtime: str, artifacts: dict[str, Json]) -> tuple[str, int]:
    name, fmt = record["name"], FORMATS[runtime]
    key = _sha(name + runtime)[:16]
    size = int(record["params"] * BYTES[precision]) + {"tflite": 9_120, "onnx": 21_400, "pt2": 84_000}[fmt]
    artifacts[key] = {
        "kind": "artifact",
        "key": key,
        "variant": name,
        "format": fmt,
        "status": "ok",
        "reason": "",
        "artifact": {"format": fmt, "sha256": _sha(key), "size_bytes": size, "filename": f"{name}.{fmt}"},
        "parity": {"max_abs_diff": 1.9e-5, "agreement": 1.0, "n": 64, "tolerance": 1e-3},
        "notes": [],
        "ladder": LADDER if (name, fmt) == ("teacher-int8", "onnx") else [],
        "graph": graph_facts(name, precision) if fmt != "pt2" else {},
        "seconds": 3.1,
    }
    return key, size


def graph_facts(name: str, precision: str) -> Json:
    """What an artifact's record says of its graph: the pruned net has odd widths."""
    pruned, layers = "pruned" in name, 22 if "teacher" in name else 10
    odd = [["stage1.0.main.0", 11, 8], ["stage3.2.main.0", 37, 40]] if pruned else []
    return {
        "layers": layers,
        "int8_layers": layers if precision == "int8" else 0,
        "kernels": layers + 3 + 12 * pruned,
        "macs": VARIANTS[name][3],
        "unfused_qdq": 0,
        "layout_changes": 1 + 8 * pruned,
        "float_islands": 0,
        "island_ops": {},
        "odd_layers": len(odd),
        "odd_channels": odd,
        "outside": {},
        "parts": 1,
    }


def _record(record: Json, precision: str, runtime: str, host: str, batch: int) -> Json:
    name = record["name"]
    return {
        "kind": "cell",
        "key": _sha(name + runtime + host + str(batch))[:16],
        "cell": {
            "variant": name,
            "runtime": runtime,
            "precision": precision,
            "batch": batch,
            "threads": 1,
            "host": host,
        },
        "status": "ok",
        "reason": "",
        "remedy": "",
        "artifact": None,
        "metrics": {},
        "classification": None,
        "samples": None,
        "predictions": None,
        "environment": {},
        "stopped": "interval",
        "notes": [],
    }


def _accuracy(path: Path, out: Json, name: str, accuracy: float, n: int, size: int, variant: Json) -> None:
    """Fills what is known without timing: size, MACs, parameters and accuracy."""
    sha, truth, predicted = _write_predictions(path, name, accuracy, n)
    right = int((truth == predicted).sum())
    with np.load(path / "objects" / sha) as stored:
        val_right = int((stored["val_pred"] == stored["val_true"]).sum())
    out["predictions"] = sha
    out["classification"] = classification(truth, predicted)
    out["metrics"] |= {
        "size_bytes": Quantity(float(size), "B", n=1, provenance="measured").to_json(),
        "macs": Quantity(float(variant["macs"]), provenance="measured").to_json(),
        "params": Quantity(float(variant["params"]), provenance="measured").to_json(),
        "accuracy": _share(right, n),
        "val_accuracy": _share(val_right, n),
        "top5": _share(n - 1, n),
    }


def _cell(
    path: Path,
    variant: Json,
    precision: str,
    runtime: str,
    ms: float,
    batch: int,
    n: int,
    artifacts: dict[str, Json],
) -> Json:
    name = variant["name"]
    out = _record(variant, precision, runtime, "local", batch)
    if not ms:
        return out | {"status": "skipped", "reason": NO_INT8, "remedy": "use onnxruntime or litert for int8"}
    if (name, runtime) == ("teacher-fp16", "onnxruntime"):
        reason = "the worker crashed with signal 11 (SIGSEGV) while loading <model> & co"
        return out | {"status": "failed", "reason": reason}
    key, size = _artifact(variant, precision, runtime, artifacts)
    out["artifact"] = key
    out["metrics"] = _timed(ms, batch, size)
    accuracy = VARIANTS[name][2] - (0.003 if runtime == "litert" and precision == "int8" else 0.0)
    _accuracy(path, out, f"{name}-{runtime}", accuracy, n, size, variant)
    out["environment"] = {
        "cpu": {"model": "Example CPU @ 2.5 GHz", "cores": 2, "flags": ["avx2", "fma"]},
        "governor": "performance",
        "versions": {runtime: "1.32.0", "python": "3.11.9"},
        "load": 0.4 + 0.1 * RUNTIMES.index(runtime),
    }
    return out


def _device_cell(path: Path, variant: Json, precision: str, n: int, artifacts: dict[str, Json]) -> Json:
    """Skipped: the device is not there, but accuracy was measured here with its scheme."""
    name = variant["name"]
    out = _record(variant, precision, "tensorrt", "jetson-agx-xavier", 1)
    key, size = _artifact(variant, precision, "tensorrt", artifacts)
    _accuracy(path, out, f"{name}-tensorrt", VARIANTS[name][2], n, size, variant)
    return out | {"status": "skipped", "reason": NO_HOST, "remedy": GIVE_HOST, "artifact": key}


def _manifest(n: int) -> Json:
    profile = Profile("jetson-agx-xavier", "NVIDIA Jetson AGX Xavier", "jetson", ("tensorrt", "onnxruntime"))
    return {
        "schema": 1,
        "name": "demo",
        "created": "2026-11-22T20:00:00+00:00",
        "command": "bench run --profile jetson-xavier",
        "seed": 7,
        "profile": dataclasses.asdict(profile),
        "recipe": {"name": "demo"},
        "data": {
            "spec": "digits",
            "digest": "5f0c2a9d41b7e863",
            "classes": list(LABELS),
            "channels": 1,
            "native_size": [8, 8],
            "counts": {"train": 1077, "validation": n, "calibration": 512, "test": n},
            "skipped": [["broken/0007.png", "cannot identify image file"]],
        },
        "environment": {
            "cpu": {"model": "Example CPU @ 2.5 GHz", "cores": 2},
            "os": "Linux",
            "python": "3.11.9",
        },
        "reference": "teacher",
    }


def large_run(root: Path, cells: int = 500, classes: int = 10) -> FakeRun:
    """A synthetic run with ``cells`` cells; every tenth failed, every eleventh is predicted."""
    base = example_run(root)
    draw = random.Random(3)
    pool = [c for c in base.cells if c["status"] == "ok"]
    variants, records = dict(base.variants), []
    for place in range(cells):
        source = pool[place % len(pool)]
        name = f"variant-{place // 12:03d}" if place >= len(pool) else source["cell"]["variant"]
        variants.setdefault(name, base.variants["student"] | {"name": name, "history": []})
        cell = source["cell"] | {"variant": name, "threads": 1 + place % 4}
        ms = draw.uniform(0.05, 5.0)
        metrics = source["metrics"] | _timed(ms, 1, 1e6)
        record = source | {"cell": cell, "metrics": metrics, "key": f"{place:016x}"}
        if place % 10 == 9:
            record |= {
                "status": "failed",
                "reason": "timed out after 120 s",
                "metrics": {},
                "classification": None,
            }
        elif place % 11 == 10:
            record["metrics"] = metrics | {"latency_ms": metrics["latency_ms"] | {"provenance": "predicted"}}
        if record["classification"] and classes != len(LABELS):
            truth = np.arange(classes * 10) % classes
            names = tuple(f"class {i}" for i in range(classes))
            record["classification"] = classification(truth, np.roll(truth, place % 3), names)
        records.append(record)
    return FakeRun(base.path, base.manifest, variants, base.artifacts, records)
