"""The commands that put an artifact under load: one of MLPerf's scenarios, and a sweep of settings.

Two commands, because their answers differ: a verdict with a percentile, and a table to choose a setting from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json


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
_data = click.option("--data", default="", help="Feed these images; default: seeded random ones.")
_seed = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


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
@_data
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

    options = LoadOptions(scenario, seconds, streams, qps, latency_bound_ms)
    with Progress(console(), quiet=as_json) as progress:
        found = load_file(file, options, notify=progress, **rest)
    if as_json:
        print_json(found)
    else:
        from reports.load import render_load

        click.echo(render_load(found))
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
@_data
@_seed
@_json
def sweep(file: Path, as_json: bool, **rest: Any) -> int:
    """Latency and throughput of a model file at every batch, thread count and number of instances.

    Each setting is a fresh process. What fails has its reason in the table (exit 3), the rest go on.
    """
    from bench.measure.sweep import sweep_file
    from bench.progress import Progress

    with Progress(console(), quiet=as_json) as progress:
        found = sweep_file(file, notify=progress, **rest)
    if as_json:
        print_json(found)
    else:
        from reports.load import render_sweep

        click.echo(render_sweep(found))
    failed = any(row["status"] != "ok" for row in found["settings"])
    return errors.EXIT_SOME_FAILED if failed else errors.EXIT_DONE


COMMANDS = (load, sweep)
