"""What the engine does at each of a worker's events: reads its instruments while the worker waits, never while it times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.agent.memory import MemorySampler
from bench.measure.disturbance import Disturbance, Snapshot, compare, snapshot
from bench.measure.gpu import open_nvml
from bench.measure.power import Reading, Window, idle
from bench.types import Json, Notify

if TYPE_CHECKING:
    from bench.measure.power import EnergySource


@dataclass(frozen=True)
class Observed:
    """What was seen around a worker: peak memory of each part in KiB, energy, disturbances, memory of its GPU in MB."""

    peaks: dict[str, int]
    window: Window | None = None
    disturbance: Disturbance | None = None
    device_mb: float | None = None
    no_energy: str = ""


class Listener:
    """Follows one worker: memory, energy and disturbances around its phases; progress is passed on.

    Args:
        pids: the worker's processes, whose CPU time is its own.
        weighed: those of them whose memory counts.
    """

    def __init__(
        self,
        pids: Sequence[int],
        weighed: Sequence[int],
        energy: EnergySource | None,
        notify: Notify,
        gpu: bool = False,
    ) -> None:
        self.pids, self.energy, self.notify = pids, energy, notify
        self.sampler = MemorySampler(*weighed)
        self.window: Window | None = None
        self.disturbance: Disturbance | None = None
        self.device_mb: float | None = None
        self._before: Snapshot | None = None
        self._idle: Reading | None = None
        self._measuring = False
        self._nvml = open_nvml()[0] if gpu else None

    def __call__(self, event: Json) -> None:
        if event["event"] == "phase":
            self.sampler.enter(event["name"], event.get("memory_kb"))
            self._instruments(event["name"])
        self.notify(event["event"], {k: v for k, v in event.items() if k != "event"})

    def observed(self) -> Observed:
        """What was found, once the worker is done."""
        return Observed(self.sampler.peaks, self.window, self.disturbance, self.device_mb)

    def wait(self) -> None:
        """Read the idle power while the worker waits for its job: then nothing comes between warm-up and steady state."""
        if self.energy is not None:
            self._idle = idle(self.energy)

    def _instruments(self, phase: str) -> None:
        """Open the windows at the gate before the steady state, close them at the one after it.

        The snapshots lie inside the energy window, so that reading energy is not seen as another process's work.
        """
        if phase == "steady":
            self._measuring = True
            if self.energy is not None:
                self.energy.start()
            self._before = snapshot(*self.pids, nvml=self._nvml)
        elif self._measuring:
            self._measuring = False
            if self._before is not None and phase == "settled":
                self.disturbance = compare(self._before, snapshot(*self.pids, nvml=self._nvml))
            if self._nvml is not None and phase == "settled":
                held = [mb for mb in map(self._nvml.used_mb, self.pids) if mb is not None]
                self.device_mb = sum(held) if held else None
            gross = self.energy.stop() if self.energy is not None else None
            if self.energy is not None and gross is not None:
                # the worker waits at its gate; after a crash there is nothing to compare with
                self.window = Window(gross, self._idle, idle(self.energy) if phase == "settled" else None)

    def close(self) -> None:
        """Also after a crash: stop the sampler and an energy window that is still open."""
        self.sampler.close()
        self._instruments("")
        if self._nvml is not None:
            self._nvml.close()
