"""The import rule, and that every module loads where only the light packages are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "bench" / "deploy" / "files"
"""Copied into deployment folders: programs of their own, no modules of ours."""
PACKAGES = ("bench", "distill", "compress", "hardware_profiles", "reports")
ALLOWED = {"bench.types", "bench.steps", "bench.errors", "bench.stats"}
MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for p in (ROOT / package).rglob("*.py")
    if p.name not in ("__init__.py", "__main__.py") and p.parent != SHIPPED
)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "bench" else node.module
                for alias in node.names
            }
    return found


@pytest.mark.parametrize("package", ["distill", "compress", "hardware_profiles", "reports"])
def test_siblings_import_only_the_shared_words_of_bench(package):
    allowed = ALLOWED | ({"bench.store"} if package == "reports" else set())
    for path in (ROOT / package).rglob("*.py"):
        wrong = {m for m in _imports(path) if m.split(".")[0] == "bench"} - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("module", ["bench.types", "bench.steps", "bench.errors", "bench.agent.timing"])
def test_the_shared_words_need_only_the_standard_library(module):
    path = ROOT / (module.replace(".", "/") + ".py")
    top = {m.split(".")[0] for m in _imports(path)} - {"bench", "__future__", "numpy"}
    assert top <= set(sys.stdlib_module_names), top


BLOCKER = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
BLOCKED = {"torch", "torchvision", "timm", "torch_pruning", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert",
    "ai_edge_quantizer", "openvino", "executorch", "flatbuffers", "codecarbon", "tensorrt", "playwright", "pynvml", "plotly", "pandas", "sklearn"}
sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_imports_without_the_heavy_packages():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER, *MODULES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_only_the_command_line_prints_or_exits():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if (
                path.parent == SHIPPED
                or name.startswith(("bench/cli", "bench/agent/"))
                or name == "bench/terminal.py"
            ):
                continue
            calls = {
                ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
            }
            assert not calls & {"print", "sys.exit", "exit", "click.echo"}, name
