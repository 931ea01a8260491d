"""Options of the compression steps, the parity check, and quantization of a hand-made ONNX file (no torch)."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.errors import ConfigError, EdgefitError, ParityError, StepError
from bench.steps import QuantizeStep
from compress import export, parity, quantize
from compress.int8 import onnx_graph, onnx_int8, ranges
from compress.quiet import quiet

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (QuantizeStep(precision="int4"), "int8"),
        (QuantizeStep(ranges="minmx"), "Did you mean minmax?"),
        (QuantizeStep(activations="dynamical"), "Did you mean dynamic?"),
        (QuantizeStep(input="uint8"), "int8"),
        (QuantizeStep(images=0), "at least one image"),
        (QuantizeStep(images=-3), "images = -3"),
        (QuantizeStep(activations="dynamic", input="int8"), "takes float32 images"),
        (QuantizeStep(ladder=("channel", "equalise")), "Did you mean equalize?"),
        (QuantizeStep(max_drop=-0.01), "max_drop = -0.01"),
        (QuantizeStep(max_drop=1.0), "0.01 is one point"),
        (QuantizeStep(max_drop=float("nan")), "max_drop = nan"),
        (QuantizeStep(max_drop=0.01, ladder=()), "channel, equalize"),
        (QuantizeStep(max_drop=0.01, qat_epochs=0), "qat_epochs = 0"),
        (QuantizeStep(max_drop=0.01, activations="dynamic"), "static int8"),
        (QuantizeStep("fp16", max_drop=0.01), "static int8"),
        (QuantizeStep(max_drop=0.01, per_channel=False), "by channel"),
        (QuantizeStep("fp16", equalize=True, float_layers=("a",)), "equalize, float_layers would do nothing"),
        (QuantizeStep(activations="dynamic", ranges="mse"), "ranges would do nothing"),
        (QuantizeStep(ladder=("channel",)), "ladder would do nothing with no max_drop"),
        (QuantizeStep(qat_epochs=5), "qat_epochs would do nothing"),
        (
            QuantizeStep(max_drop=0.01, ladder=("mse",), qat_epochs=5),
            "qat_epochs would do nothing with no rung",
        ),
        (QuantizeStep(max_drop=0.01, equalize=True), "which are rungs"),
    ],
)
def test_impossible_quantization_is_refused(step: QuantizeStep, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        quantize.check_quantize(step)


def test_what_the_defaults_say_is_accepted() -> None:
    quantize.check_quantize(QuantizeStep())
    quantize.check_quantize(QuantizeStep(max_drop=0.01))
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


def small_net(path: Path, dead: int | None = None) -> np.ndarray:
    """Conv, Relu, Conv, hard swish, mean, Flatten, Gemm with traces of the exporting machine; returns calibration images.

    ``dead`` is a channel of the second convolution with no weights and a large bias.
    """
    make, rng = onnx.helper, np.random.default_rng(0)
    tensors = {
        "features.0.weight": rng.normal(size=(4, 3, 3, 3)) * np.array([0.01, 0.1, 1, 3])[:, None, None, None],
        "b": rng.normal(size=4),
        "features.1.weight": rng.normal(size=(6, 4, 3, 3)) * 0.2,
        "b2": rng.normal(size=6),
        "fc.weight": rng.normal(size=(5, 6)),
        "fb": rng.normal(size=5),
    }
    if dead is not None:
        tensors["features.1.weight"][dead] = 1e-25
        tensors["b2"][dead] = 5.0
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        make.make_node("Conv", ["input", "features.0.weight", "b"], ["c"], "conv", **conv),
        make.make_node("Relu", ["c"], ["r"], "relu"),
        make.make_node("Conv", ["r", "features.1.weight", "b2"], ["c2"], "conv2", **conv),
        make.make_node("HardSigmoid", ["c2"], ["g"], "", alpha=1 / 6, beta=0.5),
        make.make_node("Mul", ["c2", "g"], ["h"], ""),
        make.make_node("ReduceMean", ["h", "axes"], ["p"], "pool", keepdims=0),
        make.make_node("Gemm", ["p", "fc.weight", "fb"], ["logits"], "fc", transB=1),
    ]
    entry = nodes[0].metadata_props.add()
    entry.key, entry.value = "stack_trace", "File /builds/model.py, line 3"
    float32 = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        "net",
        [make.make_tensor_value_info("input", float32, ["batch", 3, 8, 8])],
        [make.make_tensor_value_info("logits", float32, ["batch", 5])],
        [axes, *(onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items())],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18), make.make_opsetid("unused", 1)])
    onnx.save(model, path)
    return rng.normal(size=(40, 3, 8, 8)).astype(np.float32)


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


def to_int8(
    source: Path, target: Path, scheme: str, method: str, images: np.ndarray, **options: object
) -> tuple[str, ...]:
    """What an export does with a float file, without a data set."""
    with quiet():
        model = onnx_graph.prepare(source)
        histograms = onnx_int8.collect(model, [images])
    found = ranges.find(histograms, method, onnx_int8.SCHEMES[scheme].symmetric)
    return onnx_int8.write(model, target, scheme, found, **options)


@pytest.mark.parametrize("scheme", sorted(onnx_int8.SCHEMES))
@pytest.mark.parametrize("per_channel", [True, False])
def test_every_scheme_makes_the_integers_it_promises(scheme: str, per_channel: bool, tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    notes = to_int8(
        tmp_path / "net.onnx", tmp_path / "q.onnx", scheme, "minmax", images, per_channel=per_channel
    )
    stem = 1 if scheme == "s8s8" else 0  # on CPUs the image's own convolution is faster in float
    assert f"int8: {1 + stem} of 2 convolutions, 1 of 1 matrix products" in notes
    assert any("features.0 stays float" in note for note in notes) == (not stem)
    model = onnx.load(tmp_path / "q.onnx")
    values = weights_of(model)
    assert values["features.1.weight_quantized"].dtype == np.int8
    assert values["features.1.weight_scale"].shape == ((6,) if per_channel else ())
    assert np.abs(values["features.1.weight_quantized"].astype(int)).max() == (
        64 if scheme == "u8s8-7bit" else 127
    )
    assert values["b2_quantized"].dtype == np.int32
    zero = values["r_zero_point"]
    assert zero.dtype == (np.int8 if scheme == "s8s8" else np.uint8)
    assert scheme != "s8s8" or all(not v.any() for k, v in values.items() if k.endswith("zero_point"))
    ends = (model.graph.input[0], model.graph.output[0])
    assert [e.type.tensor_type.elem_type for e in ends] == [onnx.TensorProto.FLOAT] * 2
    last = next(n for n in model.graph.node if "logits" in n.output)
    assert last.op_type == "Gemm", "logits are not rounded to 8 bits"
    found = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images), emulate=True)
    expected = parity.run_file(tmp_path / "net.onnx", "onnx", Tensor(images))
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_graph_for_cpus_has_integer_operators_alone_and_answers_the_same(tmp_path: Path) -> None:
    """No hard sigmoid, mean or clip is left in float after the stem: that is what makes MobileNetV3 fast."""
    images = small_net(tmp_path / "net.onnx")
    to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", "u8s8", "minmax", images)
    found = operators(tmp_path / "q.onnx", tmp_path / "optimised.onnx")
    assert {k: v for k, v in found.items() if k.startswith("QLinear")} == {
        "QLinearConv": 1,
        "QLinearAdd": 1,
        "QLinearMul": 1,
        "QLinearGlobalAveragePool": 1,
    }
    assert found["QGemm"] == 1
    assert not found.keys() & {"HardSigmoid", "ReduceMean", "Mul", "Add", "GlobalAveragePool"}
    run = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images))
    exact = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images), emulate=True)
    assert np.abs(run - exact).max() < 0.05 * np.abs(exact).max(), "fused as it is read operator by operator"


def operators(path: Path, target: Path) -> dict[str, int]:
    """How often each operator occurs in the graph that ONNX Runtime makes of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(target).graph.node)


