"""``bench runtimes install browser``: the pinned files of onnxruntime-web, into the user's cache folder."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from bench.agent.browser import package
from bench.errors import MissingError, UsageError
from bench.store import explain_disk_errors

DOWNLOAD_SECONDS = 600.0
PINNED = f"{package.NAME}@{package.VERSION}"


def installed() -> bool:
    """Are the files of all providers there?"""
    return not any(package.missing(provider) for provider in package.ENTRY)


def install_browser(archive: Path | None = None) -> Path:
    """Fetch the package with npm, or take ``archive`` (the same ``.tgz``); check it, keep what a page needs.

    npm asks the registry that the user has configured (npm documentation, *npm pack*).

    Returns:
        The folder of the files, which is there whole or not at all.

    Raises:
        UsageError: there is no such archive.
        MissingError: npm is not there or fails, or the archive is not the one that is pinned.
    """
    folder = Path(package.folder())
    if archive is not None and not archive.is_file():
        raise UsageError(f"There is no file {archive}")
    with tempfile.TemporaryDirectory() as work:
        source = archive or _pack(Path(work))
        check_integrity(source)
        with explain_disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part:
                unpack(source, Path(part) / "files")
                shutil.rmtree(folder, ignore_errors=True)
                (Path(part) / "files").replace(folder)
    return folder


def _pack(work: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingError(
            "npm is not installed",
            todo=f"Install it (on Debian: apt install npm), or fetch the archive of {PINNED} yourself and give it with --file",
        )
    command = [npm, "pack", PINNED, "--silent", "--ignore-scripts", "--pack-destination", str(work)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"npm did not fetch {PINNED} within {DOWNLOAD_SECONDS:g} s") from error
    found = sorted(work.glob("*.tgz"))
    if done.returncode or not found:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise MissingError(f"npm could not fetch {PINNED}", said or f"exit status {done.returncode}")
    return found[0]


def check_integrity(archive: Path) -> None:
    """Raise MissingError unless the archive has the pinned hash."""
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.INTEGRITY:
        raise MissingError(
            f"{archive.name} is not the archive of {PINNED} that is pinned",
            f"{found}, not {package.INTEGRITY}",
            "Nothing was installed; look at what npm's registry gives",
        )


def unpack(archive: Path, folder: Path) -> None:
    """Write the files that the providers need, and no others, to a new folder.

    Raises:
        MissingError: one is not in the archive.
    """
    folder.mkdir()
    with tarfile.open(archive) as opened:
        for name in sorted({n for provider in package.ENTRY for n in package.files(provider)}):
            try:
                content = opened.extractfile(f"package/dist/{name}")
            except KeyError:
                content = None
            if content is None:
                raise MissingError(f"{archive.name} has no file {name}")
            with content, (folder / name).open("wb") as file:
                shutil.copyfileobj(content, file)
