"""The vendor's ``adb`` program: which phones it sees, and sessions on one of them.

Options and messages after AOSP, packages/modules/adb: docs/user/adb.1.md, client/commandline.cpp. The exit status and the two
streams of a command come back since Android 7 (``shell_v2``).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO

from bench.errors import EdgefitError, MissingError, UsageError
from bench.hosts.base import HostRefused, HostUnreachable
from bench.hosts.ssh_client import last_line
from bench.parsers.adb import Device, parse_devices

COMMAND = "EDGEFIT_ADB_COMMAND"
"""The variable that replaces the program ``adb``, with arguments if need be."""
FORM = "adb://[SERIAL]"
HOME = "/data/local/tmp"
"""Where commands start: the folder that a shell of adb may write to and run programs from."""
SECONDS = 20.0
"""For the list of phones; the first call starts adb's own server."""
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\]-]{0,127}")
_ASKED = "Unlock the phone, accept its question about USB debugging, and tick to always allow this computer"
_REFUSED = {
    "unauthorized": ("does not know this computer", _ASKED),
    "authorizing": ("has not answered yet whether it knows this computer", _ASKED),
    "no permissions": (
        "may not be opened by this user",
        "Add a udev rule for it (Debian, Ubuntu: sudo apt install android-sdk-platform-tools-common) and replug it",
    ),
}


def parse_serial(rest: str) -> str:
    """The serial behind ``adb://``: empty means the only phone there is.

    Raises:
        UsageError: what no phone has as its serial, host name and port, or mDNS name.
    """
    if rest and not _SERIAL.fullmatch(rest):
        raise UsageError(
            f"{f'adb://{rest}'!r} is no address of a phone", todo=f"Give {FORM}; `adb devices` lists them"
        )
    return rest


class AdbClient:
    """Runs ``adb`` against one phone, which is looked for at the first session and again after one that was cut."""

    def __init__(self, serial: str) -> None:
        self._asked = serial
        self._found = ""

    @property
    def address(self) -> str:
        return f"adb://{self._asked or self._found}"

    def devices(self) -> tuple[Device, ...]:
        """Every phone that adb sees, whether it can be used or not.

        Raises:
            MissingError: there is no adb. HostUnreachable: it does not answer.
        """
        # a server that this starts keeps what it inherits open: files, not pipes
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = _run([*_client(), "devices", "-l"], out, err)
            out.seek(0)
            err.seek(0)
            listed, said = (file.read(1 << 20).decode(errors="replace") for file in (out, err))
        if status:
            raise HostUnreachable(
                "adb cannot list the phones", last_line(said), "Try: adb kill-server; adb devices"
            )
        if status is None:
            raise HostUnreachable(
                f"adb does not list the phones within {SECONDS:g} s", todo="Try: adb kill-server"
            )
        return parse_devices(listed).devices

    def connect(self) -> None:
        """Find the phone, unless it was found.

        Raises:
            HostUnreachable: it is not there, or does not answer. HostRefused: it does not let us in.
            UsageError: several are there, and the address says no serial.
        """
        if not self._found:
            self._found = self._choose().serial

    def popen(
        self, remote: str, stdin: int | IO[bytes] | None, stdout: int, stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a session that runs ``remote``, one line for the shell there. Raises as :meth:`connect`."""
        self.connect()
        return subprocess.Popen(
            [*_client(), "-s", self._found, "shell", f"cd {HOME} && {remote}"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def transfer(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``adb push`` or ``adb pull``. Raises as :meth:`connect`."""
        self.connect()
        return subprocess.Popen(
            [*_client(), "-s", self._found, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def cut(self, said: str) -> EdgefitError:
        """Why a session ended before its command did, from what adb sees now."""
        self.close()
        try:
            self.connect()
        except EdgefitError as error:
            return error
        return HostUnreachable(
            f"The line to {self.address} was cut", last_line(said), "Look at its cable; keep the phone awake"
        )

    def close(self) -> None:
        """Look for the phone again at the next session."""
        self._found = ""

    def _choose(self) -> Device:
        there = self.devices()
        known = ", ".join(f"adb://{d.serial} ({d.model or d.state})" for d in there)
        if not there:
            raise HostUnreachable(
                f"{self.address} is not there: adb sees no phone",
                todo="Plug it in, and switch on USB debugging in its developer options",
            )
        fitting = [d for d in there if d.serial == self._asked] if self._asked else list(there)
        if not fitting:
            raise HostUnreachable(f"{self.address} is not there", f"adb sees {known}", "Is the serial right?")
        if len(fitting) > 1:
            raise UsageError("Several phones are there, and adb:// says none of them", todo=f"Give {known}")
        return self._ready(fitting[0])

    def _ready(self, device: Device) -> Device:
        where = f"adb://{device.serial}"
        if device.state in _REFUSED:
            what, todo = _REFUSED[device.state]
            raise HostRefused(f"{where} is there, but {what}", device.hint or device.state, todo)
        if not device.ready:
            todo = "Wake the phone and replug it; if that does not help: adb reconnect"
            raise HostUnreachable(f"{where} does not answer", f"its state is {device.state}", todo)
        return device


def _client() -> list[str]:
    raw = os.environ.get(COMMAND, "")
    try:
        return shlex.split(raw) or ["adb"]
    except ValueError as error:
        raise UsageError(f"{COMMAND} is no command line", str(error)) from error


def _run(command: Sequence[str], out: IO[bytes], err: IO[bytes]) -> int | None:
    """The exit status, or None when it did not end in time."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False, timeout=SECONDS
        ).returncode
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise MissingError(
            f"adb cannot be started ({command[0]})",
            str(error.strerror),
            f"Install it (Debian, Ubuntu: sudo apt install adb), or name it in {COMMAND}",
        ) from error
