"""A model is read the same from torch and from ONNX, and counted as by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import ModelError, UsageError
from hardware_profiles import load
from hardware_profiles.predict import Setting, predict, read_file, read_graph
from hardware_profiles.prediction import features, memory
from hardware_profiles.prediction.features import TERMS, Shape
from hardware_profiles.prediction.graph import CONV, GEMM, Graph, Op, kernels
from tests.prediction_nets import ATTENTION_MACS, MIXED_MACS, Attention, Mixed, to_onnx


@pytest.fixture(
    scope="module", params=[(Mixed, MIXED_MACS), (Attention, ATTENTION_MACS)], ids=["mixed", "attention"]
)
def read(request, tmp_path_factory):
    make, macs = request.param
    torch.manual_seed(0)
    module = make()
    path = to_onnx(module, tmp_path_factory.mktemp("graph") / "net.onnx")
    return read_graph(module, 3, 32, 32), read_graph(path), macs


def test_macs_are_those_counted_by_hand(read):
    from_torch, from_onnx, macs = read
    assert from_torch.macs == macs
    assert from_onnx.macs == macs


def test_both_readers_find_the_same_kernels(read):
    by_reader = []
    for graph in read[:2]:
        done = kernels(graph, residual=True)
        heavy = [op for op in done if op.macs]
        by_reader.append(
            (Counter(op.kind for op in heavy), sum(op.writes for op in heavy), graph.activations)
        )
    assert by_reader[0] == by_reader[1]


def test_norms_and_activations_are_part_of_their_convolution():
    done = kernels(read_graph(Mixed(), 3, 32, 32), residual=True)
    kinds = Counter(op.kind for op in done)
    assert kinds[CONV] == 7 and kinds["act"] == 0 and kinds["norm"] == 0
    assert kinds["add"] == 0, "the residual sum belongs to the convolution before it"
    assert Counter(op.kind for op in kernels(read_graph(Mixed(), 3, 32, 32), residual=False))["add"] == 1


def test_the_module_is_left_as_it_was():
    module = Mixed().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    read_graph(module, 3, 32, 32)
    assert module.training and all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.device.type == "cpu" for p in module.parameters())


def test_a_model_that_does_not_run_is_an_error_with_its_reason():
    with pytest.raises(ModelError, match="does not run on a 3 x 32 x 32 image"):
        read_graph(nn.Linear(7, 2), 3, 32, 32)


def test_a_file_that_is_no_onnx_is_an_error(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x00\x01 not a model")
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be predicted"):
        read_graph(path)


def _free(path, where):
    """The file with its height and width left open."""
    import onnx

    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in ((2, "h"), (3, "w")):
        dims[place].Clear()
        dims[place].dim_param = name
    onnx.save(model, where)
    return where


def test_a_file_for_any_size_wants_one_and_a_file_with_a_size_none(tmp_path):
    fixed = to_onnx(Mixed(), tmp_path / "net.onnx")
    free = _free(fixed, tmp_path / "free.onnx")
    with pytest.raises(UsageError, match="Say which with --input-size"):
        read_graph(free)
    assert read_file(free, (32, 32)).macs == read_graph(fixed).macs
    assert read_file(free, (64, 64)).macs > 3 * read_graph(fixed).macs
    with pytest.raises(UsageError, match="size of its own"):
        read_file(fixed, (32, 32))


@pytest.mark.parametrize("kind", ["dynamic", "operators"])
def test_files_that_compute_in_integers_by_themselves_keep_their_work(kind, tmp_path):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    plain = to_onnx(Mixed(), tmp_path / "net.onnx")
    path = tmp_path / "int8.onnx"
    if kind == "dynamic":
        quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    else:
        quantize_static(plain, path, Images(_first_input(plain)), quant_format=QuantFormat.QOperator)
    found, expected = read_graph(path), read_graph(plain)
    assert found.int8 and found.macs == expected.macs
    assert all(op.quantized for op in found.ops if op.kind == CONV)


def _first_input(path):
    import onnx

    return onnx.load(path).graph.input[0].name


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ModelError, match="it is empty"):
        read_graph(tmp_path / "net.onnx")


class Images:
    """Random images, as onnxruntime's calibration reads them."""

    def __init__(self, name: str) -> None:
        self.left = [
            {name: np.random.default_rng(i).normal(size=(1, 3, 32, 32)).astype(np.float32)} for i in range(4)
        ]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The mixed net in INT8, its classifier left in float."""
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static

    folder = tmp_path_factory.mktemp("int8")
    plain = to_onnx(Mixed(), folder / "net.onnx")
    name = onnx.load(plain).graph.input[0].name
    path = folder / "int8.onnx"
    quantize_static(
        plain,
        path,
        Images(name),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
    )
    return read_graph(plain), read_graph(path)


def test_an_int8_file_keeps_its_work_and_says_what_is_float(quantized):
    plain, int8 = quantized
    assert int8.int8 and not plain.int8
    assert int8.macs == plain.macs and int8.params == pytest.approx(plain.params, rel=0.02)
    assert all(op.quantized for op in int8.ops if op.kind == CONV)
    assert not any(op.quantized for op in int8.ops if op.kind == GEMM)


def test_float_islands_of_an_int8_file_cost_more_than_integers(quantized):
    _, int8 = quantized
    whole = replace(int8, ops=tuple(replace(op, quantized=True) for op in int8.ops), kept={})
    profile, setting = load.load("raspberry-pi-4"), Setting("litert", "int8", threads=4)
    mixed, clean = predict(int8, profile, setting), predict(whole, profile, setting)
    assert mixed.latency_ms.value > clean.latency_ms.value
    assert any("float in this INT8 file" in note for note in mixed.notes) and not clean.notes


def conv(cin: int, cout: int, pixels: int = 196, kernel: int = 3, groups: int = 1) -> Op:
    macs = pixels * cout * cin // groups * kernel * kernel
    return Op("c", CONV, "convolution", cin * pixels, cout * pixels, macs, cout * cin // groups * kernel**2, cin, cout, pixels,
              (kernel, kernel), 1, groups)  # fmt: skip


@pytest.mark.parametrize(
    ("op", "term"),
    [
        (conv(64, 64), "conv3x3"),
        (conv(3, 64), "conv"),
        (conv(64, 64, kernel=5), "conv"),
        (conv(64, 64, kernel=1), "pointwise"),
        (conv(64, 64, groups=64), "depthwise"),
        (conv(64, 64, groups=4), "grouped"),
        (Op("l", GEMM, "mm", 64, 10, 640, 640, 64, 10, 1), "pointwise"),
        (Op("a", "add", "add", 128, 64), ""),
    ],
)
def test_work_is_counted_under_its_class(op, term):
    place = features.term(op)
    assert (TERMS[place] if place >= 0 else "") == term


def test_an_odd_width_costs_as_much_as_the_next_whole_one():
    one = Shape(tile=1, depthwise_pixels=0)
    odd, even, narrower = (
        features.amounts([conv(64, c, kernel=1)], 1, 4, one, 8)[0, 2] for c in (37, 40, 32)
    )
    assert odd == pytest.approx(even) and narrower < odd
    assert features.amounts([conv(64, 37, kernel=1)], 1, 4, one, 1)[0, 2] < even


def test_a_batch_multiplies_the_work_but_not_the_weights():
    shape = Shape(tile=1, depthwise_pixels=0)
    single, eight = (features.amounts([conv(64, 64)], batch, 4, shape)[0] for batch in (1, 8))
    assert eight[TERMS.index("conv3x3")] == pytest.approx(8 * single[TERMS.index("conv3x3")])
    assert eight[TERMS.index("weights")] == single[TERMS.index("weights")]
    assert eight[TERMS.index("launch")] == single[TERMS.index("launch")]


def test_live_activations_of_a_chain_and_of_a_branch():
    chain = [Op(str(i), CONV, "c", 100, 100, sources=(i - 1,) if i else ()) for i in range(5)]
    assert memory.peak_activations(chain, 100) == 200
    branch = [
        Op("a", CONV, "c", 10, 100),
        Op("b", CONV, "c", 100, 100, sources=(0,)),
        Op("c", CONV, "c", 100, 100, sources=(1,)),
        Op("d", "add", "add", 200, 100, sources=(0, 2)),
    ]
    assert memory.peak_activations(branch, 10) == 300


def test_memory_grows_with_weights_and_with_the_batch():
    ops = (conv(64, 64),)
    graph = Graph(ops, 64 * 196, 64 * 196)
    value, low, high = memory.predict_mb(graph, "onnxruntime", "fp32", 1)
    assert low < value < high
    assert memory.predict_mb(graph, "onnxruntime", "fp32", 8)[0] > value
    heavier = Graph((replace(ops[0], weights=10**7),), 64 * 196, 64 * 196)
    assert memory.predict_mb(heavier, "onnxruntime", "fp32", 1)[0] > value
