"""One command on a host over ssh: that it ends with us, and how we know that it ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from bench.errors import UsageError
from bench.hosts.base import CommandFailed, Completed
from bench.hosts.ssh_client import SshClient, last_line

# $1: a word that only this command knows, $2: bytes of input (-1: all of the line's is the command's), then the command.
# The word and the status on stderr say that the command ended by itself: the client's 255 alone does not. The line's input
# stays open as long as somebody waits for the command; when it ends, the command is killed with all that it started.
WRAPPER = """word=$1 size=$2; shift 2
if [ "$size" -ge 0 ]; then
  exec 3<&0 </dev/null
  if [ "$size" -gt 0 ]; then
    file=$(mktemp) || exit
    head -c "$size" <&3 >"$file"
    [ "$(wc -c <"$file")" -eq "$size" ] || { rm -f "$file"; exit 1; }
    exec <"$file"; rm -f "$file"
  fi
  { trap "" TERM; read -r _ <&3; kill -TERM -$$; sleep 1; kill -KILL -$$; } >/dev/null 2>&1 &
  watch=$!
fi
case $1 in
  */*) [ -f "$1" ] && [ -x "$1" ] ;;
  *) command -v "$1" >/dev/null ;;
esac && { (exec "$@") 3<&-; status=$?; } || status=absent
printf "%s %s\\n" "$word" "$status" >&2
exec 2>/dev/null
[ "$size" -lt 0 ] || kill -KILL "$watch"
"""


@dataclass(frozen=True)
class Session:
    """A command that runs on a host; its messages go to ``errors``."""

    client: SshClient
    program: str
    word: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def wait(self, seconds: float) -> bytes | None:
        """What the command printed, once it has ended; None when it has not in time."""
        try:
            return self.process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            return None

    def read(self, size: int) -> bytes:
        """So many bytes of what the command prints; fewer at its end."""
        return self.process.stdout.read(size) if self.process.stdout else b""

    def completed(self, out: bytes = b"") -> Completed:
        """How the command ended.

        Raises:
            HostUnreachable: the line was cut.
            CommandFailed: the program is not there, or the shell around it was not run or was killed.
        """
        self.errors.seek(0)
        said, word, tail = self.errors.read().rpartition(f"{self.word} ".encode())
        if word and tail.strip().isdigit():
            status = int(tail)
            # 128 and the signal: a shell's way to say it (POSIX, Shell Command Language, 2.8.2)
            status = 128 - status if 128 < status < 193 else status
            return Completed(status, out.decode(errors="replace"), said.decode(errors="replace"))
        if tail.strip() == b"absent":
            raise CommandFailed(
                f"{self.program} is not found on {self.client.address}", todo="Is it installed there?"
            )
        if self.process.returncode == 255:
            raise self.client.cut()
        raise CommandFailed(
            f"{self.client.address} did not run the command",
            last_line((said + word + tail).decode(errors="replace")),
            "Its login shell must be able to run sh: see `bench hosts check`",
        )


@contextlib.contextmanager
def session(client: SshClient, argv: Sequence[str], stdin: bytes | IO[bytes]) -> Iterator[Session]:
    """Run a command on a host; leaving the context ends it, there as well.

    ``stdin`` is the command's input: bytes (it starts when all have arrived), or an open file that the client reads from
    its present place. Raises HostUnreachable or HostRefused.
    """
    word = f"edgefit-{secrets.token_hex(8)}"
    size = len(stdin) if isinstance(stdin, bytes) else -1
    line = shell_line(["sh", "-c", WRAPPER, "sh", word, str(size), *argv])
    with tempfile.TemporaryFile() as errors, _input(stdin) as source:
        process = client.popen(line, source, subprocess.PIPE, errors)
        with process:
            try:
                yield Session(client, argv[0], word, process, errors)
            finally:
                if process.poll() is None:
                    process.kill()


@contextlib.contextmanager
def _input(stdin: bytes | IO[bytes]) -> Iterator[int | IO[bytes]]:
    """What the client reads; for bytes a pipe that stays open until the context is left."""
    if not isinstance(stdin, bytes):
        yield stdin
        return
    ended = threading.Event()
    reader, writer = os.pipe()
    threading.Thread(target=_feed, args=(writer, stdin, ended), daemon=True).start()
    try:
        yield reader
    finally:
        ended.set()
        os.close(reader)


def _feed(writer: int, data: bytes, ended: threading.Event) -> None:
    with contextlib.suppress(OSError), os.fdopen(writer, "wb", buffering=0) as pipe:  # the line may be cut
        left = memoryview(data)
        while left:
            left = left[pipe.write(left) or 0 :]
        ended.wait()


def shell_line(argv: Sequence[str]) -> str:
    """One line for any login shell. The shell becomes the command, which so leads the process group of its session.

    Raises:
        UsageError: an argument that no system can pass to a program.
    """
    if any("\0" in word for word in argv):
        raise UsageError("An argument holds a NUL character", todo="No system can pass that to a program")
    return "exec " + shlex.join(argv)
