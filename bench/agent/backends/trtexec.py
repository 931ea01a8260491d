"""TensorRT without its Python bindings: ``trtexec`` builds and times by itself, and its files go to the engine. Not run on hardware yet.

Options after samples/common/sampleOptions.cpp of NVIDIA/TensorRT, 8.2 to 11.1. It is run without data transfers and without CUDA
graphs on every version, so that a query means what a call means elsewhere.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import signal
import subprocess
from typing import Any, List

import numpy as np

from ..inputs import Refused
from .base import Backend, Json
from .engines import PLAN, Engines, key_of, sha256
from .tensorrt_rules import Rules, refusal, rules, version_of

PROGRAMS = ("trtexec", "/usr/src/tensorrt/bin/trtexec")
"""JetPack and NVIDIA's packages put it into the second place, which is in no PATH."""
HELP = 30.0
TAIL = 4000


def end_with_us() -> None:
    """Have the kernel end trtexec when the worker dies (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def trouble(log: str) -> str:
    """The first errors that trtexec printed, on one line."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if "[E]" in line or "[F]" in line]
    return "; ".join(line.partition("[E] ")[2] or line for line in lines[:3])[:TAIL]


class Trtexec(Backend):
    """Times on its own random input; there are no outputs of ours, so no logits."""

    copies = "none: trtexec without data transfers, on its own random input"
    clock = "CUDA events of trtexec, around the execution"

    def __init__(self) -> None:
        super().__init__()
        found = [p for p in map(shutil.which, PROGRAMS) if p]
        if not found:
            raise Refused("there is no trtexec in PATH or in /usr/src/tensorrt/bin")
        self._program = found[0]
        done = subprocess.run(
            [self._program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HELP
        )
        self.version = version_of(done.stdout[:TAIL].decode("utf-8", "replace"))

    def whole(self, measurement: Any) -> bool:
        """Build, or take the engine that is kept; then one run of trtexec between the two gates."""
        job, result, outdir = measurement.job, measurement.result, measurement.job["outdir"]
        measurement.enter("inputs")
        why = refusal(self.version, job["precision"], job["device"])
        if not why and any(job.get(what) for what in ("load", "describe", "profile")):
            why = "trtexec only times; the Python bindings of TensorRT are needed for this"
        if why:
            raise Refused(why)
        told, shapes = rules(self.version, job["precision"], job["device"]), self._shapes(job)
        measurement.enter("load")
        with measurement.events.alive("building"):
            plan, about = self._engine(job, told, shapes)
        protocol = job["protocol"]
        options = [
            "--loadEngine=" + plan,
            "--exportTimes=" + os.path.join(outdir, "times.json"),
            "--warmUp=%d" % math.ceil(protocol["warmup_seconds"] * 1e3),
            "--duration=%d" % math.ceil(protocol["max_seconds"]),  # 8.2 takes whole seconds
            "--iterations=%d" % protocol["min_runs"],
        ]
        measurement.enter("steady", gated=True)
        with measurement.events.alive("timing"):
            self._run([*options, *told.trtexec_run, *shapes], os.path.join(outdir, "run.txt"))
        measurement.enter("settled", gated=True)
        result["runtime"].update(
            device=job["device"], program=self._program, copies=self.copies, clock=self.clock, engine=about
        )
        result["stopped"] = "cap"
        result["notes"] += ["timed by trtexec on its own random input", told.note]
        return True

    def _shapes(self, job: Json) -> List[str]:
        """``--shapes`` for a file with free dimensions; trtexec refuses it for others."""
        batch = job["batch"]
        if not job["inputs"]:
            if batch > 1:
                raise Refused("trtexec must be told the input's name and shape for a batch of %d" % batch)
            return []
        name, own = job["inputs"][0]["name"], job["inputs"][0]["shape"]
        if own[0] not in (None, batch):
            raise Refused("the artifact has a fixed batch of %d, not %d" % (own[0], batch))
        if None not in own:
            return []
        shape = self._sized(batch, own)
        if None in shape:
            raise Refused("the input's shape %s is free beyond the batch; say its size" % own)
        return ["--shapes=%s:%s" % (name, "x".join(map(str, shape)))]

    def _engine(self, job: Json, told: Rules, shapes: List[str]) -> Any:
        """The engine's path, and what is known of its build, whose log goes beside the results."""
        artifact, outdir = job["artifact"], job["outdir"]
        if not os.path.isfile(artifact):
            raise Refused("there is no file %s" % os.path.basename(artifact))
        if os.path.splitext(artifact)[1] != ".onnx":
            return artifact, {}
        engines = Engines(job.get("engines") or os.path.join(outdir, "engines"))
        node = platform.node()
        key = key_of(
            content=sha256(artifact), version=self.version, gpu=node, device=job["device"], shape=shapes,
            flags=told.trtexec_build, by="trtexec",
        )  # fmt: skip
        kept = engines.find(key)
        cached = kept is not None
        if kept is None:
            part = engines.begin()
            options = [
                "--onnx=" + artifact,
                "--saveEngine=" + os.path.join(part, PLAN),
                "--timingCacheFile=" + engines.timings(self.version, node),
            ]
            log = os.path.join(part, "build.txt")
            try:
                self._run([*options, *told.trtexec_build, *shapes], log)
                if not os.path.isfile(os.path.join(part, PLAN)):
                    raise Refused("trtexec wrote no engine")
            except Refused:
                shutil.copy(log, os.path.join(outdir, "build.txt"))
                shutil.rmtree(part)
                raise
            kept = engines.keep(part, key, {})
        shutil.copy(os.path.join(os.path.dirname(kept.path), "build.txt"), outdir)
        return kept.path, {"cached": cached}

    def _run(self, options: List[str], log: str) -> None:
        with open(log, "wb") as file:
            done = subprocess.run(
                [self._program, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_us,
            )
        if done.returncode:
            raise Refused("trtexec ended with status %d: %s" % (done.returncode, trouble(log)))

    def load(self, path: str, threads: int, device: str) -> None:
        raise Refused("trtexec is run as a whole")

    def inputs(self) -> List[Json]:
        return []

    def outputs(self) -> List[Json]:
        return []

    def feed(self, prepared: Any) -> None:
        raise Refused("trtexec feeds itself")

    def call(self) -> None:
        raise Refused("trtexec is run as a whole")

    def fetch(self) -> np.ndarray:
        raise Refused("trtexec gives no outputs")
