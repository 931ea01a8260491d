"""This machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.errors import UsageError
from bench.hosts.base import MOST_BYTES, CommandFailed, Completed, HostTimeout, too_large
from bench.types import Json


class LocalHost:
    """Runs commands and copies files here; it is never unreachable."""

    name = "local"

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        """See :meth:`bench.hosts.base.Host.exec`."""
        with _popen(argv, stderr=subprocess.PIPE) as process:
            try:
                out, err = process.communicate(stdin or b"", timeout)
            except subprocess.TimeoutExpired as error:
                raise HostTimeout(
                    f"{argv[0]} was ended after {timeout:g} s",
                    todo="Give it more time, or look at what it waits for",
                ) from error
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
        completed = Completed(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
        if check:
            completed.check(argv[0])
        return completed

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """See :meth:`bench.hosts.base.Host.start`."""
        return _popen(argv, stderr, {**os.environ, **env})

    def put(self, local: Path, remote: str) -> None:
        """Copy ``local`` to the path ``remote``."""
        with _told(local, remote):
            Path(remote).parent.mkdir(parents=True, exist_ok=True)
            _copy(local, Path(remote))

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        """Copy the path ``remote`` to ``local``."""
        source = Path(remote)
        if source.is_file() and source.stat().st_size > most:
            raise too_large(remote, source.stat().st_size, most)
        with _told(remote, local):
            _copy(source, local)

    def close(self) -> None:
        """Nothing is open."""

    def facts(self) -> Json:
        """This machine's environment (:func:`bench.measure.environment.describe`)."""
        from bench.measure.environment import describe

        return describe()


def _popen(
    argv: Sequence[str], stderr: int | IO[bytes], env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A command with pipes, in its own process group, so that it can be ended with all that it started."""
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(
            f"{argv[0]} could not be started", str(error.strerror), "Is it installed?"
        ) from error
    except ValueError as error:
        raise UsageError("An argument cannot be passed to a program", str(error)) from error


@contextlib.contextmanager
def _told(source: Path | str, target: Path | str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in a path
        why = error.strerror if isinstance(error, OSError) else error
        raise CommandFailed(f"{source} could not be copied to {target}", found=str(why)) from error


def _copy(source: Path, target: Path) -> None:
    """The target changes only when the whole file is there."""
    if target.exists() and source.samefile(target):
        return
    part = target.with_name(f".part-{secrets.token_hex(8)}")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
