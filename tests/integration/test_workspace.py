"""The agent on a machine elsewhere: its jobs run by themselves, and what they leave comes back whole."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError, WorkerError
from bench.hosts import workspace as workspaces
from bench.hosts.base import HostUnreachable
from bench.hosts.local import LocalHost
from bench.hosts.workspace import Workspace, agent_file
from bench.runtimes import get
from bench.runtimes.base import CellJob
from bench.runtimes.remote import Machine
from bench.store import file_sha256
from tests.cut_line import CutLine
from tests.tiny import QUICK, Tiny

pytest.importorskip("onnxruntime")


class Heard:
    """Keeps the events that it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, event: str, details: dict) -> None:
        self.events.append((event, str(details.get("name") or details.get("text") or "")))

    def phases(self) -> list[str]:
        return [name for event, name in self.events if event == "phase"]


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"))


def a_job(tiny: Tiny, outdir: Path) -> CellJob:
    outdir.mkdir(parents=True)
    path = tiny.path("onnx")
    artifact = replace(tiny.artifact("onnx"), sha256=file_sha256(path))
    return CellJob(artifact, path, outdir, images=tiny.images, protocol=QUICK)


PHASES = ["import", "ready", "inputs", "load", "first", "warmup", "steady", "settled", "predict"]


