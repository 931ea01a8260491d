"""Are two sets of numbers from machines that can be compared? What of the environment decides times, and where it differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bench.types import Json

PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert", "tflite-runtime"),
    "torch": ("torch",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "tensorrt": ("tensorrt",),
}
"""The packages whose version decides a runtime's times."""


def differences(base: Json, head: Json, runtimes: Iterable[str] = ()) -> list[str]:
    """Where two environments (:func:`bench.measure.environment.describe`) differ in what decides times; empty when nowhere.

    What one of them does not say is not held against it, but for the CPU: without it nothing is known of the machine.
    """
    if not (base.get("cpu") or {}).get("model") and not (head.get("cpu") or {}).get("model"):
        return ["neither says what machine it was measured on"]
    found = []
    for name, before, after in _facts(base, head, runtimes):
        if before != after and (name == "CPU" or None not in (before, after)):
            found.append(f"{name}: {_shown(before)} in the base, {_shown(after)} now")
    return found


def _facts(base: Json, head: Json, runtimes: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    def both(part: str, key: str) -> tuple[Any, Any]:
        return (base.get(part) or {}).get(key), (head.get(part) or {}).get(key)

    yield ("CPU", *both("cpu", "model"))
    yield ("architecture", *both("cpu", "arch"))
    yield ("cores", *both("cpu", "cores"))
    yield ("CPU features", *both("cpu", "features"))
    yield ("governor", *both("cpu", "governor"))
    yield ("turbo", *both("cpu", "turbo"))
    yield ("power mode", *both("machine", "power_mode"))
    before, after = ([gpu.get("name") for gpu in side.get("gpus") or ()] for side in (base, head))
    yield ("GPUs", before, after)
    for package in dict.fromkeys(p for runtime in runtimes for p in PACKAGES.get(runtime.split("-")[0], ())):
        yield (package, *both("packages", package))


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
