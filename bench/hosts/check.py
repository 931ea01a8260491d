"""Is a device ready? Every step from its address to its power modes, each with what was found and what to do."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.errors import EdgefitError
from bench.hosts import open_address, phone
from bench.hosts.base import CommandFailed, Host, HostRefused, HostUnreachable
from bench.hosts.inventory import Device
from bench.hosts.ssh_client import last_line
from bench.hosts.workspace import MARK
from bench.types import Json, Notify, to_json

State = Literal["ok", "warning", "failed", "skipped"]
SECONDS = 20.0
"""For one small command there."""
NASTY = "a  b'\"$HOME`id`$(id)\\;&|<>*?~#!%s\n\té-"
OLDEST = (3, 8)
LEAST_MB = 1000
PROBE_BYTES = 1_000_000
OFFSET_SECONDS = 2.0
PROBE = """
import json, sys
found = {"python": list(sys.version_info[:3]), "numpy": None, "packages": {}}
try:
    import numpy
    found["numpy"] = numpy.__version__
except Exception as err:
    found["why"] = "%s: %s" % (type(err).__name__, err)
try:
    from importlib.metadata import version
    for name in sys.argv[1:]:
        try:
            found["packages"][name] = version(name)
        except Exception:
            pass
except ImportError:
    pass
