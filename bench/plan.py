"""(profile, recipe, data, machine) -> the matrix of variants, exports and cells. Pure and printable.

Keys are hashes of everything that decides a result, so that finished work is found again and a
changed option is never mistaken for it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from dataclasses import dataclass, replace

from bench.errors import UsageError, nearest
from bench.recipe import Recipe
from bench.steps import PruneStep, QatStep
from bench.types import Cell, Json, Profile, Protocol, Variant, digest
from hardware_profiles.load import LOCAL
from hardware_profiles.prediction.coefficients import fingerprint
from hardware_profiles.prediction.features import BYTES

EXPORT_VERSION = 2
HARNESS_VERSION = 1
DEVICE = "device"
"""The kind of a profile that nobody wrote: a device is only known by what it says of itself."""


@dataclass(frozen=True)
class RuntimeFacts:
    """What planning needs to know of a runtime on this machine."""

    name: str
    format: str
    version: str
    int8_scheme: str
    device: str = "cpu"
    missing: str = ""
    remedy: str = ""
    refusals: tuple[tuple[str, str], ...] = ()
    formats: tuple[str, ...] = ()

    def refusal(self, precision: str) -> str:
        """Why a precision is not run here; empty when it is."""
        return dict(self.refusals).get(precision, "")


@dataclass(frozen=True)
class Elsewhere:
    """A target reached over a network: what identifies its hardware, and its runtimes.

    ``chosen``: the person named the runtimes; those of a recipe as such are for any machine.
    """

    machine: str
    runtimes: tuple[RuntimeFacts, ...]
    chosen: bool = False

    def taking_part(self, recipe: Recipe, profile: Profile) -> tuple[RuntimeFacts, ...]:
        """Those chosen; else the profile's, there or not, and of the recipe's those that are there; in the order of the report."""
        if self.chosen:
            return tuple(r for r in self.runtimes if r.name in recipe.runtimes)
        described = profile.kind != DEVICE
        known = profile.runtimes if described else ()
        perhaps = recipe.runtimes or (() if described else profile.runtimes)
        return tuple(r for r in self.runtimes if r.name in known or (r.name in perhaps and not r.missing))


@dataclass(frozen=True)
class Place:
    """Where cells are measured: what identifies the hardware, and the profile of a device that is not this machine."""

    machine: str
    profile: Profile | None = None

    @property
    def host(self) -> str:
        """The name in cells."""
        return self.profile.name if self.profile else "local"

    def refusal(self, runtime: RuntimeFacts, precision: str) -> str:
        """Why a precision is not run there; empty when it is."""
        if runtime.missing:
            return runtime.missing
        known = self.profile.refusal(runtime.name, precision, runtime.version) if self.profile else ""
        return known or runtime.refusal(precision)


@dataclass(frozen=True)
class PlannedVariant:
    variant: Variant
    key: str
    measured: bool


@dataclass(frozen=True)
class PlannedExport:
    """One artifact to make: a variant in a format, precision and INT8 scheme.

    ``float_key`` is the export it is made from; ``runtime`` times its candidates here, empty where nothing does.
    """

    key: str
    variant: str
    format: str
    precision: str
    scheme: str = ""
    float_key: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class PlannedCell:
    """``skip`` is why its latency is not measured; its accuracy may still be, through ``runtime_here``.

    ``predict``: latency, memory and energy are predicted instead.
    """

    cell: Cell
    key: str
    export: str
    runtime_here: str
    device: str = "cpu"
    skip: str = ""
    remedy: str = ""
    predict: bool = False


@dataclass(frozen=True)
class Plan:
    profile: Profile
    recipe: Recipe
    protocol: Protocol
    seed: int
    data_digest: str
    variants: tuple[PlannedVariant, ...]
    exports: tuple[PlannedExport, ...]
    cells: tuple[PlannedCell, ...]

    def variant(self, name: str) -> PlannedVariant:
        """The planned variant of that name."""
        return next(v for v in self.variants if v.variant.name == name)

    def export(self, key: str) -> PlannedExport:
        """The planned export of that key."""
        return next(e for e in self.exports if e.key == key)


def make_plan(
    profile: Profile,
    recipe: Recipe,
    *,
    data_digest: str,
    seed: int,
    machine: str,
    runtimes: tuple[RuntimeFacts, ...],
    files: dict[str, str],
    only: str = "",
    there: Elsewhere | None = None,
    precisions: Collection[str] = (),
) -> Plan:
    """Lay out everything a run will make and measure.

    Args:
        machine: identifies this machine's hardware; part of every cell's key.
        runtimes: the local runtimes, present or not, in the order of the report. Cells here are for those
            that the recipe names, else for those of the profile ``local``; any may stand in for a device's.
        files: sha256 of every file the recipe names (weights, model code); part of the keys.
        only: a glob; other variants are made only where these need them, and not measured.
        there: the target itself, when it is reached over a network: cells are then measured there, and only there.
        precisions: for which a pruned net is made, where the recipe has only some of its descendants.

    Raises:
        UsageError: ``only`` matches nothing.
    """
    scheme = _scheme(profile, taking_part(recipe, runtimes))
    recipe = replace(
        recipe, variants=tuple(_for_target(v, recipe, profile, scheme, precisions) for v in recipe.variants)
    )
    protocol = protocol_of(profile, recipe)
    variants = _plan_variants(recipe, data_digest, seed, files, only, protocol)
    exports: dict[str, PlannedExport] = {}
    cells: list[PlannedCell] = []
    by_name = {v.variant.name: v for v in variants}
    measured = [v for v in variants if v.measured]
    # a runtime's cells one after another: what is compared most is measured closest together
    place = Place(machine) if there is None else Place(there.machine, profile)
    for runtime in taking_part(recipe, runtimes) if there is None else there.taking_part(recipe, profile):
        for planned in measured:
            cells += _cells(planned, runtime, protocol, by_name, exports, place)
    for planned in measured if profile.kind != "local" and there is None else ():
        cells += _device_cells(planned, profile, protocol, runtimes, by_name, exports)
    return Plan(
        profile, recipe, protocol, seed, data_digest, tuple(variants), tuple(exports.values()), tuple(cells)
    )  # fmt: skip


def protocol_of(profile: Profile, recipe: Recipe) -> Protocol:
    """The profile's protocol with what the recipe changes."""
    return replace(profile.protocol, **_tuples(recipe.protocol))


