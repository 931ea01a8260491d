"""Load: several instances of an artifact called at the same time; MLPerf's scenarios are in :mod:`.loadgen`.

A stream is one loaded instance of the artifact and the thread that drives it; runtimes let go of
Python's lock while they compute. Its own thread loads it, because torch's modes belong to threads.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from array import array
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from .backends import BACKENDS, Backend
from .inputs import Refused, explain

Json = Dict[str, Any]
Tell = Callable[[int], None]
STREAMS = "streams"
ONE_BY_ONE = threading.Lock()
"""Instances are loaded and called first one after another: torch's loaders are not made for threads."""
TELL_SECONDS = 0.5
LEAST_WARM = 6
DRIFT = 0.05
"""Under load, medians of a tenth of a second differ by some percent however long the warm-up was."""


class Stream:
    """One instance with a record of its calls: start, end (s, monotonic clock) and images of each."""

    def __init__(self, backend: Backend, samples: np.ndarray, batch: int) -> None:
        self.backend, self.samples, self.batch = backend, samples, batch
        self.calls = array("d")
        self._prepared = [
            backend.prepare(samples[np.arange(low, low + batch) % len(samples)])
            for low in range(0, len(samples), batch)
        ]
        self.step(0)

    def step(self, index: int) -> None:
        """One call of a batch that is fed before; the call alone is recorded, as `bench measure` does."""
        self.backend.feed(self._prepared[index % len(self._prepared)])
        start = time.perf_counter()
        self.backend.call()
        self.calls.extend((start, time.perf_counter(), self.batch))

    def answer(self, rows: Sequence[int]) -> None:
        """From samples in memory to outputs in memory, in one call; a batch that is not full repeats its last."""
        start = time.perf_counter()
        if self.batch == 1:
            prepared = self._prepared[rows[0]]
        else:
            filled = [*rows, *[rows[-1]] * (self.batch - len(rows))]
            prepared = self.backend.prepare(self.samples[filled])
        self.backend.feed(prepared)
        self.backend.call()
        self.backend.fetch()
        self.calls.extend((start, time.perf_counter(), len(rows)))

    def warm_up(self, act: Callable[[int], None], seconds: float) -> np.ndarray:
        """``act`` for so long; the calls made, (n, 3). The record is empty afterwards."""
        self.calls = array("d")
        end, index = time.perf_counter() + seconds, 0
        while index < LEAST_WARM or time.perf_counter() < end:
            act(index)
            index += 1
        made, self.calls = np.array(self.calls).reshape(-1, 3), array("d")
        return made


def settled(made: np.ndarray) -> bool:
    """Do the medians of the warm-up's last two thirds agree? ``made`` (n, 3) as recorded."""
    took = made[:, 1] - made[:, 0]
    second, third = np.array_split(took, 3)[1:]
    return bool(abs(np.median(third) - np.median(second)) <= DRIFT * np.median(second))


