"""What measuring over ssh adds to a cell, with sshd on loopback: everything but the work of the agent on the device."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hosts import open_address
from bench.hosts.workspace import Workspace
from bench.runtimes.base import CellJob
from bench.runtimes.remote import Machine
from bench.store import file_sha256
from tests.sshd import serve
from tests.tiny import QUICK, Tiny

pytestmark = pytest.mark.benchmark
CELLS = 20
MOST_SECONDS = 1.5
"""What we allow a cell, after the first upload."""


def test_orchestration_over_ssh(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tiny.path("onnx")
    artifact = replace(tiny.artifact("onnx"), sha256=file_sha256(path))
    added = []
    with serve(tmp_path) as server:
        monkeypatch.setenv("EDGEFIT_SSH_COMMAND", server.command)
        machine = Machine.reach(Workspace(open_address(server.address), sys.executable, str(tmp_path / "ws")))
        runtime = machine.runtime("onnxruntime")
        for i in range(CELLS + 1):
            outdir = tmp_path / f"cell{i}"
            outdir.mkdir()
            job = CellJob(artifact, path, outdir, images=tiny.images, protocol=QUICK)
            begin = time.perf_counter()
            result = runtime.measure(job, machine.workspace.host, lambda *_: None)
            added.append(time.perf_counter() - begin - result.seconds["total"])
    rest = sorted(added[1:])
    with capsys.disabled():
        print(
            f"\nadded by ssh, {CELLS} cells after the first: median {statistics.median(rest):.2f} s, most {rest[-1]:.2f} s"
        )
    assert statistics.median(rest) < MOST_SECONDS
