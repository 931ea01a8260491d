"""What in a shipped file explains its speed: layers in int8, float islands, conversions that did not fuse, odd widths.

Read from the file as its runtime executes it (ONNX Runtime's graph after optimisation; LiteRT's after delegation),
without timing anything. :mod:`compress.speed.onnx_facts` and :mod:`compress.speed.tflite_facts` read; this module counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.types import Json
from compress.quiet import quiet

BLOCK = 8
"""Channels that vector kernels take at a time: 8 floats in AVX2, two registers of NEON; the blocks of AVX-512 (16) and of
int8 kernels (16, 32) are multiples. A width that is no multiple of 8 leaves lanes empty on all of them."""

SHARE = 0.01
"""Layers with less than this share of all MACs explain nothing (squeeze-and-excite, shortcuts)."""

NAMED = 10
INT8, FLOAT, CONVERT, LAYOUT = "int8", "float", "convert", "layout"
"""States of an operator: integer arithmetic, float arithmetic, between number formats, between orders of the axes."""


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product of a file. ``macs`` of one image; ``inputs`` and ``outputs`` are channels.

    ``name`` is the module's where the file knows it, ``node`` the operator's own in the file.
    """

    name: str
    op: str
    macs: int
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    depthwise: bool = False
    node: str = ""

    @property
    def shape(self) -> str:
        """``3x3, 16 to 32``; a matrix product has no kernel."""
        size = "x".join(str(k) for k in self.kernel)
        widths = f"{self.outputs} each" if self.depthwise else f"{self.inputs} to {self.outputs}"
        return f"{size}, {widths}" if size else widths


@dataclass(frozen=True)
class Kernel:
    """An operator as the runtime calls it, after fusion. ``moves``: it computes nothing (reshape, concatenation).

    ``sources`` and ``results`` are names of tensors, constants left out.
    """

    name: str
    op: str
    state: str
    sources: tuple[str, ...]
    results: tuple[str, ...]
    layer: Layer | None = None
    moves: bool = False


@dataclass(frozen=True)
class Graph:
    """A file as its runtime executes it.

    ``unfused`` counts conversions between number formats that are not at the graph's ends; ``outside`` the operators, by
    name, that the runtime's kernel library does not take; ``parts`` into how many pieces they cut the graph.
    """

    layers: tuple[Layer, ...]
    kernels: tuple[Kernel, ...]
    unfused: int
    outside: dict[str, int]
    parts: int = 1


def read_graph(path: Path, fmt: str) -> Graph:
    """The graph of an ``onnx`` or ``tflite`` file as its runtime executes it on this machine.

    Raises:
        ValueError: another format. Otherwise whatever the runtime raises on a file it cannot read.
    """
    if fmt == "onnx":
        from compress.speed import onnx_facts

        return onnx_facts.read(path)
    if fmt == "tflite":
        from compress.speed import tflite_facts

        return tflite_facts.read(path)
    raise ValueError(f"graphs are read of onnx and tflite files, not of {fmt}")


def graph_facts(path: Path, fmt: str) -> Json:
    """What explains the speed of a file, small enough for a record.

    Returns:
        ``layers`` (convolutions and matrix products), ``int8_layers`` of them, ``kernels`` (operator calls after
        optimisation), ``macs`` of one image, ``unfused_qdq``, ``layout_changes``, ``float_islands`` (float regions between
        quantized ones) with ``island_ops`` (operator: count), ``odd_layers`` and up to 10 ``odd_channels`` as [layer,
        channels, nearest multiple of 8], ``outside`` (operator: count that the kernel library does not take) and
        ``parts`` (pieces they leave). ``{}`` for formats without such a view, ``{"error": reason}`` where reading failed:
        facts explain, and must not fail an export.
    """
    if fmt not in ("onnx", "tflite"):
        return {}
    try:
        with quiet():
            return _facts(read_graph(path, fmt))
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


def _facts(graph: Graph) -> Json:
    regions = islands(graph.kernels)
    odd = odd_channels(graph.layers)
    integer = sum(k.layer is not None and k.state == INT8 for k in graph.kernels)
    ops = Counter(op for region in regions for op in region)
    return {
        "layers": len(graph.layers),
        "int8_layers": integer,
        "kernels": len(graph.kernels),
        "macs": sum(layer.macs for layer in graph.layers),
        "unfused_qdq": graph.unfused,
        "layout_changes": sum(k.state == LAYOUT for k in graph.kernels),
        "float_islands": len(regions),
        "island_ops": dict(ops.most_common(NAMED)),
        "odd_layers": len(odd),
        "odd_channels": [list(o) for o in odd[:NAMED]],
        "outside": graph.outside,
        "parts": graph.parts,
    }


def nearest_multiple(channels: int, block: int = BLOCK) -> int:
    """The multiple of ``block`` nearest to ``channels``, at least one block; the larger of two equally near."""
    return max(block, block * int(channels / block + 0.5))


def odd_channels(layers: Sequence[Layer]) -> list[tuple[str, int, int]]:
    """(layer, width, nearest multiple of BLOCK) of convolutions of awkward width, those with the most work first.

    The first layer (as many inputs as colours), the last (as many outputs as classes) and depthwise ones (their width is
    that of the layer before) do not count, nor do layers with hardly any work.
    """
    total = sum(layer.macs for layer in layers)
    odd = [
        layer
        for layer in layers[1:-1]
        if layer.outputs % BLOCK and not layer.depthwise and layer.kernel and layer.macs >= SHARE * total
    ]
    return [(o.name, o.outputs, nearest_multiple(o.outputs)) for o in sorted(odd, key=lambda o: -o.macs)]


def islands(kernels: Iterable[Kernel]) -> list[list[str]]:
    """Maximal connected float regions with quantized operators before and behind; the operators of each, sorted.

    A region of operators that only move numbers is none.
    """
    kernels = list(kernels)
    floats = {i for i, k in enumerate(kernels) if k.state == FLOAT}
    made = {tensor: i for i, k in enumerate(kernels) for tensor in k.results}
    root = {i: i for i in floats}

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    before: set[int] = set()
    behind: set[int] = set()
    for i, kernel in enumerate(kernels):
        for tensor in kernel.sources:
            source = made.get(tensor)
            if source is None:
                continue
            if i in floats and source in floats:
                root[find(i)] = find(source)
            elif i in floats and kernels[source].state in (CONVERT, INT8):
                before.add(i)
            elif source in floats and kernel.state in (CONVERT, INT8):
                behind.add(source)
    regions: dict[int, list[int]] = {}
    for i in sorted(floats):
        regions.setdefault(find(i), []).append(i)
    return [
        sorted(kernels[i].op for i in members if not kernels[i].moves)
        for members in regions.values()
        if before & set(members) and behind & set(members) and any(not kernels[i].moves for i in members)
    ]
