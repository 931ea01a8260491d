"""What an Android phone says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given

from bench.parsers import adb, dumpsys, executor_runner, odpm
from bench.parsers.dumpsys import Cooler, Sensor
from bench.parsers.odpm import Rail
from tests.parser_checks import EXAMPLES, check_honest, fixture, hostile


def test_battery() -> None:
    battery = dumpsys.parse_battery(fixture("dumpsys_battery", "pixel"))
    assert (battery.level, battery.scale, battery.voltage_mv, battery.temperature_c) == (78, 100, 4152, 27.4)
    assert (battery.status, battery.health, battery.plugged_in, battery.present) == (
        "charging",
        "good",
        True,
        True,
    )
    assert (battery.charge_counter_uah, battery.max_charging_current_ua, battery.dock) == (
        3270000,
        500000,
        False,
    )
    assert battery.updates_stopped is False and battery.unknown == ("  Charging state: 0",)


def test_a_vendors_log_below_does_not_change_the_battery_and_frozen_values_are_told() -> None:
    battery = dumpsys.parse_battery(fixture("dumpsys_battery", "samsung_stopped"))
    assert (battery.level, battery.voltage_mv, battery.status, battery.plugged_in) == (
        75,
        4156,
        "discharging",
        False,
    )
    assert battery.updates_stopped is True and "  level: 12" in battery.unknown


def test_an_empty_answer_knows_nothing() -> None:
    battery = dumpsys.parse_battery("Can't find service: battery\n")
    assert battery.level is None and battery.temperature_c is None and battery.plugged_in is None
    assert dumpsys.parse_thermal("").status is None and dumpsys.parse_power("").screen_on is None


def test_temperatures_read_now_are_kept_apart_from_cached_ones() -> None:
    thermal = dumpsys.parse_thermal(fixture("dumpsys_thermal", "pixel"))
    assert thermal.status == 2 and thermal.severity == "moderate"
    assert thermal.sensors == (
        Sensor("BIG", "CPU", 62.500004, 0),
        Sensor("G3D", "GPU", 41.0, 0),
        Sensor("VIRTUAL-SKIN", "skin", 39.793081, 2),
        Sensor("battery", "battery", 27.4, 0),
    )
    assert thermal.cached == (Sensor("BIG", "CPU", 65.0, 0),)
    assert thermal.coolers == (Cooler("thermal-cpufreq-0", 3), Cooler("tpu_cooling", 0))
    # a voltage and a NaN are no temperatures
    assert [line.split("mName=")[1][:4] for line in thermal.unknown if "mName" in line] == ["vbat", "TPU,"]


def test_without_a_thermal_hal_there_are_no_sensors() -> None:
    thermal = dumpsys.parse_thermal(fixture("dumpsys_thermal", "no_hal"))
    assert thermal.status == 0 and thermal.severity == "none" and thermal.sensors == ()


def test_screen() -> None:
    awake = dumpsys.parse_power(fixture("dumpsys_power", "awake"))
    assert (awake.display, awake.wakefulness, awake.screen_on) == ("ON", "Awake", True)
    assert (awake.plugged_in, awake.stay_on, awake.interactive, awake.saver, awake.idle_mode) == (
        True,
        True,
        True,
        False,
        False,
    )
    asleep = dumpsys.parse_power(fixture("dumpsys_power", "asleep_new"))
    assert (asleep.display, asleep.wakefulness, asleep.screen_on, asleep.interactive) == (
        None,
        "Dozing",
        False,
        None,
    )


def test_several_phones() -> None:
    found = adb.parse_devices(fixture("adb_devices", "several"))
    assert [(d.serial, d.state) for d in found.devices] == [
        ("R58M12ABCDE", "device"),
        ("0123456789ABCDEF", "unauthorized"),
        ("192.168.1.20:37005", "device"),
        ("emulator-5554", "offline"),
        ("ZY22ABCD", "no permissions"),
    ]
    assert found.devices[0].facts["usb"] == "1-1" and found.devices[2].model == "Pixel_7"
    assert [d.ready for d in found.devices] == [True, False, True, False, False]
    assert "udev rules" in found.devices[4].hint and not found.unknown


def test_the_short_form_and_no_phone() -> None:
    short = adb.parse_devices(fixture("adb_devices", "short"))
    assert [d.state for d in short.devices] == ["device", "no permissions"] and short.devices[0].facts == {}
    none = adb.parse_devices(fixture("adb_devices", "none"))
    assert none.devices == () and none.unknown == ()
    assert adb.parse_devices("R58M\tdevicex\n").unknown == ("R58M\tdevicex",)


def test_properties_may_be_empty_span_lines_and_hold_brackets() -> None:
    properties = adb.parse_properties(fixture("getprop", "pixel"))
    assert properties.values == {
        "ro.product.model": "Pixel 8",
        "ro.build.version.release": "16",
        "ro.board.platform": "zuma",
        "persist.empty": "",
        "ro.two.lines": "first\nsecond",
        "ro.brackets": "a]b",
    }
    assert properties.unknown == ()
    assert adb.parse_properties("[a]: [b\nc\n").unknown == ("[a]: [b", "c")


def test_energy_of_two_monitors() -> None:
    energies = odpm.parse_energies(fixture("odpm", "pixel6"))
    assert energies.read_ms == (349894, 359458) and not energies.unknown
    assert energies.rails[1] == Rail(0, 3, "S2M_VDD_CPUCL2", 349894, 30203502)
    assert energies.rails[3] == Rail(1, 6, "S2S_VDD_G3D", 359460, 3702041607)
    enabled = odpm.parse_enabled(fixture("odpm", "enabled"))
    assert enabled.rails == ((0, "S10M_VDD_TPU", "Tensor"), (3, "S2M_VDD_CPUCL2", "CPU"))


def test_power_is_the_difference_and_a_clock_or_counter_that_stands_or_falls_gives_none() -> None:
    first, second = (odpm.parse_energies(fixture("odpm", name)) for name in ("pixel6", "pixel6_later"))
    power = odpm.watts(first, second)
    assert power == {(0, "S10M_VDD_TPU"): 0.0, (0, "S2M_VDD_CPUCL2"): pytest.approx(1.5)}


def test_broken_energies_are_kept_as_unknown() -> None:
    energies = odpm.parse_energies("t=nan\nCH0(T=5)[RAIL], -1\nCH1(T=5)[RAIL], " + "9" * 400)
    assert energies.rails == () and energies.read_ms == () and len(energies.unknown) == 3


def test_executor_runner_as_an_android_build_logs_it() -> None:
    run = executor_runner.parse(fixture("executor_runner", "new_logcat"))
    assert (run.threads, run.load_ms, run.shapes, run.buffers) == (2, 12.345678, "2x3x32x32", (786432, 4096))
    assert run.iterations[:2] == ((1, 9.504219), (2, 1.731042)) and len(run.iterations) == run.planned == 6
    assert (run.executed, run.executions, run.total_ms, run.outputs) == (True, 6, 16.435261, 1)
    assert (run.model, run.method) == ("/data/local/tmp/edgefit/objects/resnet8.pte", "forward")
    assert not run.errors and [line.split()[0] for line in run.unknown] == ["OutputX"]


def test_executor_runner_of_older_releases() -> None:
    total = executor_runner.parse(fixture("executor_runner", "total_only_logcat"))
    assert (total.executions, total.total_ms, total.planned, total.iterations) == (25, 198.437512, None, ())
    oldest = executor_runner.parse(fixture("executor_runner", "oldest_posix"))
    assert oldest.executed and (oldest.executions, oldest.total_ms, oldest.load_ms) == (None, None, None)
    assert oldest.buffers == (6422528,) and oldest.model == "mv2.pte" and oldest.threads is None
    raw = executor_runner.parse(fixture("executor_runner", "lost_lines_raw"))
    assert [at for at, _ in raw.iterations] == [998, 999, 1000] and raw.executions == 1000 and not raw.unknown


def test_executor_runner_with_the_event_tracer() -> None:
    run = executor_runner.parse(fixture("executor_runner", "tracer_posix"))
    assert (run.etdump, run.iterations, run.threads) == ("model.etdump", ((1, 4.5), (2, 1.625)), None)
    assert not run.errors and not run.unknown


def test_executor_runner_that_fails() -> None:
    assert executor_runner.parse(fixture("executor_runner", "unknown_flag")).errors == (
        "ERROR: unknown command line flag 'input_shapes'",
    )
    lost = executor_runner.parse(fixture("executor_runner", "no_backend"))
    assert "XnnpackBackend" in lost.errors[0] and "Loading of method forward failed" in lost.errors[1]
    assert not lost.executed and lost.unknown == ("Aborted",)
    assert len(executor_runner.parse(fixture("executor_runner", "not_a_program")).errors) == 2


def test_executor_runner_without_a_time_is_not_guessed() -> None:
    run = executor_runner.parse(
        "Iteration 1 of 2: nan ms\nIteration 2 of 2: -1.0 ms\nModel executed successfully 2 time(s) in inf ms."
    )
    assert run.iterations == () and not run.executed and run.total_ms is None and len(run.unknown) == 3
    many = executor_runner.parse("\n".join(f"Iteration {i} of 20000: 1.5 ms" for i in range(1, 20_001)))
    assert many.truncated and len(many.iterations) == executor_runner.MOST_ITERATIONS


@EXAMPLES
@given(hostile("executor_runner"))
def test_hostile_executor_runner(text: str) -> None:
    run = executor_runner.parse(text)
    check_honest(run, text)
    assert all(word is None or word in text for word in (run.model, run.method, run.shapes, run.etdump))
    assert all(ms >= 0 for _, ms in run.iterations)


@EXAMPLES
@given(hostile("dumpsys_battery"))
def test_hostile_battery(text: str) -> None:
    battery = dumpsys.parse_battery(text)
    check_honest(battery, text)
    assert battery.plugged_in in (True, False, None) and (
        battery.status is None or battery.status_code is not None
    )


@EXAMPLES
@given(hostile("dumpsys_thermal"))
def test_hostile_thermal(text: str) -> None:
    check_honest(dumpsys.parse_thermal(text), text)


@EXAMPLES
@given(hostile("dumpsys_power"))
def test_hostile_power(text: str) -> None:
    power = dumpsys.parse_power(text)
    assert power.screen_on in (True, False, None)
    assert all(word is None or word in text for word in (power.display, power.wakefulness))


@EXAMPLES
@given(hostile("adb_devices"))
def test_hostile_devices(text: str) -> None:
    for device in adb.parse_devices(text).devices:
        assert device.serial in text and device.state in text and device.state in adb.STATES


@EXAMPLES
@given(hostile("getprop"))
def test_hostile_properties(text: str) -> None:
    for name, value in adb.parse_properties(text).values.items():
        assert name in text and all(line in text for line in value.split("\n"))


@EXAMPLES
@given(hostile("odpm"))
def test_hostile_odpm(text: str) -> None:
    energies = odpm.parse_energies(text)
    check_honest(energies, text, skip=("device",))
    check_honest(odpm.parse_enabled(text), text)
    assert all(power >= 0 for power in odpm.watts(energies, energies).values())
