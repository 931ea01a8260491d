"""The shared frozen dataclasses: quantities, artifacts, steps, variants, cells, profiles.

Standard library only, so that plans, profiles and reports load without torch. Everything that
is written to a run or a JSON document goes through :func:`to_json`; everything read back goes
through the ``from_json`` of its class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.steps import DistillStep, QatStep, QuantizeStep, Step

Provenance = Literal["measured", "estimated", "predicted"]
Status = Literal["ok", "failed", "skipped"]
Json = dict[str, Any]

SCHEMA = 1
"""Version of the records in a run and of every JSON document we print."""


def to_json(value: Any) -> Any:
    """Turn dataclasses (recursively) into plain dicts and lists; leave the rest alone."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Quantity):
            return value.to_json()
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def digest(value: Any) -> str:
    """16 hex characters that identify a JSON-able value, independent of key order."""
    text = json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Quantity:
    """A number that says how it was obtained, or why there is none.

    ``low``/``high`` bound the stated interval (95% unless ``method`` says otherwise), ``n`` is the
    sample count. Missing is ``value=None`` with a ``reason``; it is never 0.
    """

    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    provenance: Provenance | None = None
    method: str = ""
    reason: str = ""

    def to_json(self) -> Json:
        """``{value, low, high, n, unit, provenance, method}`` or ``{value: null, unit, reason}``."""
        if self.value is None:
            return {"value": None, "unit": self.unit, "reason": self.reason or "not recorded"}
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "unit": self.unit,
            "provenance": self.provenance,
            "method": self.method,
        }

    @classmethod
    def from_json(cls, data: Json) -> Quantity:
        """The inverse of :meth:`to_json`; unknown keys are ignored so that newer files still read."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(
            **{k: v for k, v in data.items() if k in names and v is not None} | {"value": data["value"]}
        )

    @classmethod
    def missing(cls, reason: str, unit: str = "") -> Quantity:
        """A quantity nobody has, and why."""
        return cls(value=None, unit=unit, reason=reason)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. ``None`` in ``shape`` is a free dimension; ``layout`` is NCHW, NHWC or NC.

    An integer ``dtype`` says what its figures mean: ``value = scale * (integer - zero_point)``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    layout: str = "NCHW"
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Preprocess:
    """From a decoded 8-bit image to the model's input: ``(resize(pixels) / 255 - mean) / std``.

    ``resize`` is ``stretch`` (both sides to height x width) or ``crop`` (shorter side, then the centre).
    Grey images have one channel; ``mean`` and ``std`` have one value per channel.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "stretch"
    interpolation: str = "bilinear"

    @classmethod
    def from_json(cls, data: Json) -> Preprocess:
        return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})


@dataclass(frozen=True)
class Artifact:
    """One immutable file, addressed by content, with everything needed to feed it."""

    format: str
    sha256: str
    size_bytes: int
    filename: str
    precision: str = "fp32"
    scheme: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Json) -> Artifact:
        def specs(items: list[Json]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(**{**i, "shape": tuple(i["shape"])}) for i in items)

        pre = data.get("preprocess")
        return cls(
            **{
                **data,
                "inputs": specs(data.get("inputs", [])),
                "outputs": specs(data.get("outputs", [])),
                "preprocess": Preprocess.from_json(pre) if pre else None,
                "labels": tuple(data.get("labels", ())),
            }
        )


