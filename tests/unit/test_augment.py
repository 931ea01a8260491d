"""Random changes of whole batches."""

from __future__ import annotations

import numpy as np
import pytest

from distill import augment


@pytest.mark.parametrize(
    "names", [("crop",), ("flip",), ("crop", "flip"), ("rotate",), ("color",), ("randaugment",)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_changes_images_one_by_one_and_repeats_from_its_seed(
    names: tuple[str, ...], channels: int
) -> None:
    import torch

    one = torch.randint(
        0, 256, (1, channels, 16, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    batch = one.expand(24, -1, -1, -1).contiguous()
    out = augment.augment(batch, names, torch.Generator().manual_seed(3))
    assert out.shape == batch.shape
    assert float(out.float().min()) >= 0
    assert float(out.float().max()) <= 255
    assert bool((out == augment.augment(batch, names, torch.Generator().manual_seed(3))).all())
    assert len({image.numpy().tobytes() for image in out.float()}) > 1


def test_flip_and_crop_move_pixels_as_they_say() -> None:
    import torch

    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    flipped = augment.augment(image.expand(40, -1, -1, -1), ("flip",), torch.Generator().manual_seed(0))
    kinds = {bytes(f.numpy()) for f in flipped}
    assert kinds == {bytes(image.numpy()), bytes(image.flip(3).numpy())}
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)[0, 0]
    windows = {bytes(padded[y : y + 16, x : x + 16].contiguous().numpy()) for y in range(5) for x in range(5)}
    cropped = augment.augment(image.expand(200, -1, -1, -1), ("crop",), torch.Generator().manual_seed(0))
    assert {bytes(c.numpy()) for c in cropped} == windows


def test_mixing_keeps_probabilities_and_cutmix_shares_follow_the_area() -> None:
    import torch

    pixels = torch.eye(4).view(4, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    targets = torch.eye(4)
    for seed in range(10):
        for mixup, cutmix in ((0.4, 0.0), (0.0, 1.0), (0.4, 1.0)):
            mixed, soft = augment.mix(pixels, targets, mixup, cutmix, torch.Generator().manual_seed(seed))
            np.testing.assert_allclose(soft.sum(1).numpy(), 1, atol=1e-6)
            assert mixed.shape == pixels.shape
    ones = torch.stack([torch.full((1, 16, 16), float(i)) for i in range(2)])
    mixed, soft = augment.mix(ones, torch.eye(2), 0.0, 1.0, torch.Generator().manual_seed(2))
    np.testing.assert_allclose(mixed.mean(dim=(1, 2, 3)).numpy(), soft[:, 1].numpy(), atol=1e-6)
