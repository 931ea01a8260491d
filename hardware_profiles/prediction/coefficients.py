"""The coefficients that a prediction uses: the device's own, or what its runtime needs elsewhere divided by its facts.

They are fitted by ``bench profiles calibrate`` and stored as tables ``[[calibration]]`` of the profiles and, for
devices that have none, in ``runtimes.toml`` beside this module: there for a device of 10^9 multiply-accumulates and
10^9 bytes a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.types import Json, Profile, digest
from hardware_profiles.prediction import fit
from hardware_profiles.prediction.features import TERMS
from hardware_profiles.prediction.fit import Kind
from hardware_profiles.prediction.kinds import KINDS
from hardware_profiles.prediction.rates import MICRO_GMACS, Rates, kind_of, named, rates

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FILE = Path(__file__).with_name("runtimes.toml")
VERSION = 1
"""Of how graphs are counted and what is made of it; raise it when predictions change for another reason than their figures."""
OTHER_SETTING = 0.1
"""Share of the variance between devices that another power mode, precision or number of threads of one device may add."""
NOTHING = -60.0
"""Logarithm of a coefficient that is not there."""


@dataclass(frozen=True)
class Coefficients:
    """Logarithms of coefficients and their standard deviations, both in the order of ``TERMS``.

    ``quantile``: standard deviations between the middle and the ends of a 90% interval. ``origin`` says in words where they are
    from; ``calibrated``: this runtime was measured on this device in this precision. ``ratio``: half-width (a logarithm) of the
    90% interval of the ratio of two predictions for this device and runtime. ``versions``: standard deviation of the logarithm
    of a toolchain version's factor. ``sources``: who measured.
    """

    theta: Floats
    covariance: Floats
    kind: Kind
    quantile: float
    origin: str
    calibrated: bool
    ratio: float
    versions: float = 0.0
    sources: frozenset[str] = frozenset()


def group_of(runtime: str, precision: str) -> str:
    """The runtimes that share coefficients: ``litert-int8``."""
    base = runtime.rstrip("0123456789").rstrip("-") if runtime in ("litert-1", "tensorrt-3") else runtime
    base = "litert" if base == "litert-xnnpack" else base
    return f"{base}-{'int8' if precision == 'int8' else 'float'}"


def offset(found: Rates, kind: str) -> Floats:
    """What a device's rates add to the logarithms of coefficients of a device of one GMAC and one GB a second.

    Calls and launches cost less on faster devices, but not in proportion: by the power ``KINDS[kind].launches``.
    """
    import numpy as np

    member = fit.blocks()
    slower = KINDS[kind].launches * math.log(found.speed / MICRO_GMACS[kind])
    result: Floats = -(
        member[:, 0] * np.log(found.gmacs) + member[:, 1] * np.log(found.gbs) + member[:, 2] * slower
    )
    return result


def find(profile: Profile, runtime: str, precision: str, threads: int = 1, mode: str = "") -> Coefficients:
    """The coefficients for a runtime and precision on a device.

    Raises:
        ConfigError: the profile has no facts to scale by.
    """
    import numpy as np

    runtime = named(profile, runtime)
    kind = kind_of(profile, runtime)
    here = rates(profile, runtime, precision, threads, mode)
    if here is None:
        raise ConfigError(
            f"{profile.name} has no facts to predict {runtime} {precision} from",
            todo="Add peak_fp32_tflops (or cpu with its cores and clocks) and memory_bw_gbs to its [facts]",
        )
    own = _nearest(profile, runtime, precision, threads, mode)
    known = stored()["kinds"][kind] | stored()["intervals"].get(group_of(runtime, precision), {})
    base = partial(Coefficients, kind=KINDS[kind])
    if own is not None:
        theta, covariance = _vector(own["coefficients"]), np.diag(_deviations(own["deviations"]) ** 2)
        versions = own.get("versions", 0.0)
        nets = f"{own['nets']} net{'s' if own['nets'] > 1 else ''} measured on it"
        if _distance(own, precision, threads, mode) == (False, False, 0.0):
            return base(theta, covariance, quantile=known["interval_calibrated"], origin=nets, calibrated=True,
                        ratio=known["ratio_calibrated"], versions=versions, sources=frozenset(own["sources"]))  # fmt: skip
        there = rates(profile, runtime, own["precision"], own.get("threads", 1), own.get("power_mode", ""))
        assert there is not None
        theta = theta + offset(here, kind) - offset(there, kind)
        covariance = covariance + OTHER_SETTING * fit.spread(KINDS[kind])
        said = f"{nets} with {_setting(own)}, scaled by its facts"
        return base(
            theta,
            covariance,
            quantile=known["interval_calibrated"],
            origin=said,
            calibrated=False,
            ratio=known["ratio"],
            versions=versions,
        )
    group = stored()["groups"].get(group_of(runtime, precision))
    theta = _vector((group or stored()["kinds"][kind])["coefficients"]) + offset(here, kind)
    covariance = fit.spread(KINDS[kind]) * (1.0 if group else 2.0)
    origin = "other runtimes on other devices"
    if group:
        origin = f"{runtime} on {group['devices']} other device{'s' if group['devices'] > 1 else ''}"
    return base(
        theta,
        covariance,
        quantile=known["interval"],
        origin=f"{origin}, scaled by its facts",
        calibrated=False,
        ratio=known["ratio"],
    )


def _setting(entry: Json) -> str:
    threads = entry.get("threads", 1)
    parts = [entry["precision"], f"{threads} thread{'s' if threads > 1 else ''}"]
    return ", ".join([*parts, entry["power_mode"]] if entry.get("power_mode") else parts)


def _nearest(profile: Profile, runtime: str, precision: str, threads: int, mode: str) -> Json | None:
    """The profile's own calibration that is nearest to what is asked, of that runtime and kind of precision."""
    kindred = [
        entry
        for entry in profile.calibration
        if entry["runtime"] == runtime and (entry["precision"] == "int8") == (precision == "int8")
    ]

    return min(kindred, key=lambda entry: _distance(entry, precision, threads, mode), default=None)


def _distance(entry: Json, precision: str, threads: int, mode: str) -> tuple[bool, bool, float]:
    """How unlike a calibration's setting is to what is asked; nothing where they are the same."""
    ratio = abs(math.log(entry.get("threads", 1) / max(threads, 1)))
    return entry["precision"] != precision, entry.get("power_mode", "") != mode, ratio


def _vector(table: dict[str, float]) -> Floats:
    import numpy as np

    return np.array([math.log(table[t]) if table.get(t) else NOTHING for t in TERMS])


def _deviations(table: dict[str, float]) -> Floats:
    import numpy as np

    return np.array([table.get(t, 0.0) for t in TERMS])


@cache
def stored() -> dict[str, Any]:
    """``runtimes.toml``: coefficients of runtimes and of kinds of processors, with the widths of intervals."""
    from hardware_profiles.load import read_toml

    return read_toml(FILE)


def fingerprint(profile: Profile) -> str:
    """Identifies everything that decides predictions for a device, so that a stored one is not mistaken for a newer one."""
    return digest(
        [
            VERSION,
            profile.facts,
            profile.power_modes,
            profile.calibration,
            profile.power,
            profile.lanes,
            stored(),
        ]
    )
