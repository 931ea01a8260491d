"""What a host is: a place where commands run and files go, and the four ways it can let us down."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from bench.errors import EXIT_MISSING, EXIT_SOME_FAILED, EdgefitError
from bench.types import Json


class HostUnreachable(EdgefitError):
    """The device cannot be reached: switched off, unplugged, wrong address. Nothing ran."""

    exit_code = EXIT_MISSING


class HostRefused(EdgefitError):
    """The device answers, but does not let us in: a key, a password, an unknown or a changed host key, a phone's question."""

    exit_code = EXIT_MISSING


class CommandFailed(EdgefitError):
    """The host was reached and the command ran, but it did not succeed."""

    exit_code = EXIT_SOME_FAILED


class HostTimeout(EdgefitError):
    """The command was still running at its time limit and was ended."""

    exit_code = EXIT_SOME_FAILED


@dataclass(frozen=True)
class Completed:
    """A finished command: its exit status (negative: the signal that ended it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str

    def check(self, program: str) -> None:
        """Raises CommandFailed, with its last words, when the status is not 0."""
        if self.returncode:
            last = self.stderr.strip().splitlines()[-1:] or ["no message"]
            raise CommandFailed(f"{program} ended with status {self.returncode}", found=last[0])


MOST_BYTES = 256_000_000
"""The largest file that is taken from a host: what a device sends is not trusted."""


def too_large(remote: str, size: int, most: int) -> CommandFailed:
    """The error for a file that is not taken from a host."""
    return CommandFailed(f"{remote} is not taken: it is larger than {most} bytes", found=f"{size} bytes")


class Host(Protocol):
    """Where things run. Implementations hold no connection until the first call.

    A path on another machine that does not begin with ``/`` is below the folder that a command starts in (over ssh: the
    home folder). Arguments, paths and names never become shell text unquoted.
    """

    @property
    def name(self) -> str:
        """What messages call it: ``local``, or an address."""

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        """Run a command to its end, at most ``timeout`` seconds, with ``stdin`` as its input (else none).

        Raises:
            HostUnreachable: the host is not there, or the line was cut: the command may or may not have run.
            HostRefused: it is there, but does not let us in: a key, a password, an unknown or a changed host key.
            CommandFailed: the program is not found, or it ends with a status other than 0 while ``check``.
            HostTimeout: it did not end in time (it is killed).
        """

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived command with pipes for stdin and stdout, in its own process group.

        ``env`` is added to the host's own environment; the command's messages go to ``stderr``. Ending the process cuts
        the line to a command elsewhere. Raises HostUnreachable or CommandFailed.
        """

    def put(self, local: Path, remote: str) -> None:
        """Copy a file to the host; it appears under its name only when it is whole. An upload that was cut goes on.

        Raises HostUnreachable, HostRefused, CommandFailed or HostTimeout.
        """

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        """Copy a file from the host; one of more than ``most`` bytes is a CommandFailed. Raises as :meth:`put` does."""

    def facts(self) -> Json:
        """What is known of the machine (:func:`bench.measure.environment.describe`)."""

    def close(self) -> None:
        """End what is open to the host. Harmless twice."""
