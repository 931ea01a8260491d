"""Runtimes on an Android phone: a vendor's tool times the file there, in fresh processes; nothing of ours runs on it."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bench.errors import UsageError, nearest
from bench.hosts import open_host, phone
from bench.hosts.adb_client import HOME
from bench.hosts.base import CommandFailed
from bench.measure.latency import UNITS, all_missing, throughput
from bench.parsers.odpm import Energies
from bench.runtimes import get
from bench.runtimes.base import CellJob, Probe, Runtime, WorkerResult
from bench.runtimes.phone_tools import (
    ACCELERATORS,
    NO_ENERGY,
    PERF_TEST,
    RUNNER,
    RUNTIMES,
    TRIAL,
    Figures,
    Tool,
    command,
    executions,
    figures,
    kind_of,
    lacking,
)
from bench.stats import NEXT_RUN, process_interval
from bench.store import file_sha256
from bench.types import Json, Notify, Protocol, Quantity

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.hosts.inventory import Device

GIVEN = "EDGEFIT_ANDROID_BENCHMARK"
"""The variable that names tools here which are to be used; several are separated as in PATH."""
CHOSEN = "EDGEFIT_ANDROID_ACCELERATOR"
"""The variable that says what a phone's cells run on: cpu (the default), no-xnnpack, xnnpack, gpu, nnapi, npu."""
SHORT = 60.0
IDLE_SECONDS = 2.0
"""The phone at rest, before a cell."""
MOST_SAID = 20_000
MOST_RESULT = 1_000_000
HASH = 'if [ -f "$1" ]; then sha256sum <"$1" | cut -c 1-64; fi'
FIND = 'for path in "$@"; do if [ -f "$path" ]; then sha256sum -- "$path"; fi; done'
# the tool's library may lie beside it
RUN = 'cd "$(dirname "$1")" && LD_LIBRARY_PATH=".:$LD_LIBRARY_PATH" exec "$@" 2>&1'
# ExecuTorch built for Android logs to the phone's log, where the process is told from others by its number; a build for
# POSIX logs to standard error. `-v tag` keeps each line's level. The last lines take a moment to reach the log.
RUN_LOGGED = """
cd "$(dirname "$1")" || exit
LD_LIBRARY_PATH=".:$LD_LIBRARY_PATH" exec "$@" 2>&1 &
pid=$!
wait "$pid"
status=$?
sleep 0.3
logcat -b main -d -v tag --pid="$pid" -s ExecuTorch:V 2>/dev/null
exit "$status"
"""


@dataclass
class Phone:
    """A phone: what it says of itself and the tools on it. It has no ``workspace``, for no agent runs there."""

    host: Host
    environment: Json
    folder: str = phone.WORKSPACE
    accelerator: str = "cpu"
    tools: dict[str, Tool] = field(default_factory=dict)
    workspace: None = None

    @classmethod
    def reach(cls, device: Device) -> Phone:
        """Look at the phone, send the tools that ``EDGEFIT_ANDROID_BENCHMARK`` names, and find those that are there.

        Raises:
            UsageError: one of the two variables makes no sense. And as :meth:`bench.hosts.base.Host.exec`.
        """
        chosen = os.environ.get(CHOSEN, "") or "cpu"
        known = sorted({name for options in ACCELERATORS.values() for name in options})
        if chosen not in known:
            raise UsageError(f"{CHOSEN}: no phone runs on {chosen!r}", todo=nearest(chosen, known))
        given = [Path(p) for p in os.environ.get(GIVEN, "").split(os.pathsep) if p]
        for path in given:
            if not path.is_file():
                raise UsageError(f"{GIVEN}: there is no file {path}", todo="Name the tool built for Android")
        host = open_host(device.address)
        found = cls(host, phone.describe(host), phone.folder_of(device), chosen)
        found.tools = found.find_tools(given)
        return found

    @property
    def name(self) -> str:
        return self.host.name

    def runtime(self, name: str) -> PhoneRuntime:
        """A runtime there, by its name here."""
        return PhoneRuntime(get(name), self)

    def upload(self, path: Path, remote: str, mode: str = "644") -> None:
        """Bring a file there, unless that very file is there. Raises as :meth:`bench.hosts.base.Host.put`."""
        there = self.host.exec(["sh", "-c", HASH, "sh", remote], SHORT).stdout.strip()
        if there != file_sha256(path):
            self.host.put(path, remote)
        self.host.exec(["chmod", mode, remote], SHORT)

    def find_tools(self, given: Sequence[Path] = ()) -> dict[str, Tool]:
        """Runtime -> its tool: one that is ``given`` here, else one of the vendors' names in ``/data/local/tmp`` or our folder."""
        places = []
        for path in given:
            remote = f"{self.folder}/tools/{file_sha256(path)[:16]}/{path.name}"
            self.upload(path, remote, "755")
            places.append(remote)
        names = [name for names in RUNTIMES.values() for name in names]
        places += [f"{folder}/{name}" for folder in (HOME, self.folder) for name in names]
        listed = self.host.exec(["sh", "-c", FIND, "sh", *places], SHORT).stdout
        found: dict[str, Tool] = {}
        for line in listed.splitlines():
            sha, _, there = line.partition("  ")
            usage = self.host.exec(["sh", "-c", RUN, "sh", there, "--help"], SHORT, check=False).stdout
            kind = kind_of(PurePosixPath(there).name, usage)
            runtime = next(name for name, kinds in RUNTIMES.items() if kind in kinds)
            found.setdefault(runtime, Tool(kind, there, sha[:12], lacking(kind, usage)))
        return found


