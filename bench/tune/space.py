"""The search space: a recipe's table ``[tune]``, whose sections are steps with lists and ranges for values.

    [tune]          quantize, image_size (lists), margin
    [tune.student]  a fresh net that learns from the reference: the keys of a distill step, and `width`
    [tune.prune]    the reference with fewer channels: the keys of a prune step; those of training are its recovery's too
    [tune.distill]  what both have in common: loss, temperature, alpha, epochs, lr, ...
    [tune.int8]     of the quantize step behind the rungs int8, equalize and mse
    [tune.qat]      of the qat step behind the rung qat

A list is a choice, ``{ low = 0.3, high = 0.8, step = 0.1 }`` a range, anything else is fixed. Which of
student and prune applies is a choice too (the *route*), and a parameter exists only where its section
applies.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import ConfigError, nearest
from bench.steps import FROM_TARGET, DistillStep, PruneStep, QatStep, QuantizeStep, Training
from bench.types import Json

Scalar = str | int | float | bool
Params = dict[str, Any]
"""A choice for each parameter that applies, by its name in the study: ``route``, ``prune.macs``, ..."""

ROUTES = ("student", "prune")
RUNGS: dict[str, Json] = {
    "none": {},
    "int8": {"step": "quantize"},
    "equalize": {"step": "quantize", "equalize": True, "correct_bias": True},
    "mse": {"step": "quantize", "ranges": "mse"},
    "qat": {"step": "qat"},
}
"""What ``quantize`` chooses from: the step that is put behind the float net."""

_SECTIONS: dict[str, tuple[type[Any], ...]] = {
    "student": (DistillStep, Training),
    "prune": (PruneStep, DistillStep, Training),
    "distill": (DistillStep, Training),
    "int8": (QuantizeStep,),
    "qat": (QatStep, Training),
}
_NOT_THERE: dict[str, tuple[str, ...]] = {
    "student": ("teacher",),
    "prune": ("teacher", "model", *FROM_TARGET),
    "distill": ("model",),
    "int8": ("precision",),
    "qat": (),
}
_TOP: dict[str, Any] = {"quantize": str, "image_size": int, "margin": float}
PRUNE_KEYS = tuple(
    f.name
    for f in dataclasses.fields(PruneStep)
    if f.name not in ("kind", "version", "training", *FROM_TARGET)
)
TRAINING_KEYS = tuple(f.name for f in dataclasses.fields(Training))
MARGIN = 0.05
"""Share of the validation images by which a training may lag behind the front before it is stopped."""


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; ``whole`` for whole numbers."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def plain(self, value: Any) -> Any:
        """A sampled number to its step or a thousandth of the range, so that a name tells it and two trials can meet."""
        if self.whole or not isinstance(value, float):
            return value
        if self.step:
            value = self.low + round((value - self.low) / self.step) * self.step
            return float(f"{value:.10g}")  # 0.3, not 0.30000000000000004
        digits = (
            2 - math.floor(math.log10(value)) if self.log else 3 - math.ceil(math.log10(self.high - self.low))
        )
        return min(max(round(value, digits), self.low), self.high)


Domain = Choices | Range
Suggest = Callable[[str, Domain], Scalar]
"""Chooses a value of a parameter, given its name: Optuna's trial, or a test."""


