"""Optuna's side: the storage, the sampler, what was tried and what it gave. No other module uses it.

The sampler is TPE, multivariate and split by the groups of parameters that occur together (Bergstra et al.,
*Algorithms for Hyper-Parameter Optimization*, 2011; Ozaki et al., *Multiobjective Tree-structured Parzen
Estimator*, 2022): a search here has 10 to 60 dear trials over choices of which half exist only on one route.
NSGA-II needs generations of tens of trials before it is more than random, and a Gaussian process knows no
conditional parameters. In our trial on a made-up space of this kind (30 studies each, three points given),
the hypervolume after 15, 30 and 60 trials was 0.086, 0.092 and 0.095 with TPE, 0.082, 0.088 and 0.093 with
NSGA-II, and 0.083, 0.088 and 0.091 at random (standard errors up to 0.0005).
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.errors import ConfigError, StoreError
from bench.store import explain_disk_errors, write_atomic
from bench.tune.maker import Result, hide_password
from bench.tune.space import Choices, Domain, Params, Scalar, Space
from bench.types import Json, Quantity, digest, to_json

if TYPE_CHECKING:
    import optuna

STARTUP = 6
"""Finished trials before the model of the past is used; those made by hand count."""
JOURNAL = "study.journal"
WORKER = "study.worker"
"""A file in the run with the name of its worker: paths and hosts are alike on several machines."""
BY_HAND = "made by hand: "
_BIG = 1_000_003


@dataclass(frozen=True)
class Told:
    """One trial as the study has it. ``state``: waiting, running, complete, pruned or failed."""

    number: int
    state: str
    params: Params
    result: Result | None = None
    worker: str = ""
    by_hand: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is a trial of the search that came to an end."""
        return self.result is not None and not self.by_hand


