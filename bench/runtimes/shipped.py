"""Every file that an artifact is shipped as: some formats keep their weights beside the graph."""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path
from typing import Any

EXTERNAL = b"\x0a\x08location"
"""A protobuf field 1 of 8 letters, ``location``: the key under which ONNX names a file of weights."""


def shipped_files(path: Path) -> tuple[Path, ...]:
    """The file itself, OpenVINO's ``.bin`` beside an ``.xml``, and the weight files that an ONNX graph names."""
    if path.suffix == ".xml":
        beside = [path.with_suffix(".bin")]
    elif path.suffix == ".onnx" and _names_files(path):
        beside = _external(path)
    else:
        beside = []
    return (path, *(p for p in dict.fromkeys(beside) if p.is_file()))


def _names_files(path: Path) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(EXTERNAL) >= 0
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _external(path: Path) -> list[Path]:
    onnx: Any = importlib.import_module("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # a damaged file: its runtime will say so
        return []
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [
        path.parent / name
        for name in sorted(names)
        if not Path(name).is_absolute() and ".." not in Path(name).parts
    ]
