"""How images become the input of a file made elsewhere: what the person says, else what the file shows.

Detection is always said in a note; preprocessing that nothing shows is never guessed where accuracy is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import UsageError
from bench.types import Artifact, Json, Preprocess, TensorSpec

Affine = tuple[tuple[float, ...], tuple[float, ...]]
PRESETS: dict[str, Affine] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5,), (0.5,)),
    "unit": ((0.0,), (1.0,)),
    "raw": ((0.0,), (1 / 255,)),
}
"""``(pixel / 255 - mean) / std``: torchvision's ImageNet figures, -1..1, 0..1, and 0..255 as it is."""
RANGES = {"0..1": "unit", "-1..1": "inception", "0..255": "raw"}
HOW_TO_SAY = (
    "Say it with --preprocess imagenet|inception|raw|unit, --range 0..1|-1..1|0..255 or --mean and --std; "
    "without --data it is timed on random images"
)


@dataclass(frozen=True)
class Feeding:
    """What the person said. None or empty: not said.

    Args:
        size: height and width in pixels, for an input that leaves them free.
        layout: ``NCHW`` or ``NHWC``.
        affine: mean and standard deviation a channel, on the 0..1 scale.
        resize: ``stretch`` or ``crop``.
        label_offset: the column of the data's first class.
    """

    size: tuple[int, int] | None = None
    layout: str = ""
    affine: Affine | None = None
    resize: str = ""
    label_offset: int | None = None

    @property
    def said(self) -> bool:
        return self != Feeding()


def parse(
    *,
    input_size: str = "",
    layout: str = "",
    preprocess: str = "",
    value_range: str = "",
    mean: str = "",
    std: str = "",
    resize: str = "",
    label_offset: int | None = None,
) -> Feeding:
    """The options of the command line, checked.

    Raises:
        UsageError: values that cannot be read, or two ways of saying the same.
    """
    ways = [
        n
        for n, v in (("--preprocess", preprocess), ("--range", value_range), ("--mean/--std", mean or std))
        if v
    ]
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)} say the same thing", todo="Give one of them")
    affine: Affine | None = None
    if preprocess or value_range:
        affine = PRESETS[preprocess or RANGES[value_range]]
    elif mean or std:
        affine = (_numbers("--mean", mean or "0"), _numbers("--std", std or "1"))
        if min(affine[1]) <= 0:
            raise UsageError("--std must be above 0", std)
    if label_offset is not None and label_offset < 0:
        raise UsageError("--label-offset must not be negative", str(label_offset))
    return Feeding(_size(input_size), layout, affine, resize, label_offset)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"{option} wants numbers with commas between", text, "Such as 0.485,0.456,0.406"
        ) from error
    if len(values) not in (1, 3) or not all(math.isfinite(v) for v in values):
        raise UsageError(f"{option} wants one number, or one a channel (3)", text)
    if max(abs(v) for v in values) > 2:
        raise UsageError(
            f"{option} is on the scale where white is 1", text, f"Divide by 255: {values[0] / 255:.4g}, ..."
        )
    return values


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdigit() and 1 <= int(p) <= 16384 for p in parts):
        raise UsageError(
            "--input-size wants a side or HEIGHTxWIDTH in pixels", text, "Such as 224 or 192x256"
        )
    return int(parts[0]), int(parts[-1])


def resolve(
    artifact: Artifact, found: Json, said: Feeding, with_data: bool, path: Path
) -> tuple[Artifact, tuple[str, ...]]:
    """Complete the description of a file made elsewhere.

    Args:
        artifact: what is known without opening the file.
        found: ``inputs`` and ``outputs`` as the runtime describes them, one each.
        said: what the person said.
        with_data: images will be fed: layout, size and preprocessing must be known.
        path: the file (TensorFlow Lite's can carry metadata).

    Returns:
        The artifact with inputs, outputs and, where known, preprocessing; notes on what was found how.

    Raises:
        UsageError: options that contradict the file, or something missing that cannot be told from it.
    """
    source, target = found["inputs"][0], found["outputs"][0]
    output = TensorSpec(target["name"], tuple(target["shape"]), target["dtype"], "NC")
    if len(source["shape"]) != 4:
        if with_data or said.size or said.layout:
            raise UsageError(
                f"The input {source['name']} of {path.name} is no image", f"shape {_axes(source['shape'])}"
            )
        spec = TensorSpec(source["name"], tuple(source["shape"]), source["dtype"], "")
        return replace(artifact, inputs=(spec,), outputs=(output,)), (
            f"the input is no image: shape {_axes(source['shape'])}",
        )
    layout, layout_notes = _layout(source["shape"], said, with_data, path)
    height, width, channels = _sides(source, layout, said, path)
    shape = (None, channels, height, width) if layout == "NCHW" else (None, height, width, channels)
    spec = TensorSpec(source["name"], (source["shape"][0], *shape[1:]), source["dtype"], layout)
    affine, pre_notes = _affine(source, said, with_data, path)
    preprocess = None
    if affine is not None:
        mean, std = (_per_channel(values, channels, path) for values in affine)
        preprocess = Preprocess(height, width, channels, mean, std, said.resize or "stretch")
    return replace(artifact, inputs=(spec,), outputs=(output,), preprocess=preprocess), (
        *layout_notes,
        *pre_notes,
    )


