"""This machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.hosts.base import MOST_BYTES, CommandFailed, Completed, HostTimeout, too_large
from bench.types import Json


class LocalHost:
    """Runs commands and copies files here; it is never unreachable."""

    name = "local"

    def exec(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: bytes | None = None
    ) -> Completed:
        """See :meth:`bench.hosts.base.Host.exec`."""
        try:
            done = subprocess.run(
                list(argv), input=stdin or b"", capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HostTimeout(
                f"{argv[0]} was ended after {timeout:g} s",
                todo="Give it more time, or look at what it waits for",
            ) from error
        except OSError as error:
            raise _not_started(argv[0], error) from error
        completed = Completed(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )
        if check:
            completed.check(argv[0])
        return completed

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """See :meth:`bench.hosts.base.Host.start`."""
        try:
            return subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(argv[0], error) from error

    def put(self, local: Path, remote: str) -> None:
        """Copy ``local`` to the path ``remote``."""
        _copy(local, Path(remote))

    def get(self, remote: str, local: Path, most: int = MOST_BYTES) -> None:
        """Copy the path ``remote`` to ``local``."""
        source = Path(remote)
        if source.is_file() and source.stat().st_size > most:
            raise too_large(remote, source.stat().st_size, most)
        _copy(source, local)

    def close(self) -> None:
        """Nothing is open."""

    def facts(self) -> Json:
        """This machine's environment (:func:`bench.measure.environment.describe`)."""
        from bench.measure.environment import describe

        return describe()


def _not_started(program: str, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"{program} could not be started", found=str(error.strerror), todo="Is it installed?"
    )


def _copy(source: Path, target: Path) -> None:
    try:
        if not (target.exists() and source.samefile(target)):
            shutil.copyfile(source, target)
    except OSError as error:
        raise CommandFailed(f"{source} could not be copied to {target}", found=str(error.strerror)) from error
