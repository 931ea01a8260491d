"""A search on embedded digits: interrupted, resumed, reported, exported."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from bench.store import Run, read_run
from bench.tune import maker as making
from bench.tune import setup, stop
from tests.command import PROGRAM, bench, bench_process
from tests.integration.conftest import ONE_THREAD

COMMAND = ["tune", "--recipe", "search.toml", "--trials", "2"]
RECIPE = """
schema = 1
reference = "teacher"
[data]
spec = "digits"
image_size = 8
calibration = 64
[training]
epochs = 1
batch_size = 64
lr = 0.05
warmup_epochs = 0.2
augment = ["crop"]
[protocol]
processes = 1
max_seconds = 0.3
half_width = 0.05
[variants.teacher]
step = "train"
model = "edgefit:resnet8x0.5"
epochs = 3
[tune]
quantize = ["none", "int8"]
image_size = [10, 8]
[tune.student]
model = ["edgefit:tiny", "edgefit:tinyx1.5"]
[tune.distill]
temperature = [4.0, 2.0]
[tune.int8]
images = 32
"""


def _trials_told(run: Path) -> int:
    journal = run / "study.journal"
    return journal.read_text().count('"user_attr":{"result"') if journal.exists() else 0


def _interrupted(arguments: list[str], cwd: Path, run: Path) -> subprocess.CompletedProcess:
    """Start the command and interrupt it once a trial is done and the next one has begun."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ONE_THREAD,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not _trials_told(run) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess, dict]:
    """A search, interrupted and resumed: its folder, the first session and the second one's answer."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "search.toml").write_text(RECIPE)
    cut = _interrupted([*COMMAND, "--out", "run"], folder, folder / "run")
    whole = bench_process(*COMMAND, "--out", "run", "--json", cwd=folder, env=ONE_THREAD)
    assert whole.returncode == 0, whole.stderr[-3000:]
    return folder, cut, json.loads(whole.stdout)


@pytest.mark.slow
def test_an_interrupt_leaves_a_run_and_says_how_to_go_on(searched):
    _, cut, _ = searched
    assert cut.returncode == 130, cut.stderr[-3000:]
    assert "the same command goes on" in cut.stderr and "Traceback" not in cut.stderr
    assert "reference" in cut.stdout and "1 trial," in cut.stdout


def test_the_same_command_goes_on_and_makes_nothing_twice(searched):
    folder, _, answer = searched
    tried = [v for v in answer["variants"] if v["trial"] is not None]
    assert answer["ended"] == "2 of 2 trials are done" and len(tried) == 2
    for found in tried:
        assert found["status"] == "complete", found["reason"]
        assert found["val_accuracy"]["low"] <= found["val_accuracy"]["value"] <= found["val_accuracy"]["high"]
        assert found["latency_ms"]["value"] > 0 and found["latency_ratio"]["n"] >= 3
        assert "accuracy" not in found  # that of the test set is not looked at
    records = [json.loads(line) for line in (folder / "run" / "records.jsonl").read_text().splitlines()]
    made = Counter((r["kind"], r["key"]) for r in records)
    assert max(made.values()) == 1, "something finished was done twice"
    assert sum(kind == "trial" for kind, _ in made) == 2


def test_the_front_is_ordinary_variants_of_the_run(searched, tmp_path):
    folder, _, answer = searched
    best = {v["variant"] for v in answer["variants"] if v["pareto"]}
    data = read_run(folder / "run")
    assert best <= {c["cell"]["variant"] for c in data.cells if c["status"] == "ok"}
    assert data.manifest["reference"] == "teacher" and data.manifest["data"]["size"] == [8, 8]
    report = bench("report", "run", "--format", "json", cwd=folder)
    assert report.returncode == 0 and best <= {v["name"] for v in json.loads(report.stdout)["variants"]}
    assert bench("choose", "run", "--max-drop", "100%", cwd=folder).returncode == 0
    smallest = min((v for v in answer["variants"] if v["pareto"]), key=lambda v: v["latency_ms"]["value"])
    arguments = ["export", "run", "--variant", smallest["variant"], "--output", str(tmp_path)]
    assert bench(*arguments, cwd=folder).returncode == 0
    assert (tmp_path / f"{smallest['variant']}.onnx").stat().st_size == smallest["size_bytes"]["value"]


def test_a_stopped_training_is_never_a_finished_variant(searched, tmp_path, one_thread):
    folder, _, _ = searched
    shutil.copytree(folder / "run", tmp_path / "run")
    found = setup.prepare(
        setup.Options(str(folder / "search.toml"), objective="size", sets=("training.epochs=3",))
    )
    point = found.points.of(found.points.space.first("student", "none") | {"image_size": 8})

    def stopping(event: str, info: dict) -> None:
        if event == "epoch" and info["variant"] == point.net:
            raise stop.Hopeless("it lags behind")

    with Run(tmp_path / "run") as run:
        maker = making.Maker(found, run)
        assert maker.done(found.points.reference)
        left = set((tmp_path / "run" / "work").iterdir())
        weight = maker.weight(point)
        stopped = maker.make(point, stopping)
        assert stopped.state == "pruned" and "lags behind" in stopped.reason and stopped.broken == point.net
        assert maker.trains(point) and not maker.done(point)
        maker.forget(point)
        assert set((tmp_path / "run" / "work").iterdir()) == left
        whole = maker.make(point, lambda *_: None)
        assert whole.state == "complete" and maker.done(point) and not maker.trains(point)
        assert len(whole.curve) == 3 and whole.curve[-1][0] == 1.0
        assert whole.weight == weight  # known before it was trained
        assert whole.cost == whole.size and whole.cost.value > 1000
        maker.keep([found.points.reference, point])
    assert read_run(tmp_path / "run").variants.keys() == {"teacher", point.variant}
