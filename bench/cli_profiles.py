"""``bench profiles``: the targets there are, what is known of each, and files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import errors
from bench.terminal import console, print_json, say

if TYPE_CHECKING:
    from bench.types import Fact, Profile

HEADINGS = {
    "local": "this machine",
    "edge-gpu": "boards with a GPU",
    "edge-asic": "boards and sticks with a neural accelerator",
    "arm-cpu": "ARM processors",
    "phone": "phones",
    "server-gpu": "server and desktop GPUs",
    "x86-cpu": "x86 processors",
    "browser": "browsers",
}
LISTED = {"memory_gb": "GB", "memory_bw_gbs": "GB/s", "peak_int8_tops_dense": "TOPS", "tdp_w": "W"}
"""Facts of the list, with their headings."""
FIGURES = {"memory_gb": 8, "memory_bw_gbs": 6, "peak_int8_tops_dense": 6, "tdp_w": 4}
"""Characters that they take."""


@click.group(invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """The targets: list, show, validate, new; what predicts them: calibrate, evaluate."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(profiles_list)


@profiles.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def profiles_list(as_json: bool = False) -> int:
    """Every built-in profile, by kind of device."""
    from hardware_profiles import load

    known = load.every()
    if as_json:
        print_json({"schema": 1, "profiles": [_entry(p) for p in known]})
        return errors.EXIT_DONE
    _print_list(known)
    return errors.EXIT_DONE


def _entry(profile: Profile) -> dict[str, Any]:
    """A profile as ``list --json`` has it: what tells targets apart; ``show`` has the rest."""
    keys = ("name", "aliases", "title", "kind", "host", "runtimes", "precisions", "int8_scheme")
    entry: dict[str, Any] = {key: getattr(profile, key) for key in keys}
    entry["facts"] = {key: profile.facts[key].value for key in LISTED if key in profile.facts}
    return entry | {"power_modes": [mode["name"] for mode in profile.power_modes]}


def _print_list(known: list[Profile]) -> None:
    """Plain lines: rich alone would take as long as everything else."""
    import shutil
    import textwrap

    wide = max(len(p.name) for p in known)
    room = max(shutil.get_terminal_size().columns - wide - 31, 20)
    headings = " ".join(f"{LISTED[key]:>{FIGURES[key]}}" for key in LISTED)
    click.echo(f" {'profile':<{wide}} {'device':<{room}} {headings}")
    for kind in [k for k in HEADINGS if any(p.kind == k for p in known)]:
        click.echo(click.style(f"\n{HEADINGS[kind]}", bold=True))
        for profile in (p for p in known if p.kind == kind):
            also = f" (also {', '.join(profile.aliases)})" if profile.aliases else ""
            first, *more = textwrap.wrap(profile.title + also, room, break_on_hyphens=False)
            figures = [_value(profile.facts[k]) if k in profile.facts else "-" for k in LISTED]
            row = " ".join(f"{figure:>{FIGURES[k]}}" for k, figure in zip(LISTED, figures, strict=True))
            click.echo(f" {profile.name:<{wide}} {first:<{room}} {row}")
            for line in more:
                click.echo(f" {'':<{wide}} {line}")
    click.echo("\nTOPS is peak INT8, dense. Facts and their sources: bench profiles show NAME")


def _value(fact: Fact) -> str:
    values = fact.value if isinstance(fact.value, list) else [fact.value]
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


