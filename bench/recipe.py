"""Recipes: a TOML file (data, teacher, variants as a graph of steps) turned into frozen dataclasses.

Everything is checked here, before any work: names, types, ranges, cycles. All problems of one
table are reported together, each with the place and the nearest known name.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, nearest
from bench.steps import (
    FROM_TARGET,
    NOT_IN_PRUNING,
    DataOptions,
    DistillStep,
    PruneStep,
    QatStep,
    QuantizeStep,
    Step,
    Training,
    TrainStep,
)
from bench.types import Json, Protocol, Variant
from hardware_profiles.load import TYPE_WORDS, parse_toml, read_toml

FOLDER = Path(__file__).parent / "recipes"
STEPS: dict[str, type[Any]] = {
    "train": TrainStep,
    "distill": DistillStep,
    "prune": PruneStep,
    "quantize": QuantizeStep,
    "qat": QatStep,
}
_TOP = ("schema", "description", "reference", "runtimes", "data", "training", "protocol", "variants", "tune")
ALONE = "-alone"
"""Ends the name of a variant that is trained as a distilled one, without its teacher."""
_VARIANT = ("step", "parent", "parents", "intermediate", "alone")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; ``variants`` in an order in which each comes after what it needs.

    ``runtimes`` are those of this machine that take part; none named means those of the profile ``local``.
    """

    name: str
    description: str
    reference: str
    data: DataOptions
    protocol: Json
    variants: tuple[Variant, ...]
    runtimes: tuple[str, ...] = ()


