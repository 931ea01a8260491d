"""LiteRT (TensorFlow Lite) on the CPU."""

from __future__ import annotations

import importlib
from typing import Any, List, Optional

import numpy as np

from ..inputs import Refused
from .base import Backend, Json


class LiteRt(Backend):
    """LiteRT (ai-edge-litert, or its predecessor tflite-runtime) with its default XNNPACK delegate."""

    copies = "input copied into the interpreter before the timed call; output copied out after it"

    def __init__(self) -> None:
        super().__init__()
        try:
            self._module = importlib.import_module("ai_edge_litert.interpreter")
            package = importlib.import_module("ai_edge_litert")
        except ImportError:
            self._module = importlib.import_module("tflite_runtime.interpreter")
            package = importlib.import_module("tflite_runtime")
        self.version = str(getattr(package, "__version__", ""))

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cpu":
            raise Refused(f"litert runs on the CPU only, not on {device}")
        self._interpreter = self._module.Interpreter(model_path=path, num_threads=threads)
        details = self._interpreter.get_input_details()[0]
        self._allocated = False
        self._input = int(details["index"])
        # The signature has -1 where the graph leaves a side free; `shape` then holds a 1.
        signature = [int(d) for d in details.get("shape_signature", details["shape"])]
        self._own: List[Optional[int]] = [d if d > 0 else None for d in signature] or [None]

    def _allocate(self, shape: List[int]) -> None:
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()
        self._allocated = True
        self._output = int(self._interpreter.get_output_details()[0]["index"])

    def _describe(self, details: Any) -> List[Json]:
        described = []
        for d in details:
            spec: Json = {"name": d["name"], "shape": [int(v) for v in d["shape"]]}
            spec["dtype"] = np.dtype(d["dtype"]).name
            scale, zero_point = d["quantization"]
            if scale:
                spec.update(scale=float(scale), zero_point=int(zero_point))
            described.append(spec)
        return described

    def inputs(self) -> List[Json]:
        found = self._describe(self._interpreter.get_input_details())
        found[0]["shape"] = [None, *self._own[1:]]  # the batch is resized by set_batch
        return found

    def outputs(self) -> List[Json]:
        return self._describe(self._interpreter.get_output_details())

    def set_batch(self, batch: int) -> None:
        shape = self._sized(batch, self._own)
        if any(d is None for d in shape):
            raise Refused(f"the input's shape {self._own} is free beyond the batch; say its size")
        sized = [int(d) for d in shape if d is not None]
        current = [int(d) for d in self._interpreter.get_input_details()[0]["shape"]]
        before = current if self._allocated else None
        if self._allocated and current == sized:
            return
        try:
            self._allocate(sized)
            if batch == self._own[0]:
                return  # the file's own batch: nothing to try
            self._interpreter.invoke()
            given = self._interpreter.get_tensor(self._output).shape[0]
        except (RuntimeError, ValueError) as error:
            if before is None and batch == self._own[0]:
                raise  # the file itself cannot be run
            self._back(before)
            raise Refused(f"the artifact cannot be resized to a batch of {batch}: {error}") from error
        if given != batch:
            self._back(before)
            raise Refused(f"resized to a batch of {batch}, the artifact gives {given} outputs")

    def _back(self, shape: Optional[List[int]]) -> None:
        if shape is not None:
            self._allocate(shape)

    def feed(self, prepared: Any) -> None:
        self._interpreter.set_tensor(self._input, prepared)

    def call(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> np.ndarray:
        return np.asarray(self._interpreter.get_tensor(self._output))
