"""A host over ssh: a Jetson, a Raspberry Pi, a server. Only ``sh`` and the usual small programs are needed there."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import secrets
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.errors import UsageError
from bench.hosts.address import parse_ssh
from bench.hosts.base import MOST_BYTES, CommandFailed, Completed, HostTimeout, too_large
from bench.hosts.ssh_client import SshClient, last_line
from bench.hosts.ssh_session import session, shell_line
from bench.types import Json

CHUNK = 1 << 16
SHORT = 60.0
"""Seconds for a small command around a copy."""
SLOWEST = 100_000
"""Bytes a second: a copy that is slower is given up."""

# A session that was cut may still be writing: what is there counts once it grows no more.
FIND = """
[ ! -d "$3" ] || { echo "it is a folder" >&2; exit 1; }
mkdir -p -- "$1" || exit
before=
while [ -s "$2" ] && size=$(wc -c <"$2") && [ "$size" != "$before" ]; do before=$size; sleep 1; done
: >>"$2" && wc -c <"$2"
"""
APPEND = 'exec cat >>"$1"'
FINISH = """
if command -v sha256sum >/dev/null; then found=$(sha256sum <"$1" | cut -c 1-64)
else found=$(python3 -c 'import hashlib, sys
h = hashlib.sha256()
for block in iter(lambda: sys.stdin.buffer.read(65536), b""): h.update(block)
print(h.hexdigest())' <"$1"); fi
[ ${#found} -eq 64 ] || { echo "neither sha256sum nor python3 works there" >&2; exit 1; }
[ "$found" = "$3" ] || { rm -f -- "$1"; echo different; exit; }
mv -f -- "$1" "$2" && echo same
"""
SIZE = '[ -f "$1" ] || { echo "no such file" >&2; exit 1; }; wc -c <"$1"'
READ = 'exec head -c "$2" <"$1"'


class SshHost:
    """The machine at ``ssh://[user@]host[:port]``; see :class:`bench.hosts.base.Host`."""

    def __init__(self, rest: str) -> None:
        self.client = SshClient(parse_ssh(rest))
        self.name = str(self.client.address)

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        """See :meth:`bench.hosts.base.Host.exec`. The time to connect is not counted."""
        with session(self.client, argv, stdin or b"") as running:
            out = running.wait(timeout)
            if out is None:
                raise self._too_slow(argv[0], timeout)
            done = running.completed(out)
        if check:
            done.check(argv[0])
        return done

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """See :meth:`bench.hosts.base.Host.start`. There, too, it leads a process group of its own."""
        wrong = [key for key in env if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key)]
        if wrong:
            raise UsageError(f"{wrong[0]!r} is no name of an environment variable")
        settings = [f"{key}={value}" for key, value in env.items()]
        line = shell_line(["env", *settings, "sh", "-c", 'exec "$@"', "sh", *argv])
        there = self.exec(["sh", "-c", 'command -v "$1"', "sh", argv[0]], SHORT, check=False)
        if there.returncode:
            raise CommandFailed(f"{argv[0]} is not found on {self.name}", todo="Is it installed there?")
        return self.client.popen(line, subprocess.PIPE, subprocess.PIPE, stderr)

    def put(self, local: Path, remote: str) -> None:
        """See :meth:`bench.hosts.base.Host.put`. What has arrived lies beside the target until it is whole."""
        try:
            size, sha = local.stat().st_size, _sha256(local)
        except OSError as error:
            raise CommandFailed(f"{local} could not be read", str(error.strerror)) from error
        target = _plain(remote)
        part = f"{target}.part-{sha[:8]}"
        for _ in range(2):
            there = self._size(FIND, posixpath.dirname(target), part, target)
            if there < size:
                self._append(local, there, size, part)
            if self._script(f"writing {remote}", size, FINISH, part, target, sha) == "same":
                return
        raise CommandFailed(
            f"{local} arrived damaged on {self.name}, twice",
            todo="Look at its memory, its storage and the line, and whether the file changes meanwhile",
        )

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        """See :meth:`bench.hosts.base.Host.get`. ``local`` changes only when the whole file is here."""
        source = _plain(remote)
        size = self._size(SIZE, source)
        if size > most:
            raise too_large(remote, size, most)
        temporary = local.parent / f".get-{secrets.token_hex(8)}"
        try:
            with temporary.open("wb") as file:
                got = self._read(source, file, size)
            if got != size:
                raise CommandFailed(f"{remote} changed while it was read", todo="Fetch it again")
            temporary.replace(local)
        except OSError as error:
            raise CommandFailed(f"{local} could not be written", str(error.strerror)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def facts(self) -> Json:
        """What is known of the machine there."""
        from bench.hosts.workspace import facts_of

        facts: Json = facts_of(self)
        return facts

    def close(self) -> None:
        """See :meth:`bench.hosts.base.Host.close`."""
        self.client.close()

    def _append(self, local: Path, there: int, size: int, part: str) -> None:
        limit = _limit(size - there)
        with local.open("rb", buffering=0) as file:
            file.seek(there)
            with session(self.client, ["sh", "-c", APPEND, "sh", part], file) as running:
                out = running.wait(limit)
                if out is None:
                    raise self._too_slow(f"the upload of {local}", limit)
                running.completed(out).check(f"the upload of {local} to {self.name}")

    def _read(self, source: str, file: IO[bytes], size: int) -> int:
        """Copy the file to ``file``; how many bytes there were, at most one more than ``size``."""
        limit, got, late = _limit(size), 0, threading.Event()
        with session(self.client, ["sh", "-c", READ, "sh", source, str(size)], b"") as running:

            def give_up() -> None:
                late.set()
                running.process.kill()

            timer = threading.Timer(limit, give_up)
            timer.start()
            try:
                while got <= size and (block := running.read(min(CHUNK, size + 1 - got))):
                    file.write(block)
                    got += len(block)
                if got <= size:
                    running.process.wait()
            finally:
                timer.cancel()
            if late.is_set():
                raise self._too_slow(f"the download of {source}", limit)
            if got <= size:
                running.completed().check(f"the download of {source} from {self.name}")
        return got

    def _script(self, what: str, size: int, script: str, *arguments: str) -> str:
        """What a script prints that reads ``size`` bytes there."""
        done = self.exec(["sh", "-c", script, "sh", *arguments], _limit(size), check=False)
        done.check(f"{what} on {self.name}")
        return done.stdout.strip()

    def _size(self, script: str, *arguments: str) -> int:
        said = self._script(f"looking for {arguments[-1]}", 0, script, *arguments)
        if not said.isdecimal():
            raise CommandFailed(
                f"{self.name} did not answer with a size",
                last_line(said),
                "Its login shell must print nothing of its own: see `bench hosts check`",
            )
        return int(said)

    def _too_slow(self, what: str, limit: float) -> HostTimeout:
        return HostTimeout(
            f"{what} was ended after {limit:g} s on {self.name}",
            todo="Give it more time, or look at what it waits for",
        )


def _plain(path: str) -> str:
    """A path that no program takes for an option."""
    if not path or "\0" in path:
        raise UsageError(f"{path!r} is no path")
    return path if path.startswith("/") else f"./{path}"


def _limit(size: int) -> float:
    return SHORT + size / SLOWEST


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
