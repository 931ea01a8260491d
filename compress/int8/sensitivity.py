"""How much noise int8 put into each layer's output, and which layers put in most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.types import Json
from compress.int8 import litert_int8, onnx_graph, onnx_int8
from compress.int8.litert_graph import Graph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]
    Values = dict[str, NDArray[np.float32]]

CEILING = 150.0
"""Decibels of tensors that agree to the last bits of float32."""


def layer_sqnr(float_file: Path, int8_file: Path, images: Images, fmt: str) -> list[Json]:
    """The signal to quantization noise ratio at every convolution and matrix product of an int8 file.

    Matching tensors of the two files are compared for the same images, both run from the image on: the
    figures are *cumulative*, each layer has the noise of those before it. ``input_sqnr_db`` is the same
    figure for what goes into the layer, so the step between the two is the layer's own share. ONNX files run
    in exact arithmetic (no integer kernels), TFLite files on LiteRT's default kernels.

    Args:
        float_file, int8_file: of the same model, as :func:`compress.export.export` writes them.
        images: float32 N x C x H x W, normalised.
        fmt: ``onnx`` or ``tflite``.

    Returns:
        In the order of the graph: ``layer`` (its module's name), ``op``, ``int8``, ``source`` (the layer that
        makes its input, with nothing but activations between; None where that is an addition or the image),
        ``sqnr_db`` and ``input_sqnr_db``: 10 log10 of the squared values over the squared differences; at
        most 150, None where the float file has no such tensor or only zeros.
    """
    compare = {"onnx": _onnx, "tflite": _tflite}[fmt]
    layers, pairs = compare(float_file, int8_file, images)
    sums: dict[str, tuple[float, float]] = {}
    for plain, rounded in pairs:
        for name, value in rounded.items():
            signal, noise = sums.get(name, (0.0, 0.0))
            signal += float((plain[name].astype("float64") ** 2).sum())
            noise += float(((plain[name] - value).astype("float64") ** 2).sum())
            sums[name] = signal, noise
    return [
        {
            "layer": layer["layer"],
            "op": layer["op"],
            "int8": layer["int8"],
            "source": layer["source"],
            "sqnr_db": _decibels(sums.get(layer["made"])),
            "input_sqnr_db": _decibels(sums.get(layer["read"])),
        }
        for layer in layers
    ]


def _decibels(sums: tuple[float, float] | None) -> float | None:
    if sums is None or sums[0] == 0:
        return None
    signal, noise = sums
    return round(min(CEILING, 10 * math.log10(signal / noise)) if noise else CEILING, 2)


def ranked(rows: Sequence[Json]) -> list[tuple[str, ...]]:
    """The int8 layers of :func:`layer_sqnr`, the noisiest first, each with its source.

    A layer's noise is what it adds from its input to its output. A layer in float still reads what the layer
    before it has rounded; only the two together leave the tensor between them alone.
    """

    def noise(decibels: float | None) -> float:
        return 0.0 if decibels is None else 10 ** (-decibels / 10)

    chosen = [row for row in rows if row["int8"] and row["sqnr_db"] is not None]
    chosen.sort(key=lambda row: noise(row["input_sqnr_db"]) - noise(row["sqnr_db"]))
    integer = {row["layer"] for row in rows if row["int8"]}
    return [tuple(name for name in (row["layer"], row["source"]) if name in integer) for row in chosen]


def _onnx(
    float_file: Path, int8_file: Path, images: Images
) -> tuple[list[Json], Iterator[tuple[Values, Values]]]:
    import onnx

    plain, rounded = onnx.load(float_file), onnx.load(int8_file)
    links = onnx_graph.Links(rounded)
    known = {out for node in plain.graph.node for out in node.output} | {plain.graph.input[0].name}
    layers: list[Json] = []
    seen: dict[str, tuple[str, str, str] | None] = {}
    for node in rounded.graph.node:
        if node.op_type not in onnx_graph.LAYERS:
            continue
        read = _origin(links, node.input[0])
        made = node.output[0]
        integer = links.maker.get(node.input[1])
        layers.append(
            {
                "layer": onnx_graph.layer_name(node),
                "op": node.op_type,
                "int8": read != node.input[0]
                and integer is not None
                and integer.op_type == "DequantizeLinear",
                "source": _source(links, read),
                "made": made,
                "read": read,
            }
        )
        seen |= {name: _integers(links, name) for name in (made, read) if name in known}
    constants = {i.name: onnx.numpy_helper.to_array(i).astype("float32") for i in rounded.graph.initializer}
    wanted = list(dict.fromkeys(copy[0] if copy else name for name, copy in seen.items()))

    def pairs() -> Iterator[tuple[Values, Values]]:
        one = onnx_int8.values(plain, _singly(images), list(seen))
        other = onnx_int8.values(rounded, _singly(images), wanted, emulate=True)
        for a, b in zip(one, other, strict=True):
            yield (
                a,
                {
                    name: (b[copy[0]] - constants[copy[2]]) * constants[copy[1]] if copy else b[name]
                    for name, copy in seen.items()
                },
            )

    return layers, pairs()


def _source(links: onnx_graph.Links, tensor: str) -> str | None:
    """The layer that makes a tensor, through quantized copies, clips and gates."""
    while tensor in links.maker:
        node = links.maker[tensor]
        if node.op_type in onnx_graph.LAYERS:
            return onnx_graph.layer_name(node)
        origins = {_origin(links, name) for name in node.input[:2]} - links.constants
        if node.op_type == "Mul":  # a gate of a tensor, times that tensor
            gates = [
                name
                for name in origins
                if name in links.maker and _origin(links, links.maker[name].input[0]) in origins
            ]
            origins -= set(gates)
        if node.op_type not in (*onnx_graph.CLIPS, *onnx_graph.GATES, "Mul") or len(origins) != 1:
            return None
        (tensor,) = origins
    return None


def _singly(images: Images) -> Iterator[Images]:
    """One image at a time: both files are then cut alike."""
    return (images[i : i + 1] for i in range(len(images)))


def _origin(links: onnx_graph.Links, tensor: str) -> str:
    """The tensor before its quantized copy; the tensor itself where it has none."""
    copy = links.maker.get(tensor)
    if copy is None or copy.op_type != "DequantizeLinear":
        return tensor
    quantized = links.maker.get(copy.input[0])
    return (
        str(quantized.input[0]) if quantized is not None and quantized.op_type == "QuantizeLinear" else tensor
    )


def _integers(links: onnx_graph.Links, tensor: str) -> tuple[str, str, str] | None:
    """(integers, scale, zero point) of a tensor's quantized copy; None where it has none."""
    for quantized in links.readers.get(tensor, []):
        if quantized.op_type == "QuantizeLinear":
            return quantized.output[0], quantized.input[1], quantized.input[2]
    return None