@dataclass(frozen=True)
class Space:
    """What is searched (``domains``) and what is fixed, both by parameter name. Made by :func:`parse`."""

    domains: dict[str, Domain]
    fixed: dict[str, Any]
    margin: float = MARGIN

    def known(self, name: str) -> bool:
        """Whether the recipe says anything of this parameter."""
        return name in self.domains or name in self.fixed

    def value(self, params: Params, name: str) -> Any:
        """The value of a parameter under a choice; None where the recipe leaves it to the step's default."""
        value, domain = params.get(name, self.fixed.get(name)), self.domains.get(name)
        return domain.plain(value) if isinstance(domain, Range) else value

    def values(self, name: str) -> tuple[Any, ...]:
        """What a parameter may be: every value of a list, both ends of a range, or the one that is fixed."""
        domain = self.domains.get(name)
        if domain is None:
            return (self.fixed[name],)
        if isinstance(domain, Choices):
            return domain.values
        ends = (domain.low, domain.high)
        return tuple(int(v) for v in ends) if domain.whole else ends

    def applies(self, params: Params, name: str) -> bool:
        """Whether a parameter has a meaning under a choice: its section is taken, no other overrides it."""
        section, _, key = name.partition(".")
        if not key:
            return True
        route, rung = self.value(params, "route"), RUNGS[self.value(params, "quantize")]
        step = rung.get("step")
        if section == "distill":
            return not self.known(f"{route}.{key}")
        if section in ("int8", "qat"):
            return step == {"int8": "quantize", "qat": "qat"}[section] and key not in rung
        return bool(section == route)

    def sample(self, suggest: Suggest) -> Params:
        """A choice for every parameter that applies, in a fixed order."""
        params: Params = {}
        for name in ("image_size", "route", "quantize"):
            if name in self.domains:
                params[name] = suggest(name, self.domains[name])
        for name, domain in self.domains.items():
            if name not in params and self.applies(params, name):
                params[name] = suggest(name, domain)
        return params

    def first(self, route: str, rung: str) -> Params:
        """The first of every list and the middle of every range: where the writer of a recipe would begin."""
        start = {"route": route, "quantize": rung}

        def suggest(name: str, domain: Domain) -> Scalar:
            return start[name] if name in start else _middle(domain)

        return self.sample(suggest)

    def section(self, params: Params, name: str) -> Json:
        """The keys of one section under a choice, fixed ones included, as a recipe would have them."""
        found = {}
        for full in (*self.fixed, *self.domains):
            if full.startswith(f"{name}.") and self.applies(params, full):
                found[full.partition(".")[2]] = self.value(params, full)
        return found

    def holds(self, name: str, value: Any) -> bool:
        """Whether the search may choose this value."""
        if name in self.fixed:
            return bool(self.fixed[name] == value)
        domain = self.domains.get(name)
        if isinstance(domain, Range):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return False
            steps = (value - domain.low) / domain.step if domain.step else 0.0
            return domain.low <= value <= domain.high and math.isclose(steps, round(steps), abs_tol=1e-6)
        return domain is not None and any(v == value and type(v) is type(value) for v in domain.values)


def _middle(domain: Domain) -> Scalar:
    if isinstance(domain, Choices):
        return domain.values[0]
    low, high = domain.low, domain.high
    middle = math.sqrt(low * high) if domain.log else (low + high) / 2
    if domain.step:
        middle = low + round((middle - low) / domain.step) * domain.step
    return round(middle) if domain.whole else domain.plain(middle)


# --- from TOML


def parse(table: Any, where: str) -> Space:
    """The space of a recipe's table ``[tune]``; names, types and ranges checked, the steps' values not yet.

    Raises:
        ConfigError: no table, an unknown key, an empty list, an impossible range, no route.
    """
    if table is None:
        raise ConfigError(
            f"{where} has no [tune] table: nothing to search",
            todo="`bench tune --recipe tune` has one; see the file bench/recipes/tune.toml",
        )
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: tune must be a table", repr(table))
    domains: dict[str, Domain] = {}
    fixed: dict[str, Any] = {"quantize": "none"}
    for key, value in table.items():
        if key in _SECTIONS:
            _parse_section(key, value, where, domains, fixed)
        elif key in _TOP:
            fixed.pop(key, None)
            _put(key, _domain(value, _TOP[key], f"{where} [tune] {key}"), domains, fixed)
        else:
            raise ConfigError(f"{where} [tune]: unknown key {key!r}", todo=nearest(key, (*_TOP, *_SECTIONS)))
    routes = [route for route in ROUTES if route in table]
    if not routes:
        raise ConfigError(
            f"{where} [tune]: neither [tune.student] nor [tune.prune]", todo="Give at least one"
        )
    _put("route", Choices(tuple(routes)) if len(routes) > 1 else routes[0], domains, fixed)
    margin = fixed.pop("margin", MARGIN)
    if "margin" in domains or not isinstance(margin, float) or not 0 < margin <= 1:
        raise ConfigError(f"{where} [tune] margin must be a share above 0 and up to 1", repr(margin))
    _check_routes(routes, domains, fixed, where)
    return Space(domains, fixed, margin)


