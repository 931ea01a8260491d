"""What stops a training early: it lags behind the front, or the time is up by more than the bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.errors import StepError
from bench.tune.maker import Result
from bench.types import Json, Notify

LOOK_FROM = 1 / 3
"""Share of a training before which its curve says nothing."""


class Hopeless(StepError):
    """A training that lags behind what the front reached with a net of no more operations."""


class TimeIsUp(StepError):
    """A trial that would exceed the time by more than the bound."""


def lags(
    share: float, accuracy: float, weight: int | None, front: Sequence[Result], margin: float
) -> Result | None:
    """The member of the front, if any, that a training at ``share`` of its epochs lags behind by ``margin``.

    Compared are only nets of no more operations (``weight``). They stand in for the cost on the runtime,
    which is not known before the net is trained: untrained nets are not timed, since some runtimes fold their
    zeros away.
    """
    if weight is None or not LOOK_FROM - 1e-9 <= share < 1:
        return None
    for other in front:
        before = [value for at, value in other.curve if at <= share + 1e-9]
        if other.weight is not None and other.weight <= weight and before and accuracy < before[-1] - margin:
            return other
    return None


class Watch:
    """A ``notify`` that passes events on and stops a training by raising (``stopped``) from it.

    The engine records the variant as failed, so that its checkpoint is never taken for a finished net.

    Args:
        net: the variant whose training is compared with ``front``.
        weight: its operations, once they are known.
        over: whether the time is up by more than the bound.
    """

    def __init__(
        self, notify: Notify, net: str, *, weight: Callable[[], int | None], front: Sequence[Result],
        margin: float, over: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.notify, self.net, self.weight, self.front = notify, net, weight, front
        self.margin, self.over = margin, over
        self.stopped: StepError | None = None
        self._said = self._lost = False

    def __call__(self, event: str, info: Json) -> None:
        if event == "failed":  # what needs a failed variant fails too: said once
            if not self._said and self.stopped is None:
                self.notify(event, info)
            self._said = self._lost = True
            return
        if event == "item" and info["done"] and self._lost:
            self._lost, info = False, info | {"skipped": True}  # it was not made
        self.notify(event, info)
        if event in ("train", "epoch", "log") and self.over():  # "log": of a pruning, after each candidate
            self._stop(
                TimeIsUp("the time of the search is up", todo="The same command with more --time goes on")
            )
        if event == "epoch" and info["variant"] == self.net:
            self._compare(info["epoch"], info["epochs"], info["val_accuracy"])

    def _compare(self, epoch: int, epochs: int, accuracy: float) -> None:
        other = lags(epoch / epochs, accuracy, self.weight(), self.front, self.margin)
        if other is not None:
            self._stop(
                Hopeless(
                    f"stopped after epoch {epoch} of {epochs}: validation accuracy {accuracy:.3f} is "
                    f"more than {self.margin:g} below what {other.variant} had by then, with no more "
                    "operations"
                )
            )

    def _stop(self, error: StepError) -> None:
        self.stopped = error
        raise error
