"""The steps of a recipe as frozen configs: what each is told, and nothing of how it is done. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataOptions:
    """How a data set is read. ``image_size`` None keeps the native size (digits: 8, CIFAR: 32).

    ``mean`` and ``std`` of each channel (of pixels from 0 to 1) normalise the images; empty: those of the training images.
    Weights that are imported want what they were trained with.
    """

    spec: str = "digits"
    image_size: int | None = None
    resize: str = "stretch"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
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

    @property
    def has_weights(self) -> bool:
        """Whether it begins with weights that know something, and so may train for no epoch at all."""
        return bool(self.weights) or not self.model or self.model.endswith(".safetensors")


@dataclass(frozen=True)
class DistillStep:
    """Train ``model`` (or go on from the parent, when empty) with the outputs of ``teacher`` as targets.

    Several teachers: the mean of their probabilities. ``loss`` is a name or a sum with factors, such as
    ``dkd + 0.5*at``; ``alpha`` weighs it against the loss on labels. With ``inherit`` a fresh student starts from
    those weights of the (first) teacher that have its names and shapes.
    """

    teacher: tuple[str, ...]
    model: str = ""
    loss: str = "kd"
    temperature: float = 4.0
    alpha: float = 0.7
    training: Training = field(default_factory=Training)
    inherit: bool = False
    kind: Literal["distill"] = "distill"
    version: int = 2


@dataclass(frozen=True)
class PruneStep:
    """Remove channels (and, with ``blocks``, whole residual blocks) until one target is met.

    The target is a share of the parent's: ``macs``, ``params``, ``size`` (of the fp32 file, counted by its parameters) or
    ``latency`` (measured on ``runtime``); 0 is no target, and macs = 0.5 where none is given. ``round_to`` is what widths stay a
    multiple of; 0 takes the channels that the target's ``kernels`` take at a time (the plan fills them in), or half of that
    and so on down to 8 where that comes closer to the target. ``steps`` prunes little by little, with ``step_epochs`` of
    ``training`` between; ``sparse_epochs`` trains with a group-sparse penalty first. With ``blocks``, ``trial_steps`` trains
    each candidate for so many steps before the best is chosen. ``sparsity`` is empty (structured), ``2:4`` or
    ``unstructured`` (then ``amount`` of the weights become zero, and no channel goes).
    """

    macs: float = 0.0
    params: float = 0.0
    size: float = 0.0
    latency: float = 0.0
    runtime: str = "onnxruntime"
    importance: str = "l1"
    scope: str = "global"
    round_to: int = 0
    kernels: int = 16
    blocks: bool = False
    steps: int = 1
    step_epochs: int = 0
    sparse_epochs: int = 0
    trial_steps: int = 0
    sparsity: str = ""
    amount: float = 0.5
    training: Training = field(default_factory=Training)
    kind: Literal["prune"] = "prune"
    version: int = 4

    @property
    def trains(self) -> bool:
        """Whether ``training`` is used at all; :data:`NOT_IN_PRUNING` of it never is."""
        return bool(self.sparse_epochs or self.trial_steps or (self.steps > 1 and self.step_epochs))


NOT_IN_PRUNING = ("epochs", "min_steps", "patience", "freeze_epochs")
"""Options of :class:`Training` that a pruning does not use: its own say how long it trains."""
FROM_TARGET = ("kernels",)
"""Fields of :class:`PruneStep` that the plan fills in, and no recipe."""


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

    ``scheme`` is that of the files it is made for: u8s8, u8s8-7bit (both also LiteRT's) or s8s8; empty is the target's.
    ``ranges`` and ``images`` find the first ranges, which are then learned and go into the files as they were trained:
    nothing is calibrated again. What ``training`` says here goes before a recipe's table ``[training]``, which is for nets
    from scratch; the variant's own options go before both.
    """

    teacher: tuple[str, ...] = ()
    scheme: str = ""
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
    version: int = 2


Step = TrainStep | DistillStep | PruneStep | QuantizeStep | QatStep
