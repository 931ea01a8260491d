"""One artifact at every batch, thread count and number of instances: each setting in a fresh process.

Nothing here prints.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import EdgefitError
from bench.measure.load import METRICS, SILENCE_SECONDS, load_notes, oversubscription, run_load
from bench.types import SCHEMA, Json, Notify, Protocol, Quantity, to_json

if TYPE_CHECKING:
    from bench.measure.feeding import Feeding
    from bench.runtimes.base import CellJob, Runtime

STREAMS_WARMUP = 0.5


@dataclass(frozen=True)
class Setting:
    """Images a call, compute threads of an instance, instances side by side."""

    batch: int
    threads: int
    streams: int

    @property
    def label(self) -> str:
        return f"batch {self.batch}, threads {self.threads}, streams {self.streams}"


def sweep_file(
    path: Path,
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    streams: Sequence[int],
    runtime: str,
    data: str,
    max_seconds: float,
    seed: int,
    notify: Notify,
    feeding: Feeding | None = None,
    device: str | None = None,
) -> Json:
    """Measure an artifact in every combination, as JSON: ``settings`` has one row each.

    One stream is timed as `bench measure` does it; several call their own instance each, at the same time, for
    ``max_seconds``. A setting that fails has its reason, and the rest go on.

    Raises:
        UsageError: no such file, a runtime that does not take it, images it cannot be fed.
        MissingError: the runtime or the device is not here.
    """
    from bench.measure import environment
    from bench.measure.artifact import open_artifact, write_images
    from bench.runtimes.base import CellJob

    opened = open_artifact(path, runtime, feeding, bool(data), device)
    machine = environment.describe()
    settings = [Setting(b, t, s) for t, s, b in itertools.product(threads, streams, batches)]
    notify("stage", {"name": "sweep", "total": len(settings)})
    rows: list[Json] = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        if data:
            write_images(opened.artifact, data, seed, folder, path)
        for number, setting in enumerate(settings):
            notify("item", {"name": setting.label, "done": False})
            outdir = folder / str(number)
            outdir.mkdir()
            images = folder / "images.npy" if data else None
            job = CellJob(
                opened.artifact,
                path,
                outdir,
                setting.batch,
                setting.threads,
                opened.device,
                images=images,
                predict=False,
            )
            row = _measure(job, opened.runtime, setting, max_seconds, machine, notify)
            rows.append(row)
            if row["status"] != "ok":
                notify("failed", {"name": setting.label, "reason": row["reason"]})
            notify("item", {"name": setting.label, "done": True})
    shared = [n for n in rows[0]["notes"] if all(n in r["notes"] for r in rows)]
    return {
        "schema": SCHEMA,
        "file": str(path),
        "runtime": opened.runtime.name,
        "device": opened.device,
        "settings": [r | {"notes": [n for n in r["notes"] if n not in shared]} for r in rows],
        "environment": machine,
        "notes": shared,
    }


def _measure(
    job: CellJob, runtime: Runtime, setting: Setting, max_seconds: float, machine: Json, notify: Notify
) -> Json:
    """One row: the setting, its status, its quantities."""
    from bench.hosts import open_host

    several = setting.streams > 1
    protocol = Protocol(max_seconds=max_seconds, timeout_seconds=max_seconds + SILENCE_SECONDS)
    if several:
        protocol = Protocol(warmup_seconds=STREAMS_WARMUP, timeout_seconds=SILENCE_SECONDS)
    load = {"scenario": "streams", "streams": setting.streams, "seconds": max_seconds} if several else None
    job = replace(job, protocol=protocol, load=load)
    host = open_host("local")
    notes: list[str] = []
    found: dict[str, Quantity] = {}
    try:
        if several:
            raw, found, _ = run_load(job, runtime, host, notify)
            status, reason, notes = (
                raw["status"],
                raw["reason"],
                load_notes(raw, setting.threads, setting.streams, machine),
            )
        else:
            result = runtime.measure(job, host, notify)
            status, reason, found = result.status, result.reason, result.metrics
            notes = [*result.notes, *oversubscription(setting.threads, 1, machine)]
    except EdgefitError as err:
        status, reason = "failed", str(err)
    quantities = {name: found.get(name) or Quantity.missing(reason, unit) for name, unit in METRICS.items()}
    return {
        **to_json(setting),
        "status": status,
        "reason": reason,
        **{name: to_json(q) for name, q in quantities.items()},
        "notes": notes,
    }
