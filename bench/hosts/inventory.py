"""The lab's devices: one small TOML file that gives addresses short names. It never holds a secret.

    [xavier]
    address = "ssh://nvidia@xavier.local"
    profile = "jetson-agx-xavier"        # what it is; many boards may share one
    workspace = ".cache/edgefit-device"  # our folder there, below the home folder unless it begins with /
    python = "python3"
    note = "on the shelf by the window"

The file is ``$EDGEFIT_HOSTS``, else ``edgefit/hosts.toml`` in ``$XDG_CONFIG_HOME`` or ``~/.config``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, StoreError, UsageError, nearest
from bench.hosts import HOSTS, open_address, supported
from bench.hosts.address import refuse_password
from hardware_profiles.load import read_toml

VARIABLE = "EDGEFIT_HOSTS"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEADER = "# The devices of `bench hosts`, which writes this file anew: remarks belong into note.\n"


@dataclass(frozen=True)
class Device:
    """A device of the lab. ``name`` is empty for one that is only an address, ``profile`` where it is not said."""

    name: str
    address: str
    profile: str = ""
    workspace: str = ".cache/edgefit-device"
    python: str = "python3"
    note: str = ""


KEYS = tuple(f.name for f in dataclasses.fields(Device) if f.name != "name")


def place() -> Path:
    """The inventory's file; it need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # a relative path there is to be ignored (XDG Base Directory Specification)
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "edgefit" / "hosts.toml"


def load(path: Path | None = None) -> dict[str, Device]:
    """The devices by name; none where there is no file.

    Raises:
        ConfigError: naming the file and the key, for whatever is not as it should be.
    """
    path = path or place()
    if not path.exists():
        return {}
    return {name: _device(name, table, f"{path} [{name}]") for name, table in read_toml(path).items()}


def save(devices: Mapping[str, Device], path: Path | None = None) -> None:
    """Write the devices; a reader sees the old file or the new one.

    Raises:
        ConfigError: a device that :func:`load` would refuse; nothing is written then.
        StoreError: the file cannot be written.
    """
    from bench.store import write_atomic

    path = path or place()
    tables = []
    for name, device in devices.items():
        values = {key: getattr(device, key) for key in KEYS if getattr(device, key) or key == "address"}
        _device(name, values, f"{path} [{name}]")
        lines = [f"{key} = {_quoted(value)}" for key, value in values.items()]
        tables.append("\n".join([f"[{_quoted(name)}]", *lines, ""]))
    try:
        write_atomic(path, "\n".join([HEADER, *tables]).encode())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written", str(error.strerror), f"Name another in {VARIABLE}"
        ) from error


def device(name_or_address: str) -> Device:
    """The device of that name; an address alone is a device without a name.

    Raises:
        UsageError: neither the one nor the other.
    """
    devices = load()
    if name_or_address in devices:
        return devices[name_or_address]
    if name_or_address in HOSTS or "://" in name_or_address:
        open_address(name_or_address)
        return Device("", name_or_address)
    refuse_password(name_or_address)
    raise UsageError(f"No such host: {name_or_address!r}", todo=supported(name_or_address, devices))


def _device(name: str, table: Any, where: str) -> Device:
    """A device from its table, checked."""
    if not NAME.fullmatch(name) or name in HOSTS:
        raise ConfigError(
            f"{where}: {name!r} is no name for a device",
            todo="Use letters, digits, '.', '_' and '-', a letter or digit first, and not the name of a kind of host",
        )
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table", repr(table))
    for key, value in table.items():
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}", todo=nearest(key, KEYS))
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {key} must be a string", repr(value))
        if not value.isprintable() or (key in ("address", "workspace", "python") and not value):
            raise ConfigError(f"{where}: {key} must be one line of plain text, and not empty", repr(value))
    if "address" not in table:
        raise ConfigError(f"{where}: address is missing", todo=supported())
    try:
        open_address(table["address"])
    except UsageError as error:
        raise ConfigError(f"{where}: address: {error.what}", error.found, error.todo) from error
    return Device(name, **table)


def _quoted(text: str) -> str:
    """A TOML string; of what JSON escapes, printable text has only the quote and the backslash."""
    return json.dumps(text, ensure_ascii=False)
