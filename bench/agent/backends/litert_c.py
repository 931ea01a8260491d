"""LiteRT's profiler, through the C interface of ``libLiteRt.so``: its Python classes have none.

Functions and structures: LiteRT's ``litert/c/*.h`` (``litert_profiler.h``, ``litert_compiled_model.h``,
``litert_tensor_buffer.h``), which are versioned (VERS_1.0) in the library. The compiled model runs the same XNNPACK
kernels as the interpreter that is timed.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any, Dict, List, Optional

import numpy as np

from ..inputs import Refused
from .base import Backend, Json

LEAST = (2, 3)
"""The first version of ai-edge-litert that this interface was tried with."""
CPU = 1
READ, WRITE = 0, 1
DEFAULT, OPERATOR, DELEGATED = 1, 2, 8
"""Kinds of events: of the program, of an operator in LiteRT's own kernels, of one inside the delegate."""
ELEMENTS = {1: "float32", 3: "uint8", 9: "int8", 10: "float16"}
RANK_BITS = 0x7F
INVOKE = b"Invoke"
Pointer = ctypes.c_void_p


class _Layout(ctypes.Structure):
    _fields_ = [("bits", ctypes.c_uint), ("sides", ctypes.c_int32 * 8), ("strides", ctypes.c_uint32 * 8)]


class _TensorType(ctypes.Structure):
    _fields_ = [("element", ctypes.c_int), ("layout", _Layout)]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_size_t), ("used", ctypes.c_size_t), ("own", ctypes.c_size_t)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("before", _Memory),
        ("after", _Memory),
        ("index", ctypes.c_uint64),
        ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class ProfiledLiteRt(Backend):
    """A compiled model with LiteRT's profiler. It keeps to the file's own shapes."""

    profiler = "LiteRT's profiler"
    cut_us = 0.5
    """Operators of the delegate are written in whole microseconds, rounded down."""

    def __init__(self) -> None:
        super().__init__()
        package = importlib.import_module("ai_edge_litert")
        self.version = str(package.__version__)
        if tuple(int(part) for part in self.version.split(".")[:2]) < LEAST:
            raise Refused(f"its profiler needs ai-edge-litert {LEAST[0]}.{LEAST[1]} or newer")
        self._lib = ctypes.CDLL(os.path.join(os.path.dirname(str(package.__file__)), "libLiteRt.so"))
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = Pointer

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of the C interface; raise Refused unless it answers kLiteRtStatusOk (0)."""
        status = getattr(self._lib, "LiteRt" + name)(*arguments)
        if status:
            raise Refused(f"LiteRt{name} failed with status {status}; see the worker's messages")

    def _make(self, name: str, *arguments: Any) -> Pointer:
        """A function whose last argument receives what it makes."""
        made = Pointer()
        self._call(name, *arguments, ctypes.byref(made))
        return made

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cpu":
            raise Refused(f"litert runs on the CPU only, not on {device}")
        environment = self._make("CreateEnvironment", 0, None)
        model = self._make("CreateModelFromFile", environment, path.encode())
        options = self._make("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, CPU)
        self._option(options, b"runtime_options_string", "enable_profiling = true\n")
        self._option(options, b"xnnpack", f"num_threads = {threads}\n")
        self._model = self._make("CreateCompiledModel", environment, model, options)
        signature = self._make("GetModelSignature", model, ctypes.c_size_t(0))
        self._buffers: Dict[str, Pointer] = {}
        self._specs: Dict[str, Json] = {}
        for side in ("Input", "Output"):
            self._buffer(side, environment, signature)
        self._profiler = self._make("CompiledModelGetProfiler", self._model)

    def _option(self, options: Pointer, name: bytes, text: str) -> None:
        """LiteRT takes ownership of a C string with its options in TOML, and frees it."""
        free = ctypes.cast(self._libc.free, Pointer)
        data = Pointer(self._libc.strdup(text.encode()))
        self._call("AddOpaqueOptions", options, self._make("CreateOpaqueOptions", name, data, free))

    def _buffer(self, side: str, environment: Pointer, signature: Pointer) -> None:
        first = ctypes.c_size_t(0)
        tensor = self._make(f"GetSignature{side}TensorByIndex", signature, first)
        kind = _TensorType()
        self._call("GetRankedTensorType", tensor, ctypes.byref(kind))
        needs = self._make(f"GetCompiledModel{side}BufferRequirements", self._model, first, first)
        self._buffers[side] = self._make(
            "CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(kind), needs
        )
        shape = [int(kind.layout.sides[i]) for i in range(kind.layout.bits & RANK_BITS)]
        self._specs[side] = {
            "name": side.lower(),
            "shape": shape,
            "dtype": ELEMENTS.get(kind.element, str(kind.element)),
        }

    def inputs(self) -> List[Json]:
        return [dict(self._specs["Input"])]

    def outputs(self) -> List[Json]:
        return [dict(self._specs["Output"])]

    def feed(self, prepared: Any) -> None:
        values = np.ascontiguousarray(prepared)
        buffer = self._buffers["Input"]
        place = Pointer()
        self._call("LockTensorBuffer", buffer, ctypes.byref(place), WRITE)
        ctypes.memmove(place, values.ctypes.data, values.nbytes)
        self._call("UnlockTensorBuffer", buffer)

    def call(self) -> None:
        one, first = ctypes.c_size_t(1), ctypes.c_size_t(0)
        given = (Pointer * 1)(self._buffers["Input"])
        taken = (Pointer * 1)(self._buffers["Output"])
        self._call("RunCompiledModel", self._model, first, one, given, one, taken)

    def fetch(self) -> np.ndarray:
        spec, buffer = self._specs["Output"], self._buffers["Output"]
        result = np.empty(spec["shape"], np.dtype(spec["dtype"]))
        place = Pointer()
        self._call("LockTensorBuffer", buffer, ctypes.byref(place), READ)
        ctypes.memmove(result.ctypes.data, place, result.nbytes)
        self._call("UnlockTensorBuffer", buffer)
        return result

    def start(self) -> None:
        self._call("StartProfiler", self._profiler)

    def rows(self) -> List[Json]:
        """Operators in the order of a call; what is in the delegate has ``delegated`` set."""
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        calls: List[List[_Event]] = []
        for event in events:
            if event.kind == DEFAULT and event.tag == INVOKE:
                calls.append([])
            elif event.kind in (OPERATOR, DELEGATED) and calls:
                calls[-1].append(event)
        return self._by_operator(calls)

    def _by_operator(self, calls: List[List[_Event]]) -> List[Json]:
        """The same operator is at the same place of every call; calls of another length are left out."""
        usual: Optional[int] = max({len(c) for c in calls}, key=[len(c) for c in calls].count, default=None)
        same = [c for c in calls if len(c) == usual]
        return [
            {
                "name": "",
                "op": same[0][i].tag.decode(errors="replace"),
                "delegated": same[0][i].kind == DELEGATED,
                "us": [int(c[i].elapsed_us) for c in same],
            }
            for i in range(usual or 0)
        ]
