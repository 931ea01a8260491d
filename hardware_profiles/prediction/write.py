"""Writes what a fit found: tables ``[[calibration]]`` and ``[[power]]`` into profiles, ``runtimes.toml`` for devices without."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import StoreError
from bench.types import Json, Notify
from hardware_profiles import load
from hardware_profiles.prediction import calibrate, evaluate, fit, published
from hardware_profiles.prediction.coefficients import FILE
from hardware_profiles.prediction.judge import load_table, shower
from hardware_profiles.prediction.kinds import KINDS
from hardware_profiles.prediction.published import FACTS, Series

Widths = dict[str, tuple[dict[str, float], dict[str, float]]]
"""Of intervals and of ratios, by what was left out."""
MARK = "# --- fitted by `bench profiles calibrate`; what is below is written anew by it"


def everything(path: Path, notify: Notify, check: bool = False) -> list[Path]:
    """Fit to the published measurements and store the result; the files that changed, or with ``check`` would.

    Raises:
        MissingError: torch, torchvision or timm is not installed.
        StoreError: the profiles of this installation cannot be written.
    """
    table, maker, _ = load_table(path, notify)
    samples = maker.samples(table)
    result = fit.fit(samples, KINDS)
    held = {
        by: evaluate.hold_out(table, maker, by, shower(notify, f"leaving out one {by} at a time"))
        for by in ("family", "device")
    }
    widths = {by: (evaluate.quantiles(rows), evaluate.ratios(rows)) for by, rows in held.items()}
    powers = calibrate.powers(published.entries(path))
    texts = {FILE: runtimes_text(samples, result, widths)}
    for name, tables in _by_profile(table, samples, result).items():
        texts[load.FOLDER / f"{name}.toml"] = profile_text(name, tables, powers.pop(name, []))
    for name, watts in powers.items():
        texts[load.FOLDER / f"{name}.toml"] = profile_text(name, [], watts)
    changed = [p for p, text in texts.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    if not check:
        for p in changed:
            replace(p, texts[p])
    return sorted(changed)


def _by_profile(
    table: Mapping[Series, list[calibrate.Entry]], samples: Mapping[object, fit.Sample], result: fit.Result
) -> dict[str, list[Json]]:
    """The series that are worth a table of their own, by profile."""
    found: dict[str, list[Json]] = defaultdict(list)
    for series in sorted(table, key=str):
        models = {entry.model for entry in table[series]}
        named = series.mode in ("", *(m["name"] for m in calibrate.device(series.device).power_modes))
        if series.device in FACTS or series not in samples or len(models) < calibrate.LEAST or not named:
            continue
        entry = calibrate.calibration(series, table[series], result.series[series], samples[series])
        found[calibrate.profile_name(series.device)].append(entry)
    return found


def profile_text(name: str, tables: list[Json], powers: list[Json]) -> str:
    """A profile's file with its fitted tables replaced."""
    path = load.FOLDER / f"{name}.toml"
    return with_tables(path.read_text(encoding="utf-8"), tables, powers)


def with_tables(text: str, tables: list[Json], powers: list[Json]) -> str:
    """A profile's text with these fitted tables in place of those it had."""
    kept = text.partition(f"\n{MARK}")[0].rstrip("\n") + "\n"
    parts = [_table("calibration", t) for t in tables] + [_table("power", p) for p in powers]
    return f"{kept}\n{MARK}\n\n" + "\n".join(parts)


def _table(name: str, entry: Json) -> str:
    return f"[[{name}]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in entry.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)


def runtimes_text(samples: Mapping[object, fit.Sample], result: fit.Result, widths: Widths) -> str:
    """The text of ``runtimes.toml``."""
    lines = [
        "# Fitted by `bench profiles calibrate` to the published measurements beside this file: what runtimes need on a device",
        "# of 10^9 multiply-accumulates and 10^9 bytes a second. Terms and units: features.py. interval and",
        "# interval_calibrated: standard deviations from the middle to the ends of a 90% interval, without and with own rows.",
        "# ratio and ratio_calibrated: by how much (a logarithm) the ratio of two nets on one device is wrong at most, 90% of the time.",
        "",
    ]
    for name, kind in KINDS.items():
        table = calibrate.numbers(np.exp(result.kinds[name]), kind, 4)
        lines += [f"[kinds.{name}]", f"coefficients = {_value(table)}", *_widths(name, widths), ""]
    for group in sorted({s.group for s in samples.values()}):
        if _widths(group, widths):
            lines += [f"[intervals.{group}]", *_widths(group, widths), ""]
    for group, theta in sorted(result.groups.items()):
        members = {key: s for key, s in samples.items() if s.group == group}
        kind = KINDS[next(iter(members.values())).kind]
        devices = len({calibrate.profile_name(k.device) for k in members if isinstance(k, Series)})
        lines += [f"[groups.{group}]", f"devices = {devices}",
                  f"coefficients = {_value(calibrate.numbers(np.exp(theta), kind, 4))}", ""]  # fmt: skip
    return "\n".join(lines)


def _widths(name: str, widths: Widths) -> list[str]:
    return [
        f"{key}{ending} = {table[name]:.3g}"
        for by, ending in (("device", ""), ("family", "_calibrated"))
        for key, table in zip(("interval", "ratio"), widths[by], strict=True)
        if name in table
    ]


def replace(path: Path, text: str) -> None:
    """Write a file in one step.

    Raises:
        StoreError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path} cannot be written", str(error), "Use a checkout, or --from RUN --output FILE"
        ) from error
