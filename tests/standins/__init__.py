"""Stand-ins for NVIDIA's TensorRT: the Python module and ``trtexec``. They say so in what they print, and time nothing."""

from __future__ import annotations

from pathlib import Path


def flat_onnx(path: Path) -> Path:
    """An ONNX file from (n, 3, 4, 4) to (n, 48): what goes in comes out."""
    from onnx import TensorProto, helper, save

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 48])
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "net", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
