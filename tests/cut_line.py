"""A stand-in for a bad network: a host on this machine whose line is cut when a test says so."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.hosts.base import MOST_BYTES, Completed, HostUnreachable
from bench.hosts.local import LocalHost


class CutLine(LocalHost):
    """Commands run here; ``cuts`` are the seconds after which each of the first long-lived lines is cut."""

    name = "stand-in"

    def __init__(self, cuts: Sequence[float] = (), dead_execs: int = 0) -> None:
        self.cuts = list(cuts)
        self.dead_execs = dead_execs
        self.commands: list[list[str]] = []
        self.sent: list[str] = []

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        self.commands.append(list(argv))
        return super().exec(argv, timeout, check, stdin)

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        self.commands.append(list(argv))
        process = super().start(argv, env, stderr)
        if self.cuts:
            threading.Thread(target=_kill_after, args=(process, self.cuts.pop(0)), daemon=True).start()
        return process

    def put(self, local: Path, remote: str) -> None:
        if self.dead_execs:
            self.dead_execs -= 1
            raise HostUnreachable("The line was cut while sending")
        self.sent.append(remote)
        super().put(local, remote)

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        if self.dead_execs:
            self.dead_execs -= 1
            raise HostUnreachable("The line was cut while fetching")
        super().get(remote, local, most)


def _kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
