"""Post-training quantization, dearer rung by rung, until the accuracy lost is within a budget.

Every rung is measured on all validation images, on the runtime of its format, against the float file's
answers to the same images. A rung builds on the best one before it; histograms of the calibration images are
collected once for each model.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import EdgefitError, StepError
from bench.stats import paired_accuracy
from bench.steps import QuantizeStep
from bench.types import ExportResult, Json, Notify, Quantity, Target
from compress import parity
from compress.int8 import sensitivity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.quantize import FloatFile

IMAGES = 64
"""Validation images by which layers are ranked."""
MOST = 0.5
"""Of all layers that may go back to float."""
METHOD = (
    "float accuracy less int8 accuracy on the same validation images, Agresti and Min's interval for pairs"
)


@dataclass(frozen=True)
class Makers:
    """What makes the files of the rungs.

    ``plain`` is the float parent. ``improved(step, path)`` writes the float file of the equalised and
    corrected model to ``path``; ``described(path, precision)`` tells a runtime how to feed a file;
    ``trained(path)`` writes the int8 file of the last rung, None where nothing trains; ``quietly`` runs what
    prints.
    """

    plain: FloatFile
    improved: Callable[[QuantizeStep, Path], tuple[FloatFile, tuple[str, ...]]]
    described: Callable[[Path, str], ExportResult]
    trained: Callable[[Path], tuple[str, ...]] | None
    quietly: Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True)
class Candidate:
    """An int8 file, how it was made, and what it loses (positive: worse than float)."""

    path: Path
    step: QuantizeStep
    source: FloatFile | None
    notes: tuple[str, ...]
    drop: float
    interval: tuple[float, float]
    accuracy: float
    culprits: tuple[str, ...] = ()


@dataclass
class Ladder:
    """One climb for one file. ``target`` times what layers back in float cost; None: that is not checked."""

    step: QuantizeStep
    data: Any
    makers: Makers
    target: Target | None
    notify: Notify
    best: Candidate | None = None
    trail: list[Json] = field(default_factory=list)

    def climb(self, target: Path) -> tuple[tuple[str, ...], tuple[Json, ...]]:
        """Write the file of the first rung that holds, or of the best one; returns (notes, rungs tried).

        Raises:
            StepError: when no rung made a file.
        """
        place = target.parent / "ladder"
        place.mkdir(exist_ok=True)
        held = ""
        for rung in self.step.ladder:
            self.notify("phase", {"name": f"rung {rung}"})
            start = time.monotonic()
            row, candidate = self._try(rung, place / f"{rung}{target.suffix}")
            row["seconds"] = round(time.monotonic() - start, 2)
            self.trail.append(row)
            self.notify("log", {"text": sentence(row)})
            if candidate and (self.best is None or row["held"] or candidate.drop < self.best.drop):
                self.best = candidate
            if row["held"]:
                held = rung
                break
        if self.best is None:
            raise StepError(
                "No rung of the ladder made a file",
                "; ".join(sentence(row) for row in self.trail),
                "Keep this model in float, or give the ladder other rungs",
            )
        shutil.copyfile(self.best.path, target)
        shutil.rmtree(place)
        return (*self._verdict(held), *self.best.notes), tuple(self.trail)

    def _try(self, rung: str, path: Path) -> tuple[Json, Candidate | None]:
        row: Json = {"rung": rung, "held": False, "drop": None, "accuracy": None, "skipped": ""}
        try:
            made = getattr(self, f"_{rung}")(path, row)
        except EdgefitError as error:  # one method failing is no reason to give up the others
            return row | {"skipped": f"failed: {error}"}, None
        if isinstance(made, str):
            return row | {"skipped": made}, None
        row["drop"] = self._quantity(made).to_json()
        row["accuracy"], row["equalized"] = made.accuracy, made.step.equalize
        row["held"] = self._within(made) and not row.get("no_gain", False)
        return row, made

    # --- rungs

    def _channel(self, path: Path, row: Json) -> Candidate:
        step = replace(self.step, per_channel=True, equalize=False, correct_bias=False)
        return self._candidate(step, self.makers.plain, path)

    def _equalize(self, path: Path, row: Json) -> Candidate:
        step = replace(self.step, per_channel=True, equalize=True, correct_bias=True)
        source, notes = self.makers.improved(step, path.with_name(f"equalized{path.suffix}"))
        return self._candidate(step, source, path, notes)

    def _mse(self, path: Path, row: Json) -> Candidate | str:
        step, source = self._from_best()
        if step.ranges == "mse":
            return "the ranges are those with the least squared error already"
        return self._candidate(replace(step, ranges="mse"), source, path)

    def _float(self, path: Path, row: Json) -> Candidate | str:
        """The layers that add most noise go back to float, until the loss is within the budget."""
        step, source = self._from_best()
        before = self.best or self._candidate(step, source, path)
        rows = self.makers.quietly(
            lambda: sensitivity.layer_sqnr(source.path, before.path, self._images(), source.fmt)
        )
        ranked = sensitivity.ranked(rows)
        best: Candidate | None = None
        row["tried"] = []
        for names in _growing(ranked, int(len(ranked) * MOST)):
            chosen = replace(step, float_layers=(*step.float_layers, *map(re.escape, names)))
            made = self._candidate(chosen, source, path.with_name(f"float-{len(names)}{path.suffix}"))
            row["tried"].append([len(names), made.drop])
            if best is None or made.drop < best.drop:
                best = replace(made, culprits=names)
            if self._within(made):
                break
        if best is None:
            return "no int8 layer can go back to float"
        row["float_layers"] = list(best.culprits)
        if self._within(best):
            self._check_gain(before, best, row)
        return best

    def _qat(self, path: Path, row: Json) -> Candidate | str:
        if self.makers.trained is None:
            return "nothing here trains"
        if self.step.input != "float32" or self.step.float_layers:
            return "a trained file takes float32 images and keeps no chosen layer in float"
        return self._measured(path, self.step, None, self.makers.trained(path))

    # --- parts

    def _from_best(self) -> tuple[QuantizeStep, FloatFile]:
        if self.best is None or self.best.source is None:
            return replace(self.step, per_channel=True), self.makers.plain
        return self.best.step, self.best.source

    def _candidate(
        self, step: QuantizeStep, source: FloatFile, path: Path, notes: tuple[str, ...] = ()
    ) -> Candidate:
        written = self.makers.quietly(lambda: source.write_int8(path, step))
        return self._measured(path, step, source, (*written, *notes))

    def _measured(
        self, path: Path, step: QuantizeStep, source: FloatFile | None, notes: tuple[str, ...]
    ) -> Candidate:
        found = self._right(path)
        change, low, high, _ = paired_accuracy(self._reference, found)
        drop, ends = 0.0 - change, (0.0 - high, 0.0 - low)  # not -change: no loss is 0, not -0
        return Candidate(path, step, source, notes, drop, ends, float(found.mean()))

    def _right(self, path: Path) -> NDArray[np.bool_]:
        """Whether a file is right, for every validation image."""
        plain = self.makers.plain
        emulate = plain.scheme == "s8s8" and path != plain.path
        found = self.makers.quietly(lambda: parity.predictions(path, plain.fmt, self.data, emulate))
        right: NDArray[np.bool_] = found == self.data.labels["validation"].numpy()
        return right

    @cached_property
    def _reference(self) -> NDArray[np.bool_]:
        return self._right(self.makers.plain.path)

    def _within(self, made: Candidate) -> bool:
        return self.step.max_drop is not None and made.drop <= self.step.max_drop + 1e-9

    def _images(self) -> NDArray[np.float32]:
        images: NDArray[np.float32] = parity.validation_images(self.data, IMAGES)[1].numpy()
        return images

    def _check_gain(self, before: Candidate, made: Candidate, row: Json) -> None:
        """Time the file with float layers; ``no_gain`` where these cost all that int8 gained."""
        if self.target is None:
            row["latency"] = Quantity.missing("no runtime to time on was given").to_json()
            return
        parent = self.makers.described(self.makers.plain.path, "fp32")
        ratio = self.target.ratio(parent, self.makers.described(made.path, "int8"))
        row["latency"] = ratio.to_json()
        if ratio.value is None or ratio.value < 1:
            return
        whole = self.target.ratio(parent, self.makers.described(before.path, "int8"))
        row["latency_before"] = whole.to_json()
        # Where int8 is no faster to begin with, there is no gain to lose.
        row["no_gain"] = whole.value is not None and whole.value < 1

    def _quantity(self, made: Candidate) -> Quantity:
        n = len(self.data.labels["validation"])
        return Quantity(made.drop, "", *made.interval, n, "measured", METHOD)

    def _verdict(self, held: str) -> tuple[str, ...]:
        assert self.best is not None and self.step.max_drop is not None
        drop, low, high = (100 * v for v in (self.best.drop, *self.best.interval))
        lost = f"{drop:.2f} points lost [{low:.2f}, {high:.2f}]"
        budget = f"max_drop {100 * self.step.max_drop:g} points"
        culprits = f"; back in float: {', '.join(self.best.culprits)}" if self.best.culprits else ""
        if held:
            return (f"ladder: {held} holds {budget}: {lost}{culprits}",)
        tried = "; ".join(sentence(row) for row in self.trail)
        return (f"NO RUNG OF THE LADDER HOLDS {budget}: the best one is kept, {lost}{culprits} ({tried})",)


def _growing(ranked: Sequence[tuple[str, ...]], most: int) -> Iterator[tuple[str, ...]]:
    """Names of the first 1, 2, 3, 5, 8, ... of ``ranked``, until more than ``most`` layers would go."""
    one, two = 1, 2
    while True:
        names = tuple(dict.fromkeys(name for group in ranked[:one] for name in group))
        if not names or (one > 1 and len(names) > most):
            return
        yield names
        if one >= len(ranked):
            return
        one, two = two, one + two


def sentence(row: Json) -> str:
    """``mse: 0.40 points lost`` or why a rung was skipped."""
    if row["skipped"]:
        return f"{row['rung']}: {row['skipped']}"
    text = f"{row['rung']}: {100 * row['drop']['value']:.2f} points lost"
    if row.get("float_layers"):
        text += f" with {len(row['float_layers'])} layers in float"
    return f"{text}, no longer faster than float" if row.get("no_gain") else text
