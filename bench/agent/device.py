"""The agent's commands on a device: ``python3 agent.pyz COMMAND ...``; JSON in on stdin, JSON out on stdout.

``look``: what the machine says of itself. ``have``: which of our files are there. ``run JOB OFFSET``: start a job, or join
it, and print its events from a byte on until it is over. ``clean``: remove what we left. A job runs by itself: a line that
is cut takes nothing with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from typing import Any, Dict, List

from .look import look
from .supervise import ENGINES, Supervisor, known

Json = Dict[str, Any]
POLL = 0.05
KEPT = 50
BEAT = 2.0
"""Seconds of silence after which the line is told that we live."""


def read_stdin() -> Any:
    return json.loads(sys.stdin.read() or "null")


def answer(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def have(asked: Json) -> List[str]:
    """Which of the files (path -> bytes) are there whole."""
    return [p for p, size in asked.items() if os.path.isfile(p) and os.path.getsize(p) == size]


def alive(folder: str) -> bool:
    """Is the supervisor of a job still there? It holds a lock on its own job while it lives."""
    try:
        with open(os.path.join(folder, "pid"), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except OSError:
        return True


def over(folder: str) -> bool:
    """Has the job come to its last event?"""
    try:
        with open(os.path.join(folder, "events.jsonl"), "rb") as file:
            file.seek(max(0, os.path.getsize(file.name) - 65536))
            last = file.read().splitlines()[-1:]
        return bool(last) and json.loads(last[0].decode("utf-8")).get("event") == "over"
    except (OSError, ValueError):
        return False


def start(folder: str, job: Json) -> str:
    """``over`` or ``running`` when the job is done or under way; else it is (again) begun: ``started``."""
    os.makedirs(folder, exist_ok=True)
    if over(folder):
        return "over"
    if alive(folder):
        return "running"
    for name in known(folder):
        os.unlink(os.path.join(folder, name))
    forget_old(os.path.dirname(folder))
    with open(os.path.join(folder, "job.json"), "w", encoding="utf-8") as file:
        json.dump(job, file)
    with open(os.path.join(folder, "supervisor.txt"), "wb") as messages:
        subprocess.Popen(
            [sys.executable, sys.argv[0], "supervise", folder],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            start_new_session=True,
        )
    deadline = time.monotonic() + 10
    while not (alive(folder) or over(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "started"


def forget_old(jobs: str) -> None:
    """Keep the last jobs that are over: somebody may still fetch them."""
    folders = sorted((os.path.join(jobs, n) for n in _names(jobs)), key=_used)
    for folder in folders[:-KEPT]:
        if not alive(folder):
            shutil.rmtree(folder)


def supervise(folder: str) -> None:
    """The job itself, in a process of its own."""
    with open(os.path.join(folder, "pid"), "a", encoding="utf-8") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        mine.write("%d\n" % os.getpid())
        mine.flush()
        if not over(folder):  # two lines may have begun it at once
            Supervisor(folder).run()


def watch(folder: str, offset: int) -> None:
    """Print the job's events from a byte on; ``beat`` when there is nothing to say, ``lost`` when the job has died."""
    path, told = os.path.join(folder, "events.jsonl"), time.monotonic()
    while True:
        dead = not alive(folder)  # asked first: what it wrote before it died is still printed
        lines = b""
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(offset)
            lines = file.read()
            lines = lines[: lines.rfind(b"\n") + 1]
        if lines:
            sys.stdout.buffer.write(lines)
            sys.stdout.buffer.flush()
            offset, told = offset + len(lines), time.monotonic()
            if json.loads(lines.splitlines()[-1].decode("utf-8")).get("event") == "over":
                return
        elif dead:
            answer({"event": "lost"})
            return
        elif time.monotonic() - told > BEAT:
            answer({"event": "beat"})
            told = time.monotonic()
        time.sleep(POLL)


def clean(asked: Json) -> Json:
    """Remove jobs and files of the workspace not used for ``days`` days, then the oldest until ``most_bytes`` are left."""
    root, limit = asked["workspace"], time.time() - 86400.0 * float(asked["days"])
    removed = freed = 0
    with open(os.path.join(root, "lock"), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return {"busy": True, "removed": 0, "freed_bytes": 0, "left_bytes": _bytes(root)}
        entries = [
            os.path.join(root, d, n)
            for d in ("jobs", "objects", ENGINES)
            for n in _names(os.path.join(root, d))
        ]
        entries.sort(key=_used)
        left = _bytes(root)
        for path in entries:
            if _used(path) > limit and left <= asked["most_bytes"]:
                continue
            size = _bytes(path)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            removed, freed, left = removed + 1, freed + size, left - size
    return {"busy": False, "removed": removed, "freed_bytes": freed, "left_bytes": left}


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _used(path: str) -> float:
    return os.lstat(path).st_mtime


def _bytes(path: str) -> int:
    if not os.path.isdir(path):
        return os.lstat(path).st_size
    return sum(os.lstat(os.path.join(f, n)).st_size for f, _, names in os.walk(path) for n in names)


def main(argv: List[str]) -> None:
    command = argv[0] if argv else ""
    if command == "look":
        answer(look(read_stdin()))
    elif command == "have":
        answer(have(read_stdin()))
    elif command == "run":
        state = start(argv[1], read_stdin())
        answer({"event": "job", "state": state})
        watch(argv[1], 0 if state == "started" else int(argv[2]))
    elif command == "supervise":
        supervise(argv[1])
    elif command == "clean":
        answer(clean(read_stdin()))
    else:
        sys.exit("agent: look, have, run JOB OFFSET, clean")
