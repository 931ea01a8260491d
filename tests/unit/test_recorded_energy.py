"""Energy read again from what an agent wrote down: the joules are those of the trace, whatever the sensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.hosts.captured import laid_out, write
from bench.measure.power.recorded import meter
from bench.types import Json

ZONE = "sys/class/powercap/intel-rapl:0"
HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
ORIN = {"proc/device-tree/compatible": "nvidia,p3767-0005\0nvidia,tegra234\0"}
RAPL = {f"{ZONE}/name": "package-0", f"{ZONE}/max_energy_range_uj": "1000000000", f"{ZONE}/energy_uj": "5"}
INA = ORIN | {f"{HWMON}/in1_label": "VDD_IN", f"{HWMON}/in1_input": "5000", f"{HWMON}/curr1_input": "1000"}


def watts(second: float) -> float:
    """2 W at rest, 10 W from second 2 to second 5."""
    return 10.0 if 2.0 <= second < 5.0 else 2.0


def joules(second: float) -> float:
    return 2.0 * second + 8.0 * (min(max(second, 2.0), 5.0) - 2.0)


WINDOWS = {
    "before": [0.501, 1.601],
    "steady": [2.001, 5.001],
    "after": [5.301, 6.401],
}  # the agent samples as it opens one


def recording(row) -> Json:
    seconds = [i / 10 for i in range(70)]
    return {"rows": [[t, row(t)] for t in seconds], "windows": WINDOWS, "problem": ""}


def rapl(t: float) -> Json:
    return {f"{ZONE}/energy_uj": str(int(5 + joules(t) * 1e6))}


def ina(t: float) -> Json:
    return {f"{HWMON}/in1_input": "5000", f"{HWMON}/curr1_input": str(int(watts(t) * 200))}


def tegrastats(t: float) -> str:
    return f"RAM 1/2MB (lfb 1x1MB) CPU [1%@100] GPU@37C VDD_IN {int(watts(t) * 1000)}mW/3000mW"


@pytest.mark.parametrize(
    ("files", "programs", "row", "name"),
    [(RAPL, [], rapl, "rapl"), (INA, [], ina, "ina3221"), (ORIN, ["tegrastats"], tegrastats, "tegrastats")],
)
def test_a_recording_gives_the_energy_of_its_trace(files, programs, row, name) -> None:
    with laid_out(files) as root:
        found = meter(files, programs, "cpu", root)
    assert found.name == name and not found.reason
    window = found.replay(recording(row), files)
    assert window is not None and window.gross.provenance == "measured"
    assert window.gross.joules == pytest.approx(30.0, rel=0.05)
    assert window.idle_watts == pytest.approx(2.0, rel=0.02)
    assert window.net().value == pytest.approx(24.0, rel=0.06)


def test_what_the_agent_must_record_is_named_for_each_sensor() -> None:
    with laid_out(INA) as root:
        assert meter(INA, [], "cpu", root).sensor["files"] == [f"{HWMON}/in1_input", f"{HWMON}/curr1_input"]
    with laid_out(ORIN) as root:
        assert meter(ORIN, ["tegrastats"], "cpu", root).sensor["command"][0] == "tegrastats"


def test_without_a_sensor_the_reasons_are_told_and_there_is_no_window() -> None:
    with laid_out({}) as root:
        found = meter({}, [], "cpu", root)
    assert "RAPL" in found.reason and "INA3221" in found.reason and "tegrastats" in found.reason
    assert found.replay({"rows": [], "windows": {}}, {}) is None


def test_a_sensor_that_fell_silent_gives_no_figure_but_a_reason() -> None:
    with laid_out(ORIN) as root:
        found = meter(ORIN, ["tegrastats"], "cpu", root)
    broken = {"rows": [], "windows": WINDOWS, "problem": "tegrastats ended by itself with status 1"}
    window = found.replay(broken, ORIN)
    assert window is not None and window.gross.joules is None
    assert "status 1" in window.gross.reason


def test_files_of_a_device_stay_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(
        root,
        {
            "../out": "x",
            "/etc/out": "x",
            "a/../../out": "x",
            "": "x",
            "a\0b": "x",
            "ok/file": "yes",
            "n": None,
        },
    )
    assert [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] == ["ok/file"]
    assert not (tmp_path / "out").exists()
