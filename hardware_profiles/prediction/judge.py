"""Evaluates predictions on the published measurements: what ``bench profiles evaluate`` answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.types import SCHEMA, Json, Notify
from hardware_profiles.prediction import calibrate, evaluate, published
from hardware_profiles.prediction.judge_energy import judge_energy
from hardware_profiles.prediction.published import Series
from hardware_profiles.prediction.transfer import transfer


def load_table(
    path: Path, notify: Notify
) -> tuple[dict[Series, list[calibrate.Entry]], calibrate.Maker, Json]:
    """The published measurements by series, what counts their amounts, and what was left out."""
    rows, left = published.read(path)
    shown = shower(notify, "rebuilding published nets")
    graphs, unbuilt = calibrate.rebuild(rows, shown)
    left[f"of nets that cannot be rebuilt ({', '.join(sorted(unbuilt))})"] = sum(unbuilt.values())
    table = calibrate.series_of(rows, graphs)
    counts = {"rows": sum(len(e) for e in table.values()), "nets": len(graphs), "left_out": dict(left)}
    return table, calibrate.Maker(graphs), counts


def shower(notify: Notify, what: str) -> calibrate.Progress:
    """A progress function that shows one stage of work."""

    def show(done: int, of: int) -> None:
        if done == 0:
            notify("stage", {"name": what, "total": of})
        else:
            notify("item", {"name": what, "done": True, "skipped": True})

    return show


def judge(path: Path, folds: Sequence[str], notify: Notify) -> Json:
    """The figures of every series, runtime and of all, for each way of leaving rows out."""
    table, maker, counts = load_table(path, notify)
    found: Json = {"schema": SCHEMA, **counts, "series": len(table), "folds": {}}
    for by in folds:
        held = evaluate.hold_out(table, maker, by, shower(notify, f"leaving out one {by} at a time"))
        hits = evaluate.inside(held)
        if by == "family":
            found |= {"transfer": transfer(held), "energy": judge_energy(path, held)}
        series = [evaluate.figures(h, hits[h.series]) for h in held]
        found["folds"][by] = {
            "many": evaluate.MANY,
            "series": sorted(series, key=lambda r: (r["device"], r["runtime"], r["precision"], r["threads"], r["power_mode"])),
            "runtimes": _by_runtime(series),
            "all": evaluate.summary(series),
            "large": evaluate.summary([r for r in series if r["models"] >= evaluate.MANY]),
            "worst": evaluate.worst(held),
        }  # fmt: skip
    return found


def _by_runtime(series: Sequence[Json]) -> list[Json]:
    groups: dict[str, list[Json]] = defaultdict(list)
    for row in series:
        groups[f"{row['runtime']}, {'INT8' if row['precision'] == 'int8' else 'float'}"].append(row)
    return [{"name": name} | evaluate.summary(rows) for name, rows in sorted(groups.items())]