def _tflite(
    float_file: Path, int8_file: Path, images: Images
) -> tuple[list[Json], Iterator[tuple[Values, Values]]]:
    plain, rounded = Graph(float_file), Graph(int8_file)
    ops = [[(k, op) for k, op in g.operators if k in litert_int8.LAYERS] for g in (plain, rounded)]
    layers: list[Json] = []
    makers = {int(op.outputs[0]): (kind, op) for kind, op in plain.operators}
    indices: tuple[dict[str, int], dict[str, int]] = ({}, {})
    # The quantizer renames tensors and adds operators, but keeps the layers and their order.
    for place, ((kind, one), (_, other)) in enumerate(zip(*ops, strict=True)):
        made, read = f"{place} out", f"{place} in"
        for op, found in ((one, indices[0]), (other, indices[1])):
            found |= {made: int(op.outputs[0]), read: int(op.inputs[0])}
        layers.append(
            {
                "layer": plain.layer(one),
                "op": kind,
                "int8": rounded.dtype(other.inputs[0]) == "INT8",
                "source": _litert_source(plain, makers, int(one.inputs[0])),
                "made": made,
                "read": read,
            }
        )

    def pairs() -> Iterator[tuple[Values, Values]]:
        streams = (
            litert_int8.values(path, [images], found)
            for path, found in zip((float_file, int8_file), indices, strict=True)
        )
        for a, b in zip(*streams, strict=True):
            yield a, {name: rounded.to_float(indices[1][name], value) for name, value in b.items()}

    return layers, pairs()


def _litert_source(graph: Graph, makers: Mapping[int, tuple[str, Any]], tensor: int) -> str | None:
    """The layer that makes a tensor, through padding and activations."""
    while tensor in makers:
        kind, op = makers[tensor]
        if kind in litert_int8.LAYERS:
            return graph.layer(op)
        if kind not in ("PAD", "HARD_SWISH", "RELU", "RELU6"):
            return None
        tensor = int(op.inputs[0])
    return None
