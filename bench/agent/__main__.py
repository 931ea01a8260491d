"""``python -m bench.agent JOB.json``, or ``- RUNTIME``: import the runtime, then wait for the job on stdin.

Prints events on stdout, writes ``result.json`` and raw ``.npy`` arrays to the job's ``outdir``.
Exit status 0: measured; 3: the artifact or the job cannot be run (``result.json`` says why).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
import traceback
from array import array
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from . import inputs, timing
from .backends import BACKENDS, Backend
from .control import Control, Events, os_threads, pin

Json = Dict[str, Any]
PREDICT_BATCH = 32
DRIFT = 0.02
"""Medians of a tenth of a second differ by 1% on a machine that does other things as well."""
FAILED = 3


def save_array(folder: str, name: str, values: np.ndarray) -> str:
    """Write ``name`` atomically; returns the name."""
    part = os.path.join(folder, name + ".part")
    with open(part, "wb") as file:
        np.save(file, values)
    os.replace(part, os.path.join(folder, name))
    return name


def save_result(folder: str, result: Json) -> None:
    part = os.path.join(folder, "result.json.part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(part, os.path.join(folder, "result.json"))


class Measurement:
    """One job, phase by phase. What is found goes to ``result`` at once, so that a failure keeps it."""

    def __init__(self, job: Json, backend: Backend, events: Events, control: Optional[Control]) -> None:
        self.job, self.backend, self.events, self.control = job, backend, events, control
        self.result: Json = {
            "status": "ok",
            "reason": "",
            "stopped": "",
            "seconds": {},
            "notes": [],
            "runtime": {},
        }
        self.result["runtime"] = {"name": job["runtime"], "version": backend.version}
        backend.precision = job.get("precision", backend.precision)
        backend.engines = job.get("engines", "")
        self.phase = ""
        self._images: Optional[np.ndarray] = None
        self._phase_start = 0.0
        self._binding = array("d")

    def enter(self, phase: str, gated: bool = False) -> None:
        """Begin a phase; ``gated`` phases wait for the engine's go-ahead, so that it can read its instruments."""
        self.leave()
        self.phase = phase
        self.events.phase(phase)
        if gated and self.control is not None:
            self.control.line()
        self._phase_start = time.perf_counter()

    def leave(self) -> None:
        if self.phase:
            self.result["seconds"][self.phase] = time.perf_counter() - self._phase_start
            self.phase = ""

    def step(self, index: int) -> float:
        """Feed one of the prepared batches, then time one call; seconds."""
        backend = self.backend
        backend.feed(self._prepared[index % len(self._prepared)])
        start = time.perf_counter_ns()
        backend.call()
        passed = (time.perf_counter_ns() - start) * 1e-9
        own = backend.took()
        if own is None or not 0.0 < own <= passed:
            return passed
        self._binding.append(passed - own)
        return own

    def run(self) -> None:
        if self.backend.whole(self):
            self.leave()
            return
        if self.job.get("describe"):
            self.describe()
            return
        self.open_images()
        self.load()
        self.first()
        if self.job.get("load"):
            from . import load  # measured seldom; nothing of it in the memory of an ordinary cell

            load.run(self, self.job["load"])
        elif self.job.get("profile"):
            from . import profile

            profile.run(self, self.job["profile"])
        else:
            self.time()
        if self.job["predict"] and self._images is not None:
            self.predict()
        self.leave()

    def describe(self) -> None:
        """Only what the runtime says of a file made elsewhere: its input and its output, alone of their kind."""
        self.enter("load")
        self.backend.load(self.job["artifact"], self.job["threads"], self.job["device"])
        found = {"inputs": self.backend.inputs(), "outputs": self.backend.outputs()}
        inputs.single_input([], found["inputs"])
        inputs.single_output(found["outputs"])
        self.result["runtime"].update(found)
        self.leave()

    def open_images(self) -> None:
        """Map the images and pick the batches to rotate over, before memory's baseline is read."""
        self.enter("inputs")
        job, batch = self.job, self.job["batch"]
        if not os.path.isfile(job["artifact"]):
            raise inputs.Refused(f"there is no file {os.path.basename(job['artifact'])}")
        if job["images"]:
            self._images = np.load(job["images"], mmap_mode="r", allow_pickle=False)
            inputs.check_images(self._images, job["preprocess"])
            self._picked: List[np.ndarray] = inputs.pick_batches(self._images, batch)
        elif job["preprocess"]:
            self._picked = inputs.pick_batches(inputs.random_images(job["preprocess"], 4 * batch), batch)
            self.result["notes"].append(
                "timed on seeded random images with the statistics of photographs, not on real ones"
            )
        else:
            self._picked = []
            np.random.default_rng(0)  # loads 5 MB of code, which would be counted as the model's memory
            self.result["notes"].append(
                "timed on seeded random values like those of photographs, not on real images"
            )

    def load(self) -> None:
        self.enter("load")
        job, backend = self.job, self.backend
        self.result["baseline_kb"] = self.events.memory_kb()
        start = time.perf_counter()
        backend.exact = bool(job.get("exact"))
        backend.alone = (job.get("load") or {}).get("streams", 1) < 2
        with self.events.alive("building") if backend.slow_load else contextlib.nullcontext():
            own = self._load()
        self.result["load_seconds"] = time.perf_counter() - start if own is None else own
        self.result["notes"].extend(backend.notes)
        self.batches = [backend.to_input(p, job["preprocess"], self.spec) for p in self._picked] or [
            inputs.random_input(self.spec, job["batch"])
        ]
        self._prepared = [backend.prepare(b) for b in self.batches]

    def _load(self) -> Optional[float]:
        """Seconds by the backend's own clock, where it has one."""
        job, backend = self.job, self.backend
        own = backend.load(job["artifact"], job["threads"], job["device"])
        self.spec = inputs.single_input(job["inputs"], backend.inputs())
        inputs.single_output(backend.outputs())
        backend.shape = self.spec["shape"]
        backend.set_batch(job["batch"])  # some runtimes plan memory or compile here
        return own

    def first(self) -> None:
        """The first call: what a person who starts the program waits for. Its outputs must make sense."""
        self.enter("first")
        with self.events.alive("compiling") if self.backend.slow_first else contextlib.nullcontext():
            self.result["first_call_seconds"] = self.step(0)
        self.result["runtime"].update(
            self.backend.info(),
            os_threads=os_threads(),
            copies=self.backend.copies,
            clock=self.backend.clock,
            inputs=self.backend.inputs(),
            outputs=self.backend.outputs(),
        )
        self.output = self.backend.outputs()[0]
        inputs.check_finite(
            inputs.to_logits(self.backend.fetch(), self.output, self.job["batch"]), "first call"
        )

    def time(self) -> None:
        """Warm-up, then the steady state, which the engine frames with its energy readings."""
        protocol, outdir = self.job["protocol"], self.job["outdir"]
        self.enter("warmup")
        samples, settled = timing.warm_up(
            self.calls(), protocol["warmup_seconds"], max(DRIFT, protocol["half_width"])
        )
        self.leave()
        self.result["warmup"] = save_array(outdir, "warmup.npy", samples)
        del samples  # not to be counted as the model's memory
        if not settled and protocol["warmup_seconds"] > 0:
            self.result["notes"].append("still drifting at the end of the warm-up")
        calls = self.calls()
        self.enter("steady", gated=True)
        steady, self.result["stopped"] = timing.steady(
            calls,
            protocol["half_width"],
            protocol["min_runs"],
            protocol["max_seconds"],
            lambda n, mid, width: self.events.emit("progress", n=n, median_ms=mid * 1e3, half_width=width),
            self.job.get("least_seconds", 0.0),
            self.job.get("turn_seconds", 0.0),
            self.rest,
        )
        self.enter("settled", gated=True)
        if self._binding:
            self.result["notes"].append(f"timed by {self.backend.clock}")
            self.result["runtime"]["binding_ms"] = float(np.median(np.frombuffer(self._binding))) * 1e3
        if self.backend.calls_per_sample > 1:
            self.result["runtime"]["calls_per_sample"] = self.backend.calls_per_sample
        self.result["samples"] = save_array(outdir, "samples.npy", steady)

    def calls(self) -> Callable[[], timing.Sample]:
        """What makes the timed calls: the backend's own loop over the batches, else one call after the other from here."""
        if self.backend.own_loop:
            return self.backend.stream(self._prepared)
        numbers = itertools.count()
        return lambda: self.step(next(numbers))

    def rest(self, samples: int) -> None:
        """Let the engine do something else, or another worker work, until it says go."""
        self.result["runtime"].setdefault("turns", []).append(samples)
        self.events.emit("turn", n=samples)
        if self.control is not None:
            self.control.line()

    def predict(self) -> None:
        """Every image through the artifact, in its own batches; the last one is filled up."""
        self.enter("predict")
        images, backend = self._images, self.backend
        assert images is not None
        size = self.predict_batch()
        rows, told = [], time.perf_counter()
        for low, high in inputs.chunks(len(images), size):
            part = images[np.minimum(np.arange(low, low + size), high - 1)]
            values = backend.to_input(
                part, self.job["preprocess"], self.spec
            )  # kept: some runtimes read it in place
            backend.feed(backend.prepare(values))
            backend.call()
            rows.append(inputs.to_logits(backend.fetch(), self.output, size)[: high - low])
            if time.perf_counter() - told > timing.PROGRESS_SECONDS:
                told = time.perf_counter()
                self.events.emit("predicted", n=high, of=len(images))
        logits = np.concatenate(rows)
        inputs.check_finite(logits, "prediction")
        self.result["predict_batch"] = size
        self.result["outputs"] = save_array(self.job["outdir"], "outputs.npy", logits)

    def predict_batch(self) -> int:
        """32 images at a time where the artifact can; else its own batch."""
        for size in (PREDICT_BATCH, self.job["batch"]):
            try:
                self.backend.set_batch(size)
                return int(size)
            except inputs.Refused as error:
                refused = error
        raise refused


