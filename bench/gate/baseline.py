"""A stored baseline: what a later check is held against, in a JSON file of a few kB that is committed.

It has the numbers of each subject, which images were answered right (compressed), the digests of the artifacts and the machine.
The artifacts themselves lie in a cache, by content: where they are still there, they are measured again beside the new ones.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
import zlib
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.errors import StoreError, UsageError
from bench.gate.sides import Answers, Side, Source, Subject, elsewhere
from bench.gate.thresholds import METRICS
from bench.store import file_sha256, write_atomic
from bench.types import Artifact, Json, Quantity, to_json

KIND = "edgefit gate baseline"
SCHEMA = 1
CACHE = "~/.cache/edgefit/gate"


def cache_folder() -> Path:
    """Where artifacts of baselines and of git revisions are kept, by content."""
    return Path(CACHE).expanduser()


def keep(path: Path) -> str:
    """Copy a file into the cache; its sha256."""
    digest = file_sha256(path)
    there = cache_folder() / f"{digest}{path.suffix}"
    if not there.exists():
        there.parent.mkdir(parents=True, exist_ok=True)
        part = there.with_name(f".tmp-{there.name}")
        shutil.copyfile(path, part)
        part.replace(there)
    return digest


def kept(artifact: Artifact) -> Path | None:
    """The file of an artifact in the cache, if it is there and whole."""
    there = cache_folder() / f"{artifact.sha256}{Path(artifact.filename).suffix}"
    return there if there.is_file() and file_sha256(there) == artifact.sha256 else None


def write(path: Path, source: Source, reason: str, machine: Json, data: str = "") -> None:
    """Store a side as the baseline of later checks, and its artifacts in the cache."""
    for side in source.sides.values():
        if side.path is not None:
            keep(side.path)
    document = {
        "kind": KIND,
        "schema": SCHEMA,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "of": source.title,
        "commit": source.commit,
        "reason": reason,
        "data": data,
        "machine": {key: machine.get(key) for key in ("cpu", "gpus", "os", "packages", "machine")}
        if machine
        else {},
        "subjects": [_subject(subject, side) for subject, side in source.sides.items()],
    }
    write_atomic(path, (json.dumps(document, indent=1) + "\n").encode())


def _subject(subject: Subject, side: Side) -> Json:
    keys = [m.key for m in METRICS.values()]
    return {
        **to_json(subject),
        "artifact": to_json(side.artifact),
        "numbers": {key: side.numbers[key].to_json() for key in keys if key in side.numbers},
        "processes": {
            key: [float(f"{v:.7g}") for v in values] for key, values in side.processes.items() if key in keys
        },
        "answers": None
        if side.answers is None
        else {
            "n": len(side.answers.right),
            "images": side.answers.images,
            "right": base64.b64encode(zlib.compress(_bits(side.answers.right), 9)).decode(),
        },
    }


def _bits(right: Any) -> bytes:
    import numpy as np

    return bytes(np.packbits(right).tobytes())


def read(path: Path) -> Source:
    """A stored baseline, or a JSON export of a run (``bench report --format json``), which has no answers and no artifacts.

    Raises:
        UsageError: there is no such file.
        StoreError: it is damaged, something else, or of a newer edgefit.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no baseline {path}",
            todo="Make one with `bench gate SUBJECT --update-baseline --reason WHY`",
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and document.get("kind") == KIND:
            return _baseline(_upgraded(document, path), path)
        if isinstance(document, dict) and "cells" in document and "variants" in document:
            return _export(document, path)
    except StoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error, RecursionError) as error:
        raise StoreError(
            f"{path} cannot be read",
            f"{type(error).__name__}: {error}",
            "Make it anew: `bench gate --update-baseline` or `bench report --format json`",
        ) from error
    raise StoreError(
        f"{path} is neither a baseline nor a report in JSON",
        todo="Make one with `bench gate SUBJECT --update-baseline --reason WHY`",
    )


