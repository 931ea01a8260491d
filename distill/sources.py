"""Where images come from: the digits in scikit-learn's wheel, a folder, torchvision's data sets.

A source lists its images (:func:`listing`) without keeping pixels, and hands out pixels by key
(:func:`pixels`). Neither needs torch; torchvision is imported only to fetch one of its data sets once.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import DataError, MissingError, UsageError, nearest
from bench.steps import DataOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Pixels = NDArray[np.uint8]

TORCHVISION = {
    "cifar10": ("CIFAR10", "train"),
    "cifar100": ("CIFAR100", "train"),
    "mnist": ("MNIST", "train"),
    "fashion-mnist": ("FashionMNIST", "train"),
    "kmnist": ("KMNIST", "train"),
    "usps": ("USPS", "train"),
    "svhn": ("SVHN", "split"),
    "stl10": ("STL10", "split"),
}
"""Spec -> (class in torchvision.datasets, the argument that picks the split)."""


class Sample(NamedTuple):
    """One image: its key inside the source, its class, and a hash of its content."""

    key: str
    label: int
    content: str


@dataclass(frozen=True)
class Listing:
    """All images of a source. ``splits``: ``train``, and whichever of validation and test it defines."""

    classes: tuple[str, ...]
    channels: int
    native_size: tuple[int, int]
    splits: dict[str, list[Sample]]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def cache_root(options: DataOptions) -> Path:
    """The folder for downloads and caches, with ``~`` expanded."""
    return Path(options.root).expanduser()


def folder_of(spec: str) -> Path | None:
    """The path of a ``folder:PATH`` spec, or None for a named data set.

    Raises:
        DataError: for a spec that is neither, with the nearest names.
        UsageError: for ``folder:`` without a path.
    """
    if spec.startswith("folder:"):
        if not spec[len("folder:") :].strip():
            raise UsageError(
                "folder: needs a path", f"--data {spec}", "Write for example --data folder:./photos"
            )
        return Path(spec[len("folder:") :]).expanduser()
    if spec == "digits" or spec in TORCHVISION:
        return None
    if os.sep in spec or Path(spec).is_dir():
        raise DataError(
            f"{spec} is not a data set's name", todo=f"For a folder of images write folder:{spec}"
        )
    raise DataError(
        f"There is no data set {spec!r}", todo=nearest(spec, ["digits", "folder:PATH", *TORCHVISION])
    )


def listing(options: DataOptions) -> Listing:
    """All images of ``options.spec``.

    Raises:
        DataError: when the data set is absent, empty or damaged.
    """
    root = folder_of(options.spec)
    if root is not None:
        from distill.folders import list_folder

        return list_folder(root, cache_root(options) / "index")
    arrays = _digits() if options.spec == "digits" else _torchvision(options.spec, cache_root(options))
    first = arrays["train_images"]
    splits = {
        split: [
            Sample(f"{split}/{i}", int(label), content)
            for i, (label, content) in enumerate(
                zip(arrays[f"{split}_labels"].tolist(), arrays[f"{split}_content"].tolist(), strict=True)
            )
        ]
        for split in ("train", "test")
        if f"{split}_labels" in arrays
    }
    classes = tuple(str(c) for c in arrays["classes"].tolist())
    return Listing(classes, int(first.shape[1]), (int(first.shape[2]), int(first.shape[3])), splits)


def pixels(
    options: DataOptions, keys: Sequence[str], channels: int, size: tuple[int, int], out: Pixels
) -> None:
    """Decode the images ``keys`` into ``out`` (uint8, N,C,H,W), resized to ``size`` (height, width).

    Files are decoded by a few threads (PIL releases the interpreter lock while it decodes).

    Raises:
        DataError: when a file can no longer be read; it was readable when it was indexed.
    """
    import numpy as np

    root = folder_of(options.spec)
    if root is None:
        arrays = _digits() if options.spec == "digits" else _torchvision(options.spec, cache_root(options))
        images = {
            split: arrays[f"{split}_images"] for split in ("train", "test") if f"{split}_images" in arrays
        }
        for row, key in enumerate(keys):
            split, _, number = key.partition("/")
            out[row] = _fit_array(images[split][int(number)], size, options.resize)
        return

    from distill.folders import open_image

    def decode(row: int) -> None:
        path = root / keys[row]
        try:
            image = resize(open_image(path, channels), size, options.resize)
        except Exception as error:  # PIL's decoders raise nearly anything
            raise DataError(
                f"{path} could be read when it was indexed and no longer can",
                str(error),
                "Run again to index anew",
            ) from error
        array = np.asarray(image, dtype=np.uint8)
        out[row] = array[None] if channels == 1 else array.transpose(2, 0, 1)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(keys))):
            pass


def resize(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """Antialiased bilinear: ``stretch`` both sides, or ``crop`` (shorter side to size, then the centre)."""
    from PIL import Image, ImageOps

    width_height = (size[1], size[0])
    if image.size == width_height:
        return image
    if how == "crop":
        return ImageOps.fit(image, width_height, Image.Resampling.BILINEAR)
    return image.resize(width_height, Image.Resampling.BILINEAR)


def _fit_array(image: Pixels, size: tuple[int, int], how: str) -> Pixels:
    """One image (C,H,W) at ``size``; the pixels are untouched when they already fit."""
    import numpy as np
    from PIL import Image

    if image.shape[1:] == size:
        return image
    if image.shape[0] == 1:
        return np.asarray(resize(Image.fromarray(image[0]), size, how))[None]
    return np.asarray(resize(Image.fromarray(image.transpose(1, 2, 0)), size, how)).transpose(2, 0, 1)


def _contents(images: Pixels) -> NDArray[Any]:
    import numpy as np

    return np.array([hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images])


def _digits() -> dict[str, NDArray[Any]]:
    """UCI's optical digits: 1797 grey 8x8 images with 17 levels, from the file in scikit-learn's package."""
    import numpy as np

    found = importlib.util.find_spec("sklearn")
    folder = next(iter(found.submodule_search_locations or ()), "") if found else ""
    path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
    if not folder or not path.is_file():
        raise MissingError(
            "The embedded digits come with scikit-learn, which is missing", todo="pip install scikit-learn"
        )
    with gzip.open(path, "rt") as file:
        table = np.array([line.split(",") for line in file.read().split()], dtype=np.float64)
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return {
        "train_images": images,
        "train_labels": table[:, 64].astype(np.int64),
        "train_content": _contents(images),
        "classes": np.array([str(i) for i in range(10)]),
    }


def _torchvision(name: str, root: Path) -> Any:
    """A torchvision data set as arrays; converted once into one .npz, so that later runs need no torch."""
    import numpy as np

    path = root / "arrays" / f"{name}.npz"
    if path.is_file():
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            path.replace(path.with_suffix(".damaged"))
    arrays: dict[str, NDArray[Any]] = {}
    for split in ("train", "test"):
        dataset = _fetch(name, root / "torchvision", split)
        images = np.asarray(dataset.data)
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] == 3:
            images = images.transpose(0, 3, 1, 2)
        labels = np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels)
        arrays[f"{split}_images"] = np.ascontiguousarray(images, dtype=np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.int64)
        arrays[f"{split}_content"] = _contents(arrays[f"{split}_images"])
        if split == "train":
            names = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
            arrays["classes"] = np.array([str(n) for n in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)
    return arrays


def _fetch(name: str, folder: Path, split: str) -> Any:
    """Open (and download if needed) one split of a torchvision data set."""
    try:
        import torchvision
    except ImportError as error:
        raise MissingError(
            f"The data set {name} needs torchvision", todo="pip install torchvision"
        ) from error
    kind, argument = TORCHVISION[name]
    choice: Any = split == "train" if argument == "train" else split
    try:
        return getattr(torchvision.datasets, kind)(str(folder), download=True, **{argument: choice})
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"The data set {name} is not in {folder} and could not be downloaded",
            str(error).splitlines()[0] if str(error) else type(error).__name__,
            'On a machine with network run: python -c "from torchvision.datasets import '
            f"{kind}; [{kind}('data', {argument}=s, download=True) for s in "
            f'{(True, False) if argument == "train" else ("train", "test")}]" '
            f"and copy the contents of its folder data into {folder}",
        ) from error
