"""What a search measured, kept in a file as it is found: interrupted, it takes that up and goes on as it would have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bench.errors import StepError
from bench.types import Json, digest


class Memory:
    """Values by key, on the disk as soon as they are put.

    ``identity`` is of everything they depend on: what another search left in the file, and a file that does not read, is
    not used.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self._values = self._read()

    def _read(self) -> Json:
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        ours = isinstance(found, dict) and found.get("identity") == self.identity
        values = found.get("values") if ours else None
        return values if isinstance(values, dict) else {}

    def get(self, *key: Any) -> Any:
        """The value of a key, or None."""
        return self._values.get(digest(key))

    def put(self, value: Any, *key: Any) -> None:
        """Keep a value of plain JSON.

        Raises:
            StepError: when the disk is full or not writable.
        """
        self._values[digest(key)] = value
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"identity": self.identity, "values": self._values}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise StepError(f"{self.path} could not be written", str(error), "Free some space") from error
