"""From 8-bit images to what the runtime wants, and back to float logits. Never inside the timed region."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

Json = Dict[str, Any]
SEED = 0


class Refused(Exception):
    """The artifact or the job cannot be run as asked; the text is the reason a person reads."""


def single_input(declared: Sequence[Json], found: Sequence[Json]) -> Json:
    """The one image input: what the runtime found, with the layout that the artifact declares.

    Raises:
        Refused: several inputs, a shape that contradicts the artifact's description, or no
            telling which axis holds the channels.
    """
    if len(found) != 1:
        names = ", ".join(str(f["name"]) for f in found)
        raise Refused(f"the artifact has {len(found)} inputs ({names}); one image input is expected")
    spec = dict(found[0])
    shape = spec["shape"]
    if declared:
        wanted = list(declared[0]["shape"])
        same_rank = len(wanted) == len(shape)
        if not same_rank or any(a is not None and b is not None and a != b for a, b in zip(wanted, shape)):
            raise Refused(f"the artifact's input has shape {shape}, but its description says {wanted}")
        spec["layout"] = declared[0].get("layout", "NCHW")
    elif len(shape) == 4 and shape[1] in (1, 3):
        spec["layout"] = "NCHW"
    elif len(shape) == 4 and shape[3] in (1, 3):
        spec["layout"] = "NHWC"
    else:
        spec["layout"] = ""
    return spec


def random_images(preprocess: Json, count: int) -> np.ndarray:
    """Seeded 8-bit images (count, H, W, C): normal, mean 128, deviation 64, clipped."""
    rng = np.random.default_rng(SEED)
    size = (count, preprocess["height"], preprocess["width"], preprocess["channels"])
    return np.clip(rng.normal(128.0, 64.0, size), 0, 255).astype(np.uint8)


def random_values(spec: Json, batch: int) -> np.ndarray:
    """Seeded standard normal values in the shape of the input, for an artifact without preprocessing."""
    shape = [batch, *spec["shape"][1:]]
    if any(d is None for d in shape):
        raise Refused(f"the input's shape {spec['shape']} is free beyond the batch; describe it")
    return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)


def check_images(images: np.ndarray, preprocess: Optional[Json]) -> None:
    """Raise Refused when the images are not what the artifact's preprocessing says."""
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise Refused(
            f"the images are {images.dtype} of shape {images.shape}; uint8 (N, H, W, C) is expected"
        )
    if preprocess is None:
        raise Refused("the artifact does not say how images become its input (no preprocessing)")
    wanted = (preprocess["height"], preprocess["width"], preprocess["channels"])
    if images.shape[1:] != wanted:
        raise Refused(f"the images are {images.shape[1:]} (H, W, C), the artifact expects {wanted}")


def to_input(images: np.ndarray, preprocess: Json, spec: Json) -> np.ndarray:
    """uint8 (n, H, W, C) to the input's layout and dtype: ``(x / 255 - mean) / std``, then quantised."""
    if not spec["layout"]:
        raise Refused(f"cannot tell the channels' axis of an input of shape {spec['shape']}; describe it")
    mean, std = (np.asarray(preprocess[k], dtype=np.float32) for k in ("mean", "std"))
    values: np.ndarray = (images.astype(np.float32) / np.float32(255.0) - mean) / std
    if spec["layout"] == "NCHW":
        values = values.transpose(0, 3, 1, 2)
    expected = list(spec["shape"][1:])
    if any(e is not None and e != v for e, v in zip(expected, values.shape[1:])) or len(expected) != 3:
        raise Refused(f"the input is {expected}, preprocessing gives {list(values.shape[1:])}")
    return quantise(np.ascontiguousarray(values, dtype=np.float32), spec)


def quantise(values: np.ndarray, spec: Json) -> np.ndarray:
    """float32 to the input's dtype; integers by ``round(x / scale) + zero_point``, saturating.

    Raises:
        Refused: an integer input that does not say its scale.
    """
    dtype: Any = np.dtype(spec["dtype"])
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if not spec.get("scale"):
        raise Refused(f"the input is {dtype} without a scale; only float or quantised inputs are fed")
    bounds = np.iinfo(dtype)
    whole = np.round(values / spec["scale"]) + spec["zero_point"]
    return np.asarray(np.clip(whole, bounds.min, bounds.max), dtype=dtype)


def to_logits(raw: np.ndarray, spec: Json, batch: int) -> np.ndarray:
    """The runtime's output as float32 (batch, classes), dequantised if it is an integer."""
    if raw.ndim < 2 or raw.shape[0] != batch:
        raise Refused(f"a batch of {batch} gave an output of shape {list(raw.shape)}")
    flat = raw.reshape(batch, -1)
    if spec.get("scale") and flat.dtype.kind in "iu":
        flat = (flat.astype(np.float32) - spec["zero_point"]) * spec["scale"]
    return np.asarray(flat, dtype=np.float32)


def check_finite(logits: np.ndarray, where: str) -> None:
    """Raise Refused when a logit is NaN or infinite."""
    if not np.isfinite(logits).all():
        bad = int(np.count_nonzero(~np.isfinite(logits).all(axis=1)))
        raise Refused(f"{where}: non-finite outputs for {bad} of {len(logits)} images")


def pick_batches(images: np.ndarray, batch: int, most: int = 8) -> List[np.ndarray]:
    """Up to ``most`` different batches spread over the images; fewer images than a batch are repeated."""
    count = max(1, min(most, len(images) // batch))
    rows = np.linspace(0, len(images), count, endpoint=False).astype(int)
    return [images[np.arange(r, r + batch) % len(images)] for r in rows]


def chunks(n: int, size: int) -> List[Tuple[int, int]]:
    return [(i, min(i + size, n)) for i in range(0, n, size)]
