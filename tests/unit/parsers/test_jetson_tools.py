"""nvpmodel, jetson_clocks and the files that say which software a Jetson has."""

from __future__ import annotations

import pytest
from hypothesis import given

from bench.parsers import jetson_clocks, l4t, nvpmodel
from bench.parsers.jetson_clocks import Clock, Cpu, Fan
from tests.parser_checks import EXAMPLES, check_honest, fixture, hostile


@pytest.mark.parametrize(
    ("name", "mode", "mode_id", "fan", "problems"),
    [
        ("nano_jp4_verbose", "MAXN", 0, None, 1),
        ("xavier_jp4", "MODE_15W_DESKTOP", 7, "quiet", 0),
        ("orin_jp5_no_root", "MODE_30W", 2, "cool", 2),
        ("orin_nano_jp62", "MAXN_SUPER", 2, None, 0),
        ("thor_jp7", "120W", 1, None, 0),
    ],
)
def test_the_mode_in_force(name: str, mode: str, mode_id: int, fan: str | None, problems: int) -> None:
    query = nvpmodel.parse_query(fixture("nvpmodel", name))
    assert (query.mode, query.mode_id, query.fan_mode, len(query.problems)) == (mode, mode_id, fan, problems)
    assert not query.unknown


def test_verbose_shows_what_the_mode_sets_and_what_is_in_force() -> None:
    query = nvpmodel.parse_query(fixture("nvpmodel", "nano_jp4_verbose"))
    name = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"
    assert query.parameters[1] == nvpmodel.Parameter("CPU_A57", "MAX_FREQ", name, "1479000", "2147483647")


def test_a_number_belongs_to_the_mode_only_on_the_next_line() -> None:
    assert nvpmodel.parse_query("NV Power Mode: 15W\n\n2\n").mode_id is None
    assert nvpmodel.parse_query("2\n").unknown == ("2",)


def test_modes_of_the_configuration_file() -> None:
    modes = nvpmodel.parse_modes(fixture("nvpmodel_conf", "nano"))
    assert [(m.mode_id, m.name) for m in modes.modes] == [(0, "MAXN"), (1, "5W")] and modes.default_id == 0
    assert ("GPU", "MAX_FREQ", "-1") in modes.modes[0].settings and not modes.unknown
    assert ("CPU_ONLINE", "CORE_1", "0") in modes.modes[1].settings
    listed = nvpmodel.parse_modes(fixture("nvpmodel_conf", "listed_by_nvpmodel_p"))
    assert [(m.mode_id, m.name) for m in listed.modes] == [(0, "15W"), (1, "25W"), (2, "MAXN_SUPER")]
    assert listed.default_id is None and not listed.unknown


def test_clocks_of_a_nano() -> None:
    shown = jetson_clocks.parse(fixture("jetson_clocks", "nano_jp4"))
    assert (shown.soc, shown.machine, shown.online_cpus) == ("tegra210", "jetson-nano", "0-3")
    assert shown.cpus[0] == Cpu(0, True, "schedutil", 102000, 1479000, 825600, {"WFI": True, "c7": True})
    assert shown.clocks["GPU"] == Clock(None, 76800000, 921600000, 153600000, None)
    assert shown.clocks["EMC"].override is False and shown.fans == (Fan(None, "fan", 80),)
    assert shown.power_mode == "MAXN" and shown.pinned is False and not shown.unknown


def test_pinned_clocks_of_an_orin_with_cores_off() -> None:
    shown = jetson_clocks.parse(fixture("jetson_clocks", "agx_orin_jp5"))
    assert shown.pinned is True and shown.cpus[2].online is False and shown.clocks["EMC"].override is True
    assert shown.clocks["DLA0_CORE"] == Clock(True, 0, 1600000000, 1600000000, None)
    assert shown.clocks["PVA0_AXI"].max_hz == 832000000
    assert shown.fans == (Fan("active", "hwmon2_pwm1", 55),) and not shown.unknown


