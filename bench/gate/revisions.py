"""A model file as a git revision has it: taken from the repository, or built there by the project's own command, once.

What was built is kept by content (:mod:`bench.gate.baseline`) and found again by the revision's tree and the command, so that
the base of a pull request is built once for all of its checks.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from bench.errors import MissingError, UsageError, WorkerError
from bench.gate.baseline import cache_folder
from bench.store import file_sha256, write_atomic


class NotThereError(UsageError):
    """The revision does not have the file."""


POINTER = b"version https://git-lfs.github.com/spec/v1"
BUILD_SECONDS = 3600.0


def git(folder: Path, *arguments: str) -> bytes:
    """What git says.

    Raises:
        MissingError: there is no git.
        UsageError: git refuses, with its reason.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise MissingError("A git revision needs git", todo="Install git") from error
    if done.returncode:
        raise UsageError(
            f"git {arguments[0]} failed",
            done.stderr.decode(errors="replace").strip()[:300],
            "Name a revision that this clone has (git fetch)",
        )
    return done.stdout


def top(folder: Path) -> Path:
    """The root of the working tree. Raises UsageError outside of one."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").decode().strip())
    except UsageError as error:
        raise UsageError(
            f"{folder} is in no git repository", error.found, "Run it in the clone whose commits are meant"
        ) from error


def commit_of(folder: Path, revision: str) -> str:
    """The full name of a revision's commit. Raises UsageError where there is none of that name, or no repository."""
    top(folder)
    try:
        return (
            git(folder, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
            .decode()
            .strip()
        )
    except UsageError as error:
        raise UsageError(
            f"This clone has no revision {revision!r}",
            error.found,
            "Name one that it has, or fetch more of the history (git fetch --unshallow; in GitHub's checkout action fetch-depth: 0)",
        ) from error


def time_of(folder: Path, commit: str) -> str:
    """When a commit was made, as ``2026-11-28T12:00:00Z``."""
    seconds = int(git(folder, "show", "--no-patch", "--format=%ct", commit).decode().split()[-1])
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def file_at(revision: str, path: Path, build: str = "") -> tuple[Path, str]:
    """The file that ``path`` (in a working tree) was at a revision: (a copy in the cache, the commit).

    Args:
        build: a command that makes the file; run in a clean checkout of the revision. Empty: the file is in git.

    Raises:
        UsageError: no such revision or file there.
        MissingError: no git, or no git-lfs where the file is kept by it.
        WorkerError: the build failed, with its last lines.
    """
    folder = path.resolve().parent
    while not folder.exists():  # a build folder may not be there yet
        folder = folder.parent
    root, commit = top(folder), commit_of(folder, revision)
    inside = str(path.resolve().relative_to(root.resolve()).as_posix())
    kept = (
        _built(root, commit, inside, path.suffix, build)
        if build
        else _committed(root, commit, inside, path.suffix)
    )
    return kept, commit


def _committed(root: Path, commit: str, inside: str, suffix: str) -> Path:
    found = _blob(root, commit, inside)
    if found is None:
        raise NotThereError(
            f"{inside} is not in the revision {commit[:9]}",
            todo="Name a revision that has it, or give the command that makes it (build in [tool.edgefit.gate])",
        )
    kept = _keep(found, suffix)
    beside = _blob(root, commit, inside + ".json")
    if beside is not None:
        write_atomic(kept.with_name(kept.name + ".json"), beside)
    return kept


def _blob(root: Path, commit: str, inside: str) -> bytes | None:
    if not git(root, "ls-tree", commit, "--", inside):
        return None
    found = git(root, "cat-file", "blob", f"{commit}:{inside}")
    if not found.startswith(POINTER):
        return found
    done = subprocess.run(
        ["git", "-C", str(root), "lfs", "smudge"], input=found, capture_output=True, check=False
    )
    if done.returncode or done.stdout.startswith(POINTER):
        raise MissingError(
            f"{inside} is kept by git-lfs, which does not give it",
            done.stderr.decode(errors="replace").strip()[:200],
            "Install git-lfs and run: git lfs fetch --all",
        )
    return done.stdout


def _keep(content: bytes, suffix: str) -> Path:
    """The content as a file in the cache."""
    there = cache_folder() / f"{hashlib.sha256(content).hexdigest()}{suffix}"
    if not there.exists():
        write_atomic(there, content)
    return there


def _built(root: Path, commit: str, inside: str, suffix: str, build: str) -> Path:
    tree = git(root, "rev-parse", f"{commit}^{{tree}}").decode().strip()
    key = hashlib.sha256(f"{tree}\0{build}\0{inside}".encode()).hexdigest()[:24]
    note = cache_folder() / f"built-{key}.json"
    if note.is_file():
        kept = cache_folder() / str(json.loads(note.read_text())["file"])
        if kept.is_file() and file_sha256(kept) == kept.stem:
            return kept
    with tempfile.TemporaryDirectory(prefix="edgefit-gate-") as place:
        tree_folder = Path(place) / "tree"
        git(root, "worktree", "add", "--detach", str(tree_folder), commit)
        try:
            _run(build, tree_folder, commit)
            made = tree_folder / inside
            if not made.is_file():
                raise WorkerError(f"The build of {commit[:9]} did not make {inside}", build)
            kept = _keep(made.read_bytes(), suffix)
            beside = made.with_name(made.name + ".json")
            if beside.is_file():
                shutil.copyfile(beside, kept.with_name(kept.name + ".json"))
        finally:
            git(root, "worktree", "remove", "--force", str(tree_folder))
    write_atomic(note, json.dumps({"file": kept.name, "commit": commit, "build": build}).encode())
    return kept


def _run(build: str, folder: Path, commit: str) -> None:
    try:
        done = subprocess.run(
            shlex.split(build), cwd=folder, capture_output=True, check=False, timeout=BUILD_SECONDS
        )
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise UsageError(
            f"The build command {build!r} cannot be started",
            str(error),
            "For a shell: build = \"sh -c '...'\"",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"The build of {commit[:9]} took more than {BUILD_SECONDS:.0f} s", build) from error
    if done.returncode:
        tail = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-5:]
        raise WorkerError(
            f"The build of {commit[:9]} failed (exit {done.returncode})",
            " / ".join(tail),
            f"Run it in a clean checkout: {build}",
        )
