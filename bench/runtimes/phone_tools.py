"""The vendors' tools that time a model on a phone: how each is called, and what its report says.

Options after LiteRT, tflite/tools/benchmark/README.md and litert/tools/benchmark_litert_model.h, and microsoft/onnxruntime,
onnxruntime/test/perftest/command_args_parser.cc, and pytorch/executorch, examples/portable/executor_runner/executor_runner.cpp.
The tools print statistics of their calls, not the calls; executor_runner logs its calls.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bench.errors import WorkerError
from bench.parsers import benchmark_model, benchmark_result, executor_runner, onnxruntime_perf_test
from bench.types import Protocol, TensorSpec

TFLITE, COMPILED, PERF_TEST = "benchmark_model", "benchmark_litert_model", "onnxruntime_perf_test"
RUNNER = "executor_runner"
RUNTIMES = {"litert": (COMPILED, TFLITE), "onnxruntime": (PERF_TEST,), "executorch": (RUNNER,)}
"""The files that are looked for on a phone, for each runtime in this order."""
ACCELERATORS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        TFLITE: {
            "cpu": ("--use_xnnpack=true",),
            "no-xnnpack": ("--use_xnnpack=false",),
            "gpu": ("--use_gpu=true",),
            "nnapi": ("--use_nnapi=true",),
        },
        COMPILED: {
            "cpu": ("--use_cpu=true",),
            "gpu": ("--use_gpu=true",),
            "npu": ("--use_npu=true",),
        },
        PERF_TEST: {
            "cpu": ("-e", "cpu"),
            "xnnpack": ("-e", "xnnpack"),
            "nnapi": ("-e", "nnapi"),
            "npu": ("-e", "qnn", "-i", "backend_type|htp"),
        },
        RUNNER: {"cpu": ()},
    }
)
"""What each tool can be told to run on."""
NEEDED = MappingProxyType(
    {
        "cpu_threads": "the number of its threads cannot be set",
        "input_shapes": "a program with a free batch runs at its largest",
    }
)
"""Options that older executor_runners lack, and what follows."""
TRIAL = 4
"""Calls of the process that finds out how long one takes, for executor_runner has no limit of time."""
MOST_EXECUTIONS = 500
"""Calls of one process of executor_runner: each is two lines in the phone's log, which keeps 256 KiB of all that is logged."""
NO_ENERGY = {
    RUNNER: "executor_runner writes the largest input it could take before each call: that takes energy, too"
}
"""Why what the power monitors say of a tool's whole run is not what its calls took."""


@dataclass(frozen=True)
class Tool:
    """One tool on a phone. ``version`` is the beginning of its sha256: the tools do not say theirs.

    ``lacks`` are the options of :data:`NEEDED` that its usage does not name.
    """

    kind: str
    path: str
    version: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figures:
    """What one run of a tool says, in ms and MB; ``runs`` are the calls behind the mean, ``calls`` all that it made."""

    avg_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    runs: int | None = None
    calls: int | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    memory_mb: float | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def half_width(self) -> float:
        """Of the mean's 95% interval, relative, as if its calls were independent; 0 where nothing says it."""
        if not self.avg_ms or self.std_ms is None or not self.runs:
            return 0.0
        return 1.96 * self.std_ms / math.sqrt(self.runs) / self.avg_ms


def kind_of(name: str, usage: str) -> str:
    """Which tool a file is. Both of LiteRT's are published as ``benchmark_model``: their options tell them apart."""
    if "perf_test" in name:
        return PERF_TEST
    if RUNNER in name:
        return RUNNER
    return COMPILED if "use_npu" in usage else TFLITE


def lacking(kind: str, usage: str) -> tuple[str, ...]:
    """The options of :data:`NEEDED` that a tool's ``--help``, as gflags writes it, does not list."""
    if kind != RUNNER:
        return ()
    return tuple(name for name in NEEDED if not re.search(rf"^\s*--?{name}\b", usage, re.MULTILINE))


