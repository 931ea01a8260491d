"""Energy of a window of time: an instrument where there is one; a model of the CPU, said so, where not.

One module a source, all behind :class:`EnergySource`; ``tests/contract/test_power.py`` holds for each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.measure.power.base import EnergySource, Reading, no_reading
from bench.measure.power.codecarbon import CodeCarbon, carbon
from bench.measure.power.ina3221 import Ina3221
from bench.measure.power.nvml import NvmlCounter, NvmlPower
from bench.measure.power.rapl import Rapl
from bench.measure.power.tegrastats import Tegrastats
from bench.measure.power.window import PER_IMAGE, Window, idle, per_image
from bench.runtimes.base import Probe

__all__ = [
    "PER_IMAGE", "CodeCarbon", "EnergySource", "Ina3221", "Nothing", "NvmlCounter", "NvmlPower", "Rapl", "Reading",
    "Tegrastats", "Window", "carbon", "idle", "open_source", "per_image", "probes",
]  # fmt: skip


def sources(root: Path = Path("/")) -> list[EnergySource]:
    """Every source there is, the best first: counters, then samples, then the model."""
    return [NvmlCounter(), NvmlPower(), Rapl(root), Ina3221(root), Tegrastats(root), CodeCarbon()]


def probes(device: str = "cpu", root: Path = Path("/")) -> list[tuple[str, Probe]]:
    """(name, probe) of every source that counts the work of ``device``, the best first."""
    return [(s.name, s.probe()) for s in sources(root) if device in s.devices]


class Nothing:
    """Stands where no source is: its readings are missing, with the reason."""

    name = "none"
    covers = "nothing"
    shortest = 0.0
    idle_seconds = 0.0

    def __init__(self, device: str, reason: str) -> None:
        self.devices, self.reason = (device,), reason

    def probe(self) -> Probe:
        return Probe(False, reason=self.reason)

    def prepare(self) -> None:
        """There is nothing to find."""

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> Reading:
        return no_reading(self, self.reason)

    def close(self) -> None:
        """There is nothing to end."""


def open_source(
    device: str = "cpu", root: Path = Path("/"), known: Callable[[Path], list[EnergySource]] = sources
) -> EnergySource:
    """The best available source that counts the work of ``device``; else one that says why there is none. Close it."""
    reasons = []
    for source in known(root):
        if device not in source.devices:
            continue
        probe = source.probe()
        if probe.available:
            return source
        reasons.append(probe.reason + (f" ({probe.remedy})" if probe.remedy else ""))
    return Nothing(device, f"no energy source for {device}: " + "; ".join(dict.fromkeys(reasons)))
