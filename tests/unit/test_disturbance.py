"""Marks: what the machine did while calls were timed, on stand-ins."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure.disturbance import Disturbance, Snapshot, compare, snapshot
from bench.measure.gpu import Nvml
from bench.measure.system import TICK, CpuTime
from bench.types import to_json
from tests import machines
from tests.machines import StandInNvml, plant, process, stat
from tests.unit.test_environment import GARBAGE

QUIET = Snapshot(
    at=100.0,
    cpu=CpuTime(4, busy=50.0, stolen=5.0, idle=300.0),
    own=10.0,
    waited=1.0,
    mhz=(800.0, 3000.0),
    throttles={"cpu0 core": 2, "cpu1 core": 2, "cpu0 package": 4},
    pressure={"cpu": 3.0, "memory": 1.0},
    quota_waited=None,
    hypervisor=None,
    undervoltage=False,
)


def after(seconds: float = 2.0, own: float = 2.0, busy: float | None = None, **changes) -> Snapshot:
    """``QUIET`` some seconds later, in which only the worker worked unless said otherwise."""
    assert QUIET.cpu is not None and QUIET.own is not None
    stolen = changes.pop("stolen", 0.0)
    spent = own if busy is None else busy
    cpu = CpuTime(4, QUIET.cpu.busy + spent, QUIET.cpu.stolen + stolen, QUIET.cpu.idle + 4 * seconds - spent)
    return dataclasses.replace(QUIET, at=QUIET.at + seconds, cpu=cpu, own=QUIET.own + own, **changes)


def test_a_quiet_machine_has_no_marks() -> None:
    found = compare(QUIET, after())
    assert found.marks == ()
    assert (found.own_cores, found.other_cores, found.steal_share, found.throttles) == (1.0, 0.0, 0.0, 0)
    assert (found.mhz_before, found.mhz_after) == (3000.0, 3000.0)
    assert set(found.unread) == {"quota_seconds"}


@pytest.mark.parametrize(
    ("later", "mark"),
    [
        (after(busy=3.4), "other processes used 0.7 of 4 cores"),
        (after(waited=1.3), "the worker waited for a CPU for 13% of its time"),
        (after(mhz=(800.0, 2500.0)), "the CPU's clock fell from 3000 to 2500 MHz"),
        (after(undervoltage=True), "the power supply was too weak: the board caps its clock then"),
        (
            after(throttles={"cpu0 core": 2, "cpu1 core": 5, "cpu0 package": 5}),
            "the CPU throttled 3 times from heat",
        ),
        (
            after(throttles={"cpu0 core": 3, "cpu1 core": 2, "cpu0 package": 4}),
            "the CPU throttled 1 time from heat",
        ),
        (
            after(pressure={"cpu": 3.0, "memory": 1.1}),
            "processes waited for memory 5% of the time",
        ),
    ],
)
def test_one_disturbance_earns_one_mark(later: Snapshot, mark: str) -> None:
    assert compare(QUIET, later).marks == (mark,)


@pytest.mark.parametrize(
    "later",
    [
        after(busy=2.2),
        after(waited=1.02),
        after(mhz=(3000.0, 2950.0)),
        after(mhz=(800.0, 3600.0)),
        after(pressure={"cpu": 5.0, "memory": 1.0}),
    ],
)
def test_small_or_harmless_changes_earn_none(later: Snapshot) -> None:
    assert compare(QUIET, later).marks == ()


def test_stolen_time_is_a_share_of_the_time_that_was_wanted() -> None:
    """One of 64 mostly idle CPUs: 8% of the machine's time would be 0.1%."""
    before = dataclasses.replace(QUIET, hypervisor="KVM", cpu=CpuTime(64, 50.0, 5.0, 300.0))
    cpu = CpuTime(64, 51.84, 5.16, 426.0)
    later = dataclasses.replace(before, at=102.0, own=11.84, cpu=cpu)
    found = compare(before, later)
    assert found.steal_share == pytest.approx(0.08)
    assert found.marks == ("the hypervisor took 8% of the CPU time during the timing",)
    assert found.mhz_after is None and "virtual machine" in found.unread["mhz_after"]


def test_a_hypervisor_that_reports_nothing_is_not_called_quiet() -> None:
    before = dataclasses.replace(QUIET, hypervisor="unknown", cpu=CpuTime(4, 50.0, 0.0, 300.0))
    found = compare(before, dataclasses.replace(before, at=102.0, own=12.0, cpu=CpuTime(4, 52.0, 0.0, 306.0)))
    assert found.steal_share is None and "reports no stolen time" in found.unread["steal_share"]


