"""What the page may fetch: a fixed list of names behind a random token, on the loopback interface only."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, Tuple, Union

HEADERS = {
    # both make a page cross-origin isolated: shared memory for threads, the finer clock (HTML standard, section 7.1.3)
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.2
"""How often the server looks whether it is to end."""


class Server:
    """Serves what was :meth:`put`, under ``http://127.0.0.1:PORT/TOKEN/NAME``; everything else is 404.

    Names are looked up in a table and are never paths, so there is nothing to climb out of.
    """

    def __init__(self) -> None:
        self._served: Dict[str, Union[bytes, str]] = {}
        self._token = secrets.token_urlsafe(24)
        self._http = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(POLL_SECONDS,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def put(self, name: str, content: Union[bytes, str]) -> str:
        """Serve bytes, or the file at a path, under a name; returns its address."""
        self._served[name] = content
        return self.address(name)

    def drop(self, name: str) -> None:
        """Serve this no longer."""
        self._served.pop(name, None)

    def address(self, name: str) -> str:
        return "http://%s:%d/%s/%s" % (LOOPBACK, self.port, self._token, name)

    def find(self, target: str) -> Tuple[str, Union[bytes, str, None]]:
        """The name and content of a request's target; None where there is none, or the token is wrong."""
        token, _, name = target[1:].partition("/")
        known = target[:1] == "/" and secrets.compare_digest(token.encode(), self._token.encode())
        return name, self._served.get(name) if known else None

    def close(self) -> None:
        """Take no more connections."""
        self._http.shutdown()
        self._http.server_close()


def _handler(server: Server) -> Any:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name, content = server.find(self.path)
            try:
                if isinstance(content, str):
                    with open(content, "rb") as file:
                        self._answer(200, name, os.fstat(file.fileno()).st_size)
                        shutil.copyfileobj(file, self.wfile)
                else:
                    self._answer(404 if content is None else 200, name, len(content or b""))
                    self.wfile.write(content or b"")
            except (BrokenPipeError, ConnectionResetError):  # the page was closed
                self.close_connection = True

        def _answer(self, status: int, name: str, length: int) -> None:
            self.send_response(status)
            kind = TYPES.get(os.path.splitext(name)[1], "application/octet-stream")
            for key, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """The worker's messages are for what went wrong."""

    return Handler
