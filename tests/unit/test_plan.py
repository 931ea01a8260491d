"""The matrix: keys change with what decides a result and with nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from bench import plan, recipe
from bench.errors import ConfigError, UsageError
from hardware_profiles import load as profiles

HERE = (
    plan.RuntimeFacts("torch", "pt2", "2.14", "", refusals=(("int8", "no kernels"), ("fp16", "no gain"))),
    plan.RuntimeFacts(
        "onnxruntime", "onnx", "1.32", "u8s8", refusals=(("fp16", "no gain"), ("bf16", "no kernels"))
    ),
    plan.RuntimeFacts("litert", "tflite", "2.3", "litert", refusals=(("bf16", "no kernels"),)),
)


def _plan(profile="local", name="demo", overrides=None, runtimes=HERE, **more):
    options = {"data_digest": "d", "seed": 0, "machine": "m", "files": {}} | more
    return plan.make_plan(profiles.load(profile), recipe.load(name, overrides), runtimes=runtimes, **options)


def _keys(made):
    return {v.variant.name: v.key for v in made.variants}, {(c.cell, c.export): c.key for c in made.cells}


def test_planning_is_pure():
    assert _plan("jetson-xavier") == _plan("jetson-xavier")


def test_the_demo_is_at_least_eight_variants_on_three_runtimes():
    cells = [c for c in _plan("jetson-xavier").cells if c.cell.host == "local"]
    assert len({c.cell.variant for c in cells}) >= 8
    assert len({c.cell.runtime for c in cells}) == 3
    assert sum(1 for c in cells if not c.skip) >= 24


@pytest.mark.parametrize("change", [{"seed": 1}, {"data_digest": "other"}])
def test_seed_and_data_change_every_key(change):
    before, after = _keys(_plan())[0], _keys(_plan(**change))[0]
    assert all(before[n] != after[n] for n in before)


def test_a_changed_step_changes_its_own_key_and_its_childrens():
    before, after = _keys(_plan())[0], _keys(_plan(overrides={"variants.student-kd.alpha": 0.5}))[0]
    assert {n for n in before if before[n] != after[n]} == {n for n in before if n.startswith("student-kd")}


def test_a_new_runtime_version_measures_again_but_makes_nothing_again():
    newer = (*HERE[:1], dataclasses.replace(HERE[1], version="1.33"), *HERE[2:])
    before, after = _plan(), _plan(runtimes=newer)
    assert _keys(before)[0] == _keys(after)[0] and before.exports == after.exports
    changed = {k[0].runtime for k, v in _keys(before)[1].items() if _keys(after)[1].get(k) != v}
    assert changed == {"onnxruntime"}


def test_another_machine_measures_again():
    assert not set(_keys(_plan())[1].values()) & set(_keys(_plan(machine="other"))[1].values())


def test_changed_weights_change_the_teacher():
    overrides = {"variants.teacher.weights": "w.pt"}
    first, second = (_keys(_plan(overrides=overrides, files={"w.pt": sha}))[0] for sha in ("1", "2"))
    assert first["teacher"] != second["teacher"] and first["student"] == second["student"]
    own = {"variants.teacher.model": "mine.safetensors"}
    first, second = (_keys(_plan(overrides=own, files={"mine.safetensors": sha}))[0] for sha in ("1", "2"))
    assert first["teacher"] != second["teacher"]
    assert plan.files_named(recipe.load("demo", own)) == ["mine.safetensors"]


def test_a_device_that_is_not_here_is_skipped_with_what_to_do():
    device = [c for c in _plan("jetson-xavier").cells if c.cell.host == "jetson-agx-xavier"]
    assert device and all(c.skip for c in device)
    int8 = next(c for c in device if c.cell.precision == "int8")
    assert "no host" in int8.skip and "--host" in int8.remedy
    made = _plan("jetson-xavier").export(int8.export)
    assert (made.format, made.scheme) == ("onnx", "s8s8")  # accuracy with the target's own scheme


def test_what_a_device_cannot_do_is_skipped_with_the_profiles_reason():
    planned = _plan("jetson-nano")
    device = [c for c in planned.cells if c.cell.host == "jetson-nano"]
    int8 = [c for c in device if c.cell.precision == "int8"]
    reason = planned.profile.unsupported["tensorrt-int8"]
    assert int8 and all(reason in c.skip and not c.export and not c.remedy for c in int8)
    assert all("no host" in c.skip for c in device if c.cell.precision == "fp32")


def test_a_phone_uses_its_own_runtimes_scheme():
    device = next(c for c in _plan("pixel").cells if c.cell.host == "pixel-4" and c.cell.precision == "int8")
    assert _plan("pixel").export(device.export).scheme == "litert" and device.runtime_here == "litert"


def test_batches_and_threads_make_cells():
    made = _plan(overrides={"protocol.batches": [1, 8], "protocol.threads": [1, 2]})
    cells = [c.cell for c in made.cells if c.cell.variant == "teacher" and c.cell.runtime == "torch"]
    assert {(c.batch, c.threads) for c in cells} == {(1, 1), (1, 2), (8, 1), (8, 2)}


def test_quantized_exports_come_after_their_float_parents():
    seen = set()
    for export in _plan("jetson-xavier").exports:
        assert not export.float_key or export.float_key in seen
        seen.add(export.key)


def test_only_keeps_the_reference_and_what_is_needed():
    made = _plan(only="pruned-int8")
    assert {v.variant.name for v in made.variants} == {"teacher", "pruned-raw", "pruned", "pruned-int8"}
    assert {c.cell.variant for c in made.cells} == {"teacher", "pruned-int8"}
    with pytest.raises(UsageError, match="matches no variant"):
        _plan(only="nothing*")


def test_a_missing_runtime_is_skipped_and_the_rest_goes_on():
    gone = (*HERE[:2], dataclasses.replace(HERE[2], missing="not installed", remedy="pip install it"))
    cells = [c for c in _plan(runtimes=gone).cells if c.cell.runtime == "litert"]
    assert cells and all(c.skip == "not installed" and c.remedy == "pip install it" for c in cells)


def test_pruning_rounds_to_what_the_targets_kernels_take():
    def wanted(profile, recipe="demo", **overrides):
        return _plan(profile, recipe, overrides=overrides).variant("pruned-raw").variant.step

    assert (wanted("local").kernels, wanted("local").round_to) == (16, 0)
    assert wanted("jetson-xavier").kernels == 32  # an int8 file is made of it
    assert wanted("jetson-xavier", **{"variants.{parent}-int8.parents": ["teacher"]}).kernels == 8
    assert wanted("local", **{"variants.pruned-raw.round_to": 4}).round_to == 4


def test_a_net_is_trained_in_int8_for_the_files_that_its_target_takes():
    qat = {"variants.qat": {"step": "qat", "parent": "teacher"}}

    def scheme(profile, here=HERE, **more):
        made = _plan(profile, overrides=qat | more, runtimes=here)
        return made.variant("qat").variant.step.scheme

    old = tuple(
        dataclasses.replace(r, int8_scheme=r.int8_scheme and f"{r.int8_scheme}-7bit")
        if r.name == "onnxruntime"
        else r
        for r in HERE
    )
    assert scheme("local") == "u8s8"
    assert scheme("local", old) == "u8s8-7bit"
    assert scheme("local", old, runtimes=["litert"]) == "u8s8"
    assert scheme("jetson-xavier") == "s8s8"
    assert scheme("pixel") == "u8s8"  # LiteRT has no choice
    assert scheme("jetson-xavier", **{"variants.qat.scheme": "u8s8"}) == "u8s8"


def test_what_is_pruned_to_a_latency_depends_on_the_threads_it_is_timed_with():
    latency = {"variants.pruned-raw.macs": 0.0, "variants.pruned-raw.latency": 0.5}
    one, two, macs = (
        _keys(_plan(overrides=o))[0]
        for o in (latency, latency | {"protocol.threads": [2]}, {"protocol.threads": [2]})
    )
    assert one["pruned-raw"] != two["pruned-raw"] and one["teacher"] == two["teacher"]
    assert macs["pruned-raw"] == _keys(_plan())[0]["pruned-raw"]


def test_a_recipe_names_its_runtimes_else_the_local_profile_does():
    extra = (*HERE, plan.RuntimeFacts("openvino", "onnx", "2026.4", "u8s8"),
             plan.RuntimeFacts("torch-compile", "pt2", "2.14", ""))  # fmt: skip

    def here(runtimes):
        cells = _plan("jetson-xavier", overrides={"runtimes": runtimes}, runtimes=extra).cells
        return {c.cell.runtime for c in cells if c.cell.host == "local"}, [
            c for c in cells if c.cell.host != "local"
        ]

    assert here(["onnxruntime"])[0] == {"onnxruntime"}
    assert here(["torch-compile", "openvino"])[0] == {"torch-compile", "openvino"}
    assert here([])[0] == {"torch", "onnxruntime", "litert", "openvino"}
    assert {c.cell.runtime for c in here(["torch"])[1]} == {
        c.cell.runtime for c in here([])[1]
    }  # the device's own


@pytest.mark.parametrize("runtimes", [["onnxrutime"], "onnxruntime", [3]])
def test_unknown_runtimes_are_refused_with_the_nearest(runtimes):
    with pytest.raises(ConfigError, match=r"onnxruntime|no runtime is called 3"):
        _plan(overrides={"runtimes": runtimes})


def test_openvino_shares_the_onnx_files():
    extra = (HERE[1], plan.RuntimeFacts("openvino", "onnx", "2026.4", "u8s8"))
    made = _plan(overrides={"runtimes": ["onnxruntime", "openvino"]}, runtimes=extra)
    by_runtime = {r: {c.export for c in made.cells if c.cell.runtime == r and c.cell.precision in ("fp32", "int8")}
                  for r in ("onnxruntime", "openvino")}  # fmt: skip
    assert by_runtime["onnxruntime"] == by_runtime["openvino"]


TENSORRT = plan.RuntimeFacts("tensorrt", "onnx", "", "s8s8", missing="not installed", remedy="install it")
THERE = (dataclasses.replace(HERE[0], missing="not installed"), *HERE[1:], TENSORRT)


@pytest.mark.parametrize(
    ("profile", "chosen", "expected"),
    [
        # the profile's own, also when it is missing, and of the recipe's (torch, onnxruntime, litert) those that are there
        ("jetson-xavier", False, {"tensorrt", "onnxruntime", "litert"}),
        ("jetson-xavier", True, {"torch", "onnxruntime", "litert"}),
        ("raspberry-pi-5", False, {"onnxruntime", "litert"}),
    ],
)
def test_a_device_over_a_network_is_measured_on_its_own_runtimes_and_nowhere_else(profile, chosen, expected):
    cells = _plan(profile, there=plan.Elsewhere("d", THERE, chosen)).cells
    assert {c.cell.runtime for c in cells} == expected
    assert {c.cell.host for c in cells} == {profiles.load(profile).name}
    assert all(c.skip == "not installed" for c in cells if c.cell.runtime in ("tensorrt", "torch"))
    assert any(not c.skip for c in cells)


def test_a_device_without_a_profile_is_measured_on_what_is_there():
    known = dataclasses.replace(profiles.LOCAL, name="box", kind=plan.DEVICE)
    made = plan.make_plan(
        known, recipe.load("demo", None), runtimes=HERE, there=plan.Elsewhere("d", THERE), data_digest="d", seed=0,
        machine="m", files={},
    )  # fmt: skip
    assert {c.cell.runtime for c in made.cells} == {"onnxruntime", "litert"}
