"""Our folder on a host: the agent, files by content, jobs that go on when the line is cut."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import io
import json
import queue
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, WorkerError
from bench.hosts import open_host
from bench.hosts.base import CommandFailed, Host, HostTimeout, HostUnreachable
from bench.hosts.captured import FILES, laid_out
from bench.types import Json, Notify

if TYPE_CHECKING:
    from bench.hosts.inventory import Device

AGENT = "agent.pyz"
MARK = "edgefit-workspace"
"""The file that says whose the folder is: what is removed there must be ours."""
DEFAULT = ".cache/edgefit-device"
"""Below the folder that a command starts in."""
ANSWER = 60.0
"""Seconds a command of the agent may take."""
SILENCE = 15.0
"""Seconds without a sign of life after which a line counts as cut; the agent says something every two."""
PATIENCE = 180.0
"""Seconds in which a line that was cut must come back."""
RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between tries; the last is repeated."""
LASTED = 20.0
"""A line that held for so many seconds was there, and what comes next is another cut."""
MOST_LINE = 1_000_000
OUTPUTS = frozenset(
    (
        "result.json",
        "observed.json",
        "samples.npy",
        "warmup.npy",
        "outputs.npy",
        "build.txt",
        "run.txt",
        "times.json",
    )
)  # the last three: of trtexec
PACKED = "outputs.tar"


def agent_file() -> bytes:
    """The agent as one file that Python runs: ``bench.agent`` zipped. The same sources give the same bytes."""
    buffer = io.BytesIO()
    package = importlib.resources.files("bench.agent")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)

        add("__main__.py", b"import sys\nfrom bench.agent.device import main\nmain(sys.argv[1:])\n")
        add("bench/__init__.py", b"")
        for name, data in sorted(_sources(package, "bench/agent/")):
            add(name, data)
    return buffer.getvalue()


