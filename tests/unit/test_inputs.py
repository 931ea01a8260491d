"""What a runtime is fed: random images like photographs, every dtype and layout, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.agent import inputs
from bench.agent.inputs import Refused
from bench.errors import UsageError
from bench.measure import feeding, tflite_metadata
from bench.measure.feeding import Feeding
from bench.runtimes.shipped import shipped_files
from bench.types import Artifact

PREPROCESS = {"height": 64, "width": 48, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}


def spec(shape: list, dtype: str = "float32", **more: object) -> dict:
    return {"name": "x", "shape": shape, "dtype": dtype, "layout": inputs.guess_layout(shape), **more}


# Random input


def test_random_images_have_the_statistics_of_photographs() -> None:
    images = inputs.random_images(PREPROCESS, 6)
    assert images.shape == (6, 64, 48, 3) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    for image in images.astype(float):
        assert 30 < image.std() < 90
        assert np.corrcoef(image[:, 1:, 0].ravel(), image[:, :-1, 0].ravel())[0, 1] > 0.7  # smooth
        assert np.corrcoef(image[..., 0].ravel(), image[..., 2].ravel())[0, 1] > 0.6  # nearly grey
    assert len({image.tobytes() for image in images}) == 6
    np.testing.assert_array_equal(images, inputs.random_images(PREPROCESS, 6))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.one_of(
        st.tuples(st.sampled_from([1, 3]), st.integers(4, 24), st.integers(4, 24)),
        st.tuples(st.integers(4, 24), st.integers(4, 24), st.sampled_from([1, 3])),
        st.tuples(st.integers(2, 200)),
    ),
    dtype=st.sampled_from(["float32", "float16", "float64", "uint8", "int8"]),
    batch=st.integers(1, 40),
)
def test_random_input_fits_any_input_and_is_never_constant(shape: tuple, dtype: str, batch: int) -> None:
    values = inputs.random_input(spec([None, *shape], dtype), batch)
    assert values.shape == (batch, *shape) and values.dtype == dtype and values.flags.c_contiguous
    assert np.isfinite(values.astype(np.float64)).all()
    assert all(len(np.unique(row)) > 1 for row in values)
    if values.dtype.kind == "f":
        assert abs(float(values.astype(np.float64).mean())) < 0.2
    elif values[0].size > 500:
        low, high = (0, 255) if dtype == "uint8" else (-128, 127)
        assert values.min() == low and values.max() == high


@pytest.mark.parametrize("dtype", ["int64", "bfloat16", "tensor(string)"])
def test_types_that_are_not_fed_are_named(dtype: str) -> None:
    with pytest.raises(Refused, match=r"input x is .*only float32"):
        inputs.random_input(spec([1, 3, 8, 8], dtype), 1)


def test_a_free_side_is_refused() -> None:
    with pytest.raises(Refused, match="free beyond the batch"):
        inputs.random_input(spec([None, 3, None, None]), 1)


def test_a_batch_beyond_memory_is_refused_before_it_is_made() -> None:
    with pytest.raises(Refused, match=r"a batch of 1000000000 takes [\d,.]+ GB"):
        inputs.random_input(spec([None, 3, 224, 224]), 10**9)
    with pytest.raises(Refused, match="GB are free"):
        inputs.pick_batches(inputs.random_images(PREPROCESS, 2), 10**9)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("Failed to allocate memory for requested buffer of size 12"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_the_end_of_memory_is_said_first(error: Exception) -> None:
    assert inputs.explain(error, 512).startswith("not enough memory for a batch of 512 (")
    assert inputs.explain(ValueError("bad\nshape"), 1) == "ValueError: bad shape"


# Dtypes and layouts


@settings(deadline=None)
@given(
    pixels=st.lists(st.integers(0, 255), min_size=12, max_size=12),
    name=st.sampled_from(["0..1", "-1..1", "0..255"]),
    dtype=st.sampled_from(["uint8", "int8"]),
)
def test_a_quantised_input_holds_the_pixel_itself(pixels: list, name: str, dtype: str) -> None:
    scale = {"0..1": 1 / 255, "-1..1": 2 / 255, "0..255": 1.0}[name]
    zero = round({"0..1": 0, "-1..1": 127.5, "0..255": 0}[name]) - (128 if dtype == "int8" else 0)
    assert feeding.range_of(dtype, scale, zero) == name
    mean, std = feeding.PRESETS[feeding.RANGES[name]]
    images = np.array(pixels, np.uint8).reshape(1, 2, 2, 3)
    fed = inputs.to_input(
        images, {"mean": mean * 3, "std": std * 3}, spec([1, 2, 2, 3], dtype, scale=scale, zero_point=zero)
    )
    offset = 128 if dtype == "int8" else 0
    assert np.abs(fed.astype(int) + offset - images).max() <= 1


def test_an_unusual_quantisation_shows_no_range() -> None:
    assert feeding.range_of("uint8", 0.0187, 114) == ""  # ImageNet's mean and std
    assert feeding.range_of("float32", 0.1, 0) == ""


def test_raw_pixels_go_to_uint8_as_they_are() -> None:
    images = inputs.random_images(PREPROCESS, 1)
    mean, std = feeding.PRESETS["raw"]
    fed = inputs.to_input(images, {"mean": mean * 3, "std": std * 3}, spec([1, 64, 48, 3], "uint8"))
    np.testing.assert_array_equal(fed, images)
    with pytest.raises(Refused, match="int8 without a scale"):
        inputs.to_input(images, {"mean": mean * 3, "std": std * 3}, spec([1, 64, 48, 3], "int8"))


def test_several_inputs_and_outputs_are_named() -> None:
    found = [{"name": "image", "shape": [1, 3, 8, 8]}, {"name": "scale", "shape": [1]}]
    with pytest.raises(Refused, match=r"2 inputs .image .1, 3, 8, 8., scale"):
        inputs.single_input([], found)
    with pytest.raises(Refused, match="2 outputs"):
        inputs.single_output(found)


# What is said and what is found


def resolve(
    shape: list, dtype: str = "float32", with_data: bool = False, said: dict | None = None, **more: object
):
    found = {
        "inputs": [spec(shape, dtype, **more)],
        "outputs": [{"name": "y", "shape": [1, 10], "dtype": "float32"}],
    }
    artifact = Artifact("onnx", "", 1, "m.onnx")
    return feeding.resolve(artifact, found, feeding.parse(**(said or {})), with_data, Path("m.onnx"))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [([1, 3, 224, 224], "NCHW"), ([1, 224, 224, 3], "NHWC"), ([None, 1, 28, 28], "NCHW")],
)
def test_the_layout_is_found_and_said(shape: list, layout: str) -> None:
    artifact, notes = resolve(shape)
    assert artifact.inputs[0].layout == layout and artifact.preprocess is None
    assert any(f"layout {layout} found" in n for n in notes)
    assert any("preprocessing not known" in n for n in notes)


def test_what_cannot_be_told_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"channels cannot be told.*--layout"):
        resolve([1, 3, 32, 3])
    with pytest.raises(UsageError, match=r"any size.*--input-size"):
        resolve([1, 3, None, None])
    with pytest.raises(UsageError, match=r"How pixels become the input.*--preprocess"):
        resolve([1, 3, 32, 32], with_data=True)
    with pytest.raises(UsageError, match=r"takes images of 32 x 32.*--input-size 64x64"):
        resolve([1, 3, 32, 32], said={"input_size": "64"})
    with pytest.raises(UsageError, match="does not take NHWC"):
        resolve([1, 3, 32, 32], said={"layout": "NHWC"})
    with pytest.raises(UsageError, match="pixels of 0 to 255 as they are"):
        resolve([1, 32, 32, 3], "uint8", said={"preprocess": "imagenet"})
    with pytest.raises(UsageError, match="is no image"):
        resolve([1, 784], with_data=True)


def test_what_is_said_is_taken() -> None:
    said = {"input_size": "192x256", "preprocess": "imagenet", "resize": "crop"}
    artifact, _ = resolve([None, None, None, 3], with_data=True, said=said | {"layout": "NHWC"})
    pre = artifact.preprocess
    assert (pre.height, pre.width, pre.channels, pre.resize) == (192, 256, 3, "crop")
    assert pre.mean == (0.485, 0.456, 0.406) and artifact.inputs[0].shape == (None, 192, 256, 3)
    artifact, _ = resolve([1, 1, 28, 28], with_data=True, said={"mean": "0.13", "std": "0.31"})
    assert (artifact.preprocess.mean, artifact.preprocess.std) == ((0.13,), (0.31,))


def test_quantisation_shows_the_range() -> None:
    artifact, notes = resolve([1, 32, 32, 3], "uint8", with_data=True, scale=1 / 127.5, zero_point=128)
    assert artifact.preprocess.mean == (0.5,) * 3 and any("-1..1 found" in n for n in notes)
    artifact, notes = resolve([1, 32, 32, 3], "uint8", with_data=True)
    assert artifact.preprocess.std == (1 / 255,) * 3 and any("pixels, 0 to 255" in n for n in notes)


@pytest.mark.parametrize(
    "said",
    [
        {"input_size": "big"},
        {"input_size": "1x2x3"},
        {"input_size": "0"},
        {"mean": "a,b"},
        {"mean": "0.5,0.5"},
        {"mean": "123.675,116.28,103.53"},
        {"std": "0"},
        {"preprocess": "raw", "value_range": "0..1"},
        {"label_offset": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(said: dict) -> None:
    with pytest.raises(UsageError):
        feeding.parse(**said)


def test_nothing_said_is_nothing() -> None:
    assert feeding.parse() == Feeding() and not Feeding().said


# Classes


def test_classes_match_by_name_then_by_number() -> None:
    classes = ("a", "b", "c")
    assert feeding.match_classes(3, classes, classes, None, "m") == ([0, 1, 2], ())
    assert feeding.match_classes(3, ("c", "a", "b"), classes, None, "m")[0] == [1, 2, 0]
    columns, notes = feeding.match_classes(3, ("x", "y", "z"), classes, None, "m")
    assert columns == [0, 1, 2] and "matched by number" in notes[0]
    columns, notes = feeding.match_classes(4, (), classes, None, "m")
    assert columns == [1, 2, 3] and "background" in notes[0]
    assert feeding.match_classes(10, (), classes, 7, "m")[0] == [7, 8, 9]
    for count, offset in ((2, None), (10, None), (10, 8)):
        with pytest.raises(UsageError, match=f"{count} classes"):
            feeding.match_classes(count, (), classes, offset, "m")


# TensorFlow Lite metadata


def tflite_with_metadata(mean: tuple, std: tuple) -> bytes:
    """A file with nothing but the metadata that tflite-support writes for a normalised image input."""
    import flatbuffers

    def table(builder, *fields):  # type: ignore[no-untyped-def]
        builder.StartObject(max(n for n, _, _ in fields) + 1)
        for number, kind, value in fields:
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(number, value, 0)
            elif kind == "byte":
                builder.PrependUint8Slot(number, value, 0)
            else:
                builder.PrependUint32Slot(number, value, 0)
        return builder.EndObject()

    def vector(builder, items):  # type: ignore[no-untyped-def]
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    inner = flatbuffers.Builder()
    means, stds = (inner.CreateNumpyVector(np.array(v, np.float32)) for v in (mean, std))
    options = table(inner, (0, "offset", means), (1, "offset", stds))
    unit = table(inner, (0, "byte", 1), (1, "offset", options))
    tensor = table(inner, (4, "offset", vector(inner, [unit])))
    graph = table(inner, (2, "offset", vector(inner, [tensor])))
    inner.Finish(table(inner, (3, "offset", vector(inner, [graph]))), b"M001")
    outer = flatbuffers.Builder()
    data = outer.CreateByteVector(bytes(inner.Output()))
    empty, holder = table(outer, (0, "offset", outer.CreateByteVector(b""))), None
    holder = table(outer, (0, "offset", data))
    name = outer.CreateString("TFLITE_METADATA")
    entry = table(outer, (0, "offset", name), (1, "u32", 1))
    buffers, entries = vector(outer, [empty, holder]), vector(outer, [entry])
    outer.Finish(table(outer, (4, "offset", buffers), (6, "offset", entries)), b"TFL3")
    return bytes(outer.Output())


def test_metadata_gives_mean_and_std_where_white_is_1(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite_with_metadata((127.5,), (127.5,)))
    assert tflite_metadata.normalisation(path) == (pytest.approx((0.5,)), pytest.approx((0.5,)))
    path.write_bytes(tflite_with_metadata((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    mean, std = tflite_metadata.normalisation(path)
    assert mean == pytest.approx((0.485, 0.456, 0.406)) and std == pytest.approx((0.229, 0.224, 0.225))


@settings(deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 2**32 - 1), keep=st.integers(0, 400))
def test_damaged_metadata_is_none_or_numbers(tmp_path_factory, position: int, value: int, keep: int) -> None:
    data = bytearray(tflite_with_metadata((127.5,), (127.5,)))
    at = min(position, len(data) - 4)
    data[at : at + 4] = struct.pack("<I", value)
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"
    for content in (bytes(data), bytes(data[:keep])):
        path.write_bytes(content)
        found = tflite_metadata.normalisation(path)
        assert found is None or (len(found[0]) in (1, 3) and min(found[1]) > 0)


# Files


def test_weights_beside_the_graph_count_as_shipped(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [weight],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph), str(path))
    assert shipped_files(path) == (path,)
    onnx.save(
        helper.make_model(graph), str(path), save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert shipped_files(path) == (path, tmp_path / "m.data")
    xml = tmp_path / "m.xml"
    xml.write_text("<net/>")
    assert shipped_files(xml) == (xml,)
    (tmp_path / "m.bin").write_bytes(b"1")
    assert shipped_files(xml) == (xml, tmp_path / "m.bin")
