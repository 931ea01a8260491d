"""From 8-bit images to what the runtime wants, and back to float logits. Never inside the timed region."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

Json = Dict[str, Any]
SEED = 0
DISTINCT = 32
"""Random images that differ; a larger batch repeats them."""
SLOPE = 1.2
"""How amplitudes of a photograph fall with frequency."""
SHARE = 0.9
"""Of the free memory: what the prepared batches may take."""
ALLOCATION = ("bad_alloc", "bad allocation", "failed to allocate", "out of memory", "can't allocate")
"""How runtimes say, in lower case, that memory ended (standard C++, onnxruntime, LiteRT, torch)."""


class Refused(Exception):
    """The artifact or the job cannot be run as asked; the text is the reason a person reads."""


def guess_layout(shape: Sequence[Optional[int]]) -> str:
    """``NCHW`` or ``NHWC`` where one axis alone can hold the channels (1 or 3); else an empty string."""
    if len(shape) != 4:
        return ""
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        return ""
    return "NCHW" if first else "NHWC"


def single_input(declared: Sequence[Json], found: Sequence[Json]) -> Json:
    """The one image input: what the runtime found, with the layout and the free sides that the job declares.

    Raises:
        Refused: several inputs, or a shape that contradicts the artifact's description.
    """
    spec = dict(_single(found, "input"))
    shape = list(spec["shape"])
    if declared:
        wanted = list(declared[0]["shape"])
        same_rank = len(wanted) == len(shape)
        if not same_rank or any(a is not None and b is not None and a != b for a, b in zip(wanted, shape)):
            raise Refused(f"the artifact's input has shape {shape}, but its description says {wanted}")
        spec["shape"] = [*shape[:1], *[w if s is None else s for w, s in zip(wanted[1:], shape[1:])]]
        spec["layout"] = declared[0].get("layout", "NCHW")
    else:
        spec["layout"] = guess_layout(shape)
    return spec


def single_output(found: Sequence[Json]) -> Json:
    """The one output, the logits or probabilities. Raises Refused when there are several."""
    return dict(_single(found, "output"))


def _single(found: Sequence[Json], what: str) -> Json:
    if len(found) != 1:
        names = ", ".join(f"{f['name']} {f['shape']}" for f in found) or "none"
        wanted = "one image input" if what == "input" else "one output with a figure per class"
        raise Refused(f"the artifact has {len(found)} {what}s ({names}); {wanted} is expected")
    return found[0]


def field(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise with mean 0 and deviation 1: amplitudes fall as 1 / frequency ** 1.2 along every axis.

    The mean spectrum of 135 photographs (Tolhurst, Tadmor and Chao, *Ophthalmic and Physiological Optics* 12,
    1992); about 1 / frequency in Field (JOSA A 4, 1987).
    """
    spectrum = np.fft.fftn(rng.standard_normal(shape))
    square = np.zeros(shape)
    for axis, size in enumerate(shape):
        steps = np.fft.fftfreq(size).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        square = square + steps**2
    square.flat[0] = np.inf  # no constant part
    values: np.ndarray = np.fft.ifftn(spectrum * square ** (-SLOPE / 2)).real
    return np.asarray(values / max(float(values.std()), 1e-12))


