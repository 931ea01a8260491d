"""Profiles: load, list and validate the TOML files that say what is known of a target.

One file a device in this folder; ``aliases`` give it other names. A path to a TOML file of the
user's own is a profile too. ``local`` is this machine: found, not written down, so it has no file.
What a file may hold is written down in ``schema.json`` and checked by :mod:`hardware_profiles.check`.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, nearest
from bench.types import Fact, Profile, Protocol
from hardware_profiles import check

FOLDER = Path(__file__).parent
LARGEST = 200_000
"""Bytes; a recipe or profile has some thousands."""
MOST_DOTS = 200
"""In a line. The time to parse a dotted key grows with the square of its parts: 50,000 take a minute."""
MOST_PROBLEMS = 20
"""That one error shows."""
BETWEEN = " | "
"""Between the sources of a fact that has several."""
TYPE_WORDS = {
    int: "a whole number", float: "a number", str: "a string", bool: "true or false", list: "a list", dict: "a table",
}  # fmt: skip
"""What errors call a type."""
LOCAL = Profile(
    name="local",
    title="this machine",
    kind="local",
    runtimes=("torch", "onnxruntime", "litert", "openvino", "executorch"),
    precisions=("fp32", "fp16", "bf16", "int8"),
    int8_scheme="u8s8",
)


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document as a dict. Raises ValueError where it is none."""
    try:
        parser = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        parser = importlib.import_module("tomli")
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"nested too deeply to be a configuration (line {number})")
    try:
        document: dict[str, Any] = parser.loads(text)
    except RecursionError as err:
        raise ValueError("nested too deeply to be a configuration") from err
    return document


def read_text(path: Path) -> str:
    """A configuration file's text. Raises ConfigError where it cannot be read or is too large."""
    try:
        if not path.is_file():
            raise ConfigError(f"There is no file {path}")
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} is too large to be a configuration", f"{path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path} cannot be read", str(err)) from err


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises ConfigError with file and line."""
    return _parsed(path, read_text(path))


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as err:
        raise ConfigError(f"{path} is not valid TOML", str(err), "Correct that line") from err


def _files() -> list[Path]:
    return sorted(FOLDER.glob("*.toml"), key=lambda path: path.stem)


def names() -> dict[str, tuple[str, ...]]:
    """Every built-in profile's name with its aliases; ``local`` first."""
    found: dict[str, tuple[str, ...]] = {"local": ()}
    for path in _files():
        before_tables = path.read_text(encoding="utf-8").partition("\n[")[0]  # a fifth of the time
        found[path.stem] = tuple(parse_toml(before_tables).get("aliases", ()))
    return found


def every() -> list[Profile]:
    """Every built-in profile; ``local`` first."""
    return [LOCAL, *(validate(path) for path in _files())]


def load(name: str) -> Profile:
    """The profile of that name, alias or file.

    Raises:
        ConfigError: unknown name (the nearest are offered) or an invalid file.
    """
    if name == "local":
        return LOCAL
    if name.endswith(".toml") or "/" in name:
        return validate(Path(name))
    own = FOLDER / f"{name}.toml"
    if check.NAME.fullmatch(name) and own.is_file():
        return validate(own)
    known = names()
    for profile, aliases in known.items():
        if name in aliases:
            return validate(FOLDER / f"{profile}.toml")
    called = [*known, *(a for aliases in known.values() for a in aliases)]
    raise ConfigError(
        f"There is no profile named {check.shown(name)}",
        todo=nearest(name, called, "`bench profiles list` shows all"),
    )


def validate(path: Path) -> Profile:
    """Read one profile file and check every key, type and value.

    Raises:
        ConfigError: naming the file and everything that is wrong with it, all at once.
    """
    text = read_text(path)
    return from_document(_parsed(path, text), str(path), text)


def from_document(data: dict[str, Any], where: str, text: str = "") -> Profile:
    """A parsed document as a Profile; ``where`` names it and ``text`` gives the lines in errors.

    Raises:
        ConfigError: everything that is wrong, each with its line and field.
    """
    problems = _some(check.shape(data)) or _some(check.meaning(data))
    if problems:
        seen = check.lines(text)
        lines = [_with_line(seen, p) for p in problems[:MOST_PROBLEMS]]
        lines += ["... and more"] if len(problems) > MOST_PROBLEMS else []
        listed = lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
        raise ConfigError(
            f"{where} is not a valid profile (hardware_profiles/schema.json has every key)", listed
        )
    return _profile(data)


def _some(problems: Any) -> list[check.Problem]:
    return list(itertools.islice(problems, MOST_PROBLEMS + 1))


def _with_line(seen: dict[check.Field, int], problem: check.Problem) -> str:
    line = check.line_of(seen, problem.field)
    return f"line {line}: {problem}" if line else str(problem)


def _profile(data: dict[str, Any]) -> Profile:
    sources = data.get("sources", {})
    protocol: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in data.get("protocol", {}).items()
    }
    return Profile(
        name=data["name"],
        title=data["title"],
        kind=data["kind"],
        runtimes=tuple(data["runtimes"]),
        host=data.get("host", ""),
        int8_scheme=data.get("int8_scheme", "u8s8"),
        round_to=data.get("round_to", 0),
        precisions=tuple(data["precisions"]),
        facts={k: Fact(**_cite(v, sources)) for k, v in data.get("facts", {}).items()},
        power_modes=tuple(_cite(mode, sources) for mode in data.get("power_modes", ())),
        protocol=Protocol(**protocol),
        notes=tuple(data.get("notes", ())),
        aliases=tuple(data.get("aliases", ())),
        unsupported=dict(data.get("unsupported", {})),
        calibration=tuple(data.get("calibration", ())),
        power=tuple(data.get("power", ())),
    )


def _cite(entry: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """Replace the short names of sources by their text from ``[sources]``."""
    cited = entry["source"] if isinstance(entry["source"], list) else [entry["source"]]
    return {**entry, "source": BETWEEN.join(str(sources.get(name, name)) for name in cited)}
