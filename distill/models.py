"""Models: built by name, fed with weights, and kept in one ``.safetensors`` file that describes itself."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import MissingError, ModelError, nearest
from bench.types import Json, Preprocess, to_json
from distill import nets, weights
from distill.widths import Widths, apply_widths, layer_widths, remove_modules

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1
PRETRAINED = "pretrained"


@dataclass(frozen=True)
class ModelSpec:
    """What a model file says of itself.

    ``widths``: those unlike ``arch``'s (:data:`distill.widths.Widths`); ``removed``: modules of ``arch`` that
    are gone (their input is their output); ``quantization``: what training with simulated int8 found, for the
    exporters; ``sparsity``: ``2:4`` or ``unstructured`` when weights are zero on purpose, which training
    keeps so; ``held_out``: the images that its training did not see (:attr:`distill.data.DataIndex.held_out`), where
    it was trained here.
    """

    arch: str
    classes: int
    channels: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    widths: Widths = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    quantization: Json = field(default_factory=dict)
    sparsity: str = ""
    held_out: str = ""


def build(arch: str, classes: int, channels: int, weights: str = "") -> nn.Module:
    """A model for ``channels`` x height x width images that answers ``classes`` logits.

    ``arch`` is ``edgefit:NAME``, ``timm:NAME``, ``torchvision:NAME`` or ``py:file.py:factory``;
    ``weights`` a file (see :func:`load_weights`) or ``pretrained`` for the library's own.

    Raises:
        ModelError: for unknown names and for weights that do not fit.
    """
    return build_with_notes(arch, classes, channels, weights)[0]


def build_with_notes(
    arch: str, classes: int, channels: int, weights: str = ""
) -> tuple[nn.Module, tuple[str, ...]]:
    """:func:`build`, and what should be known about the result (a classifier that starts anew)."""
    pretrained = weights == PRETRAINED
    kind, _, name = arch.partition(":")
    if not name or kind not in ("edgefit", "timm", "torchvision", "py"):
        others = "Others are timm:NAME, torchvision:NAME and py:file.py:factory"
        raise ModelError(f"There is no model {arch!r}", todo=f"{_whose(arch)} {others}")
    if pretrained and kind in ("edgefit", "py"):
        raise ModelError(f"{arch} has no pretrained weights of its own", todo="Give a file with --weights")
    notes: tuple[str, ...] = ()
    if kind == "edgefit":
        module = nets.build(name, classes, channels)
    elif kind == "timm":
        module = _timm(name, classes, channels, pretrained)
    elif kind == "torchvision":
        module, notes = _torchvision(name, classes, channels, pretrained)
    else:
        module = _factory(name, classes, channels)
    if weights and not pretrained:
        notes = load_weights(module, Path(weights).expanduser(), classes)
    return module, notes


def load_weights(module: nn.Module, path: Path, classes: int) -> tuple[str, ...]:
    """Load a file of tensors into ``module``; a classifier of another size is dropped, and the notes say so.

    Raises:
        ModelError: when the file cannot be read, needs code, or does not fit.
    """
    return weights.put(module, weights.read(path), head(module, classes), path.name)


def head(module: nn.Module, classes: int) -> str:
    """The classifier's name: that of the last linear layer or convolution with ``classes`` outputs, or ""."""
    from torch import nn

    names = [
        name
        for name, layer in module.named_modules()
        if (isinstance(layer, nn.Linear) and layer.out_features == classes)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels == classes)
    ]
    return names[-1] if names else ""


def _timm(name: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingError(f"The model timm:{name} needs timm", todo="pip install timm") from error
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}", todo=_nearest_of_many(name, timm.list_models()))
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=channels)
    except Exception as error:  # the hub's client has errors of its own, and so has each net
        raise _not_built(f"timm:{name}", pretrained, error) from error


def _nearest_of_many(name: str, known: list[str]) -> str:
    """Like :func:`bench.errors.nearest`, for libraries with too many names to list."""
    return nearest(name, known, f"It has {len(known)} others; see its documentation")


