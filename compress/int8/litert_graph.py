"""A TFLite file as its quantizer sees it, and what of it LiteRT's fast kernels do not take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Graph:
    """The main subgraph of a TFLite file: operators by their kind, tensors by their name."""

    def __init__(self, path: Path) -> None:
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        self.tools = tfl_flatbuffer_utils
        self.model = tfl_flatbuffer_utils.read_model(path.read_bytes())
        self.main = self.model.subgraphs[0]
        kinds = {v: k for k, v in vars(qtyping.BuiltinOperator).items() if isinstance(v, int)}
        self.types = {v: k for k, v in vars(qtyping.TensorType).items() if isinstance(v, int)}
        self.operators = [
            (kinds[self.model.operatorCodes[op.opcodeIndex].builtinCode], op) for op in self.main.operators
        ]

    def name(self, index: int) -> str:
        return str(self.main.tensors[index].name.decode(errors="replace"))

    def dtype(self, index: int) -> str:
        return str(self.types[self.main.tensors[index].type])

    def scope(self, op: Any) -> str:
        """What the quantizer's recipes match their regular expressions with."""
        return str(self.tools.get_op_scope(op, self.main.tensors))

    def layer(self, op: Any) -> str:
        """``stage1.0.main.0``: the module an operator came from."""
        from compress.speed.tflite_facts import short_name

        weight = short_name(self.name(op.inputs[1])) if len(op.inputs) > 1 else ""
        return weight or short_name(self.name(op.outputs[0]))

    def constant(self, index: int) -> NDArray[np.float32] | None:
        """The data of a constant tensor, else None."""
        if index < 0:
            return None
        data: NDArray[np.float32] | None = self.tools.get_tensor_data(
            self.main.tensors[index], self.model.buffers
        )
        return data

    def to_float(self, index: int, values: NDArray[Any]) -> NDArray[np.float32]:
        """Values of a tensor with one scale as floats; those of a float tensor as they are."""
        quantization = self.main.tensors[index].quantization
        if self.dtype(index) not in ("INT8", "UINT8") or quantization is None or quantization.scale is None:
            return values
        scale, zero = quantization.scale[0], quantization.zeroPoint[0]
        floats: NDArray[np.float32] = (values.astype("float32") - zero) * scale
        return floats

    def activations(self) -> dict[str, int]:
        """Index of the input and of every float tensor that an operator makes, by name."""
        made = [*self.main.inputs, *(i for _, op in self.operators for i in op.outputs)]
        return {self.name(i): int(i) for i in made if self.dtype(i) == "FLOAT32"}


def outside(path: Path) -> set[str]:
    """Names of the tensors that are made by operators which LiteRT's fast kernels (XNNPACK) do not take.

    After delegation the interpreter lists its own operators and the delegate's parts with their tensors; an operator
    outside makes a tensor that a part, the output or another operator outside reads.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    parts = [op for op in operators if op["op_name"] == "DELEGATE"]
    made = {t: op for op in operators if op["op_name"] != "DELEGATE" for t in op["outputs"]}
    inside = {t for part in parts for t in part["outputs"]}
    wanted = [t for part in parts for t in part["inputs"]]
    wanted += [d["index"] for d in interpreter.get_output_details()]
    found: set[int] = set()
    while wanted:
        tensor = wanted.pop()
        if tensor in made and tensor not in inside and tensor not in found:
            found.update(made[tensor]["outputs"])
            wanted.extend(made[tensor]["inputs"])
    graph = Graph(path)
    return {graph.name(int(index)) for index in found}