print(json.dumps(found))
"""
ROOM = (
    'mkdir -p -- "$1" && [ -d "$1" ] && : >"$1/.check" && rm -f -- "$1/.check" && df -Pk -- "$1" | tail -n 1'
)
OURS = 'test -f "$1" || test -z "$(ls -A "$2")"'
TOOL = 'PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"; command -v "$1"'


@dataclass(frozen=True)
class Step:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    todo: str = ""


@dataclass
class Look:
    """The device that is looked at, and what the steps leave for those that follow."""

    device: Device
    host: Host
    settings: dict[str, str] = field(default_factory=dict)
    python: Json = field(default_factory=dict)

    @property
    def local(self) -> bool:
        return self.device.address == "local"


Table = dict[str, tuple[Callable[[Look], list[Step]], str]]
"""Steps in their order, each with the one that it needs."""


def check(device: Device, notify: Notify) -> list[Step]:
    """Look at a device step by step; ``notify("step", ...)`` follows each. After one that all need, the rest is skipped.

    Leaves nothing there but an empty workspace.

    Raises:
        UsageError: an address that makes no sense.
    """
    steps = []
    look, table = Look(device, open_address(device.address)), STEPS
    if device.address.startswith("adb://"):
        from bench.hosts import check_phone

        look.device, table = replace(device, workspace=phone.folder_of(device)), check_phone.STEPS
    try:
        for step in _steps(look, table):
            steps.append(step)
            notify("step", to_json(step))
    finally:
        look.host.close()
    return steps


def _steps(look: Look, table: Table) -> Iterator[Step]:
    """Every step in turn; one whose need failed, or that comes after the device was lost, is skipped."""
    failed: list[str] = []
    for name, (make, need) in table.items():
        missed = need if need in failed else ""
        if missed:
            failed.append(name)
            yield Step(name, "skipped", f"needs {missed}")
            continue
        try:
            found = make(look)
        except EdgefitError as error:
            found = [Step(name, "failed", _sentence(error), error.todo)]
            if isinstance(error, (HostUnreachable, HostRefused)):
                failed += ["login", "command", "python", "workspace"]
        if any(step.state == "failed" for step in found):
            failed.append(name)
        # what a device says is not trusted with the terminal
        yield from (
            replace(s, found=last_line(s.found), todo=last_line(s.todo) if s.todo else "") for s in found
        )


def _sentence(error: EdgefitError) -> str:
    return f"{error.what}: {error.found}" if error.found else error.what


def _address(look: Look) -> list[Step]:
    if look.local:
        return [Step("address", "ok", "this machine")]
    client = getattr(look.host, "client", None)
    if client is None:
        return [Step("address", "ok", look.device.address)]
    look.settings = client.settings()
    get = look.settings.get
    return [Step("address", "ok", f"{get('user')} at {get('hostname')}, port {get('port')}")]


def _around(look: Look) -> str:
    """Why the network is not looked at from here; empty when it is."""
    if not look.settings:
        return "not over a network"
    for key in ("proxyjump", "proxycommand"):
        if look.settings.get(key, "none") != "none":
            return f"reached through {look.settings[key]}"
    return ""


def _name(look: Look) -> list[Step]:
    if reason := _around(look):
        return [Step("name", "skipped", reason)]
    try:
        found = socket.getaddrinfo(look.settings["hostname"], None, type=socket.SOCK_STREAM)
    except OSError as error:
        todo = (
            "Is the name right? Try the IP address; a name in .local needs mDNS on both sides (avahi-daemon)"
        )
        return [
            Step("name", "failed", f"{look.settings['hostname']} does not resolve: {error.strerror}", todo)
        ]
    return [Step("name", "ok", ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found)))]


def _port(look: Look) -> list[Step]:
    if reason := _around(look):
        return [Step("port", "skipped", reason)]
    place = (look.settings["hostname"], int(look.settings["port"]))
    try:
        with socket.create_connection(place, timeout=5) as line:
            banner = last_line(line.recv(255).decode(errors="replace"))
    except OSError as error:
        todo = "Is it switched on, in this network, and does its ssh server run (sudo apt install openssh-server)?"
        return [Step("port", "failed", f"no answer: {error.strerror or 'nothing within 5 s'}", todo)]
    if not banner.startswith("SSH-"):
        return [Step("port", "failed", f"no ssh server: {banner!r}", "Is the port right?")]
    return [Step("port", "ok", banner)]


def _login(look: Look) -> list[Step]:
    begin = time.monotonic()
    look.host.exec(["true"], SECONDS)
    what = "key and host key are accepted" if look.settings else "it answers"
    return [Step("login", "ok", f"{what} ({time.monotonic() - begin:.1f} s)")]


def command_step(look: Look) -> list[Step]:
    begin = time.monotonic()
    done = look.host.exec(["printf", "%s", NASTY], SECONDS)
    took = time.monotonic() - begin
    if done.stdout == NASTY:
        return [Step("command", "ok", f"arguments arrive unharmed ({1000 * took:.0f} ms)")]
    if done.stdout.endswith(NASTY):
        noise = last_line(done.stdout.removesuffix(NASTY))
        todo = "Let its .bashrc (or the like) print nothing in a shell that is not interactive"
        return [Step("command", "failed", f"the login shell prints of its own: {noise}", todo)]
    todo = "Give the user an ordinary login shell: chsh -s /bin/bash"
    return [Step("command", "failed", f"arguments arrive changed: {last_line(done.stdout)}", todo)]


def _python(look: Look) -> list[Step]:
    program = look.device.python
    packages = [d for name in _runtime_names(look.device) for d in _distributions(name)]
    done = look.host.exec([program, "-c", PROBE, *packages], 3 * SECONDS)
    try:
        look.python = dict(json.loads(done.stdout))
        version = tuple(int(n) for n in look.python["python"])
    except (ValueError, TypeError, KeyError) as error:
        raise CommandFailed(f"{program} did not answer as a Python does", last_line(done.stdout)) from error
    text = f"{program} is Python {'.'.join(map(str, version))}"
    if version < OLDEST:
        todo = "Install a newer one there, and name it: bench hosts add ... --python python3.8"
        return [Step("python", "failed", f"{text}; 3.8 is needed", todo)]
    return [Step("python", "ok", text)]


def _numpy(look: Look) -> list[Step]:
    if version := look.python.get("numpy"):
        return [Step("numpy", "ok", str(version))]
    todo = f"On the device: {look.device.python} -m pip install numpy"
    return [Step("numpy", "failed", last_line(str(look.python.get("why", ""))), todo)]


def _runtime_names(device: Device) -> tuple[str, ...]:
    """Those of its profile first, then those that any machine may have."""
    from hardware_profiles import load

    known = load.load(device.profile).runtimes if device.profile else ()
    return tuple(dict.fromkeys((*known, *load.LOCAL.runtimes)))


def _distributions(name: str) -> tuple[str, ...]:
    from bench import runtimes

    return tuple(getattr(runtimes.get(name), "distributions", ()))


def _runtimes(look: Look) -> list[Step]:
    """One step for each runtime that is there, and for those of the profile that are not: a failure only when there is none at all."""
    from hardware_profiles import load

    there: Json = look.python.get("packages", {})
    wanted = load.load(look.device.profile).runtimes if look.device.profile else ()
    found = {
        name: [f"{d} {there[d]}" for d in _distributions(name) if d in there]
        for name in _runtime_names(look.device)
    }
    for name, versions in found.items():
        if not versions and name in wanted:
            versions += _programs(look, name)
    missing: State = "warning" if any(found.values()) else "failed"
    steps = [
        Step(name, "ok", ", ".join(versions))
        if versions
        else Step(name, missing, f"not there for {look.device.python}", _install(name))
        for name, versions in found.items()
        if versions or name in wanted
    ]
    if not steps:
        return [Step("runtimes", "failed", "none is there", "On the device: pip install onnxruntime")]
    return steps


def _programs(look: Look, name: str) -> list[str]:
    """The first program that stands in for a runtime's package there."""
    from bench import runtimes

    for program in getattr(runtimes.get(name), "programs", ()):
        if path := look.host.exec(["sh", "-c", TOOL, "sh", program], SECONDS, check=False).stdout.strip():
            return [f"by {path}, which gives no accuracy"]
    return []


