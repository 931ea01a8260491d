"""The few calls of the CUDA runtime that feeding and timing an engine takes, through ctypes: nothing else must be installed."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

from ..inputs import Refused

TO_DEVICE, TO_HOST = 1, 2
"""cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost."""
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76
"""cudaDeviceAttr: what tells one kind of GPU from another."""
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")


def library() -> Any:
    """The CUDA runtime. Raises Refused when it is not found."""
    for name in (*LIBRARIES, ctypes.util.find_library("cudart") or ""):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise Refused("the CUDA runtime library (libcudart) is not found; add its folder to LD_LIBRARY_PATH")


class Cuda:
    """The first GPU. Every method raises Refused on a CUDA error, MemoryError when the GPU's memory is used up."""

    def __init__(self) -> None:
        self._lib = library()

    def check(self, what: str, *arguments: Any) -> None:
        """Call a function; it must answer cudaSuccess (0)."""
        status = getattr(self._lib, what)(*arguments)
        if status == 2:
            raise MemoryError(f"{what}: the GPU is out of memory")
        if status:
            raise Refused(f"{what} failed with CUDA error {status}")

    def kind(self) -> str:
        """Compute capability and multiprocessors: engines fit one kind of GPU."""
        found = []
        for attribute in (MAJOR, MINOR, MULTIPROCESSORS):
            value = ctypes.c_int()
            self.check("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            found.append(value.value)
        return "sm{}.{} x{}".format(*found)

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

    def event(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self.check("cudaEventCreate", ctypes.byref(event))
        return event

    def record(self, event: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
        self.check("cudaEventRecord", event, stream)

    def between(self, start: ctypes.c_void_p, end: ctypes.c_void_p) -> float:
        """Seconds between two events that have passed (cudaEventElapsedTime; it resolves about 0.5 us)."""
        passed = ctypes.c_float()
        self.check("cudaEventElapsedTime", ctypes.byref(passed), start, end)
        return passed.value * 1e-3
