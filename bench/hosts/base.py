"""What a host is: a place where commands run and files go, and the three ways it can let us down."""

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


class Host(Protocol):
    """Where things run. Implementations hold no connection until the first call."""

    @property
    def name(self) -> str:
        """The name that cells carry: ``local``, or an address."""

    def exec(self, argv: Sequence[str], timeout: float, check: bool = True) -> Completed:
        """Run a command to its end, at most ``timeout`` seconds.

        Raises:
            HostUnreachable: the command could not be started because the host is not there.
            CommandFailed: the program is not found, or it ends with a status other than 0 while ``check``.
            HostTimeout: it did not end in time (it is killed).
        """

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived command with pipes for stdin and stdout, in its own process group.

        ``env`` is added to the host's own environment; the command's messages go to ``stderr``. Raises HostUnreachable or CommandFailed.
        """

    def put(self, local: Path, remote: str) -> None:
        """Copy a file to the host. Raises HostUnreachable or CommandFailed."""

    def get(self, remote: str, local: Path) -> None:
        """Copy a file from the host. Raises HostUnreachable or CommandFailed."""

    def facts(self) -> Json:
        """What is known of the machine (``bench.measure.environment.describe`` for the local one)."""
