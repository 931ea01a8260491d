"""Lines of tegrastats from the Nano to the Thor."""

from __future__ import annotations

import pytest
from hypothesis import given

from bench.parsers.tegrastats import Core, Engine, Power, parse, parse_line
from tests.parser_checks import EXAMPLES, check_honest, fixture, fixtures, hostile


@pytest.mark.parametrize("text", fixtures("tegrastats"))
def test_nothing_of_a_real_line_is_left_over(text: str) -> None:
    log = parse(text)
    assert len(log.samples) == text.count("\n") and not log.unknown and not log.truncated
    assert not any(sample.unknown for sample in log.samples)


def test_nano() -> None:
    first, second = parse(fixture("tegrastats", "nano_jp4")).samples
    assert (first.ram_used_mb, first.ram_total_mb, first.swap_used_mb, first.swap_total_mb) == (
        1598,
        3956,
        12,
        1978,
    )
    assert first.cores == (
        Core(0, True, 10, 1479),
        Core(1, False),
        Core(2, True, 5, 1479),
        Core(3, True, 7, 921),
    )
    assert first.engines["GR3D_FREQ"] == Engine(True, 37, (921,)) and first.engines["APE"] == Engine(
        True, None, (25,)
    )
    assert first.power == {
        "POM_5V_IN": Power(2532, 2532),
        "POM_5V_GPU": Power(0, 41),
        "POM_5V_CPU": Power(331, 329),
    }
    assert first.temperatures_c == {"PLL": 34.0, "CPU": 37.0, "GPU": 35.5, "AO": 43.5, "thermal": 36.25}
    assert first.dropped == ("PMIC@100C",) and first.stamp is None
    assert second.power["POM_5V_IN"].now_mw == 4872 and second.gpu_load_percent == 99


def test_the_same_name_is_a_temperature_with_an_at_and_power_with_a_slash() -> None:
    (sample,) = parse(fixture("tegrastats", "agx_xavier_jp4")).samples
    assert sample.temperatures_c["GPU"] == 37.0 and sample.power["GPU"] == Power(0, 0)
    assert sample.power["CPU"] == Power(310, 432) and "PMIC" not in sample.temperatures_c
    assert [core.online for core in sample.cores] == [True] * 4 + [False] * 4


def test_a_sensor_that_is_off_reads_minus_256_and_measures_nothing() -> None:
    (sample,) = parse(fixture("tegrastats", "agx_orin_jp5")).samples
    assert sample.stamp == "03-11-2023 14:22:05"
    assert "GPU" not in sample.temperatures_c and sample.temperatures_c["tj"] == 43.125
    assert sample.dropped == ("CV0@-256C", "CV1@-256C", "GPU@-256C", "CV2@-256C", "NC 0mW/0mW", "NC 0mW/0mW")
    assert sample.power["VDD_GPU_SOC"] == Power(2411, 2402) and sample.engines["VIC_FREQ"].clocks_mhz == (
        729,
    )


def test_orin_since_jetpack_6_has_a_clock_per_gpu_cluster() -> None:
    (sample,) = parse(fixture("tegrastats", "agx_orin_jp6")).samples
    assert sample.engines["GR3D_FREQ"] == Engine(True, 42, (611, 0)) and sample.engines["NVDLA0"] == Engine(
        False
    )
    (nx,) = parse(fixture("tegrastats", "orin_nx_jp6")).samples
    assert nx.engines["GR3D_FREQ"] == Engine(True, 91, (917,)) and nx.engines["NVDLA0"] == Engine(
        True, 88, (614,)
    )
    assert nx.power["VDD_IN"] == Power(18120, 15987)


def test_thor_prints_no_load_then_a_peak() -> None:
    (old,) = parse(fixture("tegrastats", "thor_jp70")).samples
    assert old.gpu_load_percent is None and old.engines["GR3D_FREQ"].clocks_mhz == (0, 314, 314)
    assert old.power["VDD_CPU_SOC_MSS"] == Power(4923, 4544) and len(old.cores) == 14
    (new,) = parse(fixture("tegrastats", "thor_jp72")).samples
    assert new.power["VDD_CPU_SOC_MSS"] == Power(7960, 8335, 8710) and new.gpu_load_percent == 87
    assert new.temperatures_c["cpu"] == 34.312


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        ("GR3D_FREQ 101%", ("GR3D_FREQ", "101%")),
        ("VDD_IN nanmW/5mW", ("VDD_IN", "nanmW/5mW")),
        ("VDD_IN 12345678901mW/5mW", ("VDD_IN", "12345678901mW/5mW")),
        ("CPU [5%@729,1e3%@729]", ("CPU 1: 1e3%@729",)),
        ("cpu@infC", ("cpu@infC",)),
        ("FUTURE_TOKEN value", ("FUTURE_TOKEN", "value")),
    ],
)
def test_what_is_not_understood_is_kept(words: str, unknown: tuple[str, ...]) -> None:
    sample = parse_line(f"RAM 1/2MB {words} VDD_SOC 3mW/4mW")
    assert sample.unknown == unknown and sample.power == {"VDD_SOC": Power(3, 4)} and sample.ram_total_mb == 2


def test_a_line_of_something_else_is_no_sample() -> None:
    log = parse("bash: tegrastats: command not found\n")
    assert log.samples == () and log.unknown == ("bash: tegrastats: command not found",)


@EXAMPLES
@given(hostile("tegrastats"))
def test_hostile_text_never_raises_and_invents_nothing(text: str) -> None:
    check_honest(parse(text), text, skip=("index",))
    check_honest(parse_line(text), text, skip=("index",))