def test_a_quota_that_held_the_worker_back() -> None:
    before = dataclasses.replace(QUIET, quota_waited=1.0)
    assert compare(before, after(quota_waited=1.0)).marks == ()
    found = compare(before, after(quota_waited=1.25))
    assert found.quota_seconds == 0.25 and "held the worker back for 0.25 s" in found.marks[0]


def test_a_window_of_a_few_ticks_is_not_judged() -> None:
    found = compare(QUIET, after(seconds=0.1, own=0.1, busy=0.4))
    assert found.other_cores is None and "shorter than" in found.unread["other_cores"]
    assert found.marks == ()


def test_a_tick_of_rounding_is_no_disturbance() -> None:
    before = dataclasses.replace(QUIET, cpu=CpuTime(1, 50.0, 5.0, 300.0))
    later = dataclasses.replace(before, at=100.25, own=10.23, cpu=CpuTime(1, 50.23 + TICK, 5.0 + TICK, 300.0))
    assert compare(before, later).marks == ()


def test_everything_unread_has_a_reason() -> None:
    nothing = Snapshot(0.0, None, None, None, (), {}, {}, None, None)
    found = compare(nothing, dataclasses.replace(nothing, at=1.0))
    empty = {k for k, v in vars(found).items() if v is None}
    assert empty - {"cores"} == set(found.unread) and all(found.unread.values()) and found.marks == ()


def test_gpus_are_judged_by_the_time_they_were_held_back() -> None:
    def state(held: int, **answers) -> list:
        nvml = StandInNvml(
            nvmlDeviceGetViolationStatus=type("V", (), {"violationTime": held})(),
            nvmlDeviceGetCurrentClocksThrottleReasons=0x4,
            **answers,
        )
        return Nvml(nvml).state()

    before = dataclasses.replace(QUIET, gpus=state(10**9))
    found = compare(before, after(gpus=state(10**9 + 10**9)))
    assert found.gpus[0]["held_share"] == {"power": 0.5, "heat": 0.5}
    assert "heat held GPU 0's clock back for 50% of the timing" in found.marks
    assert compare(before, after(gpus=state(10**9))).marks == ()


def test_gpus_without_these_counters_are_judged_by_the_two_moments() -> None:
    quiet = Nvml(StandInNvml("nvmlDeviceGetViolationStatus")).state()
    hot = Nvml(
        StandInNvml("nvmlDeviceGetViolationStatus", nvmlDeviceGetCurrentClocksThrottleReasons=0x40)
    ).state()
    before = dataclasses.replace(QUIET, gpus=quiet)
    assert compare(before, after(gpus=quiet)).marks == ()
    assert compare(before, after(gpus=hot)).marks == ("GPU 0's clock was held back: heat (hardware)",)


def test_snapshots_of_a_stand_in(tmp_path: Path) -> None:
    files = machines.desktop() | process(7, 100, 0) | {"proc/7/task/7/schedstat": "1 0 1"}
    first = snapshot(7, root=plant(tmp_path, files), cpus={0, 1, 2, 3})
    plant(tmp_path, process(7, 190, 10) | {"proc/stat": stat(*[(200, 0, 50, 9000, 10, 1, 1, 0)] * 4)})
    second = dataclasses.replace(snapshot(7, root=tmp_path, cpus={0, 1, 2, 3}), at=first.at + 2.0)
    found = compare(first, second)
    assert found.own_cores == pytest.approx(100 * TICK / 2)
    assert found.other_cores == pytest.approx(300 * TICK / 2)


def test_this_machine_is_judged_as_json() -> None:
    first = snapshot(os.getpid())
    found = compare(first, dataclasses.replace(snapshot(os.getpid()), at=first.at + 0.5))
    assert isinstance(found, Disturbance)
    assert json.loads(json.dumps(to_json(found), allow_nan=False))["seconds"] == pytest.approx(0.5)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_garbage_is_compared_without_an_error(data: st.DataObject) -> None:
    files = machines.desktop() | process(7, 1, 1) | {"proc/7/task/7/schedstat": "1 0 1"}
    read = [name for name in files if name.startswith("proc") or "throttle" in name]
    garbage = {name: data.draw(GARBAGE) for name in data.draw(st.sets(st.sampled_from(sorted(read))))}
    with tempfile.TemporaryDirectory() as folder:
        first = snapshot(7, root=plant(Path(folder), files))
        for name, text in garbage.items():
            (Path(folder) / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        second = dataclasses.replace(snapshot(7, root=Path(folder)), at=first.at + 1.0)
    for before, after in ((first, second), (second, dataclasses.replace(first, at=second.at + 1.0))):
        found = json.loads(json.dumps(to_json(compare(before, after)), allow_nan=False))
        assert found["seconds"] == pytest.approx(1.0)
        assert all(found[name] is None or found[name] >= 0 for name in ("own_cores", "other_cores"))
