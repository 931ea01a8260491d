"""Why something is not faster: causes that the records of a run support, in words.

A cause is named with its count, so that a reader can weigh it; none is made up where nothing was recorded.
"""

from __future__ import annotations

import json

from bench.types import Json, Quantity
from reports import text
from reports.rows import Row

LAUNCH_US = 2.0
"""An operator call of less than this is mostly the cost of calling it (0.3 us for an empty kernel of ONNX Runtime)."""

SHORT_MS = 0.1
"""Calls of less than this are mostly overhead, whatever their number of operators."""

NOTICEABLE = 0.1
"""Operators that are fewer than this share of all calls do not explain a lost gain."""

CALLING = "the cost of calling"
NAMED = 4
_SIMD = ("avx2", "avx512", "avx_vnni", "amx", "neon", "asimd")
_INT8_DOT = ("vnni", "amx_int8", "amx-int8", "asimddp", "dotprod")
_HALF = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fphp", "asimdhp"),
}
"""Names of the CPU's own arithmetic in a precision (Linux, /proc/cpuinfo)."""


RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert"}
"""Whose view of a file its recorded graph is."""
WEBASSEMBLY = ("browser",)
"""Their instructions are WebAssembly's, whatever the CPU has (WebAssembly specification, *Vector Instructions*: ``i32x4.dot_i16x8_s``)."""
NOT_ON_CPUS = ("tensorrt", "tensorrt-dla", "browser-webgpu")
"""What the CPU cannot do does not slow these."""
PORTABLE = ("layers", "macs", "odd_layers", "odd_channels")
"""What holds on every runtime."""


def facts_of(facts: Json, fmt: str, runtime: str) -> Json:
    """What of a file's recorded graph holds on ``runtime``; nothing where it could not be read."""
    if "error" in facts or not facts:
        return {}
    own = RUNTIMES.get(fmt) == runtime
    return dict(facts) if own else {k: facts[k] for k in PORTABLE if k in facts}


def causes(row: Row, base: Row, facts: Json, before: Json) -> list[str]:
    """Likely reasons why ``row`` is not faster than ``base``, the most specific first.

    Args:
        facts, before: what their artifacts' records say of their graphs (:func:`compress.speed.facts.graph_facts`); empty
            where nothing was recorded.
    """
    precision = row.cell.precision
    said = _machine_causes(row, precision)
    latency = row.metrics["latency_ms"]
    said += graph_causes(facts, before, precision, latency, NOTICEABLE)
    before_ms = base.metrics["latency_ms"].value
    values = [v for v in (latency.value, before_ms) if v is not None]
    if not any(s.endswith(CALLING) for s in said) and len(values) == 2 and max(values) < SHORT_MS:
        said.append(f"calls this short (under {SHORT_MS} ms) are mostly overhead")
    return said


def _machine_causes(row: Row, precision: str) -> list[str]:
    """What the notes of a cell and its machine explain."""
    said = []
    notes = " ".join(str(n) for n in row.record.get("notes") or ()).lower()
    if "fell back" in notes or "fallback" in notes:
        said.append("some operations fell back to float")
    environment = row.record.get("environment") or {}
    machine = json.dumps(environment, default=str).lower()
    if precision == "int8" and row.cell.runtime in WEBASSEMBLY:
        said.append("WebAssembly's SIMD has no int8 dot product: 8-bit values are widened to 16 bits first")
    elif (
        precision == "int8"
        and row.cell.runtime not in NOT_ON_CPUS
        and any(s in machine for s in _SIMD)
        and not any(s in machine for s in _INT8_DOT)
    ):
        said.append("this CPU has no int8 dot-product instructions (VNNI, AMX or dotprod)")
    # only torch is known to use such arithmetic where the CPU has it (oneDNN's AVX-512 and AMX kernels)
    has = set((environment.get("cpu") or {}).get("features") or ()) & set(_HALF.get(precision, ()))
    known = row.cell.runtime == "torch" and has
    if precision in _HALF and row.cell.host == "local" and not environment.get("gpus") and not known:
        said.append(f"this CPU path stores {precision} and may compute in fp32")
    return said


def graph_causes(
    facts: Json, before: Json, precision: str, latency: Quantity, least: float = 0.0
) -> list[str]:
    """What a graph's facts explain. ``least``: the share of all operator calls below which one is not worth a word.

    ``latency`` is that of one call in ms; ``before`` are the facts of what the file was made from, empty where unknown.
    """
    kernels = facts.get("kernels") or 0
    said = []
    if latency.value is not None and 1e3 * latency.value < LAUNCH_US * kernels:
        each = 1e3 * latency.value / kernels
        said.append(f"{kernels} operator calls take {each:.1f} µs each: mostly {CALLING}")
    said += _int8_causes(facts, kernels, least) if precision == "int8" else []
    outside, parts = facts.get("outside") or {}, facts.get("parts") or 1
    if sum(outside.values()) > least * kernels:
        counted = f"{text.plural(sum(outside.values()), 'operator')} outside XNNPACK ({_counts(outside)})"
        said.append(f"{counted} cut the graph into {text.plural(parts, 'part')}")
    said += _width_causes(facts, before)
    return said + _call_causes(facts, before, kernels, least)


def _call_causes(facts: Json, before: Json, kernels: int, least: float) -> list[str]:
    """What the number of operator calls explains."""
    said = []
    changes, earlier = facts.get("layout_changes") or 0, before.get("layout_changes") or 0
    if changes - earlier > least * kernels and changes > earlier:
        against = f", {earlier} in what it was made from" if before else ""
        said.append(f"{changes} of {kernels} operator calls change the layout{against}")
    if before.get("kernels") and kernels > (1.0 + NOTICEABLE) * before["kernels"]:
        said.append(f"there are {kernels} operator calls, {before['kernels']} in what it was made from")
    return said


def _int8_causes(facts: Json, kernels: int, least: float) -> list[str]:
    said = []
    layers, integer = facts.get("layers") or 0, facts.get("int8_layers")
    if integer is not None and integer < layers:
        said.append(f"only {integer} of {text.plural(layers, 'layer')} run in int8")
    unfused = facts.get("unfused_qdq") or 0
    if unfused > least * kernels:
        said.append(
            f"{unfused} of {kernels} operator calls are quantize or dequantize nodes that did not fuse"
        )
    regions, ops = facts.get("float_islands") or 0, facts.get("island_ops") or {}
    if sum(ops.values()) > least * kernels:
        said.append(
            f"{text.plural(regions, 'float island')} {'lies' if regions == 1 else 'lie'} between int8 operators ({_counts(ops)})"
        )
    return said


def _width_causes(facts: Json, before: Json) -> list[str]:
    """Odd widths that what it was made from does not have: nothing else explains a difference between the two."""
    known = {tuple(o[:2]) for o in before.get("odd_channels") or ()}
    odd = [o for o in facts.get("odd_channels") or () if tuple(o[:2]) not in known]
    if not odd:
        return []
    named = ", ".join(f"{name} {width} -> {near}" for name, width, near in odd[:NAMED])
    count = max(len(odd), (facts.get("odd_layers") or 0) - len(known))
    more = f" and {count - NAMED} more" if count > NAMED else ""
    return [f"channel counts are no multiple of 8 ({named}{more})"]


def _counts(ops: Json) -> str:
    """``28 HardSigmoid, 10 ReduceMean``."""
    shown = list(ops.items())[:NAMED]
    return ", ".join(f"{n} {op}" for op, n in shown) + (", ..." if len(ops) > NAMED else "")
