"""One suite that every energy source passes, on stand-ins for machines with its sensor."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.agent import lines
from bench.measure.power import (
    Nothing,
    NvmlCounter,
    Tegrastats,
    Window,
    idle,
    open_source,
    per_image,
    tegrastats,
)
from bench.measure.power.nvml import Card
from tests.power_standins import (
    BENCHES,
    Bench,
    IioBench,
    NvmlBench,
    NvmlPowerBench,
    RaplBench,
    TegrastatsBench,
    Trace,
    energy,
)  # fmt: skip

MODEL = ("codecarbon",)
COUNTERS = ("rapl", "nvml", "codecarbon")


@pytest.fixture(params=BENCHES, ids=lambda b: b.name)
def kind(request: pytest.FixtureRequest) -> type[Bench]:
    return request.param


@pytest.fixture
def make(kind: type[Bench], tmp_path: Path):
    """A bench with a trace of power."""
    return lambda trace: kind(tmp_path, trace)


def bound(bench: Bench, trace: Trace) -> float:
    """Joules: the height of every step (those at the ends included) for as long as the sensor may miss it."""
    heights = [abs(b - a) for (_, a), (_, b) in pairwise(trace)]
    return bench.resolution * sum(heights) + 0.002 * max(w for _, w in trace)


def test_the_probe_says_what_it_counts_and_leaves_nothing_running(make) -> None:
    before = threading.active_count()
    bench = make([(0, 5.0)])
    probe = bench.source.probe()
    assert probe.available and bench.device in probe.devices and not probe.reason
    assert bench.source.covers and bench.source.name and bench.device in bench.source.devices
    assert bench.machine.feeding == 0 and threading.active_count() <= before


def test_constant_power(make) -> None:
    bench = make([(0, 8.0)])
    reading, _ = bench.window(5.0)
    assert reading.reason == ""
    assert reading.seconds == pytest.approx(5.0, abs=0.25)
    assert reading.watts == pytest.approx(8.0, rel=0.002)
    assert reading.updates >= 1 and reading.method and reading.mode
    assert reading.provenance == ("estimated" if bench.name in MODEL else "measured")
    assert reading.covers == bench.source.covers


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    phase=st.floats(0.0, 0.2),
    steps=st.lists(st.tuples(st.floats(0.05, 1.5), st.integers(1, 40)), min_size=1, max_size=6),
)
def test_steps_are_integrated_within_what_the_sensor_can_see(
    kind: type[Bench], tmp_path_factory: pytest.TempPathFactory, phase: float, steps: list
) -> None:
    trace: Trace = [(0.0, 5.0)]
    for length, watts in steps:
        trace.append((trace[-1][0] + length, float(watts)))
    bench = kind(tmp_path_factory.mktemp("machine"), trace)
    bench.machine.sleep(phase)
    reading, _ = bench.window(4.0)
    end = bench.machine.now
    assert reading.joules == pytest.approx(
        energy(trace, end - reading.seconds, end), abs=bound(bench, trace) + 0.004 * 40
    )


def test_a_second_window_counts_only_itself(make) -> None:
    bench = make([(0, 30.0), (6.0, 10.0)])
    bench.window(5.0)
    bench.machine.sleep(2.0)
    reading, _ = bench.window(5.0)
    assert reading.watts == pytest.approx(10.0, rel=0.002)


def test_idle_is_subtracted(make) -> None:
    """6 W idle, 10 W at work: 4 W are the model's, from whatever source."""
    bench = make([(0, 6.0), (10.0, 10.0), (15.0, 6.0)])
    source, machine = bench.source, bench.machine
    machine.sleep(2.0)
    before = idle(source, machine)
    machine.sleep(10.0 - machine.now)
    gross, _ = bench.window(5.0)
    machine.sleep(0.2)
    found = per_image([Window(gross, before, idle(source, machine))], [1000])
    if bench.name in MODEL:
        assert before is None and "idle not subtracted" in found.method
        assert found.value == pytest.approx(50.0, rel=0.01) and found.provenance == "estimated"
    else:
        assert found.value == pytest.approx(20.0, rel=0.03), found.reason
        assert "before 6 W, after 6 W" in found.method and found.provenance == "measured"
    assert (found.unit, found.n, found.low) == ("mJ/image", 1, None)


def test_a_window_too_short_for_the_sensor_is_refused_and_says_the_least(make) -> None:
    bench = make([(0, 8.0)])
    reading, _ = bench.window(bench.source.shortest * 0.4)
    assert reading.joules is None and reading.watts is None
    assert "too short" in reading.reason and f"at least {bench.source.shortest:g} s" in reading.reason


@pytest.mark.parametrize("value", [0, -256])
def test_an_impossible_answer_is_missing_not_a_number(make, value: int) -> None:
    bench = make([(0, 8.0)])
    bench.source.prepare()
    bench.source.start()
    bench.answer(value)
    bench.machine.sleep(5.0)
    reading = bench.source.stop()
    assert reading.joules is None and reading.reason
    found = per_image([Window(reading)], [10])
    assert found.value is None and found.reason == reading.reason


