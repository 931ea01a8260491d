"""What a file shows of its speed: layers, odd widths, float islands, conversions; and which operator of a profile is which layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.speed.facts import (
    CONVERT,
    FLOAT,
    INT8,
    Graph,
    Kernel,
    Layer,
    graph_facts,
    islands,
    nearest_multiple,
    odd_channels,
    read_graph,
)
from compress.speed.match import match
from compress.speed.tflite_facts import short_name
from tests.tiny import Tiny

SIDE = 16


def conv(name: str, inputs: int, outputs: int, size: int = 3, group: int = 1) -> tuple[Any, Any]:
    from onnx import helper, numpy_helper

    weight = (
        np.random.default_rng(outputs)
        .standard_normal((outputs, inputs // group, size, size))
        .astype("float32")
    )
    node = helper.make_node(
        "Conv",
        [f"{name}.in", f"{name}.weight"],
        [f"{name}.out"],
        name=f"node_{name}",
        group=group,
        pads=[size // 2] * 4,
    )
    return node, numpy_helper.from_array(weight * 0.1, f"{name}.weight")


def write_net(path: Path, width: int = 11, gate: bool = False) -> Path:
    """3 -> 16 -> ``width`` -> 16 channels, a depthwise layer and a classifier of 7; ``gate`` puts a hard sigmoid between."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    parts = [
        conv("stem", 3, 16), conv("body", 16, width), conv("depth", width, width, 3, width), conv("tail", width, 16),
    ]  # fmt: skip
    nodes, constants = [n for n, _ in parts], [w for _, w in parts]
    tensor, chain = "image", []
    for node in nodes:
        name = node.output[0]
        node.input[0] = tensor
        chain += [
            node,
            helper.make_node("HardSigmoid" if gate else "Relu", [name], [f"{name}.act"], name=f"act_{name}"),
        ]
        tensor = f"{name}.act"
    chain += [
        helper.make_node("GlobalAveragePool", [tensor], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "head.weight"], ["logits"], name="node_head", transB=1),
    ]
    head = np.random.default_rng(1).standard_normal((7, 16)).astype("float32")
    constants.append(numpy_helper.from_array(head, "head.weight"))
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 7])
    graph = helper.make_graph(chain, "net", [given], [made], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def quantized(path: Path) -> Path:
    """The same file in QDQ int8."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            images = np.random.default_rng(0).standard_normal((4, 1, 3, SIDE, SIDE)).astype("float32")
            self.rest = iter([{"image": i} for i in images])

        def get_next(self) -> Any:
            return next(self.rest, None)

    target = path.with_name("int8.onnx")
    q.quantize_static(path, target, Reader(), per_channel=True, activation_type=q.QuantType.QUInt8)
    return target


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net") / "net.onnx")


# --- facts


def test_layers_and_work_are_counted_from_the_shapes(net: Path) -> None:
    facts = graph_facts(net, "onnx")
    pixels = SIDE * SIDE
    macs = pixels * 9 * (3 * 16 + 16 * 11 + 11 + 11 * 16) + 16 * 7
    assert (facts["layers"], facts["int8_layers"], facts["macs"]) == (5, 0, macs)
    assert facts["float_islands"] == facts["unfused_qdq"] == 0
    layers = read_graph(net, "onnx").layers
    assert [layer.name for layer in layers] == ["stem", "body", "depth", "tail", "head"]
    assert layers[1].shape == "3x3, 16 to 11" and layers[2].depthwise


def test_the_order_of_the_nodes_in_a_file_does_not_matter(net: Path) -> None:
    import onnx

    model = onnx.load(net)
    backwards = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(backwards)
    onnx.save(model, net.with_name("backwards.onnx"))
    assert graph_facts(net.with_name("backwards.onnx"), "onnx") == graph_facts(net, "onnx")


def test_odd_widths_are_named_but_not_those_of_first_last_and_depthwise_layers(net: Path) -> None:
    facts = graph_facts(net, "onnx")
    assert facts["odd_channels"] == [["body", 11, 8]] and facts["odd_layers"] == 1
    even = graph_facts(write_net(net.with_name("even.onnx"), 16), "onnx")
    assert even["odd_channels"] == []


@pytest.mark.parametrize(("width", "near"), [(37, 40), (33, 32), (12, 16), (3, 8), (64, 64)])
def test_the_nearest_multiple_is_at_least_one_block(width: int, near: int) -> None:
    assert nearest_multiple(width) == near


def test_a_layer_with_hardly_any_work_is_not_named() -> None:
    wide = [Layer(f"layer{i}", "Conv", 10**6, 16, 16, (3, 3)) for i in range(3)]
    small = Layer("squeeze", "Conv", 100, 16, 5, (1, 1))
    assert odd_channels([wide[0], small, wide[1]]) == []
    assert odd_channels([wide[0], Layer("body", "Conv", 10**6, 16, 5, (1, 1)), wide[1]]) == [("body", 5, 8)]


def test_int8_layers_are_those_that_run_in_integers(net: Path) -> None:
    facts = graph_facts(quantized(net), "onnx")
    assert facts["layers"] == facts["int8_layers"] == 5
    assert facts["odd_channels"] == [["body", 11, 8]]
    assert {k.layer.name for k in read_graph(net.with_name("int8.onnx"), "onnx").kernels if k.layer} == {
        "stem", "body", "depth", "tail", "head",
    }  # fmt: skip


def test_an_operator_without_an_integer_kernel_makes_islands_and_conversions(tmp_path: Path) -> None:
    facts = graph_facts(quantized(write_net(tmp_path / "gated.onnx", 16, gate=True)), "onnx")
    assert facts["island_ops"]["HardSigmoid"] == 4
    assert facts["float_islands"] >= 3 and facts["unfused_qdq"] >= 6


def test_a_tflite_file_has_the_same_layers_and_work_as_its_onnx_twin(tiny: Tiny) -> None:
    one, other = (graph_facts(tiny.path(fmt), fmt) for fmt in ("onnx", "tflite"))
    assert "error" not in other
    assert (one["layers"], one["macs"]) == (other["layers"], other["macs"])
    assert other["outside"] == {} and other["parts"] == 1


def test_facts_never_fail_an_export(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    assert "DecodeError" in graph_facts(broken, "onnx")["error"]
    assert graph_facts(broken, "pt2") == {}
    with pytest.raises(ValueError, match="not of pt2"):
        read_graph(broken, "pt2")


# --- islands


def chain(*steps: tuple[str, str]) -> list[Kernel]:
    """Operators one after the other: (operator, state); Reshape only moves."""
    return [
        Kernel(f"{op}{i}", op, state, (f"t{i}",), (f"t{i + 1}",), moves=op == "Reshape")
        for i, (op, state) in enumerate(steps)
    ]


def test_islands_are_float_regions_between_integers() -> None:
    conv_, out, into = ("QLinearConv", INT8), ("DequantizeLinear", CONVERT), ("QuantizeLinear", CONVERT)
    gate, mean, move = ("HardSigmoid", FLOAT), ("ReduceMean", FLOAT), ("Reshape", FLOAT)
    assert islands(chain(conv_, out, gate, mean, into, conv_)) == [["HardSigmoid", "ReduceMean"]]
    assert islands(chain(conv_, out, gate, into, conv_, out, mean, into, conv_)) == [
        ["HardSigmoid"],
        ["ReduceMean"],
    ]
    assert islands(chain(conv_, out, gate)) == []  # the float end of a net
    assert islands(chain(gate, into, conv_)) == []  # its float beginning
    assert islands(chain(conv_, out, move, into, conv_)) == []


def test_branches_that_meet_again_are_one_island() -> None:
    kernels = [
        Kernel("a", "QLinearConv", INT8, ("x",), ("a",)),
        Kernel("d", "DequantizeLinear", CONVERT, ("a",), ("d",)),
        Kernel("s", "Sigmoid", FLOAT, ("d",), ("s",)),
        Kernel("m", "Mul", FLOAT, ("d", "s"), ("m",)),
        Kernel("q", "QuantizeLinear", CONVERT, ("m",), ("q",)),
        Kernel("b", "QLinearConv", INT8, ("q",), ("b",)),
    ]
    assert islands(kernels) == [["Mul", "Sigmoid"]]


# --- rows of a profile


def small_graph() -> Graph:
    one, two = (Layer(n, "CONV_2D", 100, 8, 8, (3, 3), node=f"node_{n}") for n in ("one", "two"))
    kernels = (
        Kernel("in", "QUANTIZE", CONVERT, ("a",), ("b",)),
        Kernel("one", "CONV_2D", INT8, ("b",), ("c",), one),
        Kernel("", "HARD_SWISH", INT8, ("c",), ("d",)),
        Kernel("two", "CONV_2D", INT8, ("d",), ("e",), two),
        Kernel("sum", "ADD", INT8, ("c", "e"), ("f",)),
    )
    return Graph((one, two), kernels, 0, {})


def test_rows_of_the_delegate_are_matched_by_order_and_fused_ones_follow_their_neighbour() -> None:
    ops = [
        "Convert (NC)",
        "Convolution (NHWC, QC8) IGEMM",
        "HARD_SWISH",
        "Fully Connected (NC, QS8, QC8W) GEMM",
        "Add (ND)",
        "Clamp (NC)",
    ]
    found = match(small_graph(), "litert", [{"name": "", "op": op} for op in ops])
    assert [k.layer.name if k.layer else "" for k in found] == ["", "one", "", "two", "", ""]
    assert [k.state for k in found] == [CONVERT, *[INT8] * 5]
    assert found[5].name == found[4].name == "sum"


def test_layers_are_left_out_rather_than_guessed_when_their_number_differs() -> None:
    found = match(small_graph(), "litert", [{"name": "", "op": "Convolution (NHWC, F32) GEMM"}])
    assert found[0].layer is None and found[0].state == FLOAT


def test_rows_of_openvino_are_matched_by_node_and_say_their_arithmetic() -> None:
    rows = [
        {"name": "node_two/WithoutBiases", "op": "Convolution", "kernel": "brgconv_avx512_I8"},
        {"name": "Reorder_1", "op": "Reorder", "kernel": "jit_uni_f32"},
        {"name": "mean", "op": "ReduceMean", "kernel": "jit_avx2_FP32"},
    ]
    found = match(small_graph(), "openvino", rows)
    assert [(k.layer.name if k.layer else None, k.state) for k in found] == [
        ("two", "int8"), (None, "layout"), (None, "float"),
    ]  # fmt: skip


def test_names_with_slashes_as_pytorch_exports_them_are_whole_names() -> None:
    layers = [Layer(n, "Conv", 100, 8, 8, (3, 3), node=f"/{n}/conv/Conv") for n in ("one", "two")]
    kernels = tuple(Kernel(k.node, "Conv", FLOAT, (), (), k) for k in layers)
    rows = [
        {"name": f"/{name}/conv/Conv{tail}", "op": "Convolution"}
        for name, tail in (("one", ""), ("two", "/WithoutBiases"))
    ]
    found = match(Graph(tuple(layers), kernels, 0, {}), "openvino", rows)
    assert [k.layer.name for k in found if k.layer] == ["one", "two"]


def test_nameless_operators_of_onnxruntime_are_matched_by_kind_and_order() -> None:
    rows = [
        {"name": "HARD_SWISH_7", "op": "HARD_SWISH"},
        {"name": "one", "op": "CONV_2D"},
        {"name": "new", "op": "Reorder"},
    ]
    found = match(small_graph(), "onnxruntime", rows)
    assert [k.state for k in found] == [INT8, INT8, FLOAT]
    assert found[1].layer is not None and found[2].name == "new"


@pytest.mark.parametrize(
    ("given", "short"),
    [
        (
            "a.Wrapper/torch.nn.Sequential_wrapped/torch.nn.Sequential_stem/torch.nn.modules.conv.Conv2d_0;2",
            "stem.0",
        ),
        (
            "a.W/b.Net_wrapped/c.Sequential_s1/d.ReLU_2;;a.W/b.Net_wrapped/c.Sequential_s0/e.conv.Conv2d_0;;"
            "a.W/b.Net_wrapped/c.Sequential_s1/e.conv.Conv2d_0;",
            "s1.0",
        ),
        ("arith.constant12", ""),
        ("serving_default_args_0", "serving_default_args_0"),
    ],
)
def test_names_of_tensors_become_names_of_modules(given: str, short: str) -> None:
    assert short_name(given) == short
