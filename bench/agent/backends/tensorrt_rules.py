"""What TensorRT is told, by its version: flags of the builder and of ``trtexec``. Pure; nothing is imported.

After NVIDIA's documentation, "Migrating from TensorRT 10.x to 11.x" (Python, trtexec; weak typing is gone), "Migrating trtexec
Usage from TensorRT 8.x to 10.x", "Working with DLA" of 11.4.1 (which releases have it), and samples/common/sampleOptions.cpp of
NVIDIA/TensorRT, 8.2 to 11.1.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

NAMED_TENSORS = (8, 5)
"""The first Python API with named tensors and ``execute_async_v3``."""
LAST_DLA, DLA_AGAIN = (10, 7), (11, 4, 1)
_NONE: Tuple[str, ...] = ()
PRECISIONS = ("fp32", "fp16", "int8")
_CODE = re.compile(r"TensorRT\.trtexec \[TensorRT v([0-9]{4,6})\]")
_ON_DLA = "Layers Running on DLA"
_FELL_BACK = ("Switching this layer's device type to GPU", "falling back to GPU", "device type to GPU")


class Rules(NamedTuple):
    """``network`` and ``builder`` name flags of ``NetworkDefinitionCreationFlag`` and ``BuilderFlag``."""

    network: Tuple[str, ...]
    builder: Tuple[str, ...]
    trtexec_build: Tuple[str, ...]
    trtexec_run: Tuple[str, ...]
    note: str


def parts(version: str) -> Tuple[int, ...]:
    """``10.3.0`` as numbers; what follows them is left out."""
    return tuple(int(p) for p in re.findall(r"[0-9]+", version)[:4])


def dla_core(device: str) -> Optional[int]:
    """The core of ``dla0`` or ``dla1``; None for the GPU."""
    return int(device[3:]) if re.fullmatch("dla[0-9]", device) else None


def has_dla(version: str) -> bool:
    """Does this release drive a DLA at all?"""
    number = parts(version)
    return number[:2] <= LAST_DLA or number >= DLA_AGAIN


def refusal(version: str, precision: str, device: str) -> str:
    """Why this is not built, or an empty string."""
    number = parts(version)
    if not number or number[0] < 8:
        return "TensorRT %s is not supported; 8 (JetPack 4.6) or newer is" % (version or "of unknown version")
    if precision not in PRECISIONS:
        return "tensorrt does not run %s" % precision
    if device != "cuda" and dla_core(device) is None:
        return "tensorrt runs on NVIDIA GPUs (cuda) and DLAs (dla0, dla1), not on %s" % device
    if dla_core(device) is None:
        return ""
    if not has_dla(version):
        return (
            "TensorRT %s drives no DLA: 10.7 was the last before 11.4.1 (NVIDIA, Working with DLA)" % version
        )
    if precision == "fp32":
        return "a DLA computes in FP16 and INT8, not in FP32"
    if precision == "int8" and number[0] < 11:
        return (
            "the DLA of TensorRT %s takes no explicit quantization (QDQ), and that is how INT8 files are made here"
            % (version)
        )
    return ""


def rules(version: str, precision: str, device: str = "cuda") -> Rules:
    """The flags for a version, precision and device that :func:`refusal` lets pass."""
    major = parts(version)[0]
    builder = {"fp16": ("FP16",), "int8": ("INT8",)}.get(precision, _NONE) if major < 11 else _NONE
    network: Tuple[str, ...]
    note = "precision as in the ONNX file (strongly typed)"
    if major < 9:
        network, build = ("EXPLICIT_BATCH",), ["--explicitBatch", "--buildOnly"]
    elif major < 11 and precision == "int8":
        network, builder, build = ("STRONGLY_TYPED",), _NONE, ["--stronglyTyped", "--skipInference"]
    else:
        network, build = _NONE, ["--skipInference"]
    if builder:
        note = "%s allowed by builder flag; the rest is FP32" % precision.upper()
    elif precision == "fp32":
        note = "FP32; GPUs from Ampere on may compute it in TF32 (TensorRT's default)"
    build += ["--%s" % flag.lower() for flag in builder]
    core = dla_core(device)
    run = ["--noCudaGraph"] if major > 10 else ["--noDataTransfers", "--useSpinWait"]
    if core is not None:
        builder += ("GPU_FALLBACK",)
        build += ["--useDLACore=%d" % core, "--allowGPUFallback"]
        run += ["--useDLACore=%d" % core]
    return Rules(network, builder, tuple(build), tuple(run), note)


def version_of(banner: str) -> str:
    """The version in the first line of trtexec: v8601 is 8.6.1, since 10 v100300 is 10.3.0; empty where it has none."""
    match = _CODE.search(banner)
    if match is None:
        return ""
    code = int(match[1])
    if code < 10_000:
        return "%d.%d.%d" % (code // 1000, code // 100 % 10, code % 100)
    return "%d.%d.%d" % (code // 10_000, code // 100 % 100, code % 100)


def placement(messages: Iterable[str]) -> Dict[str, Union[int, List[str]]]:
    """What the builder's messages say of a DLA: chains of layers there, layers on the GPU, and those that fell back."""
    counts = {"[DlaLayer]": 0, "[GpuLayer]": 0}
    fell_back: List[str] = []
    told = False
    for line in messages:
        told = told or _ON_DLA in line
        for mark in counts:
            counts[mark] += mark in line
        if any(words in line for words in _FELL_BACK):
            fell_back.append(line.strip()[:200])
    if not told:
        return {}
    return {"on_dla": counts["[DlaLayer]"], "on_gpu": counts["[GpuLayer]"], "fell_back": fell_back}