def command(
    tool: Tool,
    model: str,
    result: str,
    threads: int,
    accelerator: str,
    protocol: Protocol,
    batch: int = 1,
    inputs: tuple[TensorSpec, ...] = (),
    often: int = TRIAL,
) -> list[str]:
    """The command line for one process, which may time for ``protocol.max_seconds``, or calls ``often`` (executor_runner).

    Raises:
        WorkerError: the tool does not run on that accelerator, or not with that batch, or lacks an option.
    """
    chosen = ACCELERATORS[tool.kind].get(accelerator)
    if chosen is None:
        known = ", ".join(ACCELERATORS[tool.kind])
        raise WorkerError(f"{tool.kind} does not run on {accelerator!r}", todo=f"It runs on: {known}")
    if tool.kind == RUNNER:
        sizes = _input_shapes(tool, batch, inputs)
        options = [f"--cpu_threads={threads}", f"--num_executions={often}", f"--input_shapes={sizes}"]
        return [tool.path, f"--model_path={model}", *options]
    shape = _shape(tool, batch, inputs)
    if tool.kind == PERF_TEST:
        # -I makes the inputs; a whole number of seconds is the shortest that -t takes
        seconds = str(max(1, math.ceil(protocol.max_seconds)))
        options = ["-I", "-s", "-m", "duration", "-t", seconds, "-x", str(threads), *chosen]
        return [tool.path, *options, model, result]
    return [
        tool.path,
        f"--graph={model}",
        f"--num_threads={threads}",
        f"--num_runs={protocol.min_runs}",
        f"--min_secs={protocol.max_seconds:g}",
        f"--max_secs={protocol.timeout_seconds:g}",
        f"--warmup_min_secs={protocol.warmup_seconds:g}",
        *shape,
        *chosen,
        f"--result_file_path={result}",
    ]


def _shape(tool: Tool, batch: int, inputs: tuple[TensorSpec, ...]) -> list[str]:
    """Options for another batch than the file's own."""
    own = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if batch == (own or 1):
        return []
    if tool.kind != TFLITE or len(inputs) != 1 or None in inputs[0].shape[1:]:
        raise WorkerError(
            f"{tool.kind} runs this file with batch {own or 1} only, not {batch}",
            todo="Leave other batches out for a phone: --set 'protocol.batches=[1]'",
        )
    sizes = ",".join(map(str, (batch, *inputs[0].shape[1:])))
    return [f"--input_layer={inputs[0].name}", f"--input_layer_shape={sizes}"]


def _input_shapes(tool: Tool, batch: int, inputs: tuple[TensorSpec, ...]) -> str:
    """The shape of every input, always said: without it a program runs at its largest batch."""
    if tool.lacks:
        why = "; ".join(f"without --{name} {NEEDED[name]}" for name in tool.lacks)
        todo = "Build executor_runner from a newer ExecuTorch, and see that it answers --help there"
        raise WorkerError(f"{tool.path} does not say that it takes --{tool.lacks[0]}: {why}", todo=todo)
    shapes = [(batch if i.shape[:1] == (None,) else i.shape[0], *i.shape[1:]) for i in inputs if i.shape]
    if not shapes or len(shapes) < len(inputs) or any(None in shape for shape in shapes):
        raise WorkerError(
            f"{RUNNER} has to be told the shape of every input, and this file's are not known",
            todo="Measure a .pte file that `bench export` wrote",
        )
    if any(shape[0] != batch for shape in shapes):
        own = next(shape[0] for shape in shapes if shape[0] != batch)
        raise WorkerError(
            f"This file runs with batch {own} only, not {batch}",
            todo="Leave other batches out: --set 'protocol.batches=[1]'",
        )
    return ",".join("x".join(map(str, shape)) for shape in shapes)


def executions(trial: Figures, protocol: Protocol) -> int:
    """How often a process of executor_runner calls, after a trial: for ``protocol.max_seconds``, and half as long to warm up."""
    if not trial.avg_ms:
        return TRIAL  # the trial failed; so will the first process, and it says why
    wanted = max(protocol.min_runs, protocol.max_seconds * 1000 / trial.avg_ms) * 1.5
    return max(TRIAL, int(min(wanted, MOST_EXECUTIONS, protocol.timeout_seconds * 1000 / trial.avg_ms)))


def figures(tool: Tool, said: str, proto: bytes = b"", status: int = 0) -> Figures:
    """What a run's two streams and its result file say; ``problem`` is why there is no mean."""
    if tool.kind == RUNNER:
        return _runner(said, status)
    return _perf_test(said, status) if tool.kind == PERF_TEST else _litert(said, proto, status)


