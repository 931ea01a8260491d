"""``bench hosts``: a device from its name to a clean workspace, and what each step of the check says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.exceptions import NoSuchOption
from click.testing import CliRunner, Result

from bench.cli import cli
from bench.errors import EXIT_MISSING, UsageError
from bench.hosts import inventory
from bench.hosts.check import STEPS, Step, check
from bench.hosts.inventory import Device
from bench.runtimes.tensorrt_ import TensorRt
from tests.sshd import Server, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("sshd")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEFIT_SSH_COMMAND", running.command)
        patch.setenv("EDGEFIT_HOSTS", str(running.folder / "hosts.toml"))
        yield running


def _look(device: Device) -> dict[str, Step]:
    told: list[str] = []
    steps = check(device, lambda event, step: told.append(step["name"]))
    assert told == [step.name for step in steps]
    return {step.name: step for step in steps}


def test_a_device_that_is_ready(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "work space"
    device = Device("box", server.address, "local", workspace=str(folder), python=sys.executable)
    steps = _look(device)
    named = {s for s in STEPS if s not in ("runtimes", "power")}
    assert named <= set(steps) and {steps[name].state for name in named} == {"ok"}
    assert steps["onnxruntime"].found.startswith("onnxruntime") and steps["onnxruntime"].state == "ok"
    assert "MB/s up" in steps["transfer"].found and "OpenSSH" in steps["port"].found
    assert folder.is_dir() and not any(folder.iterdir())


def test_a_board_without_its_tools(server: Server, tmp_path: Path) -> None:
    device = Device("xavier", server.address, "jetson-xavier", workspace=str(tmp_path), python=sys.executable)
    steps = _look(device)
    for tool in ("nvpmodel", "jetson_clocks", "tegrastats"):
        assert steps[tool].state in ("ok", "warning")
    assert steps["sudo"].state in ("ok", "warning")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT's own package is here")
def test_trtexec_stands_in_for_tensorrt(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("xavier", server.address, "jetson-xavier", workspace=str(tmp_path), python=sys.executable)
    monkeypatch.setattr(TensorRt, "programs", ("no-such-trtexec", str(tmp_path / "trtexec")))
    assert _look(device)["tensorrt"].state == "warning"
    _program(tmp_path / "trtexec", "exit 0")
    found = _look(device)["tensorrt"]
    assert found.state == "ok" and str(tmp_path / "trtexec") in found.found and "accuracy" in found.found


def test_a_folder_with_other_files_is_no_workspace(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    device = Device("box", server.address, "local", workspace=str(tmp_path), python=sys.executable)
    step = _look(device)["workspace"]
    assert step.state == "failed" and "other files" in step.found and "--workspace" in step.todo


def _program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('{"python": [3, 6, 9], "numpy": "1.13", "packages": {}}', "3.8 is needed"),
        ("Segmentation fault", "did not answer as a Python does"),
        ('{"python": "new"}', "did not answer as a Python does"),
        ("[]", "did not answer as a Python does"),
    ],
)
def test_an_unfit_python(server: Server, tmp_path: Path, says: str, found: str) -> None:
    python = _program(tmp_path / "python", f"echo '{says}'")
    steps = _look(Device("box", server.address, "local", "/proc/no-such-place", python))
    assert steps["python"].state == "failed" and found in steps["python"].found
    assert {steps[name].state for name in ("numpy", "runtimes", "clock")} == {"skipped"}
    assert steps["command"].state == "ok" and steps["workspace"].state == "failed"


def test_what_is_missing_is_named_with_what_to_do(server: Server, tmp_path: Path) -> None:
    said = '{"python": [3, 8, 10], "numpy": null, "why": "ModuleNotFoundError: x\\033[2J", "packages": {}}'
    python = _program(tmp_path / "python", f"printf '%s\\n' '{said}'".replace("\\033", "\\u001b"))
    steps = _look(Device("box", server.address, "raspberry-pi-5", "/proc/no-such-place", python))
    assert steps["numpy"].state == "failed" and "pip install numpy" in steps["numpy"].todo
    assert "\x1b" not in steps["numpy"].found
    assert steps["litert"].state == "failed" and "pip install" in steps["litert"].todo
    assert steps["workspace"].state == "failed" and "--workspace" in steps["workspace"].todo
    assert steps["transfer"].state == "skipped"


def test_what_needs_a_failed_step_is_skipped(server: Server) -> None:
    server.forget()
    try:
        steps = _look(Device("box", server.address))
    finally:
        server.know()
    assert steps["login"].state == "failed" and "by hand" in steps["login"].todo
    after = list(steps)[list(steps).index("login") + 1 :]
    assert after and {steps[name].state for name in after} == {"skipped"}


def test_nobody_answers(server: Server) -> None:
    server.proxy.refuse()
    try:
        steps = _look(Device("box", server.address))
    finally:
        server.proxy.answer()
    assert steps["port"].state == "failed" and "openssh-server" in steps["port"].todo
    steps = _look(Device("box", "ssh://no-such-host.invalid"))
    assert steps["name"].state == "failed" and steps["login"].state == "skipped"


def _bench(*arguments: str) -> Result:
    """A command in this process; its exit code is ``return_value``."""
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def test_the_commands(server: Server, tmp_path: Path) -> None:
    add = ["hosts", "add", "box", server.address, "--profile", "local", "--workspace", str(tmp_path / "w")]
    assert _bench(*add, "--python", sys.executable).return_value == 0
    assert _bench("host", "add", "box", server.address, "--note", "by the window").return_value == 0
    (listed,) = json.loads(_bench("hosts", "list", "--json").stdout)["hosts"]
    assert (listed["profile"], listed["note"], listed["python"]) == ("local", "by the window", sys.executable)
    assert "by the window" in _bench("hosts").stdout
    done = _bench("hosts", "check", "box")
    assert done.return_value == 0, done.output
    assert "ready: 0 failed" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    done = _bench("hosts", "clean", "box", "--all")
    assert done.return_value == 0 and "MB freed" in done.output
    assert _bench("hosts", "remove", "box").return_value == 0
    for gone in ("check", "remove", "clean"):
        assert isinstance(_bench("hosts", gone, "box").exception, UsageError)


def test_a_device_that_is_not_ready_has_exit_code_7_and_one_document(server: Server) -> None:
    done = _bench("hosts", "check", "ssh://127.0.0.1:1", "--json")
    document = json.loads(done.stdout)
    assert done.return_value == EXIT_MISSING and document["ready"] is False
    assert [s["state"] for s in document["steps"][:4]] == ["ok", "ok", "failed", "skipped"]


@pytest.mark.parametrize(
    "arguments",
    [["ssh://u:pw@h"], ["usb://h"], ["-oProxyCommand=x"], ["ssh://h", "--profile", "jetson-xaver"]],
)
def test_what_cannot_be_added_is_not(server: Server, arguments: list[str]) -> None:
    done = _bench("hosts", "add", "other", *arguments)
    assert isinstance(done.exception, (UsageError, NoSuchOption)) and done.exception.exit_code == 2
    assert "pw" not in str(done.exception) and "other" not in inventory.load()
