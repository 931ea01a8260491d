"""Folders of images: ``PATH/{train,validation,test}/<class>/**`` or ``PATH/<class>/**``.

Every file is hashed and decoded once, at reduced scale, so that damage is found before a training
starts; the findings are remembered by (path, size, modification time) and a second look is quick.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import DataError
from distill.sources import Listing, Sample

if TYPE_CHECKING:
    from PIL import Image

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
    "testing": "test",
}
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
TOLERATED = 0.01
"""Share of files that may be damaged or no images before the data set is refused."""
MEMO = 2
DEEP = 4096
"""16-bit images that all stay below this hold 12 bits or fewer, as cameras and scanners write them."""


class Finding(NamedTuple):
    """What one look at a file told: ``error`` is empty for a good image; ``peak`` is the largest of more than 8 bits."""

    content: str
    height: int
    width: int
    grey: bool
    error: str
    peak: int = 0


def list_folder(root: Path, memo_folder: Path) -> Listing:
    """List the images of a folder; splits that are not there are simply absent from the result.

    Raises:
        DataError: wrong path, no class folders, one class, an empty class, classes that only
            validation or test have, or more than 1% of the files damaged or no images.
    """
    splits, strays = _walk(root)
    classes = tuple(splits["train"])
    _check_classes(root, splits)
    files = [path for by_class in splits.values() for paths in by_class.values() for path in paths]
    good = [path for path in files if path.suffix.lower() in IMAGES]
    findings, notes = _inspect_all(root, good, memo_folder)
    skipped = [(_key(root, p), "an image outside the class folders") for p in strays]
    skipped += [
        (_key(root, p), f"not an image ({p.suffix or 'no suffix'})") for p in files if p not in findings
    ]
    skipped += [(_key(root, p), findings[p].error) for p in good if findings[p].error]
    if len(skipped) > TOLERATED * (len(files) + len(strays)):
        first = "; ".join(f"{path}: {reason}" for path, reason in skipped[:5])
        raise DataError(
            f"{len(skipped)} of the {len(files) + len(strays)} files in {root} cannot be used, more than 1%",
            first + ("; ..." if len(skipped) > 5 else ""),
            "Repair or remove them",
        )
    usable = [findings[p] for p in good if not findings[p].error]
    listed = {
        split: [
            Sample(_key(root, path), classes.index(name), findings[path].content)
            for name, paths in by_class.items()
            for path in paths
            if path in findings and not findings[path].error
        ]
        for split, by_class in splits.items()
    }
    peak = max((f.peak for f in usable), default=0)
    if 0 < peak < DEEP:
        notes.append(
            f"its 16-bit images hold no value above {peak}: read as 16 bits they are nearly black; "
            "scale them to the whole range first"
        )
    channels = 1 if all(f.grey for f in usable) else 3
    size = (median_low(f.height for f in usable), median_low(f.width for f in usable)) if usable else (1, 1)
    return Listing(classes, channels, size, listed, tuple(skipped), tuple(notes))


def open_image(path: Path, channels: int) -> Image.Image:
    """Decode a file to mode L or RGB: upright (EXIF), first frame, transparency on white, 16 bits to 8."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit greys; convert() would clip them at 255
        upright = upright.convert("I").point(lambda v: v * (1 / 256)).convert("L")
    elif upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("L" if channels == 1 else "RGB")


