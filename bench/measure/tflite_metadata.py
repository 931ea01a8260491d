"""What a TensorFlow Lite file says of itself, read without TensorFlow: the normalisation in its metadata, its weights' formats.

Field numbers from the schemas: ``Model.subgraphs`` 2, ``Model.buffers`` 4, ``Model.metadata`` 6, ``SubGraph.tensors`` 0,
``Tensor.type`` 1, ``Tensor.buffer`` 2, ``Buffer.data`` 0 and, of data behind the flatbuffer,
``Buffer.size`` 2 (TensorFlow, ``schema.fbs``); ``ModelMetadata.subgraph_metadata`` 3, ``SubGraphMetadata.input_tensor_metadata`` 2,
``TensorMetadata.process_units`` 4, ``ProcessUnit.options_type`` 0 and ``options`` 1,
``NormalizationOptions.mean`` 0 and ``std`` 1 (tflite-support, ``metadata_schema.fbs``).
"""

from __future__ import annotations

import importlib
import math
import struct
from pathlib import Path
from typing import Any

ENTRY = b"TFLITE_METADATA"
NORMALIZATION = 1
"""The union's number of NormalizationOptions."""


class _Table:
    """One flatbuffer table: fields by number."""

    def __init__(self, data: bytes, position: int) -> None:
        flatbuffers: Any = importlib.import_module("flatbuffers")
        self._data, self._numbers = data, flatbuffers.number_types
        self._table = flatbuffers.table.Table(data, position)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, number: int) -> int:
        return int(self._table.Offset(4 + 2 * number))

    def tables(self, number: int) -> list[_Table]:
        at = self._field(number)
        if not at:
            return []
        start, length = self._table.Vector(at), self._table.VectorLen(at)
        if 4 * length > len(self._data):
            raise ValueError(f"a vector of {length} tables in {len(self._data)} bytes")
        return [_Table(self._data, self._table.Indirect(start + 4 * i)) for i in range(length)]

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return _Table(self._data, self._table.Indirect(at + self._table.Pos)) if at else None

    def length(self, number: int) -> int:
        at = self._field(number)
        return int(self._table.VectorLen(at)) if at else 0

    def data(self, number: int) -> bytes:
        at = self._field(number)
        if not at:
            return b""
        start = self._table.Vector(at)
        return bytes(self._data[start : start + self._table.VectorLen(at)])

    def floats(self, number: int) -> tuple[float, ...]:
        at = self._field(number)
        if not at:
            return ()
        return struct.unpack_from(f"<{self._table.VectorLen(at)}f", self._data, self._table.Vector(at))

    def number(self, number: int, kind: str) -> int:
        at = self._field(number)
        flags = getattr(self._numbers, kind)
        return int(self._table.Get(flags, at + self._table.Pos)) if at else 0


def normalisation(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of the first input, where white is 1; None where the file has none or is damaged."""
    try:
        data = path.read_bytes()
        if data[4:8] != b"TFL3" or ENTRY not in data:
            return None
        found = _options(data)
        read = [found.floats(n) for n in (0, 1)] if found else []
    except (OSError, ImportError, struct.error, IndexError, TypeError, ValueError):
        return None  # a damaged file: its runtime will say so
    if not read:
        return None
    mean, std = (tuple(v / 255 for v in values) for values in read)
    whole = len(mean) in (1, 3) and len(mean) == len(std)
    return (mean, std) if whole and all(map(math.isfinite, mean + std)) and min(std) > 0 else None


def weights(path: Path) -> dict[int, int]:
    """Bytes of constants by ``TensorType`` (0 float32, 1 float16, 9 int8); empty where the file is damaged."""
    found: dict[int, int] = {}
    try:
        model = _Table.root(path.read_bytes())
        sizes = [b.length(0) or b.number(2, "Uint64Flags") for b in model.tables(4)]
        for graph in model.tables(2)[:1]:  # classifiers have no other
            for tensor in graph.tables(0):
                kind = tensor.number(1, "Int8Flags")
                found[kind] = found.get(kind, 0) + sizes[tensor.number(2, "Uint32Flags")]
    except (OSError, ImportError, struct.error, IndexError, TypeError, ValueError):
        return {}  # its runtime will say so
    return found


def _options(data: bytes) -> _Table | None:
    model = _Table.root(data)
    for entry in model.tables(6):
        if entry.data(0) != ENTRY:
            continue
        buffer = model.tables(4)[entry.number(1, "Uint32Flags")].data(0)
        for graph in _Table.root(buffer).tables(3)[:1]:
            for tensor in graph.tables(2)[:1]:
                for unit in tensor.tables(4):
                    if unit.number(0, "Uint8Flags") == NORMALIZATION:
                        return unit.table(1)
    return None
