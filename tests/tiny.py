"""A small network with random but non-degenerate weights, in every format the runtimes read."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.runtimes.base import CellJob
from bench.types import Artifact, Preprocess, Protocol, TensorSpec

PREPROCESS = Preprocess(height=12, width=12, channels=3, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
CLASSES = 7
IMAGES = 70
QUICK = Protocol(half_width=0.05, min_runs=20, max_seconds=0.2, warmup_seconds=0.06, timeout_seconds=60)


@dataclass(frozen=True)
class Tiny:
    """Files of one network, the images, and its parent's logits for them."""

    folder: Path
    images: Path
    logits: np.ndarray

    def artifact(self, fmt: str) -> Artifact:
        channels_last = fmt == "tflite"
        shape = (1, 12, 12, 3) if channels_last else (None, 3, 12, 12)
        path = self.path(fmt)
        return Artifact(
            format=fmt,
            sha256="",
            size_bytes=path.stat().st_size,
            filename=path.name,
            inputs=(TensorSpec("x", shape, layout="NHWC" if channels_last else "NCHW"),),
            outputs=(TensorSpec("y", (None, CLASSES), layout="NC"),),
            preprocess=PREPROCESS,
        )

    def path(self, fmt: str) -> Path:
        return self.folder / f"tiny.{fmt}"

    def job(self, fmt: str, outdir: Path, **changes: object) -> CellJob:
        outdir.mkdir(parents=True, exist_ok=True)
        given = {
            "artifact": self.artifact(fmt),
            "path": self.path(fmt),
            "outdir": outdir,
            "protocol": QUICK,
            "images": self.images,
            **changes,
        }
        return CellJob(**given)  # type: ignore[arg-type]


def add_pte(tiny: Tiny) -> Tiny:
    """Write ``tiny.pte`` from ``tiny.pt2``'s weights, where a test wants it; about 8 s."""
    if not tiny.path("pte").exists():
        import torch

        from compress.executorch_ import write
        from compress.quiet import quiet

        state = torch.export.load(tiny.path("pt2")).state_dict
        net = network()
        net.load_state_dict(state)
        with quiet():
            write(net.eval(), torch.randn(2, 3, 12, 12), tiny.path("pte"))
    return tiny


def make_model_file(tiny: Tiny, folder: Path) -> Tiny:
    """Another network, one of our own, as ``tiny.safetensors``: what torch-eager rebuilds."""
    import torch

    from distill import models

    torch.manual_seed(3)
    module = models.build("edgefit:tiny", CLASSES, 3).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    labels = tuple(str(i) for i in range(CLASSES))
    models.save(
        module, models.ModelSpec("edgefit:tiny", CLASSES, 3, labels, PREPROCESS), folder / "tiny.safetensors"
    )
    with torch.no_grad():
        logits = module(normalised(np.load(tiny.images))).numpy()
    return Tiny(folder, tiny.images, logits)


def network():  # type: ignore[no-untyped-def]
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def normalised(images: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    mean, std = np.float32(PREPROCESS.mean), np.float32(PREPROCESS.std)
    return torch.from_numpy(((images / np.float32(255)) - mean) / std).permute(0, 3, 1, 2).contiguous()


def make(folder: Path) -> Tiny:
    """Write ``tiny.pt2``, ``tiny.onnx``, ``tiny.tflite`` and ``images.npy``; about 10 s."""
    import torch

    torch.manual_seed(1)
    net = network().eval()
    images = np.random.default_rng(2).integers(0, 256, (IMAGES, 12, 12, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    values = normalised(images)
    with torch.no_grad():
        logits = net(values).numpy()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        export(net, values[:2], folder)
    return Tiny(folder, folder / "images.npy", logits)


def export(net, example, folder: Path) -> None:  # type: ignore[no-untyped-def]
    import litert_torch
    import torch

    free = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=free), folder / "tiny.pt2")
    torch.onnx.export(
        net,
        (example,),
        folder / "tiny.onnx",
        dynamo=True,
        external_data=False,
        dynamic_shapes=free,
        verbose=False,
    )
    channels_last = litert_torch.to_channel_last_io(net, args=[0]).eval()
    litert_torch.convert(channels_last, (torch.zeros(1, 12, 12, 3),)).export(str(folder / "tiny.tflite"))
