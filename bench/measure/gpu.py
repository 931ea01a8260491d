"""What NVML says of NVIDIA GPUs: state, what holds their clocks back, who else uses them.

NVML API reference: https://docs.nvidia.com/deploy/nvml-api. Not every card answers everything.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from bench.types import Json

REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
    0x100: "display clocks",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, *NvmlClocksEventReasons*)."""
HARMLESS = ("idle", "application clocks", "display clocks")
"""Reasons that a measurement may have: what a person asked for, and nothing to do."""
HELD = {"power": "NVML_PERF_POLICY_POWER", "heat": "NVML_PERF_POLICY_THERMAL"}


class Nvml:
    """NVML, opened once (tens to hundreds of ms); each reading takes about a millisecond. Close it."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def describe(self) -> list[Json]:
        """Every GPU: what it is, how it is set, and what it does now. None is what it does not answer."""
        driver = self._ask("nvmlSystemGetDriverVersion")
        return [self._describe(handle, driver) for handle in self._handles]

    def _describe(self, handle: Any, driver: Any) -> Json:
        ask, sm = self._ask, self._nvml.NVML_CLOCK_SM
        memory, mig = ask("nvmlDeviceGetMemoryInfo", handle), ask("nvmlDeviceGetMigMode", handle)
        persistence = ask("nvmlDeviceGetPersistenceMode", handle)
        return {
            "name": ask("nvmlDeviceGetName", handle),
            "driver": driver,
            "memory_mb": memory and memory.total / 1e6,
            "sm_mhz": ask("nvmlDeviceGetClockInfo", handle, sm),
            "max_sm_mhz": ask("nvmlDeviceGetMaxClockInfo", handle, sm),
            "memory_mhz": ask("nvmlDeviceGetClockInfo", handle, self._nvml.NVML_CLOCK_MEM),
            "temperature_c": ask("nvmlDeviceGetTemperature", handle, self._nvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": self._reasons(handle),
            "power_limit_w": _watts(ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
            "default_power_limit_w": _watts(ask("nvmlDeviceGetPowerManagementDefaultLimit", handle)),
            "persistence": None if persistence is None else bool(persistence),
            "mig": None if mig is None else bool(mig[0]),
        }

    def _reasons(self, handle: Any) -> list[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return None if bits is None else [name for bit, name in REASONS.items() if bits & bit]

    def state(self) -> list[Json]:
        """What changes while a cell runs, per GPU.

        ``sm_mhz``; ``reasons`` (names; None if not answered); ``held``: seconds since the driver was
        loaded that the clocks were kept down by power and by heat (nvmlDeviceGetViolationStatus).
        """
        return [
            {
                "sm_mhz": self._ask("nvmlDeviceGetClockInfo", handle, self._nvml.NVML_CLOCK_SM),
                "reasons": self._reasons(handle),
                "held": {what: self._held(handle, policy) for what, policy in HELD.items()},
            }
            for handle in self._handles
        ]

    def _held(self, handle: Any, policy: str) -> float | None:
        status = self._ask("nvmlDeviceGetViolationStatus", handle, getattr(self._nvml, policy))
        return None if status is None else status.violationTime * 1e-9

    def used_mb(self, pid: int) -> float | None:
        """Memory of all GPUs that a process holds, its CUDA context included, in MB; None where NVML does not see it.

        (nvmlDeviceGetComputeRunningProcesses: in a container with process numbers of its own, it does not.)
        """
        found = [
            process.usedGpuMemory
            for handle in self._handles
            for process in self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()
            if process.pid == pid and process.usedGpuMemory is not None
        ]
        return sum(found) / 1e6 if found else None

    def processes(self) -> list[tuple[int, int]]:
        """(GPU's index, process id) of everything that computes on a GPU."""
        return [
            (index, process.pid)
            for index, handle in enumerate(self._handles)
            for process in self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()
        ]

    def _ask(self, query: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self._nvml, query)(*arguments)
        except self._nvml.NVMLError:
            return None
        return answer.decode() if isinstance(answer, bytes) else answer


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3


def open_nvml() -> tuple[Nvml | None, str]:
    """NVML, or None and why there is none."""
    if importlib.util.find_spec("pynvml") is None:
        return None, "nvidia-ml-py is not installed"
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"NVML: {error}"
    try:
        return Nvml(nvml), ""
    except nvml.NVMLError as error:
        nvml.nvmlShutdown()
        return None, f"NVML: {error}"


def describe() -> tuple[list[Json], str]:
    """The NVIDIA GPUs of this machine; without any, an empty list and the reason."""
    nvml, reason = open_nvml()
    if nvml is None:
        return [], reason
    try:
        found = nvml.describe()
    finally:
        nvml.close()
    return found, "" if found else "NVML: no GPU"
