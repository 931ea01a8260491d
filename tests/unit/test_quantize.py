"""Options of the compression steps, the parity check, and quantization of a hand-made ONNX file (no torch)."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.errors import ConfigError, EdgefitError, ParityError, StepError
from bench.types import PruneStep, QuantizeStep
from compress import export, parity, quantize
from compress.prune import check_prune
from compress.quiet import quiet

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (QuantizeStep(precision="int4"), "int8"),
        (QuantizeStep(ranges="minmx"), "Did you mean minmax?"),
        (QuantizeStep(ranges="mse"), "Unknown way"),
        (QuantizeStep(images=0), "at least one image"),
        (QuantizeStep(images=-3), "images = -3"),
    ],
)
def test_impossible_quantization_is_refused(step: QuantizeStep, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        quantize.check_quantize(step)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (PruneStep(macs=0.0), "between 0 and 1"),
        (PruneStep(macs=1.0), "macs = 1.0"),
        (PruneStep(macs=float("nan")), "between 0 and 1"),
        (PruneStep(importance="L1"), "l1"),
        (PruneStep(scope="globl"), "Did you mean global?"),
        (PruneStep(round_to=-1), "whole number"),
    ],
)
def test_impossible_pruning_is_refused(step: PruneStep, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_prune(step)


def test_what_the_defaults_say_is_accepted() -> None:
    quantize.check_quantize(QuantizeStep())
    check_prune(PruneStep())
    offered = [
        (f, p, s) for f, precisions in export.SCHEMES.items() for p in precisions for s in precisions[p]
    ]
    refused = []
    for fmt, precision, scheme in offered:
        try:
            export.check_export(fmt, precision, scheme, QuantizeStep())
        except EdgefitError as err:
            refused.append((fmt, precision, scheme, str(err)))
    assert offered and not refused


@pytest.mark.parametrize(
    ("fmt", "precision", "scheme", "error", "said"),
    [
        ("onx", "fp32", "", ConfigError, "Did you mean onnx?"),
        ("onnx", "fp8", "", ConfigError, "Unknown precision"),
        ("onnx", "bf16", "", StepError, "use pt2"),
        ("tflite", "bf16", "", StepError, "use fp16"),
        ("pt2", "int8", "u8s8", StepError, "ONNX Runtime and LiteRT"),
        ("onnx", "int8", "litert", ConfigError, "u8s8-7bit"),
        ("onnx", "int8", "", ConfigError, "s8s8"),
        ("onnx", "fp32", "u8s8", ConfigError, "no scheme"),
    ],
)
def test_impossible_exports_say_why(
    fmt: str, precision: str, scheme: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        export.check_export(fmt, precision, scheme)


def test_litert_refuses_ranges_it_cannot_find() -> None:
    with pytest.raises(StepError, match="entropy"):
        export.check_export("tflite", "int8", "litert", QuantizeStep(ranges="entropy"))


# --- parity -------------------------------------------------------------------------------

LOGITS = np.array([[4.0, 1.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 3.0], [2.0, 0.5, 0.0]], dtype=np.float32)
ROWS = np.array([10, 20, 30, 40])


@given(
    hnp.arrays(np.float32, (6, 4), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(["fp32", "fp16", "int8"]),
)
def test_a_copy_agrees_with_itself(values: np.ndarray, precision: str) -> None:
    found = parity.check_parity(values, values.copy(), np.arange(6), precision, "it")
    assert found["max_abs_diff"] == 0.0
    assert found["agreement"] == 1.0
    assert found["n"] == 6


@given(st.integers(0, 3), st.integers(0, 2), st.sampled_from([1.0, -1.0, 0.01]))
def test_float_break_names_the_first_figure(image: int, label: int, shift: float) -> None:
    found = LOGITS.copy()
    found[image, label] += shift
    with pytest.raises(ParityError, match=rf"validation image {ROWS[image]}, class {label}: .* instead of"):
        parity.check_parity(LOGITS, found, ROWS, "fp32", "it")


def test_rounding_below_the_tolerance_is_parity_and_ties_may_break_either_way() -> None:
    reference = np.array([[1.0, 1.0005, 0.0]], dtype=np.float32)
    found = np.array([[1.0006, 1.0, 0.0]], dtype=np.float32)
    result = parity.check_parity(reference, found, ROWS[:1], "fp32", "it")
    assert result["agreement"] == 1.0
    assert 0 < result["max_abs_diff"] <= result["tolerance"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_always_break(precision: str, value: float) -> None:
    found = LOGITS.copy()
    found[2, 1] = value
    with pytest.raises(ParityError, match="image 30, class 1"):
        parity.check_parity(LOGITS, found, ROWS, precision, "it")


def test_another_output_shape_breaks() -> None:
    with pytest.raises(ParityError, match="shape"):
        parity.check_parity(LOGITS, LOGITS[:, :2], ROWS, "int8", "it")


def test_reduced_precision_may_drift_but_not_collapse() -> None:
    drifted = parity.check_parity(LOGITS, LOGITS + 0.4, ROWS, "int8", "it")
    assert drifted["agreement"] == 1.0
    assert drifted["max_abs_diff"] == pytest.approx(0.4, rel=1e-5)
    assert drifted["tolerance"] is None
    with pytest.raises(ParityError, match="25% of 4 images"):
        parity.check_parity(
            LOGITS, np.roll(LOGITS, 1, axis=1) + LOGITS * [[0], [0], [0], [9]], ROWS, "int8", "it"
        )
    constant = np.tile(LOGITS[0], (4, 1))
    with pytest.raises(ParityError, match="one class for all"):
        parity.check_parity(LOGITS, constant, ROWS, "int8", "it")


def test_a_rare_class_lost_on_imbalanced_images_is_not_a_collapse() -> None:
    reference = np.zeros((64, 2), dtype=np.float32)
    reference[:, 0] = 1.0
    reference[5] = (0.0, 1.0)
    found = np.tile(np.float32([1.0, 0.0]), (64, 1))
    assert parity.check_parity(reference, found, np.arange(64), "int8", "it")["agreement"] == 63 / 64


# --- ONNX, without torch --------------------------------------------------------------------


def small_net(path: Path) -> np.ndarray:
    """Conv, Relu, GlobalAveragePool, Flatten, Gemm with traces of the exporting machine; returns calibration images."""
    make, rng = onnx.helper, np.random.default_rng(0)
    tensors = {
        "w": rng.normal(size=(4, 3, 3, 3)) * np.array([0.01, 0.1, 1, 3])[:, None, None, None],
        "b": rng.normal(size=4),
        "fw": rng.normal(size=(5, 4)),
        "fb": rng.normal(size=5),
    }
    nodes = [
        make.make_node("Conv", ["input", "w", "b"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make.make_node("Relu", ["c"], ["r"], "relu"),
        make.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        make.make_node("Flatten", ["p"], ["f"], "flatten"),
        make.make_node("Gemm", ["f", "fw", "fb"], ["logits"], "fc", transB=1),
    ]
    entry = nodes[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "File /builds/model.py, line 3"
    float32 = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        "net",
        [make.make_tensor_value_info("input", float32, ["batch", 3, 8, 8])],
        [make.make_tensor_value_info("logits", float32, ["batch", 5])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18), make.make_opsetid("unused", 1)])
    onnx.save(model, path)
    return rng.normal(size=(40, 3, 8, 8)).astype(np.float32)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize("scheme", sorted(quantize.ONNX_SCHEMES))
def test_every_scheme_makes_the_integers_it_promises(scheme: str, tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    notes = quantize.onnx_to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", scheme, "minmax", images)
    assert "int8: 1 of 1 convolutions, 1 of 1 matrix products" in notes
    model = onnx.load(tmp_path / "q.onnx")
    values = weights_of(model)
    assert values["w_quantized"].dtype == np.int8
    assert values["w_scale"].shape == (4,), "weights have one scale per output channel"
    assert np.abs(values["w_quantized"].astype(int)).max() <= (64 if scheme == "u8s8-7bit" else 127)
    assert values["b_quantized"].dtype == np.int32
    zero = values["input_zero_point"]
    assert zero.dtype == (np.int8 if scheme == "s8s8" else np.uint8)
    assert scheme != "s8s8" or all(not v.any() for k, v in values.items() if k.endswith("zero_point"))
    ends = (model.graph.input[0], model.graph.output[0])
    assert [e.type.tensor_type.elem_type for e in ends] == [onnx.TensorProto.FLOAT] * 2
    last = next(n for n in model.graph.node if "logits" in n.output)
    assert last.op_type == "Gemm", "logits are not rounded to 8 bits"
    found = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images), emulate=True)
    expected = parity.run_file(tmp_path / "net.onnx", "onnx", Tensor(images))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


class Tensor:
    """The one method of a tensor that running an ONNX file needs."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize("ranges", sorted(quantize.RANGES))
