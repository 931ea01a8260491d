"""TensorRT: a serialised ``.engine``, or an ONNX file built into one on this machine. Not run on hardware yet.

Written from NVIDIA's documentation of the Python API of TensorRT 8.5 to 11 (named tensors, ``execute_async_v3``); no machine with
TensorRT has run it. What each version is told is in :mod:`.tensorrt_rules`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
from typing import Any, Dict, List, Optional

import numpy as np

from ..inputs import Refused
from .base import Backend, Json, dims
from .cuda import TO_DEVICE, TO_HOST, Cuda
from .engines import PLAN, Engines, key_of, sha256, write_atomic
from .tensorrt_rules import NAMED_TENSORS, dla_core, parts, placement, refusal, rules

NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8"}


def logger(trt: Any, told: List[str]) -> Any:
    """TensorRT's logger: everything but chatter is kept in ``told``, warnings and errors also go to stderr."""
    loud = [getattr(trt.ILogger.Severity, s) for s in ("INTERNAL_ERROR", "ERROR", "WARNING")]
    kept = [*loud, trt.ILogger.Severity.INFO]

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                told.append(message)
            if severity in loud:
                sys.stderr.write(message + "\n")

    return Log()


class TensorRt(Backend):
    """One execution context on one stream; input and output stay on the GPU during the timed call."""

    copies = "input and output resident on the GPU; copied before and after the timed call"
    clock = "CUDA events on the stream, around the execution"
    slow_load = True

    def __init__(self) -> None:
        super().__init__()
        self._trt = importlib.import_module("tensorrt")
        self.version = str(self._trt.__version__)
        self._memory: Dict[str, Any] = {}
        self._told: List[str] = []
        self._about: Json = {}
        self._engine: Any = None

    def load(self, path: str, threads: int, device: str) -> None:
        onnx = os.path.splitext(path)[1] == ".onnx"
        # what an engine computes in was decided when it was built
        why = refusal(self.version, self.precision if onnx else "fp16", device)
        if not why and parts(self.version)[:2] < NAMED_TENSORS:
            why = f"TensorRT {self.version} has no named tensors in Python (8.5 has); its trtexec can be used"
        if why:
            raise Refused(why)
        self._device, self._path, self._cuda = device, path, Cuda()
        self._rules = rules(self.version, self.precision, device)
        self._log = logger(self._trt, self._told)
        if onnx:
            self._parse()
        else:
            with open(path, "rb") as file:
                self._open(file.read())

    def _parse(self) -> None:
        """Parse now; the engine is built by set_batch, for that batch."""
        trt = self._trt
        self._builder = trt.Builder(self._log)
        core = dla_core(self._device)
        if core is not None and core >= self._builder.num_DLA_cores:
            raise Refused(
                f"there is no {self._device}: the board has {self._builder.num_DLA_cores} DLA cores"
            )
        flags = 0
        for name in self._rules.network:
            flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
        self._network = self._builder.create_network(flags)
        parser = trt.OnnxParser(self._network, self._log)
        if not parser.parse_from_file(self._path):
            said = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise Refused(f"TensorRT cannot parse this ONNX file: {said[:300]}")

    def _from_onnx(self, batch: int) -> None:
        """The engine for a batch: the one that is kept, or a new one."""
        tensor = self._network.get_input(0)
        shape = self._sized(batch, dims(tensor.shape))
        if any(d is None for d in shape):
            raise Refused(f"the input's shape {dims(tensor.shape)} is free beyond the batch; say its size")
        gpu = self._cuda.kind()
        key = key_of(
            content=sha256(self._path), version=self.version, gpu=gpu, device=self._device, shape=shape,
            network=self._rules.network, flags=self._rules.builder,
        )  # fmt: skip
        engines = Engines(self.engines) if self.engines else None
        kept = engines.find(key) if engines else None
        if kept is not None:
            with open(kept.path, "rb") as file:
                self._open(file.read())
            self._about = {**kept.about, "cached": True}
            self.notes.append("engine built from ONNX on this machine by an earlier cell and read again")
        else:
            start = time.perf_counter()
            plan = self._build(tensor.name, shape, engines.timings(self.version, gpu) if engines else "")
            self._about = {
                "build_seconds": time.perf_counter() - start, **placement(self._told), "cached": False
            }  # fmt: skip
            if engines:
                part = engines.begin()
                write_atomic(os.path.join(part, PLAN), plan)
                engines.keep(part, key, self._about)
            self._open(plan)
            self.notes.append("engine built from ONNX on this machine; the build is part of the load time")
        self.notes.append(self._rules.note)

    def _build(self, name: str, shape: List[Optional[int]], timings: str) -> Any:
        trt = self._trt
        config = self._builder.create_builder_config()
        for flag in self._rules.builder:
            config.set_flag(getattr(trt.BuilderFlag, flag))
        core = dla_core(self._device)
        if core is not None:
            config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
        profile = self._builder.create_optimization_profile()
        profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)
        cache = self._timing_cache(config, timings)
        plan = self._builder.build_serialized_network(self._network, config)
        if plan is None:
            raise Refused(f"TensorRT could not build an engine: {'; '.join(self._told[-3:])[-300:]}")
        if cache is not None:
            write_atomic(timings, bytes(config.get_timing_cache().serialize()))
        return plan

    def _timing_cache(self, config: Any, path: str) -> Any:
        """What earlier builds learned about kernels; one that TensorRT does not take is begun anew."""
        if not path:
            return None
        data = b""
        if os.path.isfile(path):
            with open(path, "rb") as file:
                data = file.read()
        for known in (data, b""):
            cache = config.create_timing_cache(known)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
        return None

    def _open(self, plan: Any) -> None:
        runtime, core = self._trt.Runtime(self._log), dla_core(self._device)
        if core is not None:
            runtime.DLA_core = core
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise Refused("TensorRT cannot read this engine: engines fit one version and one kind of GPU")
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()
        self._begin, self._end = self._cuda.event(), self._cuda.event()

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
            self._from_onnx(batch)
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
        self._cuda.record(self._begin, self._stream)
        if not self._context.execute_async_v3(self._stream.value):
            raise Refused("TensorRT could not start the execution; see the worker's messages")
        self._cuda.record(self._end, self._stream)
        self._cuda.wait(self._stream)

    def took(self) -> Optional[float]:
        return self._cuda.between(self._begin, self._end)

    def fetch(self) -> np.ndarray:
        name = self._output["name"]
        result = np.empty(tuple(self._context.get_tensor_shape(name)), np.dtype(self._output["dtype"]))
        self._cuda.copy(result.ctypes.data_as(ctypes.c_void_p), self._memory[name], result.nbytes, TO_HOST)
        return result

    def info(self) -> Json:
        return {
            "device": self._device,
            "gpu": self._cuda.kind(),
            "latency_includes": "GPU compute only",
            "engine": self._about,
        }