def taking_part(recipe: Recipe, runtimes: tuple[RuntimeFacts, ...]) -> tuple[RuntimeFacts, ...]:
    """The runtimes of this machine that a recipe is measured on."""
    wanted = recipe.runtimes or LOCAL.runtimes
    return tuple(r for r in runtimes if r.name in wanted)


def _for_target(
    variant: Variant, recipe: Recipe, profile: Profile, scheme: str, precisions: Collection[str]
) -> Variant:
    """Fill in what a recipe leaves to the target."""
    step = variant.step
    if isinstance(step, PruneStep) and step.round_to == 0:
        made = precisions or {v.precision for v in recipe.variants if variant.name in _line(recipe, v.name)}
        return replace(variant, step=replace(step, kernels=profile.kernels(made)))
    if isinstance(step, QatStep) and not step.scheme:
        return replace(variant, step=replace(step, scheme=scheme))
    return variant


def _line(recipe: Recipe, name: str) -> list[str]:
    """A variant's name, its parent's, that one's parent's, and so on."""
    parents = {v.name: v.parent for v in recipe.variants}
    line = [name]
    while parents.get(line[-1]):
        line.append(parents[line[-1]])
    return line


def _scheme(profile: Profile, runtimes: tuple[RuntimeFacts, ...]) -> str:
    """For which int8 files a net is trained: the device's, or here those of the first runtime that has a choice."""
    named = [profile.int8_scheme] if profile.kind != "local" else [r.int8_scheme for r in runtimes]
    return next((s for s in named if s not in ("", "litert")), "u8s8")


def _tuples(table: Json) -> Json:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}


def _plan_variants(
    recipe: Recipe, data_digest: str, seed: int, files: dict[str, str], only: str, protocol: Protocol
) -> list[PlannedVariant]:
    names = [v.name for v in recipe.variants]
    chosen = {n for n in names if fnmatch.fnmatchcase(n, only or "*")}
    if not chosen:
        raise UsageError(f"--only {only!r} matches no variant", todo=nearest(only, names))
    chosen.add(recipe.reference)
    needed = set(chosen)
    for variant in reversed(recipe.variants):
        if variant.name in needed:
            needed.update(variant.needs)
            needed.update({variant.alone} - {""} if variant.name in chosen else ())
    keys: dict[str, str] = {}
    planned = []
    setting = [protocol.threads[0], protocol.batches[0], list(protocol.cpus)]
    for variant in recipe.variants:
        if variant.name not in needed:
            continue
        model_files = {n: files[n] for n in _files_of(variant) if n in files}
        timed = isinstance(variant.step, PruneStep) and variant.step.latency > 0 and setting != [1, 1, []]
        keys[variant.name] = digest(
            [variant.step, [keys[n] for n in variant.needs], seed, data_digest, model_files]
            + (setting if timed else [])
        )
        measured = variant.name in chosen and not variant.intermediate
        planned.append(PlannedVariant(variant, keys[variant.name], measured))
    return planned


