"""TensorRT: a serialised ``.engine``, or an ONNX file built into one. Not run on hardware yet.

Written from NVIDIA's documentation of the Python API of TensorRT 10 and 11 (named tensors,
``execute_async_v3``, strongly typed networks); no machine with TensorRT has run it. Device memory and
streams come from the CUDA runtime library through ctypes, so that nothing else must be installed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import os
from typing import Any, Dict, List, Optional

import numpy as np

from ..inputs import Refused
from .base import Backend, Json, dims

TO_DEVICE, TO_HOST = 1, 2
"""cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost."""
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8"}


class Cuda:
    """The few calls of the CUDA runtime that feeding an engine takes."""

    def __init__(self) -> None:
        for name in (*LIBRARIES, ctypes.util.find_library("cudart") or ""):
            try:
                self._lib = ctypes.CDLL(name) if name else None
            except OSError:
                continue
            if self._lib is not None:
                return
        raise Refused("the CUDA runtime library (libcudart) is not found; add its folder to LD_LIBRARY_PATH")

    def check(self, what: str, *arguments: Any) -> None:
        """Call a function; raise Refused unless it answers cudaSuccess (0)."""
        status = getattr(self._lib, what)(*arguments)
        if status == 2:
            raise MemoryError(f"{what}: the GPU is out of memory")
        if status:
            raise Refused(f"{what} failed with CUDA error {status}")

    def memory(self, size: int) -> ctypes.c_void_p:
        pointer = ctypes.c_void_p()
        self.check("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def free(self, pointer: ctypes.c_void_p) -> None:
        self.check("cudaFree", pointer)

    def copy(self, target: Any, source: Any, size: int, kind: int) -> None:
        self.check("cudaMemcpy", target, source, ctypes.c_size_t(size), ctypes.c_int(kind))

    def stream(self) -> ctypes.c_void_p:
        stream = ctypes.c_void_p()
        self.check("cudaStreamCreate", ctypes.byref(stream))
        return stream

    def wait(self, stream: ctypes.c_void_p) -> None:
        self.check("cudaStreamSynchronize", stream)


class TensorRt(Backend):
    """One execution context on one stream; input and output stay on the GPU during the timed call."""

    copies = "input and output resident on the GPU; copied before and after the timed call"

    def __init__(self) -> None:
        super().__init__()
        self._trt = importlib.import_module("tensorrt")
        self.version = str(self._trt.__version__)
        self._memory: Dict[str, Any] = {}
        self._engine: Any = None

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cuda":
            raise Refused(f"tensorrt runs on NVIDIA GPUs, not on {device}")
        trt, self._cuda = self._trt, Cuda()
        logger = trt.Logger(trt.Logger.WARNING)
        if os.path.splitext(path)[1] == ".onnx":
            self._parse(path, logger)
        else:
            with open(path, "rb") as file:
                self._engine = trt.Runtime(logger).deserialize_cuda_engine(file.read())
            if self._engine is None:
                raise Refused("TensorRT cannot read this engine: engines fit one version and one kind of GPU")
            self._set_up()

    def _parse(self, path: str, logger: Any) -> None:
        """Parse now; the engine is built by set_batch, for that batch."""
        trt = self._trt
        self._builder = trt.Builder(logger)
        # Strongly typed: precisions are those of the ONNX file (the only way from TensorRT 11 on).
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(flags)
        parser = trt.OnnxParser(self._network, logger)
        if not parser.parse_from_file(path):
            said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise Refused(f"TensorRT cannot parse this ONNX file: {said[:300]}")
        self.notes.append("engine built from ONNX on this GPU; the build is part of the load time")

    def _build(self, batch: int) -> None:
        trt = self._trt
        config = self._builder.create_builder_config()
        tensor = self._network.get_input(0)
        shape = self._sized(batch, dims(tensor.shape))
        if any(d is None for d in shape):
            raise Refused(f"the input's shape {dims(tensor.shape)} is free beyond the batch; say its size")
        profile = self._builder.create_optimization_profile()
        profile.set_shape(tensor.name, shape, shape, shape)
        config.add_optimization_profile(profile)
        serialised = self._builder.build_serialized_network(self._network, config)
        if serialised is None:
            raise Refused("TensorRT could not build an engine; see the worker's messages")
        self._engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(serialised)
        self._set_up()

    def _set_up(self) -> None:
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()

    def _io(self, wanted: str) -> List[Json]:
        trt, found = self._trt, []
        if self._engine is None:
            network = self._network
            count, get = (
                (network.num_inputs, network.get_input)
                if wanted == "INPUT"
                else (network.num_outputs, network.get_output)
            )
            tensors = [get(i) for i in range(count)]
            return [self._spec(t.name, t.shape, t.dtype) for t in tensors]
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if self._engine.get_tensor_mode(name) == getattr(trt.TensorIOMode, wanted):
                found.append(
                    self._spec(name, self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name))
                )
        return found

    def _spec(self, name: str, shape: Any, dtype: Any) -> Json:
        return {"name": name, "shape": dims(tuple(shape)), "dtype": NAMES.get(dtype.name, dtype.name.lower())}

    def inputs(self) -> List[Json]:
        return self._io("INPUT")

    def outputs(self) -> List[Json]:
        return self._io("OUTPUT")

    def set_batch(self, batch: int) -> None:
        if self._engine is None:
            super().set_batch(batch)
            self._build(batch)
        (source,), outputs = self.inputs(), self.outputs()
        shape: List[Optional[int]] = self._sized(batch, source["shape"])
        fixed = source["shape"][0]
        if fixed is not None and fixed != batch:
            raise Refused(f"the engine has a fixed batch of {fixed}, not {batch}")
        if not self._context.set_input_shape(source["name"], shape):
            raise Refused(f"the engine's profile does not take an input of {shape}")
        for pointer in self._memory.values():
            self._cuda.free(pointer)
        self._memory = {}
        for spec in (source, *outputs):
            sized = tuple(self._context.get_tensor_shape(spec["name"]))
            size = int(np.prod(sized)) * np.dtype(spec["dtype"]).itemsize
            self._memory[spec["name"]] = self._cuda.memory(size)
            self._context.set_tensor_address(spec["name"], self._memory[spec["name"]].value)
        self._input, self._output = source["name"], outputs[0]

    def feed(self, prepared: Any) -> None:
        self._cuda.copy(
            self._memory[self._input], prepared.ctypes.data_as(ctypes.c_void_p), prepared.nbytes, TO_DEVICE
        )

    def call(self) -> None:
        if not self._context.execute_async_v3(self._stream.value):
            raise Refused("TensorRT could not start the execution; see the worker's messages")
        self._cuda.wait(self._stream)

    def fetch(self) -> np.ndarray:
        name = self._output["name"]
        result = np.empty(tuple(self._context.get_tensor_shape(name)), np.dtype(self._output["dtype"]))
        self._cuda.copy(result.ctypes.data_as(ctypes.c_void_p), self._memory[name], result.nbytes, TO_HOST)
        return result
