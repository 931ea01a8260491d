"""Points: a choice of the search, or a variant made by hand, as an ordinary recipe of its own.

Two points share whatever is the same in them, since a run finds finished work by content. For their *names*
to agree too, a variant's name tells everything the search chose for it, and what the recipe already has by
hand keeps its name there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench import recipe as recipes
from bench.errors import ConfigError
from bench.recipe import Recipe
from bench.steps import NOT_IN_PRUNING, DistillStep, PruneStep, QatStep, Step
from bench.tune.space import PRUNE_KEYS, RUNGS, TRAINING_KEYS, Choices, Params, Scalar, Space
from bench.types import Json, Variant, digest

LONGEST = 56
"""Characters of a variant's name before it is cut."""
_SHORT = {
    "temperature": "T",
    "alpha": "a",
    "epochs": "e",
    "latency": "lat",
    "loss": "",
    "importance": "",
    "scope": "",
}


@dataclass(frozen=True)
class Point:
    """What one trial makes: ``variant`` is measured, ``recipe`` has the reference and all the variant needs.

    ``net`` is the variant whose training costs the time; ``size`` the side of the images where it is not the
    recipe's.
    """

    variant: str
    recipe: Recipe
    net: str
    size: int | None = None


class Points:
    """Makes points of one recipe. ``table`` is its TOML without ``tune``; ``where`` names it in errors.

    Raises:
        ConfigError: the recipe is not valid, or a value of the search space is none for its step.
    """

    def __init__(self, table: Json, where: str, name: str, space: Space, runtime: str) -> None:
        self.space, self.where, self.name, self.runtime = space, where, name, runtime
        self.table = {**table, "runtimes": [runtime]}
        self.recipe = recipes.parse(self.table, name, where)
        if space.known("image_size") and self.recipe.data.image_size is None:
            raise ConfigError(
                f"{where} [tune] image_size: which size is the recipe's own",
                "no image_size in [data]",
                "Give the data an image_size too",
            )
        self._signs = _signatures(self.recipe)
        self._names = {sign: name for name, sign in self._signs.items()}
        self._seen = {v.name: v for v in self.recipe.variants}
        self._check_values()

    @property
    def signs(self) -> dict[str, str]:
        """By the names of the recipe's own variants, what decides the content of each."""
        return self._signs

    @property
    def reference(self) -> Point:
        """The reference alone."""
        return self.by_hand(self.recipe.reference)

    def hand_made(self) -> list[Point]:
        """The recipe's own measured variants but the reference, in its order."""
        others = [v for v in self.recipe.variants if not v.intermediate and v.name != self.recipe.reference]
        return [self.by_hand(v.name) for v in others]

    def by_hand(self, name: str) -> Point:
        """A variant of the recipe as a point."""
        needed = _closure(self.recipe, self.recipe.reference, name)
        variant = next(v for v in self.recipe.variants if v.name == name)
        net = variant.parent if variant.precision != "fp32" else name
        return Point(name, replace(self.recipe, variants=needed), net)

    def of(self, params: Params) -> Point:
        """The point of a choice.

        Raises:
            ConfigError: a step refuses the combination.
        """
        entries, net, last = self._entries(params)
        table = {**self.table, "variants": {**self.table["variants"], **entries}}
        found = recipes.parse(table, self.name, self.where)
        size = self.space.value(params, "image_size")
        if size not in (None, self.recipe.data.image_size):
            found = _at_size(found, size)
            net, last = (f"{n}-{size}px" for n in (net, last))
            needed = _closure(found, found.reference, last)
            return Point(last, replace(found, variants=needed), net, size)
        signs = _signatures(found)
        known = {name: self._names[signs[name]] for name in entries if signs[name] in self._names}
        found = _renamed(found, known)
        net, last = known.get(net, net), known.get(last, last)
        return Point(last, replace(found, variants=_closure(found, found.reference, last)), net)

    def everything(self) -> Recipe:
        """The recipe with variants that between them have each value the search may choose."""
        return replace(self.recipe, variants=tuple(self._seen.values()))

    def sizes(self) -> tuple[int | None, ...]:
        """Every side of images that may occur; the recipe's own first."""
        chosen = self.space.values("image_size") if self.space.known("image_size") else ()
        return tuple(dict.fromkeys((self.recipe.data.image_size, *chosen)))

    # --- a choice as variants

    def _entries(self, params: Params) -> tuple[dict[str, Json], str, str]:
        """The variants of a choice as a recipe's tables; the names of the float net and of the last one."""
        space, route = self.space, self.space.value(params, "route")
        own = space.section(params, route)
        learning: Json = {"step": "distill", "teacher": [self.recipe.reference], "alone": False}
        learning |= space.section(params, "distill")
        cut = {k: own.pop(k) for k in PRUNE_KEYS if route == "prune" and k in own}
        entries: dict[str, Json] = {}
        if route == "student":
            own["model"] = _model(own["model"], own.pop("width", None))
            net = self._label(params, route)
        else:
            telling = PRUNE_KEYS
            if self._trains(params):
                used = [k for k in TRAINING_KEYS if k not in NOT_IN_PRUNING]
                telling = (*PRUNE_KEYS, *used)
                cut |= {k: own[k] for k in used if k in own}
            raw = self._fresh(f"{_short(self._label(params, route, telling))}-raw")
            chosen = {"step": "prune", "parent": self.recipe.reference, "intermediate": True}
            timed = {"runtime": self.runtime} if cut.keys() & {"latency", "sparsity"} else {}
            entries[raw] = chosen | timed | cut
            learning["parent"] = raw
            net = self._label(params, route)
        net = self._fresh(_short(net + self._label(params, "distill", prefix="-")))
        entries[net] = learning | own
        rung = space.value(params, "quantize")
        if rung == "none":
            return entries, net, net
        section = "qat" if rung == "qat" else "int8"
        last = self._fresh(_short(f"{net}-{rung}{self._label(params, section, prefix='-')}"))
        entries[last] = {**RUNGS[rung], "parent": net, **space.section(params, section)}
        return entries, net, last

    def _trains(self, params: Params) -> bool:
        """Whether the pruning of a choice trains: its candidates, between its stages, or for its sparsity."""
        found = {k: self.space.value(params, f"prune.{k}") for k in PRUNE_KEYS}
        return PruneStep(**{k: v for k, v in found.items() if v is not None}).trains

    def _label(
        self, params: Params, section: str, only: Iterable[str] | None = None, prefix: str = ""
    ) -> str:
        """What the search chose in a section, for a name: ``resnet8x1.5-dkd-T4``."""
        parts = ["prune"] if section == "prune" else []
        if section == "student":  # the model belongs in the name, searched or not
            model, width = (self.space.value(params, f"student.{k}") for k in ("model", "width"))
            parts.append(_slug(self._distinct("student.model", model)) + _width(width))
        for name in self.space.domains:
            part, _, key = name.partition(".")
            skipped = name in ("student.model", "student.width") or (only is not None and key not in only)
            if part == section and name in params and not skipped:
                parts.append(_word(key, self._distinct(name, self.space.value(params, name))))
        text = "-".join(part for part in parts if part)
        return prefix + text if text else ""

    def _distinct(self, name: str, value: Any) -> Any:
        """The value, or the value with its place in the list where another would look the same in a name."""
        domain = self.space.domains.get(name)
        if isinstance(value, bool) or not isinstance(domain, Choices):
            return value
        alike = [v for v in domain.values if _shown(v) == _shown(value)]
        return value if len(alike) == 1 else f"{value}-{domain.values.index(value)}"

    def _fresh(self, name: str) -> str:
        """The name, unless the recipe has a variant of that name already."""
        return f"{name}-tuned" if name in self._signs else name

    # --- a variant made by hand as a choice

    def params_of(self, name: str) -> Params | None:
        """The choice that makes the same as a variant of the recipe, or None where the space has none."""
        chain = self._chain(name)
        for rung in RUNGS:
            if not self.space.holds("quantize", rung):
                continue
            params = self._guess(chain, rung)
            if params is None:
                continue
            try:
                if self.of(params).variant == name:  # the same content, so it kept its name
                    return params
            except ConfigError:
                continue
        return None

    def _guess(self, chain: list[Variant], rung: str) -> Params | None:
        """A choice read off the steps of a chain; None where a value is not in the space."""
        steps: list[Step] = [v.step for v in chain]
        last = steps.pop() if RUNGS[rung] else None
        if not steps or not isinstance(steps[-1], DistillStep):
            return None
        net = steps[-1]
        cut = steps[-2] if len(steps) > 1 and isinstance(steps[-2], PruneStep) else None
        start = {"route": "prune" if cut else "student", "quantize": rung}
        start["image_size"] = self.recipe.data.image_size  # type: ignore[assignment]
        missing = []

        def suggest(name: str, domain: Any) -> Any:
            section, _, key = name.partition(".")
            step = {"int8": last, "qat": last}.get(section, net)
            if section == "prune" and key in PRUNE_KEYS:
                step = cut
            value = start[name] if not key else self._read(step, section, key)
            if not self.space.holds(name, value):
                missing.append(name)
            return value

        params = self.space.sample(suggest)
        return None if missing or not self.space.holds("route", start["route"]) else params

    def _read(self, step: Any, section: str, key: str) -> Any:
        """The value of a key in a step."""
        if section == "student" and key in ("model", "width") and self.space.known("student.width"):
            match = re.fullmatch(r"(.*?[a-z]\w*?)(?:x(\d+(?:\.\d+)?))?", step.model)
            base, width = (match[1], float(match[2] or 1)) if match else (step.model, 1.0)
            return base if key == "model" else width
        return (
            getattr(step, key) if hasattr(step, key) else getattr(getattr(step, "training", None), key, None)
        )

    def _chain(self, name: str) -> list[Variant]:
        by_name = {v.name: v for v in self.recipe.variants}
        chain = [by_name[name]]
        while chain[0].parent:
            chain.insert(0, by_name[chain[0].parent])
        return chain

    # --- before any work

    def _check_values(self) -> None:
        """Every value of the space once through its step's own checks."""
        for params, name in self._every_value():
            section, _, key = name.partition(".")
            try:
                self._seen |= {v.name: v for v in self.of(params).recipe.variants}
            except ConfigError as err:
                place = f"[tune.{section}] {key}" if key else f"[tune] {section or 'space'}"
                shown = f" = {params[name]!r}" if name in params else ""
                raise ConfigError(f"{self.where} {place}{shown}: {err.what}", err.found, err.todo) from err

    def _every_value(self) -> Iterable[tuple[Params, str]]:
        """Choices that have each value of each list and both ends of each range; and which one it is for."""
        space = self.space
        for route in space.values("route"):
            for rung in space.values("quantize"):
                base = space.first(route, rung)
                yield base, "quantize"
                for name in base:
                    for value in space.values(name) if name not in ("route", "quantize") else ():
                        yield {**base, name: value}, name


