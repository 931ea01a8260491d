"""Reading weights made elsewhere, without ever running code from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

NESTED = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
PREFIXES = ("module.", "_orig_mod.", "model.")
CONVERT = (
    "In the environment that made it run: torch.save(model.state_dict(), 'weights.pt'), "
    "or better safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), and use that file"
)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a torch checkpoint that holds nothing but data.

    Raises:
        ModelError: when the file is absent, damaged, of another kind, or needs code to be read.
    """
    if not path.is_file():
        raise ModelError(f"The weights {path} do not exist", todo="Give a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt", ".tar"):
        raise ModelError(
            f"Weights cannot be read from {path.name}",
            f"a {path.suffix or 'nameless'} file",
            "Give .safetensors, .pt or .pth",
        )
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler fails in many ways on bytes that are no pickle
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed or "Can only" in str(error):
            raise ModelError(
                f"{path} is a pickle that would run code when it is read, so it is refused",
                f"it needs {needed[1]}" if needed else "objects other than tensors",
                CONVERT,
            ) from error
        raise ModelError(f"{path} is damaged", _first_line(error), "Copy or make it again") from error
    return _tensors(state, path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file; ModelError when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged", str(error), "Copy or make it again") from error


def _tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict inside a checkpoint and strip the prefixes that wrappers add."""
    import torch

    for key in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    tensors = (
        {k: v for k, v in state.items() if isinstance(v, torch.Tensor)} if isinstance(state, Mapping) else {}
    )
    if not tensors:
        found = (
            f"keys {', '.join(map(str, list(state)[:5]))}"
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise ModelError(f"{path} holds no weights", found, "Save model.state_dict()")
    return tensors


def put(module: nn.Module, tensors: Mapping[str, Tensor], head: str, source: str) -> tuple[str, ...]:
    """Copy ``tensors`` into ``module``; a classifier (``head``) of another size is left out, with a note.

    Raises:
        ModelError: naming the tensors that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    tensors = _without_prefix(dict(tensors), own)
    in_head = tuple(k for k in own if k.startswith(f"{head}."))
    other = [k for k in in_head if k not in tensors or tensors[k].shape != own[k].shape]
    for key in in_head if other else ():
        tensors.pop(key, None)
    ignored = {k for k in own if k.endswith("num_batches_tracked")} | (set(in_head) if other else set())
    wrong = [
        f"{k}: {tuple(tensors[k].shape)}, the model has {tuple(own[k].shape)}"
        for k in own
        if k in tensors and tensors[k].shape != own[k].shape
    ]
    missing = [k for k in own if k not in tensors and k not in ignored]
    unknown = [k for k in tensors if k not in own and not k.endswith("num_batches_tracked")]
    for problem, names in (("other shapes", wrong), ("missing", missing), ("not in the model", unknown)):
        if names:
            raise ModelError(
                f"The weights {source} do not fit the model",
                f"{len(names)} tensors {problem}: {'; '.join(names[:5])}{'; ...' if len(names) > 5 else ''}",
                "Check that --model names the net they were trained with",
            )
    module.load_state_dict(tensors, strict=False)
    return (f"the classifier {head} of {source} has another size and starts anew",) if other else ()


def _without_prefix(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in tensors) and not all(k in own for k in tensors):
            tensors = {k[len(prefix) :]: v for k, v in tensors.items()}
    return tensors
