"""The commands that measure a model file, wherever it was made: measure, load, sweep, and the self-test of the machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json
from bench.types import Json, to_json


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """``1,2,4``: whole numbers from 1 to ``most``; each once, in the order given."""

    name = "N,N,..."

    def __init__(self, most: int) -> None:
        self.most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 1,2,4", param, ctx)
        if not all(1 <= n <= self.most for n in numbers):
            self.fail(f"{value!r} goes beyond 1 to {self.most}", param, ctx)
        return numbers


_file = click.argument("file", type=click.Path(path_type=Path))
_runtime = click.option("--runtime", default="", help="Default: the one that takes this kind of file.")
_device = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "tensorrt", "dla0", "dla1"]),
    help="Default: cpu, where the runtime has it.",
)
_data = click.option("--data", default="", help="Feed these images; default: seeded random ones.")
_seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def _answer(document: Json, render: Callable[[Json], str], as_json: bool) -> None:
    """The document on standard output: as it is, or as a person reads it."""
    if as_json:
        print_json(document)
    else:
        click.echo(render(document))


def feeding_options(command: Callable[..., int]) -> Callable[..., int]:
    """How the input of a file made elsewhere is fed: the command gets one ``feeding`` (bench.measure.feeding)."""
    options = (
        click.option(
            "--input-size", default="", metavar="N|HxW", help="Pixels, where the file leaves them free."
        ),
        click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Order of the axes."),
        click.option(
            "--preprocess",
            type=click.Choice(["imagenet", "inception", "raw", "unit"]),
            help="ImageNet mean and std, -1..1, 0..255 or 0..1.",
        ),
        click.option(
            "--range",
            "value_range",
            type=click.Choice(["0..1", "-1..1", "0..255"]),
            help="What black and white become.",
        ),
        click.option("--mean", default="", metavar="M|R,G,B", help="Subtracted; white is 1."),
        click.option("--std", default="", metavar="S|R,G,B", help="Divided by; white is 1."),
        click.option("--resize", type=click.Choice(["stretch", "crop"]), help="Default: stretch."),
        click.option("--label-offset", type=int, help="Output column of the data's first class."),
    )

    @functools.wraps(command)
    def with_feeding(**given: Any) -> int:
        from bench.measure.feeding import parse

        names = ("input_size", "layout", "preprocess", "value_range", "mean", "std", "resize")
        return command(
            feeding=parse(
                **{name: given.pop(name) or "" for name in names}, label_offset=given.pop("label_offset")
            ),
            **given,
        )

    for option in reversed(options):
        with_feeding = option(with_feeding)
    return with_feeding


def _cpus(given: str) -> tuple[int, ...]:
    parts = [p.strip() for p in given.split(",") if p.strip()]
    if not all(p.isdecimal() for p in parts):
        raise errors.UsageError("--cpus wants CPU numbers", given, "For example: --cpus 0,1")
    return tuple(int(p) for p in parts)


@click.command()
@_file
@click.option("--runtime", default="", help="One runtime, or `all` that are here and take this kind of file.")
@click.option("--data", default="", help="Measure accuracy on these images too.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 4096))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option(
    "--processes", default=5, show_default=True, type=click.IntRange(1, 100), help="Fresh processes."
)
@click.option("--cpus", default="", metavar="0,1", help="Pin the workers to these CPUs.")
@click.option(
    "--max-seconds", default=5.0, show_default=True, help="Cap of the timed part, over all processes."
)
@_device
@feeding_options
@_seed
@_json
def measure(
    file: Path, runtime: str, processes: int, cpus: str, max_seconds: float, as_json: bool, **rest: Any
) -> int:
    """Time and weigh one artifact in fresh processes."""
    from bench.measure.artifact import measure_everywhere, measure_file
    from bench.progress import Progress
    from bench.recipe import check_protocol
    from bench.types import Protocol
    from reports.cell import render_cell, render_cells

    protocol = Protocol(
        processes=processes, max_seconds=max_seconds, timeout_seconds=max_seconds + 120, cpus=_cpus(cpus)
    )
    check_protocol(protocol, "options")
    with Progress(console(), quiet=as_json) as progress:
        options = rest | {"protocol": protocol, "notify": progress}
        if runtime == "all":
            found = measure_everywhere(file, **options)
        else:
            found = measure_file(file, runtime=runtime, **options)
    _answer(found, render_cells if runtime == "all" else render_cell, as_json)
    cells = found.get("cells", [found])
    return errors.EXIT_DONE if all(c["status"] == "ok" for c in cells) else errors.EXIT_SOME_FAILED


@click.command()
@_file
@click.option(
    "--scenario",
    required=True,
    type=click.Choice(["single-stream", "multi-stream", "offline", "server"]),
    help="How MLPerf's LoadGen asks.",
)
@click.option("--qps", type=click.FloatRange(0.1), help="server: queries that arrive per second.")
@click.option(
    "--latency-bound",
    "latency_bound_ms",
    default=15.0,
    show_default=True,
    metavar="MS",
    type=click.FloatRange(0.001),
    help="server: what 99% of the queries must keep; MLPerf's bound of ResNet-50 by default.",
)
@click.option(
    "--seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="LoadGen's least duration.",
)
@click.option(
    "--streams",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Instances; offline and server.",
)
@_runtime
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Of each instance."
)
@click.option(
    "--batch",
    default=1,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="At most so many images a call.",
)
@_device
@_data
@feeding_options
@_seed
@_json
def load(
    file: Path, scenario: str, qps: float | None, latency_bound_ms: float, seconds: float, streams: int,
    as_json: bool, **rest: Any,
) -> int:  # fmt: skip
    """One of MLPerf's scenarios on a model file, with LoadGen's own VALID or INVALID.

    \b
    single-stream   one image after the other: 90th percentile of the latency
    multi-stream    queries of 8 images one after the other: 99th percentile
    offline         all images at once: images per second
    server          queries at random times at a given rate: 99th percentile against a bound

    Not an MLPerf submission: those have their own models, data, durations and rules. An INVALID run is a
    result (exit 0) with LoadGen's reasons.
    """
    from bench.measure.load import LoadOptions, load_file
    from bench.progress import Progress
    from reports.load import render_load

    options = LoadOptions(scenario, seconds, streams, qps, latency_bound_ms)
    with Progress(console(), quiet=as_json) as progress:
        found = load_file(file, options, notify=progress, **rest)
    _answer(found, render_load, as_json)
    return errors.EXIT_DONE if found["status"] == "ok" else errors.EXIT_SOME_FAILED


@click.command()
@_file
@click.option("--batches", default="1,2,4,8", show_default=True, type=_Numbers(4096), help="Images a call.")
@click.option(
    "--threads", default="1", show_default=True, type=_Numbers(1024), help="Compute threads of an instance."
)
@click.option(
    "--streams",
    default="1",
    show_default=True,
    type=_Numbers(256),
    help="Instances that work at the same time.",
)
@_runtime
@click.option(
    "--max-seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Cap of the timed part of a setting; several streams take all of it.",
)
@_device
@_data
@feeding_options
@_seed
@_json
def sweep(file: Path, as_json: bool, **rest: Any) -> int:
    """Latency and throughput of a model file at every batch, thread count and number of instances.

    Each setting is a fresh process. What fails has its reason in the table (exit 3), the rest go on.
    """
    from bench.measure.sweep import sweep_file
    from bench.progress import Progress
    from reports.load import render_sweep

    with Progress(console(), quiet=as_json) as progress:
        found = sweep_file(file, notify=progress, **rest)
    _answer(found, render_sweep, as_json)
    failed = any(row["status"] != "ok" for row in found["settings"])
    return errors.EXIT_SOME_FAILED if failed else errors.EXIT_DONE


@click.command("selftest")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_runtime
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option("--comparisons", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--pairs", default=10, show_default=True, type=click.IntRange(8, 1000), help="Of each comparison."
)
@click.option("--gate", default="3%", show_default=True, help="The change that matters.")
@click.option(
    "--simulate",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Instead: N simulated checks of `bench gate` on each of five kinds of machines.",
)
@_seed
@_json
def self_test(gate: str, simulate: int | None, as_json: bool, **options: Any) -> int:
    """A/A: an artifact against itself. How often this machine cries wolf, and what it can see.

    Without FILE a small model of its own is timed on onnxruntime. Each comparison times interleaved
    pairs of fresh processes, as the regression check does; every difference it calls is a false alarm.
    """
    from bench.measure import selftest
    from bench.progress import Progress
    from reports.cell import render_selftest
    from reports.limits import parse_quantity

    if simulate is not None:
        from bench.gate import noise
        from reports.gate import render_simulation

        tallies = noise.table(simulate, options["seed"])
        _answer({"schema": 1, "simulated": to_json(tallies)}, render_simulation, as_json)
        return errors.EXIT_DONE
    with Progress(console(), quiet=as_json) as progress:
        document = selftest.measure_self(gate=parse_quantity(gate, "drop"), notify=progress, **options)
    _answer(document, render_selftest, as_json)
    return errors.EXIT_DONE


COMMANDS = (measure, load, sweep, self_test)
