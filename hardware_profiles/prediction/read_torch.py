"""A torch module as a :class:`~hardware_profiles.prediction.graph.Graph`: run once on the meta device, where nothing is computed.

Every operator that the dispatcher sees is taken down with the shapes of its tensors
(:class:`torch.utils._python_dispatch.TorchDispatchMode`), so any module that runs is read as it is: pruned, grouped,
with attention. Weights are not needed.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from hardware_profiles.prediction.graph import (
    ACT,
    ADD,
    CONV,
    GEMM,
    MATMUL,
    MOVE,
    MUL,
    NORM,
    OTHER,
    POOL,
    SOFTMAX,
    Graph,
    Op,
)  # fmt: skip

if TYPE_CHECKING:
    from torch import nn

FREE = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "chunk",
        "expand",
        "alias",
        "detach",
        "as_strided",
        "unbind",
        "lift_fresh",
        "narrow",
        "swapaxes",
        "empty",
        "zeros",
        "ones",
        "arange",
        "scalar_tensor",
        "full",
        "zeros_like",
        "new_zeros",
        "linspace",
        "empty_like",
        "_to_copy",
        "dropout",
        "native_dropout",
        "bernoulli",
        "_reshape_alias",
        "unfold",
        "lift_fresh_copy",
        "diagonal",
        "view_as_real",
    ]
)
"""They make no new elements, or make them once for all images."""
KIND = {
    "convolution": CONV, "addmm": GEMM, "mm": GEMM, "bmm": MATMUL, "baddbmm": MATMUL,
    "native_batch_norm": NORM, "_native_batch_norm_legit_no_training": NORM, "native_layer_norm": NORM,
    "native_group_norm": NORM, "_batch_norm_no_update": NORM, "_batch_norm_with_update": NORM,
    "relu": ACT, "relu_": ACT, "hardtanh": ACT, "hardtanh_": ACT, "hardswish": ACT, "hardswish_": ACT,
    "silu": ACT, "silu_": ACT, "gelu": ACT, "sigmoid": ACT, "sigmoid_": ACT, "hardsigmoid": ACT, "hardsigmoid_": ACT,
    "leaky_relu": ACT, "leaky_relu_": ACT, "elu": ACT, "elu_": ACT, "tanh": ACT, "clamp": ACT, "clamp_min": ACT,
    "mish": ACT, "prelu": ACT, "_prelu_kernel": ACT, "softplus": ACT, "exp": ACT,
    "add": ADD, "add_": ADD, "sub": ADD, "rsub": ADD, "mul": MUL, "mul_": MUL, "div": MUL, "div_": MUL,
    "max_pool2d_with_indices": POOL, "avg_pool2d": POOL, "_adaptive_avg_pool2d": POOL, "mean": POOL,
    "adaptive_max_pool2d": POOL, "sum": POOL, "amax": POOL, "max_pool2d": POOL,
    "_softmax": SOFTMAX, "_log_softmax": SOFTMAX, "_safe_softmax": SOFTMAX,
    "cat": MOVE, "clone": MOVE, "copy_": MOVE, "constant_pad_nd": MOVE, "roll": MOVE, "index": MOVE, "stack": MOVE,
    "upsample_bilinear2d": MOVE, "upsample_nearest2d": MOVE, "pixel_shuffle": MOVE, "channel_shuffle": MOVE,
    "flip": MOVE, "repeat": MOVE, "index_select": MOVE, "gather": MOVE, "im2col": MOVE, "native_channel_shuffle": MOVE,
}  # fmt: skip
"""Kinds of aten's operators; others are ``other`` and count for what they read and write."""


def read(module: nn.Module, channels: int, height: int, width: int) -> Graph:
    """The graph of a module for one ``channels`` x ``height`` x ``width`` image.

    The module is not changed; it is copied to the meta device (its weights' memory is not).

    Raises:
        Whatever the module raises when it is run on such an image.
    """
    import copy

    import torch

    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = torch.nn.Parameter(meta, False) if isinstance(tensor, torch.nn.Parameter) else meta
    hollow = copy.deepcopy(module, memo).eval()
    image = torch.zeros(1, channels, height, width, device="meta")
    with torch.no_grad():
        recorder = _recorder(hollow, image)
        with recorder:
            out = hollow(image)
    out = out[0] if isinstance(out, (tuple, list)) else out
    return Graph(tuple(recorder.ops), image.numel(), out.numel())