def test_quantization_writes_the_same_bytes_every_time(ranges: str, tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    for name in ("a", "b"):
        quantize.onnx_to_int8(tmp_path / "net.onnx", tmp_path / f"{name}.onnx", "u8s8-7bit", ranges, images)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_outliers_widen_minmax_ranges_but_not_percentile_ranges(tmp_path: Path) -> None:
    images = np.tile(small_net(tmp_path / "net.onnx"), (20, 1, 1, 1))
    images[0, 0, 0, 0] = 1000.0  # one value of 153,600; ONNX Runtime's percentile is 99.999
    scales = {}
    for ranges in ("minmax", "percentile"):
        quantize.onnx_to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", "u8s8", ranges, images)
        scales[ranges] = float(weights_of(onnx.load(tmp_path / "q.onnx"))["input_scale"])
    assert scales["percentile"] < scales["minmax"] / 10


def test_a_model_with_nothing_to_quantize_is_a_clear_error(tmp_path: Path) -> None:
    make = onnx.helper
    value = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    out = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    graph = make.make_graph([make.make_node("Sigmoid", ["x"], ["y"])], "g", [value], [out])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)]), tmp_path / "s.onnx")
    with pytest.raises(StepError, match="Nothing in the model could be quantized"):
        quantize.onnx_to_int8(
            tmp_path / "s.onnx", tmp_path / "q.onnx", "u8s8", "minmax", np.ones((8, 4), dtype=np.float32)
        )


