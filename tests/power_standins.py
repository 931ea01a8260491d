"""Stand-ins for machines with power sensors: simulated time, and files, a fake NVML or lines that follow a trace.

A trace is a list of (second, watts): power is ``watts`` from that second on. None of it needs a sensor, a
GPU or a Jetson; what real ones answer is in the tests as recorded text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from bench.measure.power import CodeCarbon, EnergySource, Ina3221, NvmlCounter, NvmlPower, Rapl, Tegrastats
from bench.measure.power.nvml import Card

Trace = list[tuple[float, float]]
STEP = 0.001
"""Seconds; the counters of the stand-ins move so often, or less."""
ORIN_NANO = "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"


def energy(trace: Trace, begin: float, end: float) -> float:
    """Joules of a trace between two moments, exactly."""
    edges = [*[t for t, _ in trace[1:]], math.inf]
    parts = []
    for (t, watts), until in zip(trace, edges, strict=True):
        length = min(end, until) - max(begin, t if t > trace[0][0] else -math.inf)
        parts.append(watts * max(0.0, length))
    return math.fsum(parts)


def power(trace: Trace, second: float) -> float:
    return next((watts for t, watts in reversed(trace) if t <= second), trace[0][1])


class Machine:
    """Simulated time: a clock that sources read, and feeds that tick while somebody sleeps."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.now, self.silent = trace, 0.0, False
        self.changed: Callable[[], None] = lambda: None
        self._feeds: list[SimpleNamespace] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        end = self.now + seconds
        while True:
            due = min([f.due for f in self._feeds], default=math.inf)
            self.now = min(end, due)
            self.changed()
            for feed in self._feeds:
                if feed.due <= self.now:
                    feed.due += feed.period
                    if not self.silent:
                        feed.callback(feed.say())
            if self.now >= end:
                return

    def feed(self, period: float, say: Callable[[], str] = str) -> Feed:
        return Feed(self, period, say)

    @property
    def feeding(self) -> int:
        return len(self._feeds)

    @property
    def joules(self) -> float:
        return energy(self.trace, 0.0, self.now)

    @property
    def watts(self) -> float:
        return power(self.trace, self.now)


class Feed:
    """A feed in simulated time."""

    def __init__(self, machine: Machine, period: float, say: Callable[[], str]) -> None:
        self.machine, self.period, self.say = machine, period, say
        self._mine: SimpleNamespace | None = None

    def start(self, callback: Callable[[str], None]) -> None:
        assert self._mine is None, "started twice"
        due = self.machine.now + self.period
        self._mine = SimpleNamespace(due=due, period=self.period, callback=callback, say=self.say)
        self.machine._feeds.append(self._mine)

    def stop(self) -> str:
        if self._mine is not None:
            self.machine._feeds.remove(self._mine)
        self._mine = None
        return ""


class Bench:
    """A machine with one kind of sensor, and what can go wrong with it.

    ``resolution``: seconds by which the ends of a window, or a step, may be off.
    """

    name = ""
    resolution = 0.0
    device = "cpu"

    def __init__(self, root: Path, trace: Trace) -> None:
        self.root, self.machine = root, Machine(trace)
        self.source: EnergySource = self.make()
        self.machine.changed()

    def make(self) -> EnergySource:
        raise NotImplementedError

    def answer(self, value: int) -> None:
        """From now on the sensor answers this."""
        raise NotImplementedError

    def vanish(self) -> None:
        """The sensor is gone from now on."""
        raise NotImplementedError

    def window(self, seconds: float):
        self.source.start()
        begin = self.machine.now
        self.machine.sleep(seconds)
        return self.source.stop(), begin