def _sources(folder: Any, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry.read_bytes()


class Workspace:
    """What we keep and run on one host. ``python`` is the interpreter there; ``folder`` is ours alone."""

    def __init__(
        self, host: Host, python: str = "python3", folder: str = DEFAULT, patience: float = PATIENCE
    ) -> None:
        self.host, self.python, self.patience = host, python, patience
        self.folder = folder
        self._sent: set[str] = set()
        self._agent = ""

    # --- the agent

    def _command(self, *arguments: str) -> list[str]:
        return [self.python, self._agent, *arguments]

    def prepare(self) -> None:
        """Make the folder and send the agent, once; later calls do nothing.

        Raises:
            UsageError: the folder is another's: it holds files, and not the mark that this leaves in an empty one.
            HostUnreachable, HostRefused, CommandFailed, HostTimeout: see :meth:`bench.hosts.base.Host.exec`.
        """
        if self._agent:
            return
        data = agent_file()
        made = self.host.exec(
            [self.python, "-c", _PREPARE, self.folder, hashlib.sha256(data).hexdigest()[:16], str(len(data))],
            ANSWER,
        )
        try:
            answer = json.loads(made.stdout)
            if answer["foreign"]:
                raise UsageError(
                    f"The folder {answer['folder']} on {self.host.name} is no workspace of edgefit, and not empty",
                    todo="Give it a folder of its own: bench hosts add NAME ADDRESS --workspace FOLDER",
                )
            self.folder, there = str(answer["folder"]), bool(answer["there"])
        except (ValueError, KeyError, TypeError) as error:
            raise CommandFailed(
                f"{self.python} on {self.host.name} answered nonsense", made.stdout[:200]
            ) from error
        path = str(PurePosixPath(self.folder, f"agent-{hashlib.sha256(data).hexdigest()[:16]}", AGENT))
        if not there:
            self.put_bytes(data, path)
        self._agent = path

    def put_bytes(self, data: bytes, remote: str) -> None:
        """Write a small file on the host. Raises as :meth:`bench.hosts.base.Host.put`."""
        with tempfile.NamedTemporaryFile(prefix="edgefit-") as file:
            file.write(data)
            file.flush()
            self.host.put(Path(file.name), remote)

    def ask(self, command: str, question: Any) -> Any:
        """One command of the agent, JSON in and out. Raises as :meth:`bench.hosts.base.Host.exec`."""
        self.prepare()
        done = self.host.exec(self._command(command), ANSWER, stdin=json.dumps(question).encode())
        try:
            return json.loads(done.stdout)
        except ValueError as error:
            raise CommandFailed(
                f"The agent on {self.host.name} answered nonsense", done.stdout[:200] or done.stderr[-200:]
            ) from error

    def look(
        self, packages: Sequence[str], modules: Sequence[str] = (), programs: Sequence[str] = ()
    ) -> Json:
        """What the machine says of itself (:func:`bench.agent.look.look`)."""
        asked = {
            "files": FILES,
            "packages": list(packages),
            "modules": list(modules),
            "programs": list(programs),
        }
        found: Json = self.ask("look", asked)
        return found

    # --- files

    def upload(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Bring files (sha256 -> path) to the host; returns where each is there. Nothing is sent twice."""
        self.prepare()
        places = {
            sha: str(PurePosixPath(self.folder, "objects", sha + "".join(path.suffixes[-1:])))
            for sha, path in files.items()
        }
        missing = {places[sha]: path for sha, path in files.items() if sha not in self._sent}
        if missing:
            there = set(self.ask("have", {place: path.stat().st_size for place, path in missing.items()}))
            for place, path in missing.items():
                if place not in there:
                    self.patiently(lambda place=place, path=path: self.host.put(path, place))  # type: ignore[misc]
        self._sent.update(files)
        return places

    def patiently(self, work: Callable[[], Any], notify: Notify = lambda *_: None) -> Any:
        """Do something over a line that may be cut: again, until it is done or the line stays away."""
        since, tries = time.monotonic(), 0
        while True:
            begun = time.monotonic()
            try:
                return work()
            except (HostUnreachable, HostTimeout) as error:
                now = time.monotonic()
                if now - begun > LASTED:  # the line was there in between
                    since, tries = now, 0
                if now - since > self.patience:
                    raise
                notify(
                    "warning", {"text": f"the line to {self.host.name} was cut ({error.what}); trying again"}
                )
                time.sleep(RETRY[min(tries, len(RETRY) - 1)])
                tries += 1

    # --- jobs

    def run(self, key: str, job: Json, notify: Notify, outdir: Path) -> Json:
        """Carry out a job of the agent and fetch what it left into ``outdir``; returns ``observed.json``.

        The job has a name, so that after a cut line, here or between two runs, it is joined and not begun again.

        Raises:
            WorkerError: the worker on the device did not do its job.
            HostUnreachable: the line stayed away for ``patience`` seconds; the job goes on there.
        """
        self.prepare()
        folder = str(PurePosixPath(self.folder, "jobs", key))
        asked = {**job, "workspace": self.folder, "env": {**job["env"], "PYTHONPATH": self._agent}}
        state = {"offset": 0}
        over = self.patiently(lambda: self._follow(folder, asked, state, notify), notify)
        self._fetch(folder, outdir, notify)
        if over["failed"]:
            runtime = job["job"]["runtime"]
            raise WorkerError(
                f"The {runtime} worker on {self.host.name} {over['failed']}", over.get("stderr", "")
            )
        return _json(outdir / "observed.json")

    def _follow(self, folder: str, asked: Json, state: dict[str, int], notify: Notify) -> Json:
        """Listen to a job from where we left off, to its last event."""
        with tempfile.TemporaryFile() as messages:
            process = self.host.start(self._command("run", folder, str(state["offset"])), {}, messages)
            try:
                assert process.stdin is not None
                try:
                    process.stdin.write(json.dumps(asked).encode())
                    process.stdin.close()
                except OSError:
                    pass  # why it went is told below
                for line in _lines(process):
                    event = _event(line)
                    kind = event.get("event")
                    if kind == "job" and event.get("state") == "started":
                        state["offset"] = 0
                    if kind == "lost":
                        raise WorkerError(
                            f"The measurement on {self.host.name} died with its supervisor (a restart, or out of memory)"
                        )
                    if kind in ("job", "beat"):
                        continue
                    state["offset"] += len(line)
                    if kind == "over":
                        return event
                    if kind == "waiting":
                        notify("log", {"text": f"{self.host.name} is busy with another measurement; waiting"})
                    elif isinstance(kind, str):
                        notify(kind, {k: v for k, v in event.items() if k != "event"})
            finally:
                _end(process)
            messages.seek(0)
            words = messages.read()[-2000:].decode(errors="replace").strip()
        raise HostUnreachable("The line ended before the job did", words)

    def _fetch(self, folder: str, outdir: Path, notify: Notify) -> None:
        """What the job left; only the files we know, none of them a link, all of them untrusted."""
        with tempfile.TemporaryDirectory(prefix="edgefit-") as temporary:
            packed = Path(temporary, PACKED)
            self.patiently(lambda: self.host.get(str(PurePosixPath(folder, PACKED)), packed), notify)
            try:
                with tarfile.open(packed) as tar:
                    for member in tar:
                        source = tar.extractfile(member) if member.isreg() else None
                        if member.name in OUTPUTS and source is not None:
                            (outdir / member.name).write_bytes(source.read())
            except tarfile.TarError as error:
                raise WorkerError(f"What {self.host.name} sent back is damaged", str(error)) from error

    def clean(self, days: float = 30.0, most_bytes: int = 2_000_000_000) -> Json:
        """Remove what was not used for so long, then the oldest; ``removed``, ``freed_bytes``, ``left_bytes``, ``busy``."""
        found: Json = self.ask("clean", {"workspace": self.folder, "days": days, "most_bytes": most_bytes})
        self._sent.clear()
        return found


_PREPARE = (
    "import json,os,sys;f=os.path.abspath(sys.argv[1]);a=os.path.join(f,'agent-'+sys.argv[2]);"
    f"m=os.path.join(f,'{MARK}');"
    "o=os.path.isdir(f) and not os.path.isfile(m) and [n for n in os.listdir(f) if not n.startswith('check-')];"
    "o or [os.makedirs(p,0o700,exist_ok=True) for p in (a,os.path.join(f,'objects'),os.path.join(f,'jobs'))];"
    "o or open(m,'a').close();"
    f"p=os.path.join(a,'{AGENT}');"
    "t=os.path.isfile(p) and os.path.getsize(p)==int(sys.argv[3]);"
    "print(json.dumps({'folder':f,'foreign':bool(o),'there':t}))"
)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Lines with their ends until the line is closed; silence for ``SILENCE`` seconds counts as that."""
    arrived: queue.Queue[bytes] = queue.Queue()
    stream = process.stdout
    assert stream is not None

    def read() -> None:
        for line in iter(lambda: stream.readline(MOST_LINE), b""):
            arrived.put(line)
        arrived.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = arrived.get(timeout=SILENCE)
        except queue.Empty:
            return
        if not line.endswith(b"\n"):  # the end, or a line cut in the middle: it will be told again
            return
        yield line


def _event(line: bytes) -> Json:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _json(path: Path) -> Json:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WorkerError(f"The device sent no usable {path.name}", str(error)) from error
    if not isinstance(found, dict):
        raise WorkerError(f"The device sent no usable {path.name}", f"{type(found).__name__}")
    return found


def environment_of(seen: Json) -> Json:
    """:func:`bench.measure.environment.describe` of the machine that :meth:`Workspace.look` saw."""
    from bench.measure import environment

    with laid_out(seen["files"]) as root:
        return environment.describe(root=root, own=seen["own"])


def open_workspace(device: Device) -> Workspace:
    """The workspace on a device of the inventory, or at an address."""
    return Workspace(open_host(device.address), device.python, device.workspace)


def facts_of(host: Host) -> Json:
    """The environment of a host's machine, by the agent and the host's default Python."""
    from bench.measure.environment import PACKAGES

    return environment_of(Workspace(host).look(PACKAGES))
