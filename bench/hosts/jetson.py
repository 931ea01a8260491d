"""A Jetson's power mode and clocks: read for the record, set for a measurement, and put back whatever happens.

NVIDIA, *Jetson Linux Developer Guide*, "Power Mode Controls" (nvpmodel) and "Maximizing Jetson Performance" (jetson_clocks).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from bench.errors import EdgefitError, MissingError, UsageError, nearest
from bench.hosts.base import Completed, Host
from bench.hosts.workspace import Workspace
from bench.parsers import jetson_clocks, l4t, nvpmodel
from bench.types import Json, Notify, to_json

ANSWER = 60.0
"""Seconds a tool may take: changing the mode stops and starts cores."""
LEFT = "restore.json"
"""In the workspace while something is changed: how it was before."""
STORED = "clocks.conf"


COMPATIBLE = "proc/device-tree/compatible"
DLA_CORES = {"tegra194": 2, "p3701": 2, "p3767-0000": 2, "p3767-0001": 1}
"""By chip or module in the device tree: both Xaviers, AGX Orin, Orin NX 16GB and 8GB; as in our profiles of them."""


def dla_cores(files: Json) -> int:
    """DLA cores of the board with these files; 0 where it has none or is no Jetson."""
    compatible = str(files.get(COMPATIBLE, ""))
    return next((cores for name, cores in DLA_CORES.items() if name in compatible), 0)


def _sudo(host: Host, *command: str, check: bool = True) -> Completed:
    return host.exec(["sudo", "-n", *command], ANSWER, check=check)


def describe(host: Host, seen: Json) -> Json | None:
    """Board, JetPack, power mode and clocks; None when the machine is no Jetson. What no tool said is left out.

    Args:
        seen: what :meth:`bench.hosts.workspace.Workspace.look` saw, with its ``programs`` and ``files``.
    """
    release = seen["files"].get("etc/nv_tegra_release")
    if release is None and "nvpmodel" not in seen["programs"]:
        return None
    found: Json = {"model": l4t.parse_model(seen["files"].get("proc/device-tree/model", ""))}
    if release is not None:
        told = l4t.parse_release(release)
        found |= {"l4t": told.version, "jetpack": told.jetpack}
    if "nvpmodel" in seen["programs"]:
        mode = nvpmodel.parse_query(host.exec(["nvpmodel", "-q"], ANSWER, check=False).stdout)
        found |= {"power_mode": mode.mode, "power_mode_id": mode.mode_id, "fan_mode": mode.fan_mode}
    if "jetson_clocks" in seen["programs"]:
        done = _sudo(host, "jetson_clocks", "--show", check=False)
        if done.returncode == 0:
            shown = jetson_clocks.parse(done.stdout)
            found["clocks"] = {k: to_json(getattr(shown, k)) for k in ("cpus", "clocks", "fans")}
            found["not_understood"] = list(shown.unknown)
        else:
            found["clocks_reason"] = (
                f"jetson_clocks --show needs sudo without a password: {done.stderr.strip()[-200:]}"
            )
    return {key: value for key, value in found.items() if value is not None}


@contextlib.contextmanager
def settings(
    workspace: Workspace, seen: Json, power_mode: str, lock_clocks: bool, notify: Notify
) -> Iterator[None]:
    """The board in a power mode (name or number) and with its clocks held at their highest; afterwards as it was before.

    Before anything is changed, how it was is written down on the board; what an engine that was killed left changed is put
    back by the next one.

    Raises:
        MissingError: the tools, or sudo without a password, are not there.
        UsageError: the board has no such mode.
    """
    put_back(workspace, notify)
    if not power_mode and not lock_clocks:
        yield
        return
    host = workspace.host
    before = _before(workspace, seen, power_mode, lock_clocks)
    _write(workspace, before)
    try:
        if power_mode:
            wanted = _mode_id(seen, power_mode)
            done = _sudo(host, "nvpmodel", "-m", str(wanted), check=False)
            now = nvpmodel.parse_query(host.exec(["nvpmodel", "-q"], ANSWER).stdout).mode_id
            if now != wanted:
                words = (done.stdout + done.stderr).strip()[-300:]
                raise EdgefitError(
                    f"The power mode {power_mode} is not in force on {host.name}",
                    f"mode {now}; nvpmodel said: {words}",
                    "Set it by hand; some modes need a restart of the board",
                )
        if lock_clocks:
            _sudo(host, "jetson_clocks")
        yield
    finally:
        put_back(workspace, notify)


def _before(workspace: Workspace, seen: Json, power_mode: str, lock_clocks: bool) -> Json:
    """How the board is now, checked that it can be changed at all."""
    host, programs = workspace.host, seen["programs"]
    needed = [p for p, wanted in (("nvpmodel", power_mode), ("jetson_clocks", lock_clocks)) if wanted]
    absent = [p for p in needed if p not in programs]
    if absent:
        raise MissingError(
            f"There is no {' and no '.join(absent)} on {host.name}",
            todo="--power-mode and --lock-clocks are for Jetson boards; leave them out",
        )
    if _sudo(host, "true", check=False).returncode:
        raise MissingError(
            f"--power-mode and --lock-clocks need sudo without a password on {host.name}",
            todo="Allow it for nvpmodel and jetson_clocks in /etc/sudoers.d, or set the board up by hand",
        )
    before: Json = {}
    if power_mode:
        _mode_id(seen, power_mode)
        mode = nvpmodel.parse_query(host.exec(["nvpmodel", "-q"], ANSWER).stdout).mode_id
        if mode is None:
            raise EdgefitError(f"nvpmodel on {host.name} did not say the present power mode")
        before["power_mode_id"] = mode
    if lock_clocks:
        before["clocks"] = str(PurePosixPath(workspace.folder, STORED))
        _sudo(host, "jetson_clocks", "--store", before["clocks"])
    return before


def _mode_id(seen: Json, wanted: str) -> int:
    known = {
        m.name: m.mode_id for m in nvpmodel.parse_modes(seen["files"].get("etc/nvpmodel.conf", "")).modes
    }
    if wanted in known:
        return known[wanted]
    if wanted.isascii() and wanted.isdigit() and int(wanted) in known.values():
        return int(wanted)
    raise UsageError(f"The board has no power mode {wanted!r}", todo=nearest(wanted, known) if known else "")


def _write(workspace: Workspace, before: Json) -> None:
    workspace.put_bytes(json.dumps(before).encode(), str(PurePosixPath(workspace.folder, LEFT)))


def put_back(workspace: Workspace, notify: Notify) -> None:
    """Undo what :func:`settings` changed, this one or an earlier one that was killed; says so when it cannot."""
    path = str(PurePosixPath(workspace.folder, LEFT))
    before = _left(workspace, path)
    if not before:
        return
    failed = []
    for command in _undoing(before):
        try:
            workspace.patiently(lambda command=command: _sudo(workspace.host, *command), notify)  # type: ignore[misc]
        except EdgefitError as error:
            failed.append(f"sudo {' '.join(command)}: {error}")
    if failed:
        text = f"{workspace.host.name} was not put back; do by hand: {'; '.join(failed)}"
        notify("warning", {"text": text})
        return
    with contextlib.suppress(EdgefitError):
        workspace.host.exec(["rm", "-f", "--", path], ANSWER)


def _undoing(before: Json) -> list[list[str]]:
    """The mode first: the clocks were stored in it."""
    clocks, mode = before.get("clocks"), before.get("power_mode_id")
    return [
        *([["nvpmodel", "-m", str(mode)]] if isinstance(mode, int) else []),
        *([["jetson_clocks", "--restore", str(clocks)]] if clocks else []),
    ]


def _left(workspace: Workspace, path: str) -> Json:
    workspace.prepare()
    try:
        done = workspace.patiently(lambda: workspace.host.exec(["cat", "--", path], ANSWER, check=False))
        found: Any = json.loads(done.stdout) if done.returncode == 0 else {}
    except (EdgefitError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
