"""Measures one planned cell: a fresh worker, accuracy on the runtime itself, what is known without running.

The pipeline decides which cells and when; this makes one cell's record.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import runtimes
from bench.errors import EdgefitError, StoreError, WorkerError
from bench.foretell import Foreteller
from bench.hosts import open_host
from bench.hosts.base import HostRefused, HostUnreachable
from bench.measure.accuracy import ONLY as ACCURACY_ONLY
from bench.measure.latency import all_missing
from bench.measure.power import EnergySource, open_source
from bench.measure.processes import measure_processes
from bench.plan import Plan, PlannedCell
from bench.preflight import Prepared
from bench.runtimes.base import CellJob, Runtime
from bench.store import Run, no_space, write_atomic
from bench.types import Artifact, Json, Notify, Quantity, to_json

MOST_WAITING = 8
WAITING_MB = 400
"""What a worker takes that has imported torch and waits (about 350 MB, much of it shared)."""
Slot = tuple[PlannedCell, int]
"""A cell and the number of one of its processes."""


def failure(err: BaseException) -> Json:
    """The part of a record that says why something failed; a traceback only for what we did not foresee.

    Raises:
        StoreError: the disk is full or cannot be written: nothing after this can succeed.
    """
    if isinstance(err, StoreError):
        raise err
    if isinstance(err, OSError) and err.errno == errno.ENOSPC:
        raise no_space(err) from err
    if isinstance(err, EdgefitError):
        return {"status": "failed", "reason": str(err)}
    text = " ".join(str(err).split())[:400]
    detail = "".join(traceback.format_exception(err))[-4000:]
    return {"status": "failed", "reason": f"{type(err).__name__}: {text}", "detail": detail}


def worker_room(environment: Json) -> int:
    """How many waiting workers fit in a quarter of this machine's free memory; at most ``MOST_WAITING``."""
    memory = environment.get("memory", {})
    known = [m for m in (memory.get("available_mb"), memory.get("cgroup_mb")) if m]
    return min([MOST_WAITING, *(int(m / 4 / WAITING_MB) for m in known)])


