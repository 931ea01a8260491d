"""The commands that say what is known of this machine: runtimes, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json


@click.group("runtimes", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def list_runtimes(ctx: click.Context, as_json: bool) -> int:
    """What can run models on this machine, and what is missing for the rest."""
    return _list(as_json) if ctx.invoked_subcommand is None else errors.EXIT_DONE


@list_runtimes.command("install")
@click.argument("name", type=click.Choice(["browser"]))
@click.option(
    "--file", "archive", type=click.Path(path_type=Path), help="The package's archive, fetched by hand."
)
def install_runtime(name: str, archive: Path | None) -> int:
    """Fetch what pip cannot: ONNX Runtime Web, by npm, into ~/.cache/edgefit."""
    from bench.runtimes import install

    if archive is None and install.installed():
        click.echo(f"{install.PINNED} is installed already")
        return errors.EXIT_DONE
    click.echo(f"{install.PINNED} is in {install.install_browser(archive)}")
    return errors.EXIT_DONE


def _list(as_json: bool) -> int:
    from bench.measure import environment
    from bench.preflight import probe_runtimes
    from bench.types import to_json

    facts = probe_runtimes(environment.describe())
    if as_json:
        print_json([to_json(f) for f in facts])
        return errors.EXIT_DONE
    from rich.table import Table

    table = Table("runtime", "state", "takes", "INT8 here", "not run here")
    for f in facts:
        state = f"missing: {f.missing}. {f.remedy}" if f.missing else f"{f.version} on {f.device}"
        table.add_row(
            f.name, state, ", ".join(f.formats), f.int8_scheme, "\n".join(f"{p}: {r}" for p, r in f.refusals)
        )
    console(stderr=False).print(table)
    return errors.EXIT_DONE


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def doctor(as_json: bool) -> int:
    """What on this machine will spoil a measurement, and how to mend it.

    Looks for half a second, changes nothing, and always ends with 0: run the commands it prints
    yourself, if the machine is yours.
    """
    from bench.measure.doctor import examine, look_around
    from bench.types import to_json

    seen = look_around()
    findings = examine(seen)
    if as_json:
        document = {"schema": 1, "findings": findings, "window": seen.window, "environment": seen.environment}
        print_json(to_json(document))
        return errors.EXIT_DONE
    _print_findings(findings)
    return errors.EXIT_DONE


STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def _print_findings(findings: list[Any]) -> None:
    """A line each; commands stand alone and are never cut, so that they can be copied."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    terminal = console(stderr=False)
    wide = max(len(f.check) for f in findings)
    for f in findings:
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=7, no_wrap=True)
        row.add_column(width=wide, no_wrap=True)
        row.add_column(ratio=1)
        row.add_row(Text(f.grade, style=STYLES[f.grade]), Text(f.check), Text(f.text))
        terminal.print(row)
        if f.todo:
            terminal.print(Padding(Text(f.todo), (0, 0, 0, 9)))
        if f.command:
            terminal.print(Text(f"         $ {f.command}", style="bold"), soft_wrap=True)
    bad = [sum(f.grade == grade for f in findings) for grade in ("problem", "warning")]
    said = [f"{n} {what}{'s' * (n != 1)}" for n, what in zip(bad, ("problem", "warning"), strict=True)]
    terminal.print(f"\n{said[0]}, {said[1]}. Nothing was changed.", highlight=False)


COMMANDS = (list_runtimes, doctor)
