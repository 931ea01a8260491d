"""What a machine says of itself: its system and packages, and the text of small files that the engine reads."""

from __future__ import annotations

import glob
import importlib.util
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from typing import Any, Dict, Iterable, List

Json = Dict[str, Any]
MOST_FILES = 4096
MOST_TEXT = 65536
OVERLAY = os.environ.get("EDGEFIT_OVERLAY", "")
"""A folder whose files are read in place of the machine's own: a test's stand-in for a board."""


def own(packages: Iterable[str]) -> Json:
    """What only a program on the machine can say; none of it is in /proc or /sys."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "arch": platform.machine(),
        "cores": len(allowed),
        "processor": platform.processor(),
        "os": {"system": platform.system(), "release": platform.release(), "name": _os_name()},
        "python": platform.python_version(),
        "packages": versions(packages),
    }


def versions(packages: Iterable[str]) -> Dict[str, str]:
    """The version of each distribution that is installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def texts(patterns: Iterable[str]) -> Dict[str, str]:
    """The text of the files that match (paths without the leading ``/``); what cannot be read is left out."""
    found: Dict[str, str] = {}
    for pattern in patterns:
        for root in [r for r in (OVERLAY, "/") if r]:
            for path in sorted(glob.glob(os.path.join(root, pattern))):
                name = os.path.relpath(path, root)
                text = text_of(path) if name not in found else None
                if text is not None and len(found) < MOST_FILES:
                    found[name] = text
    return found


def placed(name: str) -> str:
    """Where a file of the machine is (its path without the leading ``/``)."""
    laid = os.path.join(OVERLAY, name)
    return laid if OVERLAY and os.path.exists(laid) else "/" + name


def text_of(path: str) -> Any:
    """The first 64 KiB of a file, or None."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_TEXT).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def look(asked: Json) -> Json:
    """Answers the engine: ``files`` (patterns), ``packages``, ``modules`` and ``programs`` it asks for."""
    return {
        "own": own(asked.get("packages", ())),
        "files": texts(asked.get("files", ())),
        "modules": [m for m in asked.get("modules", ()) if _module(m)],
        "programs": [p for p in asked.get("programs", ()) if shutil.which(p)],
        "executable": sys.executable,
        "time": time.time(),
        "root": os.geteuid() == 0,
    }


def _module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _os_name() -> str:
    lines: List[str] = (text_of("/etc/os-release") or "").splitlines()
    for line in lines:
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip("\"'")
    return platform.platform(terse=True)
