"""The shared frozen dataclasses: quantities, artifacts, steps, variants, cells, profiles.

Standard library only, so that plans, profiles and reports load without torch. Everything that
is written to a run or a JSON document goes through :func:`to_json`; everything read back goes
through the ``from_json`` of its class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
        """``{value, low, high, n, unit, provenance, method}`` or ``{value: null, reason}``."""
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
class DataOptions:
    """How a data set is read. ``image_size`` None keeps the native size (digits: 8, CIFAR: 32)."""

    spec: str = "digits"
    image_size: int | None = None
    resize: str = "stretch"
    calibration: int = 512
    root: str = "~/.cache/edgefit"


@dataclass(frozen=True)
class Training:
    """Options of one training run; shared by Train and Distill (defaults: small images, from scratch).

    With few images an epoch is a handful of steps: ``min_steps`` adds epochs until there are so many.
    """

    epochs: int = 20
    min_steps: int = 0
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    restarts: int = 1
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    clip_norm: float = 0.0
    patience: int = 0
    freeze_epochs: int = 0
    precision: str = "auto"
    augment: tuple[str, ...] = ("crop", "flip")
    mixup: float = 0.0
    cutmix: float = 0.0
    imbalance: str = "none"


@dataclass(frozen=True)
class TrainStep:
    """Train ``model`` from scratch or from ``weights`` (transfer learning); without a model, go on from the parent."""

    model: str = ""
    weights: str = ""
    training: Training = field(default_factory=Training)
    kind: Literal["train"] = "train"
    version: int = 1


@dataclass(frozen=True)
class DistillStep:
    """Train ``model`` (or go on from the parent, when empty) with the outputs of ``teacher`` as targets.

    Several teachers: the mean of their probabilities. ``loss`` is a name or a sum with factors, such as
    ``dkd + 0.5*at``; ``alpha`` weighs it against the loss on labels.
    """

    teacher: tuple[str, ...]
    model: str = ""
    loss: str = "kd"
    temperature: float = 4.0
    alpha: float = 0.7
    training: Training = field(default_factory=Training)
    kind: Literal["distill"] = "distill"
    version: int = 2


@dataclass(frozen=True)
class PruneStep:
    """Remove channels (and, with ``blocks``, whole residual blocks) until one target is met.

    The target is a share of the parent's: ``macs``, ``params``, ``size`` (of the fp32 file for ``runtime``) or ``latency``
    (measured on ``runtime``); 0 is no target, and macs = 0.5 where none is given. ``round_to`` 0 means the profile's: the
    channel multiple that the target's kernels want. ``steps`` prunes little by little, with ``step_epochs`` of
    ``training`` between; ``sparse_epochs`` trains with a group-sparse penalty first. ``sparsity`` is empty (structured),
    ``2:4`` or ``unstructured`` (then ``amount`` of the weights become zero, and no channel goes).
    """

    macs: float = 0.0
    params: float = 0.0
    size: float = 0.0
    latency: float = 0.0
    runtime: str = "onnxruntime"
    importance: str = "l1"
    scope: str = "global"
    round_to: int = 0
    blocks: bool = False
    steps: int = 1
    step_epochs: int = 0
    sparse_epochs: int = 0
    sparsity: str = ""
    amount: float = 0.5
    training: Training = field(default_factory=Training)
    kind: Literal["prune"] = "prune"
    version: int = 2

    @property
    def trains(self) -> bool:
        """Whether ``training`` is used at all."""
        return bool(self.sparse_epochs or (self.steps > 1 and self.step_epochs))


LADDER = ("channel", "equalize", "mse", "float", "qat")
"""The rungs of :class:`QuantizeStep`, cheapest first."""


@dataclass(frozen=True)
class QuantizeStep:
    """Store (and, where the runtime has kernels, compute) in ``precision``: int8, fp16 or bf16.

    The rest is of int8. ``activations`` static (calibrated) or dynamic; ``ranges`` minmax, percentile, entropy or mse;
    ``equalize`` cross-layer equalisation, ``correct_bias`` empirical bias correction; ``float_layers`` names that stay float;
    ``input`` float32 or int8 (LiteRT). With ``max_drop`` (a share of the validation images, 0.01 is one point) the rungs of
    ``ladder`` are tried in turn for each file until the loss against the float parent is within it; the last one trains
    ``qat_epochs``.
    """

    precision: str = "int8"
    activations: str = "static"
    ranges: str = "minmax"
    images: int = 256
    per_channel: bool = True
    equalize: bool = False
    correct_bias: bool = False
    float_layers: tuple[str, ...] = ()
    input: str = "float32"
    max_drop: float | None = None
    ladder: tuple[str, ...] = LADDER
    qat_epochs: int = 3
    kind: Literal["quantize"] = "quantize"
    version: int = 2


@dataclass(frozen=True)
class QatStep:
    """Train the parent with int8 arithmetic simulated, its own float outputs (or ``teacher``'s) as targets.

    ``scheme`` is that of the files it is made for: u8s8 (also LiteRT's), u8s8-7bit or s8s8. ``ranges`` and ``images`` find the
    first ranges, which are then learned. The ranges go into the files as they were trained: nothing is calibrated again.
    """

    teacher: tuple[str, ...] = ()
    scheme: str = "u8s8"
    ranges: str = "mse"
    images: int = 256
    loss: str = "kd"
    temperature: float = 4.0
    alpha: float = 0.7
    training: Training = field(
        default_factory=lambda: Training(
            epochs=3, optimizer="adamw", lr=3e-4, weight_decay=1e-4, warmup_epochs=0.2
        )
    )
    kind: Literal["qat"] = "qat"
    version: int = 1


Step = TrainStep | DistillStep | PruneStep | QuantizeStep | QatStep


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
    """One published fact about a device, with its source."""

    value: Any
    source: str
    confidence: str = "medium"


@dataclass(frozen=True)
class Profile:
    """What is known of a target. ``facts`` are published numbers; ``host`` says how to reach it."""

    name: str
    title: str
    kind: str
    runtimes: tuple[str, ...]
    host: str = ""
    int8_scheme: str = "u8s8"
    round_to: int = 8
    precisions: tuple[str, ...] = ("fp32", "int8")
    facts: dict[str, Fact] = field(default_factory=dict)
    power_modes: tuple[Json, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    notes: tuple[str, ...] = ()


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
    """

    runtime: str
    format: str
    scheme: str
    ratio: Callable[[ExportResult, ExportResult], Quantity]


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
