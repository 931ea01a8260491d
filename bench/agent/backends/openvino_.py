"""OpenVINO on the CPU: its own ``.xml`` with ``.bin``, ONNX and TensorFlow Lite files."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, List, Optional

import numpy as np

from ..inputs import Refused
from .base import Backend, Json

TYPES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
}
REDUCED = ("f16", "bf16")


class OpenVino(Backend):
    """One synchronous request, latency hint, shapes fixed at compile time, float layers computed in float32.

    Left to itself the CPU plug-in computes float32 models in bfloat16 or float16 where the CPU can
    (OpenVINO documentation, *Precision Control*): then its figures would not be those of the same
    model elsewhere, so INFERENCE_PRECISION_HINT is f32, and ``info`` repeats what the plug-in answers.
    """

    profiled = False
    """Keep the plug-in's counters of each operator."""
    clock = "the request's own clock, as benchmark_app does: without the Python binding"
    copies = "input read in place from host memory; output written to the request's own memory"

    def __init__(self) -> None:
        super().__init__()
        # Its import reports to its makers, from a thread and a process of its own: not in a worker that is timed,
        # and that process would keep a crashed worker's pipe open. Without the module it takes a stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        self._ov = importlib.import_module("openvino")
        self.version = str(self._ov.__version__).partition("-")[0]

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cpu":
            raise Refused(f"openvino runs on the CPU here, not on {device}")
        weights = os.path.splitext(path)[0] + ".bin"
        if path.endswith(".xml") and not os.path.isfile(weights):
            raise Refused(
                f"{os.path.basename(path)} needs {os.path.basename(weights)} beside it: no such file"
            )
        self._threads = threads
        self._core = self._ov.Core()
        self._model = self._core.read_model(path)
        self._own = [self._shape(port) for port in self._model.inputs]
        self._compiled: Any = None
        reduced = {
            c.get_element_type().get_type_name()
            for c in self._model.get_ops()
            if c.get_type_name() == "Constant"
        }
        if reduced & set(REDUCED):
            self.notes.append("weights of 16 bits are computed in float32 (INFERENCE_PRECISION_HINT f32)")

    def _shape(self, port: Any) -> List[Optional[int]]:
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic:
            return [None]
        return [d.get_length() if d.is_static else None for d in shape]

    def _describe(self, ports: Any) -> List[Json]:
        described = []
        for index, port in enumerate(ports):
            kind = port.get_element_type().get_type_name()
            name = sorted(port.get_names())[0] if port.get_names() else f"#{index}"
            described.append({"name": name, "shape": self._shape(port), "dtype": TYPES.get(kind, kind)})
        return described

    def inputs(self) -> List[Json]:
        found = self._describe(self._model.inputs)
        for spec, own in zip(found, self._own):
            spec["shape"] = list(own)  # not what set_batch made of it
        return found

    def outputs(self) -> List[Json]:
        return self._describe(self._model.outputs)

    def set_batch(self, batch: int) -> None:
        """Compile for this batch: the plug-in is told every shape before, as its users would."""
        super().set_batch(batch)
        if len(self._own) != 1:
            return
        shape = self._sized(batch, self._own[0])
        if any(d is None for d in self._own[0]):
            self._model.reshape(self._ov.PartialShape([-1 if d is None else d for d in shape]))
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self._threads),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if self.profiled:
            options["PERF_COUNT"] = "YES"
        if not self.alone:
            options["ENABLE_CPU_PINNING"] = "NO"  # every instance would keep to the same cores
        self._compiled = self._core.compile_model(self._model, "CPU", options)
        self._request = self._compiled.create_infer_request()
        self._output = self._compiled.outputs[0]

    def prepare(self, values: np.ndarray) -> Any:
        return self._ov.Tensor(np.ascontiguousarray(values), shared_memory=True)

    def feed(self, prepared: Any) -> None:
        self._request.set_input_tensor(prepared)

    def call(self) -> None:
        self._request.infer(share_outputs=True)  # a copy of the outputs would be timed

    def took(self) -> Optional[float]:
        return float(self._request.latency) * 1e-3

    def fetch(self) -> np.ndarray:
        return np.array(self._request.get_output_tensor().data)

    def info(self) -> Json:
        ask = self._compiled.get_property
        precision = ask("INFERENCE_PRECISION_HINT")
        return {
            "device": str(ask("EXECUTION_DEVICES")),
            "inference_precision": getattr(precision, "get_type_name", lambda: str(precision))(),
            "threads": int(ask("INFERENCE_NUM_THREADS")),
            "streams": int(ask("NUM_STREAMS")),
            "int8_hardware": "INT8" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
        }
