"""The search: its space, what two trials share, when it stops, and that an interrupt costs nothing."""

from __future__ import annotations

import copy
import dataclasses
import random
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from bench import cli_tune
from bench.errors import ConfigError, MissingError, ModelError, StepError, StoreError
from bench.measure import power
from bench.tune import points as pointing
from bench.tune import search as searching
from bench.tune import setup, space, stop, study
from bench.tune.maker import Result, hide_password
from bench.types import Quantity, digest
from tests.command import bench

TABLE = {
    "schema": 1,
    "reference": "teacher",
    "training": {"epochs": 6},
    "variants": {
        "teacher": {"step": "train", "model": "edgefit:resnet20"},
        "student": {"step": "train", "model": "edgefit:resnet8"},
        "student-kd": {"step": "distill", "teacher": "teacher", "model": "edgefit:resnet8"},
        "student-kd-int8": {"step": "quantize", "parent": "student-kd", "images": 64},
        "cut": {"step": "prune", "parent": "teacher", "macs": 0.5, "intermediate": True},
        "pruned": {"step": "distill", "teacher": "teacher", "parent": "cut", "lr": 0.02, "alone": False},
        "odd": {"step": "distill", "teacher": "teacher", "model": "edgefit:resnet8", "alpha": 0.123},
    },
}
TUNE = {
    "quantize": ["none", "int8", "equalize"],
    "student": {"model": ["edgefit:resnet8", "edgefit:resnet14"], "width": [1.0, 1.5]},
    "prune": {"macs": {"low": 0.3, "high": 0.7, "step": 0.1}, "blocks": [False, True], "lr": 0.02},
    "distill": {"temperature": [4, 2.0], "alpha": 0.7},
    "int8": {"images": 64},
}


def _space(**changes: object) -> space.Space:
    return space.parse({**copy.deepcopy(TUNE), **changes}, "x.toml")


def _points(found: space.Space | None = None, **changes: object) -> pointing.Points:
    table = {**copy.deepcopy(TABLE), **changes}
    return pointing.Points(table, "x.toml", "x", found or _space(), "onnxruntime")


def _at_random(seed: int) -> space.Suggest:
    draw = random.Random(seed)

    def suggest(_: str, domain: space.Domain) -> space.Scalar:
        if isinstance(domain, space.Choices):
            return draw.choice(domain.values)
        return domain.low + draw.randint(0, round((domain.high - domain.low) / domain.step)) * domain.step

    return suggest


def _every(found: space.Space) -> list[space.Params]:
    """Many choices, each once."""
    sampled = (found.sample(_at_random(seed)) for seed in range(400))
    return list({str(sorted(p.items())): p for p in sampled}.values())


# --- the space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qantize": ["none"]}, "Did you mean quantize"),
        ({"quantize": ["none", "int9"]}, "Did you mean int8"),
        ({"quantize": []}, "quantize is an empty list"),
        ({"margin": 0}, "margin must be a share"),
        ({"margin": [0.1, 0.2]}, "margin must be a share"),
        ({"student": {}}, "[tune.student]: model is missing"),
        ({"student": {"model": []}}, "[tune.student] model is an empty list"),
        ({"student": {"modle": ["edgefit:resnet8"]}}, "Did you mean model"),
        ({"student": {"model": ["edgefit:resnet8"], "width": ["wide"]}}, "width must be a number"),
        ({"student": {"model": ["a", "a"]}}, "names a value twice"),
        ({"student": "edgefit:resnet8"}, "[tune.student] must be a table"),
        ({"prune": {"macs": 0.5, "latency": 0.5}}, "wants one target"),
        ({"prune": {"blocks": True}}, "wants one target"),
        ({"prune": {"macs": {"low": 0.5, "high": 0.3}}}, "low must be below high"),
        ({"prune": {"macs": {"low": 0.3}}}, "wants low and high"),
        ({"prune": {"macs": {"low": 0.3, "high": 0.5, "stpe": 0.1}}}, "Did you mean step"),
        ({"prune": {"macs": {"low": 0.3, "high": 0.5, "step": 0.5}}}, "step must be above 0"),
        ({"prune": {"macs": 0.5, "scope": {"low": 0, "high": 1}}}, "is no number and has no range"),
        ({"distill": {"epochs": 2.5}}, "epochs must be a whole number"),
        ({"distill": {"alpha": {"low": 0.0, "high": 0.9, "log": True}}}, "starts above 0"),
    ],
)
def test_mistakes_in_the_table_name_the_key(changes, message):
    with pytest.raises(ConfigError) as caught:
        _space(**changes)
    assert message in str(caught.value) and "x.toml" in str(caught.value)


