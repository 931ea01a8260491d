"""What every backend has.

``feed`` puts a prepared batch where the runtime reads it (not timed), ``call`` is the timed
call and returns when the device is done, ``fetch`` gives the output as numpy (not timed).
"""

from __future__ import annotations

import abc
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from ..inputs import Refused, to_input

Json = Dict[str, Any]


def dims(shape: Any) -> List[Optional[int]]:
    """A shape as whole numbers, None where a dimension is free."""
    return [int(d) if isinstance(d, int) and d >= 0 else None for d in shape]


class Backend(abc.ABC):
    """One runtime with at most one artifact loaded.

    Attributes:
        version: of the runtime.
        copies: what is copied inside and outside the timed call.
        clock: whose clock times a call: the harness's, or the runtime's own (:meth:`took`).
        exact: run INT8 in exact arithmetic, slowly: accuracy as on a CPU or GPU whose kernels do not saturate.
        alone: no other instance works at the same time.
        precision: of the artifact, where the runtime must be told.
        engines: a folder for what :meth:`load` builds and a later process can read again; empty: there is none.
        slow_load, slow_first: loading, or the first call, may take minutes; the engine is told meanwhile that the worker lives.
        shape: the input's shape, set before :meth:`set_batch` where the artifact leaves height and width free.
        own_loop: it makes the timed calls by itself (:meth:`stream`); nobody here can make one at a given moment.
        calls_per_sample: of how many calls each of its samples is the mean.
        notes: what a reader of the figures must know, filled in by load and set_batch.
    """

    version = ""
    copies = ""
    clock = "the harness's, around the call"
    exact = False
    alone = True
    own_loop = False
    calls_per_sample = 1
    precision = "fp32"
    engines = ""
    slow_load = False
    slow_first = False
    shape: Optional[List[Optional[int]]] = None

    def __init__(self) -> None:
        self.notes: List[str] = []

    @abc.abstractmethod
    def load(self, path: str, threads: int, device: str) -> Optional[float]:
        """Read the artifact; raise Refused when this runtime cannot run it there.

        Returns:
            Seconds by the runtime's own clock; None: the harness's counts.
        """

    @abc.abstractmethod
    def inputs(self) -> List[Json]:
        """name, shape (None: free), dtype and, for integers, scale and zero_point of each input."""

    @abc.abstractmethod
    def outputs(self) -> List[Json]:
        """The same of each output."""

    def set_batch(self, batch: int) -> None:
        """Make ready for batches of this size; raise Refused when the artifact cannot."""
        fixed = self.inputs()[0]["shape"][0]
        if fixed is not None and fixed != batch:
            raise Refused(f"the artifact has a fixed batch of {fixed}, not {batch}")

    def to_input(self, images: np.ndarray, preprocess: Json, spec: Json) -> Any:
        """8-bit images as :meth:`prepare` takes them; see :func:`..inputs.to_input`."""
        return to_input(images, preprocess, spec)

    def prepare(self, values: Any) -> Any:
        return values

    @abc.abstractmethod
    def feed(self, prepared: Any) -> None:
        """Put one prepared batch where :meth:`call` reads it; not timed."""

    @abc.abstractmethod
    def call(self) -> None:
        """Run the artifact once; this is what is timed."""

    def took(self) -> Optional[float]:
        """Seconds of the last call by the runtime's own clock, where its tools and its users in other languages do
        without the Python binding that :meth:`call` goes through; None: the harness's clock counts."""
        return None

    def stream(self, prepared: Sequence[Any]) -> Callable[[], Sequence[float]]:
        """Of a backend with its ``own_loop``: a function that makes some calls on these batches by turns; seconds of each."""
        raise NotImplementedError

    def whole(self, measurement: Any) -> bool:
        """Do the job as a whole, where the runtime is a program that times by itself; False: the harness does it."""
        return False

    @abc.abstractmethod
    def fetch(self) -> np.ndarray:
        """The output of the last call as an array; not timed."""

    def info(self) -> Json:
        """What the runtime says about itself after the first call: providers, threads, device memory."""
        return {}

    def others(self) -> List[int]:
        """Processes beside this one that work for it."""
        return []

    def weighed(self) -> List[int]:
        """Processes whose memory is the artifact's; empty: this one."""
        return []

    def close(self) -> None:  # noqa: B027 (most have nothing to end)
        """End what outlives this process."""

    def _sized(self, batch: int, own: List[Optional[int]]) -> List[Optional[int]]:
        """``own`` with the batch, and with the sides of :attr:`shape` where they are free."""
        given = self.shape if self.shape and len(self.shape) == len(own) else own
        return [batch, *[g if o is None else o for o, g in zip(own[1:], given[1:])]]
