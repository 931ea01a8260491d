"""Which layer of a file each operator of a runtime's profile computes, and in which arithmetic."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

from bench.types import Json
from compress.speed.facts import CONVERT, FLOAT, INT8, LAYOUT, Graph, Kernel

XNNPACK_LAYERS = ("Convolution", "Deconvolution", "Fully Connected", "Batch Matrix Multiply")
"""How XNNPACK's operators begin that compute a layer; a 1 x 1 convolution becomes Fully Connected."""
XNNPACK_OPS = {
    "Add": ("ADD",),
    "Multiply": ("MUL",),
    "Subtract": ("SUB",),
    "Mean": ("MEAN", "AVERAGE_POOL_2D"),
    "Average Pooling": ("AVERAGE_POOL_2D",),
    "Max Pooling": ("MAX_POOL_2D",),
    "Convert": ("QUANTIZE", "DEQUANTIZE"),
    "HardSwish": ("HARD_SWISH",),
    "Sigmoid": ("LOGISTIC",),
    "Softmax": ("SOFTMAX",),
    "Constant Pad": ("PAD",),
    "Transpose": ("TRANSPOSE",),
}
OPENVINO_CONVERSIONS = ("FakeQuantize", "Convert")
OPENVINO_SUFFIX = "/WithoutBiases"
OPENVINO_LAYOUTS = ("Reorder", "Transpose")


def match(graph: Graph, runtime: str, rows: Sequence[Json]) -> list[Kernel]:
    """The operator behind each row of a profile (``name``, ``op`` and what else the runtime says of it), in their order.

    An operator that is not found again in the file has no layer, and its own name.
    """
    if runtime == "onnxruntime":
        return _onnxruntime(graph, rows)
    return _litert(graph, rows) if runtime == "litert" else _openvino(graph, rows)


def _onnxruntime(graph: Graph, rows: Sequence[Json]) -> list[Kernel]:
    """By name; nameless ones, which the profile numbers, by kind and order."""
    named = {k.name: k for k in graph.kernels if k.name}
    nameless: dict[str, deque[Kernel]] = defaultdict(deque)
    for each in graph.kernels:
        if not each.name:
            nameless[each.op].append(each)
    found = []
    for row in rows:
        kernel: Kernel | None = named.get(row["name"])
        if kernel is None and nameless[row["op"]]:
            kernel = nameless[row["op"]].popleft()
        plain = Kernel(row["name"], row["op"], FLOAT, (), ())
        found.append(replace(kernel, name=row["name"], op=row["op"]) if kernel else plain)
    return found


def _openvino(graph: Graph, rows: Sequence[Json]) -> list[Kernel]:
    """By the node that an operator was made of, or the tensor that it makes; the kernel's name ends in its arithmetic
    (``brgconv_avx512_I8``)."""
    layers = {name: k.layer for k in graph.kernels if k.layer for name in (*k.results, k.layer.node) if name}
    found = []
    for row in rows:
        if row["op"] in OPENVINO_CONVERSIONS:
            state = CONVERT
        elif row["op"] in OPENVINO_LAYOUTS:
            state = LAYOUT
        else:
            state = INT8 if row.get("kernel", "").upper().endswith(("I8", "U8")) else FLOAT
        name = row["name"].removesuffix(OPENVINO_SUFFIX)  # PyTorch's own names have slashes as well
        found.append(Kernel(name, row["op"], state, (), (), layers.get(name)))
    return found


def _kind(op: str) -> tuple[str, ...]:
    """The operators of a file that an operator of XNNPACK or of LiteRT itself may come from; none: fused to the one before."""
    name = op.partition(" (")[0]
    return XNNPACK_OPS.get(name, (op,) if op.isupper() else ())


def _litert(graph: Graph, rows: Sequence[Json]) -> list[Kernel]:
    """By order: the delegate keeps that of the file. Kinds whose counts differ are left without a layer."""
    is_layer = [row["op"].startswith(XNNPACK_LAYERS) for row in rows]
    layers = deque(k for k in graph.kernels if k.layer)
    if len(layers) != sum(is_layer):
        layers.clear()
    others: dict[str, deque[Kernel]] = defaultdict(deque)
    for kernel in graph.kernels:
        others[kernel.op].append(kernel)
    found: list[Kernel] = []
    last: Kernel | None = None
    for row, layer in zip(rows, is_layer, strict=True):
        source: Kernel | None = None
        if layer:
            source = layers.popleft() if layers else None
        else:
            source = next((others[k].popleft() for k in _kind(row["op"]) if others[k]), None)
        near = source or (None if layer else last)
        name = near.name if near else row["op"]
        state = _xnnpack_state(row["op"], near.state if near else FLOAT)
        found.append(Kernel(name, row["op"], state, (), (), source.layer if source and layer else None))
        last = source or last
    return found


def _xnnpack_state(op: str, default: str) -> str:
    """An operator's arithmetic where its name says it (``QC8``, ``QS8``, ``F32``), else that of its tensors in the file."""
    if op.startswith("Convert") or op in ("QUANTIZE", "DEQUANTIZE"):
        return CONVERT
    if re.search(r"\bQ[SCUD]+8", op):
        return INT8
    return FLOAT if re.search(r"\bF(32|16)\b", op) else default