class RaplBench(Bench):
    name = "rapl"
    resolution = STEP
    largest = 262_143_328_850
    first = 1_000_000_000
    share = (0.75, 0.25)
    """Of two packages."""

    def make(self) -> EnergySource:
        self.fixed: int | None = None
        for index, _ in enumerate(self.share):
            zone(self.root, f"intel-rapl:{index}", f"package-{index}", self.largest)
            zone(self.root, f"intel-rapl:{index}:0", "core", self.largest)
            zone(self.root, f"intel-rapl:{index}:1", "dram", 65_712_999_613)
        zone(self.root, "intel-rapl:2", "psys", self.largest)
        zone(self.root, "intel-rapl-mmio:0", "package-0", self.largest)
        self.machine.changed = self.write
        self.write()
        return Rapl(self.root, self.machine, self.machine.feed(10.0))

    def write(self) -> None:
        for index, share in enumerate(self.share):
            moved = round((self.machine.joules * share) * 1e6)
            value = (self.first + index * 5_000_000_000 + moved) % self.largest
            folder = self.root / f"sys/class/powercap/intel-rapl:{index}"
            if folder.exists():
                (folder / "energy_uj").write_text(f"{value if self.fixed is None else self.fixed}\n")
                memory = folder.with_name(folder.name + ":1")
                (memory / "energy_uj").write_text(f"{7 + index + round(self.machine.joules * 1e5)}\n")

    def answer(self, value: int) -> None:
        self.fixed = value
        self.write()

    def vanish(self) -> None:
        self.machine.changed = lambda: None
        for folder in (self.root / "sys/class/powercap").iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def zone(root: Path, folder: str, name: str, largest: int, energy_uj: int = 1) -> Path:
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True)
    for file, text in (("name", name), ("max_energy_range_uj", largest), ("energy_uj", energy_uj)):
        (path / file).write_text(f"{text}\n")
    return path


class FakeNvml:
    """A stand-in for the module pynvml, with one card."""

    class NVMLError(Exception):
        pass

    def __init__(self, machine: Machine, counts: bool = True) -> None:
        self.machine, self.counts, self.opened = machine, counts, 0
        self.fixed: int | None = None
        self.gone = False
        self.asked: list[object] = []

    def nvmlInit(self) -> None:
        self._check()
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked.append(index)
        if index:
            raise self.NVMLError("Invalid Argument")
        return "card"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return "card"

    def nvmlDeviceGetName(self, card: str) -> str:
        return "Stand-in"

    def nvmlDeviceGetTotalEnergyConsumption(self, card: str) -> int:
        self._check()
        if not self.counts:
            raise self.NVMLError("Not Supported")
        tick = math.floor(self.machine.now / 0.1 + 1e-9) * 0.1
        return round(energy(self.machine.trace, -50.0, tick) * 1e3) if self.fixed is None else self.fixed

    def nvmlDeviceGetPowerUsage(self, card: str) -> int:
        self._check()
        return round(self.machine.watts * 1e3) if self.fixed is None else self.fixed

    def _check(self) -> None:
        if self.gone:
            raise self.NVMLError("GPU is lost")


class NvmlBench(Bench):
    name = "nvml"
    resolution = 0.004
    device = "cuda"

    def make(self) -> EnergySource:
        self.library = FakeNvml(self.machine)
        return NvmlCounter(Card(self.library, "0"), self.machine)

    def answer(self, value: int) -> None:
        self.library.fixed = value

    def vanish(self) -> None:
        self.library.gone = True


class NvmlPowerBench(NvmlBench):
    name = "nvml-power"
    resolution = 0.1

    def make(self) -> EnergySource:
        self.library = FakeNvml(self.machine, counts=False)
        return NvmlPower(Card(self.library, "0"), self.machine, self.machine.feed(0.1))


class HwmonBench(Bench):
    """An Orin Nano of JetPack 5 or 6: voltage and current of three rails, one of which is the sum."""

    name = "ina3221-hwmon"
    resolution = 0.1
    rails = (("VDD_IN", 1.0), ("VDD_CPU_GPU_CV", 0.5), ("VDD_SOC", 0.25))

    def make(self) -> EnergySource:
        tree(self.root, ORIN_NANO, "NVIDIA Jetson Orin Nano Developer Kit\0")
        self.fixed: int | None = None
        self.folder = self.root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
        self.folder.mkdir(parents=True)
        for n, (name, _) in enumerate(self.rails, 1):
            (self.folder / f"in{n}_label").write_text(name + "\n")
        (self.folder / "in7_label").write_text("sum of shunt voltages\n")
        self.machine.changed = self.write
        return Ina3221(self.root, self.machine, self.machine.feed(0.1))

    def write(self) -> None:
        for n, (_, share) in enumerate(self.rails, 1):
            milliamps = round(self.machine.watts * share / 5.0 * 1e3) if self.fixed is None else self.fixed
            (self.folder / f"in{n}_input").write_text("5000\n")
            (self.folder / f"curr{n}_input").write_text(f"{milliamps}\n")

    def answer(self, value: int) -> None:
        self.fixed = value
        self.write()

    def vanish(self) -> None:
        self.machine.changed = lambda: None
        for file in self.folder.glob("*_input"):
            file.unlink()


