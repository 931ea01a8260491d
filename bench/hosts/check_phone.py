"""Is a phone ready? The steps of :mod:`bench.hosts.check` for one that is reached over adb."""

from __future__ import annotations

import os
from pathlib import Path

from bench.hosts import phone
from bench.hosts.adb import AdbHost
from bench.hosts.adb_client import HOME
from bench.hosts.check import SECONDS, Look, Step, Table, command_step, transfer_step, workspace_step


def _client(look: Look) -> AdbHost:
    if not isinstance(look.host, AdbHost):
        raise TypeError(f"{look.device.address} is no phone")
    return look.host


def _adb(look: Look) -> list[Step]:
    seen = _client(look).client.devices()
    return [Step("adb", "ok", f"it answers and sees {len(seen)} phone{'' if len(seen) == 1 else 's'}")]


def _phone(look: Look) -> list[Step]:
    """Is it there, does it let us in, and what is it?"""
    host = _client(look)
    host.client.connect()
    host.exec(["true"], SECONDS)
    known = phone.describe(host)["phone"]
    return [
        Step(
            "phone",
            "ok",
            f"{host.name}: {known['manufacturer'] or '?'} {known['model'] or '?'}, {known['soc'] or '?'}, "
            f"Android {known['android'] or '?'}, {known['abi'] or '?'}",
        )
    ]


def _tools(look: Look) -> list[Step]:
    """What can time a model there; nothing is sent."""
    from bench.runtimes.phone import GIVEN, Phone
    from bench.runtimes.phone_tools import RUNTIMES

    found = Phone(look.host, {}, look.device.workspace).find_tools()
    given = [Path(p) for p in os.environ.get(GIVEN, "").split(os.pathsep) if p]
    steps = [Step(tool.kind, "ok", f"{tool.path}, for {name}") for name, tool in found.items()]
    steps += [
        Step("tool", "ok" if path.is_file() else "failed", f"{path}, to be sent", f"Look at {GIVEN}")
        for path in given
    ]
    if steps:
        return steps
    names = ", ".join(name for names in RUNTIMES.values() for name in names)
    todo = f"Push one of {names} to {HOME}, or name a file here in {GIVEN}"
    return [Step("tools", "failed", "nothing that times a model is there", todo)]


def _conditions(look: Look) -> list[Step]:
    """Heat, battery and screen: what would disturb a measurement now."""
    now = phone.state(look.host)
    if told := phone.warnings(now):
        return [Step("conditions", "warning", text, "Figures measured now would say so") for text in told]
    if None in (now["screen_on"], now["thermal_status"], now["battery_level"]):
        return [Step("conditions", "warning", "it does not say all of its heat, battery and screen")]
    return [
        Step("conditions", "ok", f"not hot, battery {now['battery_level']:.0%} and not charging, screen off")
    ]


STEPS: Table = {
    "adb": (_adb, ""),
    "phone": (_phone, "adb"),
    "command": (command_step, "phone"),
    "workspace": (workspace_step, "command"),
    "transfer": (transfer_step, "workspace"),
    "tools": (_tools, "command"),
    "conditions": (_conditions, "command"),
}
"""For a phone over adb."""
