"""A first profile of a device from what was read on it. Pure: facts in, TOML text out.

Where the facts come from is no concern of this module: the same dict can be read here or over a network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hardware_profiles.check import HIDDEN, KEY

Facts = Mapping[str, Mapping[str, Any]]
"""Name -> ``{"value", "how"}``; see :func:`draft`."""

FEATURES_OF = {
    "fp16": {"asimdhp", "avx512_fp16", "amx_fp16"},
    "bf16": {"bf16", "avx512_bf16", "amx_bf16"},
}
"""CPU features, as in /proc/cpuinfo, that give a precision its arithmetic."""
VNNI = {"avx512_vnni", "avx_vnni"}
ORDER = (
    "cpu", "cpu_cores", "cpu_threads", "cpu_mhz", "cpu_features", "memory_gb", "gpu", "gpu_memory_gb", "gpu_clock_mhz",
    "compute_capability", "tdp_w", "chip", "jetson_linux", "gpu_driver",
)  # fmt: skip
MISSING = ("peak_fp32_tflops", "peak_fp16_tflops", "peak_int8_tops_dense", "memory_bw_gbs", "tdp_w")
CLOCKS = ("cpu_mhz", "gpu_mhz", "memory_mhz", "dla_mhz")
COUNTS = ("id", "cpu_cores", "gpu_tpcs")


def draft(name: str, facts: Facts, host: str = "local") -> str:
    """The text of a valid profile called ``name``.

    Args:
        facts: a fact's name -> ``{"value": ..., "how": ...}``, where ``how`` ends the sentence "read on the device
            with ...". ``device``, ``arch``, ``cpu_features``, ``compute_capability`` and ``chip`` decide the kind of
            device, its precisions and INT8 scheme; ``power_modes`` is a list of tables as in a profile. All others
            are written down as they are; what is no number, text or list of them is left out.
        host: how the device is reached, as a profile has it.
    """
    said = {key: fact["value"] for key, fact in facts.items()}
    kind, runtimes = _kind(said)
    title = _clean(str(said.get("device") or said.get("cpu") or name), 120)
    lines = [
        f"# {title}: a draft, from what was read on the device.",
        "schema = 1",
        f"name = {_toml(name)}",
        f"title = {_toml(title)}",
        f'kind = "{kind}"',
        f"host = {_toml(host)}",
        f"runtimes = {_toml(runtimes)}",
        f"precisions = {_toml(_precisions(kind, said))}",
        f'int8_scheme = "{_scheme(kind, said)}"',
        "",
        "[protocol]",
        "batches = [1]",
        f"threads = {[1, 4] if kind == 'arm-cpu' else [1]}",
        "",
        "[facts]",
        *(_fact_line(key, facts[key]) for key in _written(facts)),
        "# What no device says of itself. Add what you know, each with its source:",
        *(f'# {key} = {{ value = 1.0, source = "..." }}' for key in MISSING if key not in facts),
    ]
    modes = facts.get("power_modes", {"value": [], "how": ""})
    for mode in modes["value"]:
        lines += _mode_lines(mode, modes["how"])
    return "\n".join(lines) + "\n"


def _kind(said: Mapping[str, Any]) -> tuple[str, list[str]]:
    if "chip" in said:
        return "edge-gpu", ["tensorrt"]
    if "gpu" in said:
        return "server-gpu", ["tensorrt", "onnxruntime", "torch"]
    if str(said.get("arch", "")).startswith(("aarch64", "arm")):
        return "arm-cpu", ["onnxruntime", "litert"]
    return "x86-cpu", ["onnxruntime", "openvino", "litert", "torch", "executorch"]


def _precisions(kind: str, said: Mapping[str, Any]) -> list[str]:
    """TensorRT's support matrix by compute capability; for a CPU, what it has arithmetic for."""
    if not kind.endswith("gpu"):
        return ["fp32", *(p for p, wanted in FEATURES_OF.items() if wanted & _features(said)), "int8"]
    capability = _capability(said)
    return [
        "fp32",
        *(["tf32"] if capability >= 8.0 else []),
        "fp16",
        # no source of ours lists it for Orin (8.7)
        *(["bf16"] if capability >= (8.0 if kind == "server-gpu" else 9.0) else []),
        *(["int8"] if capability >= 6.1 and capability != 6.2 else []),
        *(["fp8"] if capability >= 8.9 else []),
    ]


def _features(said: Mapping[str, Any]) -> set[str]:
    found = said.get("cpu_features")
    return {f for f in found if isinstance(f, str)} if isinstance(found, list) else set()


def _capability(said: Mapping[str, Any]) -> float:
    """7.5 (Turing) where it is not known: the least that TensorRT 10 takes."""
    try:
        return float(said["compute_capability"])
    except (KeyError, ValueError, TypeError):
        return 7.5


def _scheme(kind: str, said: Mapping[str, Any]) -> str:
    if kind.endswith("gpu"):
        return "s8s8"
    return "u8s8" if kind == "arm-cpu" or VNNI & _features(said) else "u8s8-7bit"


def _written(facts: Facts) -> list[str]:
    """The names that become facts of the profile, in a settled order."""
    others = sorted(set(facts) - set(ORDER) - {"device", "arch", "power_modes"})
    return [
        key for key in (*ORDER, *others) if key in facts and KEY.fullmatch(key) and _fits(facts[key]["value"])
    ]


def _fits(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(not isinstance(v, (list, bool)) and _fits(v) for v in value)
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, (bool, int, float)) and (isinstance(value, bool) or _in_range(value))


def _in_range(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1e15


def _fact_line(key: str, fact: Mapping[str, Any]) -> str:
    source = _clean(f"read on the device with {fact['how']}")
    return f'{key} = {{ value = {_toml(fact["value"])}, source = {_toml(source)}, confidence = "high" }}'


def _mode_lines(mode: Mapping[str, Any], how: str) -> list[str]:
    numbers = {
        key: mode[key]
        for key in (*COUNTS, *CLOCKS)
        if _in_range(mode.get(key)) or (key == "id" and mode.get(key) == 0)
    }
    written = {"name": _clean(str(mode["name"]), 64), **numbers}
    written["source"] = _clean(f"read on the device with {how}")
    return ["", "[[power_modes]]", *(f"{key} = {_toml(value)}" for key, value in written.items())]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return json.dumps(_clean(value), ensure_ascii=False)
    return json.dumps(value, allow_nan=False) if not isinstance(value, float) else _float(value)


def _float(value: float) -> str:
    """Without an exponent where it is a whole number: ``1200`` reads better than ``1.2e3``."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def _clean(text: str, most: int = 1000) -> str:
    """One printable line of at most ``most`` characters that is not empty."""
    line = HIDDEN.sub(" ", text).encode("utf-8", "replace").decode()
    return line[:most].strip() or "unknown"
