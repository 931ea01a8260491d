"""Makes and measures one point in the run: an ordinary small plan, of which whatever is done is kept.

A search compares latencies by the reference's, times the ratio of the two timed by turns (:mod:`bench.targets`):
trials are minutes or hours apart, and a machine that changes its speed by a third meanwhile would choose between
them by its moods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from bench.errors import EdgefitError, StoreError
from bench.pipeline import execute
from bench.plan import HARNESS_VERSION, Plan, PlannedCell
from bench.preflight import Prepared
from bench.steps import QuantizeStep
from bench.store import Run
from bench.tune.points import Point
from bench.tune.setup import METRICS, Setup
from bench.tune.space import Params
from bench.types import Artifact, ExportResult, Notify, Preprocess, Quantity, digest, to_json

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Result:
    """What a point gave, or why it gave nothing.

    ``accuracy`` is of the validation images; ``cost`` the objective; ``ratio`` its latency over the
    reference's, timed by turns. ``weight`` is MACs (or parameters, where size is the objective) of the net,
    ``curve`` its validation accuracy at shares of its training. ``broken`` names the variant that could not
    be had: whatever needs it cannot be had either. ``seconds``: what making it took in all sessions.
    """

    variant: str
    state: State = "complete"
    reason: str = ""
    accuracy: Quantity = field(default_factory=lambda: Quantity.missing("not measured", "fraction"))
    cost: Quantity = field(default_factory=lambda: Quantity.missing("not measured"))
    size: Quantity = field(default_factory=lambda: Quantity.missing("not measured", "bytes"))
    ratio: Quantity = field(default_factory=lambda: Quantity.missing("not timed", "ratio"))
    weight: int | None = None
    curve: tuple[tuple[float, float], ...] = ()
    seconds: float = 0.0
    trained: bool = False
    broken: str = ""


class Maker:
    """Makes points in one run."""

    def __init__(self, setup: Setup, run: Run) -> None:
        self.setup, self.run = setup, run
        self._prepared: dict[tuple[str, int | None], Prepared] = {}
        self._data: tuple[Any, Any] = (None, None)

    def plan(self, point: Point) -> Plan:
        """The plan of a point."""
        return self._of(point).plan

    def _of(self, point: Point) -> Prepared:
        key = (point.variant, point.size)
        if key not in self._prepared:
            self._prepared[key] = self.setup.prepared(point)
        return self._prepared[key]

    def done(self, point: Point) -> bool:
        """Whether nothing of a point is left to make."""
        plan = self.plan(point)
        kinds = (("variant", plan.variants), ("artifact", plan.exports), ("cell", plan.cells))
        keys = [(kind, item.key) for kind, items in kinds for item in items]  # type: ignore[attr-defined]
        return all(self._good(kind, key) for kind, key in keys)

    def trains(self, point: Point) -> bool:
        """Whether a net of this point is still to be trained: minutes, where the rest takes seconds."""
        plan = self.plan(point)
        return any(
            not isinstance(v.variant.step, QuantizeStep) and not self._good("variant", v.key)
            for v in plan.variants
        )

    def _good(self, kind: str, key: str) -> bool:
        return bool((self.run.done(kind, key) or {}).get("status", "failed") != "failed")

    def weight(self, point: Point) -> int | None:
        """MACs (parameters, where size is the objective) of the net, or None while they are not known.

        They stand in for what is only measured once a net is trained.
        """
        plan, which = self.plan(point), "params" if self.setup.options.objective == "size" else "macs"
        net = plan.variant(point.net)
        for name in (point.net, net.variant.parent):
            record = self.run.done("variant", plan.variant(name).key) if name else None
            if record and record["status"] == "ok":
                return int(record[which])
        model = getattr(net.variant.step, "model", "")
        return _count(model, self._of(point).index, which) if model else None

    def make(self, point: Point, notify: Notify) -> Result:
        """Make whatever of the point is missing, and what it gave."""
        prepared, trained = self._of(point), self.trains(point)
        execute(prepared, self.run, notify, partial(self._dataset, prepared.index))
        problem = self._problem(prepared.plan)
        if problem is not None:
            return replace(problem, variant=point.variant, trained=trained)
        seconds = self._seconds(point, prepared.plan) if trained else 0.0
        try:
            return replace(self._result(point, prepared.plan), trained=trained, seconds=seconds)
        except StoreError:
            raise
        except EdgefitError as err:  # it could not be timed, or has no figure
            return Result(point.variant, "failed", str(err), trained=trained)

    def _seconds(self, point: Point, plan: Plan) -> float:
        """What the variants of a point took from the reference on, in this session and in earlier ones."""
        name, seconds = point.variant, 0.0
        while name and name != self.setup.points.reference.variant:
            planned = plan.variant(name)
            seconds += (self.run.done("variant", planned.key) or {}).get("seconds") or 0.0
            name = planned.variant.parent
        return seconds

    def forget(self, point: Point) -> None:
        """Delete what a stopped training left: it is not to be taken up again."""
        for planned in self.plan(point).variants:
            if not self._good("variant", planned.key):
                self.run.clear_work(planned.key)

    def note(self, number: int, params: Params, result: Result) -> None:
        """Keep what a trial chose and gave in the run too, for whoever has no Optuna."""
        about = {"kind": "trial", "key": f"trial-{number}", "number": number, "params": params}
        self.run.append({**about, **to_json(result)})

    def keep(self, points: Iterable[Point]) -> None:
        """Say in the run's manifest what belongs to it: these points, in this order."""
        manifest, setup = self.run.read_manifest(), self.setup
        if manifest is None:
            return
        plans = [self.plan(point) for point in points]
        keys = {
            "variant": [v.key for p in plans for v in p.variants],
            "artifact": [e.key for p in plans for e in p.exports],
            "cell": [c.key for p in plans for c in p.cells],
        }
        recipe = setup.points.recipe
        self.run.write_manifest(
            manifest
            | {
                "command": hide_password(manifest.get("command", "")),
                "reference": recipe.reference,
                "recipe": {"name": recipe.name, "description": recipe.description},
                "data": setup.indexes[recipe.data.image_size].to_json(),
                "plan": {kind: list(dict.fromkeys(found)) for kind, found in keys.items()},
            }
        )

    # --- what a point gave

    def _dataset(self, index: Any) -> Any:
        """The data set, decoded once; of several sizes of images the last one used."""
        if self._data[0] is not index:
            from distill import data

            self._data = (index, data.load(index))
        return self._data[1]

    def _problem(self, plan: Plan) -> Result | None:
        """What failed first: ``pruned`` where the point cannot be had, ``failed`` where something broke."""
        here = [c for c in plan.cells if c.cell.host == "local"]
        for kind, items in (("variant", plan.variants), ("artifact", plan.exports), ("cell", here)):
            for item in items:  # type: ignore[attr-defined]
                record = self.run.done(kind, item.key)
                if record is None:
                    return Result("", "failed", f"no {kind} was made")
                name = record.get("name") or record.get("variant") or record["cell"]["variant"]
                if record["status"] == "failed":
                    foreseen = kind != "cell" and "detail" not in record
                    broken = name if foreseen and kind == "variant" else ""
                    reason = f"{name}: {record['reason']}"
                    return Result("", "pruned" if foreseen else "failed", reason, broken=broken)
                if record["status"] == "skipped":
                    return Result("", "pruned", record["reason"])
        return None

    def _result(self, point: Point, plan: Plan) -> Result:
        cell = self._cell(plan, point.variant)
        record = self.run.done("cell", cell.key) or {}
        figures = {name: Quantity.from_json(record["metrics"][name]) for name in record["metrics"]}
        ratio = self._ratio(cell)
        cost = figures[METRICS[self.setup.options.objective]]
        for quantity in (figures["val_accuracy"], cost):
            if quantity.value is None:
                raise _NoFigure(quantity.reason)
        history = (self.run.done("variant", plan.variant(point.net).key) or {}).get("history", [])
        curve = tuple((row["epoch"] / len(history), row["val_accuracy"]) for row in history)
        return Result(
            point.variant, accuracy=figures["val_accuracy"], cost=cost, size=figures["size_bytes"],
            ratio=ratio, weight=self.weight(point), curve=curve,
        )  # fmt: skip

    def _cell(self, plan: Plan, variant: str) -> PlannedCell:
        """The cell that decides: this machine, the first batch size and thread count."""
        runtime = self.setup.options.runtime
        where = [c for c in plan.cells if c.cell.variant == variant and c.cell.host == "local"]
        return next(c for c in where if c.cell.runtime == runtime)

    def _reference(self) -> PlannedCell:
        point = self.setup.points.reference
        return self._cell(self.plan(point), point.variant)

    def _ratio(self, cell: PlannedCell) -> Quantity:
        """Latency over the reference's, timed by turns once and then kept in the run."""
        base = self._reference()
        if self.setup.options.objective != "latency" or cell.device != "cpu":
            return Quantity.missing("not timed by turns", "ratio")
        if cell.export == base.export:
            return Quantity(1.0, "ratio", 1.0, 1.0, 1, "measured", "the reference itself")
        key = digest(
            [base.key, cell.key, HARNESS_VERSION]
        )  # a cell's key is of all that its latency depends on
        record = self.run.done("ratio", key)
        if record is None:
            found = self.setup.target.ratio(self._export(base.export), self._export(cell.export))
            about = {
                "variant": cell.cell.variant,
                "reference": base.cell.variant,
                "runtime": cell.cell.runtime,
            }
            record = self.run.append({"kind": "ratio", "key": key, **about, "ratio": to_json(found)})
        return Quantity.from_json(record["ratio"])

    def _export(self, key: str) -> ExportResult:
        record = self.run.done("artifact", key)
        assert record is not None
        artifact = Artifact.from_json(record["artifact"])
        return ExportResult(self.run.object_path(artifact.sha256), artifact, record["parity"])


class _NoFigure(EdgefitError):
    """A point was made and the figure that decides is missing."""


def on_scale(result: Result, latency: Quantity) -> Result:
    """A result whose cost is the reference's ``latency`` times its ratio, with the ratio's interval; as it is where nothing was timed by turns."""
    ratio = result.ratio
    if latency.value is None or ratio.value is None:
        return result
    low, high = (None if r is None else latency.value * r for r in (ratio.low, ratio.high))
    method = f"the reference's latency times its {ratio.method}"
    cost = Quantity(latency.value * ratio.value, "ms", low, high, ratio.n, "measured", method)
    return replace(result, cost=cost)


def _count(model: str, index: Any, which: str) -> int:
    """MACs or parameters of a net at the size of the images; its weights do not matter."""
    from distill import models

    height, width = index.size
    blank = Preprocess(height, width, index.channels, (0.0,) * index.channels, (1.0,) * index.channels)
    macs, params = models.count(models.build(model, len(index.classes), index.channels), blank)
    return params if which == "params" else macs


def hide_password(text: str) -> str:
    """The text with the password of any address in it replaced."""
    return re.sub(r"(://[^:/@\s]*:)[^@\s]+@", r"\1***@", text)
