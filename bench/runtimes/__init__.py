"""What runs artifacts: one module per runtime, imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bench.runtimes.base import Runtime

RUNTIMES = {
    "torch": "bench.runtimes.torch_:RUNTIME",
    "onnxruntime": "bench.runtimes.onnxruntime_:RUNTIME",
    "litert": "bench.runtimes.litert:RUNTIME",
}


def names() -> tuple[str, ...]:
    """All runtimes, available or not."""
    return tuple(RUNTIMES)


def get(name: str) -> Runtime:
    """The runtime of that name; importing it loads nothing heavy.

    Raises:
        UsageError: no such runtime.
    """
    if name not in RUNTIMES:
        raise UsageError(f"No runtime is called {name!r}", todo=nearest(name, RUNTIMES))
    module, _, attribute = RUNTIMES[name].partition(":")
    return cast("Runtime", getattr(importlib.import_module(module), attribute))
