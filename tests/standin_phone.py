"""Stand-ins for phones: a program ``adb`` that serves folders of this machine, and a phone's tools; their names say so.

What the tools print has the shape of ``tests/fixtures_tools``. A phone's ``/data/local/tmp`` and ``/sys/bus/iio`` are folders
of its own; everything else is this machine's.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

MODEL = "Pixel 4 (stand-in)"
ADB = """
import os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
phones = {p.name.replace("_", ":"): (p / "state").read_text() for p in sorted(here.iterdir()) if p.is_dir()}
if words[:1] == ["devices"]:
    print("List of devices attached")
    for serial, state in phones.items():
        print(f"{serial:<22} {state} usb:1-1 product:flame model:Pixel_4_stand_in device:flame transport_id:1")
    sys.exit()
assert words[0] == "-s"
phone, (verb, *rest) = here / words[1].replace(":", "_"), words[2:]
if phones.get(words[1]) != "device":
    sys.exit(f"error: device '{words[1]}' not found" if words[1] not in phones else f"adb: device {phones[words[1]]}")
def there(text):
    return text.replace("/data/local/tmp", str(phone / "tmp")).replace("/sys/bus/iio", str(phone / "iio"))
if verb == "shell":
    os.environ["PATH"] = f"{phone / 'bin'}:{os.environ['PATH']}"
    os.execvp("sh", ["sh", "-c", there(" ".join(rest))])
source, target = (rest[0], there(rest[1])) if verb == "push" else (there(rest[0]), rest[1])
try:
    shutil.copyfile(source, target)
except OSError as error:
    sys.exit(f"adb: error: failed to copy '{source}' to '{target}': {error.strerror}")
"""
GETPROP = """#!/bin/sh
cat <<'END'
[ro.build.version.release]: [13]
[ro.build.version.security_patch]: [2022-10-05]
[ro.board.platform]: [msmnile]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [%s]
[ro.soc.model]: [SM8150]
END
"""
DUMPSYS = """#!/bin/sh
cat "$(dirname "$0")/dumpsys_$1"
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 500000
  Charge counter: 2200000
  status: {status}
  health: 2
  present: true
  level: 81
  scale: 100
  voltage: 4152
  temperature: 264
  technology: Li-ion
"""
THERMAL = "IsStatusOverride: false\nThermal Status: {status}\nHAL Ready: true\nCurrent temperatures from HAL:\n\tTemperature{{mValue=34.5, mType=3, mName=skin, mStatus={status}}}\n"
POWER = "POWER MANAGER (dumpsys power)\n  mWakefulness={wake}\nDisplay Power: state={display}\n"
BENCHMARK_MODEL = r"""
import os, struct, sys
options = dict(w.lstrip("-").split("=", 1) for w in sys.argv[1:] if "=" in w)
if "--help" in sys.argv:
    print("usage: benchmark_model (stand-in)\nFlags:\n\t--num_threads=-1\tint32\n\t--use_xnnpack=true\tbool\n\t--use_gpu=false\tbool\n\t--result_file_path=\tstring")
    sys.exit(1)
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a+") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
    calls.seek(0)
    n = len(calls.readlines())
size = os.path.getsize(options["graph"])
if options.get("use_gpu") == "true":
    print("ERROR: Following operations are not supported by GPU delegate:\nERROR: Benchmarking failed.", file=sys.stderr)
    sys.exit(1)
