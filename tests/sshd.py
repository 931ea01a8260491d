"""A real ssh server on loopback, run as the present user, behind a TCP proxy that cuts the line at will."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 100
SetEnv HOME={folder}{more}
ForceCommand cd {folder} && exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""
"""Commands start in the test's folder, not in the person's home."""
CLIENT = """
Host *
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


class Proxy:
    """Hands every connection to ``target``, counts connections and bytes, and cuts when it is told to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._left: int | None = None
        self._thawed = threading.Event()
        self._thawed.set()
        self.connections = self.up = self.down = 0
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def refuse(self) -> None:
        """Answer no new connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def answer(self) -> None:
        """Take connections again."""
        self._listener = self._listen(self.port)

    def drop(self) -> None:
        """Cut every line that is open. What has passed still arrives."""
        with self._lock:
            lines, self._open, self._left = self._open, [], None
        for near, far in lines:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_WR)

    def freeze(self) -> None:
        """Let nothing pass, and tell nobody: a cable that was pulled."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Let everything pass again."""
        self._thawed.set()

    def drop_after(self, count: int) -> None:
        """Cut every line when so many more bytes have passed, both ways together."""
        self._left = count

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                self.connections += 1
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open.append((near, far))
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(16384):
                self._thawed.wait()
                if self._left is not None:
                    self._left -= len(block)
                    if self._left <= 0:
                        self.drop()
                        return
                with contextlib.suppress(OSError):  # cut: the server is heard to its end all the same
                    sink.sendall(block)
                if up:
                    self.up += len(block)
                else:
                    self.down += len(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class Server:
    """The running server; ``address`` leads to it through the proxy, ``command`` is the client that may log in."""

    folder: Path
    proxy: Proxy
    user: str

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.proxy.port}"

    @property
    def command(self) -> str:
        return shlex.join(["ssh", "-F", str(self.folder / "config")])

    def know(self, key: str = "host_key") -> None:
        """Let the client know the server by this key."""
        public = (self.folder / f"{key}.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.proxy.port} {public}")

    def forget(self) -> None:
        """Let the client know no server."""
        (self.folder / "known_hosts").write_text("")


def installed() -> bool:
    """Is there what a server needs?"""
    return bool(PROGRAM and shutil.which("ssh") and shutil.which("ssh-keygen"))


def make_key(path: Path) -> None:
    """A new key pair at ``path`` and ``path.pub``."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


@contextlib.contextmanager
def serve(folder: Path, environ: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
    """Run the server until the context is left. Skips where it is not installed or may not run."""
    if not installed():
        pytest.skip("no ssh server here: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # where the server confines what has not logged in yet
    for key in ("host_key", "client_key", "other_key"):
        make_key(folder / key)
    shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    more = "".join(f" {key}={shlex.quote(value)}" for key, value in environ.items())
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder, more=more))
    (folder / "config").write_text(CLIENT.format(folder=folder))
    command = [str(PROGRAM), "-D", "-f", folder / "sshd_config", "-E", folder / "log"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        _await(process, port, folder / "log")
        server = Server(folder, Proxy(port), getpass.getuser())
        server.know()
        _log_in(server)
        yield server
        server.proxy.refuse()
        server.proxy.drop()
    finally:
        process.terminate()
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"sshd ended: {log.read_text()}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    pytest.fail(f"sshd does not answer: {log.read_text()}")


def _log_in(server: Server) -> None:
    """Skip where a bare client is not let in, as with an account that is locked."""
    command = [*shlex.split(server.command), "-p", str(server.proxy.port), f"{server.user}@127.0.0.1", "true"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"{server.user} cannot log in: {done.stderr} {(server.folder / 'log').read_text()[-500:]}"
        )