def test_layers_kept_float_by_name_or_pattern(tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    for names in (("features.1",), (r"features\..*",), ("conv2",)):
        notes = to_int8(
            tmp_path / "net.onnx", tmp_path / "q.onnx", "s8s8", "minmax", images, float_layers=names
        )
        left = 0 if "*" in names[0] else 1
        assert f"int8: {left} of 2 convolutions, 1 of 1 matrix products" in notes
        assert any("kept float as asked: " in note and "features.1" in note for note in notes)
    with pytest.raises(StepError, match=r"No layer is named feature\.1.*: features\.0, features\.1, fc"):
        to_int8(
            tmp_path / "net.onnx", tmp_path / "q.onnx", "s8s8", "minmax", images, float_layers=("feature.1",)
        )


def test_logits_of_a_net_that_ends_in_pooling_stay_float_and_a_pooled_stem_is_int8(tmp_path: Path) -> None:
    """As SqueezeNet does; pooling 8-bit images in channels-first order takes longer than all its convolutions."""
    make, rng = onnx.helper, np.random.default_rng(0)
    weights = {
        f"{n}.weight": rng.normal(size=s) * 0.3
        for n, s in (("a", (8, 3, 3, 3)), ("b", (8, 8, 3, 3)), ("c", (5, 8, 1, 1)))
    }
    nodes = [
        make.make_node("Conv", ["input", "a.weight"], ["a"], "a"),
        make.make_node("Relu", ["a"], ["ar"], "ar"),
        make.make_node("MaxPool", ["ar"], ["p"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        make.make_node("Conv", ["p", "b.weight"], ["b"], "b"),
        make.make_node("Relu", ["b"], ["br"], "br"),
        make.make_node("Conv", ["br", "c.weight"], ["c"], "c"),
        make.make_node("Relu", ["c"], ["cr"], "cr"),
        make.make_node("GlobalAveragePool", ["cr"], ["g"], "g"),
        make.make_node("Flatten", ["g"], ["logits"], "f"),
    ]
    ends = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["batch", 3, 12, 12]), ("logits", ["batch", 5]))
    ]
    constants = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = make.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)]), tmp_path / "net.onnx")
    images = rng.normal(size=(24, 3, 12, 12)).astype(np.float32)
    notes = to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", "u8s8", "minmax", images)
    assert "int8: 3 of 3 convolutions" in notes
    links = onnx_graph.Links(onnx.load(tmp_path / "q.onnx"))
    tensor = "logits"
    while links.maker[tensor].op_type != "Conv":
        assert "QuantizeLinear" not in [n.op_type for n in links.readers.get(tensor, [])]
        tensor = links.maker[tensor].input[0]
        assert links.maker[tensor].op_type != "DequantizeLinear"
    found = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images), emulate=True)
    expected = parity.run_file(tmp_path / "net.onnx", "onnx", Tensor(images))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_dynamic_quantization_takes_the_matrix_products(tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    with quiet():
        notes = onnx_int8.to_dynamic(tmp_path / "net.onnx", tmp_path / "d.onnx", "u8s8-7bit")
    assert notes == (
        "int8: 1 matrix products, dynamic",
        "2 convolutions stay float (ConvInteger is slower)",
    )
    assert [p.name for p in tmp_path.iterdir() if "prepared" in p.name] == []
    found = parity.run_file(tmp_path / "d.onnx", "onnx", Tensor(images))
    expected = parity.run_file(tmp_path / "net.onnx", "onnx", Tensor(images))
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_dead_channel_keeps_its_bias_and_no_scale_is_zero(tmp_path: Path) -> None:
    """A channel without weights has the output of its bias alone: 32 bits on a scale of almost nothing would lose it."""
    images = small_net(tmp_path / "net.onnx", dead=2)
    for scheme in onnx_int8.SCHEMES:
        for per_channel in (True, False):
            notes = to_int8(
                tmp_path / "net.onnx", tmp_path / "q.onnx", scheme, "minmax", images, per_channel=per_channel
            )
            assert any(n.startswith("guarded: ") for n in notes) == per_channel
            values = weights_of(onnx.load(tmp_path / "q.onnx"))
            for name in (k for k in values if k.endswith("_scale")):
                assert np.all(np.isfinite(values[name])) and np.all(values[name] > 1e-30), name
            found = parity.run_file(tmp_path / "q.onnx", "onnx", Tensor(images), emulate=True)
            expected = parity.run_file(tmp_path / "net.onnx", "onnx", Tensor(images))
            assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


class Tensor:
    """The one method of a tensor that running an ONNX file needs."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


def test_a_batch_is_cut_so_that_its_activations_fit_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = small_net(tmp_path / "net.onnx")
    with quiet():
        model = onnx_graph.prepare(tmp_path / "net.onnx")
    whole = list(onnx_int8.values(model, [images], ["input", "r", "c2"]))
    assert [len(part["r"]) for part in whole] == [1, 32, 7], "the first image tells how large one is"
    each = sum(v[0].size for v in whole[1].values())
    monkeypatch.setattr(onnx_int8, "BUDGET", 5 * each)
    parts = list(onnx_int8.values(model, [images], ["input", "r", "c2"]))
    assert [len(part["r"]) for part in parts] == [1, 5, 5, 5, 5, 5, 5, 5, 4]
    for name in ("input", "r", "c2"):
        one, other = (np.concatenate([part[name] for part in found]) for found in (whole, parts))
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("method", quantize.RANGES)
def test_quantization_writes_the_same_bytes_every_time(method: str, tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    for name in ("a", "b"):
        to_int8(tmp_path / "net.onnx", tmp_path / f"{name}.onnx", "u8s8-7bit", method, images)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_outliers_do_not_widen_percentile_and_entropy_ranges(tmp_path: Path) -> None:
    images = np.tile(small_net(tmp_path / "net.onnx"), (20, 1, 1, 1))
    images[0, 0, 0, 0] = 1000.0  # one value of 153,600
    scales = {}
    for method in ("minmax", "percentile", "entropy"):
        to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", "s8s8", method, images)
        scales[method] = float(weights_of(onnx.load(tmp_path / "q.onnx"))["input_scale"])
    assert scales["minmax"] == pytest.approx(1000 / 127)
    assert all(scales[method] < scales["minmax"] / 10 for method in ("percentile", "entropy"))


def test_a_model_with_nothing_to_quantize_is_a_clear_error(tmp_path: Path) -> None:
    make = onnx.helper
    value = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])
    out = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    graph = make.make_graph([make.make_node("Sigmoid", ["x"], ["y"])], "g", [value], [out])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 18)]), tmp_path / "s.onnx")
    images = np.ones((8, 4), dtype=np.float32)
    with pytest.raises(StepError, match="Nothing in the model could be quantized"):
        to_int8(tmp_path / "s.onnx", tmp_path / "q.onnx", "u8s8", "minmax", images)
    with pytest.raises(StepError, match="Nothing in the model could be quantized"), quiet():
        onnx_int8.to_dynamic(tmp_path / "s.onnx", tmp_path / "q.onnx", "u8s8")


def test_a_model_that_answers_nan_cannot_be_calibrated(tmp_path: Path) -> None:
    images = small_net(tmp_path / "net.onnx")
    images[3] = np.nan
    with pytest.raises(StepError, match="the tensor input has values that are not finite"):
        to_int8(tmp_path / "net.onnx", tmp_path / "q.onnx", "u8s8", "minmax", images)


def test_a_shipped_file_says_nothing_about_the_machine_that_made_it(tmp_path: Path) -> None:
    small_net(tmp_path / "net.onnx")
    onnx_graph.save_onnx(onnx.load(tmp_path / "net.onnx"), tmp_path / "shipped.onnx")
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
