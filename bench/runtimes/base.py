"""The words of measuring: a job, a probe, a result, and the Protocol that every runtime satisfies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Interface

from bench.types import Artifact, Json, Notify, Protocol, Quantity

if TYPE_CHECKING:
    from bench.hosts.base import Host
    from bench.measure.power import EnergySource, Window
    from bench.runtimes.worker import Worker


@dataclass(frozen=True)
class Probe:
    """Is a runtime there? If not: why, and what to do. Found without importing the runtime."""

    available: bool
    version: str = ""
    reason: str = ""
    remedy: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellJob:
    """Everything a worker needs to measure one cell.

    Args:
        artifact: description of the file. ``inputs`` may be empty (a file made elsewhere): the
            runtime's own description is used then.
        path: the file itself.
        outdir: an existing folder for ``result.json``, ``samples.npy``, ``warmup.npy``, ``outputs.npy``.
        batch: images per call.
        threads: compute threads of the runtime.
        device: ``cpu``, ``cuda``, ``tensorrt``, ``dla0`` or ``dla1``; one of the probe's devices.
        protocol: when to stop.
        images: a ``.npy`` of uint8 (N, H, W, C), already resized as the artifact's preprocessing says;
            None feeds seeded random images, and the result says so.
        exact: INT8 in exact arithmetic (onnxruntime without graph optimisations): for the accuracy on a
            device whose kernels do not saturate where this CPU's would; not for timing.
        predict: also run all of ``images`` through the artifact and keep the logits.
        load: a test under load in place of the timing (see :func:`bench.agent.load.run`); its result is read by
            :func:`bench.measure.load.run_load`.
        describe: only load the file and say its input and output (the result's ``runtime``); nothing is timed.
        turn_seconds: 0, or the steady state rests whenever it measured so long: ``notify("turn", {"n"})``, and it goes
            on when that returns (:mod:`bench.measure.turns`). The result's ``runtime["turns"]`` has the sample counts.
    """

    artifact: Artifact
    path: Path
    outdir: Path
    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    protocol: Protocol = field(default_factory=Protocol)
    images: Path | None = None
    predict: bool = True
    exact: bool = False
    load: Json | None = None
    describe: bool = False
    turn_seconds: float = 0.0


@dataclass(frozen=True)
class WorkerResult:
    """What a worker found.

    ``failed`` (with a reason) is an artifact or option the runtime could not run; a worker that
    crashed, hung or answered nonsense is a WorkerError instead.

    ``metrics`` always has the keys ``latency_ms p90_ms p95_ms p99_ms throughput_ips first_call_ms
    load_ms memory_mb energy_mj size_bytes``; what there is none of is missing with its reason.
    Latencies are of one call, whatever its batch; ``energy_mj`` is per image.

    Attributes:
        samples: ``.npy`` float64 (n,), seconds per call in the steady state.
        warmup: the same for the warm-up.
        outputs: ``.npy`` float32 (N, classes), the logits of all images; None without ``predict``.
        stopped: why the steady state ended: the interval was narrow enough, or the cap was reached.
        seconds: wall-clock seconds of each phase: ``start`` (process start and import, waiting
            included), ``inputs load first warmup steady predict``, and ``total``.
        window: the energy window around the steady state.
        runtime: what the runtime said about itself: version, providers, threads, copies, clock, inputs, outputs.
    """

    status: Literal["ok", "failed"]
    reason: str
    metrics: dict[str, Quantity]
    samples: Path | None = None
    warmup: Path | None = None
    outputs: Path | None = None
    stopped: Literal["interval", "cap", ""] = ""
    seconds: dict[str, float] = field(default_factory=dict)
    runtime: Json = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    window: Window | None = None


class Runtime(Interface):
    """What runs an artifact. Implementations are tiny: the work is in the shared worker."""

    @property
    def name(self) -> str:
        """The name in cells and on the command line: ``torch``, ``onnxruntime``, ``openvino``."""

    @property
    def format(self) -> str:
        """The artifact format that our exports make for it: ``pt2``, ``onnx``, ``tflite``, ``pte``."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Every format it takes: files made elsewhere come in more than our exports do."""

    @property
    def module(self) -> str:
        """The Python module whose presence makes it available."""

    @property
    def slow_start(self) -> bool:
        """Does its import take seconds? Its workers are then started before the first cell is timed."""

    def probe(self, host: Host) -> Probe:
        """Available, or why not and what to do. Imports nothing heavy, takes milliseconds."""

    def refuse(self, precision: str, environment: Json, device: str = "cpu") -> str:
        """Why this precision is not run here, or an empty string when it is.

        ``environment`` is ``bench.measure.environment.describe()``'s dict.
        """

    def int8_scheme(self, environment: Json) -> str:
        """The export scheme for INT8 on this machine: ``u8s8``, ``u8s8-7bit`` or ``litert``."""

    def start(self, host: Host, threads: int = 1, cpus: tuple[int, ...] = ()) -> Worker:
        """Start a worker that imports the runtime and waits for its one job.

        Call it for the next cell while the present one is in its untimed ``predict`` phase
        (``notify("phase", {"name": "predict"})``), and hand it to :meth:`measure`, or close it.
        """

    def measure(
        self,
        job: CellJob,
        host: Host,
        notify: Notify,
        worker: Worker | None = None,
        energy: EnergySource | None = None,
    ) -> WorkerResult:
        """Measure one cell in a fresh process.

        ``worker`` is one made by :meth:`start`; it is replaced when it died or has another thread
        count, and is always used up. ``notify`` gets ``("phase", {"name", "memory_kb"})`` and
        ``("progress", {"n", "median_ms", "half_width"})``. ``energy`` (not closed here) is read
        around the steady state.

        Raises:
            WorkerError: the worker crashed, hung or answered nonsense. KeyboardInterrupt passes
                through. In every case no process is left behind.
        """
