"""The same runtimes with their own profilers switched on: time per operator.

A profiled backend is loaded and called as the ordinary one. :meth:`rows` then gives its operators in the order in which
they ran: ``name`` and ``op`` as the runtime calls them, ``us`` (microseconds of each call), ``weight`` (of the profiler's
own work on the operator, where it differs between them) and what else is said of them.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from typing import Any, Callable, Dict, List

from ..inputs import Refused
from .base import Json
from .onnxruntime_ import OnnxRuntime
from .openvino_ import OpenVino

KERNEL_TIME = "_kernel_time"
SHAPES = ("input_type_shape", "output_type_shape")
PER_TENSOR = 0.06
"""The profiler's work on an entry grows by this share with each tensor whose shape it writes (onnxruntime 1.32)."""


class ProfiledOnnxRuntime(OnnxRuntime):
    """onnxruntime's session profiling (its documentation, *Performance diagnosis*).

    A kernel's time holds the profiler's own work on its entry, about 2.5 us in 1.32: as long as a small kernel takes.
    """

    profiler = "onnxruntime's session profiling"
    cut_us = 0.5
    """Whole microseconds are written, rounded down."""

    def _options(self, threads: int) -> Any:
        options = super()._options(threads)
        self._folder = tempfile.TemporaryDirectory()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(self._folder.name, "profile")
        return options

    def __init__(self) -> None:
        super().__init__()
        self._calls = self._before = 0

    def start(self) -> None:
        """It records from the beginning: what was before is left out by :meth:`rows`."""
        self._before = self._calls

    def call(self) -> None:
        super().call()
        self._calls += 1

    def rows(self) -> List[Json]:
        with open(self._session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
        found: Dict[str, Json] = {}
        for event in events:
            if event.get("cat") != "Node" or not event["name"].endswith(KERNEL_TIME):
                continue
            said = event["args"]
            row = found.setdefault(
                said["node_index"],
                {
                    "name": event["name"][: -len(KERNEL_TIME)],
                    "op": said["op_name"],
                    "us": [],
                    "weight": 1 + PER_TENSOR * sum(len(said.get(k, ())) for k in SHAPES),
                },
            )
            row["us"].append(event["dur"])
        self._folder.cleanup()
        rows = list(found.values())
        for row in rows:
            row["us"] = row["us"][self._before :]
        return rows


class ProfiledOpenVino(OpenVino):
    """OpenVINO's counters (``PERF_COUNT``): means over all calls, in whole microseconds."""

    profiled = True
    profiler = "openvino's performance counters"
    cut_us = 1.0
    """Each call and then their mean are rounded down."""
    IDLE = ("undef", "unknown")
    """Kernels of what is no operator of its own: inputs, outputs, what was fused or happens in place."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        self._before: Dict[str, float] = {}

    def call(self) -> None:
        super().call()
        self._calls += 1

    def start(self) -> None:
        """The counters cannot be set back, and the first call prepares weights: what was before is subtracted later."""
        self._before = {info.node_name: self._total(info) for info in self._request.get_profiling_info()}
        self._calls_before = self._calls

    def _total(self, info: Any) -> float:
        return float(info.real_time.total_seconds() * 1e6 * self._calls)

    def rows(self) -> List[Json]:
        """Also what took less than a microsecond, which OpenVINO calls not run."""
        rows, calls = [], self._calls - self._calls_before
        for info in self._request.get_profiling_info():
            if not info.exec_type.startswith(self.IDLE):
                took = max(0.0, self._total(info) - self._before.get(info.node_name, 0.0)) / calls
                rows.append(
                    {"name": info.node_name, "op": info.node_type, "kernel": info.exec_type, "us": [took]}
                )
        return rows


def _litert() -> Any:
    return importlib.import_module(".litert_c", __package__).ProfiledLiteRt()


PROFILED: Dict[str, Callable[[], Any]] = {
    "onnxruntime": ProfiledOnnxRuntime,
    "openvino": ProfiledOpenVino,
    "litert": _litert,
}


def open_profiled(runtime: str) -> Any:
    """The profiled backend of a runtime. Raises Refused where it has none."""
    if runtime not in PROFILED:
        raise Refused(f"{runtime} is not profiled here; {', '.join(PROFILED)} are")
    return PROFILED[runtime]()
