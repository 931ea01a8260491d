"""Silence libraries that print, from Python or from C++, and keep what they said for the error message."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Captured:
    """What was written to the standard streams inside :func:`quiet`."""

    file: IO[bytes]

    def tail(self, characters: int = 600) -> str:
        """The last ``characters`` of the text so far, on one line."""
        _flush()
        size = os.fstat(self.file.fileno()).st_size
        # pread leaves the shared file position alone, so that writing goes on at the end.
        data = os.pread(self.file.fileno(), characters, max(0, size - characters))
        return " ".join(data.decode("utf-8", "replace").split())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


def _stream(fd: int) -> io.TextIOWrapper:
    """A text stream on a descriptor, never closed: a library may keep it in a log handler for ever."""
    return io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), errors="replace", write_through=True)


@contextmanager
def quiet() -> Iterator[Captured]:
    """Send file descriptors 1 and 2 of this process to a temporary file until the block ends.

    Exporters print from C++ and through handlers they add to the root logger, so redirecting
    ``sys.stdout`` is not enough. Root handlers added inside the block are removed again. The
    redirection is for the whole process: other threads are silent as well while it lasts.
    """
    handlers = list(logging.getLogger().handlers)
    _flush()
    with tempfile.TemporaryFile() as sink:
        saved: dict[int, int | None] = {}
        for fd in (1, 2):
            try:
                saved[fd] = os.dup(fd)
            except OSError:
                saved[fd] = None  # closed by whoever started us
            os.dup2(sink.fileno(), fd)
        try:
            # Programs that show progress replace the Python streams by objects that do not end in these descriptors.
            out, err = (_stream(fd) for fd in (1, 2))
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    yield Captured(sink)
                finally:
                    _flush()
        finally:
            for fd, copy in saved.items():
                if copy is None:
                    os.close(fd)
                else:
                    os.dup2(copy, fd)
                    os.close(copy)
            for handler in list(logging.getLogger().handlers):
                if handler not in handlers:
                    logging.getLogger().removeHandler(handler)