def test_a_shipped_file_says_nothing_about_the_machine_that_made_it(tmp_path: Path) -> None:
    small_net(tmp_path / "net.onnx")
    quantize.save_onnx(onnx.load(tmp_path / "net.onnx"), tmp_path / "shipped.onnx")
    data = (tmp_path / "shipped.onnx").read_bytes()
    assert b"somebody" not in data
    assert b"unused" not in data
    onnx.checker.check_model(onnx.load(tmp_path / "shipped.onnx"))


# --- silence --------------------------------------------------------------------------------


def test_quiet_keeps_what_was_said_and_gives_the_streams_back(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as said:
        os.write(1, b"from C, to stdout\n")
        print("from Python", file=sys.stderr)
        os.write(2, b"from C, to stderr\n")
        assert said.tail() == "from C, to stdout from Python from C, to stderr"
        assert said.tail(7) == "stderr"
        os.write(1, b"more\n")
        assert said.tail().endswith("more")
    os.write(1, b"heard\n")
    out, err = capfd.readouterr()
    assert out == "heard\n"
    assert err == ""


def test_quiet_ends_with_an_error_and_removes_the_handlers_added_inside(
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    with pytest.raises(ValueError, match="inside"), quiet():
        root.addHandler(logging.StreamHandler(sys.stderr))
        raise ValueError("inside")
    assert root.handlers == before
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"