@profiles.command("show")
@click.argument("name", metavar="PROFILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def profiles_show(name: str, as_json: bool) -> int:
    """All that is known of one target, with sources. PROFILE is a name or a file."""
    from bench.types import to_json
    from hardware_profiles import load

    profile = load.load(name)
    if as_json:
        print_json(to_json(profile))
        return errors.EXIT_DONE
    _print_profile(profile)
    return errors.EXIT_DONE


def _print_profile(profile: Profile) -> None:
    from rich.padding import Padding
    from rich.text import Text

    terminal = console(stderr=False)
    also = f" (also {', '.join(profile.aliases)})" if profile.aliases else ""
    terminal.print(Text.assemble((profile.name, "bold"), f": {profile.title}{also}"))
    terminal.print(
        Text(
            f"{profile.kind}; runtimes {', '.join(profile.runtimes)}; precisions {', '.join(profile.precisions)}; "
            f"INT8 {profile.int8_scheme}; widths in multiples of {_widths(profile)}"
            + (f"; reached by {profile.host}" if profile.host else "")
        )
    )
    sources = _print_facts(terminal, profile)
    _print_modes(terminal, profile)
    if profile.unsupported:
        terminal.print(Text("\nnot supported", style="bold"))
    for what, reason in profile.unsupported.items():
        terminal.print(Padding(Text(f"{what}: {reason}"), (0, 0, 0, 1)))
    if profile.notes:
        terminal.print(Text("\nnotes", style="bold"))
    for note in profile.notes:
        terminal.print(Padding(Text(note), (0, 0, 0, 1)))
    if sources:
        terminal.print(Text("\nsources", style="bold"))
    for number, source in enumerate(sources, 1):
        terminal.print(Padding(Text(f"[{number}] {source}"), (0, 0, 0, 1)))


def _widths(profile: Profile) -> str:
    whole, int8 = profile.kernels(()), profile.kernels(("int8",))
    return f"{whole}, of {int8} in INT8" if int8 != whole and "int8" in profile.precisions else str(whole)


def _print_facts(terminal: Any, profile: Profile) -> list[str]:
    """The table of facts; returns the sources in the order of their numbers."""
    from rich.table import Column, Table
    from rich.text import Text

    from hardware_profiles.load import BETWEEN

    cited = [source for fact in profile.facts.values() for source in fact.source.split(BETWEEN)]
    cited += [source for mode in profile.power_modes for source in mode["source"].split(BETWEEN)]
    sources = list(dict.fromkeys(cited))
    table = Table(
        Column("fact", no_wrap=True), "value", "confidence", "source", box=None, padding=(0, 1, 0, 0)
    )
    for key, fact in profile.facts.items():
        value = _value(fact) + (f" ({fact.note})" if fact.note else "")
        numbers = "".join(f"[{sources.index(source) + 1}]" for source in fact.source.split(BETWEEN))
        table.add_row(Text(f" {key}"), Text(value), fact.confidence, Text(numbers))
    if profile.facts:
        terminal.print()
        terminal.print(table)
    return sources


def _print_modes(terminal: Any, profile: Profile) -> None:
    from rich.table import Table
    from rich.text import Text

    if not profile.power_modes:
        return
    keys = ["id", "cpu_cores", "cpu_mhz", "gpu_tpcs", "gpu_mhz", "memory_mhz", "dla_mhz"]
    keys = [k for k in keys if any(k in mode for mode in profile.power_modes)]
    table = Table("power mode", *(k.replace("_", "\n") for k in keys), box=None, padding=(0, 1, 0, 0))
    for mode in profile.power_modes:
        cells = [f"{mode[k]:.6g}" if k in mode else "max" if k.endswith("mhz") else "-" for k in keys]
        table.add_row(Text(f" {mode['name']}"), *cells)
    terminal.print()
    terminal.print(table)


@profiles.command("validate")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def profiles_validate(files: tuple[Path, ...]) -> int:
    """Check profile files of your own: every problem of every file, with its line."""
    from hardware_profiles import load

    wrong = 0
    for file in files:
        try:
            profile = load.validate(file)
        except errors.ConfigError as err:
            wrong += 1
            say(f"error: {err}")
        else:
            click.echo(f"{file}: a valid profile of {profile.title} with {len(profile.facts)} facts")
    if wrong and len(files) > 1:
        say(f"{wrong} of {len(files)} files are not valid")
    return errors.EXIT_USAGE if wrong else errors.EXIT_DONE


@profiles.command("new")
@click.argument("name")
@click.option("--from-local", is_flag=True, help="Draft it from what this machine says of itself.")
@click.option(
    "--from-host", metavar="HOST", help="... from what a device says: a NAME of `bench hosts`, or ssh://..."
)
def profiles_new(name: str, from_local: bool, from_host: str | None) -> int:
    """Draft NAME.toml from a live device: its processor, memory, GPU, and what a Jetson tells. Nothing is overwritten."""
    from bench import device_facts
    from bench.store import explain_disk_errors
    from hardware_profiles import load
    from hardware_profiles.draft import draft

    path = _new_path(name)
    if from_local == bool(from_host):
        raise errors.UsageError(
            "From which device is not said",
            todo="Add --from-local for this machine, or --from-host ssh://USER@ADDRESS",
        )
    text = draft(name, *device_facts.there(from_host)) if from_host else draft(name, device_facts.here())
    load.from_document(load.parse_toml(text), f"the draft of {name}", text)
    with explain_disk_errors(path):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as err:
            raise errors.UsageError(
                f"{path} is already there", todo="Give another name, or move it away"
            ) from err
    say(f"wrote {path}. Complete it, check it with: bench profiles validate {path}")
    return errors.EXIT_DONE


def _new_path(name: str) -> Path:
    """Where a new profile goes. Raises UsageError where the name or the file is taken or no name at all."""
    from hardware_profiles import load
    from hardware_profiles.check import NAME, shown

    if not NAME.fullmatch(name):
        raise errors.UsageError(
            f"{shown(name)} is no name for a profile",
            todo="Use letters, digits and . _ + - (64 at most, the first a letter or digit)",
        )
    if name.lower() in {n for own, aliases in load.names().items() for n in (own, *aliases)}:
        raise errors.UsageError(f"{name} is a built-in profile", todo="Give yours another name")
    return Path(f"{name}.toml")


COMMANDS = (profiles,)
