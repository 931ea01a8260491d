"""``benchmark_model --result_file_path``: the message ``BenchmarkResult``, decoded without a protobuf library.

Field numbers after LiteRT, tflite/tools/benchmark/proto/benchmark_result.proto; the wire format after protobuf.dev, "Encoding".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1_000_000
"""A result has a hundred bytes."""

_LATENCY = {
    1: "avg_ms",
    2: "min_ms",
    3: "max_ms",
    4: "std_ms",
    5: "median_ms",
    6: "p5_ms",
    7: "p95_ms",
    8: "init_ms",
    9: "first_inference_ms",
    10: "warmup_avg_ms",
}
_MEMORY = {1: "init_footprint_kb", 2: "overall_footprint_kb", 3: "peak_mb"}
_MISC = {1: "model_mb", 2: "runs", 3: "warmup_runs", 4: "input_mb_per_s"}
_PARTS = {2: ("LatencyMetrics", _LATENCY), 3: ("MemoryMetrics", _MEMORY), 4: ("MiscMetrics", _MISC)}
_WHOLE = {"init_footprint_kb", "overall_footprint_kb", "runs", "warmup_runs"}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Result:
    """The file's numbers; times of the measured runs unless named otherwise. ``problem`` says why a damaged file was not read."""

    name: str | None = None
    avg_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    init_ms: float | None = None
    first_inference_ms: float | None = None
    warmup_avg_ms: float | None = None
    init_footprint_kb: int | None = None
    overall_footprint_kb: int | None = None
    peak_mb: float | None = None
    model_mb: float | None = None
    runs: int | None = None
    warmup_runs: int | None = None
    input_mb_per_s: float | None = None
    unknown: tuple[str, ...] = ()
    problem: str = ""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise ValueError("a number of more than ten bytes")


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of a message.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: Any
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32, BYTES):
            if wire == BYTES:
                size, at = _varint(data, at)
            else:
                size = 8 if wire == FIXED64 else 4
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("it ends within a field")
        else:
            raise ValueError(f"wire type {wire}")
        yield number, wire, value


def _value(name: str, wire: int, value: Any) -> float | int | None:
    """The field's number; None where it is of another type or not finite."""
    if name in _WHOLE and wire == VARINT:
        return value - (1 << 64) if value >> 63 else int(value)
    if name not in _WHOLE and wire == FIXED32:
        (real,) = struct.unpack("<f", value)
        return float(real) if math.isfinite(real) else None
    return None


def parse(data: bytes) -> Result:
    """The bytes of the file; fields of newer releases are named in ``unknown``."""
    if len(data) > MAX_BYTES:
        return Result(problem=f"{len(data)} bytes, more than {MAX_BYTES}: not a benchmark result")
    found: dict[str, Any] = {}
    unknown: list[str] = []
    try:
        for number, wire, value in _fields(data):
            if number == 1 and wire == BYTES:
                found["name"] = value.decode("utf-8", "replace")
            elif number in _PARTS and wire == BYTES:
                title, names = _PARTS[number]
                for inner, inner_wire, inner_value in _fields(value):
                    name = names.get(inner)
                    read = _value(name, inner_wire, inner_value) if name else None
                    if name is None or read is None:
                        unknown.append(f"{title} field {inner}")
                    else:
                        found[name] = read
            else:
                unknown.append(f"BenchmarkResult field {number}")
    except (ValueError, IndexError) as error:
        return Result(problem=f"damaged: {error}")
    return Result(**found, unknown=tuple(unknown))
