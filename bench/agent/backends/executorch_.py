"""ExecuTorch: ``.pte`` programs with the kernels they were lowered to (XNNPACK on CPUs)."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any, List

import numpy as np

from ..inputs import Refused
from .base import Backend, Json

TYPES = {0: "uint8", 1: "int8", 5: "float16", 6: "float32", 7: "float64", 15: "bfloat16"}
"""ScalarType numbers (executorch/runtime/core/portable_type/scalar_type.h)."""
METHOD = "forward"


class ExecuTorch(Backend):
    """The pybindings' ``forward`` method: set_inputs and get_outputs around a timed execute.

    ``executorch.runtime`` re-exports the same bindings but imports the whole exporter first (seconds and
    hundreds of megabytes that no device has), so the extension module is taken directly where it can be.
    """

    copies = "input copied into the planned memory before the timed call; output read in place after it"

    def __init__(self) -> None:
        super().__init__()
        self._torch = importlib.import_module("torch")  # loads the libraries that the bindings link to
        try:
            self._lib = importlib.import_module("executorch.extension.pybindings._C")
        except ImportError:
            self._lib = importlib.import_module("executorch.extension.pybindings.portable_lib")
        self.version = importlib.metadata.version("executorch")

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cpu":
            raise Refused(f"executorch runs on the CPU here, not on {device}")
        self._torch.set_num_threads(threads)
        self._lib._unsafe_reset_threadpool(threads)
        self._program = self._lib._load_program(path)
        names = [self._program.get_method_name(i) for i in range(self._program.num_methods())]
        if METHOD not in names:
            raise Refused(f"the program has no method {METHOD!r}, only {', '.join(names) or 'none'}")
        self._method = self._program.load_method(METHOD)
        self._meta = self._method.method_meta()

    def _describe(self, count: int, get: Any, what: str) -> List[Json]:
        described = []
        for index in range(count):
            info = get(index)
            sizes: List[Any] = [int(d) for d in info.sizes()]
            # A program with a free batch says the largest it planned memory for.
            shape = [None, *sizes[1:]] if sizes and sizes[0] > 1 else sizes
            kind = TYPES.get(int(info.dtype()), f"type {int(info.dtype())}")
            described.append({"name": f"{what}_{index}", "shape": shape, "dtype": kind})
        return described

    def inputs(self) -> List[Json]:
        return self._describe(self._meta.num_inputs(), self._meta.input_tensor_meta, "input")

    def outputs(self) -> List[Json]:
        return self._describe(self._meta.num_outputs(), self._meta.output_tensor_meta, "output")

    def set_batch(self, batch: int) -> None:
        """Only trying tells a program for any batch from one for a fixed batch."""
        super().set_batch(batch)
        largest, *rest = (int(d) for d in self._meta.input_tensor_meta(0).sizes())
        if batch > largest:
            raise Refused(f"the program has memory planned for at most {largest} images, not {batch}")
        kind = getattr(self._torch, self.inputs()[0]["dtype"])
        try:
            self._method.set_inputs([self._torch.zeros([batch, *rest], dtype=kind)])
        except RuntimeError as error:
            raise Refused(f"the program has a fixed batch of {largest}, not {batch}") from error

    def prepare(self, values: np.ndarray) -> Any:
        return [self._torch.from_numpy(values)]

    def feed(self, prepared: Any) -> None:
        self._method.set_inputs(prepared)

    def call(self) -> None:
        self._method.execute()

    def fetch(self) -> np.ndarray:
        output = self._method.get_outputs(False)[0]
        return np.array(output.float().numpy())

    def info(self) -> Json:
        return {"threads": int(self._lib._threadpool_get_thread_count())}
