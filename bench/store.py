"""A run on disk: append-only records, content-addressed objects, atomic writes, resume by key.

    runs/NAME/
      manifest.json     what was asked for (options, plan, environment); replaced atomically
      records.jsonl     one JSON document a line, each with a checksum; only ever appended to
      objects/          immutable files, named by the sha256 of their content
      work/KEY/         checkpoints of the step in progress; deleted when it is done
      damaged/          what failed its checksum: set aside, named in a warning, made again
      lock              held (flock) by the one process that writes

A record counts as done when it is in the file with a good checksum and every object that it
names is there with the right content; so killing the process at any moment loses at most the
work in progress.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.records import checksum, objects_of, parse_records, upgrade
from bench.types import SCHEMA, Json

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT)
RECORDS, MANIFEST = "records.jsonl", "manifest.json"


@dataclass(frozen=True)
class RunData:
    """A run as reports see it: the records of the present plan, latest first per key."""

    path: Path
    manifest: Json
    variants: dict[str, Json]
    artifacts: dict[str, Json]
    cells: list[Json]
    damaged: tuple[tuple[int, str], ...] = ()
    _objects: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)

    def object_path(self, sha256: str) -> Path:
        """Where an object lies. Raises StoreError when it is gone."""
        if not self._objects:
            self._objects.update({p.name.split(".")[0]: p for p in (self.path / "objects").glob("*")})
        if sha256 not in self._objects:
            raise StoreError(
                f"An object of the run {self.path} is missing",
                sha256,
                "Run the same command again to remake it",
            )
        return self._objects[sha256]


def read_run(path: Path) -> RunData:
    """Read a run without locking or changing it.

    Raises:
        StoreError: when ``path`` is no run, or was written by a newer edgefit.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    if manifest is None:
        raise StoreError(
            f"{path} is not a run", f"no {MANIFEST}", "Give the directory that `bench run` named"
        )
    records_file = path / RECORDS
    records, bad = parse_records(records_file.read_bytes()) if records_file.exists() else ([], [])
    latest = {(r["kind"], r["key"]): r for r in records if "kind" in r and "key" in r}
    plan = manifest.get("plan", {})

    def planned(kind: str) -> list[Json]:
        if kind in plan:
            return [latest[kind, key] for key in plan[kind] if (kind, key) in latest]
        return [r for (k, _), r in latest.items() if k == kind]

    return RunData(
        path=path,
        manifest=manifest,
        variants={r["name"]: r for r in planned("variant")},
        artifacts={r["key"]: r for r in planned("artifact")},
        cells=planned("cell"),
        damaged=tuple(bad),
    )


def _read_manifest(path: Path) -> Json | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise StoreError(
            f"The manifest of the run {path} cannot be read", str(err),
            "Move it away and run the same command again; finished work is kept in records.jsonl",
        ) from err  # fmt: skip
    problem = _manifest_problem(manifest)
    if problem:
        raise StoreError(
            f"The manifest of the run {path} is damaged", problem,
            "Move it away and run the same command again; finished work is kept in records.jsonl",
        )  # fmt: skip
    if manifest.get("schema", 0) > SCHEMA:
        upgrade(manifest)
    return dict(manifest)


