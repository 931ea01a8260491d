"""Engines built on this machine, kept by what they were built from and for. A build takes minutes, reading one a moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from typing import Any, Dict, NamedTuple, Optional

Json = Dict[str, Any]
PLAN, ABOUT = "plan.engine", "about.json"


class Kept(NamedTuple):
    """An engine's file, and what was noted of its build."""

    path: str
    about: Json


def sha256(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def key_of(**what: Any) -> str:
    """A name for everything that decides an engine: content, device, version, flags, shape."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode("utf-8")).hexdigest()[:32]


def write_atomic(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix="part-", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


class Engines:
    """A folder with one folder per engine: the engine, and a note with its sha256. The note is written last."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find(self, key: str) -> Optional[Kept]:
        """The engine, if it is there and whole. One that is damaged counts as absent and is built again."""
        home = os.path.join(self.folder, key)
        try:
            with open(os.path.join(home, ABOUT), encoding="utf-8") as file:
                about = json.load(file)
            if about["sha256"] != sha256(os.path.join(home, PLAN)):
                return None
            os.utime(home)  # what is used is not cleaned away
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Kept(os.path.join(home, PLAN), about)

    def begin(self) -> str:
        """A new folder for one build; what is written there counts when :meth:`keep` has taken it."""
        os.makedirs(self.folder, exist_ok=True)
        return tempfile.mkdtemp(prefix="part-", dir=self.folder)

    def keep(self, part: str, key: str, about: Json) -> Kept:
        """Take in the engine of a build under its name."""
        noted = {**about, "sha256": sha256(os.path.join(part, PLAN))}
        write_atomic(os.path.join(part, ABOUT), json.dumps(noted).encode("utf-8"))
        home = os.path.join(self.folder, key)
        shutil.rmtree(home, ignore_errors=True)
        os.rename(part, home)
        return Kept(os.path.join(home, PLAN), noted)

    def timings(self, version: str, device: str) -> str:
        """Where TensorRT's timing cache for a version and device is."""
        return os.path.join(self.folder, "timings-%s" % key_of(version=version, device=device))
