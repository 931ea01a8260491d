"""Core ML packages (``.mlpackage``, a folder): written anywhere, run on Apple's devices only."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import missing_extra

if TYPE_CHECKING:
    from torch import nn

NOTE = "not compared with its parent: Core ML runs on Apple's systems only; Xcode times it (Performance tab)"


def write(module: nn.Module, images: Any, target: Path, precision: str) -> tuple[str, ...]:
    """Convert ``module`` to an ML program for iOS 16 and macOS 13 (Core ML Tools guide, *Model Exporting*).

    It takes one float32 image 1 x C x H x W called ``input`` and answers ``logits`` 1 x classes.

    Args:
        module: in eval mode.
        images: float32 (N, C, H, W); the first one is traced.
        target: the folder to make.
        precision: ``fp32`` or ``fp16``, in which it computes inside.

    Raises:
        MissingError: coremltools is not installed.
    """
    try:
        coreml: Any = importlib.import_module("coremltools")
    except ImportError as error:
        raise missing_extra("coremltools", "coreml", "converting to a Core ML package") from error
    import torch

    class Named(torch.nn.Module):
        """Inputs are called as in the signature: ``x`` in many nets."""

        def __init__(self) -> None:
            super().__init__()
            self.net = module

        def forward(self, input: Any) -> Any:
            return self.net(input)

    program = torch.export.export(Named().eval(), (images[:1],)).run_decompositions({})
    computes = {"fp32": coreml.precision.FLOAT32, "fp16": coreml.precision.FLOAT16}[precision]
    made = coreml.convert(
        program,
        outputs=[coreml.TensorType("logits", dtype=float)],
        compute_precision=computes,
        minimum_deployment_target=coreml.target.iOS16,
        skip_model_load=True,
    )
    made.save(str(target))
    # coremltools leaves a table for debuggers of ExecuTorch beside the model; nothing in the package names it
    (target / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    return (f"one image at a time, {precision} inside, float32 input and output", NOTE)
