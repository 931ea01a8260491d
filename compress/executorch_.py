"""ExecuTorch programs (``.pte``): a module lowered to XNNPACK's kernels, and such a program run once."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import missing_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

LARGEST_BATCH = 64
"""Images that memory for inputs and outputs is planned for; what a smaller batch does not touch is not used."""


def write(module: nn.Module, images: Any, target: Path) -> None:
    """Lower ``module`` to XNNPACK where it has the operators (ExecuTorch documentation, *XNNPACK backend*).

    Args:
        module: in eval mode.
        images: float32 (N, C, H, W), real ones.

    Raises:
        MissingError: executorch is not installed.
    """
    import torch

    try:
        exir: Any = importlib.import_module("executorch.exir")
        xnnpack: Any = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    except ImportError as error:
        raise missing_extra("executorch", "executorch", "converting to an ExecuTorch program") from error
    # Traced with the largest batch: oneDNN's choice of a convolution kernel at 16 images narrows the range that
    # the lowering sees to the traced side of 16 (torch 2.14.1, executorch 1.5.1).
    rows = torch.arange(LARGEST_BATCH) % len(images)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    program = torch.export.export(module, (images[rows],), dynamic_shapes=({0: batch},))
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    target.write_bytes(lowered.to_executorch().buffer)


def run(path: Path, images: Any) -> NDArray[np.float32]:
    """Float32 logits (N, classes) of a program for float32 ``images`` (N, C, H, W), a few at a time."""
    import numpy as np

    try:
        runtime: Any = importlib.import_module("executorch.runtime")
    except ImportError as error:
        raise missing_extra("executorch", "executorch", "running an ExecuTorch program") from error
    method = runtime.Runtime.get().load_program(path).load_method("forward")
    parts = [part.contiguous() for part in images.split(16)]
    # Outputs live in the program's memory until the next call: copied out at once.
    return np.concatenate([method.execute([part])[0].float().numpy().copy() for part in parts])
