"""Data sets: four disjoint splits that a seed fixes, and the pixels decoded once into memory.

``index`` says what is there (no torch, no pixels kept); ``load`` decodes it. Train, validation,
calibration and test never share an image; calibration comes out of train. Splits that the data
set defines are kept, the others are cut from train, class by class.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, DataError, nearest
from bench.steps import DataOptions
from bench.types import Json, Preprocess, digest
from distill import pixels, sources
from distill.sources import Listing, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

SPLITS = ("train", "validation", "calibration", "test")
SHARES = {"test": 0.2, "validation": 0.1}
FOLDER_SIZE = 64
LARGEST_SIZE = 4096


@dataclass(frozen=True)
class DataIndex:
    """What a data set holds and how it is split. ``size`` (height, width) is after resizing.

    ``digest`` identifies what nets are fed with, ``decoded`` the pixels before they are normalised.
    """

    spec: str
    digest: str
    decoded: str
    classes: tuple[str, ...]
    channels: int
    native_size: tuple[int, int]
    size: tuple[int, int]
    counts: dict[str, int]
    per_class: dict[str, tuple[int, ...]]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    options: DataOptions
    seed: int
    samples: dict[str, tuple[Sample, ...]] = field(repr=False)

    @cached_property
    def held_out(self) -> str:
        """A digest of the classes and of the images of validation and test: what no training of these splits has seen."""
        images = {n: sorted([s.content, s.label] for s in self.samples[n]) for n in ("validation", "test")}
        return digest([self.classes, images])

    def to_json(self) -> Json:
        """The summary for a run's manifest: everything but the list of images."""
        return {
            "spec": self.spec,
            "digest": self.digest,
            "classes": list(self.classes),
            "channels": self.channels,
            "native_size": list(self.native_size),
            "size": list(self.size),
            "resize": self.options.resize,
            "seed": self.seed,
            "counts": dict(self.counts),
            "per_class": {split: list(counts) for split, counts in self.per_class.items()},
            "skipped": [list(pair) for pair in self.skipped],
            "notes": list(self.notes),
        }


def index(options: DataOptions, seed: int) -> DataIndex:
    """List and split a data set. The same contents, options and seed give the same splits and digest.

    Raises:
        ConfigError: for impossible options.
        DataError: for a data set that is absent, empty, damaged or too small to split.
    """
    check_options(options)
    listed = sources.listing(options)
    splits, notes = split(listed, options.calibration, seed)
    folder = sources.folder_of(options.spec) is not None
    side = options.image_size or (FOLDER_SIZE if folder else 0)
    size = (side, side) if side else listed.native_size
    identity = {
        "classes": listed.classes,
        "channels": listed.channels,
        "size": size,
        "resize": options.resize,
        "seed": seed,
        "splits": {name: [[s.content, s.label] for s in splits[name]] for name in SPLITS},
    }
    decoded = digest(identity)
    numbers = range(len(listed.classes))
    per_class = {name: Counter(s.label for s in splits[name]) for name in SPLITS}
    return DataIndex(
        spec=options.spec,
        digest=digest([decoded, options.mean, options.std]) if options.mean else decoded,
        decoded=decoded,
        classes=listed.classes,
        channels=listed.channels,
        native_size=listed.native_size,
        size=size,
        counts={name: len(splits[name]) for name in SPLITS},
        per_class={name: tuple(per_class[name][i] for i in numbers) for name in SPLITS},
        skipped=listed.skipped,
        notes=(*listed.notes, *notes),
        options=options,
        seed=seed,
        samples={name: tuple(splits[name]) for name in SPLITS},
    )


def check_options(options: DataOptions) -> None:
    """Raise ConfigError for options that make no sense, and DataError for an unknown data set."""
    sources.folder_of(options.spec)
    if options.image_size is not None and not 1 <= options.image_size <= LARGEST_SIZE:
        raise ConfigError(
            "image_size must be between 1 and 4096 pixels",
            str(options.image_size),
            "Leave it out for the native size",
        )
    if options.resize not in ("stretch", "crop"):
        raise ConfigError(
            f"There is no resize {options.resize!r}", todo=nearest(options.resize, ["stretch", "crop"])
        )
    numbers = (*options.mean, *options.std)
    wrong = not all(map(math.isfinite, numbers)) or not all(s > 0 for s in options.std)
    if wrong or len(options.mean) != len(options.std):
        raise ConfigError(
            "mean and std go together: a number for each channel, std above 0",
            f"mean = {list(options.mean)}, std = {list(options.std)}",
            "ImageNet's: mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]",
        )
    if options.calibration < 1:
        raise ConfigError("calibration must be at least 1 image", str(options.calibration))


