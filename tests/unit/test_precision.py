"""The precision of a file without a description: what its own weights say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bench.measure import precision, tflite_metadata
from bench.measure.artifact import describe_file

FLOAT32, FLOAT16, INT32, INT8 = 0, 1, 2, 9
"""LiteRT's ``TensorType``."""


def onnx_file(path: Path, nodes: list, constants: dict[str, np.ndarray], external: bool = False) -> Path:
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph), path, save_as_external_data=external, size_threshold=0)
    return path


def quantized(path: Path) -> Path:
    """A matrix product whose weights lie in the file as int8, before a DequantizeLinear."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return onnx_file(path, nodes, {"q": np.ones((8, 8), np.int8), "scale": np.float32([0.1])})


def product(path: Path, kind: type, external: bool = False) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return onnx_file(path, nodes, {"w": np.ones((8, 8), kind), "bias": np.ones(8, np.float32)}, external)


def test_an_onnx_file_says_what_its_weights_are(tmp_path: Path) -> None:
    assert describe_file(quantized(tmp_path / "q.onnx"))[0].precision == "int8"
    assert describe_file(product(tmp_path / "h.onnx", np.float16))[0].precision == "fp16"
    assert describe_file(product(tmp_path / "f.onnx", np.float32))[0].precision == "fp32"
    own = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    made = onnx_file(tmp_path / "i.onnx", own, {"w": np.ones((8, 8), np.uint8)})
    assert precision.of_file(made, "onnx") == "int8"


def test_weights_beside_the_graph_need_not_be_there(tmp_path: Path) -> None:
    path = product(tmp_path / "m.onnx", np.float16, external=True)
    for file in tmp_path.iterdir():
        if file != path:
            file.unlink()
    assert precision.of_file(path, "onnx") == "fp16"


def test_what_cannot_be_read_is_left_to_its_runtime(tmp_path: Path) -> None:
    path = quantized(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    assert precision.of_file(path, "onnx") == "fp32"
    assert precision.of_file(path, "tflite") == "fp32" and precision.of_file(path, "pte") == "fp32"


def tflite_file(*tensors: tuple[int, int, int]) -> bytes:
    """A file of constants, each (its type, bytes in the flatbuffer, bytes behind it)."""
    import flatbuffers

    builder = flatbuffers.Builder()

    def table(*fields: tuple[int, str, int]) -> int:
        builder.StartObject(max(n for n, _, _ in fields) + 1)
        for number, kind, value in fields:
            getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
        return int(builder.EndObject())

    def vector(items: list[int]) -> int:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return int(builder.EndVector())

    data = [builder.CreateByteVector(bytes(inside)) for _, inside, _ in tensors]
    buffers = [
        table((0, "UOffsetTRelative", d), (2, "Uint64", outside))
        for d, (_, _, outside) in zip(data, tensors, strict=True)
    ]
    made = [table((1, "Int8", kind), (2, "Uint32", place)) for place, (kind, _, _) in enumerate(tensors)]
    graph = table((0, "UOffsetTRelative", vector(made)))
    model = table((2, "UOffsetTRelative", vector([graph])), (4, "UOffsetTRelative", vector(buffers)))
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([(FLOAT32, 4000, 0)], "fp32"),
        ([(INT8, 1500, 0), (INT32, 9000, 0), (FLOAT32, 4000, 0)], "int8"),  # numbers count, not bytes
        ([(INT8, 500, 0), (FLOAT32, 4000, 0)], "fp32"),
        ([(FLOAT32, 64, 0), (FLOAT16, 0, 2000)], "fp16"),
    ],
)
def test_a_tflite_file_is_what_most_of_its_weights_are(
    tmp_path: Path, tensors: list[tuple[int, int, int]], expected: str
) -> None:
    (tmp_path / "m.tflite").write_bytes(tflite_file(*tensors))
    assert describe_file(tmp_path / "m.tflite")[0].precision == expected


@settings(deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 2**32 - 1), keep=st.integers(0, 400))
def test_a_damaged_file_is_counted_or_empty(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, keep: int
) -> None:
    data = bytearray(tflite_file((INT8, 40, 0), (FLOAT32, 40, 0)))
    at = min(position, len(data) - 4)
    data[at : at + 4] = struct.pack("<I", value)
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"
    for content in (bytes(data), bytes(data[:keep])):
        path.write_bytes(content)
        assert all(size >= 0 for size in tflite_metadata.weights(path).values())
        assert precision.of_file(path, "tflite") in ("fp32", "fp16", "int8")
