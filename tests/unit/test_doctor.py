"""`bench doctor`: each condition is seen on a stand-in, and every line that is not ok can be acted on."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import runtimes
from bench.hosts import open_host
from bench.measure import gpu
from bench.measure.doctor import Finding, Look, examine, look_around
from bench.measure.doctor.findings import remedy
from bench.measure.doctor.look import Timer
from bench.measure.system import TICK
from bench.runtimes.base import Probe
from tests import machines
from tests.machines import CPU, StandInNvml, plant, process, stat
from tests.unit.test_environment import GARBAGE


@pytest.fixture
def see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A look at a stand-in machine; all the software is there and nobody is root, unless changed."""

    def seen(files: dict[str, str], **changes) -> Look:
        monkeypatch.setattr(gpu, "open_nvml", lambda: (None, "NVML: not here"))
        found = look_around(plant(tmp_path, files), tmp_path, seconds=0.001)
        window = dataclasses.replace(found.window, other_cores=0.0, memory_pressure=0.0, cores=4)
        probes = (("runtime", "torch", Probe(True, "2")), ("cpu energy", "rapl", Probe(True, "1")))
        fixed = {
            "window": window,
            "probes": probes,
            "superuser": False,
            "free_gb": 100.0,
            "nvidia": False,
            "timer": Timer("tsc", ("tsc", "hpet"), 60.0, 20.0),
        }
        return dataclasses.replace(found, **(fixed | changes))

    return seen


def of(findings: list[Finding], check: str) -> Finding:
    return next(f for f in findings if f.check == check)


def bad(findings: list[Finding]) -> dict[str, str]:
    return {f.check: f.grade for f in findings if f.grade != "ok"}


def quiet() -> dict[str, str]:
    """The desktop after its owner did what the doctor says."""
    performance = {f"{CPU}/cpu{i}/cpufreq/scaling_governor": "performance" for i in range(4)}
    return machines.desktop() | performance | {f"{CPU}/smt/active": "0", f"{CPU}/intel_pstate/no_turbo": "1"}


def test_a_prepared_machine_has_nothing_to_mend(see) -> None:
    assert bad(examine(see(quiet()))) == {}


def test_a_desktop_as_it_comes(see) -> None:
    found = examine(see(machines.desktop()))
    assert bad(found) == {"governor": "warning", "turbo": "warning", "SMT": "warning"}
    governor = of(found, "governor").command
    assert governor == f"echo performance | sudo tee /{CPU}/cpu*/cpufreq/scaling_governor"
    assert of(found, "turbo").command == f"echo 1 | sudo tee /{CPU}/intel_pstate/no_turbo"


def test_a_superuser_needs_no_sudo(see) -> None:
    found = examine(see(machines.desktop(), superuser=True))
    assert not any("sudo" in f.command for f in found)


