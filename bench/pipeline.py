"""Walks a plan: makes missing variants, exports them, measures cells, records; nothing else.

Whatever fails is recorded with its reason and the rest goes on; whatever is done is not done twice.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.cells import CellMaker, failure
from bench.measure.environment import hardware
from bench.plan import Plan, PlannedCell, PlannedExport, PlannedVariant
from bench.preflight import Prepared
from bench.steps import DistillStep, PruneStep, QatStep, QuantizeStep, TrainStep
from bench.store import Run, require_space
from bench.targets import open_target
from bench.types import Artifact, ExportResult, Json, Notify, StepContext, StepResult, Target, to_json

LEAST_FREE = 32_000_000
"""Bytes that must be free before a variant, an export or a cell is begun."""


@dataclass
class Outcome:
    """What a walk did: how many records it made and which failed."""

    made: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0


def execute(prepared: Prepared, run: Run, notify: Notify, data: Callable[[], Any] | None = None) -> Outcome:
    """Do whatever of the plan is not done yet; ``data`` lends the data set where the caller has it decoded.

    ``notify`` gets ``("stage", {"name", "total"})``, ``("item", {"name", "done"})`` and the events of
    the steps and workers. KeyboardInterrupt passes through with finished work kept.
    """
    engine = _Engine(prepared, run, notify, data)
    _write_manifest(prepared, run)
    engine.variants()
    with closing(CellMaker(prepared, run, notify, engine.data)) as maker:
        maker.get_ready(engine.upcoming())
        engine.exports()
        engine.cells(maker)
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
            "environment": _environment(before.get("environment"), prepared.environment),
            "plan": {
                "variant": [v.key for v in plan.variants],
                "artifact": [e.key for e in plan.exports],
                "cell": [c.key for c in plan.cells],
            },
        }
    )


def _environment(before: Json | None, now: Json) -> Json:
    """The environment of the run: the earlier one while hardware and packages are the same."""
    same = before and all(hardware(before)[k] == v for k, v in hardware(now).items())
    return before if before and same and before.get("packages") == now["packages"] else now


class _Engine:
    def __init__(
        self, prepared: Prepared, run: Run, notify: Notify, data: Callable[[], Any] | None = None
    ) -> None:
        self.prepared, self.run, self.notify, self._lent = prepared, run, notify, data
        self.plan: Plan = prepared.plan
        self.outcome = Outcome()
        self._dataset: Any = None
        self._targets: dict[str, Target] = {}

    def data(self) -> Any:
        """The data set, decoded on first use."""
        if self._lent is not None:
            return self._lent()
        if self._dataset is None:
            from distill import data

            self.notify("log", {"text": f"reading {self.prepared.index.spec}"})
            self._dataset = data.load(self.prepared.index)
        return self._dataset

    def target(self, runtime: str) -> Target:
        """The runtime that a step asks for, to time its candidates on."""
        if runtime not in self._targets:
            self._targets[runtime] = open_target(runtime, self.prepared.environment, self.plan.protocol)
        return self._targets[runtime]

    def _finished(self, kind: str, key: str) -> Json | None:
        record = self.run.done(kind, key)
        return record if record and record["status"] != "failed" else None

    def _stage(
        self, name: str, kind: str, items: Sequence[PlannedVariant | PlannedExport | PlannedCell]
    ) -> None:
        todo = sum(1 for i in items if not self._finished(kind, i.key) and not getattr(i, "skip", ""))
        self.notify("stage", {"name": name, "total": len(items), "todo": todo})

    def _begin(self, name: str) -> None:
        require_space(self.run.path, LEAST_FREE)
        self.notify("item", {"name": name, "done": False})

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
        self._stage("variants", "variant", self.plan.variants)
        for planned in self.plan.variants:
            name = planned.variant.name
            if self._finished("variant", planned.key):
                self.outcome.reused += 1
            else:
                self._begin(name)
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
            "alone": variant.alone,
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
            made = (
                self._quantized(planned)
                if isinstance(variant.step, QuantizeStep)
                else self._run_step(planned)
            )
        except Exception as err:
            self._append(record | failure(err))
            return
        # one that went on from a checkpoint took the epochs of earlier sessions too
        epochs = sum(row.get("seconds", 0.0) for row in made["history"])
        self._append(record | made | {"seconds": round(max(time.monotonic() - start, epochs), 3)})
        self.run.clear_work(planned.key)

    def _quantized(self, planned: PlannedVariant) -> Json:
        """A quantized variant is its parent's model and a config; the files are made by the export."""
        parent = self._variant_record(planned.variant.parent)
        assert parent is not None
        return {k: parent[k] for k in ("model", "macs", "params")} | {
            "history": [],
            "best_epoch": None,
            "notes": [],
        }

    def _run_step(self, planned: PlannedVariant) -> Json:
        variant, step = planned.variant, planned.variant.step
        context = StepContext(
            variant=variant.name,
            seed=self.plan.seed,
            data=self.data,
            parent=self._model_path(variant.parent),
            teachers=tuple(self._required_model(t) for t in getattr(step, "teacher", ())),
            workdir=self.run.workdir(planned.key),
            notify=self.notify,
            target=self.target,
        )
        result = run_handler(step, context)
        sha = self.run.put(result.model)
        model = Artifact(
            "safetensors",
            sha,
            result.model.stat().st_size,
            result.model.name,
            labels=self.prepared.index.classes,
        )
        return {
            "model": to_json(model),
            "macs": result.macs,
            "params": result.params,
            "history": list(result.history),
            "best_epoch": result.best_epoch,
            "notes": list(result.notes),
        }

    def _model_path(self, name: str) -> Path | None:
        return self._required_model(name) if name else None

    def _required_model(self, name: str) -> Path:
        record = self._variant_record(name)
        assert record is not None and record["model"]
        return self.run.object_path(record["model"]["sha256"])

    # --- exports

    def exports(self) -> None:
        """Write every artifact that has no finished record."""
        self._stage("exports", "artifact", self.plan.exports)
        for planned in self.plan.exports:
            label = f"{planned.variant} {planned.format} {planned.scheme or planned.precision}"
            if self._finished("artifact", planned.key):
                self.outcome.reused += 1
            else:
                self._begin(label)
                self._make_export(planned)
            self.notify("item", {"name": label, "done": True})
        for variant in self.plan.variants:  # a rung that trained served every format
            self.run.clear_work(f"qat-{variant.key}")

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
            "ladder": [],
            "graph": {},
        }
        parent = self._variant_record(planned.variant)
        if not parent or parent["status"] != "ok":
            self._append(
                record | {"status": "failed", "reason": f"its variant {planned.variant} was not made"}
            )
            return
        start = time.monotonic()
        try:
            result = self._export(planned, self.run.object_path(parent["model"]["sha256"]))
            sha = self.run.put(result.path)
        except Exception as err:
            self._append(record | failure(err))
            return
        record |= {
            "artifact": to_json(replace(result.artifact, sha256=sha)),
            "parity": result.parity,
            "notes": list(result.notes),
            "ladder": list(result.ladder),
            "graph": graph_facts(self.run.object_path(sha), planned.format),
        }
        self._append(record | {"seconds": round(time.monotonic() - start, 3)})
        self.run.clear_work(planned.key)

    def _export(self, planned: PlannedExport, model: Path) -> ExportResult:
        """One artifact; what its quantization ladder needs is lent to it."""
        from compress.export import export

        variant = self.plan.variant(planned.variant)
        step = variant.variant.step
        ladder = isinstance(step, QuantizeStep) and step.max_drop is not None
        qat: Callable[[], Path] | None = None
        if ladder and isinstance(step, QuantizeStep) and planned.precision == "int8":
            from compress.qat import qat_rung

            qat = partial(
                qat_rung, model, step, self.data(), self.run.workdir(f"qat-{variant.key}"), planned.scheme,
                self.plan.seed, self.notify,
            )  # fmt: skip
        return export(
            model,
            planned.format,
            planned.precision,
            planned.scheme,
            step if isinstance(step, QuantizeStep) else None,
            self.data(),
            self.run.workdir(planned.key),
            float_artifact=self._artifact_path(planned.float_key),
            target=self.target(planned.runtime) if ladder and planned.runtime else None,
            qat=qat,
            notify=self.notify,
        )

    def _artifact_path(self, key: str) -> Path | None:
        record = self.run.done("artifact", key) if key else None
        return (
            self.run.object_path(record["artifact"]["sha256"])
            if record and record["status"] == "ok"
            else None
        )

    # --- cells

    def cells(self, maker: CellMaker) -> None:
        """Measure every cell that has no finished record."""
        self._stage("cells", "cell", self.plan.cells)
        for i, planned in enumerate(self.plan.cells):
            if self._finished("cell", planned.key):
                self.outcome.reused += 1
            else:
                self._begin(planned.cell.label)
                self._append(maker.make(planned, self.upcoming(i)))
            skipped = bool(planned.skip) and not planned.export
            self.notify("item", {"name": planned.cell.label, "done": True, "skipped": skipped})

    def upcoming(self, index: int = 0) -> list[PlannedCell]:
        """The cells from ``index`` on that are still to be timed."""
        return [c for c in self.plan.cells[index:] if not c.skip and not self._finished("cell", c.key)]


def graph_facts(path: Path, fmt: str) -> Json:
    """What in a file explains its speed (:func:`compress.speed.facts.graph_facts`); empty for other formats."""
    if fmt not in ("onnx", "tflite"):
        return {}
    from compress.speed import facts

    return facts.graph_facts(path, fmt)


def run_handler(
    step: TrainStep | DistillStep | PruneStep | QatStep | Any, context: StepContext
) -> StepResult:
    """One step by its kind; the heavy packages are imported only when they are used."""
    if isinstance(step, TrainStep):
        from distill.train import run_train

        return run_train(step, context)
    if isinstance(step, DistillStep):
        from distill.train import run_distill

        return run_distill(step, context)
    if isinstance(step, QatStep):
        from compress.qat import run_qat

        return run_qat(step, context)
    from compress.prune import run_prune

    return run_prune(step, context)