def names() -> dict[str, Path]:
    """The recipes that come with edgefit."""
    return {p.stem: p for p in sorted(FOLDER.glob("*.toml"))}


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read the recipe of that name (or a path to a TOML file), apply ``key=value`` overrides, check it.

    Its table ``tune`` is for :mod:`bench.tune`, which checks it.

    Raises:
        ConfigError: unknown name, malformed TOML, unknown keys, impossible values, or a cycle.
    """
    table, path = read(name, overrides)
    return parse(table, path.stem, str(path))


def read(name: str, overrides: dict[str, Any] | None = None) -> tuple[Json, Path]:
    """The TOML table of a recipe with ``key=value`` overrides applied, not yet checked; and its file.

    Raises:
        ConfigError: unknown name, malformed TOML, or an override of what is not there.
    """
    known = names()
    if name in known:
        path = known[name]
    elif name.endswith(".toml") or "/" in name:
        path = Path(name)
    else:
        raise ConfigError(f"There is no recipe named {name!r}", todo=nearest(name, known))
    table = read_toml(path)
    for key, value in (overrides or {}).items():
        _override(table, key, value)
    return table, path


def parse_override(text: str) -> tuple[str, Any]:
    """``training.epochs=3`` -> ("training.epochs", 3); values are TOML, anything else is a string."""
    key, separator, raw = text.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"--set wants key=value, not {text!r}", todo="For example: --set training.epochs=3")
    try:
        return key, parse_toml(f"value = {raw}")["value"]
    except ValueError:
        return key, raw.strip()


def _override(table: Json, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    if not parents and key in {f.name for f in dataclasses.fields(Training)}:
        raise ConfigError(
            f"--set {key}: a recipe has no such key at its top", todo=f"Did you mean training.{key}?"
        )
    if parents[:1] == ["variants"] and len(parents) > 1 and parents[1] not in table.get("variants", {}):
        raise ConfigError(
            f"--set {key}: no variant {parents[1]!r}", todo=nearest(parents[1], table.get("variants", {}))
        )
    node = table
    for i, part in enumerate(parents):
        child = node.setdefault(part, {}) if part in _TOP or i else node.get(part)
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {key}: there is no table {'.'.join(parents[: i + 1])!r}", todo=nearest(part, _TOP)
            )
        node = child
    node[last] = value


def parse(table: Json, name: str, where: str) -> Recipe:
    """A recipe from its TOML table. ``where`` names the file in errors."""
    _known_keys(table, _TOP, where)
    if table.get("schema") != 1:
        raise ConfigError(f"{where}: schema must be 1", str(table.get("schema", "none")))
    data = build(DataOptions, table.get("data", {}), f"{where} [data]")
    if (data.image_size is not None and data.image_size < 4) or data.calibration < 1:
        raise ConfigError(f"{where} [data]: image_size must be at least 4 and calibration at least 1")
    if data.resize not in ("stretch", "crop"):
        raise ConfigError(
            f"{where} [data]: resize", repr(data.resize), nearest(data.resize, ("stretch", "crop"))
        )
    protocol = table.get("protocol", {})
    check_protocol(build(Protocol, protocol, f"{where} [protocol]"), f"{where} [protocol]")
    variants = _variants(table, where)
    reference = table.get("reference") or next((v.name for v in variants if not v.intermediate), "")
    by_name = {v.name: v for v in variants}
    if not isinstance(reference, str) or reference not in by_name:
        raise ConfigError(
            f"{where}: reference {reference!r} is no variant", todo=nearest(str(reference), by_name)
        )
    if by_name[reference].intermediate:
        raise ConfigError(f"{where}: the reference {reference!r} is intermediate", todo="It must be measured")
    return Recipe(
        name,
        str(table.get("description", "")),
        reference,
        data,
        dict(protocol),
        _ordered(by_name, where),
        _runtimes(table.get("runtimes", []), where),
    )


def _runtimes(names: Any, where: str) -> tuple[str, ...]:
    """The runtimes of this machine that take part, checked against those there are."""
    from bench.runtimes import RUNTIMES

    if not isinstance(names, list):
        raise ConfigError(f"{where}: runtimes must be a list", repr(names), 'Such as ["onnxruntime"]')
    for name in names:
        if name not in RUNTIMES:
            raise ConfigError(f"{where}: no runtime is called {name!r}", todo=nearest(str(name), RUNTIMES))
    return tuple(dict.fromkeys(names))


def check_protocol(protocol: Protocol, where: str) -> None:
    """Refuse timing protocols that cannot be carried out."""
    bad = []
    if not 0 < protocol.half_width < 1:
        bad.append("half_width must be between 0 and 1")
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if protocol.cpus and not set(protocol.cpus) <= here:
        bad.append(f"cpus must be some of {sorted(here)}, those this process may use")
    if not 1 <= protocol.processes <= 100:
        bad.append("processes must be 1 to 100")
    if protocol.min_runs < 6:
        bad.append("min_runs must be at least 6 (an interval of the median needs 6 samples)")
    if not 0 < protocol.max_seconds < protocol.timeout_seconds:
        bad.append("max_seconds must be above 0 and below timeout_seconds")
    if protocol.warmup_seconds < 0:
        bad.append("warmup_seconds must not be negative")
    if not protocol.batches or not protocol.threads or min(*protocol.batches, *protocol.threads) < 1:
        bad.append("batches and threads must be lists of numbers of at least 1")
    if bad:
        raise ConfigError(f"{where}: {'; '.join(bad)}")


def _known_keys(table: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table", repr(table))
    unknown = [k for k in table if k not in known]
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}", todo=nearest(unknown[0], known))


_hints = cache(typing.get_type_hints)  # a search builds thousands of steps


def build(cls: type[Any], table: Any, where: str) -> Any:
    """A frozen dataclass from a table, each value checked against its field's type.

    Raises:
        ConfigError: unknown keys, wrong types, non-finite numbers, missing values.
    """
    fields = [f for f in dataclasses.fields(cls) if f.name not in ("kind", "version")]
    _known_keys(table, tuple(f.name for f in fields), where)
    hints = _hints(cls)  # type: ignore[arg-type]  # of a class, which can be hashed
    values = {key: _typed(value, hints[key], f"{where} {key}") for key, value in table.items()}
    missing = [
        f.name
        for f in fields
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {missing[0]} is missing")
    return cls(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        kinds = [k for k in typing.get_args(hint) if k is not type(None)]
        return value if value is None else _typed(value, kinds[0], where)
    if dataclasses.is_dataclass(hint):
        return value
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, str) and inner is str:
            value = (value,)  # one name needs no brackets
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list", repr(value))
        return tuple(_typed(v, inner, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be {TYPE_WORDS[hint]}", repr(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite", repr(value))
    return value


def _variants(table: Json, where: str) -> list[Variant]:
    tables = table.get("variants")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{where}: no [variants.NAME] table", todo="A recipe needs at least a teacher")
    build(Training, table.get("training", {}), f"{where} [training]")
    found: dict[str, Variant] = {}
    for pattern, entry in tables.items():
        place = f"{where} [variants.{pattern}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{place} must be a table", repr(entry))
        parents = entry.get("parents", [entry.get("parent", "")])
        if ("parents" in entry) != ("{parent}" in pattern) or not isinstance(parents, list) or not parents:
            raise ConfigError(f"{place}: a name with {{parent}} and a list `parents` go together")
        for parent in parents:
            name = pattern.replace("{parent}", str(parent))
            if name in found:
                raise ConfigError(f"{place}: there are two variants {name!r}")
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise ConfigError(
                    f"{place}: {name!r} cannot be a variant's name", todo="Use letters, digits, -, _ and ."
                )
            step = _step(entry, table.get("training", {}), place)
            if "alone" in entry and not isinstance(step, DistillStep):
                raise ConfigError(f"{place}: only a distill step has `alone`")
            found[name] = Variant(
                name, step, str(parent), _flag(entry, "intermediate", False, place),
                f"{name}{ALONE}" if isinstance(step, DistillStep) and _flag(entry, "alone", True, place) else "",
            )  # fmt: skip
    for variant in found.values():
        _check_variant(variant, found, f"{where} [variants.{variant.name}]")
    return _with_twins(found)


def _with_twins(found: dict[str, Variant]) -> list[Variant]:
    """Give every distilled variant its twin: the same student with the same training and no teacher.

    A variant of the recipe that is just that serves; else one is added, which is trained and not measured.
    """
    known = {(v.step, v.parent): v.name for v in found.values() if isinstance(v.step, TrainStep)}
    variants = []
    for variant in found.values():
        step = variant.step
        if variant.alone and isinstance(step, DistillStep):
            twin = TrainStep(model=step.model, training=step.training)
            name = known.setdefault((twin, variant.parent), variant.alone)
            if name == variant.alone and name not in found:
                variants.append(Variant(name, twin, variant.parent, intermediate=True))
            variant = dataclasses.replace(variant, alone=name)
        variants.append(variant)
    return variants


def _flag(entry: Json, key: str, default: bool, place: str) -> bool:
    value = entry.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{place}: {key} must be true or false", repr(value))
    return value


def _step(entry: Json, training_defaults: Any, place: str) -> Step:
    kind = entry.get("step")
    if not isinstance(kind, str) or kind not in STEPS:
        raise ConfigError(f"{place}: step", repr(kind), nearest(str(kind), STEPS))
    cls = STEPS[kind]
    own = {f.name for f in dataclasses.fields(cls)} - {"kind", "version", "training", *FROM_TARGET}
    options = {k: v for k, v in entry.items() if k not in _VARIANT}
    if "training" not in {f.name for f in dataclasses.fields(cls)}:
        return typing.cast(Step, build(cls, options, place))
    trains = {f.name for f in dataclasses.fields(Training)}
    _known_keys(options, tuple(sorted(own | trains)), place)
    step = build(cls, {k: v for k, v in options.items() if k in own}, place)
    chosen = {k: v for k, v in options.items() if k in trains}
    if isinstance(step, PruneStep):
        from compress.prune import check_trained

        check_trained(step, chosen, f"{place}: ")
        if not step.trains:
            return step  # its result, and so its key, does not depend on how others train
        training_defaults = {k: v for k, v in training_defaults.items() if k not in NOT_IN_PRUNING}
    training = build(Training, training_defaults | own_training(step) | chosen, place)
    return typing.cast(Step, dataclasses.replace(step, training=training))


def own_training(step: Any) -> Json:
    """What a step says of its training that is not everyone's default: a qat step trains a few epochs, gently."""
    plain = Training()
    names = [f.name for f in dataclasses.fields(Training)]
    return {n: v for n in names if (v := getattr(step.training, n)) != getattr(plain, n)}