def test_a_sensor_that_vanishes_is_a_reason_then_and_later(make) -> None:
    bench = make([(0, 8.0)])
    bench.source.start()
    bench.machine.sleep(2.5)
    bench.vanish()
    bench.machine.sleep(2.5)
    first = bench.source.stop()
    second, _ = bench.window(3.0)
    assert first.joules is None and first.reason and second.joules is None and second.reason
    bench.source.close()
    assert bench.machine.feeding == 0


def test_a_long_gap_is_missing_and_a_short_one_is_said(make) -> None:
    bench = make([(0, 8.0)])
    for silence, seconds in ((2.0, 6.0), (0.5, 20.0)):
        bench.source.start()
        bench.machine.sleep(1.0)
        bench.machine.silent = True
        bench.machine.sleep(silence)
        bench.machine.silent = False
        bench.machine.sleep(seconds - 1.0 - silence)
        reading = bench.source.stop()
        if bench.name in COUNTERS:  # they go on counting while nobody reads them
            assert reading.watts == pytest.approx(8.0, rel=0.002) and "bridged" not in reading.method
        elif silence == 2.0:
            assert reading.joules is None and "silent for 2." in reading.reason
        else:
            assert reading.watts == pytest.approx(8.0, rel=0.002) and "bridged" in reading.method


def test_stopping_without_a_start_and_closing_twice_are_harmless(make) -> None:
    bench = make([(0, 8.0)])
    assert bench.source.stop().joules is None
    bench.source.start()
    bench.source.close()
    bench.source.close()
    assert bench.machine.feeding == 0


def test_open_source_takes_the_first_that_is_there(make) -> None:
    bench = make([(0, 8.0)])
    absent, unfit = Nothing(bench.device, "not here"), Nothing("tpu", "another device")
    assert open_source(bench.device, known=lambda root: [absent, unfit, bench.source]) is bench.source


def test_without_any_source_every_reason_is_given() -> None:
    absent = [Nothing("cpu", "no counters"), Nothing("cpu", "no model"), Nothing("cuda", "no card")]
    source = open_source("cpu", known=lambda root: absent)
    source.prepare()
    source.start()
    reading = source.stop()
    source.close()
    assert reading.joules is None and idle(source) is None
    assert "no counters" in reading.reason and "no model" in reading.reason and "card" not in reading.reason


# What only some sources have


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 20_000_000_000), seconds=st.floats(1.0, 150.0))
def test_a_rapl_counter_may_wrap_at_any_point(
    tmp_path_factory: pytest.TempPathFactory, first: int, seconds: float
) -> None:
    """A counter that goes round after 20 kJ (real ones: 65 kJ and more), in a minute, from any start."""

    class Anywhere(RaplBench):
        largest = 20_000_000_000

    Anywhere.first = first
    bench = Anywhere(tmp_path_factory.mktemp("machine"), [(0, 400.0)])
    reading, _ = bench.window(seconds)
    assert reading.joules == pytest.approx(400.0 * seconds, rel=1e-6)


def test_rapl_adds_packages_once_and_memory_apart(tmp_path: Path) -> None:
    """Not core (inside), psys (around), nor the second driver's view of the same package."""
    bench = RaplBench(tmp_path, [(0, 100.0)])
    reading, _ = bench.window(2.0)
    assert reading.watts == pytest.approx(100.0, rel=1e-3) and reading.covers == "2 CPU packages"
    assert reading.parts["dram"] == pytest.approx(2 * 0.1 * 200.0, rel=1e-3)


def test_a_rapl_counter_that_was_reset_is_no_wrap(tmp_path: Path) -> None:
    bench = RaplBench(tmp_path, [(0, 100.0)])
    bench.source.start()
    bench.machine.sleep(2.0)
    bench.answer(5)
    assert "jumped" in bench.source.stop().reason


def test_rapl_without_permission_says_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = RaplBench(tmp_path, [(0, 100.0)])
    read = Path.read_text

    def guarded(path: Path, *args, **kwargs) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    probe = bench.source.probe()
    assert not probe.available and "permission" in probe.reason
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in probe.remedy
    assert "udev" in probe.remedy
    reading, _ = bench.window(2.0)
    assert reading.joules is None and "permission" in reading.reason
    nothing = open_source("cpu", known=lambda root: [bench.source])
    assert "sudo chmod" in nothing.stop().reason


def test_both_ends_of_an_nvml_window_are_on_updates_of_the_counter(tmp_path: Path) -> None:
    """100 W for 3 s from between two updates on; looked at once, the counter would be 5 J short at each end."""
    bench = NvmlBench(tmp_path, [(0, 10.0), (7.03, 100.0), (10.08, 10.0)])
    bench.machine.sleep(7.03)
    reading, _ = bench.window(3.05 - 0.07)
    assert reading.joules == pytest.approx(energy(bench.machine.trace, 7.1, 10.1), abs=0.5)


