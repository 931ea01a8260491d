"""A model's graph as a list of operators with their shapes, whoever wrote it down: what every prediction starts from.

:mod:`hardware_profiles.prediction.read_torch` and :mod:`hardware_profiles.prediction.read_onnx` make it;
:func:`kernels` then merges the operators that runtimes execute as one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

CONV, GEMM, MATMUL = "conv", "gemm", "matmul"
NORM, ACT, ADD, MUL, POOL, SOFTMAX, MOVE, OTHER = (
    "norm",
    "act",
    "add",
    "mul",
    "pool",
    "softmax",
    "move",
    "other",
)
KINDS = (CONV, GEMM, MATMUL, NORM, ACT, ADD, MUL, POOL, SOFTMAX, MOVE, OTHER)
"""``gemm`` has weights, ``matmul`` multiplies two activations; ``move`` copies elements and computes nothing;
``norm`` is a norm that no convolution takes in (layer norm)."""


@dataclass(frozen=True)
class Op:
    """One operator for one image.

    ``reads`` and ``writes`` count elements of activations, ``weights`` those of parameters; ``macs`` are
    multiply-accumulates. Convolutions and products have ``cin``, ``cout`` and ``pixels`` (positions of the output, or
    rows of the product); convolutions also ``kernel``, ``stride`` and ``groups``. ``sources`` are places in the list.
    """

    name: str
    kind: str
    what: str
    reads: int
    writes: int
    macs: int = 0
    weights: int = 0
    cin: int = 0
    cout: int = 0
    pixels: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    quantized: bool = False
    sources: tuple[int, ...] = ()

    @property
    def depthwise(self) -> bool:
        return self.kind == CONV and self.groups > 1 and self.groups == self.cin


@dataclass(frozen=True)
class Graph:
    """The operators of a model in the order of execution. ``int8``: it holds its own quantization (QDQ)."""

    ops: tuple[Op, ...]
    inputs: int
    outputs: int
    int8: bool = False
    notes: tuple[str, ...] = ()
    kept: dict[bool, tuple[Op, ...]] = field(default_factory=dict, repr=False, compare=False)
    """What :func:`kernels` has made of it already."""

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    @property
    def params(self) -> int:
        return sum(op.weights for op in self.ops)

    @property
    def activations(self) -> int:
        """Elements that convolutions and products write: the measure of Radosavovic et al., CVPR 2020."""
        return sum(op.writes for op in self.ops if op.kind in (CONV, GEMM, MATMUL))


def kernels(graph: Graph, residual: bool) -> tuple[Op, ...]:
    """The operators as an inference runtime executes them; ``sources`` are places in the result.

    Norms and activations go into the convolution, product or sum before them when nothing else reads its result. With
    ``residual`` a sum also goes into the convolution that made one of its terms.
    """
    if residual not in graph.kept:
        graph.kept[residual] = _merged(graph, residual)
    return graph.kept[residual]


def _merged(graph: Graph, residual: bool) -> tuple[Op, ...]:
    readers = [0] * len(graph.ops)
    for op in graph.ops:
        for source in op.sources:
            readers[source] += 1
    home = list(range(len(graph.ops)))  # the kernel that an operator has become part of
    merged: dict[int, Op] = {}
    for i, op in enumerate(graph.ops):
        sources = [home[s] for s in op.sources]
        into = _taker(op, op.sources, sources, merged, readers, residual)
        if into is None:
            merged[i] = replace(op, sources=tuple(sources))
            continue
        home[i] = into
        other = sum(1 for s in sources if s != into)
        host = merged[into]
        extra = op.writes if op.kind == ADD and other else 0
        merged[into] = replace(host, reads=host.reads + extra, writes=op.writes)
    place = {old: new for new, old in enumerate(merged)}
    return tuple(replace(op, sources=tuple(place[s] for s in op.sources)) for op in merged.values())


def _taker(
    op: Op,
    direct: tuple[int, ...],
    sources: list[int],
    merged: dict[int, Op],
    readers: list[int],
    residual: bool,
) -> int | None:
    """The kernel that takes this operator in, if one does."""
    if op.kind in (NORM, ACT) and op.what != "layer_norm" and len(sources) >= 1:
        into, last = sources[0], direct[0]
        takes = (CONV, GEMM, ADD) if op.kind == ACT else (CONV, GEMM)
        if merged[into].kind in takes and readers[last] == 1 and merged[into].writes == op.writes:
            return into
    if residual and op.kind == ADD and len(sources) == 2:
        for into, last in sorted(zip(sources, direct, strict=True), reverse=True):
            if merged[into].kind == CONV and readers[last] == 1 and merged[into].writes == op.writes:
                return into
    return None
