"""Everything that is found out before any work: profile, recipe, data, machine, runtimes -> a plan.

Problems are collected and reported together; nothing is created on disk here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import plan as planning
from bench import recipe as recipes
from bench.errors import ConfigError, EdgefitError, MissingError, UsageError
from bench.steps import DistillStep, TrainStep
from bench.types import Json, Notify, digest

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
    power_mode: str = ""
    lock_clocks: bool = False
    only: str = ""
    seed: int = 0
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A plan with what it was made from.

    ``index`` is ``distill.data.DataIndex``; ``environment`` is of the machine that cells are measured on; ``there`` is the
    :class:`bench.runtimes.remote.Machine` or the :class:`bench.runtimes.phone.Phone` of ``--host``, or None.
    """

    plan: planning.Plan
    index: Any
    environment: Json
    options: RunOptions
    there: Any = None

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
        if self.there is not None:
            changed += [self.options.host, self.options.power_mode, self.options.lock_clocks]
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
    from bench.measure import environment

    problems: list[EdgefitError] = []
    device = _try(problems, lambda: _device(options))
    profile = _try(problems, lambda: _profile(options, device))
    recipe = _try(problems, lambda: _recipe(options))
    index: Any = _try(problems, lambda: _index(recipe, options)) if recipe else None
    if problems:
        raise _together(problems)
    machine = environment.describe()
    facts = probe_runtimes(machine)
    if device is None:
        _some_runtime(planning.taking_part(recipe, facts), "this machine")
    there = _reach(device) if device else None
    elsewhere = _elsewhere(there, recipe, profile, options) if there else None
    plan = planning.make_plan(
        profile,
        recipe,
        data_digest=index.digest,
        seed=options.seed,
        machine=digest(environment.hardware(machine)),
        runtimes=facts,
        files=_file_digests(recipe),
        only=options.only,
        there=elsewhere,
    )
    return Prepared(plan, index, there.environment if there else machine, options, there)


def _device(options: RunOptions) -> Any:
    """The device of ``--host``, by its name in the inventory or its address; None for this machine."""
    from bench.hosts import inventory

    if options.host == "local" and (options.power_mode or options.lock_clocks):
        raise UsageError(
            "--power-mode and --lock-clocks are for a Jetson that is reached with --host",
            todo="Set this machine up by hand: sudo nvpmodel -m MODE; sudo jetson_clocks",
        )
    if options.host == "local":
        return None
    device = inventory.device(options.host)
    if device.address.startswith("adb://") and (options.power_mode or options.lock_clocks):
        raise UsageError("--power-mode and --lock-clocks are for a Jetson; a phone has no such settings")
    return device


def _profile(options: RunOptions, device: Any) -> Any:
    """The profile asked for, else the device's own; a device without one is described by what it says of itself."""
    from hardware_profiles import load as profiles

    name = options.profile
    if device is None or name != "local":
        return profiles.load(name)
    if device.profile:
        return profiles.load(device.profile)
    label = device.name or device.address.rpartition("@")[2].rpartition("//")[2]
    safe = "".join(c if c.isalnum() or c in "-." else "-" for c in label)
    return replace(profiles.LOCAL, name=safe, title=label, kind=planning.DEVICE)


def _reach(device: Any) -> Any:
    if device.address.startswith("adb://"):
        from bench.runtimes.phone import Phone

        return Phone.reach(device)
    from bench.hosts import workspace
    from bench.runtimes.remote import Machine

    return Machine.reach(workspace.open_workspace(device))


def _elsewhere(there: Any, recipe: recipes.Recipe, profile: Any, options: RunOptions) -> planning.Elsewhere:
    from bench import runtimes
    from bench.measure import environment

    found = [_facts(there.runtime(name), None, there.environment) for name in runtimes.names()]
    chosen = any(recipes.parse_override(text)[0] == "runtimes" for text in options.sets)
    mode = options.power_mode or there.environment["machine"]["power_mode"]
    machine = digest([environment.hardware(there.environment), mode, options.lock_clocks])
    elsewhere = planning.Elsewhere(machine, tuple(found), chosen)
    _some_runtime(elsewhere.taking_part(recipe, profile), there.name)
    return elsewhere


def _some_runtime(facts: tuple[planning.RuntimeFacts, ...], where: str) -> None:
    """Raises MissingError when none of them can run."""
    if all(f.missing for f in facts):
        reasons = "; ".join(f"{f.name}: {f.missing}" for f in facts)
        raise MissingError(f"No runtime is available on {where}", reasons, facts[0].remedy if facts else "")


@contextlib.contextmanager
def device_set_up(prepared: Prepared, notify: Notify) -> Iterator[Prepared]:
    """The device of ``--host`` in the power mode and with the clocks asked for; afterwards as it was before."""
    from bench.hosts import jetson

    there, options = prepared.there, prepared.options
    if there is None or there.workspace is None:
        yield prepared
        return
    with jetson.settings(there.workspace, there.seen, options.power_mode, options.lock_clocks, notify):
        if options.power_mode or options.lock_clocks:
            there.look_again()
        yield replace(prepared, environment=there.environment)


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
    from distill.train import check_start

    problems = list[EdgefitError]()
    for model, weights in todo:
        _try(problems, lambda m=model, w=weights: check_start(m, w, prepared.index))
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
    table, path = recipes.read(options.recipe, overrides)
    own = bool(options.model or options.weights)
    placed = own and _own_model(table, options)
    recipe = recipes.parse(table, path.stem, str(path))
    if own and not placed:
        raise ConfigError(
            "--model and --weights take the place of the net that is the recipe's reference",
            f"{recipe.reference!r}, which is no train step with a table of its own",
            "Use a recipe whose reference is trained",
        )
    if options.data:
        recipe = replace(recipe, data=replace(recipe.data, spec=options.data))
    return recipe


def _own_model(table: Json, options: RunOptions) -> bool:
    """Put the person's own model (and weights) in the reference's place; whether there is one to be replaced."""
    variants = table.get("variants")
    entries = variants.items() if isinstance(variants, dict) else ()
    shown = (name for name, entry in entries if isinstance(entry, dict) and not entry.get("intermediate"))
    reference = table.get("reference") or next(shown, "")
    entry = dict(entries).get(reference) if isinstance(reference, str) else None
    if not isinstance(entry, dict) or entry.get("step") != "train":
        return False
    given = {"model": options.model, "weights": options.weights}
    entry |= {key: value for key, value in given.items() if value}
    return True


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
    return tuple(_facts(runtimes.get(name), host, machine) for name in runtimes.names())


def _facts(runtime: Any, host: Any, machine: Json) -> planning.RuntimeFacts:
    probe = runtime.probe(host)
    device = next((d for d in ("cuda", "cpu", *probe.devices) if d in probe.devices), "cpu")
    refusals = tuple((p, runtime.refuse(p, machine, device)) for p in PRECISIONS)
    return planning.RuntimeFacts(
        name=runtime.name,
        format=runtime.format,
        formats=runtime.formats,
        version=probe.version,
        int8_scheme=runtime.int8_scheme(machine),
        device=device,
        missing="" if probe.available else probe.reason,
        remedy=probe.remedy,
        refusals=tuple((p, r) for p, r in refusals if r),
    )
