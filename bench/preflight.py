"""Everything that is found out before any work: profile, recipe, data, machine, runtimes -> a plan.

Problems are collected and reported together; nothing is created on disk here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import plan as planning
from bench import recipe as recipes
from bench.errors import ConfigError, EdgefitError, MissingError, UsageError
from bench.steps import DistillStep, TrainStep
from bench.types import Json, digest

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class RunOptions:
    """What the person asked for."""

    profile: str = "local"
    recipe: str = "demo"
    data: str = ""
    model: str = ""
    weights: str = ""
    host: str = "local"
    only: str = ""
    seed: int = 0
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from. ``index`` is ``distill.data.DataIndex``."""

    plan: planning.Plan
    index: Any
    environment: Json
    options: RunOptions

    @property
    def name(self) -> str:
        """The default name of the run: the same options give the same name, so they resume."""
        spec = self.index.spec
        data = Path(spec.split(":", 1)[1]).resolve().name if ":" in spec else spec
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in data)
        changed = [
            self.options.model,
            self.options.weights,
            self.options.only,
            self.options.seed,
            self.options.sets,
        ]
        places = [
            str(Path(p).resolve())
            for p in (spec.partition("folder:")[2], self.options.recipe)
            if _is_place(p)
        ]
        tail = f"-{digest([changed, places])[:6]}" if any(changed) or places else ""
        return f"{self.plan.profile.name}-{self.plan.recipe.name}-{safe}{tail}"


def prepare(options: RunOptions) -> Prepared:
    """Check every option, look at the data and the machine, and lay out the matrix.

    Raises:
        EdgefitError: with every problem found, not only the first.
    """
    from bench.hosts import open_host
    from bench.measure import environment
    from hardware_profiles import load as profiles

    problems: list[EdgefitError] = []
    profile = _try(problems, lambda: profiles.load(options.profile))
    recipe = _try(problems, lambda: _recipe(options))
    _try(problems, lambda: open_host(options.host))
    index: Any = _try(problems, lambda: _index(recipe, options)) if recipe else None
    if problems:
        raise _together(problems)
    machine = environment.describe()
    facts = probe_runtimes(machine)
    here = planning.taking_part(recipe, facts)
    if all(f.missing for f in here):
        reasons = "; ".join(f"{f.name}: {f.missing}" for f in here)
        raise MissingError("No runtime is available on this machine", reasons, here[0].remedy)
    plan = planning.make_plan(
        profile,
        recipe,
        data_digest=index.digest,
        seed=options.seed,
        machine=digest(environment.hardware(machine)),
        runtimes=facts,
        files=_file_digests(recipe),
        only=options.only,
    )
    return Prepared(plan, index, machine, options)


def _is_place(name: str) -> bool:
    """A folder of data or a recipe file: two of them can have one name."""
    return bool(name) and name not in recipes.names()


def check_models(prepared: Prepared, path: Path, load_weights: bool = True) -> None:
    """Build every model that is still to be trained once, so that a wrong name or file stops before any work.

    Without ``load_weights`` none are loaded, since that may be a download.

    Raises:
        EdgefitError: what each of them says.
    """
    from bench.store import read_run

    known = read_run(path).variants.values() if (path / "manifest.json").exists() else ()
    done = {r["key"] for r in known if r["status"] == "ok"}
    todo = dict.fromkeys(
        (step.model, getattr(step, "weights", "") if load_weights else "")
        for v in prepared.plan.variants
        if isinstance(step := v.variant.step, (TrainStep, DistillStep)) and step.model and v.key not in done
    )
    if not todo:
        return
    from distill import models

    index, problems = prepared.index, list[EdgefitError]()
    for model, weights in todo:
        _try(problems, lambda m=model, w=weights: models.build(m, len(index.classes), index.channels, w))
    if problems:
        raise _together(problems)


def _try(problems: list[EdgefitError], step: Any) -> Any:
    try:
        return step()
    except EdgefitError as err:
        problems.append(err)
        return None


def _together(problems: list[EdgefitError]) -> EdgefitError:
    if len(problems) == 1:
        return problems[0]
    worst = max(problems, key=lambda p: p.exit_code)
    lines = "\n".join(f"  {i}. {p}" for i, p in enumerate(problems, 1))
    return type(worst)(f"{len(problems)} problems:\n{lines}")


def _recipe(options: RunOptions) -> recipes.Recipe:
    overrides = dict(recipes.parse_override(text) for text in options.sets)
    recipe = recipes.load(options.recipe, overrides)
    if options.data:
        recipe = replace(recipe, data=replace(recipe.data, spec=options.data))
    if options.model or options.weights:
        recipe = _with_model(recipe, options)
    return recipe


def _with_model(recipe: recipes.Recipe, options: RunOptions) -> recipes.Recipe:
    """Replace the reference's model (and weights) by the person's own."""
    variants = []
    for variant in recipe.variants:
        step = variant.step
        if variant.name == recipe.reference:
            if not isinstance(step, TrainStep):
                raise ConfigError(f"--model: the recipe's reference {variant.name!r} is no train step")
            step = replace(step, model=options.model or step.model, weights=options.weights or step.weights)
            variant = replace(variant, step=step)
        variants.append(variant)
    return replace(recipe, variants=tuple(variants))


def _index(recipe: recipes.Recipe, options: RunOptions) -> Any:
    from distill import data

    return data.index(recipe.data, options.seed)


def _file_digests(recipe: recipes.Recipe) -> dict[str, str]:
    from bench.store import file_sha256

    found = {}
    for name in planning.files_named(recipe):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"There is no file {name}", todo="Check the path of the model or its weights")
        found[name] = file_sha256(path)
    return found


def probe_runtimes(machine: Json) -> tuple[planning.RuntimeFacts, ...]:
    """What each registered runtime can do on this machine."""
    from bench import runtimes
    from bench.hosts import open_host

    host = open_host("local")
    found = []
    for name in runtimes.names():
        runtime = runtimes.get(name)
        probe = runtime.probe(host)
        device = next((d for d in ("cuda", "cpu", *probe.devices) if d in probe.devices), "cpu")
        refusals = tuple((p, runtime.refuse(p, machine, device)) for p in PRECISIONS)
        found.append(
            planning.RuntimeFacts(
                name=name,
                format=runtime.format,
                formats=runtime.formats,
                version=probe.version,
                int8_scheme=runtime.int8_scheme(machine),
                device=device,
                missing="" if probe.available else probe.reason,
                remedy=probe.remedy,
                refusals=tuple((p, r) for p, r in refusals if r),
            )
        )
    return tuple(found)