class IioBench(Bench):
    """An AGX Xavier of JetPack 4: six rails on two chips, no rail above them; the GPU's is off."""

    name = "ina3221-iio"
    resolution = 0.1
    chips = ((0x40, ("GPU", "CPU", "SOC")), (0x41, ("CV", "VDDRQ", "SYS5V")))
    shares = (0.0, 0.25, 0.25, 0.0, 0.125, 0.375)

    def make(self) -> EnergySource:
        tree(self.root, "nvidia,p2972-0000\0nvidia,p2888-0001\0nvidia,tegra194\0", "Jetson-AGX\0")
        self.fixed: int | None = None
        self.files: list[Path] = []
        for chip, names in self.chips:
            folder = self.root / f"sys/bus/i2c/drivers/ina3221x/1-00{chip:x}/iio:device{chip - 0x40}"
            folder.mkdir(parents=True)
            for n, name in enumerate(names):
                (folder / f"rail_name_{n}").write_text(name + "\n")
                self.files.append(folder / f"in_power{n}_input")
        self.machine.changed = self.write
        return Ina3221(self.root, self.machine, self.machine.feed(0.1))

    def write(self) -> None:
        for file, share in zip(self.files, self.shares, strict=True):
            milliwatts = round(self.machine.watts * share * 1e3)
            file.write_text(f"{milliwatts if self.fixed is None else self.fixed}\n")

    def answer(self, value: int) -> None:
        self.fixed = value
        self.write()

    def vanish(self) -> None:
        self.machine.changed = lambda: None
        for file in self.files:
            file.unlink()


def tree(root: Path, compatible: str, model: str) -> None:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_text(compatible)
    (root / "proc/device-tree/model").write_text(model)


class TegrastatsBench(Bench):
    """An Orin Nano's tegrastats; the average after the slash is wrong on purpose."""

    name = "tegrastats"
    resolution = 0.1

    def make(self) -> EnergySource:
        tree(self.root, ORIN_NANO, "NVIDIA Jetson Orin Nano Developer Kit\0")
        self.fixed: int | None = None
        feed = self.machine.feed(0.1, self.line)
        return Tegrastats(self.root, self.machine, feed, command=("sh",))

    def line(self) -> str:
        now = round(self.machine.watts * 1e3) if self.fixed is None else self.fixed
        rails = f"VDD_IN {now}mW/77mW VDD_CPU_GPU_CV {now // 2}mW/77mW VDD_SOC {now // 4}mW/77mW"
        return f"09-21-2025 15:38:17 RAM 3645/7620MB (lfb 63x4MB) GR3D_FREQ 0%@[305] gpu@44.5C {rails}\n"

    def answer(self, value: int) -> None:
        self.fixed = value

    def vanish(self) -> None:
        self.machine.silent = True


class CodeCarbonBench(Bench):
    """A stand-in for codecarbon's tracker in the mode in which it multiplies TDP and load."""

    name = "codecarbon"

    def make(self) -> EnergySource:
        machine, bench = self.machine, self
        self.fixed: float | None = None

        class CPU:
            _mode, _tdp, _model = "cpu_load", 105, "Stand-in"

        class Tracker:
            _hardware = (CPU(),)

            def start_task(self, name: str = "") -> None:
                self.begin = machine.now

            def stop_task(self) -> SimpleNamespace | None:
                if bench.fixed is None:
                    joules = energy(machine.trace, self.begin, machine.now)
                else:
                    joules = bench.fixed
                return SimpleNamespace(duration=machine.now - self.begin, cpu_energy=joules / 3.6e6)

            def stop(self) -> None:
                """Nothing to end."""

        source = CodeCarbon()
        source._tracker = Tracker()
        return source

    def answer(self, value: int) -> None:
        self.fixed = float(value)

    def vanish(self) -> None:
        self.source._tracker.stop_task = lambda: None


BENCHES: list[type[Bench]] = [
    RaplBench,
    NvmlBench,
    NvmlPowerBench,
    HwmonBench,
    IioBench,
    TegrastatsBench,
    CodeCarbonBench,
]
