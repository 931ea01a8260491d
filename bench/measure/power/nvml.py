"""One NVIDIA GPU (the whole card) through NVML (docs.nvidia.com/deploy/nvml-api, *Device Queries*).

The energy counter (since Volta) moves about every 100 ms, and some cards look at their power a quarter
of the time (Yang, Adamek, Armour, *Part-time Power Measurements*, arXiv:2312.02741): windows take
seconds, and both of their ends wait for the counter to move.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bench.measure.power.base import Clock, NoAnswer, Reading, no_reading, too_short
from bench.measure.power.sampled import Feed, Sampled, Ticker
from bench.runtimes.base import Probe

DEVICES = ("cuda", "tensorrt")
SHORTEST = 2.0
UPDATE = 0.1
"""Seconds between two updates of the energy counter."""
PATIENCE = 1.0
"""Seconds after which a counter that does not move is taken for dead."""
POLL = 0.002
HINT = "pip install nvidia-ml-py"

T = TypeVar("T")


class Card:
    """The GPU a worker sees first, opened when it is first asked.

    Args:
        library: the module ``pynvml``; imported when None.
        visible: CUDA_VISIBLE_DEVICES; the environment's when None.
    """

    def __init__(self, library: Any = None, visible: str | None = None) -> None:
        self._given, self._library, self._handle = library, None, None
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
        self.title = "GPU"

    def open(self) -> None:
        """Raises NoAnswer when there is no such GPU."""
        if self._handle is not None:
            return
        if self._given is None and importlib.util.find_spec("pynvml") is None:
            raise NoAnswer("nvidia-ml-py is not installed")
        library: Any = self._given or importlib.import_module("pynvml")
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise NoAnswer(f"NVML: {error}") from error
        self._library = library
        try:
            self._handle, number = self._find(library)
            name = library.nvmlDeviceGetName(self._handle)
        except library.NVMLError as error:
            self.close()
            raise NoAnswer(f"NVML: {error}") from error
        self.title = f"{number} ({name.decode() if isinstance(name, bytes) else name}), the whole card"

    def _find(self, library: Any) -> tuple[Any, str]:
        first = "0" if self._visible is None else self._visible.split(",")[0].strip()
        if first.isdigit():
            return library.nvmlDeviceGetHandleByIndex(int(first)), f"GPU {first}"
        if first.startswith("GPU-"):
            return library.nvmlDeviceGetHandleByUUID(first), first
        self.close()
        raise NoAnswer(f"no whole GPU is visible (CUDA_VISIBLE_DEVICES={first})")

    def _ask(self, query: Callable[[Any, Any], T]) -> T:
        self.open()
        assert self._library is not None
        try:
            return query(self._library, self._handle)
        except self._library.NVMLError as error:
            raise NoAnswer(f"NVML: {error}") from error

    def joules(self) -> float:
        """The energy counter. Raises NoAnswer."""
        return float(self._ask(lambda lib, card: lib.nvmlDeviceGetTotalEnergyConsumption(card))) * 1e-3

    def watts(self) -> float:
        """Power now. Raises NoAnswer."""
        value = float(self._ask(lambda lib, card: lib.nvmlDeviceGetPowerUsage(card))) * 1e-3
        if value <= 0:
            raise NoAnswer(f"the card answered {value:g} W")
        return value

    def probe(self, query: Callable[[], float]) -> Probe:
        was_open = self._handle is not None
        try:
            query()
        except NoAnswer as error:
            remedies = {"not installed": f"Install it with: {HINT}", "Not Found": "Install NVIDIA's driver"}
            remedy = next((r for words, r in remedies.items() if words in str(error)), "")
            return Probe(False, reason=str(error), remedy=remedy)
        finally:
            if not was_open:
                self.close()
        return Probe(True, version="NVML", devices=DEVICES)

    def close(self) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
        self._library = self._handle = None


class NvmlCounter:
    """The energy counter of a GPU."""

    name = "nvml"
    devices = DEVICES
    shortest = SHORTEST
    idle_seconds = SHORTEST

    def __init__(self, card: Card | None = None, clock: Clock = time) -> None:
        self._card, self._clock = card or Card(), clock
        self._begin: tuple[float, float] | None = None
        self._open, self._problem = False, ""

    @property
    def covers(self) -> str:
        return self._card.title

    def probe(self) -> Probe:
        return self._card.probe(self._card.joules)

    def prepare(self) -> None:
        try:
            self._card.open()
        except NoAnswer as error:
            self._problem = str(error)

    def start(self) -> None:
        self._open, self._begin, self._problem = True, None, ""
        try:
            self._begin = self._moved()
        except NoAnswer as error:
            self._problem = str(error)

    def stop(self) -> Reading:
        if not self._open:
            return no_reading(self, "no window was opened")
        self._open = False
        if self._begin is None:
            return no_reading(self, self._problem)
        try:
            end, joules = self._moved()
        except NoAnswer as error:
            return no_reading(self, str(error), self._clock.monotonic() - self._begin[0])
        seconds, joules = end - self._begin[0], joules - self._begin[1]
        reason = too_short(self, seconds)
        if not reason and joules <= 0:
            reason = f"the energy counter went by {joules:g} J"
        if reason:
            return no_reading(self, reason, seconds)
        method = "NVML energy counter, both ends of the window on its updates, all processes"
        updates = round(seconds / UPDATE)
        return Reading(self.name, self.covers, joules, seconds, updates, "measured", "energy counter", method)

    def _moved(self) -> tuple[float, float]:
        """The time and the counter (J) just after it moved."""
        old = new = self._card.joules()
        begin = self._clock.monotonic()
        while new == old:
            if self._clock.monotonic() - begin > PATIENCE:
                raise NoAnswer(f"the energy counter did not move for {PATIENCE:g} s")
            self._clock.sleep(POLL)
            new = self._card.joules()
        return self._clock.monotonic(), new

    def close(self) -> None:
        self._open = False
        self._card.close()


class NvmlPower(Sampled):
    """Samples of a GPU's power, for cards that count no energy (before Volta)."""

    name = "nvml-power"
    covers = "GPU"
    mode = "power samples"
    method = "NVML power, sampled ten times a second and integrated, all processes"
    devices = DEVICES
    shortest = SHORTEST
    idle_seconds = SHORTEST

    def __init__(self, card: Card | None = None, clock: Clock = time, feed: Feed | None = None) -> None:
        super().__init__(feed or Ticker(self.period), clock)
        self._card = card or Card()

    def prepare(self) -> None:
        try:
            self._card.open()
            self.covers = self._card.title
        except NoAnswer as error:
            self._problem = str(error)

    def probe(self) -> Probe:
        return self._card.probe(self._card.watts)

    def watts(self, said: str) -> float:
        return self._card.watts()

    def close(self) -> None:
        super().close()
        self._card.close()
