"""Profiles drafted from a device: what it says is written down with where it was read, and whatever it says, the file is valid."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bench import device_facts
from hardware_profiles import load
from hardware_profiles.draft import draft

NVPMODEL = """
< PARAM TYPE=CLOCK NAME=GPU >
MAX_FREQ /sys/devices/platform/gpu/max_freq
# the modes
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
CPU_ONLINE CORE_1 1
CPU_A78_0 MAX_FREQ 1497600
CPU_A78_1 MAX_FREQ 1497600
GPU MAX_FREQ 612000000
EMC MAX_FREQ 2133000000

< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
CPU_ONLINE CORE_1 0
CPU_A78_0 MAX_FREQ -1
GPU MAX_FREQ -1
EMC MAX_FREQ 0

< PM_CONFIG DEFAULT=2 >
"""
ORIN = {
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "/proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nprocessor\t: 1\n",
    "/proc/meminfo": "MemTotal:        7802340 kB\nMemFree:  1 kB\n",
    "/sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "1728000\n",
    "/sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "/etc/nvpmodel.conf": NVPMODEL,
}
SERVER = {
    "/sys/class/dmi/id/product_name": "PowerEdge R750\n",
    "/proc/cpuinfo": "".join(
        f"processor\t: {i}\nmodel name\t: Intel(R) Xeon(R) Gold 6338\nphysical id\t: 0\ncore id\t: {i % 2}\nflags\t: avx2 avx512_vnni\n\n"
        for i in range(4)
    ),
    "/proc/meminfo": "MemTotal:       263000000 kB\n",
}


def _facts(files, commands=None):
    return device_facts.gather(
        lambda path: files.get(path, ""), lambda argv: (commands or {}).get(argv[0], "")
    )


def _profile(facts, name="mine", host="local"):
    text = draft(name, facts, host)
    return load.from_document(load.parse_toml(text), "mine.toml", text)


def test_a_jetson_is_drafted_with_its_chip_and_power_modes():
    commands = {
        "uname": "aarch64\n",
        "lscpu": "Architecture: aarch64\n  Model name:  Cortex-A78AE\n",
        "nvidia-smi": "Orin (nvgpu), [N/A], [N/A], [N/A], [N/A], 540.4.0\n",
    }
    profile = _profile(_facts(ORIN, commands), host="ssh")
    facts = {key: fact.value for key, fact in profile.facts.items()}
    assert (profile.kind, profile.host, profile.int8_scheme) == ("edge-gpu", "ssh", "s8s8")
    assert profile.title.startswith("NVIDIA Jetson Orin Nano") and profile.runtimes == ("tensorrt",)
    assert set(profile.precisions) == {"fp32", "tf32", "fp16", "int8"}
    assert facts["cpu"] == "Cortex-A78AE" and facts["cpu_cores"] == 2 and facts["cpu_mhz"] == 1728
    assert facts["memory_gb"] == 8.0 and facts["gpu_clock_mhz"] == 1020 and facts["jetson_linux"] == "R36.4.3"
    assert facts["compute_capability"] == "8.7" and "tdp_w" not in facts
    assert profile.facts["jetson_linux"].source == "read on the device with /etc/nv_tegra_release"
    first, second = profile.power_modes
    assert (first["id"], first["name"], first["cpu_cores"]) == (0, "15W", 2)
    assert (first["cpu_mhz"], first["gpu_mhz"], first["memory_mhz"]) == (1497.6, 612, 2133)
    assert (second["name"], second["cpu_cores"]) == ("MAXN_SUPER", 1) and "gpu_mhz" not in second  # no limit


def test_a_server_is_drafted_with_its_gpu():
    commands = {"uname": "x86_64\n", "nvidia-smi": "NVIDIA L4, 23034, 2040, 72.00, 8.9, 550.54.15\n"}
    profile = _profile(_facts(SERVER, commands))
    facts = {key: fact.value for key, fact in profile.facts.items()}
    assert profile.kind == "server-gpu" and {"bf16", "fp8"} <= set(profile.precisions)
    assert facts["gpu"] == "NVIDIA L4" and facts["gpu_memory_gb"] == 24.2 and facts["tdp_w"] == 72
    assert facts["cpu_cores"] == 2 and facts["cpu_threads"] == 4
    assert profile.facts["gpu"].source == "read on the device with nvidia-smi"


def test_without_a_gpu_the_processor_decides_the_scheme():
    profile = _profile(_facts(SERVER, {"uname": "x86_64\n"}))
    assert (profile.kind, profile.int8_scheme, profile.precisions) == ("x86-cpu", "u8s8", ("fp32", "int8"))
    older = {**SERVER, "/proc/cpuinfo": "processor : 0\nmodel name : old\nflags : avx2\n"}
    assert _profile(_facts(older, {"uname": "x86_64\n"})).int8_scheme == "u8s8-7bit"
    board = {"/proc/cpuinfo": ORIN["/proc/cpuinfo"], "/proc/device-tree/model": "Raspberry Pi 5 Model B\0"}
    found = _profile(_facts(board, {"uname": "aarch64\n", "lscpu": "Model name: Cortex-A76\n"}))
    assert (found.kind, found.int8_scheme, found.precisions) == ("arm-cpu", "u8s8", ("fp32", "fp16", "int8"))


def test_a_device_that_says_nothing_gives_a_valid_draft_without_facts():
    profile = _profile(_facts({}))
    assert profile.facts == {} and profile.title == "mine"


def test_what_is_missing_is_named_for_the_person():
    text = draft("mine", _facts(SERVER, {"uname": "x86_64\n"}))
    assert "# peak_int8_tops_dense = " in text and "# memory_bw_gbs = " in text


def test_this_machine_is_drafted():
    profile = _profile(device_facts.here())
    assert profile.facts["cpu_cores"].value >= 1 and profile.facts["memory_gb"].value > 0


FILES = st.dictionaries(
    st.sampled_from([*ORIN, *SERVER]), st.text(max_size=200) | st.sampled_from([*ORIN.values(), *SERVER.values()])
)  # fmt: skip
PRINTED = st.dictionaries(
    st.sampled_from(["uname", "lscpu", "nvidia-smi"]),
    st.text(max_size=100)
    | st.just("Model name: \u202e\x07\n")
    | st.just("NVIDIA \x1b[31m, nan, inf, -1, 1e999, x"),
)


@settings(max_examples=50)
@given(FILES, PRINTED)
def test_whatever_a_device_says_the_draft_is_valid(files, printed):
    _profile(_facts(files, printed))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.lists(st.text(max_size=3) | st.integers(), max_size=3)  # fmt: skip


@settings(max_examples=50)
@given(
    st.dictionaries(st.text(max_size=8) | st.sampled_from(["cpu", "tdp_w", "chip", "gpu", "compute_capability", "cpu_features", "arch", "device"]),
                    st.fixed_dictionaries({"value": VALUES, "how": st.text(max_size=8)}), max_size=5)
)  # fmt: skip
def test_any_facts_of_a_collector_give_a_valid_draft(facts):
    facts.pop("power_modes", None)  # a list of tables by contract
    _profile(facts)
