"""The commands that say what is known: profiles, runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from bench import errors
from bench.terminal import console, print_json


@click.group(invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """The targets: list, show, validate."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(profiles_list)


@profiles.command("list")
def profiles_list() -> int:
    """Every built-in profile."""
    from rich.table import Column, Table

    from hardware_profiles import load

    table = Table(Column("profile", no_wrap=True), "device", "runtimes", "INT8 scheme", "facts")
    for name, aliases in load.names().items():
        profile = load.load(name)
        label = "\n= ".join((name, *aliases))
        table.add_row(
            label, profile.title, ", ".join(profile.runtimes), profile.int8_scheme, str(len(profile.facts))
        )
    console(stderr=False).print(table)
    return errors.EXIT_DONE


@profiles.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True)
def profiles_show(name: str, as_json: bool) -> int:
    """All that is known of one target, with sources."""
    from rich.table import Table

    from bench.types import to_json
    from hardware_profiles import load

    profile = load.load(name)
    if as_json:
        print_json(to_json(profile))
        return errors.EXIT_DONE
    terminal = console(stderr=False)
    terminal.print(f"[bold]{profile.name}[/bold]: {profile.title}", highlight=False)
    terminal.print(
        f"runtimes {', '.join(profile.runtimes)}; precisions {', '.join(profile.precisions)}; INT8 {profile.int8_scheme}"
    )
    facts = Table("fact", "value", "confidence", "source")
    for key, fact in profile.facts.items():
        facts.add_row(key, str(fact.value), fact.confidence, fact.source)
    if profile.facts:
        terminal.print(facts)
    for mode in profile.power_modes:
        terminal.print(
            "power mode " + ", ".join(f"{k} {v}" for k, v in mode.items() if k != "source"), highlight=False
        )
    for note in profile.notes:
        terminal.print(note, highlight=False)
    return errors.EXIT_DONE


@profiles.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
def profiles_validate(file: Path) -> int:
    """Check a profile file of your own."""
    from hardware_profiles import load

    profile = load.validate(file)
    click.echo(f"{file}: a valid profile of {profile.title} with {len(profile.facts)} facts")
    return errors.EXIT_DONE


@click.command("runtimes")
@click.option("--json", "as_json", is_flag=True)
def list_runtimes(as_json: bool) -> int:
    """What can run models on this machine, and what is missing for the rest."""
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
        table.add_row(f.name, state, f.format, f.int8_scheme, "\n".join(f"{p}: {r}" for p, r in f.refusals))
    console(stderr=False).print(table)
    return errors.EXIT_DONE


COMMANDS = (profiles, list_runtimes)
