"""What a device could do at most, from its profile's facts: multiply-accumulates and bytes a second, by runtime and precision.

A prediction for a device that nobody measured stands on these; for one that was measured they only bring devices
together. Cores are counted from the profile's ``cpu`` fact; operations per cycle are their makers' (Arm Software
Optimization Guides of the cores named; a fused multiply-add counts as one multiply-accumulate).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench.errors import nearest
from bench.types import Fact, Profile

LANES = (
    (r"silver", 4), (r"x[1-4]\b|x925|oryon", 16), (r"a7[5-8]|a7[12]0|a71[05]|carmel|kryo ?[3-9]|neoverse|denver|cores", 8),
    (r"a5[1-9]|a520|a7[23]|kryo", 4),
)  # fmt: skip
"""32-bit multiply-accumulates a cycle: vector pipes times four lanes."""
DOT = re.compile(r"a55|a7[6-8]|a7[12]0|a71[05]|x[1-4]\b|x925|oryon|kryo ?(48|5|6)|neoverse|a5[12]0", re.I)
"""Cores with the 8-bit dot product (FEAT_DotProd), four times the 32-bit rate; others do twice that rate."""
CPU_RUNTIMES = ("litert", "litert-1", "litert-xnnpack", "onnxruntime", "armnn", "ncnn", "openvino", "executorch", "tensorflow",
                "torch-compile")  # fmt: skip
NPU_RUNTIMES = ("litert-npu", "qnn", "onnxruntime-npu", "litert-nnapi", "edgetpu")
_CPUS = ("arm-cpu", "x86-cpu", "phone", "edge-gpu")
_CARDS = ("edge-gpu", "server-gpu")
KINDS_OF: dict[str, tuple[str, ...]] = {
    "onnxruntime": (*_CPUS, "server-gpu"), "torch": (*_CPUS, "server-gpu"), "torch-compile": ("x86-cpu", "arm-cpu"),
    "litert": (*_CPUS, "edge-asic"), "litert-1": _CPUS, "litert-xnnpack": _CPUS, "openvino": ("x86-cpu", "arm-cpu"), "executorch": _CPUS,
    "armnn": ("arm-cpu", "edge-gpu", "phone"), "ncnn": _CPUS, "ncnn-vulkan": (*_CARDS, "phone"), "tensorrt": _CARDS, "tensorrt-3": _CARDS,
    "edgetpu": ("edge-asic",), "qnn": ("phone",), "litert-npu": ("phone",), "litert-gpu": ("phone",), "litert-nnapi": ("phone",),
    "onnxruntime-npu": ("phone",),
}  # fmt: skip
"""Runtimes that are predicted, and the kinds of devices that have them."""
NO_TENSOR_CORES = ("ncnn-vulkan", "litert-gpu")
MICRO_GMACS = {"cpu": 10.0, "gpu": 5000.0, "npu": 2000.0}
"""A rate in the middle of each kind's devices."""
SHARED = 0.2
"""n threads do the work of n ** (1 - SHARED): fitted to ncnn on 1 to 12 cores of five boards."""


@dataclass(frozen=True)
class Rates:
    """``gmacs``: 10^9 multiply-accumulates a second at most; ``gbs``: 10^9 bytes a second of main memory.

    ``speed``: ``gmacs`` in the kind's own precision (FP16 of a GPU, float of a processor, INT8 of an NPU): launches do not
    get cheaper with narrower numbers.
    """

    gmacs: float
    gbs: float
    speed: float


@dataclass(frozen=True)
class Cores:
    """``count`` equal cores of one kind."""

    count: int
    kind: str
    ghz: float

    @property
    def lanes(self) -> int:
        return next((n for pattern, n in LANES if re.search(pattern, self.kind, re.I)), 8)