us = size / 100 + 10 * (n % 3)
print(f"INFO: STARTING!\nINFO: Graph: [{options['graph']}]\nINFO: Loaded model {options['graph']}", file=sys.stderr)
print("VERBOSE: Replacing 9 out of 10 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for the whole graph.")
print("INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.")
print(f"INFO: count=40 first={3 * us:.0f} curr={us:.0f} min={us - 5:.0f} max={3 * us:.0f} avg={us:.1f} std=9\n")
print("INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.")
print(f"INFO: count=400 first={us:.0f} curr={us:.0f} min={us - 5:.0f} max={us + 60:.0f} avg={us:.1f} std=7\n")
print(f"INFO: Inference timings in us: Init: 2500, First inference: {3 * us:.0f}, Warmup (avg): {us:.1f}, Inference (avg): {us:.1f}")
print("INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
def field(number, value):
    return bytes([number << 3 | 5]) + struct.pack("<f", value)
def message(number, data):
    return bytes([number << 3 | 2, len(data)]) + data
timings = ((1, us / 1e3), (2, us / 1e3 - 0.005), (3, us / 1e3 + 0.06), (4, 0.007), (8, 2.5), (9, 3 * us / 1e3), (10, us / 1e3))
memory = bytes([1 << 3, 0x80, 0x0C, 2 << 3, 0x80, 0x12])
with open(options["result_file_path"], "wb") as out:
    out.write(message(2, b"".join(field(*t) for t in timings)) + message(3, memory) + message(4, bytes([2 << 3, 0x90, 0x03])))
"""
PERF_TEST = r"""
import sys
if "--help" in sys.argv:
    print("onnxruntime_perf_test (stand-in) [options...] model_path [result_file]\n -e (provider)")
    sys.exit(1)
print("Session creation time cost: 0.0125 s\nFirst inference time cost: 2 ms\nTotal inference time cost: 1.0 s\nTotal inference requests: 800")
print("Average inference time cost total: 1.250000 ms\nTotal inference run time: 1.01 s\nNumber of inferences per second: 792.0")
print("Avg CPU usage: 12 %\nPeak working set size: 31457280 bytes\nAvg CPU usage:12\nPeak working set size:31457280\nRuns:800")
print("Min Latency: 0.0012 s\nMax Latency: 0.0019 s\nP50 Latency: 0.00124 s\nP90 Latency: 0.0013 s\nP95 Latency: 0.0014 s\nP99 Latency: 0.0016 s\nP999 Latency: 0.0018 s")
"""
EXECUTOR_RUNNER = r"""
import os, pathlib, shutil, sys
if "--help" in sys.argv:
    print("executor_runner: stand-in\n\n  Flags from executor_runner.cpp:\n    -cpu_threads (Number of CPU threads) type: int32 default: -1")
    print("    -input_shapes (Per-input shapes) type: string default: \"\"\n    -num_executions (Number of times) type: uint32 default: 1")
    sys.exit(1)
options = dict(w.lstrip("-").split("=", 1) for w in sys.argv[1:])
here = pathlib.Path(__file__).parent
with open(here / "runner_calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
log = pathlib.Path(shutil.which("logcat")).parent / f"log_{os.getpid()}"
def say(text, level="I"):
    with open(log, "a") as out:
        out.write(f"{level}/ExecuTorch: {text}\n")
say(f"Resetting threadpool with num threads = {options['cpu_threads']}")
if pathlib.Path(options["model_path"]).read_bytes()[4:8] != b"ET12":
    say(f"Failed to parse model file {options['model_path']}", "E")
    sys.exit(1)
say(f"Model file {options['model_path']} is loaded.")
say("Using method forward")
say("Setting up CPU planned buffer 0, size 786432.")
say("Model loaded in 3.250000 ms.")
n, total = int(options["num_executions"]), 0.0
for i in range(n):
    say(f"Inputs resized to {options['input_shapes']}")
    ms = 9.0 if i == 0 else 2.0 + 0.125 * (i % 3)
    total += ms
    say(f"Iteration {i + 1} of {n}: {ms:f} ms")
say(f"Model executed successfully {n} time(s) in {total:f} ms.")
say("1 outputs: ")
print("OutputX 0: tensor(sizes=[1, 3], [0.5, 0.25, 0.125])")
"""
LOGCAT = """#!/bin/sh
[ "$1 $2 $3 $4 $5" = "-b main -d -v tag" ] && [ "$7 $8" = "-s ExecuTorch:V" ] || exit 1
echo "--------- beginning of main"
cat "$(dirname "$0")/log_${6#--pid=}"
"""
TOOLS = {
    "benchmark_model": BENCHMARK_MODEL,
    "onnxruntime_perf_test": PERF_TEST,
    "executor_runner": EXECUTOR_RUNNER,
}


class Phones:
    """The stand-ins below a folder; ``command`` is the ``adb`` that reaches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "adb.py").write_text(ADB)
        self.command = shlex.join([sys.executable, "-IS", str(folder / "adb.py")])

    def add(
        self, serial: str, model: str = MODEL, state: str = "device", tools: tuple[str, ...] = ()
    ) -> Path:
        """One more phone with these tools in its ``/data/local/tmp``; returns its folder."""
        phone = self.at(serial)
        for name in ("tmp", "bin", "iio/devices"):
            (phone / name).mkdir(parents=True)
        self.set_state(serial, state)
        program(phone / "bin/getprop", GETPROP % model)
        program(phone / "bin/dumpsys", DUMPSYS)
        program(phone / "bin/logcat", LOGCAT)
        self.conditions(serial)
        for name in tools:
            tool(name, phone / "tmp" / name)
        return phone

    def at(self, serial: str) -> Path:
        """A phone's folder; a colon in its name would end an entry of PATH."""
        return self.folder / serial.replace(":", "_")

    def set_state(self, serial: str, state: str) -> None:
        """What ``adb devices`` says of a phone."""
        (self.at(serial) / "state").write_text(state)

    def conditions(self, serial: str, charging: bool = False, thermal: int = 0, screen: bool = False) -> None:
        """What the phone's services say from now on."""
        texts = {
            "battery": BATTERY.format(usb=str(charging).lower(), status=2 if charging else 3),
            "thermalservice": THERMAL.format(status=thermal),
            "power": POWER.format(wake="Awake" if screen else "Asleep", display="ON" if screen else "OFF"),
        }
        for name, text in texts.items():
            (self.at(serial) / "bin" / f"dumpsys_{name}").write_text(text)


def program(path: Path, text: str) -> None:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)


def tool(name: str, path: Path) -> Path:
    """A stand-in for a vendor's tool as a file."""
    program(path, f"#!{sys.executable} -IS\n{TOOLS[name]}")
    return path