def _layout(
    shape: list[int | None], said: Feeding, with_data: bool, path: Path
) -> tuple[str, tuple[str, ...]]:
    from bench.agent.inputs import guess_layout

    if said.layout:
        axis = 1 if said.layout == "NCHW" else 3
        if shape[axis] not in (None, 1, 3):
            raise UsageError(
                f"{path.name} does not take {said.layout} images",
                f"an input of shape {_axes(shape)}: {shape[axis]} channels",
            )
        return said.layout, ()
    layout = guess_layout(shape)
    if not layout:
        raise UsageError(
            f"Which axis of {path.name}'s input holds the channels cannot be told", f"shape {_axes(shape)}",
            "Say it with --layout NCHW or --layout NHWC",
        )  # fmt: skip
    return layout, (f"layout {layout} found from the shape {_axes(shape)}",)


def _sides(source: Json, layout: str, said: Feeding, path: Path) -> tuple[int, int, int]:
    shape = source["shape"]
    sides, channels = (shape[2:], shape[1]) if layout == "NCHW" else (shape[1:3], shape[3])
    if said.size and any(s is not None and s != w for s, w in zip(sides, said.size, strict=True)):
        raise UsageError(
            f"{path.name} takes images of {sides[0] or 'any'} x {sides[1] or 'any'} (height x width)",
            f"--input-size {said.size[0]}x{said.size[1]}",
        )
    wanted = said.size or tuple(sides)
    if None in wanted:
        raise UsageError(
            f"{path.name} takes images of any size",
            f"an input of shape {_axes(shape)}",
            "Say one with --input-size N or HxW",
        )
    return int(wanted[0] or 0), int(wanted[1] or 0), int(channels or 3)


def _per_channel(values: tuple[float, ...], channels: int, path: Path) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if channels == 1 and values in PRESETS["imagenet"]:
        return (sum(values) / 3,)
    raise UsageError(f"{path.name} takes {channels} channel(s), and {len(values)} figures were given")


def _affine(
    source: Json, said: Feeding, with_data: bool, path: Path
) -> tuple[Affine | None, tuple[str, ...]]:
    """Mean and std, from what was said, the file's metadata, the input's quantisation or its type."""
    from bench.measure.tflite_metadata import normalisation

    dtype, scale = source["dtype"], source.get("scale")
    if dtype == "uint8" and not scale:
        if said.affine not in (None, PRESETS["raw"]):
            raise UsageError(
                f"{path.name} takes uint8 without a scale: pixels of 0 to 255 as they are",
                todo="Leave the preprocessing options out",
            )
        return PRESETS["raw"], ("the input is uint8 without a scale: fed with pixels, 0 to 255",)
    if said.affine is not None:
        return said.affine, ()
    metadata = normalisation(path) if path.suffix == ".tflite" else None
    if metadata is not None:
        mean, std = metadata
        return metadata, (
            f"preprocessing found in the file's metadata: mean {_list(mean)}, std {_list(std)} (white is 1)",
        )
    name = range_of(dtype, scale, source.get("zero_point", 0)) if scale else ""
    if name:
        return PRESETS[RANGES[name]], (f"preprocessing {name} found from the input's scale and zero point",)
    if with_data:
        raise UsageError(
            f"How pixels become the input of {path.name} is not known",
            f"a {dtype} input and nothing that says its range",
            HOW_TO_SAY,
        )
    return None, ("preprocessing not known: fed with values of mean 0 and deviation 1" if dtype.startswith("float")
                  else f"preprocessing not known: fed with the whole range of {dtype}",)  # fmt: skip


def _axes(shape: Sequence[int | None]) -> str:
    """``[any, 3, 224, 224]``."""
    return "[" + ", ".join("any" if d is None else str(d) for d in shape) + "]"


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def range_of(dtype: str, scale: float, zero_point: int) -> str:
    """``0..1``, ``-1..1`` or ``0..255`` where an 8-bit input can hold just that (within 2%), else an empty string."""
    lowest = {"uint8": 0, "int8": -128}.get(dtype)
    if lowest is None:
        return ""
    low, high = (lowest - zero_point) * scale, (lowest + 255 - zero_point) * scale
    for name, (wanted_low, wanted_high) in (("0..1", (0, 1)), ("-1..1", (-1, 1)), ("0..255", (0, 255))):
        room = 0.02 * (wanted_high - wanted_low)
        if abs(low - wanted_low) <= room and abs(high - wanted_high) <= room:
            return name
    return ""


def match_classes(
    count: int, labels: tuple[str, ...], classes: tuple[str, ...], offset: int | None, name: str
) -> tuple[list[int], tuple[str, ...]]:
    """The model's output column of each of the data's classes, and notes.

    By name where the model's are known and the same; else by number: as many as the data has, or one more with
    the background first (as TensorFlow's 1,001 ImageNet classes), or from ``offset`` on.

    Raises:
        UsageError: numbers that do not fit.
    """
    n = len(classes)
    if offset is not None:
        if offset + n > count:
            raise UsageError(f"{name} answers {count} classes", f"{n} classes from column {offset} on")
        return list(range(offset, offset + n)), (f"classes taken from column {offset} on (--label-offset)",)
    if labels == classes:
        return list(range(n)), ()
    if len(labels) == count and set(labels) == set(classes):
        return [labels.index(c) for c in classes], (
            "the model's classes are in another order than the data's",
        )
    if count == n:
        notes = ("the class names are not the data's: matched by number",) if labels else ()
        return list(range(n)), notes
    if count == n + 1:
        return list(range(1, count)), (
            f"{count:,} outputs for {n:,} classes: the first taken for the background",
        )
    raise UsageError(
        f"{name} answers {count:,} classes, and the data has {n:,}",
        todo="Give the data it was trained on, or say where its first class is with --label-offset",
    )
