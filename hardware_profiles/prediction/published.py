"""Published measurements as rows that a model of latency can be fitted to: which series each belongs to, and what it is of.

A series is what one set of coefficients describes: device, runtime, precision, threads and power mode. Toolchain
versions within a series differ in a factor of their own.
"""

from __future__ import annotations

import lzma
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.prediction import zoo

FILE = Path(__file__).with_name("published.columns.xz")
"""A line for each column, its name first, with tabs between: a fifth smaller than lines of rows.

Values are as published; in the notes medians have 4 digits, least and largest values 3, counts of queries 2."""
RUNTIMES = (
    (r"tflite edgetpu", "edgetpu"), (r"tflite gpu", "litert-gpu"), (r"tflite nnapi", "litert-nnapi"),
    (r"TFLite .*xnnpack", "litert-xnnpack"), (r"TFLite v1\.", "litert-1"), (r"tflite", "litert"), (r"ArmNN", "armnn"),
    (r"ncnn-vulkan", "ncnn-vulkan"), (r"ncnn-cpu", "ncnn"),
    (r"torchscript_onnx_tflite", "litert-npu"), (r"torchscript_onnx_qnn|qnn_dlc", "qnn"), (r"torchscript_onnx$|onnx$", "onnxruntime-npu"),
    (r".*pt240 .* dynamo", "torch-compile"), (r"pytorch", "torch"), (r"tensorflow", "tensorflow"),
    (r"openvino", "openvino"), (r"onnxruntime v", "onnxruntime"),
    (r"roboflow|.*\(roboflow|.*gpu\+2dla|tvm|precompiled|qnn_context", ""), (r"tensorrt 3", "tensorrt-3"), (r".*tensorrt", "tensorrt"),
)  # fmt: skip
"""Runtimes by the first pattern that a published name starts with; an empty name is left out."""
PRECISIONS = {
    "fp32": "fp32", "tf32": "tf32", "fp16": "fp16", "fp16?": "fp16", "fp16-amp": "fp16", "int8": "int8", "w8a8": "int8",
    "float": "fp16", "float (gpu delegate, fp16 math)": "fp16", "int8,int8,fp16": "int8",
}  # fmt: skip
HALF = ("raspberry-pi-5", "jetson-agx-orin-cpu", "jetson-orin-nano-cpu", "jetson-orin-nx-cpu", "jetson-agx-xavier-cpu",
        "jetson-xavier-nx-cpu", "snapdragon-8gen2", "galaxy-s21", "galaxy-s23", "galaxy-s24", "galaxy-s25", "pixel-3", "pixel-4",
        "pixel-4a-5g", "apple-m1", "graviton2-n1")  # fmt: skip
"""Processors with half-precision arithmetic (Armv8.2-A FEAT_FP16), which ncnn uses where it is."""
FALLEN = "part of it ran on another processor than the runtime's"
FELL_BACK = {("ncnn-vulkan", "efficientnetv2_b0"), ("ncnn-vulkan", "vision_transformer")}
"""ncnn has had a Vulkan kernel for reductions since 2026-02 and for layer norms since 2025-09 (its history of src/layer/vulkan);
the rows are of 2020 to 2024."""
DISTURBED = 2
"""MLPerf's logs give both: such rows time what else ran on the board."""
ON_NPU = ("galaxy-s23", "galaxy-s24")

PROFILES = {
    "a100": "a100-sxm", "pixel-2": "pixel-2-xl",
    "snapdragon-8gen2": "galaxy-s23",
}  # fmt: skip
"""Devices of the table whose facts are another profile's; ``-cpu`` at the end of a name is the same board."""
FACTS = {
    "coral-devboard-cpu": ("arm-cpu", "4x Cortex-A53 1.5GHz", 3.6),
    "raspberry-pi-3b": ("arm-cpu", "4x Cortex-A53 1.2GHz", 3.6),
    "pixel-1": ("phone", "2x Kryo gold 2.15 + 2x Kryo silver 1.6GHz", 29.8),
    "pixel-xl": ("phone", "2x Kryo gold 2.15 + 2x Kryo silver 1.6GHz", 29.8),
}
"""Devices of the table without a profile: kind, cores, memory bandwidth in GB/s (product pages of NXP, Raspberry Pi Ltd and Qualcomm)."""


PACKING = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0, "depth": 1000}
"""For text, whose bytes follow from the byte before and stand anywhere (xz(1), LZMA2's options)."""


@dataclass(frozen=True)
class Series:
    """What one set of coefficients describes."""

    device: str
    runtime: str
    precision: str
    threads: int = 1
    mode: str = ""

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        mode = f", {self.mode}" if self.mode else ""
        return f"{self.device} / {self.runtime} / {self.precision}{threads}{mode}"


@dataclass(frozen=True)
class Row:
    """One published latency in milliseconds for ``batch`` images. ``model`` and ``size`` name a graph."""

    series: Series
    version: str
    model: str
    size: int
    batch: int
    ms: float
    source: str

    @property
    def family(self) -> str:
        return zoo.family(self.model)


