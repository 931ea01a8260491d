"""The command line, as tests ask it.

`bench` runs a command in the test's own process: the same way from arguments to messages and exit code, without the
seconds that a new interpreter takes to import torch. `bench_process` starts a program of its own, for trainings and for
what has to be stopped or counted from outside.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from bench.cli import main

PROGRAM = (sys.executable, "-c", "from bench.cli import main; main()")
Done = subprocess.CompletedProcess[str]


def bench(*arguments: object, cwd: Path) -> Done:
    """Run a command here, in the folder ``cwd``."""
    assert threading.current_thread() is threading.main_thread()
    words = ["bench", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    here, at_end = Path.cwd(), signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        os.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.chdir(here)
            signal.signal(signal.SIGTERM, at_end)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def bench_process(*arguments: object, cwd: Path, **options: Any) -> Done:
    """Run a command in a process of its own."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False, **options
    )
