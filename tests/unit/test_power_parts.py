"""The arithmetic and the parsers of the energy sources."""

from __future__ import annotations

import math
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure.power import Ina3221, Reading, Window, carbon, open_source, per_image, probes
from bench.measure.power.base import NoAnswer
from bench.measure.power.codecarbon import intensity
from bench.measure.power.jetson import BOARDS, choose
from bench.measure.power.rapl import zones
from bench.measure.power.sampled import Ticker, integrate
from bench.measure.power.tegrastats import parse
from bench.types import Quantity
from tests.power_standins import HwmonBench, energy, power, tree, zone

LINES = {
    # Recorded lines, as their owners published them.
    "Nano, JetPack 4": (
        "RAM 1766/3964MB (lfb 197x4MB) SWAP 0/2048MB (cached 0MB) CPU [24%@1224,15%@1224,13%@1224,10%@1224] "
        "EMC_FREQ 0% GR3D_FREQ 0% PLL@21C CPU@25C PMIC@100C GPU@23.5C AO@33.5C thermal@24.5C "
        "POM_5V_IN 2545/2547 POM_5V_GPU 0/0 POM_5V_CPU 549/529",
        {"POM_5V_IN": 2.545, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.549},
    ),
    "TX2, JetPack 4": (
        "RAM 1004/7852MB (lfb 7x2MB) CPU [3%@346,4%@499,3%@499,0%@345,0%@345,0%@346] EMC_FREQ 17%@40 GR3D_FREQ 0%@114 "
        "APE 150 MTS fg 0% bg 0% PLL@34C MCPU@34C PMIC@100C Tboard@28C GPU@32C BCPU@34C thermal@33.2C Tdiode@30.25C "
        "VDD_SYS_GPU 153/153 VDD_SYS_SOC 383/383 VDD_4V0_WIFI 0/0 VDD_IN 1876/1876 VDD_SYS_CPU 229/229 VDD_SYS_DDR 115/124",
        {"VDD_SYS_GPU": 0.153, "VDD_SYS_SOC": 0.383, "VDD_4V0_WIFI": 0.0, "VDD_IN": 1.876, "VDD_SYS_CPU": 0.229,
         "VDD_SYS_DDR": 0.115},
    ),
    "AGX Orin, JetPack 5": (
        "10-16-2023 10:59:22 RAM 1205/30623MB (lfb 6429x4MB) SWAP 0/15311MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ 0%@204 "
        "GR3D_FREQ 0%@114 GR3D2_FREQ 0%@114 NVJPG1 729 VIC_FREQ 729 APE 233 CV0@-256C CPU@43.5C Tdiode@32.5C SOC2@40.062C "
        "GPU@38.156C VDD_GPU_SOC 4788mW/4781mW VDD_CPU_CV 798mW/790mW VIN_SYS_5V0 3842mW/3840mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 707mW/707mW NC 0mW/0mW",
        {"VDD_GPU_SOC": 4.788, "VDD_CPU_CV": 0.798, "VIN_SYS_5V0": 3.842, "VDDQ_VDD2_1V8AO": 0.707},
    ),
    "Orin Nano, JetPack 6": (
        "09-21-2025 15:38:17 RAM 3645/7620MB (lfb 63x4MB) SWAP 236/3810MB (cached 0MB) CPU [1%@729,1%@729,off,off] "
        "EMC_FREQ 0%@204 GR3D_FREQ 0%@[305] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@44.125C gpu@44.531C tj@44.531C "
        "VDD_IN 2957mW/2950mW VDD_CPU_GPU_CV 486mW/486mW VDD_SOC 1012mW/1012mW",
        {"VDD_IN": 2.957, "VDD_CPU_GPU_CV": 0.486, "VDD_SOC": 1.012},
    ),
    "Orin Nano, three numbers": (
        "09-01-2026 09:25:18 RAM 5739/7546MB (lfb 1x2MB) SWAP 2047/2048MB (cached 209MB) CPU [72%@1728,75%@1728] GR3D_FREQ 33% "
        "cpu@50C/50C gpu@48.75C/48.75C VDD_IN 9761mW/9000mW/9900mW VDD_CPU_GPU_CV 4238mW/4238mW/4238mW",
        {"VDD_IN": 9.761, "VDD_CPU_GPU_CV": 4.238},
    ),
    "AGX Xavier's names": (
        "IRAM 0/252kB(lfb 252kB) GPU@37C CPU@37.5C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 155/155 SYS5V 1400/1399",
        {"GPU": 0.0, "CPU": 0.311, "SOC": 0.932, "CV": 0.0, "VDDRQ": 0.155, "SYS5V": 1.4},
    ),
    "nothing": ("GR3D_FREQ 0%@[305] GPU@-256C RAM 1/2MB", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_tegrastats_lines(name: str) -> None:
    line, rails = LINES[name]
    assert parse(line) == pytest.approx(rails)
    assert parse(line + "\n") == pytest.approx(rails)


RAIL = st.from_regex(r"[A-Z][A-Z0-9_]{1,12}", fullmatch=True).filter(lambda n: n != "NC")


@settings(deadline=None)
@given(rails=st.dictionaries(RAIL, st.integers(0, 99_999), max_size=8), unit=st.sampled_from(["", "mW"]))
def test_any_rails_are_read_and_nothing_else(rails: dict[str, int], unit: str) -> None:
    shown = " ".join(f"{name} {now}{unit}/{now + 5}{unit}" for name, now in rails.items())
    line = f"RAM 12/34MB (lfb 1x2MB) SWAP 0/5MB CPU [1%@2,off] EMC_FREQ 0%@204 GPU@37C PMIC@100C {shown}"
    assert parse(line) == pytest.approx({name: now / 1e3 for name, now in rails.items()})


@settings(deadline=None)
@given(st.text())
def test_no_line_is_too_odd_to_be_parsed(line: str) -> None:
    assert all(math.isfinite(v) for v in parse(line).values())


TRACE = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0.0, 100.0)), min_size=1, max_size=12)


