"""onnxruntime: the CPU provider, CUDA and TensorRT."""

from __future__ import annotations

import importlib
from typing import Any, List

import numpy as np

from ..inputs import Refused
from .base import Backend, Json, dims

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
}


class OnnxRuntime(Backend):
    """onnxruntime with its defaults (all graph optimisations), one session, ``threads`` intra-op threads."""

    copies = "input read in place from host memory; output allocated by the runtime, inside the timed call"

    def __init__(self) -> None:
        super().__init__()
        self._ort = importlib.import_module("onnxruntime")
        self.version = str(self._ort.__version__)

    def load(self, path: str, threads: int, device: str) -> None:
        wanted = PROVIDERS[device]
        if wanted[0] not in self._ort.get_available_providers():
            raise Refused(f"this onnxruntime has no {wanted[0]}")
        self._session = self._ort.InferenceSession(path, self._options(threads), providers=wanted)
        if self._session.get_providers()[0] != wanted[0]:
            raise Refused(f"{wanted[0]} did not load; see the worker's messages")
        self._name = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._feeds: Json = {}
        self._result: Any = None
        self._device = device
        if device != "cpu":
            self.copies = "input resident on the device; output copied to the host after the timed call"
            self._binding = self._session.io_binding()

    def _options(self, threads: int) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.exact:  # QDQ nodes are then not fused into this CPU's integer kernels
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def _describe(self, args: Any) -> List[Json]:
        return [{"name": a.name, "shape": dims(a.shape), "dtype": TYPES.get(a.type, a.type)} for a in args]

    def inputs(self) -> List[Json]:
        return self._describe(self._session.get_inputs())

    def outputs(self) -> List[Json]:
        return self._describe(self._session.get_outputs())

    def prepare(self, values: np.ndarray) -> Any:
        if self._device == "cpu":
            return {self._name: values}
        return self._ort.OrtValue.ortvalue_from_numpy(values, "cuda", 0)

    def feed(self, prepared: Any) -> None:
        self._feeds = prepared
        if self._device != "cpu":
            self._binding.bind_ortvalue_input(self._name, prepared)
            self._binding.bind_output(self._output, "cuda")
            self._binding.synchronize_inputs()

    def call(self) -> None:
        if self._device == "cpu":
            self._result = self._session.run(None, self._feeds)
        else:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()

    def fetch(self) -> np.ndarray:
        if self._device != "cpu":
            return np.asarray(self._binding.copy_outputs_to_cpu()[0])
        return np.asarray(self._result[0])

    def info(self) -> Json:
        return {"providers": self._session.get_providers()}
