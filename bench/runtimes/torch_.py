"""PyTorch three ways: an exported program run eagerly, the same compiled, and our own model files."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from bench.runtimes.base import Probe
from bench.runtimes.local import LocalRuntime, nvidia_device
from bench.types import Json

if TYPE_CHECKING:
    from bench.hosts.base import Host

COMPILERS = ("g++", "clang++", "c++")


class Torch(LocalRuntime):
    """A torch.export program, run eagerly."""

    name = "torch"
    format = "pt2"
    formats = ("pt2",)
    module = "torch"
    distributions = ("torch",)
    remedy = "pip install torch"
    slow_start = True

    def accelerators(self) -> tuple[str, ...]:
        return ("cuda",) if nvidia_device() and "+cpu" not in self._version() else ()

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        if precision == "int8":
            return "torch runs INT8 only through a backend of its own; onnxruntime and litert run these files"
        if precision == "fp16" and device == "cpu":
            return "FP16 on the CPU is emulated by torch: no gain; use bf16"
        return "" if precision in ("fp32", "fp16", "bf16") else f"torch does not run {precision}"


class TorchCompile(Torch):
    """The same program through torch.compile; its first call compiles, for tens of seconds."""

    name = "torch-compile"

    def probe(self, host: Host) -> Probe:
        found = super().probe(host)
        compiler = os.environ.get("CXX") or next((c for c in COMPILERS if shutil.which(c)), "")
        if not found.available or (compiler and shutil.which(compiler)):
            return found
        return Probe(
            False,
            reason="torch.compile needs a C++ compiler, and none is found",
            remedy="Install one (on Debian and Ubuntu: apt install g++) or name it in CXX",
        )


class TorchCudaGraph(Torch):
    """The same program captured as a CUDA graph and replayed."""

    name = "torch-cudagraph"

    def probe(self, host: Host) -> Probe:
        found = super().probe(host)
        if not found.available:
            return found
        if "cuda" not in found.devices:
            return Probe(
                False,
                reason="CUDA graphs need an NVIDIA GPU and a torch built for it",
                remedy="Measure on a machine that has them",
            )
        return Probe(True, version=found.version, devices=("cuda",))


class TorchEager(Torch):
    """One of our own model files, rebuilt as a module: what a training script would measure."""

    name = "torch-eager"
    format = "safetensors"
    formats = ("safetensors",)

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        return (
            ""
            if precision == "fp32"
            else f"a model file holds float32 weights; torch runs {precision} as pt2"
        )


TORCH, COMPILE, CUDA_GRAPH, EAGER = Torch(), TorchCompile(), TorchCudaGraph(), TorchEager()
