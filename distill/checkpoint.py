"""Checkpoints of a training: plain data and tensors in one file, written so that a crash cannot spoil it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import StepError
from bench.types import Json

if TYPE_CHECKING:
    import torch

KEYS = frozenset(
    {
        "identity", "model", "average", "optimizer", "scaler", "history", "notes", "lr_scale", "best",
        "adapters", "nothing_learned",
    }
)  # fmt: skip


def write(path: Path, state: Json) -> None:
    """Write ``state`` beside ``path``, flush it to the disk, and only then put it in place.

    Raises:
        StepError: when the disk is full or not writable.
    """
    import torch

    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise StepError(
            f"The checkpoint {path} could not be written",
            str(error),
            "Free some space, or choose another folder",
        ) from error


def read(path: Path, device: torch.device) -> tuple[Json | None, str]:
    """(the state or None, what was wrong with the file); a damaged file is renamed to ``*.damaged``."""
    import torch

    if not path.is_file():
        return None, ""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or not set(state) >= KEYS:
            raise ValueError("it is not a checkpoint of ours")
    except Exception as error:  # torch's unpickler fails in many ways on a damaged file
        path.replace(path.with_name(f"{path.name}.damaged"))
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, reason[:200]
    return state, ""