def natural(height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """An 8-bit image (H, W, C) with the statistics of a photograph, from 0 to 255.

    One luminance field shared by all channels and a weak one of each channel's own: channels of
    natural images correlate at about 0.9 (Ruderman, Cronin and Chiao, JOSA A 15, 1998). The contrast is
    stretched until one value in a hundred is at either end.
    """
    light = field((height, width), rng)[..., None]
    own = np.stack([field((height, width), rng) for _ in range(channels)], axis=-1)
    values = light + 0.35 * own
    low, high = np.quantile(values, (0.01, 0.99))
    stretched = np.clip(np.round(255.0 * (values - low) / max(high - low, 1e-12)), 0, 255)
    return np.asarray(stretched, dtype=np.uint8)


def random_images(preprocess: Json, count: int) -> np.ndarray:
    """Seeded images like photographs, uint8 (n, H, W, C) with n = ``count`` but at most 32."""
    rng = np.random.default_rng(SEED)
    height, width, channels = (int(preprocess[k]) for k in ("height", "width", "channels"))
    return np.stack([natural(height, width, channels, rng) for _ in range(min(count, DISTINCT))])


def random_input(spec: Json, batch: int) -> np.ndarray:
    """Seeded values in the shape and dtype of an input whose preprocessing is not known.

    Images where the layout is known, else smooth noise. Integers span the whole type; floats have mean 0 and
    deviation 1, which is what most preprocessing gives.

    Raises:
        Refused: free sides, a type that is not fed, or a batch that does not fit into memory.
    """
    shape = list(spec["shape"][1:])
    if any(d is None for d in shape):
        raise Refused(f"the input's shape {spec['shape']} is free beyond the batch; say its size")
    dtype = input_type(spec)
    check_memory(batch, 5 * int(np.prod(shape, dtype=np.int64)))
    rng, rows = np.random.default_rng(SEED), []
    for _ in range(min(batch, DISTINCT)):
        if spec["layout"] == "NCHW":
            rows.append(natural(shape[1], shape[2], shape[0], rng).transpose(2, 0, 1))
        elif spec["layout"] == "NHWC":
            rows.append(natural(shape[0], shape[1], shape[2], rng))
        else:
            rows.append(np.clip(np.round(128.0 + 50.0 * field(shape, rng)), 0, 255).astype(np.uint8))
    values = np.stack(rows)
    if dtype.kind in "iu":
        offset = 0 if dtype.kind == "u" else 128
        values = (values.astype(np.int16) - offset).astype(dtype)
    else:
        plain = values.astype(np.float32)
        values = ((plain - plain.mean()) / max(float(plain.std()), 1e-6)).astype(dtype)
    return np.ascontiguousarray(values[np.arange(batch) % len(values)])


def input_type(spec: Json) -> "np.dtype[Any]":
    """The input's numpy type. Raises Refused for what is not fed: text, wide integers, bfloat16."""
    fed = ("float32", "float16", "float64", "uint8", "int8")
    if spec["dtype"] not in fed:
        raise Refused(f"the input {spec['name']} is {spec['dtype']}; only {', '.join(fed)} are fed")
    return np.dtype(spec["dtype"])


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
        raise Refused(f"cannot tell the channels' axis of an input of shape {spec['shape']}; say its layout")
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

    A uint8 input without a scale takes pixels: preprocessing must give 0 to 255.

    Raises:
        Refused: a signed integer input that does not say its scale, or a type that is not fed.
    """
    dtype = input_type(spec)
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    if not spec.get("scale") and dtype != np.uint8:
        raise Refused(f"the input is {dtype} without a scale: what its figures mean is not known")
    bounds: Any = np.iinfo(dtype)
    whole = np.round(values / (spec.get("scale") or 1.0)) + spec.get("zero_point", 0)
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


def free_memory() -> Optional[int]:
    """Bytes this process can still take (``MemAvailable``, and the control group's limit), or None."""
    found = []
    try:
        with open("/proc/meminfo") as file:
            found += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as current:
            found.append(int(most.read()) - int(current.read()))
    except (OSError, ValueError):  # no such file here, or "max": no limit
        pass
    return min(found) if found else None


def check_memory(batch: int, image_bytes: int) -> None:
    """Raise Refused when a batch, at so many bytes an image, does not fit into the memory that is free."""
    free, wanted = free_memory(), batch * image_bytes
    if free is not None and wanted > SHARE * free:
        raise Refused(
            f"a batch of {batch} takes {wanted / 1e9:,.1f} GB for its input alone; {free / 1e9:,.1f} GB are free"
        )


def explain(error: BaseException, batch: int) -> str:
    """What a runtime raised, on one line; where memory ended, that first."""
    text = " ".join(str(error).split())
    if len(text) > 400:  # C++ runtimes begin with the place in their source; the reason comes last
        text = text[:120] + " ... " + text[-275:]
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError) or any(words in text.lower() for words in ALLOCATION):
        return f"not enough memory for a batch of {batch} ({named})"
    return named


def pick_batches(images: np.ndarray, batch: int, most: int = 8) -> List[np.ndarray]:
    """Up to ``most`` different batches spread over the images; fewer images than a batch are repeated.

    Raises:
        Refused: batches that, with their float32 copies, do not fit into memory.
    """
    count = max(1, min(most, len(images) // batch))
    check_memory(batch, 5 * count * int(np.prod(images.shape[1:], dtype=np.int64)))
    rows = np.linspace(0, len(images), count, endpoint=False).astype(int)
    return [images[np.arange(r, r + batch) % len(images)] for r in rows]


def chunks(n: int, size: int) -> List[Tuple[int, int]]:
    return [(i, min(i + size, n)) for i in range(0, n, size)]
