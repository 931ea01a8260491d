"""Energy of a window of time. An instrument where there is one; a model of the CPU, said so, where not.

CodeCarbon (https://docs.codecarbon.io, *Methodology*) reads RAPL where the kernel lets it; else it
multiplies the CPU's thermal design power with the machine's load. Only the CPU package is
counted: CodeCarbon's memory figure is a constant per module and says nothing about a model.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
from dataclasses import replace
from typing import Any, Protocol

from bench.runtimes.base import Probe
from bench.types import Provenance, Quantity

UNIT = "J"
PER_IMAGE = "mJ/image"
SHORTEST = 0.25
"""Seconds: the kernel counts busy time in 10 ms ticks, so a shorter window is mostly rounding."""
HINT = 'pip install "edgefit[codecarbon]"'
MISSING = f"no energy source: codecarbon is not installed ({HINT})"
JOULE_PER_KWH = 3.6e6
INSTRUMENTS = {
    "intel_rapl": "RAPL counters of the CPU package",
    "windows_emi": "Windows energy meter of the CPU package",
    "intel_power_gadget": "Intel Power Gadget",
    "Raspberry": "the Raspberry Pi's power chip",
    "AppleSiliconChip": "powermetrics",
}


class EnergySource(Protocol):
    """Something that says how much energy a window took."""

    @property
    def name(self) -> str:
        """``codecarbon``, ..."""

    def probe(self) -> Probe:
        """Is it there? Imports nothing heavy."""

    def prepare(self) -> None:
        """Find the hardware once (seconds); called by the first :meth:`start` if nobody did."""

    def start(self) -> None:
        """Open a window."""

    def stop(self) -> Quantity:
        """Close the window: joules, or missing with the reason."""

    def close(self) -> None:
        """End the source; threads and files are gone."""


class CodeCarbon:
    """CPU energy through one offline CodeCarbon tracker for a whole run.

    Nothing leaves the machine and nothing is written: the offline tracker with a fixed carbon
    intensity looks nothing up, every output, endpoint and token is off (also when the person's own
    ``.codecarbon.config`` turns them on), and its log is silenced.
    """

    name = "codecarbon"

    def __init__(self) -> None:
        self._tracker: Any = None
        self._open = False

    def probe(self) -> Probe:
        if importlib.util.find_spec("codecarbon") is None:
            return Probe(False, reason="codecarbon is not installed", remedy=f"Install it with: {HINT}")
        return Probe(True, version=importlib.metadata.version("codecarbon"), devices=("cpu",))

    def prepare(self) -> None:
        if self._tracker is not None or not self.probe().available:
            return
        tracker: Any = importlib.import_module("codecarbon").OfflineEmissionsTracker
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # the import sets it to INFO
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

    def stop(self) -> Quantity:
        if not self._open:
            return Quantity.missing(MISSING, UNIT)
        self._open = False
        window = self._tracker.stop_task()
        if window is None:
            return Quantity.missing("codecarbon gave no reading", UNIT)
        if window.duration < SHORTEST:
            reason = f"the window of {window.duration:.2f} s is too short; at least {SHORTEST} s are needed"
            return Quantity.missing(reason, UNIT)
        if window.cpu_energy <= 0:
            return Quantity.missing("codecarbon read no CPU energy", UNIT)
        provenance, method = self._method()
        return Quantity(window.cpu_energy * JOULE_PER_KWH, UNIT, n=1, provenance=provenance, method=method)

    def close(self) -> None:
        if self._tracker is not None:
            if self._open:
                self.stop()
            self._tracker.stop()
            self._tracker = None

    def _method(self) -> tuple[Provenance, str]:
        """Measured by an instrument or estimated by a model: only the tracker's hardware mode says."""
        scope = "whole CPU package, idle share and other processes included, memory not; no interval: "
        for part in getattr(self._tracker, "_hardware", ()):
            kind = type(part).__name__
            mode = getattr(part, "_mode", kind)
            if kind == "RAM" or getattr(part, "chip_part", "CPU") != "CPU":
                continue
            if mode in INSTRUMENTS:
                return "measured", f"codecarbon, {INSTRUMENTS[mode]}; {scope}one window"
            if kind == "CPU":
                watts, model = getattr(part, "_tdp", "?"), getattr(part, "_model", "unknown CPU")
                how = "x (0.1 + 0.9 load^3)" if mode == "cpu_load" else "constant"
                return (
                    "estimated",
                    f"codecarbon, {mode}: {watts} W for {model} {how}; {scope}the model's error is unknown",
                )
        return "estimated", f"codecarbon, unknown hardware mode; {scope}the model's error is unknown"


def open_source() -> EnergySource:
    """The best energy source of this machine; without any, one whose readings are missing with the reason. Close it."""
    return CodeCarbon()


def per_image(window: Quantity, images: int) -> Quantity:
    """Energy per image in mJ from a window's joules; missing stays missing, with its reason."""
    if window.value is None:
        return Quantity.missing(window.reason, PER_IMAGE)
    return replace(window, value=window.value * 1e3 / images, unit=PER_IMAGE, n=images)