def _upgraded(document: Json, path: Path) -> Json:
    """A document of any earlier schema as one of the present.

    Schema 0 had one ``latency_ms`` number a subject, and ``sha256`` and ``filename`` in place of the artifact.
    """
    schema = document.get("schema", 0)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StoreError(
            f"{path} was written by a newer edgefit",
            f"schema {schema}, known up to {SCHEMA}",
            "Upgrade edgefit to read it",
        )
    if schema == 0:
        method = "schema 0 baseline: no interval was kept"
        for one in document["subjects"]:
            numbers = {k: v for k, v in one.items() if k in {m.key for m in METRICS.values()}}
            one["numbers"] = {
                k: Quantity(float(v), provenance="measured", method=method).to_json()
                for k, v in numbers.items()
            }
            name = one.get("filename", "")
            one["artifact"] = to_json(
                Artifact("", one.get("sha256", ""), int(one.get("size_bytes", 0)), name)
            )
    return document


def _baseline(document: Json, path: Path) -> Source:
    sides = {}
    for one in document["subjects"]:
        artifact = Artifact.from_json(one["artifact"])
        subject = Subject(one["name"], one["runtime"], one.get("batch", 1), one.get("threads", 1))
        answers = one.get("answers")
        sides[subject] = Side(
            artifact,
            kept(artifact) if artifact.sha256 else None,
            _numbers(one.get("numbers") or {}),
            _answers(answers) if answers else None,
            {
                key: [_positive(key, v) for v in values]
                for key, values in (one.get("processes") or {}).items()
            },
        )
    commit = str(document.get("commit") or "")
    title = f"{path}" + (f" of {commit[:9]}" if commit else "")
    return Source(title, sides, document.get("machine") or {}, commit, str(document.get("data") or ""))


def _numbers(stored: Json) -> dict[str, Quantity]:
    """The metrics of a subject. Raises ValueError for what no measurement can have found."""
    found = {m.key: Quantity.from_json(stored[m.key]) for m in METRICS.values() if stored.get(m.key)}
    for key, quantity in found.items():
        ends = [q for q in (quantity.low, quantity.high) if q is not None]
        for value in ends:  # an interval of an energy may reach below 0
            _number(key, value)
        if quantity.value is not None and _number(key, quantity.value) < 0:
            raise ValueError(f"{key} is {quantity.value!r}")
    return found


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{key} is {value!r}")
    return float(value)


def _positive(key: str, value: Any) -> float:
    if _number(key, value) <= 0:
        raise ValueError(f"{key} is {value!r}")
    return float(value)


def _answers(stored: Json) -> Answers:
    import numpy as np

    packed = np.frombuffer(zlib.decompress(base64.b64decode(stored["right"])), dtype=np.uint8)
    return Answers(np.unpackbits(packed, count=stored["n"]).astype(bool), stored["images"])


def _export(document: Json, path: Path) -> Source:
    sides = {}
    machine: Json = {}
    left_out: Counter[str] = Counter()
    for cell in document["cells"]:
        if cell.get("status") != "ok":
            continue
        if other := elsewhere(cell.get("host", "local"), bool(cell.get("prediction"))):
            left_out[other] += 1
            continue
        numbers = {
            m.key: Quantity.from_json(cell[m.key])
            for m in METRICS.values()
            if isinstance(cell.get(m.key), dict)
        }
        machine = machine or cell.get("environment") or {}
        subject = Subject(cell["variant"], cell["runtime"], cell["batch"], cell["threads"])
        sides[subject] = Side(Artifact(cell.get("format", ""), "", 0, ""), None, numbers)
    about = document.get("run") or {}
    commit = str(((about.get("environment") or {}).get("git") or {}).get("commit") or "")
    digest = str((about.get("data") or {}).get("digest") or "")
    return Source(str(path), sides, machine, commit, digest=digest, left_out=left_out)