class PhoneRuntime:
    """A runtime of :data:`bench.runtimes.RUNTIMES` on a :class:`Phone`."""

    slow_start = False

    def __init__(self, known: Runtime, machine: Phone) -> None:
        self._known, self._phone = known, machine
        self.name, self.format, self.formats = known.name, known.format, known.formats

    def probe(self, host: Host) -> Probe:
        """See :meth:`bench.runtimes.base.Runtime.probe`; by the tools that were found."""
        tool, chosen = self._phone.tools.get(self.name), self._phone.accelerator
        if self.name not in RUNTIMES:
            return Probe(False, reason=f"{self.name} has no tool that runs on a phone")
        names = " or ".join(reversed(RUNTIMES[self.name]))
        if tool is None:
            remedy = f"Name one built for Android in {GIVEN}, or: adb push {RUNTIMES[self.name][-1]} {HOME}/"
            return Probe(False, reason=f"there is no {names} on {self._phone.name}", remedy=remedy)
        if chosen not in ACCELERATORS[tool.kind]:
            known = ", ".join(ACCELERATORS[tool.kind])
            return Probe(False, reason=f"{tool.kind} does not run on {chosen}", remedy=f"{CHOSEN}: {known}")
        return Probe(True, version=tool.version, devices=(chosen,))

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        """See :meth:`bench.runtimes.base.Runtime.refuse`."""
        if device in ("gpu", "nnapi", "npu") and precision == "fp16":
            return ""
        return self._known.refuse(precision, environment)

    def int8_scheme(self, environment: Json) -> str:
        """See :meth:`bench.runtimes.base.Runtime.int8_scheme`."""
        return self._known.int8_scheme(environment)

    def measure_cell(self, job: CellJob, notify: Notify) -> WorkerResult:
        """Time the file in ``job.protocol.processes`` fresh processes; ``runtime`` has ``before`` and ``after`` of the phone.

        Raises:
            WorkerError: the tool does not take the job. And as :meth:`bench.hosts.base.Host.exec`.
        """
        machine, tool = self._phone, self._phone.tools[self.name]
        begin = time.monotonic()
        model = f"{machine.folder}/objects/{job.artifact.sha256}{job.path.suffix}"
        machine.upload(job.path, model)
        often = self._executions(tool, model, job)
        before = phone.state(machine.host)
        idle, reason = (0.0, NO_ENERGY[tool.kind]) if tool.kind in NO_ENERGY else self._idle()
        runs: list[tuple[Figures, Json]] = []
        joules: list[float] = []
        for i in range(job.protocol.processes):
            notify("process", {"n": i + 1, "of": job.protocol.processes})
            first = phone.energies(machine.host)[0]
            found, raw = self._once(tool, model, job, often)
            if found.problem:
                metrics = all_missing(found.problem)
                return WorkerResult("failed", f"{tool.kind}: {found.problem}", metrics, runtime={"raw": raw})
            runs.append((found, raw))
            spent = _spent(first, phone.energies(machine.host)[0])
            if spent is not None and found.calls:
                joules.append((spent[0] - idle * spent[1]) / (found.calls * job.batch))
        after = phone.state(machine.host)
        metrics = summed_up([f for f, _ in runs], job, tool)
        metrics["energy_mj"] = _energy(joules, len(runs), reason)
        notes = [note for f, _ in runs for note in f.notes]
        notes += [
            f"{when}: {text}"
            for when, s in (("before", before), ("after", after))
            for text in phone.warnings(s)
        ]
        return WorkerResult(
            "ok",
            "",
            metrics,
            stopped="cap",
            seconds={"total": time.monotonic() - begin},
            runtime={
                "tool": tool.kind,
                "version": tool.version,
                "accelerator": job.device,
                "before": before,
                "after": after,
                "processes": [_own(f, raw) for f, raw in runs],
            },
            notes=tuple(dict.fromkeys(notes)),
        )

    def _executions(self, tool: Tool, model: str, job: CellJob) -> int:
        """How often each process of executor_runner is to call; the other tools end by the clock."""
        if tool.kind != RUNNER:
            return 0
        return executions(self._once(tool, model, job, TRIAL)[0], _share(job.protocol))

    def _once(self, tool: Tool, model: str, job: CellJob, often: int) -> tuple[Figures, Json]:
        """One process of the tool: its figures, and what it said."""
        host, protocol = self._phone.host, _share(job.protocol)
        result = f"{self._phone.folder}/result"
        inputs = job.artifact.inputs
        argv = command(tool, model, result, job.threads, job.device, protocol, job.batch, inputs, often)
        host.exec(["rm", "-f", "--", result], SHORT)
        script = RUN_LOGGED if tool.kind == RUNNER else RUN
        done = host.exec(["sh", "-c", script, "sh", *argv], protocol.timeout_seconds + SHORT, check=False)
        proto = self._fetch(result) if tool.kind not in (PERF_TEST, RUNNER) else b""
        raw = {"command": argv, "status": done.returncode, "said": done.stdout[-MOST_SAID:]}
        raw |= {"result": base64.b64encode(proto).decode()} if proto else {}
        return figures(tool, done.stdout, proto, done.returncode), raw

    def _fetch(self, remote: str) -> bytes:
        """The tool's result file; older tools write none."""
        with tempfile.TemporaryDirectory(prefix="edgefit-") as folder:
            local = Path(folder, "result")
            try:
                self._phone.host.get(remote, local, MOST_RESULT)
            except CommandFailed:
                return b""
            return local.read_bytes()

    def _idle(self) -> tuple[float, str]:
        """What the phone takes at rest in W, and why it is not known."""
        first, reason = phone.energies(self._phone.host)
        if reason:
            return 0.0, reason
        time.sleep(IDLE_SECONDS)
        spent = _spent(first, phone.energies(self._phone.host)[0])
        return (0.0, "its power monitors stand still") if spent is None else (spent[0] / spent[1], "")


