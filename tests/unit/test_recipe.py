"""Recipes: what people write, what they get wrong, and what they are told."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import recipe
from bench.errors import ConfigError
from bench.preflight import RunOptions, _recipe
from bench.steps import DistillStep, PruneStep, QatStep, QuantizeStep, TrainStep

GOOD = {
    "schema": 1,
    "reference": "teacher",
    "training": {"epochs": 3},
    "variants": {
        "teacher": {"step": "train", "model": "edgefit:resnet20"},
        "small": {"step": "distill", "teacher": "teacher", "model": "edgefit:resnet8", "epochs": 5},
        "cut": {"step": "prune", "parent": "teacher", "macs": 0.4},
        "{parent}-int8": {"step": "quantize", "parents": ["teacher", "small"]},
    },
}


def _changed(path: str, value: object) -> dict:
    import copy

    table = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    node = table
    for part in parents:
        node = node.setdefault(part, {})
    node[last] = value
    return table


GENERAL = ("demo", "small", "full")


@pytest.mark.parametrize("name", list(recipe.names()))
def test_every_recipe_that_comes_along_can_be_read(name):
    found = recipe.load(name)
    assert found.description and found.reference in {v.name for v in found.variants}


@pytest.mark.parametrize("name", GENERAL)
def test_the_general_recipes_try_every_kind_of_compression(name):
    found = recipe.load(name)
    steps = {type(v.step) for v in found.variants}
    assert steps == {TrainStep, DistillStep, PruneStep, QuantizeStep}
    assert {v.precision for v in found.variants} >= {"fp32", "int8", "fp16", "bf16"}
    assert len([v for v in found.variants if not v.intermediate]) >= 8


def test_demo_small_and_full_are_there():
    assert set(GENERAL) <= set(recipe.names())


def test_defaults_overrides_and_patterns():
    found = {v.name: v for v in recipe.parse(GOOD, "x", "x.toml").variants}
    assert found["teacher"].step.training.epochs == 3 and found["small"].step.training.epochs == 5
    assert found["small-int8"].parent == "small" and found["small-int8"].precision == "int8"
    assert found["small"].needs == ("teacher",)


def test_every_distilled_variant_has_a_twin_without_a_teacher():
    found = {v.name: v for v in recipe.parse(GOOD, "x", "x.toml").variants}
    twin = found[found["small"].alone]
    assert twin.name == "small-alone" and twin.intermediate and isinstance(twin.step, TrainStep)
    assert (twin.step.model, twin.step.training) == (found["small"].step.model, found["small"].step.training)


def test_a_variant_of_the_recipe_that_is_the_twin_serves_as_one():
    same = {"step": "train", "model": "edgefit:resnet8", "epochs": 5}
    found = {v.name: v for v in recipe.parse(_changed("variants/plain", same), "x", "x.toml").variants}
    assert found["small"].alone == "plain" and "small-alone" not in found


def test_two_distillations_of_one_student_share_a_twin():
    second = dict(GOOD["variants"]["small"], alpha=0.5)
    found = {v.name: v for v in recipe.parse(_changed("variants/second", second), "x", "x.toml").variants}
    assert found["second"].alone == found["small"].alone


def test_alone_false_trains_no_twin():
    found = recipe.parse(_changed("variants/small/alone", False), "x", "x.toml").variants
    assert not [v for v in found if v.name.endswith("alone") or v.alone]


def test_a_recovery_has_its_twin_too_and_one_teacher_needs_no_brackets():
    table = _changed("variants/back", {"step": "distill", "parent": "cut", "teacher": ["teacher", "small"]})
    found = {v.name: v for v in recipe.parse(table, "x", "x.toml").variants}
    assert found["back"].needs == ("cut", "teacher", "small")
    assert found["back-alone"].parent == "cut" and not found["back-alone"].step.model
    assert found["small"].step.teacher == ("teacher",)


def test_how_others_train_is_no_part_of_a_prune_step_that_does_not():
    before, after = (
        {v.name: v.step for v in recipe.parse(_changed("training", t), "x", "x.toml").variants}
        for t in ({"epochs": 3}, {"epochs": 4})
    )
    assert before["cut"] == after["cut"] and before["teacher"] != after["teacher"]


def test_a_pruning_that_trains_does_so_as_others_but_for_how_long():
    sparse = _changed("variants/cut/sparse_epochs", 2)
    cuts = []
    for training in ({"epochs": 3, "lr": 0.2}, {"epochs": 4, "patience": 2, "lr": 0.2}, {"lr": 0.3}):
        found = recipe.parse(sparse | {"training": training}, "x", "x.toml")
        cuts.append(next(v.step for v in found.variants if v.name == "cut"))
    assert cuts[0] == cuts[1] != cuts[2] and [c.training.lr for c in cuts] == [0.2, 0.2, 0.3]


def test_a_qat_step_trains_a_few_epochs_gently_whatever_the_others_do():
    table = _changed("training", {"epochs": 30, "optimizer": "muon", "lr": 0.1, "batch_size": 32})
    table["variants"] |= {
        "a": {"step": "qat", "parent": "teacher"},
        "b": {"step": "qat", "parent": "teacher", "epochs": 7, "lr": 0.01},
    }
    own = QatStep().training
    found = {v.name: v.step.training for v in recipe.parse(table, "x", "x.toml").variants if v.name in "ab"}
    assert found["a"] == dataclasses.replace(own, batch_size=32)
    assert found["b"] == dataclasses.replace(own, batch_size=32, epochs=7, lr=0.01)
    assert (own.epochs, own.optimizer, own.lr) == (3, "adamw", 3e-4)


def test_variants_come_after_what_they_need():
    table = {"schema": 1, "reference": "b", "variants": dict(reversed(GOOD["variants"].items()))} | {
        "reference": "teacher"
    }
    names = [v.name for v in recipe.parse(table, "x", "x.toml").variants]
    assert names.index("teacher") < names.index("small") < names.index("small-int8")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("varaints", {}, "Did you mean variants"),
        ("schema", 2, "schema must be 1"),
        ("variants/teacher/step", "tarin", "Did you mean train"),
        ("variants/teacher/step", {"x": 1}, "step"),
        ("variants/teacher/step", ["train"], "step"),
        ("variants/teacher/intermediate", True, "is intermediate"),
        ("variants/[red]x", {"step": "train", "model": "m"}, "cannot be a variant's name"),
        ("variants/teacher/epohcs", 3, "Did you mean epochs"),
        ("variants/teacher/epochs", "three", "must be a whole number"),
        ("variants/teacher/epochs", True, "must be a whole number"),
        ("variants/teacher/epochs", -1, "epochs"),
        ("variants/teacher/lr", float("nan"), "must be finite"),
        ("variants/teacher/optimizer", "sdg", "Did you mean sgd"),
        ("variants/teacher/augment", ["cropp"], "Did you mean crop"),
        ("variants/teacher/model", None, "must be a str"),
        ("variants/small/teacher", "teechr", "Did you mean teacher"),
        ("variants/small/parent", "teacher", "either a model"),
        ("variants/small/temperature", 0.0, "temperature must be positive"),
        ("variants/small/alone", "no", "alone must be true or false"),
        ("variants/cut/alone", True, "only a distill step has"),
        ("variants/teacher/parent", "small", "either a model"),
        ("variants/q", {"step": "qat"}, "needs a parent"),
        ("variants/cut/macs", 1.5, "macs"),
        ("variants/cut/epochs", 9, "trains nothing, and epochs would do nothing.*distill"),
        (
            "variants/cut",
            {"step": "prune", "parent": "teacher", "sparse_epochs": 2, "patience": 3},
            "this pruning says",
        ),
        ("variants/cut/latency", 0.5, "one target"),
        ("variants/cut/parent", "", "needs a parent"),
        ("variants/{parent}-int8/precision", "int7", "int8"),
        ("variants/{parent}-int8/parents", "teacher", "go together"),
        ("variants/bad name", {"step": "train", "model": "m"}, "cannot be a variant's name"),
        ("variants/..", {"step": "train", "model": "m"}, "cannot be a variant's name"),
        ("reference", "nobody", "is no variant"),
        ("data", {"image_size": 1}, "image_size"),
        ("data", {"resize": "squash"}, "resize"),
        ("protocol", {"half_width": 0.0}, "half_width"),
        ("protocol", {"min_runs": 2}, "min_runs"),
        ("protocol", {"batches": []}, "batches"),
        ("variants", {}, "no \\[variants.NAME\\] table"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        recipe.parse(_changed(path, value), "x", "x.toml")


def test_a_circle_is_named():
    table = _changed("variants/teacher", {"step": "distill", "teacher": "small", "model": "edgefit:resnet20"})
    with pytest.raises(ConfigError, match=r"circle.*(teacher -> small|small -> teacher)"):
        recipe.parse(table, "x", "x.toml")


def test_quantizing_twice_is_refused():
    with pytest.raises(ConfigError, match="already int8"):
        recipe.parse(_changed("variants/more", {"step": "quantize", "parent": "small-int8"}), "x", "x.toml")


def test_set_changes_one_value(tmp_path):
    found = recipe.load(
        "demo", dict([recipe.parse_override("training.epochs=4"), recipe.parse_override("data.spec=cifar10")])
    )
    assert next(v for v in found.variants if v.name == "teacher").step.training.epochs == 4
    assert found.data.spec == "cifar10"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1.5", 1.5),
        ("a=true", True),
        ('a=["x"]', ["x"]),
        ("a=plain", "plain"),
        ("a=", ""),
        ("a=x=y", "x=y"),
    ],
)
def test_override_values_are_toml_or_text(text, value):
    assert recipe.parse_override(text) == ("a", value)


@pytest.mark.parametrize("text", ["novalue", "=3", ""])
def test_override_mistakes(text):
    with pytest.raises(ConfigError, match="key=value"):
        recipe.parse_override(text)


@pytest.mark.parametrize(
    ("key", "hint"),
    [("trainign.epochs", "training"), ("variants.teachr.epochs", "teacher"), ("epochs", "training.epochs")],
)
def test_override_of_unknown_places(key, hint):
    with pytest.raises(ConfigError, match=f"Did you mean {hint}"):
        recipe.load("demo", {key: 3})


def test_a_recipe_that_is_no_plain_small_file_is_refused(tmp_path):
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="too large"):
        recipe.load(str(big))
    with pytest.raises(ConfigError, match="no file"):
        recipe.load("/dev/zero.toml/")


def test_unknown_recipe_and_malformed_toml(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean demo"):
        recipe.load("dmeo")
    bad = tmp_path / "r.toml"
    bad.write_text("schema = 1\n[variants\n")
    with pytest.raises(ConfigError, match=r"r\.toml.*line 2"):
        recipe.load(str(bad))


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    path=st.sampled_from(
        ["data", "training", "protocol", "variants", "variants/teacher", "variants/cut/macs", "reference"]
    ),
    value=json_like,
)
def test_any_value_anywhere_is_a_config_error_or_valid(path, value):
    try:
        recipe.parse(_changed(path, value), "x", "x.toml")
    except ConfigError as err:
        assert str(err)


def test_a_finished_net_is_taken_as_it_is():
    """The teacher's own weights and no epochs, whatever the recipe trains it for."""
    options = RunOptions(weights="w.safetensors", sets=("variants.teacher.epochs=0",))
    found = {v.name: v.step for v in _recipe(options).variants}
    assert (found["teacher"].weights, found["teacher"].training.epochs) == ("w.safetensors", 0)
    assert found["student"].training.epochs > 0
    own = recipe.parse(
        _changed("variants/teacher", {"step": "train", "model": "t.safetensors", "epochs": 0}), "x", "x"
    )
    assert own.variants[0].step.training.epochs == 0
    with pytest.raises(ConfigError, match="epochs = 0 of the variant that has them, and of no other"):
        _recipe(dataclasses.replace(options, sets=("training.epochs=0",)))


def test_a_model_of_ones_own_takes_the_place_of_what_the_recipe_trains(tmp_path):
    [teacher] = [v for v in _recipe(RunOptions(model="timm:resnet10t")).variants if v.name == "teacher"]
    assert (teacher.step.model, teacher.step.weights) == ("timm:resnet10t", "")
    base = '[variants.base]\nstep = "train"\nmodel = "edgefit:tiny"\n'
    made = base + '[variants."{parent}-int8"]\nstep = "quantize"\nparents = ["base"]'
    for variants, said in (
        ("", "no \\[variants.NAME\\] table"),
        ('[variants.a]\nstep = "qat"', "needs a parent"),
        (f'reference = "base-int8"\n{made}', "'base-int8', which is no train step"),
        (f'reference = "bas"\n{made}', "Did you mean base"),
    ):
        (tmp_path / "r.toml").write_text(f"schema = 1\n{variants}\n")
        with pytest.raises(ConfigError, match=said):
            _recipe(RunOptions(recipe=str(tmp_path / "r.toml"), model="timm:resnet10t"))
