"""A stand-in for ``trtexec``: takes the options of the version in ``EDGEFIT_STANDIN_TRTEXEC``, writes files of the true shape.

Its times are made up: 2 ms of GPU work a query, 0.5 ms of transfers where they are not left out, 0.5 ms less in a CUDA graph. What it
was called with goes into the file ``trtexec.log`` beside it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

VERSION = os.environ.get("EDGEFIT_STANDIN_TRTEXEC", "10.3.0")
NUMBER = tuple(map(int, VERSION.split(".")))
MAJOR = NUMBER[0]
COMMON = [
    "--onnx", "--saveEngine", "--loadEngine", "--timingCacheFile", "--shapes", "--exportTimes", "--warmUp", "--duration",
    "--iterations", "--noDataTransfers", "--useSpinWait", "--useCudaGraph", "--useDLACore", "--allowGPUFallback", "--help",
]  # fmt: skip
OWN = {
    8: ["--explicitBatch", "--buildOnly", "--fp16", "--int8"],
    10: ["--stronglyTyped", "--skipInference", "--fp16", "--int8"],
    11: ["--stronglyTyped", "--skipInference", "--noCudaGraph", "--noSpinWait", "--includeDataTransfers"],
}


def say(text: str, kind: str = "I") -> None:
    print(f"[01/01/2026-00:00:00] [{kind}] {text}")


def build(options: dict[str, str]) -> bool:
    data = Path(options["--onnx"]).read_bytes()
    if data.startswith(b"no onnx"):
        say("Failed to parse onnx file", "E")
        return False
    if "--useDLACore" in options:
        say("[TRT] Layer 'y' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU.", "W")
    say("[TRT] ---------- Layers Running on DLA ----------")
    if "--useDLACore" in options:
        say("[TRT] [DlaLayer] {ForeignNode[/conv1...relu2]}")
    say("[TRT] ---------- Layers Running on GPU ----------")
    say("[TRT] [GpuLayer] SHUFFLE: y")
    say("Engine built in 0.25 sec.")
    Path(options["--saveEngine"]).write_bytes(b"stand-in engine")
    return True


def run(options: dict[str, str]) -> bool:
    transfers = "--includeDataTransfers" in options if MAJOR > 10 else "--noDataTransfers" not in options
    graph = "--noCudaGraph" not in options if MAJOR > 10 else "--useCudaGraph" in options
    if os.environ.get("EDGEFIT_STANDIN_IGNORES"):
        transfers = graph = True
    say("=== Inference Options ===")
    say(f"Data transfers: {'Enabled' if transfers else 'Disabled'}")
    say(f"CUDA Graph: {'Enabled' if graph else 'Disabled'}")
    say(f"TensorRT version: {VERSION}")
    compute, copy, warmup = 1.5 if graph else 2.0, 0.25 if transfers else 0.0, float(options["--warmUp"])
    queries, at = [], 0.0 if NUMBER < (8, 5) else warmup
    while at < warmup + 1e3 * int(options["--duration"]):
        slow = 3.0 if at < warmup else 1.0
        queries.append(
            {"startEnqMs": at, "endEnqMs": at, "startH2dMs": at, "endH2dMs": at + copy, "startComputeMs": at + copy,
             "endComputeMs": at + copy + slow * compute, "startD2hMs": at, "endD2hMs": at, "h2dMs": copy,
             "computeMs": slow * compute, "d2hMs": copy, "latencyMs": slow * compute + 2 * copy}
        )  # fmt: skip
        at += slow * compute + 2 * copy
    Path(options["--exportTimes"]).write_text(json.dumps(queries))
    say(f"Throughput: {1e3 / (compute + 2 * copy)} qps")
    return True


def main(arguments: list[str]) -> int:
    major, minor, patch = NUMBER
    code = f"{major}{minor:02d}{patch:02d}" if major > 9 else f"{major}{minor}{patch:02d}"
    title = f"TensorRT.trtexec [TensorRT v{code}] # stand-in {' '.join(arguments)}"
    print(f"&&&& RUNNING {title}")
    with Path(__file__).with_name("trtexec.log").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    options = dict(a.partition("=")[::2] for a in arguments)
    strange = [name for name in options if name not in COMMON + OWN[MAJOR]]
    for name in strange:
        say(f"Unknown option: {name}", "E")
    if "--help" in options:
        return 0
    done = not strange and (build(options) if "--onnx" in options else run(options))
    print(f"&&&& {'PASSED' if done else 'FAILED'} {title}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
