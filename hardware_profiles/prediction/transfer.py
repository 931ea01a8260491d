"""Would times measured here help to predict a device that is not here? Asked of the published measurements.

Where a net was slower on an x86 machine than its own prediction, is it slower elsewhere too? The correction is fitted
without the family that is judged (:mod:`hardware_profiles.prediction.evaluate`); it is used only if it helps, and it does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.types import Json
from hardware_profiles.prediction.evaluate import Held

HERE = ("torch-compile",)
"""Runtimes of the machines that stand for the one at hand."""
SAME = {
    "mobilenetv1_100": "mobilenet_v1_1.0",
    "mobilenetv2_100": "mobilenet_v2_1.0",
    "mobilenetv3_large_100": "mobilenet_v3_large_1.0",
}
"""Nets that publications call by two names."""


def transfer(held: Sequence[Held]) -> Json:
    """What such a correction would do to other processors: rows, correlation of the errors, MAPE with and without it."""
    import numpy as np

    here: dict[str, list[float]] = defaultdict(list)
    for h in held:
        if h.series.runtime in HERE:
            middle = np.nanmedian(h.error)
            for entry, error in zip(h.entries, h.error, strict=True):
                if np.isfinite(error):
                    here[SAME.get(entry.model, entry.model)].append(float(error - middle))
    known = {net: float(np.mean(errors)) for net, errors in here.items()}
    rows = [
        (known[SAME.get(e.model, e.model)], float(error), e.family)
        for h in held
        if h.kind == "cpu" and h.series.runtime not in HERE
        for e, error in zip(h.entries, h.error, strict=True)
        if SAME.get(e.model, e.model) in known and np.isfinite(error)
    ]
    if len(rows) < 3:
        return {"rows": len(rows), "correlation": None, "mape": None, "mape_corrected": None}
    x, y = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    families = np.array([r[2] for r in rows])
    corrected = y.copy()
    for family in sorted(set(families)):
        rest = families != family
        slope = float((x[rest] * y[rest]).sum() / max((x[rest] ** 2).sum(), 1e-9)) if rest.any() else 0.0
        corrected[~rest] = y[~rest] - slope * x[~rest]
    return {
        "rows": len(rows),
        "correlation": float(np.corrcoef(x, y)[0, 1]),
        "mape": float(np.abs(np.expm1(y)).mean()),
        "mape_corrected": float(np.abs(np.expm1(corrected)).mean()),
    }
