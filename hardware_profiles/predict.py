"""What a model would need on a device that is not here: latency with a 90% interval, memory and energy with bounds, and why.

The latency is a sum over the kernels of the graph of what :mod:`hardware_profiles.prediction.features` counts, with
coefficients from :mod:`hardware_profiles.prediction.coefficients`. Every quantity says ``predicted``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, ModelError, UsageError
from bench.types import Profile, Quantity
from hardware_profiles.prediction import energy, memory
from hardware_profiles.prediction.coefficients import Coefficients, find
from hardware_profiles.prediction.features import BYTES, TERMS, amounts, smooth
from hardware_profiles.prediction.graph import CONV, Graph, Op, kernels
from hardware_profiles.prediction.rates import clusters, number, on_cpu, plain, suited

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

METHOD = "90% interval"
TOP = 5
ON_CHIP_MB = {"edge-asic": 7.5}
"""Of an Edge TPU's 8 MB, what weights may take (coral.ai, Edge TPU compiler: parameter data caching)."""
BOUNDS = ("compute", "memory", "launch")


@dataclass(frozen=True)
class Setting:
    """What is asked: ``threads`` of a processor, ``mode`` a power mode's name; empty: the fastest."""

    runtime: str
    precision: str
    batch: int = 1
    threads: int = 1
    mode: str = ""


@dataclass(frozen=True)
class LayerTime:
    """A kernel's share: ``ms`` of the latency, ``bound`` by compute, memory or launch; ``shape`` in words."""

    name: str
    shape: str
    ms: float
    share: float
    bound: str


@dataclass(frozen=True)
class Prediction:
    """``bounds``: the shares of compute, memory and launches. ``advice``: what would make it faster on this device.

    ``alike``: half-width (a logarithm) of the 90% interval of the ratio of two latencies predicted like this one: what is wrong
    with the device's coefficients is wrong with both. ``unfit``: why the device cannot run it at all, empty where it may.
    """

    latency_ms: Quantity
    memory_mb: Quantity
    energy_mj: Quantity
    layers: tuple[LayerTime, ...]
    bounds: dict[str, float]
    advice: tuple[str, ...]
    calibrated: bool
    alike: float
    notes: tuple[str, ...]
    unfit: str = ""


def read_file(source: Path, size: tuple[int, int] | None = None) -> Graph:
    """The graph of an ONNX file. ``size``: height and width of its images, where the file leaves them free.

    Raises:
        UsageError: a size is missing, or the file has one.
        ModelError: it cannot be read, with the reason.
    """
    from hardware_profiles.prediction import read_onnx

    try:
        return read_onnx.read(source, size)
    except read_onnx.FreeSizeError as error:
        raise UsageError(
            f"{source.name} is for images of any size", todo="Say which with --input-size"
        ) from error
    except ValueError as error:
        if size and "of its own" in str(error):
            raise UsageError(
                f"{source.name} has an image size of its own", todo="Leave --input-size out"
            ) from error
        raise ModelError(
            f"{source.name} cannot be predicted",
            str(error),
            "Give an ONNX file that runs, or a model by its name",
        ) from error


def read_graph(source: Path | Any, channels: int = 3, height: int = 224, width: int = 224) -> Graph:
    """The graph of an ONNX file or of a torch module (for an image of that size).

    Raises:
        ModelError: it cannot be read or run, with the reason.
    """
    if isinstance(source, Path):
        return read_file(source)
    from hardware_profiles.prediction import read_torch

    try:
        return read_torch.read(source, channels, height, width)
    except Exception as error:  # whatever a forward raises
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(
            f"The model does not run on a {channels} x {height} x {width} image",
            what,
            "Give another --input-size",
        ) from error