def test_no_table_and_no_route_are_refused():
    with pytest.raises(ConfigError, match=r"no \[tune\] table"):
        space.parse(None, "x.toml")
    with pytest.raises(ConfigError, match="neither"):
        space.parse({"quantize": ["none"]}, "x.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"loss": ["kd", "dkdd"]}}, "[tune.distill] loss = 'dkdd'"),
        ({"distill": {"alpha": {"low": 0.5, "high": 1.5}}}, "[tune.distill] alpha = 1.5"),
        ({"prune": {"macs": [0.5, 1.5]}}, "[tune.prune] macs = 1.5"),
        ({"int8": {"ranges": ["minmax", "median"]}}, "[tune.int8] ranges = 'median'"),
    ],
)
def test_every_value_is_checked_by_its_own_step_before_any_work(changes, message):
    with pytest.raises(ConfigError) as caught:
        _points(_space(**changes))
    assert message in str(caught.value)


def test_a_parameter_exists_only_where_it_applies():
    found = _space(int8={"images": [32, 64]})
    for params in _every(found):
        sections = {name.partition(".")[0] for name in params if "." in name}
        assert sections <= {params["route"], "distill", "int8"}
        assert ("int8.images" in params) == (params["quantize"] != "none")
        assert ("student.model" in params) == (params["route"] == "student")
        assert "distill.alpha" not in params  # fixed


def test_what_a_route_says_itself_comes_before_what_both_have_in_common():
    found = _space(distill={"temperature": [4.0, 2.0], "lr": [0.1, 0.2], "alpha": 0.7})
    made = _points(found)
    for params in _every(found)[:40]:
        assert ("distill.lr" in params) == (params["route"] == "student")
        point = made.of(params)
        net = next(v for v in point.recipe.variants if v.name == point.net)
        assert net.step.training.lr == (0.02 if params["route"] == "prune" else params["distill.lr"])


def test_the_trials_of_a_pruning_train_as_its_recovery_does_and_its_name_tells_how():
    cut = {"macs": 0.5, "blocks": True, "trial_steps": [0, 9], "lr": [0.02, 0.05], "epochs": 3}
    made = _points(_space(prune=cut, distill={"temperature": 2.0, "batch_size": 64}))
    seen: dict[str, object] = {}
    for params in (p for p in _every(made.space) if p["route"] == "prune"):
        variants = {v.name: v for v in made.of(params).recipe.variants}
        raw = variants[variants[made.of(params).net].parent]
        if params["prune.trial_steps"]:
            training = raw.step.training
            assert training.lr == params["prune.lr"]
            assert training.epochs != 3  # a pruning does not go by epochs, its recovery does
            assert training.batch_size != 64  # that is of the distillation alone
        assert seen.setdefault(raw.name, raw.step) == raw.step  # one name, one content
    assert len(seen) == 3  # without trials the learning rate changes nothing


def test_the_first_point_is_the_first_of_every_list():
    assert _space().first("prune", "none") == {
        "route": "prune", "quantize": "none", "prune.macs": 0.5, "prune.blocks": False,
        "distill.temperature": 4.0,
    }  # fmt: skip


# --- points


def test_two_choices_have_two_names_and_one_choice_one():
    made = _points()
    choices = _every(made.space)
    names = [made.of(params).variant for params in choices]
    assert len(set(names)) == len(names) > 80
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) for name in names)
    again = _points()
    assert names == [again.of(params).variant for params in choices]


def test_what_a_person_wrote_is_not_rounded_and_what_is_sampled_stays_in_its_range():
    found = _space(
        student={"model": ["edgefit:resnet8"], "ema": [0.9995, 0.99951], "lr": 0.012345},
        distill={
            "alpha": {"low": 0.9951, "high": 0.9999},
            "weight_decay": {"low": 1e-5, "high": 1e-2, "log": True},
        },
    )
    made = _points(found)
    base = {"route": "student", "quantize": "none", "student.ema": 0.9995}
    params = {**base, "distill.alpha": 0.99989999, "distill.weight_decay": 0.00012345}
    step = made.of(params).recipe.variants[-1].step
    assert (step.training.ema, step.training.lr) == (0.9995, 0.012345)
    assert 0.9951 <= step.alpha <= 0.9999 and step.training.weight_decay == 0.000123
    names = {made.of({**params, "student.ema": ema}).variant for ema in (0.9995, 0.99951)}
    assert len(names) == 2
    assert [space.Range(0.0, 1.0, 0.125).plain(0.125 * n + 1e-12) for n in (1, 3)] == [0.125, 0.375]
    assert (
        space.Range(0.0, 1.0).plain(0.12345) == 0.123 and space.Range(0.3, 0.7, 0.1).plain(0.1 + 0.2) == 0.3
    )


