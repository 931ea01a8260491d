"""The last resort: a model of the CPU's power, and the carbon that electricity stands for.

CodeCarbon (https://docs.codecarbon.io, *Methodology*) reads an instrument where it knows one (a
Raspberry Pi's power chip, powermetrics); else it multiplies the CPU's thermal design power with the
machine's load. Only the CPU package is counted: CodeCarbon's memory figure is a constant per module
and says nothing about a model.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
from dataclasses import replace
from typing import Any

from bench.measure.power.base import Reading, no_reading, too_short
from bench.runtimes.base import Probe
from bench.types import Provenance, Quantity

HINT = 'pip install "edgefit[codecarbon]"'
JOULE_PER_KWH = 3.6e6
INSTRUMENTS = {
    "intel_rapl": "RAPL counters of the CPU package",
    "windows_emi": "Windows energy meter of the CPU package",
    "intel_power_gadget": "Intel Power Gadget",
    "Raspberry": "the Raspberry Pi's power chip",
    "AppleSiliconChip": "powermetrics",
}


class CodeCarbon:
    """CPU energy through one offline CodeCarbon tracker for a whole run.

    Nothing leaves the machine and nothing is written: the offline tracker with a fixed carbon
    intensity looks nothing up, every output, endpoint and token is off (also when the person's own
    ``.codecarbon.config`` turns them on), and its log is silenced.
    """

    name = "codecarbon"
    covers = "whole CPU package, idle share and other processes included, memory not"
    devices = ("cpu",)
    shortest = 0.25
    """The kernel counts busy time in 10 ms ticks, so a shorter window is mostly rounding."""
    idle_seconds = 0.0
    """A model of load would subtract its own constants."""

    def __init__(self) -> None:
        self._tracker: Any = None
        self._open = False

    def probe(self) -> Probe:
        if importlib.util.find_spec("codecarbon") is None:
            return Probe(False, reason="codecarbon is not installed", remedy=f"Install it with: {HINT}")
        return Probe(True, version=importlib.metadata.version("codecarbon"), devices=self.devices)

    def prepare(self) -> None:
        if self._tracker is not None or not self.probe().available:
            return
        tracker = _quiet("codecarbon").OfflineEmissionsTracker
        # False, not None: None would let the person's configuration file decide.
        self._tracker = tracker(
            country_iso_code="FRA",
            force_carbon_intensity_g_co2e_kwh=0.0,
            cloud_provider=False,
            cloud_region=False,
            output_methods=[],
            output_handlers=[],
            emissions_endpoint=False,
            electricitymaps_api_token=False,
            api_call_interval=-1,
            allow_multiple_runs=True,
            tracking_mode="machine",
            pue=1.0,
            measure_power_secs=3600,
            log_level="critical",
        )
        self._tracker.start_task("prepare")
        self._tracker.stop_task()

    def start(self) -> None:
        self.prepare()
        if self._tracker is not None:
            self._tracker.start_task()
            self._open = True

    def stop(self) -> Reading:
        if not self._open:
            probe = self.probe()
            return no_reading(self, "no window was opened" if probe.available else f"{probe.reason} ({HINT})")
        self._open = False
        window = self._tracker.stop_task()
        if window is None:
            return no_reading(self, "codecarbon gave no reading")
        seconds = window.duration
        reason = too_short(self, seconds)
        if not reason and window.cpu_energy <= 0:
            reason = "codecarbon read no CPU energy"
        if reason:
            return no_reading(self, reason, seconds)
        provenance, mode = self._mode()
        method = f"codecarbon, {mode}"
        joules = window.cpu_energy * JOULE_PER_KWH
        return Reading(self.name, self.covers, joules, seconds, 1, provenance, mode, method)

    def close(self) -> None:
        if self._tracker is not None:
            if self._open:
                self.stop()
            self._tracker.stop()
            self._tracker = None

    def _mode(self) -> tuple[Provenance, str]:
        """Measured by an instrument or estimated by a model: only the tracker's hardware mode says."""
        unknown = "the model's error is unknown"
        for part in getattr(self._tracker, "_hardware", ()):
            kind = type(part).__name__
            mode = getattr(part, "_mode", kind)
            if kind == "RAM" or getattr(part, "chip_part", "CPU") != "CPU":
                continue
            if mode in INSTRUMENTS:
                return "measured", INSTRUMENTS[mode]
            if kind == "CPU":
                watts, model = getattr(part, "_tdp", "?"), getattr(part, "_model", "unknown CPU")
                how = "x (0.1 + 0.9 load^3)" if mode == "cpu_load" else "constant"
                return "estimated", f"{mode}: {watts} W for {model} {how}; {unknown}"
        return "estimated", f"unknown hardware mode; {unknown}"


def _quiet(module: str) -> Any:
    """Import a module of codecarbon without its messages (its import sets them to INFO)."""
    found = importlib.import_module(module)
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return found


# Carbon


def carbon(joules: Quantity) -> Quantity:
    """Grams of CO2 equivalent for an energy in J, measured or estimated: an average of the grid, so an estimate.

    The country is that of codecarbon's own settings (CODECARBON_COUNTRY_ISO_CODE or
    ``.codecarbon.config``); without one it is the world's average, and the method says so.
    """
    if joules.value is None:
        return Quantity.missing(joules.reason, "g CO2e")
    grams, where = intensity(os.environ.get("CODECARBON_COUNTRY_ISO_CODE", ""))
    if grams is None:
        return Quantity.missing(where, "g CO2e")
    scale = grams / JOULE_PER_KWH
    return replace(
        joules,
        value=joules.value * scale,
        low=None if joules.low is None else joules.low * scale,
        high=None if joules.high is None else joules.high * scale,
        unit="g CO2e",
        provenance="estimated",
        method=f"{where} ({grams:.4g} g CO2e/kWh, codecarbon's data) x energy ({joules.provenance}: {joules.method})",
    )


@functools.cache
def intensity(country: str) -> tuple[float | None, str]:
    """Grams of CO2e per kWh and where; None and the reason when codecarbon does not know.

    ``country`` is an ISO 3166-1 alpha-3 code; empty means that of codecarbon's settings. Looks nothing
    up outside this machine.
    """
    if importlib.util.find_spec("codecarbon") is None:
        return None, f"codecarbon is not installed ({HINT})"
    emissions, settings = _quiet("codecarbon.core.emissions"), _quiet("codecarbon.core.config")
    country = (country or settings.get_hierarchical_config().get("country_iso_code") or "").strip().upper()
    source = _quiet("codecarbon.input").DataSource()
    if not country:
        average = source.get_carbon_intensity_per_source_data()["world_average"]
        return float(average), "the world's average, as no CODECARBON_COUNTRY_ISO_CODE is set"
    if country not in source.get_global_energy_mix_data():
        return (
            None,
            f"codecarbon knows no country {country}; CODECARBON_COUNTRY_ISO_CODE has three letters, as in DEU",
        )
    kwh = _quiet("codecarbon.core.units").Energy.from_energy(kWh=1)
    place = _quiet("codecarbon.external.geography").GeoMetadata(country_iso_code=country)
    return emissions.Emissions(source).get_country_emissions(kwh, place) * 1e3, f"the grid of {country}"
