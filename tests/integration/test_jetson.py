"""A Jetson's settings, on a stand-in: recorded, changed for a run, and put back however it ends."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import EdgefitError, MissingError, UsageError
from bench.hosts import jetson
from bench.hosts.local import LocalHost
from bench.hosts.workspace import Workspace
from bench.runtimes.base import CellJob
from bench.runtimes.remote import Machine
from bench.store import file_sha256
from tests.standin_jetson import MODEL, Jetson
from tests.tiny import QUICK, Tiny


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    made = Jetson(tmp_path / "board")
    for key, value in made.environ.items():
        monkeypatch.setenv(key, value)
    return made


@pytest.fixture
def machine(board: Jetson, tmp_path: Path) -> Machine:
    return Machine.reach(Workspace(LocalHost(), sys.executable, str(tmp_path / "ws"), patience=0.0))


def quiet(event: str, details: dict) -> None:
    """Nobody listens."""


def settings(machine: Machine, mode: str = "", lock: bool = False, notify=quiet):
    return jetson.settings(machine.workspace, machine.seen, mode, lock, notify)


def test_board_jetpack_mode_and_clocks_are_recorded(machine: Machine) -> None:
    found = machine.environment["jetson"]
    assert (found["model"], found["l4t"], found["jetpack"]) == (MODEL, "35.4.1", "5.1.2")
    assert (found["power_mode"], found["power_mode_id"]) == ("MODE_15W", 2)
    assert found["clocks"]["cpus"][0]["max_khz"] == 2265600
    assert machine.environment["machine"]["model"] == MODEL
    assert machine.meter("cpu").name == "tegrastats"


def test_mode_and_clocks_are_in_force_inside_and_as_before_after(board: Jetson, machine: Machine) -> None:
    with settings(machine, "MAXN", True):
        assert (board.mode, board.clocks) == ("0", "locked")
        machine.look_again()
        assert machine.environment["jetson"]["power_mode"] == "MAXN"
    assert (board.mode, board.clocks) == ("2", "free")


@pytest.mark.parametrize("failure", [RuntimeError("a cell failed"), KeyboardInterrupt()])
def test_they_are_put_back_after_a_failure_too(
    board: Jetson, machine: Machine, failure: BaseException
) -> None:
    with pytest.raises(type(failure)), settings(machine, "0", True):
        raise failure
    assert (board.mode, board.clocks) == ("2", "free")


def test_what_a_killed_engine_left_is_put_back_by_the_next(board: Jetson, machine: Machine) -> None:
    killed = settings(machine, "MAXN", True)
    killed.__enter__()
    assert board.mode == "0"
    with settings(machine):
        assert (board.mode, board.clocks) == ("2", "free")
    del killed


def test_a_board_that_could_not_be_put_back_is_said_with_the_commands(
    board: Jetson, machine: Machine
) -> None:
    told: list[str] = []
    with settings(machine, "MAXN", notify=lambda event, details: told.append(details["text"])):
        board.ask_for_passwords()
    assert board.mode == "0" and "sudo nvpmodel -m 2" in told[-1]


def test_an_unknown_mode_changes_nothing(board: Jetson, machine: Machine) -> None:
    with pytest.raises(UsageError, match="MAXN"), settings(machine, "MAX"):
        pass
    assert (board.bin / "log").read_text() == ""


def test_without_sudo_nothing_is_changed_and_the_remedy_is_said(board: Jetson, machine: Machine) -> None:
    board.ask_for_passwords()
    with pytest.raises(MissingError, match=r"sudoers\.d"), settings(machine, "MAXN"):
        pass
    assert board.mode == "2"


def test_a_mode_that_does_not_take_is_an_error(board: Jetson, machine: Machine) -> None:
    text = (
        (board.bin / "nvpmodel")
        .read_text()
        .replace("state.write_text(sys.argv[2])", "print('reboot needed')")
    )
    (board.bin / "nvpmodel").write_text(text)
    with pytest.raises(EdgefitError, match="reboot needed"), settings(machine, "MAXN"):
        pass


def test_another_machine_has_no_such_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Machine.reach(Workspace(LocalHost(), sys.executable, str(tmp_path / "ws")))
    assert "jetson" not in plain.environment
    with pytest.raises(MissingError, match="nvpmodel"), settings(plain, "MAXN"):
        pass


def test_the_energy_of_a_cell_comes_from_the_boards_own_rails(
    machine: Machine, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "cell").mkdir()
    path = tiny.path("onnx")
    artifact = replace(tiny.artifact("onnx"), sha256=file_sha256(path))
    job = CellJob(artifact, path, tmp_path / "cell", images=tiny.images, protocol=QUICK, predict=False)
    result = machine.runtime("onnxruntime").measure(job, machine.workspace.host, quiet)
    assert result.status == "ok" and result.window is not None
    assert result.window.gross.covers == "Jetson AGX Xavier (GPU + CPU + SOC + CV + VDDRQ + SYS5V)"
    # of the stand-in: 3 W at rest and up to 7 W more
    assert 3.0 < result.window.gross.watts < 10.1
    assert result.window.before is not None and result.window.after is not None
    assert 3.0 <= result.window.idle_watts < 10.1
    energy = result.metrics["energy_mj"]
    assert (energy.value is None and "no more than idle" in energy.reason) or (
        energy.provenance == "measured" and "tegrastats" in energy.method
    )
