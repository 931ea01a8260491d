"""Where things run. Each scheme of a host's address has one module."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from bench.errors import UsageError, nearest
from bench.hosts.address import refuse_password

if TYPE_CHECKING:
    from bench.hosts.base import Host

HOSTS = {
    "local": "bench.hosts.local:LocalHost",
    "ssh": "bench.hosts.ssh:SshHost",
    "adb": "bench.hosts.adb:AdbHost",
}
FORMS = {"local": "local", "ssh": "ssh://[USER@]HOST[:PORT]", "adb": "adb://[SERIAL]"}
"""How the addresses of each scheme look."""


def open_host(name: str) -> Host:
    """The host at an address, or the one that the inventory has under that name. Nothing is contacted yet.

    Raises:
        UsageError: an address of a kind that is not supported, or a name that nobody has.
    """
    if name in HOSTS or "://" in name:
        return open_address(name)
    from bench.hosts.inventory import load

    devices = load()
    if name in devices:
        return open_address(devices[name].address)
    refuse_password(name)
    raise UsageError(f"No such host: {name!r}", todo=supported(name, devices))


def open_address(address: str) -> Host:
    """The host at an address; :func:`open_host` takes names as well.

    Raises:
        UsageError: an address of a kind that is not supported, or that makes no sense.
    """
    refuse_password(address)
    scheme, separator, rest = address.partition("://")
    if scheme not in HOSTS or bool(separator) == (scheme == "local"):
        raise UsageError(f"No such kind of host: {address!r}", todo=supported(address))
    module, _, name = HOSTS[scheme].partition(":")
    kind = getattr(importlib.import_module(module), name)
    return cast("Host", kind(rest) if separator else kind())


def supported(name: str = "", known: Iterable[str] = ()) -> str:
    """The kinds of addresses, and those of the ``known`` devices that are near ``name``."""
    kinds = "Supported: " + ", ".join(FORMS.values())
    if "@" in name and "://" not in name:
        return f"Did you mean ssh://{name}? {kinds}"
    devices = list(known)
    if not devices:
        return f"{kinds}; `bench hosts add NAME ADDRESS` gives one a name"
    near = nearest(name, devices)
    near += "" if near.endswith("?") else "."
    return f"{near} {kinds}, or a name of `bench hosts list`"