def test_an_nvml_counter_that_starts_again_is_missing(tmp_path: Path) -> None:
    bench = NvmlBench(tmp_path, [(0, 100.0)])
    bench.source.start()
    bench.machine.sleep(3.0)
    bench.machine.trace = [(0, 1.0)]
    reading = bench.source.stop()
    assert reading.joules is None and "went by" in reading.reason


def test_one_rail_that_is_off_spoils_the_sum(tmp_path: Path) -> None:
    bench = IioBench(tmp_path, [(0, 8.0)])
    bench.machine.changed = lambda: None
    bench.files[0].write_text("-256\n")
    reading, _ = bench.window(3.0)
    assert reading.joules is None and "answered -256" in reading.reason


def test_a_window_of_tegrastats_begins_with_its_first_line(tmp_path: Path) -> None:
    bench = TegrastatsBench(tmp_path, [(0, 8.0)])
    reading, begin = bench.window(3.0)
    assert begin == pytest.approx(0.1, abs=0.01)
    assert reading.seconds == pytest.approx(3.0, abs=0.01)


def test_an_old_card_is_sampled_and_a_new_one_counted(tmp_path: Path) -> None:
    bench = NvmlPowerBench(tmp_path, [(0, 50.0)])
    probe = NvmlCounter(Card(bench.library, "0"), bench.machine).probe()
    assert not probe.available and "Not Supported" in probe.reason
    assert bench.source.probe().available
    assert bench.library.opened == 0


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("0,1", 0), ("GPU-8f3b,0", "GPU-8f3b"), ("", None), ("MIG-1", None)]
)
def test_the_card_is_the_one_a_worker_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: object
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    library = NvmlPowerBench(tmp_path, [(0, 50.0)]).library
    library.counts = True
    card = Card(library)
    probe = card.probe(card.joules)
    assert probe.available == (asked is not None) and library.opened == 0
    if asked is None:
        assert "CUDA_VISIBLE_DEVICES" in probe.reason
    else:
        assert library.asked == [asked]


# tegrastats is a program: it starts, says its lines, and is gone


@pytest.fixture
def script(tmp_path: Path):
    """A stand-in for tegrastats that prints one line again and again."""

    def write(body: str) -> tuple[str, ...]:
        path = tmp_path / "tegrastats"
        path.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\n" + body)
        path.chmod(0o755)
        return (str(path), "--interval", "100")

    return write


def _gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "pid").read_text())
    return not Path(f"/proc/{pid}").exists()


LINE = "RAM 1/2MB PMIC@100C GPU@37C POM_5V_IN 2513/9999 POM_5V_GPU 0/0 POM_5V_CPU 549/529"


def test_tegrastats_runs_while_a_window_is_open(script, tmp_path: Path) -> None:
    source = Tegrastats(tmp_path, command=script(f"while :; do echo '{LINE}'; sleep 0.05; done\n"))
    source.period = 10.0  # a busy machine leaves no gaps
    assert source.probe().available
    reading = idle(source)
    assert reading is not None and reading.watts == pytest.approx(2.513), reading
    assert "POM_5V_IN" in reading.covers and reading.updates > 3
    assert _gone(tmp_path)


def test_tegrastats_that_does_not_listen_is_killed(script, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "PATIENCE", 0.2)
    command = script(f"trap '' TERM\nwhile :; do echo '{LINE}'; sleep 0.05; done\n")
    source = Tegrastats(tmp_path, command=command)
    source.start()
    source.close()
    assert _gone(tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [("echo 'no power here'\nexec sleep 60\n", "may need root"), ("exit 3\n", "status 3")],
)
def test_tegrastats_that_says_nothing_useful_is_a_reason(
    script, tmp_path: Path, monkeypatch, body: str, words: str
) -> None:
    monkeypatch.setattr(tegrastats, "FIRST_LINE", 0.3)
    source = Tegrastats(tmp_path, command=script(body))
    source.shortest = 0.0
    source.start()
    reading = source.stop()
    assert reading.joules is None and words in reading.reason
    assert _gone(tmp_path)


def test_no_tegrastats_is_no_source(tmp_path: Path) -> None:
    source = Tegrastats(tmp_path, command=(str(tmp_path / "tegrastats"),))
    assert not source.probe().available
    source.shortest = 0.0
    source.start()
    assert "cannot be started" in source.stop().reason


def test_the_average_of_tegrastats_is_never_used(tmp_path: Path) -> None:
    bench = TegrastatsBench(tmp_path, [(0, 8.0)])
    assert "77mW" in bench.line()
    reading, _ = bench.window(3.0)
    assert reading.watts == pytest.approx(8.0)