def _check_routes(
    routes: list[str], domains: Mapping[str, Domain], fixed: Mapping[str, Any], where: str
) -> None:
    rungs = domains.get("quantize", Choices((fixed.get("quantize", "none"),)))
    for rung in rungs.values if isinstance(rungs, Choices) else ():
        if rung not in RUNGS:
            raise ConfigError(f"{where} [tune] quantize: {rung!r}", todo=nearest(str(rung), RUNGS))
    if not isinstance(rungs, Choices):
        raise ConfigError(
            f"{where} [tune] quantize must be a list of rungs", todo=f"Known: {', '.join(RUNGS)}"
        )
    known = {*domains, *fixed}
    if "student" in routes and "student.model" not in known:
        raise ConfigError(
            f"{where} [tune.student]: model is missing", todo='Such as model = ["edgefit:resnet8"]'
        )
    targets = [k for k in ("macs", "params", "size", "latency") if f"prune.{k}" in known]
    if "prune" in routes and len(targets) != 1 and "prune.sparsity" not in known:
        raise ConfigError(
            f"{where} [tune.prune] wants one target: macs, params, size or latency",
            ", ".join(targets) or "none",
            "For example: macs = { low = 0.3, high = 0.8 }",
        )


def _parse_section(
    name: str, table: Any, where: str, domains: dict[str, Domain], fixed: dict[str, Any]
) -> None:
    place = f"{where} [tune.{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{place} must be a table", repr(table))
    hints = keys_of(name)
    for key, value in table.items():
        if key not in hints:
            raise ConfigError(f"{place}: unknown key {key!r}", todo=nearest(key, hints))
        _put(f"{name}.{key}", _domain(value, hints[key], f"{place} {key}"), domains, fixed)


def keys_of(section: str) -> dict[str, Any]:
    """The keys of a section and their types."""
    found: dict[str, Any] = {"width": float} if section == "student" else {}
    for cls in _SECTIONS[section]:
        hints = typing.get_type_hints(cls)
        names = [f.name for f in dataclasses.fields(cls) if f.name not in ("kind", "version", "training")]
        found |= {n: hints[n] for n in names if n not in _NOT_THERE[section] and n not in found}
    return found


def _put(name: str, value: Any, domains: dict[str, Domain], fixed: dict[str, Any]) -> None:
    if isinstance(value, (Choices, Range)):
        domains[name] = value
    else:
        fixed[name] = value


def _domain(value: Any, hint: Any, place: str) -> Any:
    """A list of several as Choices, a table as Range; a list of one and anything else as it is."""
    if typing.get_origin(hint) is tuple:
        return value
    if isinstance(hint, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if isinstance(value, dict):
        return _range(value, hint, place)
    if not isinstance(value, list):
        return _scalar(value, hint, place)
    values = [_scalar(v, hint, place) for v in value]
    if not values:
        raise ConfigError(f"{place} is an empty list", todo="Give it a value, or leave it out")
    if len(set(values)) < len(values):
        raise ConfigError(f"{place} names a value twice", repr(value))
    return Choices(tuple(values)) if len(values) > 1 else values[0]


def _scalar(value: Any, hint: Any, place: str) -> Scalar:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise ConfigError(f"{place} must be {words[hint]}, or a list of such", repr(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place} must be finite", repr(value))
    return typing.cast(Scalar, value)


def _range(table: Json, hint: Any, place: str) -> Range:
    known = ("low", "high", "step", "log")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ConfigError(f"{place}: unknown key {unknown[0]!r} of a range", todo=nearest(unknown[0], known))
    if hint not in (int, float):
        raise ConfigError(f"{place} is no number and has no range", todo="Give a list")
    numbers = {k: _scalar(table[k], hint, f"{place}.{k}") for k in ("low", "high", "step") if k in table}
    low, high, step = (numbers.get(k) for k in ("low", "high", "step"))
    log = table.get("log", False)
    if low is None or high is None or not isinstance(log, bool):
        raise ConfigError(f"{place} wants low and high, and log = true or false", repr(table))
    if not low < high:  # type: ignore[operator]
        raise ConfigError(f"{place}: low must be below high", f"{low} and {high}")
    if step is not None and not 0 < step <= high - low:  # type: ignore[operator]
        raise ConfigError(f"{place}: step must be above 0 and at most high - low", str(step))
    if log and (step is not None or low <= 0):  # type: ignore[operator]
        raise ConfigError(f"{place}: a logarithmic range starts above 0 and has no step", repr(table))
    return Range(float(low), float(high), None if step is None else float(step), log, hint is int)
