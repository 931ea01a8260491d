"""What the commands share for talking to the person: results on standard output, the rest on standard error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bench import errors

RUNS = Path("runs")


def console(stderr: bool = True) -> Any:
    """A rich console; imported late because `bench --help` must not pay for it."""
    from rich.console import Console

    return Console(stderr=stderr)


def say(text: str = "") -> None:
    """A line for the person, on standard error."""
    click.echo(text, err=True)


def print_json(document: Any) -> None:
    """The one JSON document of a command, on standard output."""
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def open_run(name: str | None) -> Any:
    """Read a run; what is damaged in it is said."""
    from bench.store import read_run

    data = read_run(find_run(name))
    if data.damaged:
        say(
            f"warning: {len(data.damaged)} damaged record(s) of {data.path} are left out; the same `bench run` makes them again"
        )
    return data


def open_runs(names: tuple[str, ...]) -> list[Any]:
    """The runs of these names, the latest one without any; a run named twice is an error."""
    found = [open_run(name) for name in names or (None,)]
    paths = [run.path.resolve() for run in found]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise errors.UsageError(f"The run {twice} is named twice")
    return found


def find_run(name: str | None) -> Path:
    """A run by path, by its name under ``runs/``, or the latest one."""
    if name is None:
        found = sorted(RUNS.glob("*/manifest.json"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise errors.UsageError(
                "There is no run here", todo="Make one with `bench run`, or name its directory"
            )
        return found[-1].parent
    for path in (Path(name), RUNS / name):
        if (path / "manifest.json").exists():
            return path
    known = [p.parent.name for p in RUNS.glob("*/manifest.json")]
    hint = errors.nearest(name, known) if known else "Make one with `bench run`"
    raise errors.UsageError(f"There is no run {name!r}", todo=hint)