def _install(name: str) -> str:
    from bench import runtimes

    return f"On the device: {getattr(runtimes.get(name), 'remedy', '')}"


def workspace_step(look: Look) -> list[Step]:
    folder = _there(look.device.workspace)
    done = look.host.exec(["sh", "-c", ROOM, "sh", folder], SECONDS, check=False)
    if done.returncode:
        todo = "Name a folder that its user may write to: bench hosts add ... --workspace FOLDER"
        return [Step("workspace", "failed", f"{look.device.workspace}: {last_line(done.stderr)}", todo)]
    owned = look.host.exec(["sh", "-c", OURS, "sh", f"{folder}/{MARK}", folder], SECONDS, check=False)
    if owned.returncode:
        todo = "Give it a folder of its own: bench hosts add ... --workspace FOLDER"
        return [Step("workspace", "failed", f"{look.device.workspace} holds other files", todo)]
    words = done.stdout.split()
    free = int(words[3]) // 1000 if len(words) > 3 and words[3].isdecimal() else None
    if free is None:
        return [
            Step("workspace", "warning", f"{look.device.workspace} is writable; its free space is not known")
        ]
    text = f"{look.device.workspace} is writable, {free / 1000:.1f} GB free"
    if free < LEAST_MB:
        return [Step("workspace", "warning", text, "Make room: models and samples need up to 1 GB")]
    return [Step("workspace", "ok", text)]


def _there(path: str) -> str:
    return path if path.startswith("/") else f"./{path}"


def transfer_step(look: Look) -> list[Step]:
    remote = f"{_there(look.device.workspace)}/check-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        up, down = Path(folder, "up"), Path(folder, "down")
        up.write_bytes(os.urandom(PROBE_BYTES))
        try:
            start = time.monotonic()
            look.host.put(up, remote)
            there = time.monotonic()
            look.host.get(remote, down)
            back = time.monotonic()
        finally:
            look.host.exec(["rm", "-f", "--", remote], SECONDS, check=False)
        same = up.read_bytes() == down.read_bytes()
    if not same:
        return [Step("transfer", "failed", "1 MB comes back changed", "Look at its storage and the line")]
    rates = [PROBE_BYTES / 1e6 / max(seconds, 1e-6) for seconds in (there - start, back - there)]
    return [
        Step("transfer", "ok", f"1 MB there and back unharmed; {rates[0]:.1f} MB/s up, {rates[1]:.1f} down")
    ]


def _clock(look: Look) -> list[Step]:
    """Its clock against ours; half the round trip is the uncertainty."""
    before = time.time()
    done = look.host.exec([look.device.python, "-c", "import time; print(time.time())"], SECONDS)
    after = time.time()
    try:
        offset = float(done.stdout) - (before + after) / 2
    except ValueError as error:
        raise CommandFailed("Its clock cannot be read", last_line(done.stdout)) from error
    text = f"{offset:+.1f} s from ours (+-{(after - before) / 2:.1f} s)"
    if abs(offset) > OFFSET_SECONDS + (after - before) / 2:
        return [Step("clock", "warning", text, "On the device: sudo timedatectl set-ntp true")]
    return [Step("clock", "ok", text)]


def _jetson(look: Look) -> list[Step]:
    """NVIDIA's tools for power modes, clocks and rails, and whether we may use them."""
    if not look.device.profile.startswith("jetson"):
        return []
    steps = []
    for tool in ("nvpmodel", "jetson_clocks", "tegrastats"):
        done = look.host.exec(["sh", "-c", TOOL, "sh", tool], SECONDS, check=False)
        todo = "It comes with JetPack: is this a Jetson, and its system complete?"
        path = last_line(done.stdout)
        steps.append(Step(tool, "warning", "not found", todo) if done.returncode else Step(tool, "ok", path))
    may = look.host.exec(["sh", "-c", '[ "$(id -u)" = 0 ] || sudo -n true'], SECONDS, check=False)
    if may.returncode:
        todo = "Power modes and fixed clocks need it: allow nvpmodel and jetson_clocks in /etc/sudoers.d (NOPASSWD)"
        return [*steps, Step("sudo", "warning", "asks for a password", todo)]
    return [*steps, Step("sudo", "ok", "without a password")]


STEPS: Table = {
    "address": (_address, ""),
    "name": (_name, "address"),
    "port": (_port, "name"),
    "login": (_login, "port"),
    "command": (command_step, "login"),
    "python": (_python, "command"),
    "numpy": (_numpy, "python"),
    "runtimes": (_runtimes, "python"),
    "workspace": (workspace_step, "command"),
    "transfer": (transfer_step, "workspace"),
    "clock": (_clock, "python"),
    "power": (_jetson, "command"),
}
"""For this machine and those over ssh."""