def _model(model: str, width: float | None) -> str:
    return model + _width(width)


def _width(width: float | None) -> str:
    return "" if width is None or width == 1 else f"x{width:g}"


def _word(key: str, value: Any) -> str:
    """A key and its value for a name: ``T4``, ``a0.7``, ``macs0.5``; a flag by its name alone."""
    if isinstance(value, bool):
        return key if value else ""
    return f"{_SHORT.get(key, key)}{_shown(value)}"


def _shown(value: Scalar) -> str:
    """A value as a name has it."""
    return (
        _slug(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _slug(text: str) -> str:
    """What a variant's name may have; of a model's name the last part."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.rpartition(":")[2]).strip("-.")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 7]}-{digest(name)[:6]}"


def _closure(recipe: Recipe, *names: str) -> tuple[Variant, ...]:
    """The variants named, what they need, and the students that are trained beside them without a teacher."""
    by_name, wanted, todo = {v.name: v for v in recipe.variants}, set[str](), list(names)
    while todo:
        variant = by_name[todo.pop()]
        if variant.name not in wanted:
            wanted.add(variant.name)
            todo += [n for n in (*variant.needs, variant.alone) if n]
    return tuple(v for v in recipe.variants if v.name in wanted)


def _signatures(recipe: Recipe) -> dict[str, str]:
    """What decides the content of each variant, but for the data and the seed, which are the same for all."""
    signs: dict[str, str] = {}
    for variant in recipe.variants:
        signs[variant.name] = digest([variant.step, [signs[n] for n in variant.needs]])
    return signs


def _renamed(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Variants under other names; of two that become one, the first is kept."""
    found: dict[str, Variant] = {}
    for variant in recipe.variants:
        name, step = names.get(variant.name, variant.name), variant.step
        if isinstance(step, (DistillStep, QatStep)):
            step = replace(step, teacher=tuple(names.get(t, t) for t in step.teacher))
        twin = names.get(variant.alone, variant.alone)
        parent = names.get(variant.parent, variant.parent)
        if variant.name not in names or name not in found:
            found[name] = replace(variant, name=name, parent=parent, step=step, alone=twin)
    reference = names.get(recipe.reference, recipe.reference)
    return replace(recipe, reference=reference, variants=tuple(found.values()))


def _at_size(recipe: Recipe, size: int) -> Recipe:
    """The recipe at images of another size: all its variants are others then, the reference included."""
    names = {v.name: f"{v.name}-{size}px" for v in recipe.variants}
    return replace(_renamed(recipe, names), data=replace(recipe.data, image_size=size))
