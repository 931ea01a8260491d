"""What every host does; so far there is the local one."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.errors import EXIT_MISSING, UsageError
from bench.hosts import HOSTS, open_host
from bench.hosts.base import CommandFailed, HostTimeout, HostUnreachable


@pytest.fixture(params=sorted(HOSTS))
def host(request: pytest.FixtureRequest):
    return open_host(request.param)


def test_it_runs_a_command(host) -> None:
    done = host.exec(
        [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"], timeout=30
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "out", "err")


def test_a_failed_command_says_its_last_words(host) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such sensor')"]
    with pytest.raises(CommandFailed, match="no such sensor"):
        host.exec(command, timeout=30)
    assert host.exec(command, timeout=30, check=False).returncode == 1


def test_a_missing_program_is_not_an_unreachable_host(host) -> None:
    with pytest.raises(CommandFailed) as caught:
        host.exec(["no-such-program-anywhere"], timeout=5)
    assert not isinstance(caught.value, HostUnreachable)


def test_a_slow_command_is_ended(host) -> None:
    begin = time.monotonic()
    with pytest.raises(HostTimeout):
        host.exec([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
    assert time.monotonic() - begin < 40  # not the 60 s it would have slept


def test_files_go_there_and_back(host, tmp_path: Path) -> None:
    source, there, back = tmp_path / "a", tmp_path / "there", tmp_path / "b"
    source.write_bytes(bytes(range(256)))
    host.put(source, str(there))
    host.get(str(there), back)
    assert back.read_bytes() == source.read_bytes()
    with pytest.raises(CommandFailed):
        host.get(str(tmp_path / "nothing"), back)


def test_a_started_command_has_pipes_and_its_own_group(host) -> None:
    code = "import os, sys; print(os.environ['GREETING'], os.getpgid(0) == os.getpid(), sys.stdin.readline())"
    with tempfile.TemporaryFile() as messages:
        process = host.start([sys.executable, "-c", code], {"GREETING": "hello"}, messages)
        out, _ = process.communicate(b"you\n", timeout=30)
    assert out.decode().split() == ["hello", "True", "you"]


def test_it_tells_its_facts(host) -> None:
    facts = host.facts()
    assert facts["cpu"]["cores"] >= 1 and facts["python"] and facts["memory"]["total_mb"] > 0


@pytest.mark.parametrize("url", ["", "ssh://jetson", "adb://", "loca", "local://elsewhere"])
def test_other_addresses_are_refused_with_what_is_supported(url: str) -> None:
    with pytest.raises(UsageError, match="Supported: local"):
        open_host(url)


def test_an_unreachable_host_has_the_exit_code_of_a_missing_device() -> None:
    assert HostUnreachable("gone").exit_code == EXIT_MISSING
