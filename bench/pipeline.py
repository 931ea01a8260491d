"""Walks a plan: makes missing variants, exports them, measures cells, records; nothing else.

Whatever fails is recorded with its reason and the rest goes on; whatever is done is not done twice.
"""

from __future__ import annotations

import io
import shlex
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import EdgefitError
from bench.plan import Plan, PlannedCell, PlannedExport, PlannedVariant
from bench.preflight import Prepared
from bench.store import Run
from bench.types import (
    Artifact,
    DistillStep,
    Json,
    Notify,
    Protocol,
    PruneStep,
    QuantizeStep,
    Quantity,
    StepContext,
    StepResult,
    TrainStep,
    to_json,
)

ACCURACY_ONLY = Protocol(half_width=0.5, min_runs=6, max_seconds=0.05, warmup_seconds=0.0)
METRICS = (
    "latency_ms", "p90_ms", "p95_ms", "p99_ms", "throughput_ips", "first_call_ms", "load_ms", "memory_mb", "energy_mj",
)  # fmt: skip


@dataclass
class Outcome:
    """What a walk did: how many records it made and which failed."""

    made: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0


def execute(prepared: Prepared, run: Run, notify: Notify) -> Outcome:
    """Do whatever of the plan is not done yet.

    ``notify`` gets ``("stage", {"name", "total"})``, ``("item", {"name", "done"})`` and the events of
    the steps and workers. KeyboardInterrupt passes through with finished work kept.
    """
    engine = _Engine(prepared, run, notify)
    _write_manifest(prepared, run)
    try:
        engine.variants()
        engine.exports()
        engine.cells()
    finally:
        engine.close()
    return engine.outcome


def _write_manifest(prepared: Prepared, run: Run) -> None:
    plan, before = prepared.plan, run.read_manifest() or {}
    run.write_manifest(
        {
            "name": run.path.name,
            "created": before.get("created") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": shlex.join(["bench", *sys.argv[1:]]),
            "seed": plan.seed,
            "reference": plan.recipe.reference,
            "profile": to_json(plan.profile),
            "recipe": {"name": plan.recipe.name, "description": plan.recipe.description},
            "data": prepared.index.to_json(),
            "environment": before.get("environment") or prepared.environment,
            "plan": {
                "variant": [v.key for v in plan.variants],
                "artifact": [e.key for e in plan.exports],
                "cell": [c.key for c in plan.cells],
            },
        }
    )


def reason_of(err: BaseException) -> str:
    """One line that says why something failed."""
    if isinstance(err, EdgefitError):
        return str(err)
    text = " ".join(str(err).split())
    return f"{type(err).__name__}: {text[:400]}"