@settings(deadline=None)
@given(steps=TRACE, period=st.floats(0.02, 0.3), phase=st.floats(0.0, 1.0), seconds=st.floats(1.0, 10.0))
def test_the_integral_of_steps_is_within_the_interval_times_their_heights(
    steps: list, period: float, phase: float, seconds: float
) -> None:
    trace = [(0.0, 10.0)]
    for length, watts in steps:
        trace.append((trace[-1][0] + length, watts))
    count = math.floor((seconds - phase * period) / period) + 1
    samples = [(t, power(trace, t)) for t in (phase * period + k * period for k in range(count))]
    found = integrate(samples, 0.0, seconds, period)
    heights = sum(abs(b - a) for (_, a), (_, b) in pairwise(trace))
    assert found.joules == pytest.approx(
        energy(trace, 0.0, seconds), abs=period * heights * (1 + 1e-9) + 1e-6
    )
    assert found.seconds == seconds and found.bridged == 0


@given(begin=st.floats(0.0, 5.0), slope=st.floats(0.0, 20.0))
@settings(deadline=None)
def test_a_ramp_is_integrated_exactly(begin: float, slope: float) -> None:
    samples = [(begin + k * 0.1, 3.0 + slope * k * 0.1) for k in range(21)]
    found = integrate(samples, begin, samples[-1][0], 0.1)
    assert found.joules == pytest.approx(3.0 * 2 + slope * 2)


@settings(deadline=None)
@given(at=st.integers(1, 18), missing=st.integers(0, 12))
def test_three_samples_that_are_missing_are_a_gap(at: int, missing: int) -> None:
    samples = [(k * 0.1, 5.0) for k in range(31) if not at <= k < at + missing]
    found = integrate(samples, 0.0, 3.0, 0.1)
    expected = (missing + 1) * 0.1 if missing >= 3 else 0.0
    assert found.bridged == pytest.approx(expected) and found.joules == pytest.approx(15.0)


# Energy of an image


def reading(joules: float | None, seconds: float = 2.0, reason: str = "") -> Reading:
    return Reading("meter", "all of it", joules, seconds, 20, "measured", method="a meter", reason=reason)


def test_net_energy_of_an_image_and_gross_beside_it() -> None:
    window = Window(reading(20.0), reading(4.0), reading(6.0))
    net, gross = per_image([window], [500]), per_image([window], [500], gross=True)
    assert window.idle_watts == 2.5
    assert (net.value, net.unit, net.n, net.low) == (30.0, "mJ/image", 1, None)
    assert "before 2 W, after 3 W" in net.method and "all of it" in net.method and "no interval" in net.method
    assert gross.value == 40.0 and "idle included" in gross.method
    record = window.to_json()
    assert (record["gross"]["watts"], record["idle_before"]["watts"], record["idle_after"]["watts"]) == (
        10,
        2,
        3,
    )


def test_several_windows_give_a_t_interval() -> None:
    windows = [Window(reading(j), reading(2.0), reading(2.0)) for j in (10.0, 11.0, 12.0, 13.0, 14.0)]
    found = per_image([*windows, Window(reading(None, reason="lost"))], [1000] * 6)
    assert found.n == 5 and found.value == pytest.approx(10.0)
    assert found.high - found.value == pytest.approx(2.776 * math.sqrt(0.5), rel=1e-3)  # t(0.975, 4)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert "1 more without a figure" in found.method


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (Window(reading(None, reason="no meter")), "no meter"),
        (Window(reading(4.0), reading(4.0), reading(5.0)), "no more than idle"),
        (Window(reading(4.0), reading(None, reason="the sensor is gone")), "idle was not read: the sensor is gone"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_missing_with_the_reason(window: Window, words: str) -> None:
    found = per_image([window], [10])
    assert found.value is None and words in found.reason and found.unit == "mJ/image"
    assert per_image([], []).reason == "no energy window"


def test_one_idle_window_is_enough() -> None:
    found = per_image([Window(reading(20.0), reading(4.0), None)], [1000])
    assert found.value == pytest.approx(16.0) and "after not read" in found.method


# Rails


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.title)
def test_every_board_is_found_by_its_module_number_and_has_a_source(board, tmp_path: Path) -> None:
    tree(tmp_path, f"vendor,carrier\0nvidia,{board.modules[0]}-0001\0nvidia,tegra\0", "Somebody's robot\0")
    rails, covers = choose([*board.rails, "VDD_CPU_GPU_CV", "VDDQ_VDD2_1V8AO", "VDD_MUX"], tmp_path)
    assert rails == board.rails and board.title in covers and board.source


