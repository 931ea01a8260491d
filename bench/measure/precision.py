"""The precision of a model file that nothing beside it describes, as its own weights say."""

from __future__ import annotations

from math import prod
from pathlib import Path

from bench.measure import tflite_metadata

LITERT = {0: ("fp32", 4), 1: ("fp16", 2), 9: ("int8", 1)}
"""LiteRT's ``TensorType``: the precision, and the bytes of one number."""


def of_file(path: Path, fmt: str) -> str:
    """``int8`` of a file that holds its own quantization, ``fp16`` where most of its weights are that, else ``fp32``.

    Damaged files and formats that are not read have the last: a runtime will say what is wrong with them.
    """
    if fmt == "onnx":
        return _of_onnx(path)
    return _of_tflite(path) if fmt == "tflite" else "fp32"


def _of_onnx(path: Path) -> str:
    import onnx

    from hardware_profiles.prediction.read_onnx import quantizes

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # protobuf's own classes, and OSError
        return "fp32"
    if any(quantizes(node) for node in graph.node):
        return "int8"
    kinds = {onnx.TensorProto.FLOAT16: 0, onnx.TensorProto.FLOAT: 0}
    for tensor in graph.initializer:
        if tensor.data_type in kinds:
            kinds[tensor.data_type] += prod(tensor.dims)
    return "fp16" if kinds[onnx.TensorProto.FLOAT16] > kinds[onnx.TensorProto.FLOAT] else "fp32"


def _of_tflite(path: Path) -> str:
    numbers = {"fp32": 0, "fp16": 0, "int8": 0}
    for kind, size in tflite_metadata.weights(path).items():
        if kind in LITERT:
            name, width = LITERT[kind]
            numbers[name] += size // width
    return max(numbers, key=lambda name: numbers[name])
