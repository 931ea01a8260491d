"""What a Jetson's files say of its software: ``/etc/nv_tegra_release``, the device tree's model, the package ``nvidia-jetpack``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bench.parsers.text import Text

JETPACK = {
    "32.1.0": "4.2",
    "32.2.0": "4.2.1",
    "32.2.1": "4.2.2",
    "32.2.3": "4.2.3",
    "32.3.1": "4.3",
    "32.4.3": "4.4",
    "32.4.4": "4.4.1",
    "32.5.0": "4.5",
    "32.5.1": "4.5.1",
    "32.5.2": "4.5.1",
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "34.1.0": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
"""Jetson Linux to JetPack, after NVIDIA's archives (developer.nvidia.com/embedded/jetpack-archive and /jetson-linux-archive)."""

_RELEASE = re.compile(r"# R([0-9]{1,3}) \(release\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})((?:, .*)?)")
_PAIR = re.compile(r"([A-Z_]+)(?:: ?|=)(.*)")
_VERSION = re.compile(r"(?:nvidia-jetpack\s+)?'?([0-9]{1,3}(?:\.[0-9]{1,3}){1,3})([+-]b[0-9]{1,6})?'?")
_MISSING = re.compile(r"dpkg-query: (no packages? found matching .*|package .* is not installed.*)")


@dataclass(frozen=True)
class Release:
    """Jetson Linux (L4T): ``version`` as in NVIDIA's archive, 36.4.3. ``jetpack`` is None for a version the table does not have."""

    version: str | None
    jetpack: str | None
    facts: dict[str, str]
    unknown: tuple[str, ...]
    truncated: bool


@dataclass(frozen=True)
class Package:
    """The meta-package's version: ``version`` 6.2.1, ``build`` +b38; ``missing`` when dpkg says that it is not installed."""

    version: str | None
    build: str | None
    missing: bool
    unknown: tuple[str, ...]
    truncated: bool


def jetpack(version: str) -> str | None:
    """The JetPack that belongs to a Jetson Linux version (36.4 and 36.4.0 are one); None when not in the table."""
    parts = version.split(".")
    return JETPACK.get(".".join(parts + ["0"] * (3 - len(parts))))


def parse_release(text: str) -> Release:
    """``/etc/nv_tegra_release``: ``# R36 (release), REVISION: 4.3, GCID: ..., BOARD: generic, ...``."""
    source, found = Text(text), dict[str, Any]()
    facts: dict[str, str] = {}
    for line in map(str.strip, source.lines):
        if match := _RELEASE.fullmatch(line):
            found["version"] = f"{match[1]}.{match[2]}"
            pairs = (_PAIR.fullmatch(part) for part in match[3].split(", "))
            facts.update({pair[1]: pair[2].strip() for pair in pairs if pair})
        elif match := _PAIR.fullmatch(line.removeprefix("# ")):
            facts[match[1]] = match[2].strip()
        else:
            source.left(line)
    version = found.get("version")
    return Release(
        version, jetpack(version) if version else None, facts, tuple(source.unknown), source.truncated
    )


def parse_model(raw: str | bytes) -> str | None:
    """The board's name in ``/proc/device-tree/model``, which ends with a NUL; None when there is none."""
    start = raw[:1000]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    return text.split("\0")[0].strip() or None


def parse_package(text: str) -> Package:
    """``dpkg-query --show nvidia-jetpack``, also with ``--showformat='${Version}'``."""
    source, version, build, missing = Text(text), None, None, False
    for line in map(str.strip, source.lines):
        if match := _VERSION.fullmatch(line):
            version, build = match[1], match[2]
        elif _MISSING.fullmatch(line):
            missing = True
        else:
            source.left(line)
    return Package(version, build, missing, tuple(source.unknown), source.truncated)