def test_a_cell_elsewhere_has_the_figures_and_outputs_of_one_here(
    here: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    heard = Heard()
    machine = Machine.reach(here)
    result = machine.runtime("onnxruntime").measure(a_job(tiny, tmp_path / "cell"), here.host, heard)
    assert result.status == "ok" and heard.phases() == PHASES
    np.testing.assert_allclose(np.load(result.outputs), tiny.logits, atol=1e-4)
    local = get("onnxruntime").measure(a_job(tiny, tmp_path / "local"), LocalHost(), Heard())
    assert result.metrics.keys() == local.metrics.keys()
    assert result.runtime.keys() == local.runtime.keys()
    for name in ("latency_ms", "memory_mb", "load_ms", "first_call_ms"):
        assert result.metrics[name].value is not None and result.metrics[name].provenance == "measured", name
    assert result.runtime["disturbance"]["own_cores"] > 0
    assert machine.environment["cpu"]["cores"] and machine.environment["python"]


def test_a_line_cut_three_times_loses_and_repeats_nothing(tiny: Tiny, tmp_path: Path) -> None:
    host, heard = CutLine(cuts=(0.4, 0.4, 0.4)), Heard()
    there = Workspace(host, sys.executable, str(tmp_path / "ws"))
    machine = Machine.reach(there)
    host.dead_execs = 1
    job = a_job(tiny, tmp_path / "cell")
    job = replace(job, protocol=replace(QUICK, warmup_seconds=4.0))
    result = machine.runtime("onnxruntime").measure(job, host, heard)
    assert result.status == "ok" and heard.phases() == PHASES
    assert not host.cuts, "the line was to be cut three times"
    lines = [c for c in host.commands if "run" in c[:3]]
    assert len(lines) == 4
    jobs = list((tmp_path / "ws" / "jobs").iterdir())
    assert len(jobs) == 1  # the worker was started once
    assert (jobs[0] / "events.jsonl").read_text().count('"import"') == 1
    assert len(host.sent) == len(set(host.sent))
    assert any(event == "warning" for event, _ in heard.events)


def test_an_engine_that_was_killed_finds_its_job_again(tiny: Tiny, tmp_path: Path) -> None:
    outdir = tmp_path / "cell"
    host = CutLine(cuts=(0.2,))
    there = Workspace(host, sys.executable, str(tmp_path / "ws"), patience=-1.0)
    with pytest.raises(HostUnreachable):
        Machine.reach(there).runtime("onnxruntime").measure(a_job(tiny, outdir), host, Heard())
    job = replace(a_job(tiny, tmp_path / "other"), outdir=outdir)
    again = Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"))
    result = Machine.reach(again).runtime("onnxruntime").measure(job, again.host, Heard())
    assert result.status == "ok"
    assert len(list((tmp_path / "ws" / "jobs").iterdir())) == 1


def test_a_crash_there_is_an_error_with_its_last_words_and_is_tried_anew(
    here: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    job = a_job(tiny, tmp_path / "cell")
    machine = Machine.reach(here)
    broken = replace(
        job, artifact=replace(job.artifact, format="onnx"), protocol=replace(QUICK, cpus=(4095,))
    )
    for _ in range(2):
        with pytest.raises(WorkerError, match="ended with status") as caught:
            machine.runtime("onnxruntime").measure(broken, here.host, Heard())
        assert "Invalid argument" in caught.value.found
    assert len(list((tmp_path / "ws" / "jobs").iterdir())) == 2


def test_files_are_sent_once(here: Workspace, tmp_path: Path) -> None:
    host = CutLine()
    first = Workspace(host, sys.executable, str(tmp_path / "ws"))
    file = tmp_path / "model.onnx"
    file.write_bytes(b"model")
    place = first.upload({"00aa": file})["00aa"]
    assert Path(place).read_bytes() == b"model" and place.endswith(".onnx")
    sent = len(host.sent)
    first.upload({"00aa": file})
    Workspace(host, sys.executable, str(tmp_path / "ws")).upload({"00aa": file})
    assert len(host.sent) == sent == 2  # the agent and the file


def test_the_agent_is_one_small_file_and_always_the_same() -> None:
    assert agent_file() == agent_file()
    assert len(agent_file()) < 200_000


def test_the_agent_runs_on_the_oldest_python_by_its_syntax(tmp_path: Path) -> None:
    import ast
    import zipfile

    with zipfile.ZipFile(io.BytesIO(agent_file())) as archive:
        for name in archive.namelist():
            ast.parse(archive.read(name), name, feature_version=(3, 8))


def test_clean_keeps_what_is_new_and_removes_what_is_old(here: Workspace, tmp_path: Path) -> None:
    import os

    places = {}
    for name in ("old", "new"):
        file = tmp_path / name
        file.write_bytes(b"x" * 1000)
        places[name] = Path(here.upload({name: file})[name])
    os.utime(places["old"], (0, 0))
    found = here.clean(days=30)
    assert (found["removed"], found["freed_bytes"]) == (1, 1000)
    assert not places["old"].exists() and places["new"].exists()
    assert here.clean(days=30, most_bytes=0)["removed"] == 1
    assert not places["new"].exists()


def test_a_folder_with_files_of_others_is_never_taken_over(tmp_path: Path) -> None:
    own = tmp_path / "ws/objects/mine"
    own.parent.mkdir(parents=True)
    own.write_text("a person's")
    with pytest.raises(UsageError, match="not empty"):
        Workspace(LocalHost(), sys.executable, str(tmp_path / "ws")).clean(days=0, most_bytes=0)
    assert [p for p in (tmp_path / "ws").rglob("*") if p.is_file()] == [own]


def _tar(path: Path, members: dict[str, bytes | str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_what_a_device_sends_is_not_trusted(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for the run")
    out, job = tmp_path / "out", tmp_path / "job"
    out.mkdir()
    job.mkdir()
    members: dict[str, bytes | str] = {
        "../escaped": b"x", "/tmp/escaped": b"x", "other.txt": b"x", "samples.npy": str(secret), "result.json": b"{}",
    }  # fmt: skip
    _tar(job / "outputs.tar", members)
    Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"))._fetch(str(job), out, Heard())
    assert sorted(p.name for p in out.iterdir()) == ["result.json"]
    assert not (tmp_path / "escaped").exists()
    (job / "outputs.tar").write_bytes(b"\0garbage" * 100)
    with pytest.raises(WorkerError, match="damaged"):
        Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"))._fetch(str(job), out, Heard())


def test_nonsense_from_the_agent_is_an_error_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\necho '[[[[ not json'\n")
    fake.chmod(0o755)
    with pytest.raises(workspaces.CommandFailed, match="nonsense"):
        Workspace(LocalHost(), str(fake), str(tmp_path / "ws")).prepare()


def test_two_measurements_on_one_machine_wait_for_each_other(
    here: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    here.prepare()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(Path(here.folder) / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None and holder.stdout.readline() == "held\n"
    told: list[str] = []

    def listen(event: str, details: dict) -> None:
        if "busy" in str(details.get("text", "")):
            told.append(details["text"])
            holder.communicate("let go\n")

    machine = Machine.reach(here)
    result = machine.runtime("onnxruntime").measure(a_job(tiny, tmp_path / "cell"), here.host, listen)
    assert result.status == "ok" and len(told) == 1
    assert json.loads((tmp_path / "cell" / "result.json").read_text())["status"] == "ok"


_HOLD = "import fcntl,sys;f=open(sys.argv[1],'a');fcntl.flock(f,fcntl.LOCK_EX);print('held',flush=True);sys.stdin.readline()"