def _files_of(variant: Variant) -> list[str]:
    model, weights = getattr(variant.step, "model", ""), getattr(variant.step, "weights", "")
    named = (
        [model.split(":")[1]]
        if model.startswith("py:")
        else [model]
        if model.endswith(".safetensors")
        else []
    )
    return named + ([weights] if weights else [])


def files_named(recipe: Recipe) -> list[str]:
    """Every file that the recipe's models come from (``py:`` factories, models and weights)."""
    return sorted({f for v in recipe.variants for f in _files_of(v) if f != "pretrained"})


def _add_export(
    planned: PlannedVariant,
    fmt: str,
    scheme: str,
    by_name: dict[str, PlannedVariant],
    exports: dict[str, PlannedExport],
    runtime: str = "",
) -> str:
    """Register an export (and the float parent's, which it is made from); returns its key."""
    precision = planned.variant.precision
    scheme = scheme if precision == "int8" else ""
    float_key = ""
    if precision != "fp32" and not isinstance(planned.variant.step, QatStep):
        float_key = _add_export(by_name[planned.variant.parent], fmt, "", by_name, exports, runtime)
    key = digest([planned.key, fmt, precision, scheme, EXPORT_VERSION])
    exports.setdefault(
        key, PlannedExport(key, planned.variant.name, fmt, precision, scheme, float_key, runtime)
    )
    return key


def _cells(
    planned: PlannedVariant,
    runtime: RuntimeFacts,
    protocol: Protocol,
    by_name: dict[str, PlannedVariant],
    exports: dict[str, PlannedExport],
    place: Place,
) -> list[PlannedCell]:
    precision = planned.variant.precision
    skip = place.refusal(runtime, precision)
    export = ""
    if not skip:
        timed = runtime.name if place.host == "local" else ""
        export = _add_export(planned, runtime.format, runtime.int8_scheme, by_name, exports, timed)
    cells = []
    for batch in protocol.batches if not skip else protocol.batches[:1]:
        for threads in protocol.threads if not skip else protocol.threads[:1]:
            cell = Cell(planned.variant.name, runtime.name, precision, batch, threads, place.host)
            timing = replace(protocol, batches=(), threads=())
            key = digest(
                [
                    planned.key,
                    export,
                    cell,
                    timing,
                    runtime.version,
                    runtime.device,
                    place.machine,
                    skip,
                    HARNESS_VERSION,
                ]
            )
            remedy = runtime.remedy if runtime.missing else ""
            cells.append(PlannedCell(cell, key, export, runtime.name, runtime.device, skip, remedy))
    return cells


def _device_cells(
    planned: PlannedVariant,
    profile: Profile,
    protocol: Protocol,
    runtimes: tuple[RuntimeFacts, ...],
    by_name: dict[str, PlannedVariant],
    exports: dict[str, PlannedExport],
) -> list[PlannedCell]:
    """Cells of a device that is not here: predicted, with the accuracy of the target's scheme from here."""
    precision = planned.variant.precision
    here = {r.name: r for r in runtimes if not r.missing}
    cells = []
    for name in profile.runtimes:
        proxy = here.get(name) or here.get("onnxruntime")
        reason = f"no host for {profile.name}: its latency, memory and energy are predicted, not measured"
        remedy = (
            f"reach one with --host adb:// ({profile.title})"
            if profile.kind == "phone"
            else f"reach one with --host ssh://USER@ADDRESS, or run edgefit on the device itself ({profile.title})"
        )
        refusal = profile.refusal(name, precision)
        if refusal:
            reason, remedy, proxy = refusal, "", None
        if precision == "bf16":
            proxy = None
        scheme = "litert" if proxy and proxy.format == "tflite" else profile.int8_scheme
        if scheme == "litert" and proxy and proxy.format != "tflite":
            scheme = "u8s8"
        export = _add_export(planned, proxy.format, scheme, by_name, exports) if proxy else ""
        cell = Cell(
            planned.variant.name,
            name,
            precision,
            profile.protocol.batches[0],
            profile.protocol.threads[0],
            profile.name,
        )
        foretold = not refusal and precision in BYTES
        basis = fingerprint(profile) if foretold else ""
        key = digest(
            [planned.key, export, cell, proxy.version if proxy else "", reason, basis, HARNESS_VERSION]
        )
        proxy_name = proxy.name if proxy else ""
        cells.append(PlannedCell(cell, key, export, proxy_name, "cpu", reason, remedy, foretold))
    return cells
