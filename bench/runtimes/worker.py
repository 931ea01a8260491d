"""The engine's side of a worker: start a fresh process, hand it the job, listen, and clean up.

The engine sleeps in ``select`` while the worker works. Around the worker's steady state it reads
its instruments: the worker waits for a go-ahead before and after, so nothing disturbs the timing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import bench
from bench.errors import WorkerError
from bench.runtimes.listener import Listener
from bench.types import Json, Notify, to_json

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.measure.power import EnergySource
    from bench.runtimes.base import CellJob

IMPORT_TIMEOUT = 120.0
"""Seconds a worker may take to import its runtime."""
EXIT_TIMEOUT = 10.0
METER_MARGIN = 1.25
"""A window this much longer than the meter's shortest is long enough also where its first sample comes late."""
STDERR_LINES = 20
STDERR_HEAD = 8
"""Of those, so many from the beginning: a crash names its signal and its innermost calls there."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(threads: int, cpus: tuple[int, ...] = ()) -> dict[str, str]:
    """What a worker's environment adds to ours: thread counts, pinning, quiet libraries, our own package."""
    root = str(Path(bench.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    return {
        **agent_environment(threads, cpus),
        "PYTHONPATH": root + (os.pathsep + inherited if inherited else ""),
    }


def agent_environment(threads: int, cpus: tuple[int, ...] = ()) -> dict[str, str]:
    """The part of it that is the same on any machine."""
    return {
        **{name: str(threads) for name in THREAD_VARIABLES},
        "PYTHONSAFEPATH": "1",  # a torch.py in the person's folder is not torch
        "PYTHONFAULTHANDLER": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **({"EDGEFIT_CPUS": ",".join(map(str, cpus))} if cpus else {}),
    }


class Worker:
    """One process for one job. Use as a context manager, or call :meth:`close`: it leaves nothing behind.

    Attributes:
        pids: the process and those that it named when it was ready (a browser's); ended with it.
        weighed: those of them whose memory is the artifact's.
    """

    def __init__(self, host: Host, runtime: str, threads: int = 1, cpus: tuple[int, ...] = ()) -> None:
        self.runtime, self.threads, self.cpus = runtime, threads, cpus
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._buffer, self._ready, self._done = b"", False, False
        self._oom_kills = oom_kills()
        argv = [sys.executable, "-m", "bench.agent", "-", runtime]
        self._folder = tempfile.TemporaryDirectory(prefix="edgefit-worker-", ignore_cleanup_errors=True)
        env = environment(threads, cpus) | dict.fromkeys(("TMPDIR", "EDGEFIT_FOLDER"), self._folder.name)
        self._process: subprocess.Popen[bytes] = host.start(argv, env, self._stderr)
        self.pids: tuple[int, ...] = (self.pid,)
        self.weighed: tuple[int, ...] = self.pids

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process group, whatever it is doing, and wait until it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if not self._done:  # else it has ended them itself
            for pid in self.pids[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._done = True
        self._folder.cleanup()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def ready(self) -> None:
        """Wait until the runtime is imported. Raises WorkerError when it cannot be."""
        if self._ready:
            return
        for event in self._events(IMPORT_TIMEOUT):
            if event["event"] == "phase" and event["name"] == "ready":
                self._ready = True
                self.pids = (self.pid, *event.get("others", ()))
                self.weighed = tuple(event.get("weighed", ())) or self.weighed
                return
        raise self._ended()

    def run(self, job: Json, timeout: float, on_event: Callable[[Json], None]) -> None:
        """Hand over the job and listen until the worker is done.

        ``on_event`` is called with every event; a worker at a gate gets its go-ahead when it returns.

        Raises:
            WorkerError: a crash, silence for longer than ``timeout`` seconds, or nonsense.
        """
        self._send(json.dumps(job))
        for event in self._events(timeout):
            on_event(event)
            if event["event"] == "done":
                self._wait()
                self._done = True
                return
            if event["event"] == "turn" or (
                event["event"] == "phase" and event["name"] in ("steady", "settled")
            ):
                self._send("go")
        raise self._ended()

    def _send(self, line: str) -> None:
        stream = self._process.stdin
        try:
            if stream is not None:
                stream.write(line.encode() + b"\n")
                stream.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def _wait(self) -> None:
        try:
            self._process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.close()

    def _events(self, timeout: float) -> Iterator[Json]:
        """The worker's events until it closes its end; raises WorkerError after ``timeout`` s of silence."""
        stream = self._process.stdout
        if stream is None:
            return
        while True:
            while b"\n" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\n")
                yield self._parse(line)
            if not select.select([stream], [], [], timeout)[0]:
                self.close()
                raise WorkerError(
                    f"The {self.runtime} worker was silent for {timeout:g} s and was ended",
                    todo="Raise the protocol's timeout_seconds if the model is that slow",
                )
            data = os.read(stream.fileno(), 65536)
            if not data:
                return
            self._buffer += data

    def _parse(self, line: bytes) -> Json:
        try:
            event: Json = json.loads(line)
            event["event"], event.get("name")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise WorkerError(
                f"The {self.runtime} worker answered nonsense", found=repr(line[:200])
            ) from error
        return event

    def _ended(self) -> WorkerError:
        """The error for a worker that ended before it was done: how, and its last words."""
        try:
            status = self._process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.close()
            status = -int(signal.SIGKILL)
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
        if status == -signal.SIGKILL and oom_kills() > self._oom_kills:
            how += ", because the machine ran out of memory,"
        return WorkerError(f"The {self.runtime} worker {how} before it was done", found=self._last_words())

    def _last_words(self) -> str:
        if self._stderr.closed:
            return ""
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        if len(lines) <= STDERR_LINES:
            return "\n".join(lines)
        return "\n".join([*lines[:STDERR_HEAD], "...", *lines[STDERR_HEAD - STDERR_LINES :]])


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it started (``/proc/vmstat``); 0 where it does not say."""
    try:
        words = Path("/proc/vmstat").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def job_json(job: CellJob, runtime: str, energy: EnergySource | None = None) -> Json:
    """The job as the agent reads it; it is timed for as long as the energy source needs."""
    artifact = job.artifact
    return {
        "runtime": runtime,
        "format": artifact.format,
        "artifact": str(job.path),
        "precision": artifact.precision,
        "inputs": to_json(artifact.inputs),
        "outputs": to_json(artifact.outputs),
        "preprocess": to_json(artifact.preprocess),
        "batch": job.batch,
        "threads": job.threads,
        "device": job.device,
        "protocol": to_json(job.protocol),
        "images": str(job.images) if job.images else None,
        "predict": job.predict,
        "exact": job.exact,
        "load": job.load,
        "describe": job.describe,
        "turn_seconds": job.turn_seconds,
        "least_seconds": METER_MARGIN * energy.shortest if energy is not None else 0.0,
        "outdir": str(job.outdir),
    }


def run_cell(
    job: CellJob, runtime: str, host: Host, notify: Notify, worker: Worker | None, energy: EnergySource | None
) -> tuple[Json, Listener, dict[str, float]]:
    """Run one job in a fresh worker, or in ``worker`` if it is fit.

    Returns:
        The worker's ``result.json``, the listener (peak memory, energy window), and the wall-clock
        seconds ``start`` (until the runtime was imported) and ``total``.

    Raises:
        WorkerError: see :meth:`bench.runtimes.base.Runtime.measure`.
    """
    begin = time.perf_counter()
    wanted = (runtime, job.threads, job.protocol.cpus)
    if worker is not None and not (worker.alive and (worker.runtime, worker.threads, worker.cpus) == wanted):
        worker.close()
        worker = None
    (job.outdir / "result.json").unlink(missing_ok=True)
    with worker or Worker(host, *wanted) as process:
        process.ready()
        started = time.perf_counter() - begin
        listener = Listener(process.pids, process.weighed, energy, notify, gpu=job.device != "cpu")
        try:
            listener.wait()
            process.run(job_json(job, runtime, energy), job.protocol.timeout_seconds, listener)
        finally:
            listener.close()
        result = read_result(job.outdir / "result.json", runtime)
    return result, listener, {"start": started, "total": time.perf_counter() - begin}


def read_result(path: Path, runtime: str) -> Json:
    """A worker's ``result.json``. Raises WorkerError when there is none, or it is no result."""
    try:
        result: Json = json.loads(path.read_text())
        result["status"], result["reason"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkerError(f"The {runtime} worker left no usable result", found=str(error)) from error
    return result
