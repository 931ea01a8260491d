"""A stand-in for the module ``tensorrt``, and for CUDA: nothing of it runs on a GPU.

``EDGEFIT_STANDIN_TENSORRT`` is the version that it claims (8.6.1, 10.3.0, 11.0.0) and whose flags it has; ``CALLS`` records what it was
told. An engine of it is the ONNX file itself, run by onnxruntime, so that logits can be compared.
"""

from __future__ import annotations

import ctypes
import enum
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

__version__ = os.environ.get("EDGEFIT_STANDIN_TENSORRT", "10.3.0")
MAJOR = int(__version__.split(".")[0])
CALLS: list[tuple[Any, ...]] = []
MAGIC = f"stand-in {__version__}\n".encode()
DLA_CORES = 2
EVENTS: list[float] = []

_NETWORK = {8: ["EXPLICIT_BATCH"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"], 11: ["STRONGLY_TYPED"]}
_BUILDER = ["GPU_FALLBACK", "TF32"] + (["FP16", "INT8"] if MAJOR < 11 else [])
NetworkDefinitionCreationFlag = enum.IntEnum(  # type: ignore[misc]
    "NetworkDefinitionCreationFlag", _NETWORK[MAJOR], start=0
)
BuilderFlag = enum.IntEnum("BuilderFlag", _BUILDER, start=0)  # type: ignore[misc]
DeviceType = enum.IntEnum("DeviceType", ["GPU", "DLA"], start=0)  # type: ignore[misc]
TensorIOMode = enum.IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)  # type: ignore[misc]


class ILogger:
    Severity = enum.IntEnum(  # type: ignore[misc]
        "Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0
    )


def _described(values: Any) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            name=v.name,
            shape=tuple(d if isinstance(d, int) else -1 for d in v.shape),
            dtype=SimpleNamespace(name="FLOAT"),
        )
        for v in values
    ]


class _Network:
    def load(self, data: bytes) -> None:
        session = onnxruntime.InferenceSession(data)
        self.data, self._in, self._out = (
            data,
            _described(session.get_inputs()),
            _described(session.get_outputs()),
        )

    num_inputs = num_outputs = 1

    def get_input(self, index: int) -> Any:
        return self._in[index]

    def get_output(self, index: int) -> Any:
        return self._out[index]


class OnnxParser:
    def __init__(self, network: _Network, logger: Any) -> None:
        self._network, self.num_errors = network, 0

    def parse_from_file(self, path: str) -> bool:
        try:
            self._network.load(Path(path).read_bytes())
        except Exception:
            self.num_errors = 1
        return not self.num_errors

    def get_error(self, index: int) -> str:
        return "stand-in: no such operator"


class _Config:
    def __init__(self) -> None:
        self.default_device_type, self.DLA_core = DeviceType.GPU, -1

    def set_flag(self, flag: Any) -> None:
        CALLS.append(("flag", flag.name))

    def add_optimization_profile(self, profile: Any) -> None:
        CALLS.append(("profile", profile.shapes))

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data) if data in (b"", b"timings") else None

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        CALLS.append(("timing cache", cache.data))
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"timings")


class Builder:
    num_DLA_cores = DLA_CORES

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> _Network:
        CALLS.append(("network", [f.name for f in NetworkDefinitionCreationFlag if flags & 1 << int(f)]))
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> Any:
        made = SimpleNamespace(shapes=None)
        made.set_shape = lambda name, *shapes: setattr(made, "shapes", [list(s) for s in shapes])
        return made

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes:
        CALLS.append(("build", config.default_device_type.name, config.DLA_core))
        if config.default_device_type == DeviceType.DLA:
            say = self._logger.log
            say(
                ILogger.Severity.WARNING,
                "Layer 'y' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU.",
            )
            say(ILogger.Severity.INFO, "---------- Layers Running on DLA ----------")
            say(ILogger.Severity.INFO, "[DlaLayer] {ForeignNode[/conv1...relu2]}")
            say(ILogger.Severity.INFO, "---------- Layers Running on GPU ----------")
            say(ILogger.Severity.INFO, "[GpuLayer] SHUFFLE: y")
        return MAGIC + network.data


class _Context:
    def __init__(self, engine: Any) -> None:
        self._engine, self._shape, self._at = engine, (), {}

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        own = self._engine.tensors[name].shape
        return self._shape if name == self._engine.source else (self._shape[0], *own[1:])

    def set_tensor_address(self, name: str, address: int) -> None:
        self._at[name] = address

    def _array(self, name: str) -> np.ndarray:
        shape = self.get_tensor_shape(name)
        return np.ctypeslib.as_array(
            (ctypes.c_float * int(np.prod(shape))).from_address(self._at[name])
        ).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        engine = self._engine
        found = engine.session.run(None, {engine.source: self._array(engine.source)})
        self._array(engine.sink)[...] = found[0]
        return True


class _Engine:
    num_io_tensors = 2

    def __init__(self, data: bytes) -> None:
        self.session = onnxruntime.InferenceSession(data)
        (inside,), (outside,) = (
            _described(self.session.get_inputs()),
            _described(self.session.get_outputs()),
        )
        self.source, self.sink = inside.name, outside.name
        self.tensors = {inside.name: inside, outside.name: outside}

    def create_execution_context(self) -> _Context:
        return _Context(self)

    def get_tensor_name(self, index: int) -> str:
        return (self.source, self.sink)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name == self.source else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name].dtype


class Runtime:
    DLA_core = -1

    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        CALLS.append(("read", self.DLA_core))
        return _Engine(plan[len(MAGIC) :]) if plan.startswith(MAGIC) else None


class Cudart:
    """The CUDA runtime's functions on this machine's memory; an event is the time at which it was recorded."""

    def __init__(self) -> None:
        self._held: dict[int, Any] = {}

    def cudaDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value._obj.value = {16: 16, 75: 8, 76: 7}[attribute]
        return 0

    def cudaMalloc(self, pointer: Any, size: Any) -> int:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self._held[pointer._obj.value] = block
        return 0

    def cudaFree(self, pointer: Any) -> int:
        del self._held[pointer.value]
        return 0

    def cudaMemcpy(self, target: Any, source: Any, size: Any, kind: Any) -> int:
        ctypes.memmove(target, source, size.value)
        return 0

    def cudaStreamCreate(self, stream: Any) -> int:
        stream._obj.value = 1
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        return 0

    def cudaEventCreate(self, event: Any) -> int:
        EVENTS.append(0.0)
        event._obj.value = len(EVENTS)
        return 0

    def cudaEventRecord(self, event: Any, stream: Any) -> int:
        EVENTS[event.value - 1] = time.perf_counter()
        return 0

    def cudaEventElapsedTime(self, passed: Any, start: Any, end: Any) -> int:
        passed._obj.value = 1e3 * (EVENTS[end.value - 1] - EVENTS[start.value - 1])
        return 0


sys.modules["bench.agent.backends.cuda"].library = Cudart  # type: ignore[attr-defined]
