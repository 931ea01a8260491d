"""MLPerf's scenarios through its own load generator (LoadGen), over our streams.

LoadGen asks from threads of its own and wants to be told of every answer; it keeps the time, the statistics and
the verdict, in log files (https://github.com/mlcommons/inference/tree/master/loadgen).
"""

from __future__ import annotations

import importlib
import math
import os
import queue
import threading
import time
from array import array
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .backends import Backend
from .load import Crew, Stream, Tell, merged, ready, settled, watch, without_gc

Json = Dict[str, Any]
Asked = Tuple[float, List[Tuple[int, int]]]
"""When LoadGen issued some queries, and the (response id, sample) of each."""
SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""Our names and LoadGen's."""
DIRECT = ("single-stream", "multi-stream")
"""One query at a time: answered by the thread that asks, so that no hand-over is timed."""


PILOT_MARGIN = 1.5
"""An Offline test may last longer than was asked for, but not shorter: the machine may be faster by then."""


def fastest(calls: np.ndarray) -> float:
    """Images per second in the fastest tenth of a stream's warm-up; ``calls`` (n, 3) as recorded."""
    parts = np.array_split(calls, min(10, len(calls)))
    return max(float(p[:, 2].sum() / (p[-1, 1] - p[0, 0])) for p in parts)


