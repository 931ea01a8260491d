"""A Jetson's INA3221 power monitors through sysfs, in both layouts.

JetPack 4 and before: ``ina3221x/*/iio:device*/{rail_name_N,in_powerN_input}`` in mW. From JetPack 5:
``ina3221/*/hwmon/hwmon*/{inN_label,inN_input,currN_input}`` in mV and mA (docs.kernel.org, *Kernel driver ina3221*).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure.power import jetson
from bench.measure.power.base import Clock, NoAnswer, read_number, read_text
from bench.measure.power.sampled import Feed, Sampled, Ticker
from bench.runtimes.base import Probe

FOLDER = "sys/bus/i2c/drivers"
CHANNELS = (1, 2, 3)
"""Of the kernel's driver; its inputs 4 to 7 are shunt voltages and their sum."""


@dataclass(frozen=True)
class Rail:
    """Files whose product, times ``scale``, is the rail's power in watts."""

    files: tuple[Path, ...]
    scale: float

    def watts(self) -> float:
        """Raises NoAnswer, also for a negative answer: that is how a sensor says that it is off."""
        product = 1.0
        for file in self.files:
            value = read_number(file)
            if value < 0:
                raise NoAnswer(f"{file.parent.name}/{file.name} answered {value}")
            product *= value
        return product * self.scale


def rails(root: Path) -> tuple[dict[str, Rail], str]:
    """The named rails of this machine and the layout, ``hwmon`` or ``iio``. Raises NoAnswer."""
    found: dict[str, Rail] = {}
    for folder in sorted((root / FOLDER).glob("ina3221/*-004*/hwmon/hwmon*")):
        for n in CHANNELS:
            if (folder / f"in{n}_label").exists():
                files = (folder / f"in{n}_input", folder / f"curr{n}_input")
                found.setdefault(read_text(folder / f"in{n}_label"), Rail(files, 1e-6))
    if found:
        return found, "hwmon"
    for folder in sorted((root / FOLDER).glob("ina3221x/*-004*/iio:device*")):
        for label in sorted(folder.glob("rail_name_*")):
            file = folder / f"in_power{label.name.rpartition('_')[2]}_input"
            found.setdefault(read_text(label), Rail((file,), 1e-3))
    return found, "iio"


class Ina3221(Sampled):
    """Input power of a Jetson module, sampled ten times a second."""

    name = "ina3221"
    covers = "Jetson module"
    devices = ("cpu", "cuda", "tensorrt")

    def __init__(self, root: Path = Path("/"), clock: Clock = time, feed: Feed | None = None) -> None:
        super().__init__(feed or Ticker(self.period), clock)
        self._root = root
        self._rails: list[Rail] = []

    def probe(self) -> Probe:
        try:
            self._find()
            self.watts("")
        except NoAnswer as error:
            remedy = "sudo chmod -R a+r /sys/bus/i2c/drivers/ina3221*/" if "permission" in str(error) else ""
            return Probe(False, reason=f"INA3221: {error}", remedy=remedy)
        return Probe(True, version=self.mode, devices=self.devices)

    def prepare(self) -> None:
        if not self._rails:
            try:
                self._find()
            except NoAnswer as error:
                self._problem = str(error)

    def _find(self) -> None:
        found, layout = rails(self._root)
        if not found:
            raise NoAnswer(f"there is none in /{FOLDER}")
        names, self.covers = jetson.choose(found, self._root)
        self._rails, self.mode = [found[name] for name in names], layout
        self.method = f"INA3221 ({layout}), sampled ten times a second and integrated"

    def files(self) -> tuple[Path, ...]:
        """What is read at each sample."""
        self.prepare()
        return tuple(file for rail in self._rails for file in rail.files)

    def watts(self, said: str) -> float:
        if not self._rails:
            raise NoAnswer(self._problem or "no rail was found")
        total = sum(rail.watts() for rail in self._rails)
        if total <= 0:
            raise NoAnswer("all rails answered 0")
        return total
