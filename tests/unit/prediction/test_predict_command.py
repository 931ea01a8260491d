"""`bench predict` and what a person reads: values with intervals and reasons, and errors that say what to do."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import errors, predicting
from bench.cli import cli
from hardware_profiles import load
from hardware_profiles.predict import Setting, predict, read_graph
from hardware_profiles.prediction import coefficients, energy
from tests.prediction_nets import Mixed, to_onnx

PROFILES = [p for p in load.every() if p.name != "local"]


@pytest.fixture(scope="module")
def graph():
    return read_graph(Mixed(), 3, 32, 32)


def run(*arguments: str):
    return CliRunner().invoke(cli, ["predict", *arguments], catch_exceptions=True)


def refused(*arguments: str) -> errors.EdgefitError:
    found = run(*arguments)
    assert isinstance(found.exception, errors.EdgefitError), found.output
    return found.exception


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_every_device_gets_a_prediction_with_an_interval_and_reasons(profile, graph):
    for runtime in profile.runtimes:
        for precision in profile.precisions:
            if profile.refusal(runtime, precision) or precision == "fp8":
                continue
            found = predict(graph, profile, Setting(runtime, precision))
            for quantity in (found.latency_ms, found.memory_mb):
                assert quantity.provenance == "predicted"
                assert 0 < quantity.low < quantity.value < quantity.high < 1e7
            assert found.latency_ms.method.startswith("90% interval") and "bounds" in found.memory_mb.method
            assert "90%" not in found.memory_mb.method, "nobody tested that of memory"
            assert (
                found.energy_mj.value is None
                or found.energy_mj.low < found.energy_mj.value < found.energy_mj.high
            )
            assert found.energy_mj.value is not None or found.energy_mj.reason
            assert sum(found.bounds.values()) == pytest.approx(1) and 1 <= len(found.layers) <= 5
            assert sum(layer.ms for layer in found.layers) <= found.latency_ms.value


@settings(max_examples=25)
@given(batch=st.integers(1, 64), runtime=st.sampled_from(["tensorrt", "ncnn-vulkan", "litert"]))
def test_more_images_take_longer_but_less_each(batch, runtime):
    graph = _graph()
    profile = load.load("jetson-xavier")
    one, more = (
        predict(graph, profile, Setting(runtime, "fp16", b)).latency_ms.value for b in (batch, batch + 1)
    )
    assert one < more <= one * (batch + 1) / batch * 1.001


def _graph(kept=[]):  # noqa: B006 - made once
    if not kept:
        kept.append(read_graph(Mixed(), 3, 32, 32))
    return kept[0]


def test_a_slower_power_mode_takes_longer_and_less_power(graph):
    profile = load.load("jetson-xavier")
    fast, slow = (predict(graph, profile, Setting("tensorrt", "fp16", mode=m)) for m in ("MAXN", "MODE_10W"))
    assert slow.latency_ms.value > fast.latency_ms.value
    assert slow.latency_ms.high / slow.latency_ms.low >= fast.latency_ms.high / fast.latency_ms.low


def test_a_short_name_of_a_power_mode_will_do_and_a_gpu_has_no_threads():
    found = run(
        "--model",
        "edgefit:resnet8",
        "--profile",
        "jetson-orin",
        "--power-mode",
        "15W",
        "--json",
    )
    cell = json.loads(found.stdout)
    assert cell["power_mode"] == "MODE_15W" and cell["threads"] == 1


def test_a_model_that_does_not_fit_has_no_latency(graph):
    """It is failed with the reason; one that may not fit is warned of."""
    profile = load.load("raspberry-pi-zero2w")
    found = predict(graph, profile, Setting("litert", "fp32", batch=100_000, threads=4))
    assert "raspberry-pi-zero2w has 0.5 GB" in found.unfit
    cell = predicting.metrics(found, Setting("litert", "fp32", batch=100_000, threads=4))
    assert cell["latency_ms"].value is None and cell["latency_ms"].reason == found.unfit
    assert cell["energy_mj"].value is None and cell["memory_mb"].value > 500
    batch = next(
        b for b in range(100, 100_000, 100) if predict(graph, profile, Setting("litert", "fp32", b, 4)).notes
    )
    doubtful = predict(graph, profile, Setting("litert", "fp32", batch, 4))
    assert "may not fit" in doubtful.notes[-1] and not doubtful.unfit


@pytest.mark.parametrize("name", ["raspberry-pi-4", "jetson-xavier", "galaxy-s24", "coral", "xeon-w-2233"])
def test_a_larger_image_never_takes_less_time(name):
    profile = load.load(name)
    for runtime in profile.runtimes:
        precision = "int8" if "int8" in profile.precisions and name == "coral" else "fp32"
        if profile.refusal(runtime, precision):
            continue
        times = []
        for side in (16, 32, 48, 64, 96, 112, 224):
            times.append(predict(_sized(side), profile, Setting(runtime, precision)).latency_ms.value)
        assert times == sorted(times), (runtime, times)


@cache
def _sized(side: int):
    from distill import models

    return read_graph(models.build("timm:resnet18", 10, 3), 3, side, side)


def test_int8_advice_has_an_interval_and_its_doubt(graph):
    advice = predict(graph, load.load("raspberry-pi-5"), Setting("litert", "fp32", threads=4)).advice
    said = next(line for line in advice if line.startswith("INT8"))
    assert re.search(r"\*\d+\.\dx \[\d+\.\d, \d+\.\d\]", said) and "not sure" in said


def test_a_device_without_measurements_gets_the_runtime_that_was_measured_on_most_others():
    pi = load.load("raspberry-pi-5")
    groups = coefficients.stored()["groups"]
    chosen = predicting.choose_runtime(pi, "fp32")
    assert groups[f"{chosen}-float"]["devices"] == max(
        groups.get(f"{r}-float", {"devices": 0})["devices"] for r in pi.runtimes
    )


def test_int8_advice_compares_only_what_the_same_people_measured(graph):
    """The Xavier's FP16 and INT8 are of other publications, with other toolchains; the Raspberry Pi's are of one."""
    xavier = predict(graph, load.load("jetson-xavier"), Setting("tensorrt", "fp16")).advice
    pi = predict(graph, load.load("raspberry-pi-4"), Setting("litert", "fp32", threads=4)).advice
    assert not any(said.startswith("INT8 ") for said in xavier) and any(
        said.startswith("INT8 ") for said in pi
    )


def test_a_calibrated_device_has_a_narrower_interval_than_an_unknown_one(graph):
    known = predict(graph, load.load("raspberry-pi-4"), Setting("litert", "int8", threads=4))
    unknown = predict(graph, load.load("raspberry-pi-5"), Setting("litert", "int8", threads=4))
    assert known.calibrated and not unknown.calibrated
    assert known.latency_ms.high / known.latency_ms.low < unknown.latency_ms.high / unknown.latency_ms.low


def test_published_power_is_used_where_there_is_some_and_rated_power_elsewhere():
    published = energy.power(load.load("raspberry-pi-4"), "litert", "int8")
    rated = energy.power(load.load("jetson-nano"), "tensorrt", "fp16")
    assert "at the wall" in published.how and 5 < published.watts < 8
    assert "rated" in rated.how and rated.low < rated.watts < rated.high
    assert "phone" in energy.power(load.load("pixel-4"), "litert", "fp32")


def test_advice_names_what_costs(graph):
    profile = load.load("raspberry-pi-4")
    said = " ".join(predict(graph, profile, Setting("litert", "fp32", threads=4)).advice)
    assert "37 channels cost as much as 40" in said and "INT8" in said
    launch = " ".join(predict(graph, load.load("jetson-nano"), Setting("tensorrt", "fp16")).advice)
    assert "launch-bound" in launch


def test_a_stored_prediction_is_not_mistaken_for_one_on_other_figures():
    from dataclasses import replace

    one = load.load("raspberry-pi-4")
    table = dict(one.calibration[0]) | {"rows": 10**6}
    other = replace(one, calibration=(table, *one.calibration[1:]))
    assert coefficients.fingerprint(one) == coefficients.fingerprint(load.load("raspberry-pi-4"))
    assert coefficients.fingerprint(one) != coefficients.fingerprint(other)


# --- the command


def test_the_json_document_is_one_predicted_cell(tmp_path):
    path = to_onnx(Mixed(), tmp_path / "net.onnx")
    found = run("--model", str(path), "--profile", "jetson-xavier", "--precision", "fp16", "--json")
    assert found.exit_code == 0, found.output
    cell = json.loads(found.stdout)
    keys = (
        "latency_ms",
        "p90_ms",
        "p99_ms",
        "throughput_ips",
        "memory_mb",
        "energy_mj",
        "size_bytes",
        "macs",
        "params",
        "accuracy",
    )
    assert all(k in cell for k in (*keys, "environment", "status"))
    assert (
        cell["latency_ms"]["provenance"] == "predicted"
        and cell["accuracy"]["value"] is None
        and cell["accuracy"]["reason"]
    )
    size = cell["size_bytes"]
    assert size["value"] == 2 * cell["params"]["value"] and size["provenance"] == "predicted", (
        "the file is in float32"
    )
    assert cell["throughput_ips"]["value"] == pytest.approx(1000 / cell["latency_ms"]["value"])


def test_what_a_person_reads_says_that_it_is_predicted():
    found = run("--model", "edgefit:resnet8", "--profile", "rpi4", "--precision", "int8")
    assert found.exit_code == 0, found.output
    assert "PREDICTED" in found.output and "*" in found.output and "nets measured on it" in found.output
    assert "litert int8" in found.output and "4 threads" in found.output


def test_a_pruned_model_of_ours_is_predicted_at_its_own_widths(tmp_path):
    import torch

    from bench.types import Preprocess
    from distill import models

    module = models.build("edgefit:tiny", 10, 3)
    pre = Preprocess(16, 16, 3, (0.5,) * 3, (0.5,) * 3)
    spec = models.ModelSpec("edgefit:tiny", 10, 3, tuple(map(str, range(10))), pre)
    path = tmp_path / "net.safetensors"
    with torch.no_grad():
        models.save(module, spec, path)
    found = run("--model", str(path), "--profile", "jetson-xavier", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["params"]["value"] == pytest.approx(
        sum(p.numel() for p in module.parameters()), rel=0.1
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "edgefit:resnet8", "--profile", "local"), "This machine is here"),
        (("--model", "edgefit:resnet8", "--profile", "jetson-xavie"), "Did you mean"),
        (("--model", "edgefit:nothing", "--profile", "jetson-xavier"), "no model"),
        (("--model", "edgefit:resnet8", "--profile", "raspberry-pi-4", "--precision", "fp16"), "Cortex-A72"),
        (("--model", "edgefit:resnet8", "--profile", "jetson-xavier", "--power-mode", "TURBO"), "MODE_10W"),
        (("--model", "absent.onnx", "--profile", "jetson-xavier"), "There is no file"),
        (("--model", "/tmp", "--profile", "jetson-xavier"), "is a folder"),
        (
            ("--model", "edgefit:resnet8", "--profile", "raspberry-pi-5", "--runtime", "LiteRT"),
            "Did you mean litert",
        ),
        (
            ("--model", "edgefit:resnet8", "--profile", "raspberry-pi-5", "--runtime", "tensorrt"),
            "nothing that tensorrt runs on",
        ),
        (("--model", "edgefit:resnet8", "--profile", "raspberry-pi-5", "--threads", "64"), "it has 4"),
        (
            ("--model", "edgefit:resnet8", "--profile", "jetson-xavier", "--threads", "4"),
            "Leave --threads out",
        ),
        (("--model", "timm:resnet18", "--profile", "jetson-xavier", "--input-size", "8"), ""),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(arguments, words):
    found = run(*arguments)
    if not words:  # small images run, or are an error of ours
        assert found.exit_code == 0 or isinstance(found.exception, errors.EdgefitError)
        return
    assert isinstance(found.exception, errors.EdgefitError) and words in str(found.exception), found.output


def test_other_kinds_of_files_are_refused(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"TFL3")
    assert "Give the ONNX file of the same model" in str(
        refused("--model", str(path), "--profile", "jetson-xavier")
    )


def test_the_help_of_everything_answers_without_torch():
    import subprocess
    import sys

    code = (
        "import sys; from bench.cli import cli; import hardware_profiles.predict, hardware_profiles.prediction.coefficients\n"
        "from hardware_profiles import load\n"
        "from hardware_profiles.prediction import calibrate, evaluate, fit, judge, learn, published, zoo\n"
        "assert not {'torch', 'numpy', 'onnx', 'scipy'} & set(sys.modules), sorted({'torch', 'numpy', 'onnx', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