def _whose(name: str) -> str:
    """What a name without its library may have meant: the library that has it, else our own nets nearest to it."""
    with contextlib.suppress(ImportError):
        import timm

        if timm.is_model(name):
            return f"Did you mean timm:{name}?"
    with contextlib.suppress(ImportError):
        import torchvision

        if name in torchvision.models.list_models(module=torchvision.models):
            return f"Did you mean torchvision:{name}?"
    return nearest(name, [f"edgefit:{n}" for n in nets.NAMES])


def _torchvision(
    name: str, classes: int, channels: int, pretrained: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    try:
        import torchvision
    except ImportError as error:
        raise MissingError(f"torchvision:{name} needs torchvision", todo="pip install torchvision") from error
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"torchvision has no classifier {name!r}", todo=_nearest_of_many(name, known))
    extra: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if extra:
        extra["init_weights"] = True
    try:
        module = torchvision.models.get_model(name, weights=None, num_classes=classes, **extra)
        state = torchvision.models.get_model_weights(name).DEFAULT.get_state_dict() if pretrained else {}
    except Exception as error:  # no network, or a net with demands of its own
        raise _not_built(f"torchvision:{name}", pretrained, error) from error
    if channels != 3:
        first = _replace_first_convolution(module, channels)
        if pretrained:  # a grey image is the same in red, green and blue
            state[first] = state[first].sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    state = {k: v for k, v in state.items() if not (extra and k.startswith(("aux", "AuxLogits")))}
    notes = weights.put(module, state, head(module, classes), f"torchvision's {name}") if pretrained else ()
    return module, notes