class CellMaker:
    """Makes cell records for one run. ``data`` loads the data set on first use. Close it when done."""

    def __init__(self, prepared: Prepared, run: Run, notify: Notify, data: Callable[[], Any]) -> None:
        self.prepared, self.run, self.notify, self.data = prepared, run, notify, data
        self.plan: Plan = prepared.plan
        self._energy: dict[str, EnergySource] = {}
        self._ahead: dict[Slot, Any] = {}
        self._foretell = Foreteller(self.plan, run)

    def get_ready(self, upcoming: list[PlannedCell]) -> None:
        """Start what takes seconds to start while nothing is timed yet; ``upcoming`` are the cells to be timed."""
        if not upcoming or self.prepared.there is not None:
            return
        slow = [c for c in upcoming if runtimes.get(c.runtime_here).slow_start]
        for slot in self._slots(slow)[: worker_room(self.prepared.environment)]:
            self._start(slot)
        for device in {planned.device for planned in upcoming}:
            self.energy(device)

    def close(self) -> None:
        """End the workers started ahead, and the energy source."""
        for worker in self._ahead.values():
            worker.close()
        for source in self._energy.values():
            source.close()

    def make(self, planned: PlannedCell, upcoming: list[PlannedCell]) -> Json:
        """The record of one cell. ``upcoming`` are the cells still to be timed, this one first.

        Raises:
            HostUnreachable, HostRefused: the device of the run stays away.
        """
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
        metrics = all_missing(planned.skip or "not measured") | self._static_metrics(planned)
        made = self.run.done("artifact", planned.export) if planned.export else None
        if made and made["status"] != "ok":
            reason = f"its artifact was not made: {made['reason']}"
            record |= (
                {"reason": f"{planned.skip}; {reason}"}
                if planned.skip
                else {"status": "failed", "reason": reason}
            )
        elif planned.export:
            try:
                record |= self._measure(planned, metrics, upcoming)
            except (HostUnreachable, HostRefused):
                raise  # so would every other cell; what is under way there is found again by the next run
            except Exception as err:
                record |= failure(err)
        if planned.predict and record["status"] == "skipped":
            record |= self._foretell(planned, metrics)
        if record["status"] == "failed":
            metrics = {
                k: replace(q, reason=record["reason"]) if q.value is None else q for k, q in metrics.items()
            }
        return record | {"metrics": {k: to_json(q) for k, q in metrics.items()}}

    def _static_metrics(self, planned: PlannedCell) -> dict[str, Quantity]:
        """What is known of a cell without running it: operations, parameters, size of the file."""
        variant = self.run.done("variant", self.plan.variant(planned.cell.variant).key) or {}
        artifact = (
            (self.run.done("artifact", planned.export) or {}).get("artifact") if planned.export else None
        )
        found = {}
        for name, method in (("macs", "counted in the graph, batch 1"), ("params", "counted in the model")):
            value = variant.get(name)
            found[name] = (
                Quantity(value, name, n=1, provenance="measured", method=method)
                if value is not None
                else Quantity.missing("the variant was not made", name)
            )
        found["size_bytes"] = (
            Quantity(
                artifact["size_bytes"],
                "bytes",
                n=1,
                provenance="measured",
                method=f"size of the {artifact['format']} file",
            )
            if artifact
            else Quantity.missing(planned.skip or "no artifact", "bytes")
        )
        for name in ("accuracy", "val_accuracy"):
            found[name] = Quantity.missing(planned.skip or "not measured", "fraction")
        return found

    def _predicted_here(self, planned: PlannedCell) -> bool:
        """Does the accuracy come from this machine, for a device that is not here or runs nothing of ours?"""
        there = self.prepared.there
        return bool(planned.skip) or (there is not None and there.workspace is None)

    def _exact(self, planned: PlannedCell) -> bool:
        """INT8 of such a device is run in exact arithmetic: its kernels do not saturate as ours may."""
        return (
            self._predicted_here(planned)
            and planned.cell.precision == "int8"
            and planned.runtime_here == "onnxruntime"
        )

    def _measure(
        self, planned: PlannedCell, metrics: dict[str, Quantity], upcoming: list[PlannedCell]
    ) -> Json:
        """Fill in ``metrics`` and return the rest of the record."""
        if planned.skip or not self._predicted_here(planned):
            return self._by_worker(planned, metrics, upcoming)
        record = self._by_tool(planned, metrics)
        if record.get("status") == "failed":
            return record
        probe = runtimes.get(planned.runtime_here).probe(open_host("local"))
        found: Json = {}
        reason = f"{planned.runtime_here} is not here: {probe.reason}"
        if probe.available:
            try:
                found = self._by_worker(planned, metrics, upcoming)
                reason = found.get("reason", "")
            except WorkerError as err:
                reason = str(err)
        if reason:
            told = f"the phone's tool tells none, and on this machine: {reason}"
            metrics |= {n: Quantity.missing(told, "fraction") for n in ("accuracy", "val_accuracy")}
            found = {}
        return found | record

    def _by_tool(self, planned: PlannedCell, metrics: dict[str, Quantity]) -> Json:
        """Time a cell on a phone; its state before and after goes into the cell's environment."""
        artifact = Artifact.from_json((self.run.done("artifact", planned.export) or {})["artifact"])
        job = CellJob(
            artifact=artifact,
            path=self.run.object_path(artifact.sha256),
            outdir=self.run.workdir(planned.key),
            batch=planned.cell.batch,
            threads=planned.cell.threads,
            device=planned.device,
            protocol=self.plan.protocol,
        )
        result = self.prepared.there.runtime(planned.runtime_here).measure_cell(job, self.notify)
        self.run.clear_work(planned.key)
        if result.status == "failed":
            return {"status": "failed", "reason": result.reason, "runtime": result.runtime}
        metrics |= result.metrics
        environment = self.prepared.environment
        states = {when: result.runtime.pop(when) for when in ("before", "after")}
        return {
            "runtime": result.runtime,
            "seconds": result.seconds,
            "stopped": result.stopped,
            "notes": list(result.notes),
            "environment": environment | {"phone": environment["phone"] | states},
        }

    def _by_worker(
        self, planned: PlannedCell, metrics: dict[str, Quantity], upcoming: list[PlannedCell]
    ) -> Json:
        """Run a cell in our workers; of one that is timed by none of them, only the accuracy."""
        accuracy_only = self._predicted_here(planned)
        shared = self._accuracy_of(planned)
        if accuracy_only and shared:
            metrics |= shared.pop("quantities")
            return shared
        host = open_host("local")
        runtime = runtimes.get(planned.runtime_here) if accuracy_only else self._runtime(planned)
        export = self.run.done("artifact", planned.export)
        assert export is not None
        artifact = Artifact.from_json(export["artifact"])
        images, labels, bounds = self._eval_images()
        job = CellJob(
            artifact=artifact,
            path=self.run.object_path(artifact.sha256),
            outdir=self.run.workdir(planned.key),
            batch=1 if accuracy_only else planned.cell.batch,
            threads=1 if accuracy_only else planned.cell.threads,
            device="cpu" if accuracy_only else planned.device,
            protocol=ACCURACY_ONLY if accuracy_only else self.plan.protocol,
            images=images,
            predict=not shared,
            exact=self._exact(planned),
        )
        slots, processes = self._slots(upcoming), self.plan.protocol.processes
        here = not accuracy_only and self.prepared.there is None
        result = measure_processes(
            runtime,
            job,
            host,
            self._watch(
                slots[1:] if here else slots if accuracy_only and self.prepared.there is None else []
            ),
            start=lambda i: None if not here or i >= processes else self._worker(slots[i:]),
            energy=self.energy(planned.device) if here else None,
        )
        if result.status == "failed":
            return {"status": "failed", "reason": result.reason}
        record: Json = {"runtime": result.runtime, "seconds": result.seconds}
        if not accuracy_only:
            metrics |= result.metrics
            record |= {"stopped": result.stopped, "notes": list(result.notes)}
            record["samples"] = self.run.put(result.samples) if result.samples else None
        if not shared and result.outputs is not None:
            how = f", exact arithmetic, the target's scheme {artifact.scheme}" if job.exact else ""
            where = "this machine" if accuracy_only or not self.prepared.there else planned.cell.host
            how += f", not on {planned.cell.host}" if accuracy_only and not planned.skip else ""
            shared = self._judge(result.outputs, labels, bounds, f"{runtime.name} on {where}{how}")
        metrics |= shared.pop("quantities", {})
        self.run.clear_work(planned.key)
        return record | shared

    def _runtime(self, planned: PlannedCell) -> Runtime:
        """The runtime here, or on the device when that is where cells are measured."""
        there = self.prepared.there
        return (
            there.runtime(planned.runtime_here) if there is not None else runtimes.get(planned.runtime_here)
        )

    def _slots(self, upcoming: list[PlannedCell]) -> list[Slot]:
        """The processes still to be timed, in order."""
        return [(planned, i) for planned in upcoming for i in range(self.plan.protocol.processes)]

    def _watch(self, upcoming: list[Slot]) -> Notify:
        """Pass events on, and start the next workers while this one only predicts (untimed)."""

        def watch(event: str, info: Json) -> None:
            self.notify(event, info)
            if event == "phase" and info.get("name") == "predict":
                self._start_ahead(upcoming)

        return watch

    def _start_ahead(self, upcoming: list[Slot]) -> None:
        """Import the runtimes of the next workers side by side, one a core, when the next is not there yet."""
        if not upcoming or upcoming[0] in self._ahead:
            return
        for slot in upcoming[: min(4, os.cpu_count() or 1)]:
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        if slot not in self._ahead:
            planned = slot[0]
            runtime = runtimes.get(planned.runtime_here)
            self._ahead[slot] = runtime.start(
                open_host("local"), planned.cell.threads, self.plan.protocol.cpus
            )

    def _worker(self, upcoming: list[Slot]) -> Any:
        """The worker of the first slot; nothing is importing any more when it is handed out."""
        self._start_ahead(upcoming)
        for worker in self._ahead.values():
            # one that died is replaced when its own cell comes, and fails there if it dies again
            with contextlib.suppress(WorkerError):
                worker.ready()
        return self._ahead.pop(upcoming[0], None)

    def energy(self, device: str) -> EnergySource:
        """The best energy source of this machine for the work of ``device``, opened once a run."""
        if device not in self._energy:
            self._energy[device] = open_source(device)
            self._energy[device].prepare()
        return self._energy[device]

    def _eval_images(self) -> tuple[Path, Any, Json]:
        """Validation and test images as one array on disk: (path, labels, split bounds)."""
        import numpy as np

        folder = self.run.workdir(f"eval-{self.plan.data_digest[:16]}")
        bounds_file = folder / "bounds.json"
        if not bounds_file.exists():
            bounds = self.data().write_eval(folder)
            write_atomic(bounds_file, json.dumps(bounds).encode())
        return folder / "images.npy", np.load(folder / "labels.npy"), json.loads(bounds_file.read_text())

    def _accuracy_of(self, planned: PlannedCell) -> Json:
        """Accuracy already measured for the same artifact on the same runtime (other batch or threads)."""
        for other in self.plan.cells:
            same = (
                other.key != planned.key
                and other.export == planned.export
                and other.runtime_here == planned.runtime_here
                and self._exact(other) == self._exact(planned)
            )
            record = self.run.done("cell", other.key) if same else None
            if record and record["status"] != "failed" and record["predictions"]:
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
        arrays |= {
            f"{k}_true": labels[parts[s]].astype(np.int32)
            for k, s in (("val", "validation"), ("test", "test"))
        }
        np.savez(buffer, **arrays)
        classes = list(self.prepared.index.classes)
        report = accuracy.metrics(logits[parts["test"]], labels[parts["test"]], classes) | {"split": "test"}
        quantities = {
            name: accuracy.accuracy_quantity(
                int((arrays[f"{k}_pred"] == arrays[f"{k}_true"]).sum()),
                len(arrays[f"{k}_pred"]),
                f"{split} images, {where}",
            )
            for name, k, split in (("accuracy", "test", "test"), ("val_accuracy", "val", "validation"))
        }
        return {
            "classification": report,
            "predictions": self.run.put_bytes(buffer.getvalue(), ".npz"),
            "quantities": quantities,
        }