@pytest.mark.parametrize("rung", ["mse", "equalize", "int8"])
def test_a_rung_is_what_it_is_called_whatever_is_said_of_int8(rung):
    table = {"images": 64, "ranges": "percentile", "equalize": [False, True]}
    found = _space(quantize=["none", "int8", "equalize", "mse"], int8=table)
    params = found.first("student", rung)
    assert ("int8.equalize" in params) == (rung != "equalize")
    step = _points(found).of(params).recipe.variants[-1].step
    assert step.ranges == ("mse" if rung == "mse" else "percentile") and step.equalize == (rung == "equalize")


def test_models_whose_names_end_alike_are_told_apart():
    found = _space(student={"model": ["edgefit:resnet8", "timm:resnet8"]}, distill={})
    made = _points(found)
    names = {made.of(p).variant for p in _every(found) if p["route"] == "student"}
    assert len(names) == 2 * len(TUNE["quantize"])


def test_what_was_made_by_hand_is_a_choice_where_the_space_has_it():
    made = _points()
    assert made.params_of("student-kd") == {
        "route": "student", "quantize": "none", "student.model": "edgefit:resnet8", "student.width": 1.0,
        "distill.temperature": 4.0,
    }  # fmt: skip
    assert made.params_of("student-kd-int8")["quantize"] == "int8"
    pruned = made.params_of("pruned")
    assert (pruned["route"], pruned["prune.macs"], pruned["prune.blocks"]) == ("prune", 0.5, False)
    for name in ("student", "odd"):  # no distillation; an alpha that is not searched
        assert made.params_of(name) is None
    for name in ("student-kd", "student-kd-int8", "pruned"):
        assert made.of(made.params_of(name)).variant == name


def test_trials_share_their_parts_with_each_other_and_with_what_was_made_by_hand():
    made = _points()
    float_net, int8 = (made.of({**made.params_of("pruned"), "quantize": q}) for q in ("none", "equalize"))
    assert float_net.variant == int8.net == "pruned"
    assert {v.name for v in int8.recipe.variants} == {"teacher", "cut", "pruned", "prune-macs0.5-T4-equalize"}
    warmer = made.of({**made.params_of("pruned"), "distill.temperature": 2.0})
    assert {v.name for v in warmer.recipe.variants} == {"teacher", "cut", warmer.net}


def test_another_size_of_images_has_its_own_reference():
    made = _points(_space(image_size=[24, 16]), data={"image_size": 24})
    own, other = (made.of({**made.params_of("student-kd"), "image_size": size}) for size in (24, 16))
    assert own.variant == "student-kd" and own.size is None
    assert other.variant.endswith("-16px") and other.recipe.data.image_size == 16
    assert other.recipe.reference == "teacher-16px" and made.sizes() == (24, 16)
    net = next(v for v in other.recipe.variants if v.name == other.net)
    assert net.step.teacher == ("teacher-16px",)
    with pytest.raises(ConfigError, match="Give the data an image_size too"):
        _points(_space(image_size=[24, 16]))


# --- what stops a training


def _result(name: str, accuracy: float, cost: float, **more: object) -> Result:
    given = {
        "accuracy": Quantity(accuracy, n=100),
        "cost": Quantity(cost, "ms", provenance="measured"),
        "weight": 100,
    } | more
    return Result(name, **given)


def test_the_front_is_what_nothing_else_beats():
    found = [
        _result("a", 0.9, 1.0), _result("b", 0.8, 0.5), _result("beaten", 0.79, 0.6),
        _result("same", 0.8, 0.5), _result("slow", 0.9, 1.1), Result("broken", "failed"),
    ]  # fmt: skip
    assert [r.variant for r in searching.front_of(found)] == ["b", "a"]