def carry_out(job: Json, backend: Backend, events: Events, control: Optional[Control]) -> int:
    """Run the job and write its result; whatever the runtime raises becomes a reason."""
    measurement = Measurement(job, backend, events, control)
    result, status = measurement.result, 0
    try:
        measurement.run()
    except inputs.Refused as error:
        result.update(status="failed", reason=f"{measurement.phase}: {error}")
    except Exception as error:  # runtimes raise anything; the person gets a reason, stderr the trace
        traceback.print_exc()
        why = inputs.explain(error, job["batch"])
        result.update(status="failed", reason=f"{measurement.phase}: {why}")
    if result["status"] != "ok":
        measurement.leave()
        status = FAILED
    save_result(job["outdir"], result)
    events.emit("done", status=result["status"], reason=result["reason"])
    return status


def main(argv: List[str]) -> int:
    pin(os.environ.get("EDGEFIT_CPUS", ""))
    events = Events()
    events.emit("phase", name="import", memory_kb=None)
    if argv[0] == "-":
        control: Optional[Control] = Control()
        backend = BACKENDS[argv[1]]()
        events.weighed = backend.weighed
        beside = {"others": backend.others(), "weighed": backend.weighed()}
        events.phase("ready", version=backend.version, **beside)
        assert control is not None
        job = json.loads(control.line())
    else:
        control = None
        with open(argv[0], encoding="utf-8") as file:
            job = json.load(file)
        backend = BACKENDS[job["runtime"]]()
        events.weighed = backend.weighed
    code = carry_out(job, backend, events, control)
    backend.close()
    return code


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # some runtimes take seconds to unload; everything is written