def _check_variant(variant: Variant, known: dict[str, Variant], place: str) -> None:
    for name in variant.needs:
        if name not in known:
            raise ConfigError(f"{place}: there is no variant {name!r}", todo=nearest(name, known))
    _check_step(variant, place)
    if variant.parent and known[variant.parent].precision != "fp32":
        raise ConfigError(
            f"{place}: its parent {variant.parent!r} is already {known[variant.parent].precision}"
        )


def _check_step(variant: Variant, place: str) -> None:
    step = variant.step
    if isinstance(step, (TrainStep, DistillStep)):
        from distill.train import check_distill, check_training

        if bool(step.model) == bool(variant.parent):
            raise ConfigError(
                f"{place}: a {step.kind} step takes either a model (fresh) or a parent (goes on from it)"
            )
        if isinstance(step, DistillStep):
            check_distill(step)
        else:
            check_training(step.training, step.has_weights)
    elif not variant.parent:
        raise ConfigError(f"{place}: a {step.kind} step needs a parent")
    elif isinstance(step, PruneStep):
        from compress.prune import check_prune

        check_prune(step)
    elif isinstance(step, QatStep):
        from compress.qat import check_qat

        check_qat(step)
    else:
        from compress.quantize import check_quantize

        check_quantize(step)


def _ordered(variants: dict[str, Variant], where: str) -> tuple[Variant, ...]:
    graph = {name: v.needs for name, v in variants.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as err:
        cycle = " -> ".join(err.args[1])
        raise ConfigError(f"{where}: the variants need each other in a circle", cycle) from err
    return tuple(variants[name] for name in order)
