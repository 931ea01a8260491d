"""Where and in which precision a training runs."""

from __future__ import annotations

import contextlib
import platform
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


def device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bf16() -> bool:
    """Whether this CPU multiplies in bf16 (AVX512-BF16, AMX, ARM BF16). Emulated, it is slow."""
    import torch

    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:  # torch 2.9 cannot say, and fp32 is right everywhere
        return False
    capabilities = ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(name: str, where: torch.device) -> torch.dtype | None:
    """The autocast type of ``Training.precision`` on a device, or None for plain fp32.

    Raises:
        ConfigError: for fp16 on a CPU, where training in it is neither fast nor safe.
    """
    import torch

    if where.type == "cuda":
        ampere = torch.cuda.get_device_capability(where) >= (8, 0)
        auto: torch.dtype | None = torch.bfloat16 if ampere else torch.float16
    else:
        auto = torch.bfloat16 if native_bf16() else None
        if name == "fp16":
            raise ConfigError("Training in fp16 needs a CUDA device", todo='Use precision = "auto"')
    return {"auto": auto, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(where: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision in ``dtype``, or nothing."""
    import torch

    return torch.autocast(where.type, dtype=dtype) if dtype is not None else contextlib.nullcontext()


def memory_format(module: nn.Module) -> torch.memory_format:
    """Channels last, which is faster, but not where that gives wrong gradients.

    oneDNN's channels-last backward pass of a 1 x 1 convolution with a stride and fewer than 8 input
    channels reads outside its buffers (seen with torch 2.14.1 on AVX2: weight gradients off by more
    than their size, differently each time, and a corrupted heap). Such layers come from pruning
    narrow nets.
    """
    import torch
    from torch import nn

    def wrong(layer: nn.Module) -> bool:
        if not isinstance(layer, nn.Conv2d) or layer.in_channels >= 8:
            return False
        return layer.kernel_size == (1, 1) and max(layer.stride) > 1

    return torch.contiguous_format if any(map(wrong, module.modules())) else torch.channels_last
