"""A torch module as a float file; the exporters print, so callers silence them (:mod:`compress.quiet`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StepError, missing_extra
from compress.int8.onnx_graph import save_onnx

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""Fixed: the newest opset that ONNX Runtime 1.14+ and TensorRT 8.6+ (JetPack 5 and 6) both read."""

ONNX_LIMIT = 2**31 - 2**20
"""Bytes: protobuf messages end at 2 GiB, and the graph needs some room beside the weights."""


def write(module: nn.Module, images: Any, target: Path) -> None:
    """Write ``target``, ``.onnx`` or ``.tflite``; ``images`` (N x C x H x W) to trace with.

    Raises:
        StepError: a model too large for ONNX. Whatever the exporter raises besides.
        MissingError: when litert-torch is not installed.
    """
    {".onnx": write_onnx, ".tflite": write_tflite}[target.suffix](module, images, target)


def program(module: nn.Module, images: Any) -> Any:
    """A torch.export program with a free batch dimension and no stack traces of this machine."""
    import torch

    # Two images, not one: torch.export would make a batch of 1 a constant.
    example = images[:2] if len(images) > 1 else torch.cat([images, images])
    made = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)
    return made


def write_onnx(module: nn.Module, images: Any, target: Path) -> None:
    """See :func:`write`."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    if weights >= ONNX_LIMIT:
        raise StepError(
            "The model is too large for one ONNX file",
            found=f"{weights / 2**30:.2f} GiB of weights; a file holds 2 GiB",
            todo="Export it as pt2",
        )
    import torch

    made = torch.onnx.export(
        program(module, images),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    if made is None:
        raise StepError("The ONNX exporter answered no program", todo="Export another format")
    model = made.model_proto
    # The program's own symbol for the free dimension depends on what was exported before.
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    save_onnx(model, target)


def write_tflite(module: nn.Module, images: Any, target: Path) -> None:
    """See :func:`write`."""
    try:
        import litert_torch
    except ImportError as error:
        raise missing_extra("litert-torch", "litert", "converting to TFLite") from error
    wrapped = litert_torch.to_channel_last_io(module, args=[0]).eval()
    example = images[:1].permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(wrapped, (example,)).export(str(target))


def cast(module: nn.Module, dtype: Any) -> nn.Module:
    """``module`` in ``dtype``, with float32 input and output."""
    from torch import Tensor, nn

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module.to(dtype)

        def forward(self, image: Tensor) -> Tensor:
            logits: Tensor = self.module(image.to(dtype))
            return logits.float()

    return Cast().eval()
