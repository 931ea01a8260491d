"""What a person installs: the wheel's contents, and a README whose commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from bench.cli import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "edgefit"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    if not source.exists():
        pytest.skip("not a git checkout: what belongs to the source is not known")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_is_small_and_holds_code_recipes_profiles_and_templates(wheel):
    assert wheel.stat().st_size < 1_000_000
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = ("bench", "compress", "distill", "hardware_profiles", "reports")
    tracked = {p.relative_to(ROOT).as_posix() for k in packages for p in (ROOT / k).rglob("*") if p.is_file()}
    wanted = {n for n in tracked if "__pycache__" not in n and not n.endswith("README.md")}
    assert wanted <= names, wanted - names
    assert {n.split("/")[0] for n in names} == {
        *packages,
        next(n for n in names if ".dist-info/" in n).split("/")[0],
    }


def test_extras_are_those_whose_code_exists(wheel):
    metadata = zipfile.ZipFile(wheel)
    text = metadata.read(next(n for n in metadata.namelist() if n.endswith("METADATA"))).decode()
    assert set(re.findall(r"^Provides-Extra: (\S+)", text, re.M)) == {
        "litert",
        "openvino",
        "executorch",
        "loadgen",
        "codecarbon",
        "tune",
        "browser",
        "history",
        "coreml",
        "all",
        "dev",
    }


def _commands() -> list[str]:
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [
        line.removeprefix("$ ").split("  #")[0].strip() for block in blocks for line in block.splitlines()
    ]
    return [line for line in lines if line]


@pytest.mark.parametrize("command", [c for c in _commands() if c.startswith("bench ")])
def test_the_commands_of_the_readme_parse(command):
    arguments = shlex.split(command)[1:]
    name, sub, rest = cli.resolve_command(click.Context(cli), arguments)
    assert name
    if not isinstance(sub, click.Group):
        sub.make_context(name, rest)  # raises for an unknown option, a missing or a wrong value


def test_the_readme_names_the_two_commands_that_exist():
    makes = {c for c in _commands() if c.startswith("make ")}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert makes == {"make demo", "make test"} and {"demo", "test"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_pins_are_exact_and_name_no_index():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    assert lines and all(re.match(r"[A-Za-z0-9._-]+==[^ ]+( ; .*)?$", line) for line in lines)