class _Engine:
    def __init__(self, prepared: Prepared, run: Run, notify: Notify) -> None:
        self.prepared, self.run, self.notify = prepared, run, notify
        self.plan: Plan = prepared.plan
        self.outcome = Outcome()
        self._dataset: Any = None
        self._energy: Any = None
        self._next_worker: Any = None

    def close(self) -> None:
        if self._next_worker is not None:
            self._next_worker[1].close()
        if self._energy is not None:
            self._energy.close()

    def data(self) -> Any:
        """The data set, decoded on first use."""
        if self._dataset is None:
            from distill import data

            self.notify("log", {"text": f"reading {self.prepared.index.spec}"})
            self._dataset = data.load(self.prepared.index)
        return self._dataset

    def _finished(self, kind: str, key: str) -> Json | None:
        record = self.run.done(kind, key)
        return record if record and record["status"] != "failed" else None

    def _append(self, record: Json) -> Json:
        self.outcome.made += 1
        if record["status"] == "failed":
            label = record.get("name") or record.get("variant") or record.get("cell", {}).get("variant")
            self.outcome.failed.append(f"{record['kind']} {label}: {record['reason']}")
            self.notify("failed", {"kind": record["kind"], "name": label, "reason": record["reason"]})
        elif record["status"] == "skipped":
            self.outcome.skipped += 1
        return self.run.append(record)

    # --- variants

    def variants(self) -> None:
        """Make every variant that has no finished record."""
        self.notify("stage", {"name": "variants", "total": len(self.plan.variants)})
        for planned in self.plan.variants:
            name = planned.variant.name
            if self._finished("variant", planned.key):
                self.outcome.reused += 1
            else:
                self.notify("item", {"name": name, "done": False})
                self._make_variant(planned)
            self.notify("item", {"name": name, "done": True})

    def _variant_record(self, name: str) -> Json | None:
        return self.run.done("variant", self.plan.variant(name).key)

    def _make_variant(self, planned: PlannedVariant) -> None:
        variant = planned.variant
        record: Json = {
            "kind": "variant",
            "key": planned.key,
            "name": variant.name,
            "parent": variant.parent,
            "step": to_json(variant.step),
            "intermediate": variant.intermediate,
            "status": "ok",
            "reason": "",
            "model": None,
        }
        broken = [n for n in variant.needs if (self._variant_record(n) or {}).get("status") != "ok"]
        if broken:
            self._append(record | {"status": "failed", "reason": f"it needs {broken[0]}, which failed"})
            return
        start = time.monotonic()
        try:
            made = self._quantized(planned) if isinstance(variant.step, QuantizeStep) else self._run_step(planned)
        except Exception as err:
            detail = "" if isinstance(err, EdgefitError) else traceback.format_exc()[-4000:]
            self._append(record | {"status": "failed", "reason": reason_of(err), "detail": detail})
            return
        self._append(record | made | {"seconds": round(time.monotonic() - start, 3)})
        self.run.clear_work(planned.key)

    def _quantized(self, planned: PlannedVariant) -> Json:
        """A quantized variant is its parent's model and a config; the files are made by the export."""
        parent = self._variant_record(planned.variant.parent)
        assert parent is not None
        return {k: parent[k] for k in ("model", "macs", "params")} | {"history": [], "best_epoch": None, "notes": []}

    def _run_step(self, planned: PlannedVariant) -> Json:
        variant, step = planned.variant, planned.variant.step
        context = StepContext(
            variant=variant.name,
            seed=self.plan.seed,
            data=self.data,
            parent=self._model_path(variant.parent),
            teacher=self._model_path(step.teacher) if isinstance(step, DistillStep) else None,
            workdir=self.run.workdir(planned.key),
            notify=self.notify,
        )
        result = _run_handler(step, context)
        sha = self.run.put(result.model)
        model = Artifact("safetensors", sha, result.model.stat().st_size, result.model.name, labels=self.prepared.index.classes)
        return {
            "model": to_json(model),
            "macs": result.macs,
            "params": result.params,
            "history": list(result.history),
            "best_epoch": result.best_epoch,
            "notes": list(result.notes),
        }

    def _model_path(self, name: str) -> Path | None:
        if not name:
            return None
        record = self._variant_record(name)
        assert record is not None and record["model"]
        return self.run.object_path(record["model"]["sha256"])

    # --- exports

    def exports(self) -> None:
        """Write every artifact that has no finished record."""
        self.notify("stage", {"name": "exports", "total": len(self.plan.exports)})
        for planned in self.plan.exports:
            label = f"{planned.variant} {planned.format} {planned.scheme or planned.precision}"
            if self._finished("artifact", planned.key):
                self.outcome.reused += 1
            else:
                self.notify("item", {"name": label, "done": False})
                self._make_export(planned)
            self.notify("item", {"name": label, "done": True})

    def _make_export(self, planned: PlannedExport) -> None:
        record: Json = {
            "kind": "artifact",
            "key": planned.key,
            "variant": planned.variant,
            "format": planned.format,
            "status": "ok",
            "reason": "",
            "artifact": None,
            "parity": None,
            "notes": [],
        }
        parent = self._variant_record(planned.variant)
        if not parent or parent["status"] != "ok":
            self._append(record | {"status": "failed", "reason": f"its variant {planned.variant} was not made"})
            return
        start = time.monotonic()
        try:
            from compress.export import export

            step = self.plan.variant(planned.variant).variant.step
            result = export(
                self.run.object_path(parent["model"]["sha256"]),
                planned.format,
                planned.precision,
                planned.scheme,
                step if isinstance(step, QuantizeStep) else None,
                self.data(),
                self.run.workdir(planned.key),
                float_artifact=self._artifact_path(planned.float_key),
            )
            sha = self.run.put(result.path)
        except Exception as err:
            detail = "" if isinstance(err, EdgefitError) else traceback.format_exc()[-4000:]
            self._append(record | {"status": "failed", "reason": reason_of(err), "detail": detail})
            return
        record |= {"artifact": to_json(replace(result.artifact, sha256=sha)), "parity": result.parity, "notes": list(result.notes)}
        self._append(record | {"seconds": round(time.monotonic() - start, 3)})
        self.run.clear_work(planned.key)

    def _artifact_path(self, key: str) -> Path | None:
        record = self.run.done("artifact", key) if key else None
        return self.run.object_path(record["artifact"]["sha256"]) if record and record["status"] == "ok" else None

    # --- cells

    def cells(self) -> None:
        """Measure every cell that has no finished record."""
        self.notify("stage", {"name": "cells", "total": len(self.plan.cells)})
        for i, planned in enumerate(self.plan.cells):
            if self._finished("cell", planned.key):
                self.outcome.reused += 1
            else:
                self.notify("item", {"name": planned.cell.label, "done": False})
                self._make_cell(planned, self._following(i))
            self.notify("item", {"name": planned.cell.label, "done": True})

    def _following(self, index: int) -> PlannedCell | None:
        """The next cell that will need a worker."""
        todo = (c for c in self.plan.cells[index + 1 :] if not c.skip and not self._finished("cell", c.key))
        return next(todo, None)

    def _make_cell(self, planned: PlannedCell, following: PlannedCell | None) -> None:
        record: Json = {
            "kind": "cell",
            "key": planned.key,
            "cell": to_json(planned.cell),
            "status": "skipped" if planned.skip else "ok",
            "reason": planned.skip,
            "remedy": planned.remedy,
            "artifact": planned.export or None,
            "metrics": {},
            "classification": None,
            "samples": None,
            "predictions": None,
            "environment": self.prepared.environment,
            "stopped": "",
            "notes": [],
        }
        metrics = {name: Quantity.missing(planned.skip or "not measured") for name in METRICS}
        metrics |= self._static_metrics(planned)
        made = self.run.done("artifact", planned.export) if planned.export else None
        if made and made["status"] != "ok":
            failed = {"status": "failed", "reason": f"its artifact was not made: {made['reason']}"}
            missing = {k: to_json(replace(q, reason=failed["reason"]) if q.value is None else q) for k, q in metrics.items()}
            self._append(record | (failed if not planned.skip else {}) | {"metrics": missing})
            return
        try:
            record |= self._measure(planned, metrics, following)
        except Exception as err:
            detail = "" if isinstance(err, EdgefitError) else traceback.format_exc()[-4000:]
            record |= {"status": "failed", "reason": reason_of(err), "detail": detail}
        if record["status"] == "failed":
            metrics = {k: replace(q, reason=record["reason"]) if q.value is None else q for k, q in metrics.items()}
        self._append(record | {"metrics": {k: to_json(q) for k, q in metrics.items()}})

    def _static_metrics(self, planned: PlannedCell) -> dict[str, Quantity]:
        """What is known of a cell without running it: operations, parameters, size of the file."""
        variant = self._variant_record(planned.cell.variant) or {}
        artifact = (self.run.done("artifact", planned.export) or {}).get("artifact") if planned.export else None
        found = {}
        for name, method in (("macs", "counted in the graph, batch 1"), ("params", "counted in the model")):
            value = variant.get(name)
            found[name] = (
                Quantity(value, name, n=1, provenance="measured", method=method)
                if value is not None
                else Quantity.missing("the variant was not made", name)
            )
        found["size_bytes"] = (
            Quantity(artifact["size_bytes"], "bytes", n=1, provenance="measured", method=f"size of the {artifact['format']} file")
            if artifact
            else Quantity.missing(planned.skip or "no artifact", "bytes")
        )
        for name in ("accuracy", "val_accuracy"):
            found[name] = Quantity.missing(planned.skip or "not measured", "fraction")
        return found

    def _measure(self, planned: PlannedCell, metrics: dict[str, Quantity], following: PlannedCell | None) -> Json:
        """Fill in ``metrics`` and return the rest of the record."""
        if not planned.export:
            return {}
        shared = self._accuracy_of(planned)
        if planned.skip and shared:
            metrics |= shared.pop("quantities")
            return shared
        from bench import runtimes
        from bench.hosts import open_host
        from bench.runtimes.base import CellJob

        host = open_host("local")
        runtime = runtimes.get(planned.runtime_here)
        export = self.run.done("artifact", planned.export)
        assert export is not None
        artifact = Artifact.from_json(export["artifact"])
        images, labels, bounds = self._eval_images()
        job = CellJob(
            artifact=artifact,
            path=self.run.object_path(artifact.sha256),
            outdir=self.run.workdir(planned.key),
            batch=1 if planned.skip else planned.cell.batch,
            threads=1 if planned.skip else planned.cell.threads,
            device=planned.device,
            protocol=ACCURACY_ONLY if planned.skip else self.plan.protocol,
            images=images,
            predict=not shared,
        )
        result = runtime.measure(
            job, host, self._watch(following), worker=self._take_worker(planned), energy=None if planned.skip else self.energy()
        )
        if result.status == "failed":
            return {"status": "failed", "reason": result.reason}
        record: Json = {"runtime": result.runtime, "seconds": result.seconds}
        if not planned.skip:
            metrics |= result.metrics
            record |= {"stopped": result.stopped, "notes": list(result.notes)}
            record["samples"] = self.run.put(result.samples) if result.samples else None
        if not shared and result.outputs is not None:
            shared = self._judge(result.outputs, labels, bounds, f"{runtime.name} here, the artifact itself")
        metrics |= shared.pop("quantities", {})
        self.run.clear_work(planned.key)
        return record | shared

    def _watch(self, following: PlannedCell | None) -> Notify:
        """Pass events on, and start the next cell's worker while this one only predicts (untimed)."""

        def watch(event: str, info: Json) -> None:
            self.notify(event, info)
            if event == "phase" and info.get("name") == "predict" and following and self._next_worker is None:
                from bench import runtimes
                from bench.hosts import open_host

                threads = 1 if following.skip else following.cell.threads
                worker = runtimes.get(following.runtime_here).start(open_host("local"), threads)
                self._next_worker = (following.key, worker)

        return watch

    def _take_worker(self, planned: PlannedCell) -> Any:
        """The worker started ahead for this cell, if there is one."""
        if self._next_worker is None:
            return None
        key, worker = self._next_worker
        self._next_worker = None
        if key == planned.key:
            return worker
        worker.close()
        return None

    def energy(self) -> Any:
        """The best energy source of this machine, opened once a run."""
        if self._energy is None:
            from bench.measure import power

            self._energy = power.open_source()
        return self._energy

    def _eval_images(self) -> tuple[Path, Any, Json]:
        """Validation and test images as one array on disk: (path, labels, split bounds)."""
        import json

        import numpy as np

        folder = self.run.workdir(f"eval-{self.plan.data_digest[:16]}")
        bounds_file = folder / "bounds.json"
        if not bounds_file.exists():
            from bench.store import write_atomic

            bounds = self.data().write_eval(folder)
            write_atomic(bounds_file, json.dumps(bounds).encode())
        return folder / "images.npy", np.load(folder / "labels.npy"), json.loads(bounds_file.read_text())

    def _accuracy_of(self, planned: PlannedCell) -> Json:
        """Accuracy already measured for the same artifact on the same runtime (other batch or threads)."""
        for other in self.plan.cells:
            same = other.key != planned.key and other.export == planned.export and other.runtime_here == planned.runtime_here
            record = self._finished("cell", other.key) if same else None
            if record and record["predictions"]:
                names = ("accuracy", "val_accuracy", "top5")
                found = {n: Quantity.from_json(record["metrics"][n]) for n in names if n in record["metrics"]}
                return {k: record[k] for k in ("classification", "predictions")} | {"quantities": found}
        return {}

    def _judge(self, outputs: Path, labels: Any, bounds: Json, where: str) -> Json:
        """Accuracy on validation and test from logits (N, classes); predictions are kept for paired tests."""
        import numpy as np

        from bench.measure import accuracy

        logits = np.load(outputs)
        parts = {s: slice(*bounds[s]) for s in ("validation", "test")}
        predicted = logits.argmax(axis=1).astype(np.int32)
        buffer = io.BytesIO()
        arrays = {f"{k}_pred": predicted[parts[s]] for k, s in (("val", "validation"), ("test", "test"))}
        arrays |= {f"{k}_true": labels[parts[s]].astype(np.int32) for k, s in (("val", "validation"), ("test", "test"))}
        np.savez(buffer, **arrays)
        classes = list(self.prepared.index.classes)
        report = accuracy.metrics(logits[parts["test"]], labels[parts["test"]], classes) | {"split": "test"}
        quantities = {
            name: accuracy.accuracy_quantity(
                int((arrays[f"{k}_pred"] == arrays[f"{k}_true"]).sum()), len(arrays[f"{k}_pred"]), f"{split} images, {where}"
            )
            for name, k, split in (("accuracy", "test", "test"), ("val_accuracy", "val", "validation"))
        }
        return {
            "classification": report,
            "predictions": self.run.put_bytes(buffer.getvalue(), ".npz"),
            "quantities": quantities,
        }


def _run_handler(step: TrainStep | DistillStep | PruneStep | Any, context: StepContext) -> StepResult:
    """One step by its kind; the heavy packages are imported only when they are used."""
    if isinstance(step, TrainStep):
        from distill.train import run_train

        return run_train(step, context)
    if isinstance(step, DistillStep):
        from distill.train import run_distill

        return run_distill(step, context)
    from compress.prune import run_prune

    return run_prune(step, context)