def test_the_orins_memory_rail_is_not_counted_twice(tmp_path: Path) -> None:
    names = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert "VDDQ_VDD2_1V8AO" not in choose(names, tmp_path)[0]
    assert "with the rails of a Jetson AGX Orin" in choose(names, tmp_path)[1]


def test_a_board_without_its_rails_is_refused_by_name(tmp_path: Path) -> None:
    tree(tmp_path, "nvidia,p3701-0000\0", "NVIDIA Jetson AGX Orin\0")
    with pytest.raises(NoAnswer, match=r"Jetson AGX Orin .* it has VDD_GPU_SOC"):
        choose(["VDD_GPU_SOC"], tmp_path)
    (tmp_path / "proc/device-tree/compatible").write_text("nvidia,p9999\0")
    with pytest.raises(NoAnswer, match=r"NVIDIA Jetson AGX Orin .* it has none"):
        choose([], tmp_path)


# RAPL


def test_mirrored_packages_are_one(tmp_path: Path) -> None:
    for index, value in enumerate((5_000_000_000, 5_000_000_020, 9_000_000_000)):
        zone(tmp_path, f"intel-rapl:{index}", f"package-{index // 2}-die-{index % 2}", 65_712_999_613, value)
    packages, memory = zones(tmp_path)
    assert [z.name for z in packages] == ["package-0-die-0", "package-1-die-0"] and not memory


def test_an_amd_has_packages_and_cores(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 65_532_610_987, 123)
    zone(tmp_path, "intel-rapl:0:0", "core", 65_532_610_987, 45)
    packages, memory = zones(tmp_path)
    assert [z.name for z in packages] == ["package-0"] and not memory


def test_a_machine_without_counters_is_told_so(tmp_path: Path) -> None:
    found = dict(probes("cpu", tmp_path))
    assert list(found) == ["rapl", "ina3221", "tegrastats", "codecarbon"]
    assert "no RAPL counters" in found["rapl"].reason and "modprobe" in found["rapl"].remedy
    assert "INA3221" in found["ina3221"].reason
    assert [name for name, _ in probes("cuda", tmp_path)] == ["nvml", "nvml-power", "ina3221", "tegrastats"]


def test_an_instrument_is_preferred_to_the_model(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 65_532_610_987, 123)
    assert open_source("cpu", tmp_path).name == "rapl"
    bench = HwmonBench(tmp_path / "jetson", [(0, 5.0)])
    assert open_source("cuda", bench.root).name == "ina3221"


# In real time


def test_a_real_sampler_reads_at_its_rate_and_ends(tmp_path: Path) -> None:
    bench = HwmonBench(tmp_path, [(0, 6.0)])
    before = threading.active_count()
    source = Ina3221(tmp_path)
    source.shortest, source.period = 0.2, 10.0  # a busy machine leaves no gaps
    source.start()
    assert threading.active_count() == before + 1
    threading.Event().wait(0.55)
    found = source.stop()
    assert threading.active_count() == before
    assert found.watts == pytest.approx(6.0) and 3 <= found.updates <= 9, found
    assert bench.machine.now == 0


def test_a_ticker_does_not_catch_up_on_ticks_it_missed() -> None:
    ticks: list[int] = []
    slow = threading.Event()

    def tick(_: str) -> None:
        ticks.append(1)
        slow.wait(0.1)

    ticker = Ticker(0.01)
    ticker.start(tick)
    threading.Event().wait(0.35)
    ticker.stop()
    count = len(ticks)
    assert 1 <= count <= 5
    threading.Event().wait(0.05)
    assert len(ticks) == count


# Carbon


def joules() -> Quantity:
    return Quantity(3.6e6, "J", 1.8e6, 7.2e6, 5, "measured", "a meter")


def test_carbon_is_the_energy_times_the_countrys_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    germany = carbon(joules())
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    france = carbon(joules())
    assert germany.unit == "g CO2e" and germany.provenance == "estimated" and "DEU" in germany.method
    assert germany.value > france.value > 0
    assert (germany.low, germany.high) == pytest.approx((germany.value / 2, germany.value * 2))


def test_carbon_without_a_country_says_it_is_the_worlds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd
) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE", raising=False)
    intensity.cache_clear()
    assert "world" in carbon(joules()).method
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "Germany")
    assert "three letters" in carbon(joules()).reason
    assert carbon(Quantity.missing("no meter", "J")).reason == "no meter"
    assert "codecarbon" not in "".join(capfd.readouterr()).lower()
    intensity.cache_clear()