def check_channels(index: DataIndex) -> None:
    """Raise ConfigError for a mean and std of other channels than the images have."""
    given = index.options.mean
    if given and len(given) != index.channels:
        raise ConfigError(
            f"mean and std are of {len(given)} channels, the images of {index.spec} have {index.channels}",
            todo="Give one number for each channel",
        )


def split(listed: Listing, calibration: int, seed: int) -> tuple[dict[str, list[Sample]], list[str]]:
    """Make the four splits; returns them and notes on what was dropped.

    An image's place depends on its content, its class's size and the seed alone, so the same
    images under other names split the same way.
    """
    splits = {name: list(samples) for name, samples in listed.splits.items()}
    notes = _contradictions(listed) + _drop_copies(splits)
    missing = [name for name in ("test", "validation") if name not in splits]
    have = Counter(s.label for s in splits["train"])
    for label, name in enumerate(listed.classes):
        if have[label] < 1 + len(missing):
            raise DataError(
                f"The class {name} has too few images to split",
                f"{have[label]} in train, and {' and '.join(missing) or 'training'} need one each",
                f"Give it at least {1 + len(missing)} images, or remove it",
            )
    for name in missing:
        take = {label: max(1, round(SHARES[name] * n)) for label, n in have.items()}
        splits[name], splits["train"] = _cut(splits["train"], take, f"{seed}/{name}")
    notes += _drop_copies(splits) if missing else []
    left = Counter(s.label for s in splits["train"])
    take = _apportion(left, min(calibration, max(len(splits["train"]) // 10, len(listed.classes))))
    splits["calibration"], splits["train"] = _cut(splits["train"], take, f"{seed}/calibration")
    notes += _drop(splits, "train", ("calibration",))
    if not splits["calibration"]:
        raise DataError(
            "There are too few images to calibrate with",
            f"{len(splits['train'])} to train on, one of each class",
            "Give every class a few more",
        )
    left = Counter(s.label for s in splits["train"])
    gone = [name for label, name in enumerate(listed.classes) if not left[label]]
    if gone or not splits["validation"] or not splits["test"]:
        raise DataError(
            "Nothing is left of a class or split once images that occur twice are dropped",
            ", ".join(gone) or "an empty validation or test split",
            "Remove the copies and add other images",
        )
    have_now = len(splits["calibration"])
    if have_now < calibration / 2:
        notes.append(f"{have_now} calibration images, not {calibration}: they are at most a tenth of train")
    return splits, notes


def _contradictions(listed: Listing) -> list[str]:
    """A note on images that are in two classes: no model can be right about both."""
    labels: dict[str, set[int]] = {}
    for samples in listed.splits.values():
        for sample in samples:
            labels.setdefault(sample.content, set()).add(sample.label)
    both = [found for found in labels.values() if len(found) > 1]
    if not both:
        return []
    names = " and ".join(listed.classes[label] for label in sorted(both[0]))
    count = "1 image is" if len(both) == 1 else f"{len(both)} images are"
    return [f"{count} in more than one class (one in {names}): their labels contradict each other"]


def _cut(samples: Sequence[Sample], take: dict[int, int], key: str) -> tuple[list[Sample], list[Sample]]:
    """Take ``take[label]`` images of each class, by the order of a keyed hash of their content."""
    ranked = sorted(
        samples,
        key=lambda s: (hashlib.blake2b(f"{key}/{s.content}".encode(), digest_size=16).digest(), s.key),
    )
    left, chosen = Counter(take), set()
    for sample in ranked:
        if left[sample.label] > 0:
            left[sample.label] -= 1
            chosen.add(sample.key)
    return [s for s in samples if s.key in chosen], [s for s in samples if s.key not in chosen]


def _apportion(have: Counter[int], total: int) -> dict[int, int]:
    """Share ``total`` over classes by size: one each first (large ones first), then by largest remainder.

    A class always keeps one image for training.
    """
    able = sorted((label for label in have if have[label] > 1), key=lambda label: (-have[label], label))
    take = dict.fromkeys(able[:total], 1)
    everyone = sum(have[label] for label in take)
    ideal = {label: total * have[label] / everyone for label in take}
    while sum(take.values()) < total:
        open_to = [label for label in take if take[label] < have[label] - 1]
        if not open_to:
            break
        take[max(open_to, key=lambda label: (ideal[label] - take[label], -label))] += 1
    return take


def _drop_copies(splits: dict[str, list[Sample]]) -> list[str]:
    """Keep the test set as it is, and nothing of it in validation, and nothing of the two in train."""
    notes = _drop(splits, "validation", ("test",)) if "validation" in splits else []
    return notes + _drop(splits, "train", ("validation", "test"))


def _drop(splits: dict[str, list[Sample]], source: str, others: Sequence[str]) -> list[str]:
    """Drop from ``source`` the images whose content is also in one of ``others``; say so."""
    seen = {s.content for name in others for s in splits.get(name, ())}
    kept = [s for s in splits[source] if s.content not in seen]
    dropped = len(splits[source]) - len(kept)
    splits[source] = kept
    if not dropped:
        return []
    what = f"1 image of {source} is" if dropped == 1 else f"{dropped} images of {source} are"
    return [f"{what} also in {' or '.join(others)}: dropped from {source}"]


@dataclass(frozen=True)
class Dataset:
    """Decoded images: per split uint8 (N,C,H,W) and int64 labels (N)."""

    index: DataIndex
    preprocess: Preprocess
    images: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """``(pixels / 255 - mean) / std``: from 0..255 (uint8 or float) to float32, channels last."""
        import torch

        scale, shift = _affine(self.preprocess.mean, self.preprocess.std, batch.device)
        # Arithmetic first, then the layout: on a CPU three times faster than the other way round.
        pixels = batch.to(torch.float32).mul(scale).add_(shift)
        return pixels.contiguous(memory_format=torch.channels_last)

    def calibration(self, n: int) -> torch.Tensor:
        """``n`` calibration images (all, when there are fewer) as float32 input: stratified, always the same.

        Raises:
            DataError: when ``n`` is not positive.
        """
        import torch

        if n < 1:
            raise DataError("Calibration needs at least one image", str(n))
        samples = self.index.samples["calibration"]
        have = Counter(s.label for s in samples)
        # _apportion leaves one image per class behind; here all may be taken.
        take = _apportion(Counter({label: count + 1 for label, count in have.items()}), min(n, len(samples)))
        chosen = {s.key for s in _cut(samples, take, f"{self.index.seed}/calibrate")[0]}
        rows = torch.tensor([i for i, s in enumerate(samples) if s.key in chosen])
        return self.normalise(self.images["calibration"][rows])

    def write_eval(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Write ``images.npy`` (uint8 N,H,W,C) and ``labels.npy`` (int64): validation, then test.

        Returns the rows of each split as (first, past the last).
        """
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        bounds, start = {}, 0
        for name in ("validation", "test"):
            bounds[name] = (start, start + len(self.labels[name]))
            start = bounds[name][1]
        _, channels, height, width = self.images["test"].shape
        with pixels.mapped(folder / "images.npy", (start, height, width, channels)) as out:
            for name, (first, last) in bounds.items():
                out[first:last] = self.images[name].numpy().transpose(0, 2, 3, 1)
        np.save(folder / "labels.npy", np.concatenate([self.labels[name].numpy() for name in bounds]))
        return bounds


@cache
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift (1,C,1,1) that normalise; kept, since making them would stall a GPU at every step."""
    import torch

    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return scale, shift


def load(index: DataIndex) -> Dataset:
    """Decode a data set once: into memory, or into ``root/cache`` when it needs over half of what is free.

    Raises:
        DataError: when a file can no longer be read.
    """
    import numpy as np
    import torch

    check_channels(index)
    height, width = index.size
    total = sum(index.counts.values()) * index.channels * height * width
    on_disk = total > pixels.available_memory() / 2
    images, labels = {}, {}
    for name in SPLITS:
        shape = (index.counts[name], index.channels, height, width)
        array = _on_disk(index, name, shape) if on_disk else _decode(index, name, np.empty(shape, np.uint8))
        images[name] = torch.from_numpy(array)
        labels[name] = torch.tensor([s.label for s in index.samples[name]], dtype=torch.int64)
    given = index.options.mean, index.options.std
    mean, std = given if given[0] else pixels.moments(images["train"].numpy())
    pre = Preprocess(height, width, index.channels, mean, std, index.options.resize, "bilinear")
    return Dataset(index, pre, images, labels)


def _decode(index: DataIndex, name: str, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    keys = [s.key for s in index.samples[name]]
    sources.pixels(index.options, keys, index.channels, index.size, out)
    return out


def _on_disk(index: DataIndex, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A split as a memory-mapped file; the digest in its name makes it safe to reuse."""
    import numpy as np

    folder = sources.cache_root(index.options) / "cache"
    path = folder / f"{index.decoded}-{name}.npy"
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with pixels.mapped(path, shape) as out:
                _decode(index, name, out)
        mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r+")
    except OSError as error:
        raise DataError(
            f"The decoded images do not fit in memory and could not be kept in {folder}",
            str(error),
            "Free some memory or disk, choose a smaller image_size, or another root",
        ) from error
    return mapped
