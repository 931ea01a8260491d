"""A stand-in for a Jetson AGX Xavier: its tools as small programs and its files in a folder; it says so in its name.

What the tools print has the shape of ``tests/fixtures_tools``. Power follows this machine's load: 3 W at rest and 7 W
more with every CPU busy, which no board ever drew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODEL = "NVIDIA Jetson AGX Xavier (stand-in)"
MODES = """< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_15W >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=2 >
"""
RELEASE = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n"
NVPMODEL = """
import pathlib, sys
state = pathlib.Path(__file__).with_name("mode")
names = {"0": "MAXN", "2": "MODE_15W"}
if sys.argv[1:2] == ["-m"]:
    state.write_text(sys.argv[2])
    with state.with_name("log").open("a") as log:
        log.write(f"mode {sys.argv[2]}\\n")
else:
    now = state.read_text()
    print(f"NV Power Mode: {names[now]}\\n{now}")
"""
JETSON_CLOCKS = """
import pathlib, sys
state = pathlib.Path(__file__).with_name("clocks")
log = state.with_name("log").open("a")
if "--store" in sys.argv:
    pathlib.Path(sys.argv[-1]).write_text(state.read_text())
elif "--restore" in sys.argv:
    state.write_text(pathlib.Path(sys.argv[-1]).read_text())
    print("clocks", state.read_text(), file=log)
elif "--show" in sys.argv:
    low = 2265600 if state.read_text() == "locked" else 1190400
    print("SOC family:tegra194  Machine:Jetson-AGX")
    print("Online CPUs: 0-1")
    for i in range(2):
        print(f"cpu{i}: Online=1 Governor=schedutil MinFreq={low} MaxFreq=2265600 CurrentFreq={low} IdleStates: C1=1 c6=1")
    print("GPU MinFreq=114750000 MaxFreq=1377000000 CurrentFreq=114750000")
    print("EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=1600000000 FreqOverride=0")
    print("NV Power Mode: MODE_15W")
else:
    state.write_text("locked")
    print("clocks locked", file=log)
"""
TEGRASTATS = """
import sys, time
def busy():
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)
step = int(sys.argv[sys.argv.index("--interval") + 1]) / 1000
before = busy()
while True:
    time.sleep(step)
    now = busy()
    share = (now[0] - before[0]) / max(1, now[1] - before[1])
    before = now
    cpu = int(1000 + 7000 * share)
    print(f"RAM 1/2MB (lfb 1x1MB) CPU [1%@1190,off] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30C PMIC@100C "
          f"GPU 0/0 CPU {cpu}/1500 SOC 900/900 CV 0/0 VDDRQ 300/300 SYS5V 800/800", flush=True)
"""
SUDO = '#!/bin/sh\n[ "$1" = -n ] && shift\n[ -e "$(dirname "$0")/asks" ] && { echo \'sudo: a password is required\' >&2; exit 1; }\nexec "$@"\n'


class Jetson:
    """The stand-in below a folder; ``environ`` is what a login there must have."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.files = folder / "bin", folder / "files"
        self.bin.mkdir(parents=True)
        for name, code in (
            ("nvpmodel", NVPMODEL),
            ("jetson_clocks", JETSON_CLOCKS),
            ("tegrastats", TEGRASTATS),
        ):
            self._program(name, f"#!{sys.executable} -IS\n{code}")
        self._program("sudo", SUDO)
        (self.bin / "mode").write_text("2")
        (self.bin / "clocks").write_text("free")
        (self.bin / "log").write_text("")
        for name, text in (
            ("proc/device-tree/model", MODEL + "\0"),
            ("proc/device-tree/compatible", "nvidia,p2972-0000\0nvidia,p2888\0nvidia,tegra194\0"),
            ("etc/nv_tegra_release", RELEASE),
            ("etc/nvpmodel.conf", MODES),
        ):
            path = self.files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.environ = {
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "EDGEFIT_OVERLAY": str(self.files),
        }

    def _program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def mode(self) -> str:
        return (self.bin / "mode").read_text()

    @property
    def clocks(self) -> str:
        return (self.bin / "clocks").read_text()

    def ask_for_passwords(self) -> None:
        (self.bin / "asks").touch()