@pytest.mark.parametrize(
    ("share", "accuracy", "weight", "stops"),
    [
        (0.5, 0.44, 100, True),
        (0.5, 0.46, 100, False),  # within the margin
        (0.5, 0.44, 99, False),  # a smaller net than the front's: not comparable
        (0.5, 0.44, None, False),
        (0.2, 0.0, 100, False),  # too early
        (1.0, 0.0, 100, False),  # it is done anyway
        (0.9, 0.6, 100, False),  # compared with 0.5 of half way, not with the end
    ],
)
def test_a_training_is_compared_with_the_front_at_the_same_share_of_its_epochs(
    share, accuracy, weight, stops
):
    front = [_result("best", 0.9, 1.0, curve=((0.25, 0.3), (0.5, 0.5), (1.0, 0.9)))]
    found = stop.lags(share, accuracy, weight, front, margin=0.05)
    assert (found is not None) == stops


def _watch(said: list, over: bool = False) -> stop.Watch:
    front = [_result("best", 0.9, 1.0, curve=((0.5, 0.5), (1.0, 0.9)))]
    return stop.Watch(
        lambda event, info: said.append(event), "net", weight=lambda: 100, front=front, margin=0.05,
        over=lambda: over,
    )  # fmt: skip


def test_the_watch_stops_the_net_it_watches_and_no_other():
    watch = _watch(said := [])
    watch("epoch", {"variant": "teacher", "epoch": 5, "epochs": 10, "val_accuracy": 0.1})
    with pytest.raises(stop.Hopeless, match=r"epoch 5 of 10.*best"):
        watch("epoch", {"variant": "net", "epoch": 5, "epochs": 10, "val_accuracy": 0.1})
    assert isinstance(watch.stopped, stop.Hopeless)
    watch("failed", {})  # what needs it fails too; the search says why, once
    assert said == ["epoch", "epoch"]


def test_what_a_stopped_training_leaves_out_is_not_told_as_made():
    told = []
    watch = stop.Watch(
        lambda *event: told.append(event), "net", weight=lambda: 100, front=[], margin=0.05, over=lambda: True
    )
    watch("item", {"name": "net", "done": False})
    with pytest.raises(stop.TimeIsUp):
        watch("train", {"variant": "net"})
    watch("failed", {"name": "net"})
    for done in (True, False, True):  # the end of this one; another, which is made
        watch("item", {"name": "net", "done": done})
    assert [info.get("skipped") for event, info in told if event == "item"] == [None, True, None, None]


def test_the_watch_stops_what_goes_beyond_the_time_and_its_bound():
    watch = _watch([], over=True)
    watch("phase", {"name": "steady"})  # a measurement is never cut short
    with pytest.raises(stop.TimeIsUp):
        watch("train", {"variant": "net"})


@pytest.mark.parametrize(
    ("seconds", "spent", "left", "over"),
    [
        (1200, 1000, 200, False),
        (1200, 1310, 0, False),
        (1200, 1321, 0, True),
        (None, 1e9, float("inf"), False),
    ],
)
def test_the_time_is_that_of_all_sessions(seconds, spent, left, over):
    clock = iter([0.0, *[spent - 500.0] * 9])
    budget = searching.Budget(seconds, before=500.0, clock=lambda: next(clock))
    assert (budget.left, budget.over) == (left, over)


# --- the loop, with a maker that only pretends


class Maker:
    """Ten seconds for a training, one for the rest; what comes out is fixed by the name."""

    def __init__(self) -> None:
        self.now, self.made, self.kept, self.nets = 0.0, list[str](), list[str](), set[str]()
        self.interrupt_after, self.interrupted, self.hopeless = -1, list[str](), ""

    def done(self, point):
        return point.variant in self.made

    def trains(self, point):
        return point.net not in self.nets

    def weight(self, point):
        return 100

    def make(self, point, notify):
        trained = self.trains(point)
        if not self.done(point):
            self.now += 10.0 if trained else 1.0
            if len(self.made) == self.interrupt_after:
                self.interrupt_after = -1
                self.interrupted.append(point.variant)
                raise KeyboardInterrupt
            if point.net == self.hopeless:
                reason = "diverged"
                return Result(point.variant, "pruned", reason, trained=True, broken=point.net)
            self.made.append(point.variant)
            self.nets.add(point.net)
        number = int(digest(point.variant), 16)
        accuracy, cost = 0.5 + number % 100 / 250, 0.1 + number // 100 % 100 / 110
        if point.variant == "teacher":
            accuracy, cost = 0.9, 1.1
        return _result(point.variant, accuracy, cost, trained=trained)

    def forget(self, point):
        pass

    def note(self, number, params, result):
        pass

    def keep(self, points):
        self.kept = [p.variant for p in points]


def _search(
    folder: Path, maker: Maker, seconds: float | None = None, trials: int | None = None, seed: int = 0
) -> searching.Search:
    made = _points()
    opened = study.open_study(made.space, seed, "s", {"tune": TUNE}, folder)
    budget = searching.Budget(seconds, opened.spent, clock=lambda: maker.now)
    return searching.Search(made, opened, maker, budget, lambda *_: None, "latency", trials)