def predict(graph: Graph, profile: Profile, setting: Setting) -> Prediction:
    """Latency, peak memory and energy of one call with ``setting.batch`` images.

    Raises:
        ConfigError: the device does not run that precision, has no such power mode, or no facts to predict from.
    """
    import numpy as np

    setting = check(profile, setting)
    setting = replace(setting, mode=plain(profile, setting.mode))
    found = find(profile, setting.runtime, setting.precision, setting.threads, setting.mode)
    ops = kernels(graph, found.kind.shape.residual)
    table, share_of_float = _table(graph, ops, profile, setting, found)
    times = table * np.exp(found.theta)
    whole = float(times.sum())
    shares = times.sum(0) / whole
    variance = float(shares @ found.covariance @ shares) + found.kind.noise**2 + found.versions**2
    deviation = math.sqrt(variance)
    reach = math.exp(found.quantile * deviation)
    latency = _quantity(
        whole, whole / reach, whole * reach, "ms", f"sum over {len(ops)} kernels; {found.origin}"
    )
    layers = _layers(ops, times, whole)
    bounds = _bounds(times, whole)
    need = _memory(graph, setting)
    unfit, doubt = _too_large(profile, need)
    notes = [*graph.notes, *share_of_float, *doubt]
    return Prediction(
        latency,
        need,
        _energy(profile, setting, latency),
        layers,
        bounds,
        tuple(_advice(graph, ops, profile, setting, found, times, bounds)),
        found.calibrated,
        found.ratio,
        tuple(notes),
        unfit,
    )


def check(profile: Profile, setting: Setting) -> Setting:
    """The setting as the device has it: its power mode in full, one thread where no processor computes.

    Raises:
        ConfigError: it does not run that runtime or precision, has no such power mode, or fewer cores; says what it has.
    """
    if reason := suited(profile, setting.runtime):
        raise ConfigError(*reason)
    refused = profile.refusal(setting.runtime, setting.precision)
    if refused or setting.precision not in BYTES:
        able = [p for p in profile.precisions if p in BYTES and not profile.refusal(setting.runtime, p)]
        raise ConfigError(
            refused or f"{setting.precision} is no precision that is predicted",
            todo=f"With {setting.runtime} {profile.name} has: {', '.join(able) or 'none'}",
        )
    modes = [m["name"] for m in profile.power_modes]
    mode = next((m for m in modes if setting.mode in (m, m.removeprefix("MODE_"))), "")
    if setting.mode and not mode:
        raise ConfigError(
            f"{profile.name} has no power mode {setting.mode!r}",
            todo=f"Its power modes: {', '.join(modes) or 'none'}",
        )
    if not on_cpu(profile, setting.runtime):
        return replace(setting, mode=mode, threads=1)
    text = str(profile.facts["cpu"].value) if "cpu" in profile.facts else ""
    cores = sum(c.count for c in clusters(text)) or int(number(profile.facts, "cpu_cores") or setting.threads)
    if setting.threads > cores:
        raise ConfigError(
            f"{profile.name} has no {setting.threads} cores", f"it has {cores}", "Give fewer --threads"
        )
    return replace(setting, mode=mode)


def _quantity(value: float, low: float, high: float, unit: str, how: str) -> Quantity:
    return Quantity(value, unit, low, high, provenance="predicted", method=f"{METHOD}; {how}")


def _table(
    graph: Graph, ops: Sequence[Op], profile: Profile, setting: Setting, found: Coefficients
) -> tuple[NDArray[np.float64], list[str]]:
    """Amounts of kernels (a row each, the last row for the whole call), and what was counted as float in an INT8 model."""
    import numpy as np

    size = BYTES[setting.precision]
    table = amounts(ops, setting.batch, size, found.kind.shape, profile.lanes)
    notes = []
    if setting.precision == "int8" and graph.int8:
        islands = [i for i, op in enumerate(ops) if not op.quantized and op.macs]
        if islands:
            other = find(profile, setting.runtime, "fp32", setting.threads, setting.mode)
            slower = amounts([ops[i] for i in islands], setting.batch, 4, found.kind.shape, profile.lanes)
            table[islands] = slower * np.exp(other.theta - found.theta)
            table[islands, TERMS.index("launch")] += 2e-3  # conversions before and after
            notes.append(f"{len(islands)} of {len(ops)} kernels are float in this INT8 file")
    call = np.zeros((1, len(TERMS)))
    call[0, TERMS.index("smooth")] = smooth(graph) * setting.batch / 1e9
    call[0, TERMS.index("call")] = 1e-3
    chip = ON_CHIP_MB.get(profile.kind, 0.0) * 1e6
    if chip:
        call[0, TERMS.index("overflow")] = max(0.0, graph.params * size - chip) / 1e9
    return np.vstack([table, call]), notes


