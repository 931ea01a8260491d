"""What is read of a machine, on stand-ins for machines nobody has here and on garbage."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure import environment, gpu, system
from bench.measure.memory import device_memory
from tests import machines
from tests.machines import CPU, StandInNvml, plant, process, stat


def test_a_desktop(tmp_path: Path) -> None:
    found = environment.describe(tmp_path, plant(tmp_path, machines.desktop()))
    cpu = found["cpu"]
    assert cpu["model"] == "Example CPU" and cpu["features"] == ["avx", "avx2", "fma", "avx512_vnni"]
    assert (cpu["governor"], cpu["driver"], cpu["turbo"], cpu["smt"]) == (
        "powersave",
        "intel_pstate",
        True,
        True,
    )
    assert (cpu["physical_cores"], cpu["core_mhz"], cpu["max_mhz"]) == (2, [3000] * 4, 4200.0)
    assert cpu["cpuset"] == "0-3" and cpu["cgroup_cpus"] is None
    assert found["machine"]["hypervisor"] is None and found["machine"]["model"] == "Tower 1"
    assert found["machine"]["steal_share_since_boot"] == 0.0
    assert found["temperatures_c"] == {"x86_pkg_temp": 45.0}, "PMIC-Die's 100 is a placeholder"
    assert found["load"] == [0.1, 0.2, 0.3]
    assert found["memory"] == {
        "total_mb": 16384.0,
        "available_mb": 12288.0,
        "swap_used_mb": 0.0,
        "cgroup_mb": None,
    }


def test_a_virtual_machine(tmp_path: Path) -> None:
    found = environment.describe(tmp_path, plant(tmp_path, machines.virtual()))
    assert found["machine"]["hypervisor"] == "QEMU Standard PC"
    assert found["machine"]["steal_share_since_boot"] == pytest.approx(0.1)
    assert found["cpu"]["governor"] is None and found["cpu"]["turbo"] is None


def test_stolen_time_that_is_never_reported_is_missing_not_zero(tmp_path: Path) -> None:
    files = machines.virtual() | {"proc/stat": stat((900, 0, 0, 9000, 0, 0, 0, 0))}
    found = environment.describe(tmp_path, plant(tmp_path, files))
    assert found["machine"]["steal_share_since_boot"] is None


def test_a_jetson(tmp_path: Path) -> None:
    found = environment.describe(tmp_path, plant(tmp_path, machines.jetson()))
    assert found["machine"]["power_mode"] == "MODE_15W"
    assert found["machine"]["model"] == "NVIDIA Jetson AGX Xavier"
    assert found["machine"]["hypervisor"] is None
    assert "asimddp" in found["cpu"]["features"] and found["cpu"]["core_mhz"] == [1190, 1190]


def test_an_empty_root_says_that_nothing_is_known(tmp_path: Path) -> None:
    found = environment.describe(tmp_path, tmp_path)
    for key in ("governor", "turbo", "smt", "mhz", "max_mhz", "physical_cores", "cgroup_cpus", "cpuset"):
        assert found["cpu"][key] is None, key
    assert set(found["memory"].values()) == {None} and found["load"] is None


def test_what_identifies_the_hardware_ignores_what_changes(tmp_path: Path) -> None:
    before = environment.describe(tmp_path, plant(tmp_path / "a", machines.desktop()))
    busy = machines.desktop() | {
        "proc/loadavg": "9 9 9 1/1 1",
        "proc/cpuinfo": machines.cpuinfo(mhz=800.0),
        "sys/class/thermal/thermal_zone0/temp": "99000",
        f"{CPU}/intel_pstate/no_turbo": "1",
        f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
        "sys/fs/cgroup/user.slice/shell.scope/cpu.max": "50000 100000",
    }
    after = environment.describe(tmp_path, plant(tmp_path / "b", busy))
    assert after != before and environment.hardware(after) == environment.hardware(before)


@pytest.mark.parametrize(
    ("folder", "value", "state"),
    [
        ("intel_pstate/no_turbo", "1", False),
        ("intel_pstate/no_turbo", "0", True),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_turbo(tmp_path: Path, folder: str, value: str, state: bool) -> None:
    assert environment.turbo(plant(tmp_path, {f"{CPU}/{folder}": value})) is state


def test_mixed_governors_are_all_named(tmp_path: Path) -> None:
    files = machines.desktop() | {f"{CPU}/cpu1/cpufreq/scaling_governor": "performance"}
    found = environment.describe(tmp_path, plant(tmp_path, files))
    assert found["cpu"]["governor"] == "performance, powersave"


@pytest.mark.parametrize(
    ("supplies", "battery"),
    [
        ({"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery"}, True),
        ({"AC/type": "Mains", "AC/online": "1"}, False),
        ({"hid/type": "Battery", "hid/online": "1"}, None),
        ({}, None),
    ],
)
def test_battery(tmp_path: Path, supplies: dict[str, str], battery: bool | None) -> None:
    root = plant(tmp_path, {f"sys/class/power_supply/{k}": v for k, v in supplies.items()})
    assert environment.describe(tmp_path, root)["machine"]["on_battery"] is battery


# Control groups


def test_the_tightest_limit_of_all_groups_holds_v2(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/memory.max": "2000000000",
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/cpu.stat": "usage_usec 1\nnr_throttled 3\nthrottled_usec 250000\n",
        },
    )
    assert system.cpu_limit(root) == (1.5, root / "sys/fs/cgroup/a/cpu.max")
    assert system.memory_limit_mb(root) == 2000.0
    assert system.quota_waited(root) == 0.25


def test_the_limits_of_v1(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.stat": "nr_throttled 2\nthrottled_time 500000000\n",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1000000000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert system.cpu_limit(root)[0] == 0.5
    assert system.memory_limit_mb(root) == 1000.0
    assert system.quota_waited(root) == 0.5


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../../host/path\n", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert system.cpu_limit(plant(tmp_path, files))[0] == 2.0


def test_no_limit_means_that_no_waiting_for_it_is_claimed(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}
    root = plant(tmp_path, files | {"sys/fs/cgroup/cpu.stat": "throttled_usec 9\n"})
    assert system.cpu_limit(root) == (None, None) and system.quota_waited(root) is None


# Counters


def test_cpu_time_of_the_cpus_that_are_ours(tmp_path: Path) -> None:
    text = stat((100, 20, 30, 500, 5, 1, 2, 40), (1000, 0, 0, 0, 0, 0, 0, 0))
    found = system.cpu_time(text, {0})
    assert found is not None and found.cpus == 1
    assert found.busy == pytest.approx(153 * system.TICK)
    assert found.stolen == pytest.approx(40 * system.TICK) and found.idle == pytest.approx(505 * system.TICK)
    assert found.stolen_share == pytest.approx(40 / 193)
    assert system.cpu_time(text, {17}) == system.cpu_time(text), "CPUs that are not there: all of them"


def test_a_process_name_may_look_like_fields(tmp_path: Path) -> None:
    root = plant(tmp_path, process(7, 150, 50, name="a) S 1 (b"))
    assert system.process_cpu(7, root) == pytest.approx(200 * system.TICK)
    assert system.process_cpu(8, root) is None


def test_the_cpu_time_of_this_process_is_the_one_that_the_kernel_reports() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc")
    times = os.times()
    found = system.process_cpu(os.getpid())
    assert found is not None and found == pytest.approx(times.user + times.system, abs=0.2)


def test_waiting_is_summed_over_threads(tmp_path: Path) -> None:
    files = {
        "proc/7/task/7/schedstat": "5 1500000000 3",
        "proc/7/task/8/schedstat": "5 500000000 3",
        "proc/7/task/9/schedstat": "",
    }
    assert system.process_waited(7, plant(tmp_path, files)) == pytest.approx(2.0)
    assert system.process_waited(8, tmp_path) is None


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"proc/cpuinfo": "flags : avx2"}, None),
        ({"proc/cpuinfo": "flags : avx2 hypervisor"}, "unknown"),
        ({"proc/cpuinfo": "flags : hypervisor", "sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/cpuinfo": "Features : asimd"}, None),
        ({"proc/cpuinfo": "Features : asimd", "sys/class/dmi/id/sys_vendor": "QEMU"}, "QEMU"),
        (
            {
                "proc/cpuinfo": "Features : asimd",
                "sys/class/dmi/id/sys_vendor": "Amazon EC2",
                "sys/class/dmi/id/product_name": "c7g.metal",
            },
            None,
        ),
        (
            {
                "proc/cpuinfo": "Features : asimd",
                "proc/device-tree/hypervisor/compatible": "linux,kvm\0",
            },
            "linux,kvm",
        ),
    ],
)
def test_hypervisors(tmp_path: Path, files: dict[str, str], name: str | None) -> None:
    assert system.hypervisor(plant(tmp_path, files)) == name


# Garbage

GARBAGE = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [
                "cpu", "cpu0", "cpu1", " ", "\n", "\n", "\t", ":", "::", "-", ",", "/", "..", "\0", ")", "(", "0", "1", "-1", "7",
                "99999999999999999999999", "1e400", "nan", "inf", "max", "²", "some", "total=", "cpu MHz", "flags", "pmode:",
                "hypervisor", "18446744073709551615", "0-999999999999", "throttled_usec", "throttled_time", "SwapTotal", "kB",
            ]
        ),
        max_size=40,
    ).map("".join),
)  # fmt: skip


@given(text=GARBAGE)
def test_parsers_take_any_text(text: str) -> None:
    for parse in (system.cpu_time, system.cpuinfo, system.counters, system.pressure, system.cpu_quota):
        parse(text)
    assert all(0 <= cpu < system.MOST_CPUS for cpu in system.cpu_list(text))
    quota = system.cpu_quota(text)
    assert quota is None or 0 < quota < float("inf")
    for value in (system.pressure(text), system.number(text)):
        json.dumps(value, allow_nan=False)


@given(cpus=st.sets(st.integers(0, 300), max_size=20))
def test_cpu_lists_are_read_back(cpus: set[int]) -> None:
    assert system.cpu_list(",".join(map(str, sorted(cpus)))) == cpus


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_machine_of_garbage_is_described_as_json(data: st.DataObject) -> None:
    files = {**machines.desktop(), **machines.jetson(), "sys/fs/cgroup/cpu.max": "", **process(1, 1, 1)}
    garbage = {name: data.draw(GARBAGE) for name in data.draw(st.sets(st.sampled_from(sorted(files))))}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plant(root, files)
        clean = environment.describe(root, root)
        for name, text in garbage.items():
            (root / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        found = json.loads(json.dumps(environment.describe(root, root), allow_nan=False))
    assert found.keys() == clean.keys() and found["cpu"].keys() == clean["cpu"].keys()


# NVIDIA GPUs


def test_a_gpu_is_described_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = StandInNvml("nvmlDeviceGetMigMode", nvmlDeviceGetCurrentClocksThrottleReasons=0x1 | 0x4 | 0x40)
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: nvml)
    (found,), reason = gpu.describe()
    assert reason == "" and nvml.closed
    assert (found["name"], found["driver"], found["memory_mb"]) == ("Example GPU", "580.1", 8000.0)
    assert found["throttle_reasons"] == ["idle", "power cap", "heat (hardware)"]
    assert (found["power_limit_w"], found["persistence"], found["mig"]) == (300.0, False, None)


def test_a_driver_that_does_not_answer_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: StandInNvml("nvmlInit"))
    assert gpu.describe() == ([], "NVML: nvmlInit is not supported")
    nvml = StandInNvml("nvmlDeviceGetCount")
    monkeypatch.setattr(gpu.importlib, "import_module", lambda _: nvml)
    assert gpu.describe()[0] == [] and nvml.closed


def test_the_memory_a_process_holds_on_gpus_is_found_or_not_known() -> None:
    used = [SimpleNamespace(pid=77, usedGpuMemory=512_000_000), SimpleNamespace(pid=8, usedGpuMemory=None)]
    card = gpu.Nvml(StandInNvml(nvmlDeviceGetCount=2, nvmlDeviceGetComputeRunningProcesses=used))
    assert card.used_mb(77) == 1024.0 and card.used_mb(8) is None and card.used_mb(9) is None
    assert gpu.Nvml(StandInNvml("nvmlDeviceGetComputeRunningProcesses")).used_mb(77) is None


@pytest.mark.parametrize(
    ("given", "value", "words"),
    [
        (("cpu", None, None), None, "runs on the CPU"),
        (("cuda", 640.0, 512.0), 640.0, "NVML"),
        (("cuda", None, 512.0), 512.0, "allocator"),
        (("cuda", None, None), None, "NVML does not see"),
    ],
)
def test_device_memory_says_whose_figure_it_is(given, value: float | None, words: str) -> None:
    found = device_memory(*given)
    assert found.value == value and words in (found.method or found.reason)