HAND_MADE = {"student", "student-kd", "student-kd-int8", "pruned", "odd"}


def test_what_was_made_by_hand_comes_first_and_the_front_is_never_below_it(tmp_path):
    maker = Maker()
    search = _search(tmp_path, maker, trials=12)
    assert search.run() == "12 of 12 trials are done"
    assert maker.made[0] == "teacher" and set(maker.made[1:6]) == HAND_MADE
    found = search.answer()
    front = [f.result for f in found if f.on_front]
    for other in found:
        better = [
            r for r in front
            if r.cost.value <= other.result.cost.value and r.accuracy.value >= other.result.accuracy.value
        ]  # fmt: skip
        assert better, other.name
    assert len({f.name for f in found}) == len(found) == 1 + 5 + 12
    assert set(maker.kept) == {"teacher", *HAND_MADE} | {f.name for f in found if f.on_front}
    told = {t.by_hand: t for t in search.study.told() if t.by_hand}
    assert told.keys() == {"student-kd", "student-kd-int8", "pruned"}  # the sampler knows of them
    assert all(t.state == "complete" for t in told.values())


def test_what_is_made_by_hand_does_not_outlast_the_time_and_goes_on_in_the_next_session(tmp_path):
    maker = Maker()
    make = maker.make

    def slow(point, notify):
        if point.variant in HAND_MADE and not maker.done(point):
            maker.now += 300.0  # of 200, and a bound of 60 more
            try:
                notify("log", {"text": "timed: a candidate"})
            except StepError as error:
                return Result(point.variant, "failed", str(error), trained=True)
        return make(point, notify)

    maker.make = slow
    search = _search(tmp_path, maker, seconds=200.0)
    assert search.run() == "the time is up; student, made by hand, goes on in the next session"
    assert maker.made == ["teacher"] and not search.failed
    assert [f.name for f in search.answer()] == ["teacher"]
    again = _search(tmp_path, maker, seconds=10_000.0, trials=4)
    again.run()
    assert set(maker.made) >= HAND_MADE


def test_a_trial_on_the_front_brings_its_other_rungs_next(tmp_path):
    maker = Maker()
    search = _search(tmp_path, maker, trials=15)
    search.run()
    best = [f for f in search.answer() if f.on_front and f.trial is not None]
    queued = [search.points.of(t.params).variant for t in search.study.told() if t.state == "waiting"]
    assert best and set(maker.made) > {f.name for f in best}
    for found in best:
        for rung in TUNE["quantize"]:
            assert search.points.of({**found.params, "quantize": rung}).variant in [*maker.made, *queued]


def test_a_float_net_that_only_int8_nets_beat_brings_its_rungs_too(tmp_path):
    maker = Maker()
    make = maker.make

    def all_beaten_by_one(point, notify):
        result = make(point, notify)
        cost = Quantity(
            0.01 if point.variant == "student-kd-int8" else 1 + result.cost.value, "ms", provenance="measured"
        )
        better = Quantity(0.99) if point.variant == "student-kd-int8" else result.accuracy
        return dataclasses.replace(result, cost=cost, accuracy=better)

    maker.make = all_beaten_by_one
    search = _search(tmp_path, maker, trials=8)
    search.run()
    found = search.answer()
    assert [f.name for f in found if f.on_front] == ["student-kd-int8"]
    floats = [f for f in found if f.params and f.params["quantize"] == "none"]
    assert {"int8", "equalize"} <= {f.params["quantize"] for f in found if f.params}
    assert any(search.points.of({**f.params, "quantize": "int8"}).variant in maker.made for f in floats)


def test_the_same_seed_is_the_same_search(tmp_path):
    sequences = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        maker = Maker()
        _search(tmp_path / name, maker, trials=10, seed=seed).run()
        sequences.append(maker.made)
    assert sequences[0] == sequences[1] != sequences[2]


def test_an_interrupted_search_loses_nothing_and_makes_nothing_twice(tmp_path):
    maker = Maker()
    for _ in range(5):  # each session makes two things more and is interrupted in the third
        maker.interrupt_after = len(maker.made) + 2
        with pytest.raises(KeyboardInterrupt):
            _search(tmp_path, maker, trials=6).run()
    search = _search(tmp_path, maker, trials=6)
    assert search.run() == "6 of 6 trials are done"
    assert len(maker.interrupted) == 5 and set(maker.interrupted) <= set(maker.made)
    assert len(maker.made) == len(set(maker.made)) == 1 + len(HAND_MADE) + 6
    assert not [t for t in search.study.told() if t.state == "running"]
    assert search.study.spent == pytest.approx(maker.now, abs=0.1)