def _recorder(module: nn.Module, image: Any) -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    weights = {id(t) for t in (*module.parameters(), *module.buffers())}
    names = {id(p): n.rpartition(".")[0] for n, p in module.named_parameters()}

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Takes down operators and which operator made which tensor; keeps tensors alive, so that ids stay true."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.ops: list[Op] = []
            self.maker: dict[int, int] = {}
            self.constants = set(weights)
            self.alive: list[Any] = [image]
            self.layer: dict[int, str] = dict(names)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func._schema.name.split("::")[-1]
            tensors = [t for t in _flat(args) if isinstance(t, torch.Tensor)]
            results = [t for t in _flat((out,)) if isinstance(t, torch.Tensor)]
            self.alive += results
            acts = [t for t in tensors if id(t) not in self.constants]
            if not acts and id(image) not in {id(t) for t in tensors}:
                self.constants |= {id(t) for t in results}  # made of weights alone: computed once
                for t in tensors:
                    if id(t) in self.layer:
                        for r in results:
                            self.layer.setdefault(id(r), self.layer[id(t)])
                return out
            sources = tuple(dict.fromkeys(self.maker[id(t)] for t in acts if id(t) in self.maker))
            if name in FREE or not results:
                for r in results:
                    if sources:
                        self.maker[id(r)] = sources[-1]
                return out
            place = len(self.ops)
            self.ops.append(self.op(name, args, tensors, acts, results, sources))
            for r in results:
                self.maker[id(r)] = place
            return out

        def op(self, name: str, args: Any, tensors: Any, acts: Any, results: Any, sources: Any) -> Op:
            held = [t for t in tensors if id(t) in self.constants]
            layer = next((self.layer[id(t)] for t in held if id(t) in self.layer), "")
            kind = KIND.get(name, MATMUL if "scaled_dot_product" in name else OTHER)
            what = {"native_layer_norm": "layer_norm", "native_group_norm": "layer_norm"}.get(name, name)
            reads = sum(t.numel() for t in acts)
            writes = results[0].numel()
            stored = sum(t.numel() for t in held)
            base = Op(layer or name, kind, what.strip("_"), reads, writes, weights=stored, sources=sources)
            return _shaped(base, name, args, acts, results[0], held)

    return Recorder()


def _flat(values: Any) -> list[Any]:
    found = []
    for v in values:
        if isinstance(v, (list, tuple)):
            found += _flat(v)
        else:
            found.append(v)
    return found


def _shaped(op: Op, name: str, args: Any, acts: Any, out: Any, held: Any) -> Op:
    """The operator with its MACs and shape."""
    from dataclasses import replace

    if op.kind == CONV:
        weight, stride, groups = args[1], args[3], args[8]
        transposed = args[6]
        kernel = tuple(weight.shape[2:]) if len(weight.shape) > 3 else (1, *weight.shape[2:])
        cout, cin = out.shape[1], args[0].shape[1]
        pixels = prod(args[0].shape[2:]) if transposed else prod(out.shape[2:])
        macs = pixels * weight.numel()
        return replace(
            op, macs=macs, cin=cin, cout=cout, pixels=pixels, kernel=kernel, stride=max(stride), groups=groups
        )
    if name in ("addmm", "mm"):
        first, second = (args[1], args[2]) if name == "addmm" else (args[0], args[1])
        rows, depth = first.shape
        kind = GEMM if held else MATMUL
        return replace(
            op, kind=kind, macs=rows * depth * second.shape[1], cin=depth, cout=second.shape[1], pixels=rows
        )
    if name in ("bmm", "baddbmm"):
        first, second = args[-2:] if name == "baddbmm" else args[:2]
        batch, rows, depth = first.shape
        macs = batch * rows * depth * second.shape[2]
        return replace(op, macs=macs, cin=depth, cout=second.shape[2], pixels=rows, groups=batch)
    if "scaled_dot_product" in name:
        query, key, value = args[:3]
        tokens = key.shape[-2]
        macs = query.numel() * tokens + prod(query.shape[:-1]) * tokens * value.shape[-1]
        return replace(op, macs=macs, cin=query.shape[-1], cout=tokens, pixels=query.shape[-2],
                       groups=prod(query.shape[:-2]))  # fmt: skip
    return op
