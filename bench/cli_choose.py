"""`bench choose`: the variant to ship."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, open_runs, print_json

_SHORT = {
    "max_latency": "latency<=",
    "max_size": "size<=",
    "max_memory": "memory<=",
    "max_energy": "energy<=",
    "min_accuracy": "accuracy>=",
    "max_drop": "drop<=",
}
"""Options that are limits by another name."""


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--max-latency", help="For example 5ms.")
@click.option("--max-size", help="For example 5MB.")
@click.option("--max-memory", help="For example 50MB.")
@click.option("--max-energy", help="Per image, for example 3mJ.")
@click.option("--min-accuracy", help="For example 0.9 or 90%.")
@click.option("--max-drop", help="Points of accuracy below the reference, for example 1%.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="[TARGET:]METRIC<=VALUE",
    help="On any metric, on all targets or one: 'p99<=20ms', 'pixel-8:latency<=30ms'. Several times.",
)
@click.option(
    "--objective",
    help="What to make best: latency, size, memory, energy, accuracy, ..., or several with weights: "
    "'accuracy + 0.07*latency'. Default: latency where accuracy has a limit, else the knee of the two.",
)
@click.option("--runtime", help="Only this runtime.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A target: local, or the device's name. Several: one variant for all.",
)
@click.option("--batch", type=click.IntRange(1), help="Only this batch size; default: the smallest.")
@click.option("--require-measured", is_flag=True, help="Refuse cells whose values are predicted.")
@click.option(
    "--trust-predictions", is_flag=True, help="Judge predictions by their middle, not by the worse end."
)
@click.option("--json", "as_json", is_flag=True)
def choose(
    runs: tuple[str, ...], limits: tuple[str, ...], objective: str | None, runtime: str | None,
    hosts: tuple[str, ...], batch: int | None, as_json: bool, require_measured: bool, trust_predictions: bool,
    **short: str | None,
) -> int:  # fmt: skip
    """Name the variant to ship under these constraints, and why each other was refused.

    With several runs (or --host several times) one variant is chosen for all targets, by the worst of them; on each
    it runs on the best of the runtimes measured there. What is predicted counts with the worse end of its 90% interval.
    """
    from reports import answer
    from reports import choose as chooser
    from reports.limits import parse_constraints

    if require_measured and trust_predictions:
        raise errors.UsageError("--require-measured and --trust-predictions exclude each other")
    predictions = "refused" if require_measured else "middle" if trust_predictions else "pessimistic"
    typed = [f"{_SHORT[name]}{value}" for name, value in short.items() if value is not None]
    constraints = parse_constraints([*typed, *limits], predictions)
    data = open_runs(runs)
    try:
        choice = chooser.choose(data, constraints, objective, runtime, hosts, batch)
    except errors.NothingFitsError:
        for run in data:
            _forget(run.path)
        raise
    for run in data:
        _keep(run.path, answer.choice_json(choice, run))
    if as_json:
        print_json(answer.choice_json(choice))
    else:
        width = console(stderr=False).width if sys.stdout.isatty() else None
        click.echo(answer.render_choice(choice, width=width))
    return errors.EXIT_DONE


def _forget(run: Path) -> None:
    """An earlier choice is none any more when nothing fits: `bench export --chosen` would ship it."""
    import contextlib

    from bench.deploy.choice import CHOICE

    with contextlib.suppress(OSError):
        (run / CHOICE).unlink(missing_ok=True)


def _keep(run: Path, document: dict[str, Any]) -> None:
    """For `bench export --chosen`; a run that cannot be written to is chosen from all the same."""
    import contextlib
    import json

    from bench.deploy.choice import CHOICE
    from bench.store import write_atomic

    with contextlib.suppress(OSError):
        write_atomic(run / CHOICE, (json.dumps(document, indent=1) + "\n").encode())


COMMANDS = (choose,)
