"""Small nets with everything that graphs are read for: odd widths, groups, depthwise, squeeze-and-excite, attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 5, 1), nn.Conv2d(5, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Mixed(nn.Module):
    """Input 3 x 32 x 32. An odd width (37), a grouped, a depthwise and a strided convolution, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.wide = nn.Sequential(nn.Conv2d(16, 37, 3, 1, 1, bias=False), nn.BatchNorm2d(37), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(37, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.depth = nn.Sequential(
            nn.Conv2d(16, 16, 5, 1, 2, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU()
        )
        self.grouped = nn.Conv2d(16, 32, 3, 2, 1, groups=4)
        self.squeeze = Squeeze(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.back(self.wide(x)))
        x = self.squeeze(self.grouped(self.depth(x)))
        return self.head(x.mean((2, 3)))


MIXED_MACS = (
    16 * 16 * 16 * 27
    + 16 * 16 * 37 * 144
    + 16 * 16 * 16 * 37
    + 16 * 16 * 16 * 25
    + 8 * 8 * 32 * 36
    + 2 * 32 * 5
    + 320
)
"""Counted by hand, layer by layer."""


class Attention(nn.Module):
    """Input 3 x 32 x 32: 16 patches, one block of self-attention of 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(32)
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).reshape(1, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 16, 32))
        return self.head(x.mean(1))


ATTENTION_MACS = 16 * 32 * 192 + 16 * 32 * 96 + 2 * 4 * 16 * 16 * 8 + 16 * 32 * 32 + 320


def to_onnx(module: nn.Module, path: Path) -> Path:
    image: Any = torch.zeros(1, 3, 32, 32)
    program = torch.onnx.export(module.eval(), (image,), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path), external_data=False)
    return path
