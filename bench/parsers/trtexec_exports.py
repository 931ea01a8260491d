"""The files of trtexec's ``--exportTimes``, ``--exportProfile`` and ``--exportLayerInfo``.

Keys after NVIDIA/TensorRT, samples/common/sampleReporting.cpp. trtexec writes names into the profile without escaping them: a name with a
quote makes a file that is no JSON. ``problem`` then says so and everything else is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.parsers.text import from_json, of_json


@dataclass(frozen=True)
class Query:
    """One query, in ms. ``latency_ms`` is the sum of the other three, also of transfers that did not happen."""

    h2d_ms: float | None
    compute_ms: float | None
    d2h_ms: float | None
    latency_ms: float | None
    start_ms: float | None


@dataclass(frozen=True)
class Times:
    """All queries after the warm-up (with it before TensorRT 8.5)."""

    queries: tuple[Query, ...]
    unknown: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Layer:
    """Time of one layer: its sum over all iterations, its mean and median in one, its share."""

    name: str
    total_ms: float | None
    average_ms: float | None
    median_ms: float | None
    percent: float | None


@dataclass(frozen=True)
class Profile:
    """Times per layer of ``iterations`` passes."""

    iterations: int | None
    layers: tuple[Layer, ...]
    unknown: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Built:
    """A layer of the engine; the rest is empty unless built with ``--profilingVerbosity=detailed``."""

    name: str
    kind: str | None = None
    input_formats: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    tactic: str | None = None


@dataclass(frozen=True)
class LayerInfo:
    """The engine's layers and its inputs and outputs."""

    layers: tuple[Built, ...]
    bindings: tuple[str, ...]
    unknown: tuple[str, ...]
    problem: str


def _short(value: Any) -> str:
    return repr(value)[:200]


def parse_times(text: str) -> Times:
    """``--exportTimes=FILE``."""
    document, problem = from_json(text)
    entries = document if isinstance(document, list) else []
    problem = problem or ("" if isinstance(document, list) else "not a list")
    queries, unknown = [], []
    for entry in entries:
        if isinstance(entry, dict) and "computeMs" in entry:
            keys = ("h2dMs", "computeMs", "d2hMs", "latencyMs", "startComputeMs")
            queries.append(Query(*(of_json(entry.get(key)) for key in keys)))
        else:
            unknown.append(_short(entry))
    return Times(tuple(queries), tuple(unknown), problem)


def parse_profile(text: str) -> Profile:
    """``--exportProfile=FILE``."""
    document, problem = from_json(text)
    entries = document if isinstance(document, list) else []
    problem = problem or ("" if isinstance(document, list) else "not a list")
    iterations, layers, unknown = None, [], []
    for entry in entries:
        count = entry.get("count") if isinstance(entry, dict) else None
        if isinstance(count, int) and not isinstance(count, bool):
            iterations = count
        elif isinstance(entry, dict) and isinstance(entry.get("name"), str):
            keys = ("timeMs", "averageMs", "medianMs", "percentage")
            layers.append(Layer(entry["name"], *(of_json(entry.get(key)) for key in keys)))
        else:
            unknown.append(_short(entry))
    return Profile(iterations, tuple(layers), tuple(unknown), problem)


def _formats(tensors: Any) -> tuple[str, ...]:
    entries = tensors if isinstance(tensors, list) else []
    found = (entry.get("Format/Datatype") for entry in entries if isinstance(entry, dict))
    return tuple(value for value in found if isinstance(value, str))


def parse_layers(text: str) -> LayerInfo:
    """``--exportLayerInfo=FILE``."""
    document, problem = from_json(text)
    listed = document.get("Layers") if isinstance(document, dict) else None
    problem = problem or ("" if isinstance(listed, list) else "no list of Layers")
    layers, unknown = [], []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, str):
            layers.append(Built(entry))
        elif isinstance(entry, dict) and isinstance(entry.get("Name"), str):
            kind, tactic = entry.get("LayerType"), entry.get("TacticName")
            layers.append(
                Built(
                    entry["Name"],
                    kind if isinstance(kind, str) else None,
                    _formats(entry.get("Inputs")),
                    _formats(entry.get("Outputs")),
                    tactic if isinstance(tactic, str) else None,
                )
            )
        else:
            unknown.append(_short(entry))
    bound = document.get("Bindings") if isinstance(document, dict) else None
    bindings = tuple(b for b in bound if isinstance(b, str)) if isinstance(bound, list) else ()
    return LayerInfo(tuple(layers), bindings, tuple(unknown), problem)