def _key(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if not entry.name.startswith(".") and entry.name.lower() not in IGNORED:
                yield entry


def _files(folder: Path) -> list[Path]:
    """All visible files below a class folder, in a fixed order."""
    found: list[Path] = []
    for entry in _visible(folder):
        if entry.is_dir(follow_symlinks=False):
            found += _files(Path(entry.path))
        elif entry.is_file():
            found.append(Path(entry.path))
    return found


def _by_class(folder: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Class -> files, and the images that lie beside the class folders (other files there are metadata)."""
    classes: dict[str, list[Path]] = {}
    strays: list[Path] = []
    for entry in _visible(folder):
        if entry.is_dir():
            classes[entry.name] = _files(Path(entry.path))
        elif Path(entry.name).suffix.lower() in IMAGES:
            strays.append(Path(entry.path))
    return classes, strays


def _walk(root: Path) -> tuple[dict[str, dict[str, list[Path]]], list[Path]]:
    """Split -> class -> files. A folder without a ``train`` in it holds classes."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"The data folder {root} {what}", todo="Give the folder that holds the class folders")
    try:
        top = [entry for entry in _visible(root) if entry.is_dir()]
        named: dict[str, Path] = {}
        for entry in top:
            split = SPLITS.get(entry.name.lower(), "")
            if split in named:
                raise DataError(
                    f"{root} has two folders for {split}",
                    f"{named[split].name} and {entry.name}",
                    "Put their images together",
                )
            named |= {split: Path(entry.path)} if split else {}
        if "train" not in named:
            if named:
                raise DataError(
                    f"{root} has {', '.join(p.name for p in named.values())} but no train",
                    todo="Add a folder train",
                )
            classes, strays = _by_class(root)
            return {"train": classes}, strays
        splits, strays = {}, []
        for split, folder in named.items():
            splits[split], stray = _by_class(folder)
            strays += stray
        return splits, strays
    except PermissionError as error:
        raise DataError(
            f"{error.filename} cannot be read", str(error.strerror), "Check its permissions"
        ) from error


def _check_classes(root: Path, splits: dict[str, dict[str, list[Path]]]) -> None:
    """The mistakes that can be named without opening a file."""
    train = splits["train"]
    if not train:
        raise DataError(
            f"{root} has no class folders",
            "no folder with images in it",
            "Put each class's images in a folder of its own",
        )
    if len(train) == 1:
        raise DataError(
            f"{root} has one class only", next(iter(train)), "A classifier needs two class folders or more"
        )
    for split, classes in splits.items():
        empty = [
            name for name, paths in classes.items() if not any(p.suffix.lower() in IMAGES for p in paths)
        ]
        if empty:
            raise DataError(
                f"The class folders {', '.join(empty)} of {split} in {root} hold no images",
                todo="Fill or remove them",
            )
        unknown = sorted(set(classes) - set(train))
        if unknown:
            raise DataError(
                f"{split} in {root} has classes that train lacks",
                ", ".join(unknown),
                "Name the class folders alike",
            )
        if not classes:
            raise DataError(
                f"{split} in {root} has no class folders",
                todo="Fill it, or remove it to have it cut from train",
            )


def _look(path: Path) -> Finding:
    """Hash a file and decode it; JPEGs at an eighth of the scale, which still reads every byte."""
    from PIL import Image

    content = ""
    try:
        data = path.read_bytes()
        content = hashlib.blake2b(data, digest_size=16).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            grey = image.mode in GREY
            if image.getexif().get(0x0112) in (5, 6, 7, 8):  # EXIF: lies on its side
                width, height = height, width
            image.draft(None, (max(1, width // 8), max(1, height // 8)))
            image.load()
            if image.mode == "F":
                raise ValueError("floating-point pixels, whose range is not known: store 8 or 16 bits")
            peak = int(image.convert("I").getextrema()[1]) if image.mode.startswith("I") else 0  # type: ignore[arg-type]
    except Exception as error:  # a damaged file makes PIL's decoders raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # PIL names the buffer it read from, which says nothing to a person.
        reason = "not an image inside" if "cannot identify image file" in reason else reason
        return Finding(content, 0, 0, True, f"cannot be decoded: {reason}")
    return Finding(content, height, width, grey, "", peak)


def _inspect_all(root: Path, paths: list[Path], memo_folder: Path) -> tuple[dict[Path, Finding], list[str]]:
    """Look at every file that is new or changed since the last time."""
    memo_path = memo_folder / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.json"
    memo = _read_memo(memo_path)
    stamps = {path: _stamp(path) for path in paths}
    known: dict[Path, Finding] = {}
    for path in paths:
        entry = memo.get(_key(root, path))
        if entry is not None and entry[:2] == stamps[path]:
            known[path] = Finding(*entry[2:])
    new = [path for path in paths if path not in known]
    if not new:
        return known, []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        known.update(zip(new, pool.map(_look, new), strict=True))
    files = {_key(root, path): [*stamps[path], *known[path]] for path in paths}
    try:
        memo_folder.mkdir(parents=True, exist_ok=True)
        temporary = memo_path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"version": MEMO, "files": files}))
        temporary.replace(memo_path)
    except OSError as error:
        return known, [f"the index could not be remembered in {memo_folder}: {error.strerror}"]
    return known, []


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_memo(path: Path) -> dict[str, list[Any]]:
    """What was found last time; a memo that is absent, old or damaged is just made again."""
    try:
        memo = json.loads(path.read_text())
        files = memo["files"] if memo["version"] == MEMO else {}
        types = [int, int, str, int, int, bool, str, int]
        return {k: v for k, v in files.items() if isinstance(v, list) and [type(x) for x in v] == types}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
