"""What every host does: the same questions to this machine, to one over ssh and to a stand-in phone over adb."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import EXIT_MISSING, UsageError
from bench.hosts import HOSTS, open_host
from bench.hosts.base import CommandFailed, Host, HostTimeout, HostUnreachable
from tests.sshd import serve
from tests.standin_phone import Phones

NAMES = [
    "two words",
    "-rf",
    'it\'s a "quote"',
    "line\nbreak; touch canary #",
    "$(touch canary)`touch canary`",
    "&& touch canary",
    "*~",
    "back\\slash %s%n ümläut",
]


@pytest.fixture(scope="module", params=sorted(HOSTS))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if request.param == "local":
        yield open_host("local")
        return
    if request.param == "adb":
        phones = Phones(tmp_path_factory.mktemp("phones"))
        phones.add("0A1B2C3D")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEFIT_ADB_COMMAND", phones.command)
            yield open_host("adb://0A1B2C3D")
        return
    with serve(tmp_path_factory.mktemp("sshd")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEFIT_SSH_COMMAND", server.command)
        opened = open_host(server.address)
        yield opened
        opened.close()


def test_it_runs_a_command(host: Host) -> None:
    done = host.exec(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"], timeout=30
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "out", "err")


def test_a_failed_command_says_its_last_words(host: Host) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such sensor')"]
    with pytest.raises(CommandFailed, match="no such sensor"):
        host.exec(command, timeout=30)
    assert host.exec(command, timeout=30, check=False).returncode == 1


@pytest.mark.parametrize("status", [0, 1, 2, 126, 127, 128, 255])
def test_every_status_is_the_commands_own(host: Host, status: int) -> None:
    done = host.exec(["sh", "-c", f"echo said; exit {status}"], timeout=30, check=False)
    assert (done.returncode, done.stdout) == (status, "said\n")


def test_a_signal_is_a_negative_status(host: Host) -> None:
    assert host.exec(["sh", "-c", "kill -9 $$"], timeout=30, check=False).returncode == -9


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "/no/such/program", "/etc/passwd", "/etc"])
def test_a_missing_program_is_not_an_unreachable_host(host: Host, program: str) -> None:
    for check in (True, False):
        with pytest.raises(CommandFailed) as caught:
            host.exec([program], timeout=30, check=check)
        assert not isinstance(caught.value, HostUnreachable)


def test_a_missing_program_is_not_started(host: Host) -> None:
    with tempfile.TemporaryFile() as messages, pytest.raises(CommandFailed):
        host.start(["no-such-program-anywhere"], {}, messages)


@pytest.mark.parametrize("data", [b"", b"\0\xff\n" * 10, os.urandom(300_000)], ids=["none", "some", "much"])
def test_input_arrives_as_it_is_and_ends(host: Host, data: bytes) -> None:
    code = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    done = host.exec([sys.executable, "-c", code], timeout=30, stdin=data)
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest()


def test_input_that_is_not_read_is_no_error(host: Host) -> None:
    assert host.exec(["echo", "done"], timeout=30, stdin=b"x" * 300_000).stdout == "done\n"


def test_arguments_arrive_unharmed(host: Host, tmp_path: Path) -> None:
    code = "import json, os, sys; os.chdir(sys.argv[1]); print(json.dumps(sys.argv[2:]))"
    words = [*NAMES, "--", "", " ", "\t\r\n", "$HOME", "!!", "a=b", "\\", "'\\''"]
    done = host.exec([sys.executable, "-c", code, str(tmp_path), *words], timeout=30)
    assert json.loads(done.stdout) == words
    assert (
        not any(tmp_path.iterdir())
        and not Path("canary").exists()
        and not Path.home().joinpath("canary").exists()
    )


def test_an_argument_that_no_program_can_be_given_is_refused(host: Host) -> None:
    with pytest.raises(UsageError):
        host.exec(["echo", "a\0b"], timeout=30)


def test_a_slow_command_is_ended_with_all_that_it_started(host: Host, tmp_path: Path) -> None:
    begin = time.monotonic()
    pids = tmp_path / "pids"
    script = 'sleep 60 & echo "$! $$" >"$1.part"; mv "$1.part" "$1"; wait'
    for stdin in (None, b"some input"):
        with pytest.raises(HostTimeout):
            host.exec(["sh", "-c", script, "sh", str(pids)], timeout=2, stdin=stdin)
        for pid in pids.read_text().split():
            assert _ends(int(pid))
        pids.unlink()
    assert time.monotonic() - begin < 40  # not the 60 s it would have slept


def _ends(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("name", NAMES)
def test_files_go_there_and_back_under_any_name(host: Host, tmp_path: Path, name: str) -> None:
    source, there, back = tmp_path / "a", tmp_path / "far" / name / name, tmp_path / "b"
    source.write_bytes(bytes(range(256)))
    host.put(source, str(there))
    assert there.read_bytes() == source.read_bytes() and list(there.parent.iterdir()) == [there]
    host.get(str(there), back)
    assert back.read_bytes() == source.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "far"}
    assert not Path("canary").exists() and not Path.home().joinpath("canary").exists()


def test_an_empty_file_is_a_file(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    host.put(tmp_path / "a", str(tmp_path / "there"))
    host.get(str(tmp_path / "there"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b""


def test_a_file_takes_the_place_of_an_older_one(host: Host, tmp_path: Path) -> None:
    for content in (b"longer and older", b"new"):
        (tmp_path / "a").write_bytes(content)
        host.put(tmp_path / "a", str(tmp_path / "there"))
        host.get(str(tmp_path / "there"), tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == content


def test_what_cannot_be_copied_fails_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    source, folder = tmp_path / "a", tmp_path / "folder"
    source.write_bytes(b"new")
    folder.mkdir()
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")
    for copy in (
        lambda: host.put(source, str(folder)),
        lambda: host.put(source, str(kept / "below a file")),
        lambda: host.put(tmp_path / "nothing", str(tmp_path / "b")),
        lambda: host.get(str(tmp_path / "nothing"), kept),
        lambda: host.get(str(folder), kept),
        lambda: host.get(str(source), tmp_path / "no folder" / "b"),
    ):
        with pytest.raises(CommandFailed):
            copy()
    assert {p.name for p in tmp_path.iterdir()} == {"a", "folder", "kept"}
    assert kept.read_bytes() == b"old" and not any(folder.iterdir())


def test_a_file_that_is_too_large_is_not_taken(host: Host, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1001)
    with pytest.raises(CommandFailed, match="larger than 1000 bytes"):
        host.get(str(tmp_path / "a"), tmp_path / "b", most=1000)
    assert not (tmp_path / "b").exists()
    host.get(str(tmp_path / "a"), tmp_path / "b", most=1001)


def test_a_started_command_has_pipes_and_its_own_group(host: Host) -> None:
    code = "import os, sys; print(os.environ['GREETING'], os.getpgid(0) == os.getpid(), sys.stdin.readline())"
    with tempfile.TemporaryFile() as messages:
        process = host.start([sys.executable, "-c", code], {"GREETING": "hello"}, messages)
        out, _ = process.communicate(b"you\n", timeout=30)
    assert out.decode().split() == ["hello", "True", "you"]


def test_the_environment_arrives_unharmed_and_messages_apart(host: Host) -> None:
    code = "import os, sys; print(repr(os.environ['WORD'])); sys.exit('a message')"
    word = "a 'b' \"$HOME\" $(touch canary)\n;"
    with tempfile.TemporaryFile() as messages:
        process = host.start([sys.executable, "-c", code], {"WORD": word}, messages)
        out, _ = process.communicate(timeout=30)
        messages.seek(0)
        said = messages.read()
    assert out.decode().strip() == repr(word) and said == b"a message\n" and process.returncode == 1


def test_it_tells_its_facts(host: Host) -> None:
    facts = host.facts()
    assert facts["cpu"]["cores"] >= 1 and facts["memory"]["total_mb"] > 0
    assert facts["python"] or facts["phone"]["android"]  # a phone has no Python


def test_it_can_be_closed_twice_and_used_again(host: Host) -> None:
    host.close()
    host.close()
    assert host.exec(["echo", "again"], timeout=30).stdout == "again\n"


@pytest.mark.parametrize("url", ["", "adb", "usb://stick", "loca", "local://elsewhere", "local://", "://x"])
def test_other_addresses_are_refused_with_what_is_supported(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEFIT_HOSTS", str(tmp_path / "hosts.toml"))
    with pytest.raises(UsageError, match="Supported: local"):
        open_host(url)


def test_an_unreachable_host_has_the_exit_code_of_a_missing_device() -> None:
    assert HostUnreachable("gone").exit_code == EXIT_MISSING
