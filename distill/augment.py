"""Random changes of whole batches, drawn per image from one generator.

All randomness comes from the CPU generator that is handed in, whatever device the images are on,
so that a training that was interrupted goes on bit for bit.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

NAMES = ("crop", "flip", "rotate", "color", "randaugment")
DEGREES = 15.0
JITTER = 0.3


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply ``names`` (in a fixed order) to uint8 images (N,C,H,W); returns uint8, or float32 in 0..255.

    ``crop`` shifts by up to 1/8 of the side with reflected borders, ``flip`` mirrors left and right,
    ``rotate`` turns by up to 15 degrees, ``color`` jitters brightness, contrast and saturation by up to
    30%, ``randaugment`` is torchvision's (Cubuk et al. 2020, two operations of magnitude 9).
    """
    if "crop" in names or "flip" in names:
        images = _shift_and_flip(images, "crop" in names, "flip" in names, generator)
    if "randaugment" in names:
        images = _randaugment(images, generator)
    if "rotate" in names:
        images = _rotate(images, generator)
    if "color" in names:
        images = _color(images, generator)
    return images


def _uniform(n: int, low: float, high: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """``n`` numbers as (N,1,1,1) on ``device``."""
    import torch

    return (torch.rand(n, generator=generator) * (high - low) + low).view(n, 1, 1, 1).to(device)


def _shift_and_flip(images: Tensor, shift: bool, flip: bool, generator: torch.Generator) -> Tensor:
    """Crop and flip are both a choice of rows and columns: one gather for the two."""
    import torch

    n, channels, height, width = images.shape
    rows = torch.arange(height).expand(n, height)
    columns = torch.arange(width).expand(n, width)
    if shift:
        rows = _shifted(rows, height, generator)
        columns = _shifted(columns, width, generator)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows = rows.to(images.device, non_blocking=True).unsqueeze(2)
    columns = columns.to(images.device, non_blocking=True).unsqueeze(1)
    at = (rows * width + columns).view(n, 1, height * width).expand(n, channels, height * width)
    return images.reshape(n, channels, height * width).gather(2, at).view(n, channels, height, width)


def _shifted(positions: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Shift each image's positions (N,size) by -size/8..size/8, reflected at both ends."""
    import torch

    reach = min(math.ceil(size / 8), size - 1)
    offset = torch.randint(-reach, reach + 1, (len(positions), 1), generator=generator)
    moved = (positions + offset).abs()
    return torch.where(moved > size - 1, 2 * (size - 1) - moved, moved)


def _rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    import torch
    from torch.nn import functional

    n, _, height, width = images.shape
    angle = _uniform(n, -DEGREES, DEGREES, generator, images.device).flatten() * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid works in coordinates of -1..1 on both axes: the aspect keeps the rotation rigid.
    aspect = height / width
    first = torch.stack([cos, -sin * aspect, zero], 1)
    second = torch.stack([sin / aspect, cos, zero], 1)
    grid = functional.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)


def _color(images: Tensor, generator: torch.Generator) -> Tensor:
    n, channels = images.shape[:2]
    brightness, contrast, saturation = (
        _uniform(n, 1 - JITTER, 1 + JITTER, generator, images.device) for _ in range(3)
    )
    pixels = images.float() * brightness
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    if channels == 3:
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = grey + (pixels - grey) * saturation
    return pixels.clamp_(0, 255)


def _randaugment(images: Tensor, generator: torch.Generator) -> Tensor:
    import torch
    from torchvision.transforms import v2

    seed = int(torch.randint(2**62, (), generator=generator))
    change = v2.RandAugment()
    # torchvision draws from the global generator: lend it ours and put its state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([change(image) for image in images])


def mix(
    pixels: Tensor, targets: Tensor, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) of a batch with a permutation of itself.

    ``mixup`` and ``cutmix`` are the alphas of their Beta distributions (0: off; one of the two is
    drawn per batch when both are on). ``targets`` are class probabilities (N, classes).
    Returns new pixels and targets.
    """
    import torch

    draw = random.Random(int(torch.randint(2**62, (), generator=generator)))
    order = torch.randperm(len(pixels), generator=generator).to(pixels.device)
    use_mixup = mixup > 0 and (cutmix <= 0 or draw.random() < 0.5)
    share = draw.betavariate(*((mixup,) * 2 if use_mixup else (cutmix,) * 2))
    if use_mixup:
        pixels = torch.lerp(pixels[order], pixels, share)
    else:
        height, width = pixels.shape[2:]
        side = math.sqrt(1 - share) / 2
        y, x = draw.random() * height, draw.random() * width
        top, bottom = max(0, round(y - side * height)), min(height, round(y + side * height))
        left, right = max(0, round(x - side * width)), min(width, round(x + side * width))
        pixels = pixels.clone()
        pixels[:, :, top:bottom, left:right] = pixels[order, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return pixels, torch.lerp(targets[order], targets, share)