@dataclass(frozen=True)
class Variant:
    """A named node of the recipe's graph. ``parent`` is another variant's name, or empty for a root.

    ``intermediate`` variants are made but not measured (a pruned net before its recovery). ``alone`` names the variant
    that is trained as this one but without a teacher.
    """

    name: str
    step: Step
    parent: str = ""
    intermediate: bool = False
    alone: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the variants that must exist first."""
        teachers = self.step.teacher if isinstance(self.step, (DistillStep, QatStep)) else ()
        return tuple(dict.fromkeys(n for n in (self.parent, *teachers) if n))

    @property
    def precision(self) -> str:
        if isinstance(self.step, QatStep):
            return "int8"
        return self.step.precision if isinstance(self.step, QuantizeStep) else "fp32"


@dataclass(frozen=True)
class Protocol:
    """How a cell is timed: in ``processes`` fresh processes, which share ``max_seconds`` of timing.

    Each stops when the interval of its median is narrow, or at the cap. ``cpus`` pins the workers to these CPUs;
    empty: wherever the system puts them.
    """

    processes: int = 5
    half_width: float = 0.01
    min_runs: int = 50
    max_seconds: float = 3.0
    warmup_seconds: float = 0.3
    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    timeout_seconds: float = 120.0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fact:
    """One published fact about a device, with its source. ``note`` qualifies it, or says what another source has."""

    value: Any
    source: str
    confidence: str = "medium"
    note: str = ""


@dataclass(frozen=True)
class Profile:
    """What is known of a target. ``facts`` are published numbers; ``host`` says how to reach it: an address, or its kind only.

    ``unsupported`` says why it cannot do something: the keys are a precision, a runtime, ``RUNTIME-PRECISION`` or
    ``RUNTIME-MAJOR_VERSION``. ``calibration`` and ``power`` are what measurements on the device gave, for predictions
    (:mod:`hardware_profiles.prediction.coefficients`, :mod:`hardware_profiles.prediction.energy`).
    """

    name: str
    title: str
    kind: str
    runtimes: tuple[str, ...]
    host: str = ""
    int8_scheme: str = "u8s8"
    round_to: int = 0
    precisions: tuple[str, ...] = ("fp32", "int8")
    facts: dict[str, Fact] = field(default_factory=dict)
    power_modes: tuple[Json, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    unsupported: dict[str, str] = field(default_factory=dict)
    calibration: tuple[Json, ...] = ()
    power: tuple[Json, ...] = ()

    @property
    def lanes(self) -> int:
        """Channels that predictions take as computed together."""
        return self.round_to or 8

    def kernels(self, precisions: Collection[str]) -> int:
        """Channels that its kernels take at a time in any of these precisions; more of a net's widths than a multiple is waste.

        Tensor cores: blocks of 8 (FP16) and 32 (INT8, TensorRT's format CHW32); CPUs: 16 (floats of AVX-512, int8 of NEON).
        """
        if self.round_to:
            return self.round_to
        if "tensorrt" in self.runtimes:
            return 32 if "int8" in precisions else 8
        return 16

    def refusal(self, runtime: str, precision: str, version: str = "") -> str:
        """Why the device does not run a precision on a runtime (of that version, where it is known); empty when it does."""
        keys = [f"{runtime}-{precision}", precision, runtime]
        keys += [f"{runtime}-{version.partition('.')[0]}"] if version else []
        for key in keys:
            if key in self.unsupported:
                return f"{self.name}: {self.unsupported[key]}"
        return "" if precision in self.precisions else f"{self.name} has no {precision} support"


@dataclass(frozen=True)
class Cell:
    """One square of the matrix. ``host`` is ``local`` or the name of a device profile."""

    variant: str
    runtime: str
    precision: str
    batch: int = 1
    threads: int = 1
    host: str = "local"

    @property
    def label(self) -> str:
        return f"{self.variant} / {self.runtime} / {self.precision} / batch {self.batch} / {self.threads} thr / {self.host}"


Notify = Callable[[str, Json], None]
"""How long work reports progress: ``notify(event, details)``; never prints by itself."""


@dataclass(frozen=True)
class ExportResult:
    """An artifact just written to ``path``; ``parity`` says how it agrees with its parent on real images.

    ``ladder`` has the rungs that were tried: rung, drop (with its interval), seconds, layers that went back to float.
    """

    path: Path
    artifact: Artifact
    parity: Json
    notes: tuple[str, ...] = ()
    ladder: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Target:
    """A runtime on this machine that a step may time on.

    ``format`` and ``scheme`` are what it takes of a float and of an int8 export. ``ratio(base, head)`` is the latency of ``head``
    over that of ``base``, both in fresh processes timed by turns: 0.5 is twice as fast, with an interval over ``n`` pairs.
    ``foretold(net, (channels, height, width))`` is what a predictor says of a torch module, in the same unit for all nets, to
    guess a ratio before it is timed; None where it cannot tell. ``machine`` identifies the hardware the ratios are of.
    """

    runtime: str
    format: str
    scheme: str
    ratio: Callable[[ExportResult, ExportResult], Quantity]
    machine: str = ""
    foretold: Callable[[Any, tuple[int, int, int]], float | None] = lambda net, shape: None


@dataclass(frozen=True)
class StepContext:
    """What the engine hands to a step that makes a model.

    ``data()`` loads the data set (``distill.data.Dataset``) on first use. ``parent`` and
    ``teachers`` are model files (``.safetensors``). ``workdir`` survives a crash and is the
    place for checkpoints; the engine deletes it when the step is done. ``target(runtime)`` lends a runtime to time
    on; it raises MissingError where that is not here.
    """

    variant: str
    seed: int
    data: Callable[[], Any]
    parent: Path | None
    teachers: tuple[Path, ...]
    workdir: Path
    notify: Notify
    target: Callable[[str], Target] | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step made: a model file in its ``workdir`` and what is worth recording about it.

    ``history`` rows: epoch, lr, train_loss, val_loss, val_accuracy, val_balanced_accuracy, seconds, images_per_second.
    """

    model: Path
    macs: int
    params: int
    history: tuple[Json, ...] = ()
    best_epoch: int | None = None
    notes: tuple[str, ...] = ()
