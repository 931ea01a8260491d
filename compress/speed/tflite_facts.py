"""A TFLite file as LiteRT executes it: its operators, and which of them the XNNPACK delegate takes.

What the delegate does not take runs in LiteRT's own kernels, and the graph falls into parts around it.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from bench.errors import missing_extra
from compress.speed.facts import CONVERT, FLOAT, INT8, LAYOUT, Graph, Kernel, Layer

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL")
LAYERS = (*CONVOLUTIONS, *PRODUCTS)
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")
MOVES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "SLICE", "STRIDED_SLICE", "SHAPE", "PACK")
FLOATS = ("FLOAT32", "FLOAT16")
"""Number formats in which nothing is quantized."""


def read(path: Path) -> Graph:
    """See :func:`compress.speed.facts.read_graph`. The first subgraph counts: classifiers have no other.

    Raises:
        MissingError: LiteRT is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise missing_extra("ai-edge-litert", "litert", "reading a TFLite file") from error
    graph = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    types, operators = _names(schema.TensorType), _names(schema.BuiltinOperator)
    main = graph.subgraphs[0]
    kernels = []
    for op in main.operators:
        kind = operators[graph.operatorCodes[op.opcodeIndex].builtinCode]
        kernels.append(_kernel(graph, main, op, kind, types))
    shown = tuple(k for k in kernels if k is not None)
    ends = {_name(main, i) for i in main.inputs}, {_name(main, i) for i in main.outputs}
    unfused = sum(
        k.state == CONVERT and not ends[0] & set(k.sources) and not ends[1] & set(k.results) for k in shown
    )
    outside, parts = _outside(path)
    return Graph(tuple(k.layer for k in shown if k.layer), shown, unfused, outside, parts)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _name(main: Any, index: int) -> str:
    """Tensors of one file may share a name; its number makes it unique."""
    return f"{index} {main.tensors[index].name.decode(errors='replace')}"


def _is_constant(graph: Any, main: Any, index: int) -> bool:
    data = graph.buffers[main.tensors[index].buffer].data
    return data is not None and len(data) > 0


def _kernel(graph: Any, main: Any, op: Any, kind: str, types: dict[int, str]) -> Kernel | None:
    """An operator with its state; None for a constant's conversion, which is done once, when the file is loaded."""
    given = [i for i in op.inputs if i >= 0]
    moving = [i for i in given if not _is_constant(graph, main, i)]
    if kind in CONVERSIONS and not moving:
        return None
    data = types[main.tensors[moving[0] if moving else given[0]].type]
    if kind in CONVERSIONS:
        state = CONVERT
    elif kind == "TRANSPOSE":
        state = LAYOUT
    else:
        state = FLOAT if data in FLOATS else INT8
    layer = _layer(main, op, kind) if kind in LAYERS else None
    return Kernel(
        layer.name if layer else short_name(main.tensors[op.outputs[0]].name.decode(errors="replace")),
        kind,
        state,
        tuple(_name(main, i) for i in moving),
        tuple(_name(main, i) for i in op.outputs),
        layer,
        kind in MOVES,
    )


def _layer(main: Any, op: Any, kind: str) -> Layer:
    """A layer from the shapes of its weights and of its output (N x H x W x C, batch 1)."""
    weight, result = main.tensors[op.inputs[1]], main.tensors[op.outputs[0]]
    shape, made = ([int(d) for d in t.shape] if t.shape is not None else [] for t in (weight, result))
    name = short_name(weight.name.decode(errors="replace")) or short_name(
        result.name.decode(errors="replace")
    )
    pixels = prod(made[1:3]) if len(made) == 4 else 1
    if kind == "DEPTHWISE_CONV_2D":  # weights 1 x kh x kw x C; of one channel it is an ordinary convolution
        inputs = int(main.tensors[op.inputs[0]].shape[3])
        each = inputs == shape[3] > 1
        return Layer(name, kind, pixels * prod(shape), inputs, shape[3], (shape[1], shape[2]), depthwise=each)
    if kind in CONVOLUTIONS:  # weights O x kh x kw x I
        macs = pixels * prod(shape)
        return Layer(name, kind, macs, shape[3], shape[0], (shape[1], shape[2]))
    return Layer(
        name,
        kind,
        prod(made) * (shape[-1] if shape else 0),
        shape[-1] if shape else 0,
        made[-1] if made else 0,
    )


def short_name(name: str) -> str:
    """``stage1.0.main.0`` of the path of modules that litert_torch writes; the end of other names; empty for constants.

    A fused operator has the paths of all that were fused into it: the one of its convolution or linear layer counts that
    lies where the first path does.
    """
    if name.startswith("arith.constant"):
        return ""
    paths = [p for p in re.split(r";\d*", name) if p]
    if not paths:
        return name
    layers = [p for p in paths if re.search(r"\.(Conv|Linear)[^/]*$", p)] or paths[:1]
    best = max(layers, key=lambda p: _common(p, paths[0]))
    _, ours, inner = best.rpartition("_wrapped/")
    if not ours:
        return best[-60:]
    parts = [p.rpartition(".")[2].partition("_")[2] for p in inner.split("/")]
    return ".".join(p for p in parts if p) or best[-60:]


def _common(one: str, other: str) -> int:
    """How many parts of their paths agree from the start."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(one.count("/"), other.count("/")) + 1)


def _outside(path: Path) -> tuple[dict[str, int], int]:
    """Operators that the delegate does not take, and the number of parts it takes.

    After delegation the interpreter lists its own operators and the delegate's parts with their tensors; an operator outside
    makes a tensor that a part, the output or another operator outside reads.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    ops = interpreter._get_ops_details()
    parts = [op for op in ops if op["op_name"] == "DELEGATE"]
    made = {t: op for op in ops if op["op_name"] != "DELEGATE" for t in op["outputs"]}
    inside = {t for part in parts for t in part["outputs"]}
    wanted = [t for part in parts for t in part["inputs"]]
    wanted += [d["index"] for d in interpreter.get_output_details()]
    outside: dict[int, str] = {}
    while wanted:
        tensor = wanted.pop()
        op = made.get(tensor)
        if op is not None and tensor not in inside and op["index"] not in outside:
            outside[op["index"]] = op["op_name"]
            wanted.extend(op["inputs"])
    return dict(Counter(outside.values()).most_common()), len(parts)
