"""``bench run --host ssh://...`` to its end: a real sshd, the real agent and runtimes, a stand-in for the board's tools."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from bench.store import read_run
from tests.command import bench, bench_process
from tests.integration.conftest import RECIPE
from tests.sshd import Server, serve
from tests.standin_jetson import MODEL, Jetson

pytest.importorskip("ai_edge_litert")
CELLS = 20
SETS = (
    'runtimes=["onnxruntime", "litert"]', "protocol.processes=1", "protocol.max_seconds=0.1", "protocol.batches=[1,2]",
)  # fmt: skip


class Cutter(threading.Thread):
    """Drops every open line each time so many more cells are recorded."""

    def __init__(self, server: Server, run: Path, at: tuple[int, ...]) -> None:
        super().__init__(daemon=True)
        self.server, self.run_folder, self.at, self.cuts = server, run, list(at), 0
        self.ended = threading.Event()

    def run(self) -> None:
        records = self.run_folder / "records.jsonl"
        while self.at and not self.ended.wait(0.05):
            done = records.read_text().count('"kind":"cell"') if records.exists() else 0
            if done >= self.at[0]:
                self.at.pop(0)
                time.sleep(0.4)  # in the middle of the next one
                self.server.proxy.drop()
                self.cuts += 1


@pytest.mark.slow
@pytest.mark.skipif("EDGEFIT_LONG_TESTS" not in os.environ, reason="takes minutes; set EDGEFIT_LONG_TESTS=1")
def test_a_run_of_twenty_cells_survives_three_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, run = Jetson(tmp_path / "board"), tmp_path / "run"
    (
        board.bin / "tegrastats"
    ).unlink()  # its idle windows take seconds; tests/integration/test_jetson.py has them
    with serve(tmp_path, board.environ) as server:
        monkeypatch.setenv("EDGEFIT_SSH_COMMAND", server.command)
        monkeypatch.setenv("EDGEFIT_HOSTS", str(tmp_path / "hosts.toml"))
        cutter = Cutter(server, run, (3, 8, 14))
        cutter.start()
        arguments = [
            "run", "--recipe", str(RECIPE), "--out", str(run), "--profile", "jetson-xavier", "--host", server.address,
            "--power-mode", "MAXN", "--lock-clocks", *(a for s in SETS for a in ("--set", s)),
        ]  # fmt: skip
        done = bench_process(*arguments, cwd=tmp_path)
        cutter.ended.set()
    assert done.returncode == 0, done.stderr[-3000:]
    assert cutter.cuts == 3
    cells = read_run(run).cells
    assert len(cells) == CELLS and {c["status"] for c in cells} == {"ok"}
    assert {c["cell"]["host"] for c in cells} == {"jetson-agx-xavier"}
    for cell in cells:
        assert cell["environment"]["machine"]["model"] == MODEL
        assert cell["environment"]["jetson"]["power_mode"] == "MAXN"
        assert cell["metrics"]["accuracy"]["provenance"] == "measured"
        assert "no tegrastats" in cell["metrics"]["energy_mj"]["reason"]
    assert (board.mode, board.clocks) == ("2", "free")
    jobs = list((tmp_path / ".cache/edgefit-device/jobs").iterdir())
    assert len(jobs) == CELLS  # none was begun twice
    for job in jobs:
        events = [json.loads(line)["event"] for line in (job / "events.jsonl").read_text().splitlines()]
        assert events.count("over") == events.count("done") == 1


def test_a_profile_is_drafted_from_a_device_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(tmp_path) as server:
        monkeypatch.setenv("EDGEFIT_SSH_COMMAND", server.command)
        monkeypatch.setenv("EDGEFIT_HOSTS", str(tmp_path / "hosts.toml"))
        done = bench("profiles", "new", "board", "--from-host", server.address, cwd=tmp_path)
        again = bench("profiles", "new", "board", "--from-host", server.address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "board.toml").read_text()
    assert "cpu_cores" in text and f'host = "{server.address}"' in text
    assert again.returncode == 2 and "already there" in again.stderr
