"""Hosts over ssh against a real server, through a line that is cut at will."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.errors import MissingError, UsageError
from bench.hosts import open_host
from bench.hosts.base import CommandFailed, Host, HostRefused, HostUnreachable
from tests.sshd import Server, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def host(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", server.command)
    opened = open_host(server.address)
    yield opened
    opened.close()


def _fails(host: Host, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        host.exec(["true"], 30)
    assert type(caught.value) is kind


# --- who is let in, and by whom


def test_an_unknown_host_key_is_refused_and_not_learnt(server: Server, host: Host) -> None:
    server.forget()
    try:
        _fails(host, HostRefused, "Connect once by hand: ssh -p")
        assert (server.folder / "known_hosts").read_text() == ""
    finally:
        server.know()


def test_a_changed_host_key_is_refused(server: Server, host: Host) -> None:
    server.know("other_key")
    try:
        _fails(host, HostRefused, "has changed.*ssh-keygen -R")
    finally:
        server.know()


def test_a_key_that_it_does_not_know_is_refused_without_a_question(
    server: Server, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server.folder / "stranger"
    config.write_text((server.folder / "config").read_text().replace("client_key", "other_key"))
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", f"ssh -F {config}")
    _fails(host, HostRefused, "ssh-copy-id")


def test_nobody_listens(server: Server, host: Host) -> None:
    server.proxy.refuse()
    try:
        _fails(host, HostUnreachable, "Connection refused")
    finally:
        server.proxy.answer()
    assert host.exec(["echo", "there"], 30).stdout == "there\n"


MESSAGES = [
    (HostUnreachable, "ssh: connect to host a port 22: No route to host"),
    (HostUnreachable, "ssh: connect to host a port 22: Connection timed out"),
    (HostUnreachable, "ssh: Could not resolve hostname a: Name or service not known"),
    (HostUnreachable, "kex_exchange_identification: read: Connection reset by peer"),
    (HostUnreachable, "Connection timed out during banner exchange"),
    (HostUnreachable, "Connection closed by 10.0.0.1 port 22"),
    (HostRefused, "Received disconnect from 10.0.0.1 port 22:2: Too many authentication failures"),
    (HostRefused, "user@a: Permission denied (publickey,password)."),
    (
        HostRefused,
        "Unable to negotiate with 10.0.0.1 port 22: no matching host key type found. Their offer: ssh-rsa",
    ),
]


@pytest.mark.parametrize(("kind", "message"), MESSAGES)
def test_what_the_client_says_tells_refused_from_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    script = tmp_path / "client"
    script.write_text(f"printf '%s\\n' '{message}\x1b[2J' >&2; exit 255\n")
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", f"sh {script}")
    with pytest.raises(kind) as caught:
        open_host("ssh://user@a").exec(["true"], 5)
    assert message.rstrip(".") in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_client_that_is_not_there_or_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", "no-such-client")
    with pytest.raises(MissingError, match="openssh-client"):
        open_host("ssh://user@a").exec(["true"], 5)
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", "ssh 'open")
    with pytest.raises(UsageError, match="EDGEFIT_SSH_COMMAND"):
        open_host("ssh://user@a").exec(["true"], 5)


# --- one connection


def test_everything_shares_one_connection(server: Server, host: Host, tmp_path: Path) -> None:
    before = server.proxy.connections
    (tmp_path / "a").write_bytes(b"content")
    host.exec(["true"], 30)
    host.put(tmp_path / "a", str(tmp_path / "there"))
    host.get(str(tmp_path / "there"), tmp_path / "b")
    with tempfile.TemporaryFile() as messages:
        assert host.start(["echo", "hi"], {}, messages).communicate(timeout=30)[0] == b"hi\n"
    assert server.proxy.connections == before + 1


def test_the_connection_is_private_and_ends_with_close(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", server.command)
    deep = tmp_path / ("a folder whose name is long and has a %h in it" * 2)  # no socket can lie in it
    deep.mkdir()
    for base in (deep, Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))):
        monkeypatch.setattr(tempfile, "tempdir", str(base))
        host = open_host(server.address)
        host.exec(["true"], 30)
        control = host.client._folder  # type: ignore[attr-defined]
        assert control.stat().st_mode & 0o777 == 0o700
        assert (control.parent == base) == (base != deep)
        host.close()
        assert not control.exists() and not _masters(control)
    base.rmdir()


def _masters(control: Path) -> str:
    return subprocess.run(
        ["pgrep", "-f", f"ControlPath={control}"], capture_output=True, text=True, check=False
    ).stdout


def test_a_host_that_is_forgotten_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from bench.hosts import open_host; h = open_host(sys.argv[1]); h.exec(['true'], 30);"
        "print(h.client._folder)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.address],
        env={**os.environ, "EDGEFIT_SSH_COMMAND": server.command},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    control = Path(done.stdout.strip())
    assert control.name and not control.exists() and not _masters(control)


# --- a line that is cut


def test_a_cut_command_is_unreachable_and_is_ended_there(server: Server, host: Host, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(HostUnreachable), _soon(tmp_path / "pid", server.proxy.drop):
        host.exec(["sh", "-c", 'echo $$ >"$1"; sleep 60', "sh", str(tmp_path / "pid")], 50)
    assert time.monotonic() - begin < 30
    pid = (tmp_path / "pid").read_text().strip()
    assert _within(10, lambda: not Path("/proc", pid).exists())
    assert host.exec(["echo", "back"], 30).stdout == "back\n"


def test_a_line_that_falls_silent_counts_as_cut(
    server: Server, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # one second for the five of everyday, so that the test is short
    monkeypatch.setenv("EDGEFIT_SSH_COMMAND", f"{server.command} -o ServerAliveInterval=1")
    begin = time.monotonic()
    try:
        with pytest.raises(HostUnreachable), _soon(tmp_path / "here", server.proxy.freeze):
            host.exec(["sh", "-c", 'touch "$1"; sleep 60', "sh", str(tmp_path / "here")], 50)
    finally:
        server.proxy.thaw()
    assert time.monotonic() - begin < 30


def test_a_killed_shell_is_no_cut_line(host: Host) -> None:
    with pytest.raises(CommandFailed, match="signal"):
        host.exec(["sh", "-c", "kill -9 0"], 30)


@contextlib.contextmanager
def _soon(path: Path, act: Callable[[], None]) -> Iterator[None]:
    """Within, ``act`` is done as soon as a file has appeared."""
    thread = threading.Thread(target=lambda: _within(30, path.exists) and act())
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _within(seconds: float, happens: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.05)
    return False


SIZE = 4_000_000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_an_upload_that_was_cut_goes_on_and_sends_nothing_twice(
    server: Server, host: Host, large: Path, tmp_path: Path
) -> None:
    target = tmp_path / "far" / "large"
    host.exec(["true"], 30)
    server.proxy.drop_after(SIZE * 3 // 4)
    with pytest.raises(HostUnreachable):
        host.put(large, str(target))
    assert not target.exists()
    (part,) = target.parent.iterdir()
    time.sleep(0.5)  # the server may still be writing what had arrived
    arrived = part.stat().st_size
    assert part.name.startswith("large.part-") and 0 < arrived < SIZE
    before = server.proxy.up
    host.put(large, str(target))
    assert target.read_bytes() == large.read_bytes() and list(target.parent.iterdir()) == [target]
    left = SIZE - arrived
    assert (
        left < server.proxy.up - before < left * 1.05 + 30_000
    )  # every packet has a frame, and there is a login


def test_an_upload_that_only_lacked_its_name_is_not_sent_again(
    server: Server, host: Host, large: Path, tmp_path: Path
) -> None:
    sha = hashlib.sha256(large.read_bytes()).hexdigest()
    shutil.copy(large, tmp_path / f"there.part-{sha[:8]}")
    before = server.proxy.up
    host.put(large, str(tmp_path / "there"))
    assert server.proxy.up - before < 100_000
    assert (tmp_path / "there").read_bytes() == large.read_bytes()


@pytest.mark.parametrize(
    "part", [b"other bytes", os.urandom(1000), os.urandom(1001)], ids=["short", "same", "long"]
)
def test_a_part_that_does_not_match_is_thrown_away(host: Host, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    sha = hashlib.sha256(b"x" * 1000).hexdigest()
    (tmp_path / f"there.part-{sha[:8]}").write_bytes(part)
    host.put(tmp_path / "a", str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == b"x" * 1000
    assert {p.name for p in tmp_path.iterdir()} == {"a", "there"}


def test_a_download_that_was_cut_leaves_what_was_there(
    server: Server, host: Host, large: Path, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    back = tmp_path / "here" / "back"
    back.write_bytes(b"old")
    host.exec(["true"], 30)
    server.proxy.drop_after(SIZE // 2)
    with pytest.raises(HostUnreachable):
        host.get(str(large), back)
    assert back.read_bytes() == b"old" and list(back.parent.iterdir()) == [back]
    host.get(str(large), back)
    assert back.read_bytes() == large.read_bytes()


def test_a_hash_without_sha256sum_is_pythons(host: Host, large: Path, tmp_path: Path) -> None:
    """The server's shells look for programs in a folder that has no sha256sum."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "mkdir", "wc", "cat", "cut", "rm", "mv", "head", "mktemp", "sleep"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "python3").symlink_to(sys.executable)
    plain = host.exec

    def poorer(argv, timeout, check=True, stdin=None):
        return plain(["env", f"PATH={programs}", *argv], timeout, check, stdin)

    host.exec = poorer  # type: ignore[method-assign]
    host.put(large, str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == large.read_bytes()


def test_a_login_shell_that_chatters_is_named(server: Server, host: Host, tmp_path: Path) -> None:
    noisy = server.folder / ".bashrc"
    noisy.write_text("echo welcome\n")
    (tmp_path / "a").write_bytes(b"x")
    try:
        if host.exec(["true"], 30).stdout == "":
            pytest.skip("this user's login shell reads no .bashrc")
        with pytest.raises(CommandFailed, match="print nothing"):
            host.get(str(tmp_path / "a"), tmp_path / "b")
    finally:
        noisy.unlink()