GROUPS = {
    "memory": ("weights", "activations", "elementwise", "overflow"),
    "launch": ("launch", "call", "serial"),
}


def _parts(times: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of each kernel by what bounds it."""
    columns = {name: [TERMS.index(t) for t in terms] for name, terms in GROUPS.items()}
    taken = {i for places in columns.values() for i in places}
    columns["compute"] = [i for i in range(len(TERMS)) if i not in taken]
    return {name: times[:, columns[name]].sum(1) for name in BOUNDS}


def _bounds(times: NDArray[np.float64], whole: float) -> dict[str, float]:
    return {name: float(part.sum()) / whole for name, part in _parts(times).items()}


def _layers(ops: Sequence[Op], times: NDArray[np.float64], whole: float) -> tuple[LayerTime, ...]:
    """The most expensive kernels, the first first."""
    parts, each = _parts(times), times.sum(1)
    order = sorted(range(len(ops)), key=lambda i: (-each[i], i))[:TOP]
    return tuple(
        LayerTime(
            ops[i].name,
            describe(ops[i]),
            float(each[i]),
            float(each[i]) / whole,
            max(BOUNDS, key=lambda b: float(parts[b][i])),
        )
        for i in order
    )


def describe(op: Op) -> str:
    """``3x3 depthwise, 96 channels, 14x14``."""
    side = math.isqrt(op.pixels) if op.pixels else 0
    where = f"{side}x{side}" if side and side * side == op.pixels else f"{op.pixels} positions"
    if op.kind == CONV:
        size = f"{op.kernel[0]}x{op.kernel[1]}"
        if op.depthwise:
            return f"{size} depthwise, {op.cout} channels, {where}"
        groups = f" in {op.groups} groups" if op.groups > 1 else ""
        return f"{size}, {op.cin} to {op.cout}{groups}, {where}"
    if op.macs:
        return f"product, {op.cin} to {op.cout}, {op.pixels} rows"
    return f"{op.what}, {op.writes} elements"


def _memory(graph: Graph, setting: Setting) -> Quantity:
    value, low, high = memory.predict_mb(graph, setting.runtime, setting.precision, setting.batch)
    how = f"{memory.use_of(setting.runtime).basis}; weights and live activations of the graph, beyond the runtime's own"
    return Quantity(value, "MB", low, high, provenance="predicted", method=how)


def _too_large(profile: Profile, need: Quantity) -> tuple[str, list[str]]:
    """(why it does not fit into the device's memory, or a warning where it may not)."""
    size = number(profile.facts, "memory_gb")
    if size is None or need.high is None or need.high < size * 1000:
        return "", []
    if need.low is not None and need.low > size * 1000:
        return f"it needs at least {need.low / 1000:.2g} GB, and {profile.name} has {size:g} GB", []
    return "", [f"it may not fit into the {size:g} GB of {profile.name}; then there is no such latency"]


def _energy(profile: Profile, setting: Setting, latency: Quantity) -> Quantity:
    found = energy.power(profile, setting.runtime, setting.precision, setting.mode, setting.threads)
    if isinstance(found, str):
        return Quantity.missing(found, "mJ")
    assert latency.value is not None and latency.low is not None and latency.high is not None
    value, low, high = energy.product(
        (found.watts, found.low, found.high), (latency.value, latency.low, latency.high)
    )
    how = f"the latency's interval with that of the power; an image; {found.how}"
    value, low, high = (v / setting.batch for v in (value, low, high))
    return Quantity(value, "mJ", low, high, provenance="predicted", method=how)


# --- what would make it faster


def _advice(
    graph: Graph, ops: Sequence[Op], profile: Profile, setting: Setting, found: Coefficients,
    times: NDArray[np.float64], bounds: dict[str, float],
) -> list[str]:  # fmt: skip
    whole = float(times.sum())
    advice = _odd_widths(ops, profile, setting, found, times)
    parts = _parts(times)
    depthwise = [i for i, op in enumerate(ops) if op.depthwise]
    share = float(times.sum(1)[depthwise].sum()) / whole if depthwise else 0.0
    if share > 0.15 and float(parts["memory"][depthwise].sum()) > float(parts["compute"][depthwise].sum()):
        advice.append(
            f"depthwise convolutions take {share:.0%} and are memory-bound here: smaller maps help, fewer MACs do not"
        )
    if bounds["launch"] > 0.5:
        advice.append(
            f"launch-bound: {bounds['launch']:.0%} goes to starting {len(ops)} kernels; fewer layers or a larger batch help more "
            "than narrower layers"
        )
    overflow = float(times[:, TERMS.index("overflow")].sum()) / whole
    if overflow > 0.1:
        advice.append(
            f"{graph.params * BYTES[setting.precision] / 1e6:.1f} MB of weights are more than the accelerator keeps: reading "
            f"them again takes {overflow:.0%}"
        )
    advice += _other_precision(graph, profile, setting, whole)
    return advice


def _odd_widths(
    ops: Sequence[Op], profile: Profile, setting: Setting, found: Coefficients, times: NDArray[np.float64]
) -> list[str]:
    """Channels that fill no whole vectors, where that costs 1% of the latency or more."""
    import numpy as np

    step, whole = profile.lanes, float(times.sum())
    costs = []
    for i, op in enumerate(ops):
        if op.kind != CONV or op.groups > 1 or op.cout % step == 0 or op.cout < step:
            continue
        narrower = replace(
            op, cout=op.cout // step * step, macs=op.macs * (op.cout // step * step) // op.cout
        )
        row = amounts([narrower], setting.batch, BYTES[setting.precision], found.kind.shape, profile.lanes)
        gain = (float(times[i].sum()) - float((row * np.exp(found.theta)).sum())) / whole
        if gain > 0.01:
            costs.append((gain, op))
    costs.sort(key=lambda c: -c[0])
    return [
        f"{op.name}: {op.cout} channels cost as much as {-(-op.cout // step) * step}; {op.cout // step * step} would save {gain:.0%}"
        for gain, op in costs[:3]
    ]


def _other_precision(graph: Graph, profile: Profile, setting: Setting, whole: float) -> list[str]:
    """What INT8 would gain, or that it gains nothing, where both were measured by the same people or by nobody."""
    import numpy as np

    if setting.precision == "int8" or profile.refusal(setting.runtime, "int8"):
        return []
    asked = Setting(setting.runtime, "int8", setting.batch, setting.threads, setting.mode)
    one, other = (find(profile, s.runtime, s.precision, s.threads, s.mode) for s in (setting, asked))
    if one.sources | other.sources and not one.sources & other.sources:
        return []  # two people's toolchains and nets: their ratio says nothing of INT8
    table, _ = _table(graph, kernels(graph, other.kind.shape.residual), profile, asked, other)
    times = table * np.exp(other.theta)
    gain = whole / float(times.sum())
    shares = times.sum(0) / float(times.sum())
    deviation = math.sqrt(2.0 * (float(shares @ other.covariance @ shares) + other.kind.noise**2))
    reach = math.exp(
        other.quantile * deviation
    )  # as if the two were wrong by themselves: they share what they share
    said = f"*{gain:.1f}x [{gain / reach:.1f}, {gain * reach:.1f}]"
    if gain < 1.1:
        return [f"INT8 gains hardly anything here: {said} as fast"]
    if gain / reach < 1.0:
        return [f"INT8 may be {said} as fast, if its accuracy holds: that it is faster at all is not sure"]
    return [f"INT8 would be {said} as fast, if its accuracy holds"]