def _not_built(arch: str, pretrained: bool, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if pretrained:
        return ModelError(
            f"The pretrained weights of {arch} could not be loaded",
            reason,
            "They are downloaded by the library: try with a network, or give a file with --weights",
        )
    return ModelError(f"{arch} could not be built", reason, "Try another model, or images of three channels")


def _replace_first_convolution(module: nn.Module, channels: int) -> str:
    """Make the first convolution take ``channels``; returns the name of its weight."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            parent, _, attribute = name.rpartition(".")
            old: Any = layer
            new = nn.Conv2d(
                channels,
                old.out_channels,
                old.kernel_size,
                old.stride,
                old.padding,
                bias=old.bias is not None,
            )
            setattr(module.get_submodule(parent), attribute, new)
            return f"{name}.weight"
    raise ModelError(
        "The model has no convolution that could take other channels",
        f"{channels} channels",
        "Use another model",
    )


def _factory(name: str, classes: int, channels: int) -> nn.Module:
    """Call ``factory(num_classes=, in_channels=)`` of a Python file, with the arguments it accepts."""
    from torch import nn

    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not file or not function or not path.is_file():
        raise ModelError(
            f"There is no model file for py:{name}", str(path), "Write py:path/to/file.py:factory"
        )
    found = importlib.util.spec_from_file_location(f"edgefit_model_{path.stem}", path)
    if found is None or found.loader is None:
        raise ModelError(f"{path} is not a Python file", todo="Write py:path/to/file.py:factory")
    source = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(source)
        factory = getattr(source, function, None)
        if not callable(factory):
            functions = [n for n, v in vars(source).items() if callable(v) and not n.startswith("_")]
            raise ModelError(f"{path} has no factory {function}", todo=nearest(function, functions))
        accepted = inspect.signature(factory).parameters
        every = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        offered = {"num_classes": classes, "in_channels": channels}
        module = factory(**{k: v for k, v in offered.items() if every or k in accepted})
    except ModelError:
        raise
    except Exception as error:  # the person's own code may raise anything
        raise ModelError(
            f"py:{name} could not be built", f"{type(error).__name__}: {error}", "Repair it"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"py:{name} did not make a torch.nn.Module",
            type(module).__name__,
            "Let the factory return the net itself",
        )
    return module


def changed_widths(module: nn.Module, arch: str, classes: int, channels: int) -> Widths:
    """The widths of ``module``'s layers that differ from those of a fresh ``arch``."""
    original = layer_widths(_fresh(arch, classes, channels))
    return {k: v for k, v in layer_widths(module).items() if original.get(k) != v}


def _fresh(arch: str, classes: int, channels: int) -> nn.Module:
    """A net whose initial weights do not matter: leaves the global random numbers as they were."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return build(arch, classes, channels)


def save(module: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the model as one ``.safetensors`` file with ``spec`` in its metadata (atomically).

    The widths are taken from the module itself, so a pruned net needs nothing else.
    """
    from safetensors.torch import save as to_bytes

    widths = changed_widths(module, spec.arch, spec.classes, spec.channels)
    text = json.dumps({"schema": SCHEMA, **to_json(replace(spec, widths=widths))}, sort_keys=True)
    # Clones: safetensors refuses tensors that share memory, and channels_last is not a file's business.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    # Not save_file: it makes files that only their owner may read.
    temporary.write_bytes(to_bytes(state, metadata={"edgefit": text}))
    temporary.replace(path)


def read_spec(path: Path) -> ModelSpec:
    """The description inside a model file, without its tensors and without torch.

    Raises:
        ModelError: when the file is absent, damaged, or was not written by :func:`save`.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("its header is too long")
            metadata = json.loads(file.read(length)).get("__metadata__", {})
        if "edgefit" not in metadata:
            raise ModelError(
                f"{path} is a file of weights, not a model of ours",
                todo="Name its net with --model and give it with --weights",
            )
        data = json.loads(metadata["edgefit"])
        return ModelSpec(
            data["arch"], data["classes"], data["channels"], tuple(data["labels"]),
            Preprocess.from_json(data["preprocess"]), data["widths"], tuple(data.get("removed", ())),
            data.get("quantization", {}), data.get("sparsity", ""), data.get("held_out", ""),
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ModelError(f"The model {path} does not exist", todo="Check the path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"The model file {path} is damaged", str(error), "Make it again") from error


def described(weights: str) -> ModelSpec | None:
    """The description that a file of weights carries, where it is a model of ours."""
    try:
        return read_spec(Path(weights).expanduser()) if weights.endswith(".safetensors") else None
    except ModelError:
        return None


def load(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Rebuild a model from its file, on the CPU, in eval mode: the net at the stored widths.

    Raises:
        ModelError: when the file is damaged or its net can no longer be built.
    """
    spec = read_spec(path)
    module = _fresh(spec.arch, spec.classes, spec.channels)
    remove_modules(module, spec.removed)
    apply_widths(module, spec.widths)
    try:
        module.load_state_dict(weights.read_safetensors(path))
    except RuntimeError as error:
        raise ModelError(
            f"The tensors of {path} do not fit {spec.arch}",
            " ".join(str(error).split())[:300],
            "Make it again",
        ) from error
    return module.eval(), spec


def count(module: nn.Module, preprocess: Preprocess) -> tuple[int, int]:
    """(multiply-accumulates of one image, parameters); half of what PyTorch's FLOP counter says.

    Raises:
        ModelError: when the model does not take such images or answer one row of logits.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    was_training = module.training
    channels, height, width = preprocess.channels, preprocess.height, preprocess.width
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    image = torch.zeros(1, channels, height, width, device=device)
    module.eval()
    try:
        # The counter knows no fused attention: as plain products of matrices it is counted like the rest.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            logits = module(image)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ModelError(
            f"The model cannot take images of {channels} x {height} x {width}",
            " ".join(str(error).split())[:300],
            "Choose another image_size or model",
        ) from error
    finally:
        module.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(
            "The model must answer logits of shape (images, classes)",
            str(shape),
            "Give a model that answers its logits alone, or a py: factory that does",
        )
    return counter.get_total_flops() // 2, sum(p.numel() for p in module.parameters())
