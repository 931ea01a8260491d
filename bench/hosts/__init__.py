"""Where things run. Each scheme of a host's address has one module."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.hosts.base import Host

HOSTS = {"local": "bench.hosts.local:LocalHost"}


def open_host(url: str) -> Host:
    """The host at an address: ``local``. Nothing is contacted yet.

    Raises:
        UsageError: an address of a kind that is not supported.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in HOSTS or rest:
        raise UsageError(f"No such kind of host: {url!r}", todo="Supported: " + ", ".join(sorted(HOSTS)))
    module, _, name = HOSTS[scheme].partition(":")
    return cast("Host", getattr(importlib.import_module(module), name)())