CONDITIONS = [
    ({f"{CPU}/cpu0/cpufreq/scaling_driver": "acpi-cpufreq"}, {}, None, None),
    ({"sys/class/thermal/thermal_zone0/temp": "90000"}, {}, "temperature", "warning"),
    ({"sys/class/thermal/thermal_zone0/temp": "99000"}, {}, "temperature", "problem"),
    ({f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "12"}, {}, "throttling", "warning"),
    ({"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 500000 kB"}, {}, "memory", "problem"),
    (
        {"proc/meminfo": "MemAvailable: 9000000 kB\nSwapTotal: 4000000 kB\nSwapFree: 0 kB"},
        {},
        "swap",
        "warning",
    ),
    ({"sys/fs/cgroup/user.slice/memory.max": "2000000000"}, {}, "memory", "warning"),
    ({"sys/fs/cgroup/user.slice/cpu.max": "150000 100000"}, {}, "CPU quota", "problem"),
    ({"sys/firmware/acpi/platform_profile": "low-power"}, {}, "power mode", "warning"),
    (
        {"sys/class/power_supply/AC/type": "Mains", "sys/class/power_supply/AC/online": "0"},
        {},
        "power supply",
        "problem",
    ),
    (
        {"sys/class/hwmon/hwmon1/name": "rpi_volt", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1"},
        {},
        "power supply",
        "problem",
    ),
    (
        {"sys/class/hwmon/hwmon1/name": "rpi_volt", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0"},
        {},
        None,
        None,
    ),
    ({"proc/self/smaps_rollup": ""}, {}, "process memory", "problem"),
    ({}, {"free_gb": 0.5}, "disk", "problem"),
    ({}, {"free_gb": 3.0}, "disk", "warning"),
    ({}, {"timer": Timer("hpet", ("tsc", "hpet"), 1500.0, 70.0)}, "timer", "problem"),
    ({}, {"timer": Timer("acpi_pm", ("acpi_pm",), 900.0, 279.0)}, "timer", "warning"),
    ({}, {"probes": ()}, None, None),
]


@pytest.mark.parametrize(("files", "changes", "check", "grade"), CONDITIONS)
def test_each_condition_is_the_only_thing_seen(see, files, changes, check, grade) -> None:
    found = examine(see(quiet() | files, **changes))
    assert bad(found) == ({check: grade} if check else {})


def test_something_that_waits_for_memory_is_a_problem(see) -> None:
    seen = see(quiet())
    window = dataclasses.replace(seen.window, memory_pressure=0.2)
    found = examine(dataclasses.replace(seen, window=window))
    assert any("waited for memory 20%" in f.text and f.grade == "problem" for f in found)


def test_a_hot_machine_tells_the_temperature(see) -> None:
    found = of(examine(see(quiet() | {"sys/class/thermal/thermal_zone0/temp": "90000"})), "temperature")
    assert "90 °C" in found.text and "x86_pkg_temp" in found.text and found.command


def test_a_quota_that_may_be_lifted_here_and_one_that_may_not(see) -> None:
    files = quiet() | {"sys/fs/cgroup/user.slice/cpu.max": "150000 100000"}
    seen = dataclasses.replace(see(files), quota_writable=True)
    command = of(examine(seen), "CPU quota").command
    assert command.startswith("echo max | sudo tee /") and command.endswith("user.slice/cpu.max")
    found = of(examine(dataclasses.replace(seen, quota_writable=False)), "CPU quota")
    assert not found.command and "--cpuset-cpus" in found.todo


def test_a_clock_held_at_its_lowest_is_a_problem(see) -> None:
    files = {f"{CPU}/cpu{i}/cpufreq/scaling_driver": "acpi-cpufreq" for i in range(4)}
    found = examine(see(machines.desktop() | files | {f"{CPU}/cpufreq/boost": "1"}))
    assert of(found, "governor").grade == "problem" and "lowest" in of(found, "governor").text


def test_boost_without_intel(see) -> None:
    files = {f"{CPU}/cpu{i}/cpufreq/scaling_driver": "amd-pstate-epp" for i in range(4)}
    files = {k: v for k, v in (machines.desktop() | files).items() if "no_turbo" not in k}
    found = of(examine(see(files | {f"{CPU}/cpufreq/boost": "1"})), "turbo")
    assert found.command == f"echo 0 | sudo tee /{CPU}/cpufreq/boost"


def test_a_virtual_machine_says_what_cannot_be_mended(see) -> None:
    seen = see(machines.virtual(), probes=(("cpu energy", "rapl", Probe(False, reason="no counters")),))
    window = dataclasses.replace(seen.window, steal_share=0.2)
    found = examine(dataclasses.replace(seen, window=window))
    assert bad(found) == {"machine": "warning", "steal": "problem", "cpu energy": "warning"}
    for f in found:
        assert f.grade == "ok" or "from inside a virtual machine" in f.todo
    assert "10.0%" in of(found, "steal").text and "20.0% just now" in of(found, "steal").text


def test_stolen_time_that_is_not_reported_is_not_zero(see) -> None:
    files = machines.virtual() | {"proc/stat": stat(*[(900, 0, 0, 9000, 0, 0, 0, 0)] * 2)}
    assert "does not report" in of(examine(see(files)), "steal").text


@pytest.mark.parametrize(
    ("used", "grade"), [(0.1, "ok"), (0.5, "warning"), (1.5, "problem"), (None, "warning")]
)
def test_load(see, used: float | None, grade: str) -> None:
    seen = see(quiet())
    window = dataclasses.replace(seen.window, other_cores=used, cores=4)
    busiest = ((4242, "compiler", 0.9),)
    found = of(examine(dataclasses.replace(seen, window=window, busiest=busiest)), "load")
    assert found.grade == grade and ("compiler (pid 4242) 0.9" in found.text) == (used is not None)


def test_the_busiest_processes_beside_us_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, busy, calm = os.getpid(), 4242, 4243
    root = plant(tmp_path, machines.desktop())
    for pid, name in ((ours, "bench"), (busy, "compiler"), (calm, "shell")):
        plant(root, process(pid, 100, 0, name))

    def half_a_second_later(_: float) -> None:
        plant(root, process(busy, 140, 5, "compiler") | process(ours, 150, 0) | process(calm, 101, 0))

    monkeypatch.setattr("bench.measure.doctor.look.time.sleep", half_a_second_later)
    found = look_around(root, tmp_path, seconds=0.5)
    assert found.busiest == ((busy, "compiler", pytest.approx(45 * TICK / 0.5)),)


def test_a_jetson(see) -> None:
    found = examine(see(machines.jetson()))
    assert "MODE_15W" in of(found, "power mode").text
    assert of(found, "power mode").command == "sudo nvpmodel -m 0 && sudo jetson_clocks"
    meters = tuple(("cpu energy", n, Probe(False, reason=f"no {n}")) for n in ("rapl", "ina3221"))
    found = of(examine(see(machines.jetson(), probes=meters)), "cpu energy")
    assert "no ina3221" in found.text and "rapl" not in found.text, "a Jetson cannot have RAPL"


def test_a_hot_board_whose_clock_follows_the_load(see) -> None:
    found = examine(see(machines.jetson()))
    assert of(found, "governor").grade == "warning" and of(found, "temperature").grade == "warning"


# Software and energy


def test_what_is_missing_comes_with_its_command(see) -> None:
    hint = 'pip install "edgefit[litert]"'
    litert = Probe(
        False, reason="the package ai-edge-litert is not installed", remedy=f"Install it with: {hint}"
    )
    tensorrt = Probe(False, reason="not installed", remedy="It comes with JetPack")
    probes = (
        ("runtime", "torch", Probe(True, "2")),
        ("runtime", "litert", litert),
        ("runtime", "tensorrt", tensorrt),
    )
    found = examine(see(quiet(), probes=probes))
    assert [f.command for f in found if f.grade != "ok"] == [hint], "TensorRT is of no use without a GPU"
    with_gpu = examine(see(quiet(), probes=probes, nvidia=True))
    assert any("tensorrt" in f.text and f.todo == "It comes with JetPack" for f in with_gpu)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_that_is_missing_says_what_to_do(
    see, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    probe = runtimes.get(name).probe(open_host("local"))
    assert not probe.available
    todo, command = remedy(probe)
    assert todo or command
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and shlex.split(command) is not None, command


def test_no_runtime_at_all_is_a_problem(see) -> None:
    probes = (("runtime", "torch", Probe(False, reason="x", remedy="Install it with: pip install torch")),)
    assert of(examine(see(quiet(), probes=probes)), "runtimes").grade == "problem"


def test_a_model_of_the_cpu_is_no_instrument(see) -> None:
    rapl = Probe(
        False,
        reason="RAPL: no permission",
        remedy="sudo chmod a+r /sys/x   # until the next boot; for good:\necho y",
    )
    probes = (("cpu energy", "rapl", rapl), ("cpu energy", "codecarbon", Probe(True, "3")))
    found = of(examine(see(quiet(), probes=probes)), "cpu energy")
    assert found.grade == "warning" and "no permission" in found.text and "codecarbon" in found.text
    assert found.command == "sudo chmod a+r /sys/x"


@pytest.mark.parametrize(
    ("text", "todo", "command"),
    [
        ("Install it with: pip install torch", "", "pip install torch"),
        ("sudo chmod a+r x", "", "sudo chmod a+r x"),
        (
            "Install it with: pip install x (from the vendor's index)",
            "from the vendor's index",
            "pip install x",
        ),
        (
            "On bare-metal x86: sudo modprobe intel_rapl_msr; machines have none",
            "",
            "sudo modprobe intel_rapl_msr",
        ),
        ("Ask the vendor:\nnicely", "Ask the vendor: nicely", ""),
    ],
)
def test_remedies(text: str, todo: str, command: str) -> None:
    assert remedy(Probe(False, remedy=text)) == (todo, command)
    assert remedy(Probe(False))[0]


# GPUs


def test_a_gpu_as_it_comes(see) -> None:
    hot = StandInNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x40, nvmlDeviceGetMigMode=(1, 1))
    cards = gpu.Nvml(hot).describe()
    seen = see(quiet(), nvidia=True, gpu_users=((0, 77), (0, 78)))
    found = examine(dataclasses.replace(seen, environment=seen.environment | {"gpus": cards}))
    lines = {f.text.partition(":")[0]: f for f in found if f.check == "GPU 0" and f.grade != "ok"}
    assert lines["persistence mode is off"].command == "sudo nvidia-smi -i 0 -pm 1"
    assert lines["its clock is held back now"].grade == "problem"
    assert lines["the power limit is 300 W, 350 W by default"].command.endswith("-pl 350")
    assert lines["split by MIG"].command.endswith("-mig 0")
    assert "2 other processes on it" in lines
    assert any("-lgc 1980,1980" in f.command for f in lines.values())


def test_a_driver_that_does_not_answer(see) -> None:
    found = of(examine(see(quiet(), nvidia=True)), "GPU")
    assert found.grade == "warning" and found.command == "nvidia-smi"


# Every line


def everything(see) -> list[Finding]:
    card = gpu.Nvml(StandInNvml(nvmlDeviceGetCurrentClocksThrottleReasons=0x4, nvmlDeviceGetMigMode=(1, 1)))
    seen = []
    for files in (machines.desktop(), machines.virtual(), machines.jetson(), quiet()):
        one = see(files, nvidia=True, gpu_users=((0, 1),))
        seen.append(dataclasses.replace(one, environment=one.environment | {"gpus": card.describe()}))
    seen += [see(quiet() | files, **changes) for files, changes, _, _ in CONDITIONS]
    return [finding for one in seen for finding in examine(one)]


def test_every_line_that_is_not_ok_says_what_to_do_and_commands_are_single_lines(see) -> None:
    findings = everything(see)
    assert {"ok", "warning", "problem"} == {f.grade for f in findings}
    for f in findings:
        assert f.text and "\n" not in f.text + f.todo + f.command
        assert f.grade == "ok" or f.command or f.todo, f
        assert f.grade != "ok" or not f.command, f
        if f.command:
            assert f.command.isprintable() and shlex.split(f.command), f


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_shell_can_parse_every_command(see) -> None:
    script = "\n".join(sorted({f.command for f in everything(see) if f.command}))
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_machine_of_garbage_is_examined(data: st.DataObject) -> None:
    files = machines.desktop() | machines.jetson()
    garbage = {name: data.draw(GARBAGE) for name in data.draw(st.sets(st.sampled_from(sorted(files))))}
    with tempfile.TemporaryDirectory() as folder:
        root = plant(Path(folder), files)
        for name, text in garbage.items():
            (root / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        for f in examine(look_around(root, root, seconds=0.001)):
            assert f.grade == "ok" or f.command or f.todo
            assert "\n" not in f.command


# The command


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from bench.cli import main; main()", "doctor", *arguments]
    inherited = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=inherited, timeout=120)


def test_the_command_is_readable_at_80_columns() -> None:
    done = doctor(COLUMNS="80")
    assert done.returncode == 0 and done.stderr == ""
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert all(len(line) <= 80 for line in lines if not line.lstrip().startswith("$"))
    assert "Nothing was changed" in lines[-1]


def test_the_command_answers_with_one_json_document() -> None:
    done = doctor("--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["schema"] == 1
    assert {f["grade"] for f in document["findings"]} <= {"ok", "warning", "problem"}
    assert document["environment"]["cpu"]["cores"] >= 1 and document["window"]["seconds"] > 0