def clusters(text: str) -> list[Cores]:
    """``"1x A76 2.84 + 3x A76 2.42 + 4x A55 1.78GHz"`` as cores, the fastest first; empty where it says nothing."""
    found = []
    for part in text.split("+"):
        match = re.search(r"(\d+)\s*(?:x\s*|(?=cores))(.*)", part.strip())
        clocks = re.findall(r"(\d+(?:\.\d+)?)(?=\s*(?:GHz|\b))", match[2]) if match else []
        clocks = [float(c) for c in clocks if 0.3 <= float(c) <= 6.5 and "." in c]
        if match:
            found.append(Cores(int(match[1]), match[2], max(clocks) if clocks else 0.0))
    last = next((c.ghz for c in reversed(found) if c.ghz), 0.0)
    found = [Cores(c.count, c.kind, c.ghz or last) for c in found]
    return sorted((c for c in found if c.ghz), key=lambda c: -c.ghz * c.lanes)


def number(facts: dict[str, Fact], name: str) -> float | None:
    """A fact as a number; None where it is absent or no number."""
    value = facts[name].value if name in facts else None
    if isinstance(value, list):
        value = value[-1]
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def on_cpu(profile: Profile, runtime: str) -> bool:
    """Does the runtime compute on the processor of this device? A card has none of its own."""
    if profile.kind in ("server-gpu", "edge-asic"):
        return False
    return runtime in CPU_RUNTIMES or (runtime == "torch" and profile.kind in ("arm-cpu", "x86-cpu", "phone"))


def named(profile: Profile, runtime: str) -> str:
    """The runtime that predictions know it as: LiteRT on an accelerator's board is the accelerator's."""
    return "edgetpu" if profile.kind == "edge-asic" and runtime == "litert" else runtime


def suited(profile: Profile, runtime: str) -> tuple[str, str, str] | None:
    """Why a device has no such runtime: what, found, what to do; None where it has."""
    if runtime not in KINDS_OF:
        close = nearest(runtime.lower(), KINDS_OF)
        return f"There is no runtime {runtime!r} that is predicted", "", close
    if profile.kind in KINDS_OF[runtime]:
        return None
    able = ", ".join(r for r, kinds in KINDS_OF.items() if profile.kind in kinds)
    return (
        f"{profile.name} has nothing that {runtime} runs on",
        f"it is of the kind {profile.kind}",
        f"Predicted for it: {able}",
    )


def plain(profile: Profile, mode: str) -> str:
    """The name of a power mode, or nothing where that mode holds nothing back: what most publications measured in."""
    settings = next((m for m in profile.power_modes if m["name"] == mode), {})
    limits = [key for key in settings if key.endswith("mhz")]
    fewer = [
        key
        for key in ("cpu_cores", "gpu_tpcs")
        if settings.get(key, 0) < (number(profile.facts, key) or 0) and key in settings
    ]
    return mode if limits or fewer else ""


def kind_of(profile: Profile, runtime: str) -> str:
    """``cpu``, ``gpu`` or ``npu``: what computes when this device uses this runtime."""
    if on_cpu(profile, runtime):
        return "cpu"
    return "npu" if runtime in NPU_RUNTIMES or profile.kind == "edge-asic" else "gpu"


def rates(profile: Profile, runtime: str, precision: str, threads: int = 1, mode: str = "") -> Rates | None:
    """What the device could do at most; None where its facts do not say.

    ``threads`` 0 means all cores. ``mode`` is the name of a power mode: its clocks and cores count.
    """
    settings = next((m for m in profile.power_modes if m["name"] == mode), {})
    bandwidth = number(profile.facts, "memory_bw_gbs") or 12.8
    if settings.get("memory_mhz"):
        bandwidth *= min(1.0, settings["memory_mhz"] / _memory_mhz(profile, bandwidth))
    if on_cpu(profile, runtime):
        gmacs, speed = (_cpu(profile, p, threads, settings) for p in (precision, "fp32"))
    elif kind_of(profile, runtime) == "npu":
        gmacs, speed = (_npu(profile, p) for p in (precision, "int8"))
    else:
        gmacs, speed = (_gpu(profile, runtime, p, settings) for p in (precision, "fp16"))
    return Rates(gmacs, bandwidth, speed) if gmacs and speed else None