def _share(protocol: Protocol) -> Protocol:
    """What one process has of a cell's time."""
    return replace(protocol, max_seconds=protocol.max_seconds / protocol.processes)


def _spent(before: Energies, after: Energies) -> tuple[float, float] | None:
    """(J, s) of all rails between two readings, by the phone's clock; None when no clock went on or a counter went back."""
    old = {(rail.device, rail.name): rail for rail in before.rails}
    pairs = [(old[key], rail) for rail in after.rails if (key := (rail.device, rail.name)) in old]
    pairs = [(a, b) for a, b in pairs if b.at_ms > a.at_ms]
    if not pairs or any(b.energy_uws < a.energy_uws for a, b in pairs):
        return None
    joules = sum(b.energy_uws - a.energy_uws for a, b in pairs) * 1e-6
    return joules, max(b.at_ms - a.at_ms for a, b in pairs) * 1e-3


def summed_up(runs: Sequence[Figures], job: CellJob, tool: Tool) -> dict[str, Quantity]:
    """The metrics of a cell from the figures of its processes."""
    why = (
        "has its calls in a log that may lose some"
        if tool.kind == RUNNER
        else "prints statistics of its calls, not the calls"
    )
    metrics = all_missing(f"{tool.kind} {why}")
    counts = ", ".join("?" if f.runs is None else str(f.runs) for f in runs)
    mean = f"mean over n runs that {tool.kind} prints (n: {counts}) on {job.device}"
    latency = _over(runs, "avg_ms", "ms", mean, within=max(f.half_width for f in runs))
    of = "peak of the whole process" if tool.kind == PERF_TEST else "footprint since the tool's start"
    metrics |= {
        "latency_ms": latency,
        "throughput_ips": _throughput(latency, job.batch),
        "load_ms": _over(runs, "init_ms", "ms", f"initialization that {tool.kind} prints"),
        "first_call_ms": _over(runs, "first_ms", "ms", f"first inference that {tool.kind} prints"),
        "memory_mb": _over(runs, "memory_mb", "MB", f"{of} that {tool.kind} prints"),
        "device_memory_mb": Quantity.missing("a phone's memory is one", UNITS["device_memory_mb"]),
        "size_bytes": Quantity(
            job.path.stat().st_size, "bytes", n=1, provenance="measured", method="size of the file"
        ),
    }
    return metrics


