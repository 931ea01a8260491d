"""What a search finds out before any work: options, space, data, machine, students. Nothing is created."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench import plan as planning
from bench import recipe as recipes
from bench.errors import MissingError, UsageError, missing_extra, nearest
from bench.preflight import Prepared, RunOptions, probe_runtimes
from bench.store import file_sha256
from bench.targets import open_target
from bench.tune import space as spaces
from bench.tune.points import Point, Points
from bench.types import Json, Profile, Target, digest, to_json

Objective = Literal["latency", "size", "energy"]
METRICS: dict[str, str] = {"latency": "latency_ms", "size": "size_bytes", "energy": "energy_mj"}
"""What an objective is called among a cell's metrics."""


@dataclass(frozen=True)
class Options:
    """What the person asked for. ``seconds`` and ``trials`` bound the search; None is no bound."""

    recipe: str = "tune"
    profile: str = "local"
    data: str = ""
    runtime: str = "onnxruntime"
    objective: Objective = "latency"
    seed: int = 0
    sets: tuple[str, ...] = ()
    seconds: float | None = None
    trials: int | None = None
    storage: str = ""


@dataclass(frozen=True)
class Setup:
    """Everything that is the same for every point. ``indexes`` are by size of images."""

    options: Options
    points: Points
    profile: Profile
    environment: Json
    facts: tuple[planning.RuntimeFacts, ...]
    target: Target
    indexes: dict[int | None, Any]
    files: dict[str, str]
    tune: Json = field(repr=False)
    training: Json = field(repr=False)

    @property
    def machine(self) -> str:
        """Identifies this machine's hardware."""
        from bench.measure import environment

        return digest(environment.hardware(self.environment))

    @property
    def name(self) -> str:
        """The name of the study, and of the run where none is given: the same options resume."""
        return f"{self.prepared(self.points.reference).name}-{self.options.objective}-{self.options.runtime}"

    @property
    def identity(self) -> Json:
        """What must be the same for two trials to be comparable; another study begins where it is not."""
        options, reference = self.options, self.prepared(self.points.reference).plan
        runtime = next(fact for fact in self.facts if fact.name == options.runtime)
        same = {
            "tune": self.tune,
            "training": self.training,
            "objective": options.objective,
            "runtime": f"{options.runtime} {runtime.version}",
            "protocol": to_json(reference.protocol),
            "harness": planning.HARNESS_VERSION,
            "profile": f"{self.profile.name} {digest(self.profile)[:6]}",
            "data": reference.data_digest,
            "files": self.files,
            "reference": reference.variant(self.points.recipe.reference).key,
        }
        return same if options.objective == "size" else same | {"machine": self.machine}

    @cached_property
    def precisions(self) -> frozenset[str]:
        """All that are made of a net here: a point has some of them, and a net is the same one in every point."""
        return frozenset(v.precision for v in self.points.everything().variants)

    def prepared(self, point: Point) -> Prepared:
        """The plan of one point; pure."""
        options, index = self.options, self.indexes[point.size or self.points.recipe.data.image_size]
        plan = planning.make_plan(
            self.profile, point.recipe, data_digest=index.digest, seed=options.seed, machine=self.machine,
            runtimes=self.facts, files=self.files, precisions=self.precisions,
        )  # fmt: skip
        given = RunOptions(
            options.profile, options.recipe, options.data, seed=options.seed, sets=options.sets
        )
        return Prepared(plan, index, self.environment, given)


def prepare(options: Options) -> Setup:
    """Check every option, the search space, the data, the machine and every student; nothing is created.

    Raises:
        EdgefitError: what is wrong with any of them.
        MissingError: Optuna or the runtime is not here.
    """
    from bench.measure import environment
    from bench.runtimes import RUNTIMES
    from hardware_profiles import load as profiles

    try:
        import optuna  # noqa: F401
    except ImportError as err:
        raise missing_extra("optuna", "tune", "A search") from err
    if options.storage:
        from bench.tune.study import check_storage  # which knows results, and so this module

        check_storage(options.storage)
    if options.runtime not in RUNTIMES:
        raise UsageError(f"There is no runtime {options.runtime!r}", todo=nearest(options.runtime, RUNTIMES))
    profile = profiles.load(options.profile)
    table, path = recipes.read(options.recipe, dict(recipes.parse_override(s) for s in options.sets))
    if options.data:
        table = table | {"data": {**table.get("data", {}), "spec": options.data}}
    tune = table.pop("tune", None)
    space = spaces.parse(tune, str(path))
    points = Points(table, str(path), path.stem, space, options.runtime)
    indexes = {size: _index(points, size, options.seed) for size in points.sizes()}
    files = {name: _sha256(name) for name in planning.files_named(points.everything())}
    _check_models(points, next(iter(indexes.values())))
    machine = environment.describe()
    facts = probe_runtimes(machine)
    target = open_target(options.runtime, machine, planning.protocol_of(profile, points.recipe))
    if options.objective == "energy":
        _require_meter(next(fact.device for fact in facts if fact.name == options.runtime))
    return Setup(
        options,
        points,
        profile,
        machine,
        facts,
        target,
        indexes,
        files,
        tune,
        table.get("training", {}),
    )


def _require_meter(device: str) -> None:
    """Refuse to search for little energy where nothing measures that of ``device``. Raises MissingError."""
    from bench.measure.power import Nothing, open_source

    with closing(open_source(device)) as source:
        if isinstance(source, Nothing):
            raise MissingError(
                "The objective energy is not measured on this machine",
                source.reason,
                "Choose another --objective",
            )


def _index(points: Points, size: int | None, seed: int) -> Any:
    from distill import data

    found = data.index(replace(points.recipe.data, image_size=size), seed)
    data.check_channels(found)
    return found


def _sha256(name: str) -> str:
    if not Path(name).is_file():
        raise UsageError(f"There is no file {name}", todo="Check the path of the model or its weights")
    return file_sha256(Path(name))


def _check_models(points: Points, index: Any) -> None:
    """Build every net that may be trained once, so that a wrong name stops before any work."""
    from distill.train import check_start

    steps = [v.step for v in points.everything().variants]
    named = dict.fromkeys((getattr(s, "model", ""), getattr(s, "weights", "")) for s in steps)
    for model, weights in named:
        if model:
            check_start(model, weights, index)
