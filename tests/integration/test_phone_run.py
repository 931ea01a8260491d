"""``bench run --host adb://...`` to its end: real nets and accuracy, stand-ins for adb, the phones and the vendors' tools."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.hosts import inventory
from bench.runtimes.base import CellJob
from bench.runtimes.phone import Phone
from bench.store import file_sha256, read_run
from bench.types import Artifact, Protocol, TensorSpec
from tests.command import bench, bench_process
from tests.integration.conftest import RECIPE
from tests.standin_phone import MODEL, Phones, tool

pytest.importorskip("ai_edge_litert")
SETS = (
    'runtimes=["onnxruntime", "litert"]',
    "protocol.processes=2",
    "protocol.max_seconds=0.1",
    "protocol.batches=[1]",
)


def test_a_run_on_a_phone_measures_there_and_predicts_here(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nets are those of a run that there is already: the same recipe, data and seed."""
    shutil.copytree(finished / "run", tmp_path / "run")
    phones = Phones(tmp_path / "phones")
    phones.add("OTHER", model="Galaxy S24 (stand-in)")
    mine = phones.add("MINE", tools=("benchmark_model",))
    phones.conditions("MINE", charging=True)
    monkeypatch.setenv("EDGEFIT_ADB_COMMAND", phones.command)
    monkeypatch.setenv("EDGEFIT_HOSTS", str(tmp_path / "hosts.toml"))
    monkeypatch.setenv(
        "EDGEFIT_ANDROID_BENCHMARK", str(tool("onnxruntime_perf_test", tmp_path / "onnxruntime_perf_test"))
    )
    inventory.save({"flame": inventory.Device("flame", "adb://MINE", "pixel-4")})
    arguments = [
        "run", "--recipe", str(RECIPE), "--out", "run", "--profile", "pixel", "--host", "flame", "--only", "teacher*",
        *(a for s in SETS for a in ("--set", s)),
    ]  # fmt: skip
    done = bench_process(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = read_run(tmp_path / "run").cells
    assert {(c["cell"]["variant"], c["cell"]["runtime"], c["status"], c["cell"]["host"]) for c in cells} == {
        (variant, runtime, "ok", "pixel-4")
        for variant in ("teacher", "teacher-int8")
        for runtime in ("onnxruntime", "litert")
    }
    for cell in cells:
        metrics, about = cell["metrics"], cell["environment"]
        assert about["machine"]["model"] == about["phone"]["model"] == MODEL
        assert about["phone"]["before"]["charging"] is True and about["phone"]["after"]["battery_c"] == 26.4
        assert any("charging" in note for note in cell["notes"])
        latency = metrics["latency_ms"]
        assert latency["provenance"] == "measured" and "mean over n runs that" in latency["method"]
        assert latency["low"] <= latency["value"] <= latency["high"] and latency["n"] == 2
        assert (
            "on this machine" in metrics["accuracy"]["method"]
            and "not on pixel-4" in metrics["accuracy"]["method"]
        )
        assert metrics["energy_mj"]["value"] is None and "ODPM" in metrics["energy_mj"]["reason"]
        assert metrics["p90_ms"]["value"] is None and metrics["memory_mb"]["value"] > 0
        processes = cell["runtime"]["processes"]
        assert len(processes) == 2 and all(p["raw"]["said"] for p in processes)
    lite = [c for c in cells if c["cell"]["runtime"] == "litert"]
    assert all(any("9 of 10 nodes" in note for note in c["notes"]) for c in lite)
    assert len((mine / "tmp/calls").read_text().splitlines()) == 8  # 2 files, 2 thread counts, 2 processes
    assert not list((phones.folder / "OTHER/tmp").iterdir())
    shown = bench("report", "run", cwd=tmp_path)
    assert shown.returncode == 0 and "pixel-4" in shown.stdout


def test_a_program_of_executorch_is_timed_from_the_phones_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = Phones(tmp_path / "phones")
    mine = phones.add("MINE", tools=("executor_runner",))
    monkeypatch.setenv("EDGEFIT_ADB_COMMAND", phones.command)
    machine = Phone.reach(inventory.Device("flame", "adb://MINE", "pixel-4"))
    runtime = machine.runtime("executorch")
    assert runtime.probe(machine.host).devices == ("cpu",)
    program = tmp_path / "m.pte"
    program.write_bytes(b"....ET12 (stand-in)")

    def job(path: Path, **changes: object) -> CellJob:
        inputs = (TensorSpec("x", (None, 3, 8, 8)),)
        artifact = Artifact("pte", file_sha256(path), path.stat().st_size, path.name, inputs=inputs)
        protocol = Protocol(processes=2, max_seconds=0.4, min_runs=20)
        return CellJob(artifact, path, tmp_path, threads=2, protocol=protocol, **changes)

    done = runtime.measure_cell(job(program, batch=4), lambda *_: None)
    assert done.status == "ok", done.reason
    latency = done.metrics["latency_ms"]
    assert latency.low < latency.value < latency.high and latency.value == pytest.approx(2.125, abs=0.01)
    assert (done.metrics["first_call_ms"].value, done.metrics["load_ms"].value) == (9.0, 3.25)
    assert done.metrics["throughput_ips"].value == pytest.approx(4000 / latency.value)
    assert all(done.metrics[name].value is None for name in ("memory_mb", "energy_mj", "p99_ms"))
    assert any("fed with ones" in note for note in done.notes)
    calls = (mine / "tmp/runner_calls").read_text().splitlines()
    often = [dict(w[2:].split("=") for w in call.split())["num_executions"] for call in calls]
    assert len(calls) == 3 and often[0] == "4" and often[1] == often[2] and 100 < int(often[1]) < 200
    assert all("--input_shapes=4x3x8x8" in call and "--cpu_threads=2" in call for call in calls)

    program.write_bytes(b"....TFL3 (stand-in)")
    failed = runtime.measure_cell(job(program), lambda *_: None)
    assert failed.status == "failed" and "status 1: Failed to parse model file" in failed.reason


@pytest.mark.parametrize(("state", "words"), [("unauthorized", "accept its question"), ("offline", "replug")])
def test_a_phone_that_cannot_be_used_stops_the_run_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, words: str
) -> None:
    phones = Phones(tmp_path / "phones")
    phones.add("MINE", state=state)
    monkeypatch.setenv("EDGEFIT_ADB_COMMAND", phones.command)
    done = bench(
        "run",
        "--recipe",
        str(RECIPE),
        "--out",
        "run",
        "--profile",
        "pixel",
        "--host",
        "adb://MINE",
        cwd=tmp_path,
    )
    assert done.returncode == 7 and words in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