def _manifest_problem(manifest: Any) -> str:
    if not isinstance(manifest, dict):
        return "not a table"
    if not isinstance(manifest.get("schema", 0), int):
        return f"schema {manifest['schema']!r}"
    plan = manifest.get("plan", {})
    if not isinstance(plan, dict) or not all(isinstance(keys, list) for keys in plan.values()):
        return "a plan that is no table of lists"
    if any(not isinstance(manifest.get(k, {}), dict) for k in ("profile", "recipe", "data", "environment")):
        return "a part that is no table"
    return ""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part (tmp, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.parent / f".tmp-{os.getpid()}-{path.name}"
    try:
        with name.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
        raise
    _sync_dir(path.parent)


def _sync_dir(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _slow(file)
        )


def _slow(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def no_space(err: OSError, path: Path | None = None) -> StoreError:
    """The error for a full disk."""
    where = f" to {path}" if path else ""
    todo = "Free some space and run the same command again: finished work is kept"
    return StoreError(f"Cannot write{where}", err.strerror or "the disk is full", todo)


def require_space(path: Path, needed: int) -> None:
    """Stop before a step that could fill the disk: some libraries end the whole process then.

    Raises:
        StoreError: fewer than ``needed`` bytes are free where ``path`` is.
    """
    free = shutil.disk_usage(path).free
    if free < needed:
        raise no_space(
            OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, {needed / 1e6:.0f} MB are needed"), path
        )


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into a StoreError that says what is kept."""
    try:
        yield
    except OSError as err:
        if err.errno == errno.ENOSPC:
            raise no_space(err, path) from err
        if err.errno in UNWRITABLE:
            todo = "Give another place, one that can be written"
        else:
            raise
        raise StoreError(f"Cannot write to {path}", err.strerror or str(err), todo) from err


def set_aside(path: Path) -> Path:
    """Rename a run to make room for a fresh one of its name; returns where it is kept.

    Raises:
        StoreError: when a process is writing to it, or the place cannot be written.
    """
    run = Run(path)
    with explain_disk_errors(path):
        run.take_lock()
        try:
            stamp = time.strftime("%Y%m%dT%H%M%S")
            names = (
                path.with_name(f"{path.name}.{stamp}{tail}")
                for tail in ("", *(f"-{i}" for i in range(2, 100)))
            )
            kept = next(name for name in names if not name.exists())
            path.rename(kept)
        finally:
            run.release()
    return kept


class Run:
    """A run opened for writing. Use as a context manager; one writer at a time."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        self._done: dict[tuple[str, str], Json] = {}
        self._lock: Any = None

    def __enter__(self) -> Run:
        with explain_disk_errors(self.path):
            for folder in (self.path, self.path / "objects", self.path / "work"):
                folder.mkdir(parents=True, exist_ok=True)
            self.take_lock()
            try:
                self._recover()
                self._verify()
            except BaseException:
                self._lock.close()
                raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others write."""
        self._lock.close()

    def take_lock(self) -> None:
        """Become the one writer. Raises StoreError when another process is."""
        import fcntl

        self._lock = (self.path / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise StoreError(
                f"Another process is writing to the run {self.path}", f"process {owner}",
                "Wait for it, or give another directory with --out",
            ) from err  # fmt: skip
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _recover(self) -> None:
        """Read the records; set damaged lines aside and rewrite the file without them."""
        file = self.path / RECORDS
        if not file.exists():
            return
        text = file.read_bytes()
        records, bad = parse_records(text)
        if bad:
            aside = self._set_aside(file, copy=True)
            lines = text.split(b"\n")
            damaged = {number for number, _ in bad}
            keep = [line for number, line in enumerate(lines, 1) if number not in damaged and line.strip()]
            write_atomic(file, b"".join(line + b"\n" for line in keep))
            where = ", ".join(f"line {number}: {reason}" for number, reason in bad[:5])
            self.warnings.append(
                f"{len(bad)} damaged record(s) in {file} ({where}); the file was copied to {aside}, what they held is made again"
            )
        elif text and not text.endswith(b"\n"):
            with file.open("ab") as out:
                out.write(b"\n")
        self._done = {(r["kind"], r["key"]): r for r in records if "kind" in r and "key" in r}

    def _verify(self) -> None:
        """Drop records whose objects are missing or changed, so that they are made again."""
        checked: dict[str, bool] = {}
        for key, record in list(self._done.items()):
            for sha in objects_of(record):
                if sha not in checked:
                    checked[sha] = self._object_is_good(sha)
                if not checked[sha]:
                    self._done.pop(key, None)

    def _object_is_good(self, sha: str) -> bool:
        path = self.find(sha)
        if path is None:
            self.warnings.append(f"object {sha[:12]} of {self.path} is missing; what needs it is made again")
            return False
        if file_sha256(path) != sha:
            aside = self._set_aside(path)
            self.warnings.append(f"object {path.name} is damaged; set aside as {aside}, made again")
            return False
        return True

    def _set_aside(self, path: Path, copy: bool = False) -> Path:
        folder = self.path / "damaged"
        folder.mkdir(exist_ok=True)
        target = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{path.name}"
        if copy:
            shutil.copy2(path, target)
        else:
            path.replace(target)
        return target

    def done(self, kind: str, key: str) -> Json | None:
        """The finished record for a key, or None."""
        return self._done.get((kind, key))

    def append(self, record: Json) -> Json:
        """Add one record durably (fsync) and return it with its schema, time and checksum."""
        record = {"schema": SCHEMA, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **record}
        record["sum"] = checksum(record)
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        file = self.path / RECORDS
        with explain_disk_errors(file), file.open("ab", buffering=0) as out:
            start = out.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += out.write(line[written:])
                os.fsync(out.fileno())
            except OSError:
                # a half-written line would only be set aside later; take it back now
                with contextlib.suppress(OSError):
                    out.truncate(start)
                raise
        self._done[record["kind"], record["key"]] = record
        return record

    def put(self, source: Path, suffix: str | None = None) -> str:
        """Keep a copy of a file as an object; returns its sha256. Durable when it returns."""
        sha = file_sha256(source)
        suffix = source.suffix if suffix is None else suffix
        target = self.path / "objects" / f"{sha}{suffix}"
        if not target.exists():
            with explain_disk_errors(target):
                write_atomic(target, source.read_bytes())
        return sha

    def put_bytes(self, data: bytes, suffix: str) -> str:
        """Keep bytes as an object; returns their sha256."""
        sha = hashlib.sha256(data).hexdigest()
        target = self.path / "objects" / f"{sha}{suffix}"
        if not target.exists():
            with explain_disk_errors(target):
                write_atomic(target, data)
        return sha

    def find(self, sha: str) -> Path | None:
        """The path of an object, or None."""
        return next((self.path / "objects").glob(f"{sha}*"), None)

    def object_path(self, sha: str) -> Path:
        """The path of an object that a good record names."""
        path = self.find(sha)
        if path is None:
            raise StoreError(f"An object of {self.path} vanished", sha, "Run the same command again")
        return path

    def write_manifest(self, manifest: Json) -> None:
        """Replace the manifest atomically (no write at all when nothing changed)."""
        data = json.dumps({"schema": SCHEMA, **manifest}, indent=1, allow_nan=False).encode()
        file = self.path / MANIFEST
        if not file.exists() or file.read_bytes() != data:
            with explain_disk_errors(file):
                write_atomic(file, data)

    def read_manifest(self) -> Json | None:
        """The manifest as it stands, or None in a new run."""
        return _read_manifest(self.path)

    def workdir(self, key: str) -> Path:
        """A folder for the step in progress; survives a crash."""
        folder = self.path / "work" / key
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_work(self, key: str) -> None:
        """Delete a finished step's folder."""
        shutil.rmtree(self.path / "work" / key, ignore_errors=True)