def _over(runs: Sequence[Figures], name: str, unit: str, what: str, within: float = 0.0) -> Quantity:
    values = [v for f in runs if (v := getattr(f, name)) is not None]
    if len(values) < len(runs):
        return Quantity.missing("the tool did not print it", unit)
    if len(values) > 1 and min(values) > 0:
        value, low, high = process_interval(values, within=within)
        method = f"{what}; median of {len(values)} processes; {NEXT_RUN}"
        return Quantity(value, unit, low, high, len(values), "measured", method)
    value = sorted(values)[len(values) // 2]
    least, most = (value * (1 - within), value * (1 + within)) if within else (None, None)
    told = (
        "; interval from the printed standard deviation, as if the calls were independent" if within else ""
    )
    return Quantity(value, unit, least, most, len(values), "measured", f"{what}, one process{told}")


def _throughput(latency: Quantity, batch: int) -> Quantity:
    if latency.value is None or latency.low is None:
        return Quantity.missing(latency.reason or "the latency has no interval", "images/s")
    found = throughput(latency, batch)
    return Quantity.from_json({**found.to_json(), "method": "batch / mean call, one stream"})


def _energy(joules: Sequence[float], processes: int, reason: str) -> Quantity:
    """Per image, in mJ."""
    unit = UNITS["energy_mj"]
    if reason or len(joules) < processes:
        return Quantity.missing(reason or "the power monitors or the count of calls were not read", unit)
    if min(joules) <= 0:
        return Quantity.missing("the phone took no more than at rest: the runs are too short", unit)
    values = [1000 * j for j in joules]
    what = "all rails of the power monitors (ODPM) over the tool's whole run, loading and warm-up included, less idle, per image"
    if len(values) == 1:
        return Quantity(values[0], unit, None, None, 1, "measured", f"{what}; one process")
    value, low, high = process_interval(values)
    return Quantity(value, unit, low, high, len(values), "measured", f"{what}; {NEXT_RUN}")


def _own(found: Figures, raw: Json) -> Json:
    """What is kept of one process, its own report included."""
    return {
        "values": {
            "latency_ms": found.avg_ms,
            "load_ms": found.init_ms,
            "first_call_ms": found.first_ms,
            "memory_mb": found.memory_mb,
        },
        "half_width": found.half_width,
        "calls": found.runs,
        "printed": {
            "avg_ms": found.avg_ms,
            "min_ms": found.min_ms,
            "max_ms": found.max_ms,
            "std_ms": found.std_ms,
        },
        "raw": raw,
    }