def entries(path: Path = FILE) -> list[dict[str, str]]:
    """The table as it is: one dictionary for each published number."""
    with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
        columns = [line.rstrip("\n").split("\t") for line in file]
    names = [column[0] for column in columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*(c[1:] for c in columns), strict=True)]


def write_entries(table: Sequence[dict[str, str]], path: Path = FILE) -> None:
    """The inverse of :func:`entries`, for who adds rows; the order of columns decides the size. Raises ValueError for a value with a tab or a line's end in it."""
    lines = ["\t".join([name, *(entry[name] for entry in table)]) for name in table[0]]
    if any("\n" in line for line in lines) or len({line.count("\t") for line in lines}) > 1:
        raise ValueError("a value has a tab or a line's end in it")
    with lzma.open(path, "wt", encoding="utf-8", newline="\n", filters=[PACKING]) as file:
        file.write("\n".join(lines) + "\n")


def read(path: Path = FILE) -> tuple[list[Row], Counter[str]]:
    """The rows that name a net, a batch and a time, and why how many others were left out."""
    return rows_of(entries(path))


def rows_of(table: Iterable[dict[str, str]]) -> tuple[list[Row], Counter[str]]:
    rows: list[Row] = []
    left: Counter[str] = Counter()
    for entry in table:
        if entry["metric"] not in ("latency_ms", "throughput_ips"):
            continue
        row = _row(entry)
        if isinstance(row, Row):
            rows.append(row)
        else:
            left[row] += 1
    return rows, left


def _row(entry: dict[str, str]) -> Row | str:
    """A row, or why there is none."""
    if not entry["batch"].isdigit():
        return f"batch is {entry['batch'] or 'not stated'}"
    if not entry["input_size"] or float(entry["input_size"]) < 32:
        return "input size is not stated"
    runtime = next(
        (name for pattern, name in RUNTIMES if re.match(pattern, entry["runtime"], re.I)), "unknown"
    )
    if not runtime:
        return "several engines at once, or a server around the runtime"
    if "falls back to CPU" in entry["notes"]:
        return "INT8 that fell back to another processor"
    if (runtime, entry["canonical_model"]) in FELL_BACK:
        return FALLEN
    if _disturbed(entry["notes"]):
        return f"the median run took {DISTURBED} times the fastest, or more"
    device = entry["device_profile"]
    precision = _precision(entry["precision"], device, runtime)
    if runtime == "litert-xnnpack" and precision == "int8":
        runtime = "litert"  # MobileNet v1 took 2.62 ms with that delegate and 2.70 without, in float 37 and 7.5: it declined INT8
    if not precision:
        return f"precision is {entry['precision'] or 'not stated'}"
    if runtime == "litert" and device in ON_NPU:
        runtime = "litert-npu"
    if runtime in ("tensorflow", "unknown"):
        return "toolchain without a runtime of ours"
    if re.search(r"layers npu/gpu/cpu=(0/|\d+/\d+/[1-9]|\d+/[1-9])", entry["notes"]):
        return FALLEN
    batch, value = int(entry["batch"]), float(entry["value"])
    ms = value if entry["metric"] == "latency_ms" else 1000.0 * batch / value
    series = Series(device, runtime, precision, _threads(entry, runtime), mode(entry["power_mode"]))
    source = entry["source"].partition("@")[0].strip()
    host = re.search(r"\bhost=([\w+]+)", entry["notes"]) if runtime == "edgetpu" else None
    version = f"{entry['runtime']} on {host[1]}" if host else entry["runtime"]
    return Row(series, version, entry["canonical_model"], int(float(entry["input_size"])), batch, ms, source)


def _disturbed(notes: str) -> bool:
    median, least = re.search(r"\bp50=([\d.]+)", notes), re.search(r"\bmin=([\d.]+)", notes)
    return bool(median and least) and float(median[1]) > DISTURBED * float(least[1])  # type: ignore[index]


def _precision(text: str, device: str, runtime: str) -> str:
    if text.startswith("float(ncnn"):
        return "fp16" if runtime == "ncnn-vulkan" or device in HALF else "fp32"
    if runtime == "litert" and text == "fp16":
        return "fp32"  # weights are stored in 16 bits, the processor computes in 32
    return PRECISIONS.get(text, "")


def _threads(entry: dict[str, str], runtime: str) -> int:
    """Threads, where the row says so; 0: all cores, as harnesses that do not say use them."""
    found = re.search(r"\b(\d+)t\b", entry["runtime"]) or re.search(r"-(\d+)t$", entry["runtime"])
    if found:
        return int(found[1])
    if runtime in ("openvino", "torch-compile", "armnn", "onnxruntime"):
        return 0
    # XNNPACK's floats took what one thread of ncnn takes, TFLite 1.15 five times what later versions take.
    return 0 if runtime == "litert" and not entry["runtime"].startswith("tflite cpu") else 1


def mode(text: str) -> str:
    if not text or "MAXN" in text or "MaxP" in text:
        return ""
    found = re.search(r"MODE_\w+", text)
    return found[0] if found else text