def test_a_killed_trial_is_queued_again(tmp_path):
    maker = Maker()
    first = _search(tmp_path, maker, trials=3)
    first.run()
    number, params = first.study.ask()  # and the process dies here, in the middle of a line
    with (tmp_path / study.JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 6, "tri')
    again = _search(tmp_path, maker, trials=4)
    states = {t.number: t.state for t in again.study.told()}
    assert states[number] == "failed"
    assert [t.params for t in again.study.told() if t.state == "waiting"] == [params]
    again.run()
    assert again.points.of(params).variant in maker.made


def test_no_trial_begins_that_would_not_end_in_time(tmp_path):
    maker = Maker()
    search = _search(tmp_path, maker, seconds=100.0)
    ended = search.run()
    assert "is up" in ended or "s are left" in ended
    assert 80 < maker.now <= 100.0
    more = _search(tmp_path, maker, seconds=100.0)
    more.run()  # the same command again: its time is used up
    assert maker.now <= 100.0
    _search(tmp_path, maker, seconds=200.0).run()
    assert 180 < maker.now <= 200.0


def test_a_training_that_was_interrupted_is_expected_to_take_as_long_as_all_of_it_took(tmp_path):
    class Resumed(Maker):
        """Each training takes 10 s in this session, and took 50 in one before."""

        def make(self, point, notify):
            result = super().make(point, notify)
            return dataclasses.replace(result, seconds=60.0 if result.trained else 1.0)

    search = _search(tmp_path, maker := Resumed(), seconds=130.0)
    assert "takes about 60 s" in search.run()
    assert maker.now < 100.0


def test_a_time_shorter_than_one_trial_is_said_and_one_is_made(tmp_path):
    maker = Maker()
    search = _search(tmp_path, maker, seconds=35.0)  # the reference and two by hand
    said = []
    search.notify = lambda event, info: said.append(info.get("text", ""))
    search.run()
    assert len([t for t in search.study.told() if t.counts]) == 1
    assert any("left out" in text for text in said) and any("shorter than one trial" in text for text in said)


def test_what_takes_seconds_is_made_by_hand_though_the_time_is_up(tmp_path):
    """Nets to be trained are left out then; an int8 file of one that is there is not."""
    maker = Maker()
    _search(tmp_path, maker, seconds=25.0).run()  # the reference, and two of the trainings by hand
    assert "student-kd-int8" in maker.made and "odd" not in maker.made


def test_a_net_that_cannot_be_had_is_not_tried_under_another_rung(tmp_path):
    maker = Maker()
    search = _search(tmp_path, maker, trials=4)
    start = {
        "route": "student",
        "student.model": "edgefit:resnet14",
        "student.width": 1.5,
        "distill.temperature": 2.0,
    }
    for rung in TUNE["quantize"]:
        search.study.enqueue({**start, "quantize": rung})
    maker.hopeless = search.points.of({**start, "quantize": "none"}).net
    before = maker.now
    search.run()
    pruned = {f.name: f.result for f in search.answer() if f.result.state == "pruned"}
    assert len(pruned) == 3 and all("diverged" in r.reason for r in pruned.values())
    others = sum(10.0 if f.result.trained else 1.0 for f in search.answer() if f.name not in pruned)
    assert maker.now - before == others + 10.0  # it was trained once


def test_a_space_that_is_exhausted_ends_the_search(tmp_path):
    small = _space(student={"model": ["edgefit:resnet8", "edgefit:resnet14"]}, distill={}, quantize=["none"])
    del small.domains["route"]
    small.fixed["route"] = "student"
    made, maker = _points(small), Maker()
    opened = study.open_study(made.space, 0, "s", {}, tmp_path)
    search = searching.Search(
        made, opened, maker, searching.Budget(None, clock=lambda: maker.now), lambda *_: None, "latency"
    )
    assert "exhausted" in search.run()
    assert {"student-kd", "resnet14"} <= set(maker.made)


def test_nothing_that_measures_the_objective_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(power, "open_source", lambda device: power.Nothing(device, "no instrument"))
    done = bench("tune", "--objective", "energy", "--out", "run", cwd=tmp_path)
    assert done.returncode == 7 and "no instrument" in done.stderr and not list(tmp_path.iterdir())


# --- the study


def test_a_study_of_another_search_is_refused_with_what_differs(tmp_path):
    study.open_study(_space(), 0, "s", {"tune": TUNE, "objective": "latency"}, tmp_path)
    other = {**TUNE, "distill": {"alpha": 0.9}}
    with pytest.raises(ConfigError) as caught:
        study.open_study(_space(), 0, "s", {"tune": other, "objective": "size"}, tmp_path)
    text = str(caught.value)
    assert "tune.distill.alpha: 0.7 became 0.9" in text and "objective: latency became size" in text


@pytest.mark.parametrize(
    "address", ["nonsense", "sqlite:////nowhere/at/all/study.db", "nodb://me:secret@host/x"]
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(address):
    with pytest.raises(StoreError) as caught:
        study.check_storage(address)
    assert "cannot be opened" in str(caught.value) and "secret" not in str(caught.value)


def test_two_workers_share_a_study_and_not_their_trials_in_progress(tmp_path):
    storage, made = f"sqlite:///{tmp_path}/s.db", _points()
    folders = [tmp_path / name for name in ("a", "b")]
    [folder.mkdir() for folder in folders]
    one = study.open_study(made.space, 0, "s", {}, folders[0], storage)
    number, params = one.ask()
    two = study.open_study(made.space, 0, "s", {}, folders[1], storage)
    assert [t.state for t in two.told()] == ["running"]  # the other one's, and alive
    assert two.ask()[1] != params
    assert one.claim("by hand") and not two.claim("by hand") and one.claim("by hand")
    one.tell(number, _result("x", 0.9, 1.0))
    assert two.told()[0].result == _result("x", 0.9, 1.0)
    assert two.told()[0].worker == one.worker != two.worker


def test_workers_at_the_same_path_of_two_machines_are_two(tmp_path):
    storage, made = f"sqlite:///{tmp_path}/s.db", _points()
    (tmp_path / "run").mkdir()
    one = study.open_study(made.space, 0, "s", {}, tmp_path / "run", storage)
    number, _ = one.ask()
    (tmp_path / "run").rename(tmp_path / "elsewhere")  # another machine has nothing at that path
    (tmp_path / "run").mkdir()
    two = study.open_study(made.space, 0, "s", {}, tmp_path / "run", storage)
    assert [t.state for t in two.told()] == ["running"]  # the first one's, and alive
    one.tell(number, _result("x", 0.9, 1.0))
    again = study.open_study(made.space, 0, "s", {}, tmp_path / "elsewhere", storage)
    assert again.worker == one.worker


def test_every_worker_knows_what_was_made_by_hand_and_has_one_scale(tmp_path):
    """The front of a second worker is never below what the first one made by hand, and in the same milliseconds."""
    storage, made = f"sqlite:///{tmp_path}/s.db", _points()
    searches = []
    for name, latency in (("a", 1.0), ("b", 1.3)):  # the same machine, in another mood
        maker = Maker()
        of_maker = maker.make

        def make(point, notify, of_maker=of_maker, latency=latency):
            result = of_maker(point, notify)
            ratio = Quantity(result.cost.value, "ratio", provenance="measured", method="by turns")
            reference = point.variant == "teacher"
            return dataclasses.replace(
                result,
                ratio=Quantity(1.0, "ratio", provenance="measured", method="itself") if reference else ratio,
                cost=Quantity(latency * (1.0 if reference else ratio.value), "ms", provenance="measured"),
            )

        maker.make = make
        (tmp_path / name).mkdir()
        opened = study.open_study(made.space, 0, "s", {}, tmp_path / name, storage)
        budget = searching.Budget(None, clock=lambda maker=maker: maker.now)
        trials = 2 if name == "a" else 5
        search = searching.Search(made, opened, maker, budget, lambda *_: None, "latency", trials)
        search.run()
        searches.append((search, maker))
    (one, _), (two, maker) = searches
    renamed = {n: s for n, s in made.signs.items() if n != "odd"} | {"student": "of another content"}
    assert two.study.by_hand(renamed).keys() == HAND_MADE - {"odd", "student"}
    assert not HAND_MADE & set(maker.made)
    by_hand = {f.name: f for f in two.answer() if f.by_hand and f.name != "teacher"}
    assert by_hand.keys() == HAND_MADE and not any(f.here for f in by_hand.values())
    assert two.reference.cost == one.reference.cost and two.reference.cost.value == 1.0
    for found in two.answer():
        assert found.result.cost.value == pytest.approx(found.result.ratio.value), found.name
    mine = {f.name for f in two.answer() if f.here}
    assert set(maker.kept) <= mine | {"teacher"} and mine <= set(maker.made)


def test_a_damaged_journal_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / study.JOURNAL).write_bytes(b"not a journal\nat all\n")
    with pytest.raises(StoreError, match="Move that file away"):
        study.open_study(_space(), 0, "s", {}, tmp_path)


# --- the command


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("0.5h", 1800), ("1H", 3600)]
)
def test_times_as_people_type_them(text, seconds):
    assert cli_tune._Duration().convert(text, None, None) == seconds