def test_thor_names_its_gpu_differently_and_prints_no_online() -> None:
    shown = jetson_clocks.parse(fixture("jetson_clocks", "thor_jp7"))
    assert shown.pinned is True and shown.cpus[1].index == 13 and shown.cpus[1].online is None
    assert shown.clocks["gpu-gpc-0"].now_hz == 1575000000 and shown.clocks["PVA0_VPS0"].online is False
    assert [fan.name for fan in shown.fans] == ["hwmon1_pwm1", "hwmon1_pwm1_enable"] and not shown.unknown
    assert jetson_clocks.parse(fixture("jetson_clocks", "orin_nano_jp6")).active_tpcs == 4


def test_without_root_nothing_is_known() -> None:
    shown = jetson_clocks.parse(fixture("jetson_clocks", "no_root"))
    assert shown.pinned is None and shown.cpus == () and len(shown.problems) == 1


def test_a_broken_clock_is_none_and_not_zero() -> None:
    shown = jetson_clocks.parse(
        "cpu0: Online=1 MinFreq=x MaxFreq= CurrentFreq=nan\nGPU MinFreq=1e3 MaxFreq=5"
    )
    assert shown.cpus[0] == Cpu(0, True, None, None, None, None, None)
    assert shown.clocks["GPU"] == Clock(None, None, 5, None, None) and shown.pinned is None


@pytest.mark.parametrize(
    ("name", "version", "jetpack"),
    [
        ("release_jp461", "32.7.1", "4.6.1"),
        ("release_jp62", "36.4.3", "6.2"),
        ("release_jp72", "39.2.0", "7.2"),
    ],
)
def test_release(name: str, version: str, jetpack: str) -> None:
    release = l4t.parse_release(fixture("l4t", name))
    assert (release.version, release.jetpack) == (version, jetpack) and not release.unknown
    assert release.facts["EABI"] == "aarch64" and release.facts["GCID"].isdigit()


def test_an_unknown_release_has_no_jetpack() -> None:
    assert l4t.jetpack("36.4") == "6.1" and l4t.jetpack("36.4.99") is None and l4t.jetpack("") is None
    release = l4t.parse_release("# R99 (release), REVISION: 1.0, BOARD: generic")
    assert release.version == "99.1.0" and release.jetpack is None


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        (b"NVIDIA Jetson AGX Orin Developer Kit\0", "NVIDIA Jetson AGX Orin Developer Kit"),
        ("Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5 Model B Rev 1.0"),
        (b"\0", None),
        ("", None),
    ],
)
def test_model(raw: str | bytes, model: str | None) -> None:
    assert l4t.parse_model(raw) == model


@pytest.mark.parametrize(
    ("text", "version", "build", "missing"),
    [
        ("nvidia-jetpack\t6.2.1+b38\n", "6.2.1", "+b38", False),
        ("'4.6.1-b110'", "4.6.1", "-b110", False),
        ("7.2", "7.2", None, False),
        ("dpkg-query: no packages found matching nvidia-jetpack\n", None, None, True),
    ],
)
def test_package(text: str, version: str | None, build: str | None, missing: bool) -> None:
    package = l4t.parse_package(text)
    assert (package.version, package.build, package.missing, package.unknown) == (version, build, missing, ())


@EXAMPLES
@given(hostile("nvpmodel"))
def test_hostile_nvpmodel(text: str) -> None:
    check_honest(nvpmodel.parse_query(text), text)


@EXAMPLES
@given(hostile("nvpmodel_conf"))
def test_hostile_nvpmodel_conf(text: str) -> None:
    check_honest(nvpmodel.parse_modes(text), text)


@EXAMPLES
@given(hostile("jetson_clocks"))
def test_hostile_jetson_clocks(text: str) -> None:
    shown = jetson_clocks.parse(text)
    check_honest(shown, text)
    assert shown.pinned in (True, False, None)


@EXAMPLES
@given(hostile("l4t"))
def test_hostile_release_model_and_package(text: str) -> None:
    release, package = l4t.parse_release(text), l4t.parse_package(text)
    assert release.version is None or release.version.partition(".")[2] in text
    assert package.version is None or package.version in text
    model = l4t.parse_model(text)
    assert model is None or model in text
