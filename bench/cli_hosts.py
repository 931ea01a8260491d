"""The lab's devices: names for their addresses, are they ready, what of ours is on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json, say

STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@click.group(invoke_without_command=True)
@click.pass_context
def hosts(ctx: click.Context) -> None:
    """The devices of the lab: add, list, check, clean, remove.

    \b
    bench hosts add xavier ssh://nvidia@xavier.local --profile jetson-xavier
    bench hosts check xavier
    bench run --profile jetson-xavier --host xavier
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@hosts.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--profile", help="What it is: see `bench profiles`.")
@click.option("--workspace", help="Our folder there; default: .cache/edgefit-device in the home folder.")
@click.option("--python", help="The Python there; default: python3.")
@click.option("--note", help="Anything worth knowing about it.")
def add(name: str, address: str, **given: str | None) -> int:
    """Give a device a name. For one that has it already, what is not said stays as it was."""
    from bench.hosts import inventory, open_address
    from hardware_profiles import load as profiles

    open_address(address)
    if given["profile"]:
        profiles.load(given["profile"])
    devices = inventory.load()
    before = devices.get(name) or inventory.Device(name, address)
    said = {key: value for key, value in given.items() if value is not None}
    devices[name] = dataclasses.replace(before, address=address, **said)
    inventory.save(devices)
    say(f"{name} is {address}, in {inventory.place()}\nNext: bench hosts check {name}")
    return errors.EXIT_DONE


@hosts.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def show(as_json: bool) -> int:
    """Every device, and the file that has them."""
    from bench.hosts import inventory
    from bench.types import to_json

    devices = inventory.load()
    if as_json:
        print_json({"schema": 1, "file": str(inventory.place()), "hosts": to_json(list(devices.values()))})
        return errors.EXIT_DONE
    if not devices:
        say(
            f"No devices in {inventory.place()}. Add one: bench hosts add NAME ssh://USER@HOST --profile P (a phone: adb://SERIAL)"
        )
        return errors.EXIT_DONE
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), Column("address", overflow="fold"), "profile", "note")
    for device in devices.values():
        table.add_row(*(_text(v) for v in (device.name, device.address, device.profile, device.note)))
    console(stderr=False).print(table)
    return errors.EXIT_DONE


@hosts.command("remove")
@click.argument("name")
def remove(name: str) -> int:
    """Forget a device; on the device nothing changes (see `bench hosts clean`)."""
    from bench.hosts import inventory

    devices = inventory.load()
    if name not in devices:
        raise errors.UsageError(f"No device is called {name!r}", todo=_known(name, devices))
    del devices[name]
    inventory.save(devices)
    say(f"{name} is forgotten")
    return errors.EXIT_DONE


@hosts.command("check")
@click.argument("name", metavar="NAME|ADDRESS")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def check(name: str, as_json: bool) -> int:
    """Is a device ready? From its address to its power modes, and what to do about what is not.

    Ends with 7 when a step failed; warnings are allowed.
    """
    from bench.hosts import check as checks
    from bench.hosts import inventory
    from bench.types import to_json

    device = inventory.device(name)
    steps = checks.check(device, _silent if as_json else _Lines())
    bad = [step for step in steps if step.state == "failed"]
    if as_json:
        print_json({"schema": 1, "host": to_json(device), "ready": not bad, "steps": to_json(steps)})
    else:
        warnings = sum(step.state == "warning" for step in steps)
        click.echo(f"\n{'not ready' if bad else 'ready'}: {len(bad)} failed, {warnings} to look at")
    return errors.EXIT_MISSING if bad else errors.EXIT_DONE


@hosts.command("clean")
@click.argument("name", metavar="NAME|ADDRESS")
@click.option("--all", "everything", is_flag=True, help="Also what was used lately.")
def clean(name: str, everything: bool) -> int:
    """Remove from a device what runs left in its workspace and nobody has used for 30 days."""
    from bench.hosts import inventory, open_address, phone
    from bench.hosts.base import CommandFailed
    from bench.hosts.workspace import open_workspace

    device = inventory.device(name)
    if device.address.startswith("adb://"):
        days = 0.0 if everything else 30.0
        found = phone.clean(open_address(device.address), phone.folder_of(device), days)
        say(f"{found['freed_bytes'] / 1e6:.1f} MB freed, {found['left_bytes'] / 1e6:.1f} MB left")
        return errors.EXIT_DONE
    workspace = open_workspace(device)
    try:
        found = workspace.clean(days=0.0, most_bytes=0) if everything else workspace.clean()
    finally:
        workspace.host.close()
    if found["busy"]:
        raise CommandFailed(f"{name} is measuring: nothing was removed", todo="Try again when it is done")
    say(f"{found['freed_bytes'] / 1e6:.1f} MB freed, {found['left_bytes'] / 1e6:.1f} MB left")
    return errors.EXIT_DONE


def _known(name: str, devices: dict[str, Any]) -> str:
    return errors.nearest(name, devices) if devices else "There are none: bench hosts add NAME ADDRESS"


def _silent(event: str, details: dict[str, Any]) -> None:
    """For ``--json``: the document says it all."""


def _text(value: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(value, style=style)


class _Lines:
    """A line for each step as it is done, with what to do below it."""

    def __init__(self) -> None:
        self._terminal = console(stderr=False)

    def __call__(self, event: str, step: dict[str, Any]) -> None:
        from rich.padding import Padding
        from rich.table import Table

        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=7, no_wrap=True)
        row.add_column(width=15, no_wrap=True)
        row.add_column(ratio=1, overflow="fold")
        row.add_row(_text(step["state"], STYLES[step["state"]]), _text(step["name"]), _text(step["found"]))
        self._terminal.print(row)
        if step["todo"]:
            self._terminal.print(Padding(_text(f"-> {step['todo']}"), (0, 0, 0, 9), expand=False))


COMMANDS = (hosts,)