def watch(ended: threading.Event, count: Callable[[], int], tell: Tell) -> None:
    """Sleep until the end; tell how far it is, and nothing when nothing moves, so that a hang is noticed."""
    last = -1
    while not ended.wait(TELL_SECONDS):
        now = count()
        if now != last:
            tell(now)
            last = now


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Python's collector would stop every stream."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Crew:
    """Threads of which the first error ends all; ``ended`` is set then, or when the last one is through."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Optional[Exception] = None
        self._lock, self._left = threading.Lock(), 0

    def fail(self, error: Exception) -> None:
        with self._lock:
            self.error = self.error or error
        self.ended.set()

    def start(self, *works: Callable[[], None]) -> None:
        self._left = len(works)
        for number, work in enumerate(works):
            threading.Thread(target=self._do, args=(work,), name="load-%d" % number, daemon=True).start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except threading.BrokenBarrierError:
            pass  # another one failed, and said why
        except Exception as error:  # runtimes raise anything
            self.fail(error)
        with self._lock:
            self._left -= 1
        if not self._left:
            self.ended.set()

    def raise_error(self, doing: str, batch: int) -> None:
        """Raise Refused with the first error, if there was one."""
        if isinstance(self.error, Refused):
            raise self.error
        if self.error is not None:
            raise Refused("%s: %s" % (doing, explain(self.error, batch))) from self.error


def ready(
    make: Callable[[], Backend],
    samples: np.ndarray,
    options: Json,
    gate: threading.Barrier,
    act: Callable[[Stream, int], None],
) -> Tuple[Stream, np.ndarray]:
    """Load an instance, wait for the others, warm up at the same time; the stream and the warm-up's calls.

    ``act`` makes the stream's n-th call. After an error nobody waits at the gate (BrokenBarrierError).
    """
    try:
        with ONE_BY_ONE:
            stream = Stream(make(), samples, options["batch"])
        gate.wait()
        return stream, stream.warm_up(lambda i: act(stream, i), options["warmup_seconds"])
    except Exception:
        gate.abort()
        raise


def concurrent(make: Callable[[], Backend], samples: np.ndarray, options: Json, tell: Tell) -> Json:
    """Call ``options["streams"]`` instances at the same time for ``options["seconds"]``.

    Args:
        make: loads one instance, ready for the batch; called in the thread that uses it.
        samples: (n, *input shape) as the artifact takes them.
        options: ``streams batch seconds warmup_seconds``.
        tell: hears the number of calls made so far, about twice a second.

    Returns:
        ``calls`` float64 (n, 3): start, end, images, in the order of their ends; ``begin`` and ``end``
        of the time in which all streams were busy; ``settled``.

    Raises:
        Refused: an instance could not be loaded or called.
    """
    crew = Crew()
    streams: List[Stream] = []
    warm: List[np.ndarray] = []
    span: List[float] = []
    gate = threading.Barrier(options["streams"], action=lambda: span.append(time.perf_counter()))

    def drive() -> None:
        stream, calls = ready(make, samples, options, gate, Stream.step)
        warm.append(calls)
        streams.append(stream)
        gate.wait()
        end, index = span[-1] + options["seconds"], 0
        while time.perf_counter() < end and crew.error is None:
            stream.step(index)
            index += 1

    with without_gc():
        crew.start(*[drive] * options["streams"])
        watch(crew.ended, lambda: sum(len(s.calls) for s in streams) // 3, tell)
    crew.raise_error("with %d streams" % options["streams"], options["batch"])
    return {
        "calls": merged(streams),
        "begin": span[-1],
        "end": span[-1] + options["seconds"],
        "settled": all(settled(w) for w in warm),
    }


def merged(streams: Sequence[Stream]) -> np.ndarray:
    """The calls of all streams, float64 (n, 3), in the order of their ends."""
    calls = np.concatenate([np.array(s.calls).reshape(-1, 3) for s in streams])
    return calls[np.argsort(calls[:, 1], kind="stable")]


def run(measurement: Any, options: Json) -> None:
    """The worker's timing phase under load; what is found goes to ``measurement.result["load"]``.

    Args:
        measurement: a ``Measurement`` whose artifact is loaded; its ``batches`` are the inputs.
        options: ``scenario`` (``streams`` or one of :data:`.loadgen.SCENARIOS`), ``streams``, ``seconds``; for ``server`` also
            ``qps`` and ``latency_bound_ms``.
    """
    job, events = measurement.job, measurement.events
    if measurement.backend.own_loop:
        raise Refused("%s makes its calls by itself: they cannot come at given times" % job["runtime"])
    options = dict(options, batch=job["batch"], warmup_seconds=job["protocol"]["warmup_seconds"])
    samples = np.concatenate(measurement.batches)

    def make() -> Backend:
        backend = BACKENDS[job["runtime"]]()
        first = measurement.backend
        backend.exact, backend.alone, backend.shape = first.exact, first.alone, first.shape
        backend.load(job["artifact"], job["threads"], job["device"])
        backend.set_batch(job["batch"])
        return backend

    def tell(count: int) -> None:
        events.emit("load", n=count)

    measurement.enter("load test")
    if options["scenario"] == STREAMS:
        found = concurrent(make, samples, options, tell)
    else:
        from .loadgen import LoadGen

        found = LoadGen(make, samples, options, job["outdir"], tell).run()
    measurement.leave()
    for name in ("calls", "queries"):
        if name in found:
            np.save(os.path.join(job["outdir"], "load_%s.npy" % name), found[name])
            found[name] = "load_%s.npy" % name
    measurement.result["load"] = dict(found, samples=len(samples))
