"""Addresses of hosts over ssh, checked strictly: what is not plainly a user, a host and a port is refused."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from bench.errors import UsageError

FORM = "ssh://[USER@]HOST[:PORT]"
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_PLACE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}))(?::(?P<port>.*))?", re.DOTALL
)


@dataclass(frozen=True)
class SshAddress:
    """Whom to log in as (empty: as the client's configuration says), where, and at which port (None: likewise)."""

    host: str
    user: str = ""
    port: int | None = None

    @property
    def destination(self) -> str:
        """What the ssh client is given: ``user@host``."""
        return f"{self.user}@{self.host}" if self.user else self.host

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


def refuse_password(text: str) -> None:
    """Refuse what looks like ``USER:PASSWORD@HOST``, of whatever kind it is; the text is not repeated, for it holds a secret.

    Raises:
        UsageError: it does.
    """
    _, _, rest = text.rpartition("://")
    if ":" in rest.rpartition("@")[0]:
        raise UsageError(
            "An address must not hold a password",
            todo="Use a key: ssh-copy-id USER@HOST, then ssh://USER@HOST",
        )


def parse_ssh(rest: str) -> SshAddress:
    """The address behind ``ssh://``.

    Raises:
        UsageError: a password, or anything that is no user name, host name, IP address (IPv6 in brackets) or port.
    """
    refuse_password(rest)
    user, at, place = rest.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise _wrong(rest, f"the user {user!r}")
    found = _PLACE.fullmatch(place)
    if not found:
        raise _wrong(rest, f"the host {place!r}")
    if six := found["six"]:
        try:
            ipaddress.IPv6Address(six)
        except ValueError:
            raise _wrong(rest, f"the host {six!r}") from None
    return SshAddress(six or found["host"], user, _port(rest, found["port"]))


def _port(rest: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise _wrong(rest, f"the port {text!r}")
    return int(text)


def _wrong(rest: str, what: str) -> UsageError:
    return UsageError(f"{f'ssh://{rest}'!r} is no address of a host", what, f"Give {FORM}")