def test_a_password_is_never_shown():
    assert hide_password("--storage postgresql://me:pa:ss@host/db") == "--storage postgresql://me:***@host/db"
    assert hide_password("sqlite:///study.db") == "sqlite:///study.db"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "demo"], "no [tune] table"),
        (["--recipe", "tnue"], "Did you mean tune"),
        (["--runtime", "onxruntime"], "Did you mean onnxruntime"),
        (["--time", "20"], "no time such as"),
        (["--time", "0s"], "more than nothing"),
        (["--objective", "memory"], "--objective"),
        (["--set", "tune.student.model=[]"], "[tune.student] model is an empty list"),
        (["--storage", "nonsense"], "The storage nonsense cannot be opened"),
        (["--out", ""], "--out is empty"),
    ],
)
def test_mistakes_get_one_clear_paragraph_exit_2_and_leave_nothing(tmp_path, arguments, message):
    done = bench("tune", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout and list(tmp_path.iterdir()) == []


def test_a_student_that_cannot_be_built_stops_before_any_work():
    with pytest.raises(ModelError, match="edgefit:resnet9"):
        setup.prepare(setup.Options(sets=('tune.student.model=["edgefit:resnet8", "edgefit:resnet9"]',)))


RECIPE = """
schema = 1
reference = "teacher"
[data]
spec = "digits"
[variants.teacher]
step = "train"
model = "edgefit:tiny"
[tune]
quantize = ["none", "int8"]
[tune.student]
model = ["py:nets.py:small", "edgefit:tiny"]
[tune.prune]
macs = 0.5
"""


def test_another_protocol_or_edited_code_of_a_student_is_another_search(tmp_path, monkeypatch):
    """Their results would not be found by content, and do not compare."""
    monkeypatch.chdir(tmp_path)
    code = "from torch import nn\ndef small(num_classes, in_channels):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
    (tmp_path / "nets.py").write_text(code)
    (tmp_path / "x.toml").write_text(RECIPE)
    before = setup.prepare(setup.Options(recipe="x.toml")).identity
    assert setup.prepare(setup.Options(recipe="x.toml")).identity == before
    longer = setup.Options(recipe="x.toml", sets=("protocol.max_seconds=9",))
    assert study.differences(before, setup.prepare(longer).identity) == [
        f"protocol.max_seconds: {before['protocol']['max_seconds']} became 9"
    ]
    (tmp_path / "nets.py").write_text(code + "# another\n")
    (changed,) = study.differences(before, setup.prepare(setup.Options(recipe="x.toml")).identity)
    assert changed.startswith("files.nets.py")


def test_a_pruned_net_is_the_same_one_whatever_is_made_of_it(tmp_path, monkeypatch):
    """TensorRT's int8 kernels take 32 channels at a time, those of floats 8: the net suits what may be made of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text(RECIPE.replace("py:nets.py:small", "edgefit:tinyx2"))
    found = setup.prepare(setup.Options(recipe="x.toml", profile="jetson-xavier"))
    points = [found.points.of(found.points.space.first("prune", rung)) for rung in ("none", "int8")]
    assert points[0].net == points[1].net
    nets = [found.prepared(point).plan.variant(point.net) for point in points]
    assert nets[0].key == nets[1].key
    cut = found.prepared(points[0]).plan.variants[1].variant.step
    assert (cut.kind, cut.kernels) == ("prune", 32)


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingError, match=r"edgefit\[tune\]"):
        setup.prepare(setup.Options())


def test_the_recipe_that_comes_along_is_a_space_whose_first_trials_are_made_by_hand():
    from bench import recipe

    table, path = recipe.read("tune")
    found = space.parse(table.pop("tune"), str(path))
    made = pointing.Points(table, str(path), "tune", found, "onnxruntime")
    assert made.params_of("student-kd") and made.params_of("student-kd-int8")
    assert len(found.domains) >= 8 and set(found.values("route")) == {"student", "prune"}
