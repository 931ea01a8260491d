"""A host over adb: an Android phone. Of the phone only ``sh`` and toybox are used, which every Android has."""

from __future__ import annotations

import contextlib
import posixpath
import re
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from bench.errors import UsageError
from bench.hosts.adb_client import HOME, AdbClient, parse_serial
from bench.hosts.base import MOST_BYTES, CommandFailed, Completed, HostTimeout, too_large
from bench.hosts.ssh import FINISH, SHORT, SIZE, SLOWEST
from bench.hosts.ssh_client import last_line
from bench.hosts.ssh_session import Session, session, shell_line
from bench.store import file_sha256
from bench.types import Json

if TYPE_CHECKING:
    from bench.hosts.ssh_client import SshClient

MAKE = '[ ! -d "$2" ] || { echo "it is a folder" >&2; exit 1; }; mkdir -p -- "$1"'
STEP = 0.05
"""Seconds between looks at a file that arrives."""


class AdbHost:
    """The phone at ``adb://[serial]``; see :class:`bench.hosts.base.Host`. Commands start in ``/data/local/tmp``."""

    def __init__(self, rest: str) -> None:
        self.client = AdbClient(parse_serial(rest))

    @property
    def name(self) -> str:
        return self.client.address

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        """See :meth:`bench.hosts.base.Host.exec`. The time to find the phone is not counted."""
        # the wrapper around a command asks nothing of its client but the three things that both have
        client = cast("SshClient", self.client)
        with session(client, argv, stdin or b"") as running:
            out = running.wait(timeout)
            if out is None:
                raise self._too_slow(argv[0], timeout)
            done = self._completed(running, out)
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
        there = self.exec(["sh", "-c", 'command -v "$1"', "sh", argv[0]], SHORT, check=False)
        if there.returncode:
            raise CommandFailed(f"{argv[0]} is not found on {self.name}", todo="Is it installed there?")
        settings = [f"{key}={value}" for key, value in env.items()]
        line = shell_line(["env", *settings, "sh", "-c", 'exec "$@"', "sh", *argv])
        return self.client.popen(line, subprocess.PIPE, subprocess.PIPE, stderr)

    def put(self, local: Path, remote: str) -> None:
        """See :meth:`bench.hosts.base.Host.put`. One that was cut begins again: ``adb push`` has no other way."""
        try:
            size, sha = local.stat().st_size, file_sha256(local)
        except OSError as error:
            raise CommandFailed(f"{local} could not be read", str(error.strerror)) from error
        target = _plain(remote)
        part = f"{target}.part-{sha[:8]}"
        self._script(f"writing {remote}", size, MAKE, posixpath.dirname(target), target)
        for _ in range(2):
            self._copy(size, "push", str(local.resolve()), part)
            if self._script(f"writing {remote}", size, FINISH, part, target, sha) == "same":
                return
        raise CommandFailed(
            f"{local} arrived damaged on {self.name}, twice",
            todo="Look at its storage and its cable, and whether the file changes meanwhile",
        )

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        """See :meth:`bench.hosts.base.Host.get`. ``local`` changes only when the whole file is here."""
        source = _plain(remote)
        said = self._script(f"reading {remote}", 0, SIZE, source)
        size = int(said) if re.fullmatch(r"[0-9]{1,18}", said) else -1
        if size < 0:
            raise CommandFailed(f"{self.name} did not answer with a size", last_line(said))
        if size > most:
            raise too_large(remote, size, most)
        temporary = local.parent / f".get-{secrets.token_hex(8)}"
        try:
            temporary.touch()
            self._copy(size, "pull", source, str(temporary.resolve()), arriving=temporary)
            if temporary.stat().st_size != size:
                raise CommandFailed(f"{remote} changed while it was read", todo="Fetch it again")
            temporary.chmod(0o644)
            temporary.replace(local)
        except OSError as error:
            raise CommandFailed(f"{local} could not be written", str(error.strerror)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def facts(self) -> Json:
        """What is known of the phone (:func:`bench.hosts.phone.describe`)."""
        from bench.hosts import phone

        return phone.describe(self)

    def close(self) -> None:
        """See :meth:`bench.hosts.base.Host.close`. adb's own server stays."""
        self.client.close()

    def _completed(self, running: Session, out: bytes = b"") -> Completed:
        running.errors.seek(0)
        said = running.errors.read().decode(errors="replace")
        if running.word not in said:
            raise self.client.cut(said)
        return running.completed(out)

    def _script(self, what: str, size: int, script: str, *arguments: str) -> str:
        done = self.exec(["sh", "-c", script, "sh", *arguments], _limit(size), check=False)
        done.check(f"{what} on {self.name}")
        return done.stdout.strip()

    def _copy(self, size: int, *arguments: str, arriving: Path | None = None) -> None:
        """``adb push`` or ``adb pull``, ended when it takes too long or more than ``size`` bytes arrive."""
        limit = _limit(size)
        end = time.monotonic() + limit
        with self.client.transfer(*arguments) as process:
            try:
                while True:
                    try:
                        process.wait(STEP)
                        break
                    except subprocess.TimeoutExpired:
                        pass
                    if time.monotonic() > end:
                        raise self._too_slow(f"adb {arguments[0]} of {arguments[1]}", limit)
                    if arriving is not None and arriving.stat().st_size > size:
                        raise CommandFailed(f"{arguments[1]} grew while it was read", todo="Fetch it again")
            finally:
                if process.poll() is None:
                    process.kill()
            said = process.stderr.read().decode(errors="replace") if process.stderr else ""
        if process.returncode:
            if re.search(r"^(adb: )?error: (device|no devices|closed|protocol)", said, re.MULTILINE):
                raise self.client.cut(said)
            raise CommandFailed(
                f"adb {arguments[0]} of {arguments[1]} failed on {self.name}", last_line(said)
            )

    def _too_slow(self, what: str, limit: float) -> HostTimeout:
        return HostTimeout(
            f"{what} was ended after {limit:g} s on {self.name}",
            todo="Give it more time, or look at what it waits for",
        )


def _plain(path: str) -> str:
    """The absolute path; one that is not is below the folder where commands start."""
    if not path or "\0" in path:
        raise UsageError(f"{path!r} is no path")
    return path if path.startswith("/") else f"{HOME}/{path}"


def _limit(size: int) -> float:
    return SHORT + size / SLOWEST