def _memory_mhz(profile: Profile, bandwidth: float) -> float:
    """The highest memory clock: that of the widest bus which gives the bandwidth and is no slower than a mode's clock.

    Modes that hold nothing back do not list theirs: 2,133 MHz on 256 bits give an AGX Xavier's 136.5 GB/s.
    """
    listed = max(m.get("memory_mhz", 0.0) for m in profile.power_modes)
    clocks = [bandwidth * 4000 / bits for bits in (512, 256, 128, 64, 32)]
    return next((clock for clock in clocks if clock >= 0.98 * listed), listed)


def _cpu(profile: Profile, precision: str, threads: int, settings: dict[str, float]) -> float | None:
    text = profile.facts["cpu"].value if "cpu" in profile.facts else ""
    peak, count = number(profile.facts, "peak_fp32_tflops"), number(profile.facts, "cpu_cores")
    cores = clusters(text)
    nameless = bool(cores) and cores[0].kind.startswith("cores")
    if (profile.kind == "x86-cpu" or nameless) and peak and count:
        busy = min(threads or count, count)
        total = peak * 1000 / 2 / count * busy ** (1 - SHARED)
        return float(total * (_x86_int8(profile) if precision == "int8" else 1.0))
    if not cores:
        return None
    left = threads or int(settings.get("cpu_cores", 0)) or sum(c.count for c in cores)
    if settings.get("cpu_cores"):
        left = min(left, int(settings["cpu_cores"]))
    total, slowest, busy = 0.0, 0.0, 0
    for cluster in cores:
        used = min(left, cluster.count)
        clock = min(cluster.ghz, settings.get("cpu_mhz", 1e9) / 1000)
        faster = {"int8": 4.0 if DOT.search(cluster.kind) else 2.0, "fp16": 2.0}.get(precision, 1.0)
        each = clock * cluster.lanes * faster
        total, busy, left = total + used * each, busy + used, left - used
        slowest = each if used else slowest
    # Work is shared out evenly in some runtimes, by speed in others: between waiting for the slowest core and for none.
    return math.sqrt(total * slowest * busy) * math.pow(busy, -SHARED)


def _x86_int8(profile: Profile) -> float:
    single, whole = number(profile.facts, "peak_fp32_tflops"), number(profile.facts, "peak_int8_tops_dense")
    return whole / single if single and whole else 2.0


def _gpu(profile: Profile, runtime: str, precision: str, settings: dict[str, float]) -> float | None:
    single = number(profile.facts, "peak_fp32_tflops")
    if not single:
        return None
    half = number(profile.facts, "peak_fp16_tflops") or single
    whole = number(profile.facts, "peak_int8_tops_dense") or max(half, single)
    if runtime in NO_TENSOR_CORES:
        peak = single * (2 if precision == "fp16" else 1)
    else:
        peak = {"int8": max(whole, half), "fp16": max(half, single)}.get(precision, single)
    clock, top = settings.get("gpu_mhz"), number(profile.facts, "gpu_clock_mhz")
    if clock and top and clock > 0:
        peak *= min(1.0, clock / top)
    tpcs, all_tpcs = settings.get("gpu_tpcs"), number(profile.facts, "gpu_tpcs")
    if tpcs and all_tpcs:
        peak *= tpcs / all_tpcs
    return peak * 500.0


def _npu(profile: Profile, precision: str) -> float | None:
    whole = number(profile.facts, "peak_int8_tops_dense")
    if whole:
        return whole * 500.0 * (1.0 if precision == "int8" else 0.5)
    half = number(profile.facts, "peak_fp16_tflops")  # of the GPU: the accelerator of a chip grows with it
    return half * 500.0 * (4.0 if precision == "int8" else 1.0) if half else None
