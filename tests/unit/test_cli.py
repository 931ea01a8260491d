"""The command line: exit codes, one clear paragraph, nothing created."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from tests.command import PROGRAM, bench, bench_process


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--profile", "jetson-xaver"], "Did you mean jetson-xavier"),
        (["run", "--recipe", "dmeo"], "Did you mean demo"),
        (["run", "--recipe", "missing.toml"], "no file missing.toml"),
        (["run", "--data", "folder:nowhere"], "nowhere"),
        (["run", "--data", "cifar11"], "Did you mean cifar10"),
        (["run", "--data", "."], "folder:."),
        (["run", "--model", "edgefit:resnet21"], "or resnet20"),
        (["run", "--model", "resnet20"], "edgefit:resnet20"),
        (["run", "--model", "py:nothing.py:make"], "nothing.py"),
        (["run", "--weights", "nothing.pt"], "nothing.pt"),
        (["run", "--set", "training.epohcs=3"], "Did you mean epochs"),
        (["run", "--set", "training.epochs=-3"], "epochs"),
        (["run", "--set", "training.epochs"], "key=value"),
        (["run", "--only", "nobody"], "matches no variant"),
        (["run", "--host", "ftp://box"], "Supported: local, ssh"),
        (["run", "--seed", "-1"], "--seed"),
        (["rnu"], "Did you mean run"),
        (["report", "nowhere"], "There is no run"),
        (["report"], "There is no run here"),
        (["choose", "nowhere", "--max-latency", "5ms"], "There is no run"),
        (["measure", "nothing.onnx"], "no file nothing.onnx"),
        (["export", "nothing.safetensors", "--output", "x.onnx"], "nothing.safetensors"),
        (["prune", "nothing.safetensors", "--output", "x.safetensors"], "nothing.safetensors"),
        (["prune", "x.safetensors", "--output", "y.safetensors", "--set", "epochs=9"], "trains nothing"),
        (["quantize", "nothing.safetensors", "--output", "x.bin"], "--output must end in"),
        (["quantize", "x.safetensors", "--output", "x.onnx", "--precision", "fp16", "--equalize"], "nothing"),
        (["train", "--model", "edgefit:tiny", "--output", "x.pt"], ".safetensors"),
        (["distill", "--teacher", "t.safetensors", "--output", "x.safetensors"], "either --model"),
        (["train", "--model", "edgefit:tiny", "--output", "/dev/null/x.safetensors"], "cannot be written"),
        (["run", "--out", ""], "--out is empty"),
        (["run", "--recipe", "/dev/zero"], "no file"),
        (["profiles", "show", "pixle"], "Did you mean pixel"),
        (["profiles", "validate", "nothing.toml"], "nothing.toml"),
    ],
)
def test_mistakes_get_one_clear_paragraph_exit_2_and_leave_nothing(tmp_path, arguments, message):
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not done.stdout and len(done.stderr) < 1500
    assert list(tmp_path.iterdir()) == []


def test_a_qat_trains_as_its_step_says_where_nothing_is_set():
    from bench.cli_steps import _training
    from bench.steps import QatStep, Training

    assert _training((), kind=QatStep) == QatStep().training != Training()
    assert _training(("epochs=5",), kind=QatStep) == dataclasses.replace(QatStep().training, epochs=5)
    assert _training(("epochs=5",)) == Training(epochs=5)


def test_several_problems_are_reported_together(tmp_path):
    done = bench_process("run", "--profile", "nope", "--recipe", "nope", cwd=tmp_path)
    assert (
        done.returncode == 2
        and "profile named 'nope'" in done.stderr
        and "recipe named 'nope'" in done.stderr
    )


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"weight": Evil()}))
    done = bench("run", "--weights", "w.pt", cwd=tmp_path)
    assert done.returncode == 2 and "w.pt" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    done = bench("run", "--out", "file/run", "--set", "variants.teacher.model=edgefit:tiny", cwd=tmp_path)
    assert done.returncode == 2 and "Cannot write to file/run" in done.stderr


def test_dry_run_prints_the_matrix_and_creates_nothing(tmp_path):
    done = bench("run", "--profile", "jetson-xavier", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["profile"] == "jetson-agx-xavier" and len(document["variants"]) >= 8
    assert any(c["skip"] for c in document["cells"]) and list(tmp_path.iterdir()) == []


def test_profiles_and_runtimes_answer(tmp_path):
    assert "jetson-xavier" in bench("profiles", cwd=tmp_path).stdout
    shown = json.loads(bench("profiles", "show", "jetson-xavier", "--json", cwd=tmp_path).stdout)
    assert shown["facts"]["memory_gb"]["value"] == 32
    runtimes = json.loads(bench("runtimes", "--json", cwd=tmp_path).stdout)
    assert {r["name"] for r in runtimes} >= {"torch", "onnxruntime", "litert"}


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\nfrom bench.cli import cli\ntry:\n    cli.main(['--help'], standalone_mode=True)\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'pandas', 'onnxruntime', 'scipy', 'plotly', 'jinja2', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "bench run --profile" in done.stdout


@pytest.mark.parametrize(
    ("sent", "sigint"),
    # a shell's `&` has SIGINT ignored: there only SIGTERM ends a run
    [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_IGN)],
)
def test_an_interrupt_says_what_is_kept(tmp_path, sent, sigint):
    process = subprocess.Popen(
        [*PROGRAM, "run", "--set", "training.epochs=500"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/work/*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in stderr and "Traceback" not in stderr
