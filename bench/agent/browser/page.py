"""A fresh Chromium with our page in it, asked through Playwright."""

from __future__ import annotations

import base64
import importlib
import os
import sys
from typing import Any, Dict, List, Sequence

import numpy as np

from . import clock, package
from .server import LOOPBACK, Server

Json = Dict[str, Any]
HERE = os.path.dirname(os.path.abspath(__file__))
OFFLINE = ("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE %s" % LOOPBACK)
"""No name is resolved: the browser reaches our server and nothing else."""
WEBGPU = ("--enable-unsafe-webgpu", "--enable-features=Vulkan")
"""Chromium on Linux wants to be asked for WebGPU."""
LAUNCH_SECONDS = 60.0
WEIGHED = {"wasm": ("renderer",), "webgpu": ("renderer", "GPU")}
"""Processes whose memory is the page's, by execution provider."""


class PageError(Exception):
    """What the page or the browser said when it could not do what it was asked."""


class Page:
    """One browser process with one page; ``facts`` are what it said of itself.

    Attributes:
        facts: ``version`` of ONNX Runtime Web, ``threads`` it will use, ``isolated`` (cross-origin), ``tick`` (the clock's
            step in seconds), ``gpu`` (WebGPU's adapter or None), ``browser``, ``sandbox``.
        server: what the page can fetch.
        pids: every process of the browser, and the driver's.
        weighed: those that hold the page.
    """

    def __init__(self, provider: str, threads: int) -> None:
        program = package.chromium()
        if program is None:
            raise PageError("there is no Chromium")
        self.server = Server()
        self._publish(provider)
        # Chromium's sandbox refuses to start for root
        sandbox = not hasattr(os, "geteuid") or os.geteuid() != 0
        self._driver = importlib.import_module("playwright.sync_api").sync_playwright().start()
        self._browser = self._driver.chromium.launch(
            executable_path=program,
            args=[*OFFLINE, *(WEBGPU if provider == "webgpu" else ())],
            chromium_sandbox=sandbox,
            timeout=LAUNCH_SECONDS * 1e3,
        )
        self._page = self._browser.new_page()
        self._page.goto(self.server.address("page.html"))
        self.facts = self.ask("start", provider, threads)
        self.facts.update(
            tick=clock.step(self.facts.pop("stamps")) * 1e-3,
            browser="Chromium %s" % self._browser.version,
            sandbox=sandbox,
        )
        self._find_processes(WEIGHED[provider])

    def _publish(self, provider: str) -> None:
        for name in ("page.html", "page.js"):
            self.server.put(name, os.path.join(HERE, name))
        entry, *binaries = package.files(provider)
        self.server.put("ort.mjs", os.path.join(package.folder(), entry))
        for name in binaries:
            self.server.put(name, os.path.join(package.folder(), name))

    def _find_processes(self, kinds: Sequence[str]) -> None:
        """By the browser's own list (Chrome DevTools Protocol, SystemInfo.getProcessInfo)."""
        found = self._browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        self.pids: List[int] = [p["id"] for p in found]
        self.weighed: List[int] = [p["id"] for p in found if p["type"] in kinds]
        self.pids += [parent for p in found if p["type"] == "browser" for parent in _driver_of(p["id"])]

    def ask(self, name: str, *given: Any) -> Any:
        """Have the page do something, and wait for its answer. Raises PageError."""
        try:
            answer = self._page.evaluate("([name, given]) => edgefit.ask(name, given)", [name, list(given)])
        except Exception as error:  # Playwright's own: the page crashed, the browser is gone
            raise PageError(str(error).partition("\n")[0]) from error
        if "error" in answer:
            raise PageError(answer["error"])
        return answer["value"]

    def output(self) -> np.ndarray:
        """The output of the last call."""
        found = self.ask("output")
        return np.frombuffer(base64.b64decode(found["base64"]), found["dtype"]).reshape(found["shape"])

    def close(self) -> None:
        """End the browser and wait until it is gone."""
        try:
            self._browser.close()
            self._driver.stop()
        except Exception as error:  # Playwright's own: it is gone already
            sys.stderr.write("closing the browser: %s\n" % str(error).partition("\n")[0])
        self.server.close()


def _driver_of(browser: int) -> List[int]:
    """The process that started the browser: Playwright's driver."""
    try:
        with open("/proc/%d/stat" % browser) as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return []
    return [parent] if parent > 1 and parent != os.getpid() else []