class Study:
    """A study in a storage, as one worker uses it.

    Args:
        worker: names this worker's run among those of all machines; with ``private`` no other worker knows the storage.
    """

    def __init__(
        self, study: optuna.Study, space: Space, seed: int, worker: str, private: bool = True
    ) -> None:
        self._study, self.space, self.worker = study, space, worker
        self._seed = seed * _BIG + (0 if private else int(digest(worker), 16))
        self._asked: dict[int, optuna.Trial] = {}
        for trial in study.get_trials(deepcopy=False):
            mine = private or trial.user_attrs.get("worker") == worker
            if trial.state.name == "RUNNING" and mine:  # its process is gone: the run's lock is ours
                self.put_back(trial.number)

    def ask(self) -> tuple[int, Params]:
        """The next trial: what waits in the queue, or what the sampler proposes.

        Each trial has a sampler of its own, seeded by how many gave something before it: the next session
        goes on in the sequence of the seed and does not repeat its beginning.
        """
        self._study.sampler = sampler(self._seed + sum(t.result is not None for t in self.told()))
        trial = self._study.ask()
        trial.set_user_attr("worker", self.worker)
        self._asked[trial.number] = trial
        return trial.number, self.space.sample(partial(_suggest, trial))

    def tell(self, number: int, result: Result) -> None:
        """Finish a trial that was asked for."""
        from optuna.trial import TrialState

        self._asked[number].set_user_attr("result", to_json(result))
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        values = (result.accuracy.value, result.cost.value) if result.state == "complete" else None
        self._study.tell(number, values, states[result.state])  # type: ignore[arg-type]

    def put_back(self, number: int) -> None:
        """End a trial that gave nothing yet, and queue its choice again; what it made is found by content."""
        from optuna.trial import TrialState

        trial = self._study.get_trials(deepcopy=False)[number]
        self._study.tell(number, state=TrialState.FAIL)
        again = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if again:
            kept = {k: v for k, v in trial.user_attrs.items() if k == "by_hand"}
            self._study.enqueue_trial(again, user_attrs={**kept, "again": number})

    def enqueue(self, params: Params, by_hand: str = "") -> None:
        """Queue a choice, unless one like it was tried or waits already."""

        def shown(choice: Params) -> Params:
            return {name: self.space.value(choice, name) for name in choice}

        if not any(shown(t.params) == shown(params) for t in self.told() if t.state != "failed"):
            self._study.enqueue_trial(params, user_attrs={"by_hand": by_hand} if by_hand else None)

    def told(self) -> list[Told]:
        """Every trial so far, by number."""
        return [_told(trial) for trial in self._study.get_trials(deepcopy=False)]

    def claim(self, what: str) -> bool:
        """Whether this worker is the one that does something once for all; the first that asks is."""
        owner = self._study.user_attrs.get(what)
        if owner is None:
            self._study.set_user_attr(what, self.worker)
        return owner in (None, self.worker)

    def made_by_hand(self, name: str, sign: str, result: Result) -> None:
        """Let all workers know what a variant of the recipe gave, whether the space has it or not."""
        about = {"worker": self.worker, "sign": sign, "result": to_json(result)}
        self._study.set_user_attr(f"{BY_HAND}{name}", about)

    def by_hand(self, signs: Mapping[str, str]) -> dict[str, tuple[Result, str]]:
        """What the recipe's variants gave, and the worker that has them, by their names; of those that ``signs`` knows
        with the same content (:attr:`bench.tune.points.Points.signs`)."""
        attrs = self._study.user_attrs
        found = {name: attrs.get(f"{BY_HAND}{name}") or {} for name in signs}
        return {
            name: (_result(about["result"]), about["worker"])
            for name, about in found.items()
            if about.get("sign") == signs[name]
        }

    def scale(self, latency: Quantity) -> Quantity:
        """The reference's latency for all workers and sessions: the first one's, since each would find another.

        On machines of one kind (the study is of no others) a common factor orders nothing anew.
        """
        if self._study.user_attrs.get("scale") is None:
            self._study.set_user_attr("scale", to_json(latency))
        return Quantity.from_json(self._study.user_attrs["scale"])

    @property
    def spent(self) -> float:
        """Seconds this worker has searched, over all its sessions."""
        return float(self._study.user_attrs.get(f"seconds {self.worker}", 0.0))

    @spent.setter
    def spent(self, seconds: float) -> None:
        self._study.set_user_attr(f"seconds {self.worker}", round(seconds, 1))


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial."""
    import optuna

    with warnings.catch_warnings():  # `group` is called experimental since 2.8
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=STARTUP, seed=seed % 2**32
        )


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Scalar:
    if isinstance(domain, Choices):
        return cast(Scalar, trial.suggest_categorical(name, list(domain.values)))
    if domain.whole:
        return trial.suggest_int(
            name, int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log
        )
    return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)


def _told(trial: optuna.trial.FrozenTrial) -> Told:
    attrs = trial.user_attrs
    names = {
        "COMPLETE": "complete",
        "PRUNED": "pruned",
        "FAIL": "failed",
        "RUNNING": "running",
        "WAITING": "waiting",
    }
    return Told(
        trial.number,
        names[trial.state.name],
        dict(trial.params or trial.system_attrs.get("fixed_params", {})),
        _result(attrs["result"]) if "result" in attrs else None,
        attrs.get("worker", ""),
        attrs.get("by_hand", ""),
    )


def _result(data: Json) -> Result:
    known = {f.name for f in fields(Result)}
    quantities = {k: Quantity.from_json(data[k]) for k in ("accuracy", "cost", "size", "ratio")}
    curve = tuple((float(share), float(value)) for share, value in data["curve"])
    return Result(**{k: v for k, v in data.items() if k in known} | quantities | {"curve": curve})


# --- storage


def open_study(
    space: Space, seed: int, name: str, identity: Mapping[str, Any], folder: Path, storage: str = ""
) -> Study:
    """Make or go on with the study of ``folder``'s journal, or with the one called ``name`` in a storage.

    ``identity`` is everything that must be the same for its trials to be comparable.

    Raises:
        StoreError: the storage cannot be opened.
        ConfigError: a study of that name is of another search; says what differs.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = folder / JOURNAL
    where = hide_password(storage) if storage else str(journal)
    try:
        found = optuna.create_study(
            storage=optuna.storages.get_storage(storage) if storage else _journal(journal),
            study_name=name if storage else "search",
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        before = found.user_attrs.get("search")
        if before is None:
            found.set_user_attr("search", dict(identity))
    except Exception as err:  # the database's client has errors of its own, and so has each driver
        raise _not_opened(err, where, bool(storage)) from err
    changes = differences(before or identity, identity)
    if changes:
        raise ConfigError(
            f"The study in {where} is of another search",
            "; ".join(changes[:6]) + (f"; and {len(changes) - 6} more" if len(changes) > 6 else ""),
            "Give another storage, or another directory with --out"
            if storage
            else f"Give another --out, or move {journal} away: what was made is found by content",
        )
    return Study(found, space, seed, _worker(folder), private=not storage)


def _worker(folder: Path) -> str:
    """The name of the folder's worker, drawn once."""
    path = folder / WORKER
    name = path.read_text().strip() if path.is_file() else ""
    if not name:
        name = uuid.uuid4().hex[:12]
        with explain_disk_errors(path):
            write_atomic(path, name.encode())
    return name


def check_storage(storage: str) -> None:
    """Open the storage of that address once. Raises StoreError where it cannot be."""
    import optuna

    try:
        optuna.storages.get_storage(storage)
    except Exception as err:
        raise _not_opened(err, hide_password(storage), shared=True) from err


def _not_opened(err: Exception, where: str, shared: bool) -> StoreError:
    first = hide_password((str(err).strip() or type(err).__name__).splitlines()[0])[:300]
    todo = (
        "Check the address, one of SQLAlchemy's: sqlite:///study.db, postgresql://user@host/db"
        if shared
        else "Move that file away: what was made is kept in the run and found by content"
    )
    return StoreError(f"The storage {where} cannot be opened", first, todo)


def _journal(path: Path) -> optuna.storages.BaseStorage:
    """A journal that only the holder of the run's lock uses; what a killed process left is cleared away."""
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    with suppress(FileNotFoundError):
        path.with_name(path.name + ".lock").unlink()
    if path.exists():
        text = path.read_bytes()
        if not text.endswith(b"\n"):  # a line that was being written
            with path.open("r+b") as file:
                file.truncate(text.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two nested tables: ``tune.student.model: ['a'] became ['a', 'b']``."""
    old, new = _flat(json.loads(json.dumps(before))), _flat(json.loads(json.dumps(now)))
    keys = dict.fromkeys((*old, *new))
    return [
        f"{key}: {old.get(key, 'nothing')} became {new.get(key, 'nothing')}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _flat(table: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