def _litert(said: str, proto: bytes, status: int) -> Figures:
    run, file = benchmark_model.parse(said), benchmark_result.parse(proto)
    block, stats = run.results, run.inference
    alone = stats.curr_us if stats else None  # all that is printed when every call took the same

    def ms(us: float | None) -> float | None:
        return None if us is None else us / 1000

    def known(*values: float | None) -> float | None:
        return next((v for v in values if v is not None), None)

    runs = known(file.runs, stats.count if stats else None, block.runs if block else None)
    warm = known(
        file.warmup_runs, run.warmup.count if run.warmup else None, block.warmup_runs if block else None
    )
    avg = known(file.avg_ms, ms(known(stats.avg_us, alone)) if stats else None, ms(run.inference_avg_us))
    found = Figures(
        avg_ms=known(avg, block.avg_ms if block else None),
        min_ms=known(file.min_ms, ms(known(stats.min_us, alone)) if stats else None),
        max_ms=known(file.max_ms, ms(known(stats.max_us, alone)) if stats else None),
        std_ms=known(file.std_ms, ms(stats.std_us) if stats else None),
        runs=None if runs is None else int(runs),
        calls=None if runs is None or warm is None else int(runs + warm),
        init_ms=known(file.init_ms, ms(run.init_us), block.init_ms if block else None),
        first_ms=known(
            file.first_inference_ms, ms(run.first_inference_us), block.first_ms if block else None
        ),
        memory_mb=known(
            None if file.overall_footprint_kb is None else file.overall_footprint_kb / 1024,
            run.overall_mb,
            block.overall_mb if block else None,
        ),
        notes=_placement(run),
    )
    return _checked(found, status, run.errors, said)


def _placement(run: benchmark_model.Run) -> tuple[str, ...]:
    """What a delegate left to others."""
    told = [
        f"{d.delegate} took {d.replaced} of {d.total} nodes; the rest fell back to "
        f"{'plain kernels' if 'XNN' in d.delegate.upper() else 'the CPU'}"
        for d in run.delegations
        if d.fell_back
    ]
    told += [
        f"{a.delegate} was asked for and not used: all ran on the CPU" for a in run.applied if a.how == "not"
    ]
    return tuple(dict.fromkeys(told))


def _perf_test(said: str, status: int) -> Figures:
    run = onnxruntime_perf_test.parse(said)

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1000

    found = Figures(
        avg_ms=run.average_ms,
        min_ms=ms(run.min_s),
        max_ms=ms(run.max_s),
        runs=run.requests or run.runs,
        calls=run.requests + 1 if run.requests else None,
        init_ms=ms(run.session_s),
        first_ms=run.first_ms,
        memory_mb=None if run.peak_bytes is None else run.peak_bytes / 1e6,
    )
    return _checked(found, status, run.errors, said)


def _runner(said: str, status: int) -> Figures:
    run = executor_runner.parse(said)
    if not (status or run.executed or run.iterations or run.errors):
        return Figures(
            problem=f"it logged no times: {RUNNER} does so only if built with EXECUTORCH_ENABLE_LOGGING=ON"
        )
    warm_up = (run.planned or 0) // 3
    counted = [ms for at, ms in run.iterations if at > warm_up]
    average = statistics.fmean(counted) if counted else None
    if average is None and run.executions and run.total_ms is not None:
        average = run.total_ms / run.executions
    found = Figures(
        avg_ms=average,
        min_ms=min(counted, default=None),
        max_ms=max(counted, default=None),
        std_ms=statistics.stdev(counted) if len(counted) > 1 else None,
        runs=len(counted) or run.executions,
        calls=run.executions,
        init_ms=run.load_ms,
        first_ms=next((ms for at, ms in run.iterations if at == 1), None),
        notes=_of_runner(run),
    )
    return _checked(found, status, run.errors, said)


def _of_runner(run: executor_runner.Run) -> tuple[str, ...]:
    """What to know of executor_runner's figures."""
    told = [f"fed with ones by {RUNNER}, which writes them anew before each call, untimed"]
    if run.iterations:
        told.append("the first third of the calls warms up and is not counted")
        kept, planned = len(run.iterations), run.planned or 0
        told += [f"the log has {kept} of the {planned} calls"] if kept < planned else []
    else:
        told.append(f"this {RUNNER} logs no single calls: those that warm up are in the mean")
    # its line on threads comes before the one on the file: a log that has lost both says nothing of them
    if run.threads is None and run.model is not None:
        told.append(f"this {RUNNER} does not say its threads: one without a thread pool runs on one")
    if run.etdump is not None:
        told.append(
            f"this {RUNNER} traces every operator, and that takes time: build one without EVENT_TRACER"
        )
    return tuple(told)


def _checked(found: Figures, status: int, errors: tuple[str, ...], said: str) -> Figures:
    last = next((line.strip() for line in reversed([*said.splitlines()]) if line.strip()), "no message")
    why = "; ".join(errors[:2]) or last
    if status:
        return Figures(problem=f"it ended with status {status}: {why}"[:300])
    if not found.avg_ms or found.avg_ms <= 0:
        return Figures(problem=f"it printed no mean time: {why}"[:300])
    return found
