"""The two sides of a check: what is judged, and what each side knows of it.

A side comes from a run, a model file, a file in a git revision (:mod:`bench.gate.revisions`) or a stored baseline
(:mod:`bench.gate.baseline`). Where it still has the artifact, the artifact is measured now; else its numbers count.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import stats
from bench.errors import StoreError, UsageError, nearest
from bench.types import Artifact, Json, Quantity
from reports import text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.measure.feeding import Feeding
    from bench.store import RunData

NAMED = 5
"""So many subjects are named in an error."""


@dataclass(frozen=True, order=True)
class Subject:
    """One thing that is judged: a variant (or a model file) at one place."""

    name: str
    runtime: str
    batch: int = 1
    threads: int = 1

    @property
    def label(self) -> str:
        more = [f"batch {self.batch}"] if self.batch > 1 else []
        more += [f"{self.threads} threads"] if self.threads > 1 else []
        return f"{self.name} on {self.runtime}" + (f" ({', '.join(more)})" if more else "")


@dataclass(frozen=True)
class Answers:
    """Which test images were answered right: bool (n,), and a digest of their labels in order."""

    right: NDArray[np.bool_]
    images: str

    @classmethod
    def of(cls, right: NDArray[np.bool_], labels: NDArray[np.int64]) -> Answers:
        return cls(right, hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:12])

    def accuracy(self) -> Quantity:
        """The share that was right, with its Wilson interval."""
        right, n = int(self.right.sum()), len(self.right)
        low, high = stats.wilson(right, n)
        return Quantity(
            right / n, "fraction", low, high, n, "measured", "top-1 on test images; Wilson interval"
        )


@dataclass(frozen=True)
class Side:
    """What one side knows of a subject. ``path`` is None where the artifact is not here any more.

    ``processes``: metric -> its value in each process.
    """

    artifact: Artifact
    path: Path | None = None
    numbers: dict[str, Quantity] = field(default_factory=dict)
    answers: Answers | None = None
    processes: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """One side of a check. ``machine``: where its numbers were measured (:func:`bench.measure.environment.describe`).

    ``digest``: of the data set, where it is known. ``left_out``: how many cells it has that are no sides, by what they are
    (:func:`elsewhere`).
    """

    title: str
    sides: dict[Subject, Side]
    machine: Json = field(default_factory=dict)
    commit: str = ""
    data: str = ""
    digest: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)


def elsewhere(host: str, predicted: bool) -> str:
    """What a cell is that was not measured on this kind of machine; empty for one that was."""
    if predicted:
        return f"predicted for {host}"
    return "" if host == "local" else f"measured on {host}"


def from_file(
    path: Path,
    runtime: str,
    batch: int = 1,
    threads: int = 1,
    name: str = "",
    feeding: Feeding | None = None,
    with_data: bool = False,
) -> Source:
    """A model file, on the runtime of that name or the first that takes it. ``with_data``: it will be fed images.

    Raises:
        UsageError, MissingError, WorkerError: see :func:`bench.measure.artifact.open_artifact`.
    """
    from bench.measure.artifact import open_artifact

    opened = open_artifact(path, runtime, feeding, with_data)
    subject = Subject(name or path.stem, opened.runtime.name, batch, threads)
    side = Side(opened.artifact, path, {"size_bytes": _size(path.stat().st_size)})
    return Source(str(path), {subject: side})


def _size(value: int) -> Quantity:
    return Quantity(float(value), "B", provenance="measured", method="size of the file as shipped")


def from_run(run: RunData, runtime: str = "") -> Source:
    """What a run measured on this kind of machine (its host ``local``), with the files it made.

    Raises:
        UsageError: nothing in it was measured.
    """
    from reports.rows import rows
    from reports.spread import process_values

    sides: dict[Subject, Side] = {}
    machine: Json = {}
    left_out: Counter[str] = Counter()
    for row in rows(run):
        cell, record = row.cell, run.artifacts.get(row.record.get("artifact") or "")
        if row.status != "ok" or runtime not in ("", cell.runtime):
            continue
        if other := elsewhere(cell.host, bool(row.record.get("prediction"))):
            left_out[other] += 1
            continue
        if record is None:
            continue
        artifact = Artifact.from_json(record["artifact"])
        machine = machine or row.record.get("environment") or {}
        sides[Subject(cell.variant, cell.runtime, cell.batch, cell.threads)] = Side(
            artifact,
            _object(run, artifact.sha256),
            row.metrics,
            _answers(run, row.record),
            process_values(row.record),
        )
    if not sides:
        here = {cell["cell"]["runtime"] for cell in run.cells}
        if runtime and runtime not in here:
            raise UsageError(f"The run {run.path} has nothing on {runtime}", todo=nearest(runtime, here))
        raise UsageError(
            f"The run {run.path} has no measured cell to compare", todo="Look at it with `bench report`"
        )
    git = (run.manifest.get("environment") or {}).get("git") or {}
    data = run.manifest.get("data") or {}
    return Source(
        str(run.path), sides, machine, git.get("commit", ""),
        str(data.get("spec") or ""), str(data.get("digest") or ""), left_out,
    )  # fmt: skip


def _object(run: RunData, sha256: str) -> Path | None:
    try:
        return run.object_path(sha256)
    except StoreError:
        return None


def _answers(run: RunData, record: Json) -> Answers | None:
    import zipfile

    import numpy as np

    name = record.get("predictions")
    if not name:
        return None
    try:
        with np.load(run.object_path(name), allow_pickle=False) as archive:
            truth = archive["test_true"]
            return Answers.of(archive["test_pred"] == truth, truth)
    except (StoreError, OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def shared(
    base: Source, head: Source, allow_none: bool = False
) -> tuple[list[Subject], list[Subject], list[Subject]]:
    """(on both sides, only in the base, only in the head), each in the order of its side.

    Raises:
        UsageError: nothing is on both: there is nothing to judge, and that is no pass.
    """
    both = [s for s in head.sides if s in base.sides]
    if not both and not allow_none:
        raise UsageError(
            "The two have nothing in common to compare",
            f"the base {_holds(base)}; the other {_holds(head)}",
            "Compare runs of one recipe, or files by the same name and runtime",
        )
    return (
        both,
        [s for s in base.sides if s not in head.sides],
        [s for s in head.sides if s not in base.sides],
    )


def _holds(source: Source) -> str:
    """``runs/old has student on litert, teacher on litert and 12 more``."""
    names = sorted(s.label for s in source.sides)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    nothing = "nothing that was measured on this kind of machine" if source.left_out else "no subject"
    known = ", ".join(names[:NAMED]) + more or nothing
    others = ", ".join(text.plural(n, "cell") + f" {what}" for what, n in source.left_out.items())
    return f"{source.title} has {known}" + (f" ({others})" if others and not names else "")
