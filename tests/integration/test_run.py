"""From images to a trade-off table: a run's promises, on a real if tiny matrix."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from bench.pipeline import _Engine, execute
from bench.preflight import RunOptions, prepare
from bench.records import objects_of
from bench.runtimes.worker import Worker
from bench.store import Run, read_run
from bench.types import Cell
from tests.command import PROGRAM, bench, bench_process
from tests.integration.conftest import ONE_THREAD, RECIPE, run_arguments


def _cells(folder, **where):
    cells = read_run(folder / "run").cells
    return [c for c in cells if all(c["cell"][k] == v for k, v in where.items())]


def test_every_variant_is_measured_on_every_runtime_that_takes_it(finished):
    cells = {(c["cell"]["variant"], c["cell"]["runtime"]): c for c in _cells(finished, host="local")}
    for variant in ("teacher", "student", "pruned"):
        for runtime in ("onnxruntime", "litert"):
            assert cells[variant, runtime]["status"] == "ok", cells[variant, runtime]["reason"]
    for variant in ("teacher-int8", "student-int8"):
        assert cells[variant, "onnxruntime"]["status"] == cells[variant, "litert"]["status"] == "ok"


def test_every_value_has_provenance_or_a_reason(finished):
    for cell in read_run(finished / "run").cells:
        assert {"latency_ms", "p99_ms", "memory_mb", "energy_mj", "accuracy", "size_bytes", "macs"} <= set(
            cell["metrics"]
        )
        for name, value in cell["metrics"].items():
            if value["value"] is None:
                assert value["reason"], (cell["cell"], name)
            else:
                here = cell["cell"]["host"] == "local"
                known = ("measured", "estimated") if here else ("measured", "predicted")
                assert value["provenance"] in known and value["method"], (cell["cell"], name)


def test_the_time_of_a_training_is_that_of_all_its_epochs(tmp_path, monkeypatch):
    """Those before an interrupt, which its checkpoint knows of, too."""
    from distill.loop import Trainer

    epoch = Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self, number: epoch(self, number) | {"seconds": 1000.0})
    monkeypatch.chdir(tmp_path)
    prepared = prepare(RunOptions(recipe=str(RECIPE), only="teacher"))
    with Run(tmp_path / "run") as run:
        _Engine(prepared, run, lambda *_: None).variants()
        record = run.done("variant", prepared.plan.variant("teacher").key)
    assert record is not None and record["seconds"] == 2000.0


def test_raw_samples_give_the_stated_median(finished):
    data = read_run(finished / "run")
    for cell in data.cells:
        if cell["status"] != "ok" or cell["cell"]["host"] != "local":
            continue
        processes = list(np.load(data.object_path(cell["samples"])).values())
        latency = cell["metrics"]["latency_ms"]
        assert latency["n"] == len(processes) == 2  # the recipe's; the process is the unit, not the call
        medians = [float(np.median(samples)) * 1e3 for samples in processes]
        assert latency["value"] == pytest.approx(float(np.median(medians)))
        assert latency["low"] <= latency["value"] <= latency["high"]


def test_accuracy_is_of_the_test_set_and_recounts_from_the_predictions(finished):
    data = read_run(finished / "run")
    n = data.manifest["data"]["counts"]["test"]
    for cell in data.cells:
        accuracy = cell["metrics"]["accuracy"]
        if accuracy["value"] is None:
            continue
        kept = np.load(data.object_path(cell["predictions"]))
        assert accuracy["n"] == n == len(kept["test_true"])
        assert accuracy["value"] == pytest.approx((kept["test_pred"] == kept["test_true"]).mean())
        assert sum(map(sum, cell["classification"]["confusion"])) == n


def test_the_absent_device_is_predicted_and_its_accuracy_is_measured_with_its_scheme(finished):
    data = read_run(finished / "run")
    device = [c for c in data.cells if c["cell"]["host"] == "jetson-agx-xavier"]
    assert device and all(c["status"] == "ok" and c["remedy"] for c in device)
    for cell in device:
        metrics, foretold = cell["metrics"], cell["prediction"]
        for name in ("latency_ms", "memory_mb", "energy_mj", "throughput_ips"):
            assert metrics[name]["provenance"] == "predicted"
            assert metrics[name]["low"] < metrics[name]["value"] < metrics[name]["high"]
        assert metrics["accuracy"]["provenance"] == "measured" and cell["samples"] is None
        assert "predicted, not measured" in foretold["why"] and len(foretold["layers"]) == 5
    int8 = next(c for c in device if c["cell"]["variant"] == "teacher-int8")
    assert data.artifacts[int8["artifact"]]["artifact"]["scheme"] == "s8s8"
    assert all(c.get("prediction") is None for c in data.cells if c["cell"]["host"] == "local")


def test_reports_mark_what_is_predicted_and_say_where_it_is_from(finished):
    text = bench("report", "run", cwd=finished).stdout
    assert "Predicted" in text and "nets measured on it" in " ".join(text.split())
    table = text.partition("jetson-agx-xavier, batch 1")[2].partition("Against")[0]
    teacher = next(line for line in table.splitlines() if line.startswith("teacher "))
    assert teacher.count("*") == 3, "latency, memory and energy carry the mark"
    page = bench("report", "run", "--format", "html", "--output", "page.html", cwd=finished)
    assert page.returncode == 0
    html = (finished / "page.html").read_text(encoding="utf-8")
    assert "Predicted, not measured" in html and "5 predicted" in html and "-open" in html


def test_choosing_counts_predictions_by_their_worse_end_and_can_refuse_them(finished):
    data = read_run(finished / "run")
    latency = next(
        c["metrics"]["latency_ms"] for c in data.cells
        if c["cell"]["host"] == "jetson-agx-xavier" and c["cell"]["variant"] == "teacher"
    )  # fmt: skip
    between = f"{(latency['value'] + latency['high']) / 2:.6f}ms"
    common = ("choose", "run", "--max-latency", between, "--host", "jetson-agx-xavier", "--json")
    strict, trusting = bench(*common, cwd=finished), bench(*common, "--trust-predictions", cwd=finished)
    assert strict.returncode == trusting.returncode == 0, strict.stderr

    def refused(done):
        return {entry["cell"]["variant"] for entry in json.loads(done.stdout)["refused"]}

    assert "teacher" in refused(strict) and "teacher" not in refused(trusting)
    none = bench(*common[:-1], "--require-measured", cwd=finished)
    assert none.returncode == 6 and "predicted, not measured" in none.stderr


def test_a_profile_learns_from_a_run_on_its_device_and_from_no_other(finished):
    """Predictions with the profile that is written are nearer to what was measured, and nothing is overwritten."""
    stranger = bench("profiles", "calibrate", "--from", "run", "--profile", "raspberry-pi-5", cwd=finished)
    assert stranger.returncode == 2 and "--this-machine" in stranger.stderr
    options = ("--from", "run", "--profile", "raspberry-pi-5", "--this-machine")
    done = bench("profiles", "calibrate", *options, cwd=finished)
    assert done.returncode == 0 and "median error" in done.stdout, done.stderr
    written = finished / "raspberry-pi-5.calibrated.toml"
    assert bench("profiles", "validate", written.name, cwd=finished).returncode == 0
    assert bench("profiles", "calibrate", *options, cwd=finished).returncode == 2, "it is there already"
    measured = next(
        c["metrics"]["latency_ms"]["value"] for c in read_run(finished / "run").cells
        if (c["cell"]["host"], c["cell"]["runtime"], c["cell"]["variant"]) == ("local", "onnxruntime", "teacher")
    )  # fmt: skip
    path = finished / "teacher.onnx"
    record = next(
        a for a in read_run(finished / "run").artifacts.values()
        if a["variant"] == "teacher" and a["artifact"]["format"] == "onnx"
    )  # fmt: skip
    shutil.copy(read_run(finished / "run").object_path(record["artifact"]["sha256"]), path)
    errors = []
    for profile in ("raspberry-pi-5", written.name):
        found = bench("predict", "--model", path.name, "--profile", profile, "--runtime", "onnxruntime", "--threads", "1", "--json",
                      cwd=finished)  # fmt: skip
        errors.append(abs(np.log(json.loads(found.stdout)["latency_ms"]["value"] / measured)))
    assert errors[1] < 0.7 * errors[0]


def test_exports_agree_with_their_parents(finished):
    for record in read_run(finished / "run").artifacts.values():
        parity = record["parity"]
        assert parity["n"] >= 32 and parity["agreement"] >= (
            1.0 if record["artifact"]["precision"] == "fp32" else 0.9
        )


def test_the_same_command_again_does_nothing(finished):
    before = (finished / "run" / "records.jsonl").read_bytes()
    done = bench_process(*run_arguments(), cwd=finished)
    assert done.returncode == 0 and "0 records made" in done.stderr, done.stderr
    assert (finished / "run" / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("fmt", ["terminal", "md", "html", "csv", "json"])
def test_every_report_format(finished, fmt):
    done = bench("report", "run", "--format", fmt, cwd=finished)
    assert done.returncode == 0 and "student-int8" in done.stdout, done.stderr
    if fmt == "json":
        assert json.loads(done.stdout)["schema"] == 1
    if fmt == "html":
        assert "http://" not in done.stdout.split("<body", 1)[1].split("<script", 1)[0]


def test_choose_names_a_variant_and_its_export_works(finished, tmp_path):
    done = bench("choose", "run", "--max-latency", "1s", "--max-drop", "60%", "--json", cwd=finished)
    assert done.returncode == 0, done.stderr
    choice = json.loads(done.stdout)
    command = choice["command"].split()
    command[command.index("--output") + 1] = str(tmp_path / "ship")
    exported = bench(*command[1:], cwd=finished)
    assert exported.returncode == 0, exported.stderr
    (model,) = [p for p in (tmp_path / "ship").iterdir() if p.suffix != ".json"]
    measured = bench(
        "measure", str(model), "--data", "digits", "--max-seconds", "0.3", "--json", cwd=finished
    )
    assert measured.returncode == 0, measured.stderr
    cell = json.loads(measured.stdout)
    assert cell["status"] == "ok" and cell["latency_ms"]["value"] > 0 and 0 <= cell["accuracy"]["value"] <= 1


@pytest.mark.parametrize(
    ("where", "scheme"),
    [
        (["--runtime", "onnxruntime"], "local"),
        (["--host", "jetson-agx-xavier"], "s8s8"),
        (["--format", "onnx"], "local"),
    ],
)
def test_export_takes_the_file_that_the_cell_measured(finished, tmp_path, where, scheme):
    done = bench(
        "export",
        "run",
        "--variant",
        "teacher-int8",
        *where,
        "--output",
        str(tmp_path),
        "--json",
        cwd=finished,
    )
    assert done.returncode == 0, done.stderr
    artifact = json.loads(done.stdout)["artifact"]
    (local,) = _cells(finished, variant="teacher-int8", runtime="onnxruntime", host="local")
    measured = read_run(finished / "run").artifacts[local["artifact"]]["artifact"]
    assert (artifact["scheme"] == "s8s8") == (scheme == "s8s8")
    assert scheme == "s8s8" or artifact["sha256"] == measured["sha256"]


def test_export_asks_when_several_files_fit(finished, tmp_path):
    done = bench("export", "run", "--variant", "teacher", "--output", str(tmp_path), cwd=finished)
    assert done.returncode == 2 and "several files" in done.stderr and not list(tmp_path.iterdir())


def test_damaged_records_are_said_by_the_report(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    with (tmp_path / "run" / "records.jsonl").open("ab") as file:
        file.write(b"{torn")
    done = bench("report", "run", "--format", "csv", cwd=tmp_path)
    assert done.returncode == 0 and "1 damaged record" in done.stderr


def test_a_model_that_does_not_fit_the_data_is_refused_before_any_work(finished, tmp_path):
    from PIL import Image

    data = read_run(finished / "run")
    model = data.object_path(data.variants["teacher"]["model"]["sha256"])
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (8, 8), (i * 12, 30, 60)).save(tmp_path / "data" / label / f"{label}{i}.png")
    arguments = [
        "prune",
        str(model),
        "--data",
        f"folder:{tmp_path / 'data'}",
        "--output",
        "out/p.safetensors",
    ]
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and "does not fit the data" in done.stderr and not (tmp_path / "out").exists()


def test_nothing_fits_is_exit_6(finished):
    done = bench("choose", "run", "--max-latency", "0.000001ms", cwd=finished)
    assert done.returncode == 6 and "Traceback" not in done.stderr


def test_a_damaged_artifact_and_a_damaged_record_are_made_again(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    before = read_run(tmp_path / "run")
    record = next(
        r for r in before.artifacts.values() if r["variant"] == "student-int8" and r["format"] == "onnx"
    )
    victim = before.object_path(record["artifact"]["sha256"])
    victim.write_bytes(victim.read_bytes()[:-100])
    lines = (tmp_path / "run" / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / "records.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])
    done = bench_process(*run_arguments(), cwd=tmp_path, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "damaged" in done.stderr and victim.name in done.stderr.replace("\n", "")
    after = read_run(tmp_path / "run")
    assert after.artifacts.keys() == before.artifacts.keys() and len(after.cells) == len(before.cells)
    assert after.object_path(record["artifact"]["sha256"]).exists()  # the same bytes again


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_variants(finished, tmp_path):
    """Three kills of the whole run with EDGEFIT_LONG_TESTS=1; else one of the part that needs one format."""
    whole = "EDGEFIT_LONG_TESTS" in os.environ
    some = () if whole else ("--only", "student*", "--set", 'runtimes=["onnxruntime"]')
    command = [*PROGRAM, *run_arguments(), *some]
    random.seed(5)
    for _ in range(3 if whole else 1):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ONE_THREAD
        )
        time.sleep(random.uniform(4, 16))
        process.kill()
        process.wait()
    done = bench_process(*run_arguments(), *some, cwd=tmp_path, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr[-2000:]
    undisturbed, killed = read_run(finished / "run"), read_run(tmp_path / "run")
    if whole:
        assert killed.variants.keys() == undisturbed.variants.keys()
    assert {"teacher", "student", "student-int8"} <= killed.variants.keys()
    for name, variant in killed.variants.items():
        assert undisturbed.variants[name]["model"]["sha256"] == variant["model"]["sha256"], name
    artifacts = {k: r["artifact"]["sha256"] for k, r in undisturbed.artifacts.items()}
    assert killed.artifacts and all(
        artifacts[k] == r["artifact"]["sha256"] for k, r in killed.artifacts.items()
    )
    accuracies = {c["key"]: c["metrics"]["accuracy"].get("value") for c in undisturbed.cells}
    found = {c["key"]: c["metrics"]["accuracy"].get("value") for c in killed.cells if c["status"] == "ok"}
    assert found and all(accuracies[key] == value for key, value in found.items())
    records = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    keys = [(r["kind"], r["key"]) for r in map(json.loads, records)]
    assert len(keys) == len(set(keys)), "something finished was done twice"


def test_a_failing_variant_costs_only_itself(tmp_path):
    factory = tmp_path / "broken.py"
    factory.write_text(
        "import torch\n\nclass Broken(torch.nn.Module):\n"
        "    def __init__(self, n):\n        super().__init__()\n        self.f = torch.nn.Linear(64, n)\n"
        "    def forward(self, x):\n        return self.f(x.flatten(1)) * float('nan')\n\n"
        "def make(num_classes, in_channels):\n    return Broken(num_classes)\n"
    )
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'schema = 1\nreference = "good"\nruntimes = ["torch"]\n[data]\nspec = "digits"\n[training]\nepochs = 1\nwarmup_epochs = 0.0\n[protocol]\nprocesses = 1\nmax_seconds = 0.2\n'
        '[variants.good]\nstep = "train"\nmodel = "edgefit:tiny"\n'
        f'[variants.bad]\nstep = "train"\nmodel = "py:{factory}:make"\n'
        '[variants."{parent}-int8"]\nstep = "quantize"\nparents = ["good", "bad"]\n'
    )
    done = bench("run", "--recipe", str(recipe), "--out", "run", cwd=tmp_path)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "bad-int8" in done.stderr
    data = read_run(tmp_path / "run")
    assert data.variants["good"]["status"] == "ok" and data.variants["bad"]["status"] == "failed"
    assert "bad" in data.variants["bad-int8"]["reason"]
    (good,), (int8,) = (_cells(tmp_path, variant=name) for name in ("good", "good-int8"))
    assert good["status"] == "ok", good["reason"]
    assert int8["status"] == "skipped" and "torch runs INT8 only" in int8["reason"]
    assert all(c["status"] != "ok" for c in data.cells if c["cell"]["variant"].startswith("bad"))


def test_every_named_object_is_there(finished):
    data = read_run(finished / "run")
    for record in (*data.variants.values(), *data.artifacts.values(), *data.cells):
        for sha in objects_of(record):
            assert data.object_path(sha).exists()


def test_a_crash_and_a_hang_cost_their_cells_and_nothing_else(finished, tmp_path, monkeypatch):
    """One worker gets SIGSEGV and another SIGSTOP in their warm-up; the same command then mends both cells."""
    shutil.copytree(finished / "run", tmp_path / "run")
    now = {"item": "", "worker": None}
    run_job = Worker.run

    def watched(self, job, timeout, on_event):
        now["worker"] = self
        run_job(self, job, timeout, on_event)

    def hurt(event, info):
        if event == "item" and not info["done"]:
            now["item"] = info["name"]
        if event == "phase" and info["name"] == "warmup":
            number = wounds.get(now["item"])
            if number is not None:
                os.kill(now["worker"].pid, number)

    monkeypatch.setattr(Worker, "run", watched)
    wounds = {
        "teacher / onnxruntime / fp32 / batch 1 / 1 thr / local": signal.SIGSEGV,
        "student / litert / fp32 / batch 1 / 1 thr / local": signal.SIGSTOP,
    }
    options = RunOptions(
        profile="jetson-xavier",
        recipe=str(RECIPE),
        only="student",  # and the teacher, against which it is measured
        sets=("protocol.timeout_seconds=4", "protocol.min_runs=51"),
    )
    prepared = prepare(options)
    with Run(tmp_path / "run") as store:
        outcome = execute(prepared, store, hurt)
    assert len(outcome.failed) == 2
    failed = {
        Cell(**c["cell"]).label: c["reason"]
        for c in read_run(tmp_path / "run").cells
        if c["status"] == "failed"
    }
    assert failed.keys() == wounds.keys()
    crash, hang = (failed[name] for name in wounds)
    assert "SIGSEGV" in crash and "Fatal Python error: Segmentation fault" in crash
    assert "silent for 4 s" in hang
    wounds = {}
    with Run(tmp_path / "run") as store:
        again = execute(prepare(options), store, hurt)
    assert (again.made, again.failed) == (2, [])
    assert all(c["status"] != "failed" for c in read_run(tmp_path / "run").cells)
