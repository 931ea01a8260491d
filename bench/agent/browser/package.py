"""What the browser runtimes need beside Python packages: Chromium, and the pinned files of onnxruntime-web."""

from __future__ import annotations

import os
import shutil
from typing import List, Optional

NAME = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the published archive (``dist.integrity`` in the npm registry's metadata; W3C, *Subresource Integrity*)."""
ENTRY = {"wasm": "ort.wasm.min.mjs", "webgpu": "ort.webgpu.min.mjs"}
"""The module that a page imports, by execution provider."""
BINARIES = {"wasm": "ort-wasm-simd-threaded", "webgpu": "ort-wasm-simd-threaded.asyncify"}
"""What that module loads, as ``.mjs`` and ``.wasm``."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "EDGEFIT_CHROMIUM"


def files(provider: str) -> List[str]:
    """The files of the package that a provider needs."""
    return [ENTRY[provider], BINARIES[provider] + ".mjs", BINARIES[provider] + ".wasm"]


def folder() -> str:
    """Where the files of this version are kept."""
    return os.path.join(os.path.expanduser("~"), ".cache", "edgefit", "%s-%s" % (NAME, VERSION))


def missing(provider: str) -> List[str]:
    """The files that are not there yet."""
    return [name for name in files(provider) if not os.path.isfile(os.path.join(folder(), name))]


def chromium() -> Optional[str]:
    """The system's Chromium or Chrome: what EDGEFIT_CHROMIUM names, else the first on the PATH; None where there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named)
    return next((path for path in map(shutil.which, CHROMIUM) if path), None)
