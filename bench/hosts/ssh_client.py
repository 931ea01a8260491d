"""The system's ssh client: one shared connection to a host, and sessions over it.

The person's own configuration, keys and agent are in force. The client never asks (BatchMode), host keys are checked as
always, and a line that says nothing for 15 s counts as cut. Options: ssh_config(5); the shared connection: ControlMaster
there and ``-O`` in ssh(1).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bench.errors import MissingError, UsageError
from bench.hosts.address import SshAddress
from bench.hosts.base import CommandFailed, HostRefused, HostUnreachable

COMMAND = "EDGEFIT_SSH_COMMAND"
"""The variable that replaces the client ``ssh``, with arguments if need be."""
CONNECT_SECONDS = 10
OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_SECONDS}",
    "ConnectionAttempts=1",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "ControlPersist=60",
    "ClearAllForwardings=yes",
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "LogLevel=ERROR",
)
_SHORT = 60
"""Bytes of a folder's path: a socket's may have 104, and the client adds 17 to it while it makes one."""
_REFUSALS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed",
        "Was it installed anew? If so: ssh-keygen -R {known}, then connect once by hand: ssh {by_hand}, and compare the "
        "fingerprint. If not, another machine answers in its place",
    ),
    (
        "Host key verification failed",
        "its host key is not known here",
        "Connect once by hand: ssh {by_hand}, and compare the fingerprint",
    ),
    (
        "Too many authentication failures",
        "the agent offers too many keys",
        "Name the right one in ~/.ssh/config: IdentityFile, with IdentitiesOnly yes",
    ),
    (
        "Permission denied",
        "it takes none of our keys",
        "Copy yours there: ssh-copy-id {by_hand}. A key with a passphrase must be in the agent: ssh-add",
    ),
    (
        "Unable to negotiate",
        "it speaks only algorithms that this client has given up",
        "Update it, or allow them for this host in ~/.ssh/config (see the message)",
    ),
)


class SshClient:
    """Runs the client against one address. The shared connection is made at the first session, and again when it was cut."""

    def __init__(self, address: SshAddress) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._end: weakref.finalize[..., SshClient] | None = None

    def popen(
        self, remote: str, stdin: int | IO[bytes] | None, stdout: int, stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a session that runs ``remote``, one line for the login shell there, in a process group of its own.

        Raises HostUnreachable or HostRefused.
        """
        self.connect()
        return subprocess.Popen(
            [*self._command("ControlMaster=no"), "--", self.address.destination, remote],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def connect(self) -> None:
        """Make the shared connection, unless there is one.

        Raises HostUnreachable or HostRefused, with what the client said; MissingError without a client.
        """
        with self._lock:
            if self._socket().exists() and self.alive():
                return
            # the connection goes to the background and keeps what it inherits open: a file, not a pipe
            with tempfile.TemporaryFile() as messages:
                command = [*self._command("ControlMaster=yes"), "-N", "-f", "--", self.address.destination]
                status = _run(command, messages, 3 * CONNECT_SECONDS)
                messages.seek(0)
                said = messages.read(65536).decode(errors="replace")
            if status != 0:
                raise self._why(said if status is not None else "Connection timed out during the login")

    def alive(self) -> bool:
        """Is the shared connection there?"""
        return self._folder is not None and _ask(
            [*self._command(), "-O", "check", "--", self.address.destination]
        )

    def cut(self) -> HostUnreachable | CommandFailed:
        """Why a session ended without a word from the command: the line, or the command's own shell."""
        if self.alive():
            return CommandFailed(
                f"{self.address} ended the command with a signal",
                todo="Was it short of memory? See dmesg there",
            )
        return HostUnreachable(
            f"The line to {self.address} was cut",
            todo="Look at its power and its network; the same command goes on from there",
        )

    def close(self) -> None:
        """End the shared connection and remove its folder. Harmless twice."""
        with self._lock:
            if self._end is not None:
                self._end()
            self._folder = self._end = None

    def settings(self) -> dict[str, str]:
        """What the client's configuration makes of the address (``ssh -G``): hostname, port, user, proxyjump, ..."""
        command = [*_client(), *self._port(), "-G", "--", self.address.destination]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=CONNECT_SECONDS
            )
        except OSError as error:
            raise _no_client(command[0], error) from error
        if done.returncode:
            raise UsageError("The ssh client cannot read its configuration", last_line(done.stderr))
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    def _port(self) -> list[str]:
        return ["-p", str(self.address.port)] if self.address.port else []

    def _command(self, *more: str) -> list[str]:
        options = (*OPTIONS, f"ControlPath={self._socket()}", *more)
        return [*_client(), *self._port(), *(word for option in options for word in ("-o", option))]

    def _socket(self) -> Path:
        if self._folder is None:
            client = _client()
            folder = Path(tempfile.mkdtemp(prefix="edgefit-", dir=_base()))  # mode 0700
            leave = [
                *client,
                "-o",
                f"ControlPath={folder / 's'}",
                "-O",
                "exit",
                "--",
                self.address.destination,
            ]
            self._folder, self._end = folder, weakref.finalize(self, _leave, leave, folder)
        return self._folder / "s"

    def _why(self, said: str) -> HostRefused | HostUnreachable:
        """The error for a connection that was not made, from what the client said (its words: OpenSSH 7.6 to 10)."""
        by_hand = shlex.join([*self._port(), self.address.destination])
        port = self.address.port
        known = shlex.quote(f"[{self.address.host}]:{port}" if port and port != 22 else self.address.host)
        for sign, reason, todo in _REFUSALS:
            if sign in said:
                return HostRefused(
                    f"{self.address} is there, but {reason}",
                    last_line(said),
                    todo.format(by_hand=by_hand, known=known),
                )
        if "resolve hostname" in said:
            todo = "Is the name right? Try its IP address; a name in .local needs mDNS on both sides"
        elif "refused" in said:
            todo = "The machine is there, but no ssh server: sudo apt install openssh-server on it; is the port right?"
        else:
            todo = f"Is it switched on and in this network? Try by hand: ssh {by_hand}"
        return HostUnreachable(f"{self.address} cannot be reached", last_line(said), todo)


def last_line(text: str) -> str:
    """The last line of what a program said, fit for a message: printable and short."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return "".join(c if c.isprintable() else "?" for c in lines[-1])[:300] if lines else "no message"


def _client() -> list[str]:
    raw = os.environ.get(COMMAND, "")
    try:
        return shlex.split(raw) or ["ssh"]
    except ValueError as error:
        raise UsageError(f"{COMMAND} is no command line", str(error)) from error


def _no_client(program: str, error: OSError) -> MissingError:
    return MissingError(
        f"The ssh client {program} cannot be started",
        str(error.strerror),
        "Install it (Debian, Ubuntu: sudo apt install openssh-client)",
    )


def _run(command: Sequence[str], messages: IO[bytes], seconds: float) -> int | None:
    """The exit status, or None when it did not end in time."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
            start_new_session=True,
        )
    except OSError as error:
        raise _no_client(command[0], error) from error
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _ask(command: Sequence[str]) -> bool:
    try:
        return not subprocess.run(
            command, capture_output=True, check=False, timeout=CONNECT_SECONDS
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _leave(command: Sequence[str], folder: Path) -> None:
    if (folder / "s").exists():
        _ask(command)
    shutil.rmtree(folder, ignore_errors=True)  # the client removes its socket at the same time


def _base() -> str:
    """A folder for the socket's: its path is short and has no character that the client would expand."""
    base = tempfile.gettempdir()
    return base if len(base) <= _SHORT and re.fullmatch(r"[A-Za-z0-9/._-]+", base) else "/tmp"
