"""PyTorch: an exported program run eagerly, the same compiled, and our own model files rebuilt."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from ..inputs import Refused
from .base import Backend, Json, dims


class Torch(Backend):
    """A ``torch.export`` program, run eagerly (no torch.compile) in inference mode."""

    copies = "none: input and output stay in the runtime's own memory"
    # What torch.export.load imports on first use (2 s, 170 MB); of the runtime, not of the model.
    LATE: Tuple[str, ...] = (
        "torch.export",
        "torch._export.serde.serialize",
        "torch.export._trace",
        "torch.export.pt2_archive._package",
    )

    def __init__(self) -> None:
        super().__init__()
        self._torch = importlib.import_module("torch")
        for name in self.LATE:
            with contextlib.suppress(
                ImportError
            ):  # private names: only the time of the import depends on them
                importlib.import_module(name)
        self.version = str(self._torch.__version__)
        self._stack = contextlib.ExitStack()
        self._given: Any = None
        self._result: Any = None

    def load(self, path: str, threads: int, device: str) -> None:
        self._set_up(threads, device)
        program = self._torch.export.load(path)
        if device == "cuda":
            program = importlib.import_module("torch.export.passes").move_to_device_pass(program, "cuda")
        self._program = program
        self._module: Callable[..., Any] = program.module()

    def _set_up(self, threads: int, device: str) -> None:
        torch = self._torch
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # refused after the first parallel work, when it is 1 already
            torch.set_num_interop_threads(1)
        if device not in ("cpu", "cuda"):
            raise Refused(f"torch does not run on {device}")
        if device == "cuda" and not torch.cuda.is_available():
            raise Refused("torch finds no CUDA device")
        self._device = device
        self._stack.enter_context(torch.inference_mode())

    def _describe(self, names: Any) -> List[Json]:
        metas = {n.name: n.meta.get("val") for n in self._program.graph_module.graph.nodes}
        described = []
        for name in names:
            value = metas.get(name)
            shape = [] if value is None else dims([d if isinstance(d, int) else None for d in value.shape])
            dtype = str(getattr(value, "dtype", "not a tensor")).replace("torch.", "")
            described.append({"name": str(name), "shape": shape, "dtype": dtype})
        return described

    def inputs(self) -> List[Json]:
        return self._describe(self._program.graph_signature.user_inputs)

    def outputs(self) -> List[Json]:
        return self._describe(self._program.graph_signature.user_outputs)

    def prepare(self, values: np.ndarray) -> Any:
        return self._torch.from_numpy(values).to(self._device)

    def feed(self, prepared: Any) -> None:
        self._given = prepared
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def call(self) -> None:
        self._result = self._module(self._given)
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def fetch(self) -> np.ndarray:
        result = self._result[0] if isinstance(self._result, (tuple, list)) else self._result
        return np.asarray(result.float().cpu().numpy())

    def info(self) -> Json:
        found: Json = {"threads": self._torch.get_num_threads()}
        if self._device == "cuda":
            found["device"] = self._torch.cuda.get_device_name()
            found["device_memory_mb"] = self._torch.cuda.max_memory_reserved() / 1e6
        return found


class OneBatch(Torch):
    """What is made ready in its first call, and from then on takes batches of that size only."""

    def load(self, path: str, threads: int, device: str) -> None:
        super().load(path, threads, device)
        self._batch: Optional[int] = None

    def set_batch(self, batch: int) -> None:
        super().set_batch(batch)
        if self._batch not in (None, batch):
            raise Refused(f"made ready for a batch of {self._batch}, not {batch}")
        self._batch = batch


class TorchCudaGraph(OneBatch):
    """A ``torch.export`` program captured as a CUDA graph and replayed: no launch overhead (PyTorch's *CUDA semantics*, CUDA Graphs)."""

    copies = "input copied into the graph's own memory before the timed call; output stays on the GPU"
    WARM_UP = 3

    def load(self, path: str, threads: int, device: str) -> None:
        if device != "cuda":
            raise Refused(f"CUDA graphs run on an NVIDIA GPU, not on {device}")
        super().load(path, threads, device)
        self._graph: Any = None
        self._input: Any = None
        self.notes.append("the first call contains the capture of the graph")

    def feed(self, prepared: Any) -> None:
        if self._input is None:
            self._input = prepared.clone()
        else:
            self._input.copy_(prepared)
        self._torch.cuda.synchronize()

    def call(self) -> None:
        if self._graph is None:
            self._capture()
        self._graph.replay()
        self._torch.cuda.synchronize()

    def _capture(self) -> None:
        """Libraries choose their kernels in a few calls on another stream; then one call is recorded."""
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(self.WARM_UP):
                self._module(self._input)
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            self._result = self._module(self._input)
        self._graph = graph


class TorchCompile(OneBatch):
    """A ``torch.export`` program through ``torch.compile`` (inductor), for one batch size."""

    slow_first = True
    LATE = (*Torch.LATE, "torch._dynamo", "torch._inductor.compile_fx")

    def load(self, path: str, threads: int, device: str) -> None:
        super().load(path, threads, device)
        config: Any = importlib.import_module("torch._inductor.config")
        # A cache filled by an earlier process would make this one's first call look cheap; compiler
        # processes of its own would escape the sampling of memory.
        config.force_disable_caches = True
        config.compile_threads = 1
        self._module = self._torch.compile(self._module, dynamic=False)
        self.notes.append("the first call contains the compilation (torch.compile, caches off)")


class TorchEager(Torch):
    """One of our own model files (``.safetensors``), rebuilt as a module; only where the product is installed."""

    LATE = ("distill.models",)

    def load(self, path: str, threads: int, device: str) -> None:
        self._set_up(threads, device)
        try:
            models = importlib.import_module("distill.models")
        except ImportError as error:
            raise Refused(f"our model files are rebuilt only where edgefit is installed ({error})") from error
        pathlib = importlib.import_module("pathlib")
        module, self._spec = models.load(pathlib.Path(path))
        self._module = module.eval().to(device)

    def inputs(self) -> List[Json]:
        pre = self._spec.preprocess
        shape = [None, pre.channels, pre.height, pre.width]
        return [{"name": "input", "shape": shape, "dtype": "float32"}]

    def outputs(self) -> List[Json]:
        return [{"name": "logits", "shape": [None, self._spec.classes], "dtype": "float32"}]
