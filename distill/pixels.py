"""Arrays of pixels: in memory or mapped from a file that is written whole, and their moments."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOMENT_PIXELS = 1_000_000
"""Counted at a time: the counting takes 8 bytes a pixel."""


@contextmanager
def mapped(path: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """An array of uint8 to fill that becomes the file ``path``: whole, or not at all.

    Its space is claimed first: on a full disk a page that is written through a map kills the process (SIGBUS) where a
    file would be an error.

    Raises:
        OSError: there is no room for it.
    """
    import numpy as np

    temporary = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
    try:
        out = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as file:
                _claim(file.fileno(), temporary.stat().st_size)
        yield out
        out.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _claim(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # file systems that cannot
            raise


def moments(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to 0..1, from exact histograms."""
    import numpy as np

    count = np.zeros((images.shape[1], 256), dtype=np.int64)
    some = max(1, MOMENT_PIXELS // max(1, images[0, 0].size))
    for start in range(0, len(images), some):
        for channel in range(images.shape[1]):
            count[channel] += np.bincount(images[start : start + some, channel].ravel(), minlength=256)
    level = np.arange(256) / 255
    share = count / count.sum(axis=1, keepdims=True)
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0))
    std[std < 1e-6] = 1.0  # a constant channel: leave its scale alone
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


def available_memory() -> int:
    """Bytes of memory that can be used without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
