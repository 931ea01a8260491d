"""One job on this machine, with nobody on the line: starts the worker, follows it, reads the instruments at its gates.

What the engine does for a worker beside it, this does for one far away. It interprets nothing: texts and counters are
written down and the engine reads them later.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
import time
from typing import IO, Any, Dict, Iterator, List, Optional

from . import look
from .memory import MemorySampler
from .sensors import Sensor

Json = Dict[str, Any]
OUTPUTS = (
    "result.json", "observed.json", "samples.npy", "warmup.npy", "outputs.npy", "build.txt", "run.txt", "times.json"
)  # fmt: skip
PACKED = "outputs.tar"
ENGINES = "engines"
"""A folder of the workspace."""
STDERR_TAIL = 4000
BUSY = 1.0
"""Seconds between two tries at the lock of a machine that another measurement holds."""


class Failed(Exception):
    """The worker did not do its job; the text says how."""


class Supervisor:
    """Carries out ``job.json`` of a folder; leaves ``events.jsonl`` and the packed outputs there."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(os.path.join(folder, "job.json"), encoding="utf-8") as file:
            self.asked: Json = json.load(file)
        self.asked["job"]["outdir"] = folder  # it writes nowhere else, besides what it builds
        self.asked["job"]["engines"] = os.path.join(self.asked["workspace"], ENGINES)
        self._events: IO[str] = open(os.path.join(folder, "events.jsonl"), "a", encoding="utf-8")
        self.sensor = Sensor(self.asked.get("sensor") or {})
        self.observed: Json = {"gates": {}}
        self._process: Optional["subprocess.Popen[bytes]"] = None

    def emit(self, event: Json) -> None:
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()

    def run(self) -> None:
        """Everything, to the last event, which is always ``over``."""
        why = ""
        try:
            with self._machine():
                begin = time.monotonic()
                self._work()
                self.observed["total_seconds"] = time.monotonic() - begin
        except Failed as error:
            why = str(error)
        except Exception as error:
            why = "%s: %s" % (type(error).__name__, error)
        finally:
            self.sensor.stop()
            self._end_worker()
        self.observed["sensor"] = self.sensor.to_json()
        with open(os.path.join(self.folder, "observed.json"), "w", encoding="utf-8") as file:
            json.dump(self.observed, file)
        self._pack()
        self.emit({"event": "over", "failed": why, "stderr": self._last_words() if why else ""})

    @contextlib.contextmanager
    def _machine(self) -> Iterator[None]:
        """One measurement at a time on this machine; the lock goes with the process, however it ends."""
        with open(os.path.join(self.asked["workspace"], "lock"), "a+", encoding="utf-8") as lock:
            told = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if not told:
                        self.emit({"event": "waiting"})
                    told = True
                    time.sleep(BUSY)
            yield

    def _work(self) -> None:
        started = time.monotonic()
        with open(os.path.join(self.folder, "stderr.txt"), "wb") as messages:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.agent", "-", self.asked["job"]["runtime"]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                cwd=self.folder,
                env=dict(os.environ, **self.asked["env"]),
                start_new_session=True,
            )
        memory = MemorySampler(self._process.pid)
        try:
            self._follow(memory, started)
        finally:
            memory.close()
            self.observed["peaks"] = memory.peaks

    def _follow(self, memory: MemorySampler, started: float) -> None:
        for event in self._worker_events(float(self.asked["timeout_seconds"])):
            name = event.get("name", "") if event.get("event") == "phase" else ""
            if name == "ready":
                self.observed["start_seconds"] = time.monotonic() - started
                self._window("before")
                self._send(json.dumps(self.asked["job"]))
            if name:
                memory.enter(name, event.get("memory_kb"))
            if name in ("steady", "settled"):
                self._gate(name)
                self._send("go")
            self.emit(event)
            if event.get("event") == "done":
                return
        raise Failed(self._how_it_ended())

    def _gate(self, name: str) -> None:
        """The counters lie inside the energy window, so that reading energy is not seen as another process's work."""
        if name == "steady":
            self.sensor.start("steady")
            self._counters(name)
        else:
            self._counters(name)
            self.sensor.stop()
            self._window("after")

    def _counters(self, gate: str) -> None:
        assert self._process is not None
        pid = self._process.pid
        patterns = [p.replace("{pid}", str(pid)) for p in self.asked.get("counters", ())]
        self.observed["pid"] = pid
        at = time.monotonic()
        self.observed["gates"][gate] = {"at": at, "files": look.texts(patterns)}

    def _window(self, name: str) -> None:
        """An idle window, while the worker waits."""
        idle = float((self.asked.get("sensor") or {}).get("idle_seconds", 0.0))
        if idle > 0:
            self.sensor.start(name)
            time.sleep(idle)
            self.sensor.stop()

    def _worker_events(self, timeout: float) -> Iterator[Json]:
        assert self._process is not None and self._process.stdout is not None
        stream, buffer = self._process.stdout, b""
        while True:
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                yield json.loads(line.decode("utf-8", "replace"))
            if not select.select([stream], [], [], timeout)[0]:
                raise Failed("was silent for %g s and was ended" % timeout)
            data = os.read(stream.fileno(), 65536)
            if not data:
                return
            buffer += data

    def _send(self, line: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("utf-8") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._how_it_ended()) from None

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "closed its line and did not end"
        return "was ended by signal %d" % -status if status < 0 else "ended with status %d" % status

    def _end_worker(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(10 if self.observed.get("total_seconds") else 0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _pack(self) -> None:
        path = os.path.join(self.folder, PACKED)
        with tarfile.open(path + ".part", "w") as tar:
            for name in OUTPUTS:
                if os.path.exists(os.path.join(self.folder, name)):
                    tar.add(os.path.join(self.folder, name), arcname=name)
        os.replace(path + ".part", path)

    def _last_words(self) -> str:
        try:
            with open(os.path.join(self.folder, "stderr.txt"), "rb") as file:
                return file.read()[-STDERR_TAIL:].decode("utf-8", "replace").strip()
        except OSError:
            return ""


def known(folder: str) -> List[str]:
    """Names of what a job left, besides its description."""
    return [
        n
        for n in ("events.jsonl", PACKED, "stderr.txt", "pid", *OUTPUTS)
        if os.path.exists(os.path.join(folder, n))
    ]
