"""A runtime on another machine: the same worker and the same figures, the agent in the engine's place beside it."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import WorkerError
from bench.hosts import jetson
from bench.hosts.captured import COUNTERS, laid_out
from bench.hosts.workspace import Workspace, environment_of
from bench.measure.disturbance import Disturbance, compare, snapshot
from bench.measure.environment import PACKAGES
from bench.measure.power.recorded import Meter, meter
from bench.measure.system import cpu_list
from bench.runtimes import RUNTIMES, get, trtexec_
from bench.runtimes.base import CellJob, Probe, Runtime, WorkerResult
from bench.runtimes.listener import Observed
from bench.runtimes.local import LocalRuntime, worker_result
from bench.runtimes.worker import METER_MARGIN, agent_environment, job_json, read_result
from bench.store import file_sha256, write_atomic
from bench.types import Json, Notify, digest

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.measure.power import EnergySource
    from bench.runtimes.worker import Worker

JOB = "job"
"""A file in a cell's folder: the name of its job on the device."""
PROGRAMS = ("tegrastats", "nvpmodel", "jetson_clocks", *trtexec_.PROGRAMS)


@dataclass
class Machine:
    """A machine elsewhere: its workspace and what was seen of it."""

    workspace: Workspace
    seen: Json
    environment: Json
    meters: dict[str, Meter] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Of programs that were asked."""

    @classmethod
    def reach(cls, workspace: Workspace) -> Machine:
        """Send the agent and look around. Raises as :meth:`bench.hosts.base.Host.exec`."""
        return cls(workspace, *_seen(workspace))

    def look_again(self) -> None:
        """After something was changed there."""
        self.seen, self.environment = _seen(self.workspace)

    @property
    def name(self) -> str:
        return self.workspace.host.name

    def meter(self, device: str) -> Meter:
        """The machine's energy source for the work of a device, found once."""
        if device not in self.meters:
            with laid_out(self.seen["files"]) as root:
                self.meters[device] = meter(self.seen["files"], self.seen["programs"], device, root)
        return self.meters[device]

    def runtime(self, name: str) -> RemoteRuntime:
        """A runtime there, by its name here."""
        return RemoteRuntime(get(name), self)


def _seen(workspace: Workspace) -> tuple[Json, Json]:
    local = [r for name in RUNTIMES if isinstance(r := get(name), LocalRuntime)]
    distributions = dict.fromkeys([*PACKAGES, *(d for r in local for d in r.distributions)])
    seen = workspace.look(tuple(distributions), [r.module for r in local], PROGRAMS)
    environment = environment_of(seen)
    board = jetson.describe(workspace.host, seen)
    return seen, environment if board is None else environment | {"jetson": board}


class RemoteRuntime:
    """A runtime of :data:`bench.runtimes.RUNTIMES` on a :class:`Machine`."""

    slow_start = False
    """Workers are started by the agent, one after another."""

    def __init__(self, known: Runtime, machine: Machine) -> None:
        self._known, self._machine = known, machine
        self.name, self.format, self.formats, self.module = (
            known.name,
            known.format,
            known.formats,
            known.module,
        )

    def probe(self, host: Host) -> Probe:
        """See :meth:`bench.runtimes.base.Runtime.probe`; by what the agent saw."""
        if not isinstance(self._known, LocalRuntime) or not self._known.travels:
            return Probe(False, reason=f"{self.name} does not run through the agent")
        return self._known.there(self._machine)

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        """See :meth:`bench.runtimes.base.Runtime.refuse`."""
        return self._known.refuse(precision, environment, device)

    def int8_scheme(self, environment: Json) -> str:
        """See :meth:`bench.runtimes.base.Runtime.int8_scheme`."""
        return self._known.int8_scheme(environment)

    def start(self, host: Host, threads: int = 1, cpus: tuple[int, ...] = ()) -> Worker:
        """There is nothing to start ahead on another machine."""
        raise WorkerError(f"The workers on {self._machine.name} are started by its agent")

    def measure(
        self,
        job: CellJob,
        host: Host,
        notify: Notify,
        worker: Worker | None = None,
        energy: EnergySource | None = None,
    ) -> WorkerResult:
        """See :meth:`bench.runtimes.base.Runtime.measure`; ``host``, ``worker`` and ``energy`` are the machine's own.

        Raises also :class:`bench.hosts.base.HostUnreachable` when the line stays away: the job goes on there, and the same
        job asked for again is joined, not begun again.
        """
        if job.turn_seconds or job.load:
            raise WorkerError(f"Turns and loads are not measured on another machine ({self._machine.name})")
        machine = self._machine
        known = self._known
        worker_name = known.worker_there(machine) if isinstance(known, LocalRuntime) else self.name
        # the rails of a board count its DLAs with everything else
        source = machine.meter("cuda" if job.device.startswith("dla") else job.device)
        files = {job.artifact.sha256: job.path}
        images = file_sha256(job.images) if job.images else ""
        if job.images:
            files[images] = job.images
        places = machine.workspace.upload(files)
        asked = replace(
            job, path=Path(places[job.artifact.sha256]), images=Path(places[images]) if images else None
        )
        order = {
            "job": job_json(asked, worker_name)
            | {"outdir": "", "least_seconds": METER_MARGIN * source.shortest},
            "env": agent_environment(job.threads, job.protocol.cpus),
            "sensor": source.sensor,
            "counters": list(COUNTERS),
            "timeout_seconds": job.protocol.timeout_seconds,
        }
        key = job_name(job.outdir, order)
        try:
            seen = machine.workspace.run(key, order, notify, job.outdir)
        except WorkerError:
            (job.outdir / JOB).unlink()  # asked for again, it is begun again
            raise
        raw = read_result(job.outdir / "result.json", self.name)
        seconds = {
            "start": float(seen.get("start_seconds", 0.0)),
            "total": float(seen.get("total_seconds", 0.0)),
        }
        if worker_name == trtexec_.WORKER:
            return trtexec_.result(raw, job, self.name, seconds)
        window = source.replay(seen.get("sensor", {}), machine.seen["files"])
        observed = Observed(
            peaks={k: int(v) for k, v in seen.get("peaks", {}).items()},
            window=window,
            disturbance=disturbance(seen, machine.environment),
            no_energy=source.reason,
        )
        return worker_result(raw, job, observed, seconds)


def job_name(outdir: Path, order: Json) -> str:
    """A name that lasts as long as the cell's folder: an engine that was killed finds its job again, another run makes its own."""
    path, wanted = outdir / JOB, digest(order)
    with contextlib.suppress(OSError):
        name = path.read_text()
        if name.startswith(wanted):
            return name
    name = f"{wanted}-{secrets.token_hex(8)}"
    write_atomic(path, name.encode())
    return name


def disturbance(seen: Json, environment: Json) -> Disturbance | None:
    """What happened to the machine during the timing, by the counters that the agent read at both gates."""
    gates = seen.get("gates", {})
    if not {"steady", "settled"} <= set(gates):
        return None
    cpus = cpu_list(environment["cpu"]["cpuset"] or "")
    found = []
    for name in ("steady", "settled"):
        with laid_out(gates[name]["files"]) as root:
            found.append(
                replace(snapshot(int(seen["pid"]), root=root, cpus=cpus), at=float(gates[name]["at"]))
            )
    return compare(*found)
