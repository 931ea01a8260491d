"""Predicts one planned cell of a device that is not here: what :mod:`bench.cells` asks where it cannot measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import EdgefitError, ModelError
from bench.plan import Plan, PlannedCell
from bench.store import Run
from bench.types import Json, Quantity, to_json

if TYPE_CHECKING:
    from hardware_profiles.prediction.graph import Graph


class Foreteller:
    """Predicts cells of one run; reads each graph once."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan, self.run = plan, run
        self._graphs: dict[str, Graph] = {}

    def __call__(self, planned: PlannedCell, metrics: dict[str, Quantity]) -> Json:
        """Fill in the metrics that a prediction has, and return what the record says of it.

        A cell that cannot be predicted stays skipped, with both reasons.
        """
        from bench import predicting
        from hardware_profiles.predict import predict

        setting = predicting.setting_of(self.plan.profile, planned.cell)
        try:
            found = predict(self._graph(planned), self.plan.profile, setting)
        except EdgefitError as err:
            return {"reason": f"{planned.skip.partition(':')[0]}, and it cannot be predicted: {err}"}
        if found.unfit:
            return {"reason": f"{planned.skip.partition(':')[0]}, and {found.unfit}"}
        foretold = predicting.metrics(found, setting)
        metrics |= {name: foretold[name] for name in predicting.FORETOLD}
        prediction = {
            "why": planned.skip,
            "calibrated": found.calibrated,
            "alike": found.alike,
            "bounds": found.bounds,
            "layers": to_json(found.layers),
            "advice": list(found.advice),
        }
        return {"status": "ok", "reason": "", "prediction": prediction, "notes": list(found.notes)}

    def _graph(self, planned: PlannedCell) -> Graph:
        """The graph of a cell's variant: of its ONNX file where there is one, else of the model itself."""
        from hardware_profiles.predict import read_graph

        made = self.run.done("artifact", planned.export) if planned.export else None
        if made and made["status"] == "ok" and made["artifact"]["format"] == "onnx":
            key = made["artifact"]["sha256"]
            if key not in self._graphs:
                self._graphs[key] = read_graph(self.run.object_path(key))
            return self._graphs[key]
        key = self.plan.variant(planned.cell.variant).key
        if key not in self._graphs:
            self._graphs[key] = self._of_model(key)
        return self._graphs[key]

    def _of_model(self, key: str) -> Graph:
        from distill import models
        from hardware_profiles.predict import read_graph

        record = self.run.done("variant", key)
        if record is None or not record.get("model"):
            raise ModelError("its model was not made")
        module, spec = models.load(self.run.object_path(record["model"]["sha256"]))
        pre = spec.preprocess
        return read_graph(module, pre.channels, pre.height, pre.width)
