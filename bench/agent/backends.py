"""One small class per runtime: load a file, feed a batch, call, fetch. The import is the constructor.

``feed`` puts a prepared batch where the runtime reads it (not timed), ``call`` is the timed
call and returns when the device is done, ``fetch`` gives the first output as numpy (not timed).
"""

from __future__ import annotations

import abc
import contextlib
import importlib
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from .inputs import Refused

Json = Dict[str, Any]


def _dims(shape: Any) -> List[Optional[int]]:
    return [d if isinstance(d, int) and d >= 0 else None for d in shape]


PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


class Backend(abc.ABC):
    """What every backend has."""

    version = ""
    copies = ""
    exact = False
    """Run INT8 in exact arithmetic, slowly: accuracy as on a CPU or GPU whose kernels do not saturate."""

    @abc.abstractmethod
    def load(self, path: str, threads: int, device: str) -> None:
        """Read the artifact; raise Refused when this runtime cannot run it there."""

    @abc.abstractmethod
    def inputs(self) -> List[Json]:
        """name, shape (None: free), dtype and, for integers, scale and zero_point of each input."""

    @abc.abstractmethod
    def outputs(self) -> List[Json]:
        """The same of each output."""

    def set_batch(self, batch: int) -> None:
        """Make ready for batches of this size; raise Refused when the artifact cannot."""
        fixed = self.inputs()[0]["shape"][0]
        if fixed is not None and fixed != batch:
            raise Refused(f"the artifact has a fixed batch of {fixed}, not {batch}")

    def prepare(self, values: np.ndarray) -> Any:
        return values

    @abc.abstractmethod
    def feed(self, prepared: Any) -> None:
        """Put one prepared batch where :meth:`call` reads it; not timed."""

    @abc.abstractmethod
    def call(self) -> None:
        """Run the artifact once; this is what is timed."""

    @abc.abstractmethod
    def fetch(self) -> np.ndarray:
        """The output of the last call as an array; not timed."""

    def info(self) -> Json:
        """What the runtime says about itself after loading: providers, threads, device memory."""
        return {}


class OnnxRuntime(Backend):
    """onnxruntime with its defaults (all graph optimisations), one session, ``threads`` intra-op threads."""

    copies = "input read in place from host memory; output allocated by the runtime, inside the timed call"

    def __init__(self) -> None:
        self._ort = importlib.import_module("onnxruntime")
        self.version = str(self._ort.__version__)

    def load(self, path: str, threads: int, device: str) -> None:
        wanted = PROVIDERS[device]
        if wanted[0] not in self._ort.get_available_providers():
            raise Refused(f"this onnxruntime has no {wanted[0]}")
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.exact:  # QDQ nodes are then not fused into this CPU's integer kernels
            options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = self._ort.InferenceSession(path, options, providers=wanted)
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

    def _describe(self, args: Any) -> List[Json]:
        types = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
        types.update({"tensor(int8)": "int8", "tensor(double)": "float64"})
        return [{"name": a.name, "shape": _dims(a.shape), "dtype": types.get(a.type, a.type)} for a in args]

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


class LiteRt(Backend):
    """LiteRT (ai-edge-litert, or its predecessor tflite-runtime) with its default XNNPACK delegate."""

    copies = "input copied into the interpreter before the timed call; output copied out after it"

    def __init__(self) -> None:
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
        self._own = [int(d) for d in self._interpreter.get_input_details()[0]["shape"]]
        self._allocate(self._own)

    def _allocate(self, shape: List[int]) -> None:
        self._input = int(self._interpreter.get_input_details()[0]["index"])
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()
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
        found[0]["shape"][0] = None  # resized by set_batch
        return found

    def outputs(self) -> List[Json]:
        return self._describe(self._interpreter.get_output_details())

    def set_batch(self, batch: int) -> None:
        current = [int(d) for d in self._interpreter.get_input_details()[0]["shape"]]
        if current[0] == batch:
            return
        try:
            self._allocate([batch, *self._own[1:]])
            self._interpreter.invoke()
            given = self._interpreter.get_tensor(self._output).shape[0]
        except (RuntimeError, ValueError) as error:
            self._allocate(self._own)
            raise Refused(f"the artifact cannot be resized to a batch of {batch}: {error}") from error
        if given != batch:
            self._allocate(self._own)
            raise Refused(f"resized to a batch of {batch}, the artifact gives {given} outputs")

    def feed(self, prepared: Any) -> None:
        self._interpreter.set_tensor(self._input, prepared)

    def call(self) -> None:
        self._interpreter.invoke()

    def fetch(self) -> np.ndarray:
        return np.asarray(self._interpreter.get_tensor(self._output))


class Torch(Backend):
    """A ``torch.export`` program, run eagerly (no torch.compile) in inference mode."""

    copies = "none: input and output stay in the runtime's own memory"
    # What torch.export.load imports on first use (2 s, 170 MB); of the runtime, not of the model.
    LATE = ("torch._export.serde.serialize", "torch.export._trace", "torch.export.pt2_archive._package")

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")
        importlib.import_module("torch.export")
        for name in self.LATE:
            with contextlib.suppress(
                ImportError
            ):  # private names: only the time of the import depends on them
                importlib.import_module(name)
        self.version = str(self._torch.__version__)
        self._stack = contextlib.ExitStack()

    def load(self, path: str, threads: int, device: str) -> None:
        torch = self._torch
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        if device not in ("cpu", "cuda"):
            raise Refused(f"torch does not run on {device}")
        if device == "cuda" and not torch.cuda.is_available():
            raise Refused("torch finds no CUDA device")
        program = torch.export.load(path)
        if device == "cuda":
            program = importlib.import_module("torch.export.passes").move_to_device_pass(program, "cuda")
        self._program, self._device = program, device
        self._module: Callable[..., Any] = program.module()
        self._stack.enter_context(torch.inference_mode())
        self._given: Any = None
        self._result: Any = None

    def _describe(self, names: Any) -> List[Json]:
        metas = {n.name: n.meta.get("val") for n in self._program.graph_module.graph.nodes}
        described = []
        for name in names:
            value = metas[name]
            shape = _dims([d if isinstance(d, int) else None for d in value.shape])
            described.append({"name": name, "shape": shape, "dtype": str(value.dtype).replace("torch.", "")})
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


BACKENDS: Dict[str, Callable[[], Backend]] = {"onnxruntime": OnnxRuntime, "litert": LiteRt, "torch": Torch}