class LoadGen:
    """One test of MLPerf's LoadGen over our streams.

    SingleStream and MultiStream are answered by LoadGen's own thread. For Server and Offline it puts its
    queries in a queue; every stream takes up to a batch of what waits there.

    LoadGen (6.0) is not ready for an error: it waits for every answer, and an exception that passes through
    it ends the process. So an error is kept, what is asked from then on is answered at once without the
    model, and :meth:`run` returns while LoadGen runs out in a thread that ends with the process.
    """

    def __init__(
        self, make: Callable[[], Backend], samples: np.ndarray, options: Json, outdir: str, tell: Tell
    ) -> None:
        self.lg: Any = importlib.import_module("mlperf_loadgen")
        self.make, self.samples, self.options, self.outdir, self.tell = make, samples, options, outdir, tell
        self.batch: int = options["batch"]
        self.direct = options["scenario"] in DIRECT
        self.streams: List[Stream] = []
        self.queries = array("d")
        self.expected = 0.0
        self.settled = True
        self._moves = 0
        self._crew = Crew()
        self._warm: List[np.ndarray] = []
        self._waiting: "queue.SimpleQueue[Optional[Asked]]" = queue.SimpleQueue()
        self._gate = threading.Barrier(1 if self.direct else options["streams"] + 1)

    def run(self) -> Json:
        """The whole test.

        Returns:
            ``calls`` as :func:`concurrent` gives them; ``queries`` float64 (n,): seconds from issue to answer
            of each query (not in Offline); ``expected``: images/s in the fastest part of the warm-up;
            ``settled``. LoadGen's logs are in the outdir.

        Raises:
            Refused: an instance could not be loaded or called.
        """
        servers = [] if self.direct else [self._serve] * self.options["streams"]
        with without_gc():
            self._crew.start(self._test, *servers)
            watch(self._crew.ended, lambda: self._moves, self.tell)
        self._crew.raise_error("in LoadGen's %s test" % SCENARIOS[self.options["scenario"]], self.batch)
        return {
            "calls": merged(self.streams),
            "queries": np.array(self.queries),
            "expected": self.expected,
            "settled": self.settled,
        }

    def _ready(self) -> Stream:
        """Load and warm up an instance at the same time as the others."""
        count, batch = len(self.samples), self.batch

        def act(stream: Stream, index: int) -> None:
            stream.answer([(index + k) % count for k in range(batch)])

        stream, calls = ready(self.make, self.samples, self.options, self._gate, act)
        self._warm.append(calls)
        self.streams.append(stream)
        self._gate.wait()
        return stream

    def _serve(self) -> None:
        stream = self._ready()
        while True:
            item = self._waiting.get()
            if item is None:
                return
            items = [item]
            while sum(len(asked) for _, asked in items) < self.batch:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                items.append(more)
            self._answer(stream, items)

    def _answer(self, stream: Stream, items: Sequence[Asked]) -> None:
        """Answer these queries in one call, and tell LoadGen in any case."""
        asked = [a for _, chunk in items for a in chunk]
        if self._crew.error is None:
            try:
                stream.answer([row for _, row in asked])
            except Exception as error:
                self._crew.fail(error)
        if self._crew.error is not None and self.direct:
            time.sleep(0.001)  # LoadGen asks again at once, until its time is over
        now = time.perf_counter()
        if self.options["scenario"] == "server":
            self.queries.extend(now - issued for issued, chunk in items for _ in chunk)
        self._moves += 1
        self.lg.QuerySamplesComplete([self.lg.QuerySampleResponse(a, 0, 0) for a, _ in asked])

    def _issue(self, queries: Any) -> None:
        """LoadGen's call for answers. The list is LoadGen's and gone when this returns."""
        issued = time.perf_counter()
        asked = [(q.id, q.index) for q in queries]
        self._moves += 1
        for low in range(0, len(asked), self.batch):
            item = (issued, asked[low : low + self.batch])
            if self.direct:
                self._answer(self.streams[0], [item])
            else:
                self._waiting.put(item)
        if self.direct:
            self.queries.append(time.perf_counter() - issued)

    def _test(self) -> None:
        if self.direct:
            self._ready()
        else:
            self._gate.wait()  # all are loaded
            self._gate.wait()  # and warm
        self.expected = sum(fastest(w) for w in self._warm)
        self.settled = all(settled(w) for w in self._warm)
        try:
            if self.options["scenario"] == "offline":  # a first, short test: what the queue costs, it shows
                self._start(self.options["warmup_seconds"])
                calls = merged(self.streams)
                rate = float(calls[:, 2].sum() / (calls[-1, 1] - calls[:, 0].min()))
                self.expected = min(self.expected, PILOT_MARGIN * rate)
            if self._crew.error is None:
                self._start(self.options["seconds"])
        finally:
            for _ in range(self.options["streams"]):
                self._waiting.put(None)

    def _start(self, seconds: float) -> None:
        """One test; the streams' records hold its calls."""
        for stream in self.streams:
            stream.calls = array("d")
        lg, count = self.lg, len(self.samples)
        sut = lg.ConstructSUT(self._issue, lambda: None)
        library = lg.ConstructQSL(count, count, lambda rows: None, lambda rows: None)
        try:
            audit = os.path.join(self.outdir, "no-audit.config")  # not one that happens to lie around
            lg.StartTestWithLogSettings(sut, library, self._settings(seconds), self._logs(), audit)
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)

    def _settings(self, seconds: float) -> Any:
        """LoadGen prepares all queries beforehand from what we expect: too few would make the test short."""
        options, settings = self.options, self.lg.TestSettings()
        settings.scenario = getattr(self.lg.TestScenario, SCENARIOS[options["scenario"]])
        settings.mode = self.lg.TestMode.PerformanceOnly
        settings.min_duration_ms = int(seconds * 1e3)
        # The test lasts as long as was asked; whether that was enough is early stopping's business.
        settings.min_query_count = 1
        settings.single_stream_expected_latency_ns = int(1e9 / self.expected / 2)
        images = settings.multi_stream_samples_per_query
        settings.multi_stream_expected_latency_ns = int(images * 1e9 / self.expected / 2)
        settings.offline_expected_qps = self.expected * 1.1
        if options["scenario"] == "server":
            settings.server_target_qps = options["qps"]
            settings.server_target_latency_ns = int(options["latency_bound_ms"] * 1e6)
            # A backlog that takes longer than the test itself: end it, it is lost.
            bound = max(seconds, options["latency_bound_ms"] / 1e3)
            settings.server_max_async_queries = max(100, math.ceil(self.expected * bound))
        return settings

    def _logs(self) -> Any:
        output = self.lg.LogOutputSettings()
        output.outdir = self.outdir
        output.copy_summary_to_stdout = False
        output.copy_detail_to_stdout = False
        logs = self.lg.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        return logs
