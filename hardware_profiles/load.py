"""Profiles: load, list and validate the TOML files that say what is known of a target.

One file a device in this folder; ``aliases`` give it other names. A path to a TOML file of the
user's own is a profile too. ``local`` is this machine: found, not written down, so it has no file.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, nearest
from bench.types import Fact, Profile, Protocol

FOLDER = Path(__file__).parent
LARGEST = 1_000_000
"""Bytes; a recipe or profile has some thousands."""
KINDS = ("local", "edge-gpu", "arm-cpu", "phone", "server-gpu", "x86-cpu", "browser")
SCHEMES = ("u8s8", "u8s8-7bit", "s8s8", "litert")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
RUNTIMES = ("torch", "onnxruntime", "litert", "openvino", "executorch", "tensorrt")
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

_REQUIRED = {"schema": int, "name": str, "title": str, "kind": str, "runtimes": list, "precisions": list}
_OPTIONAL = {
    "aliases": list, "host": str, "sources": dict, "int8_scheme": str, "round_to": int, "facts": dict, "power_modes": list,
    "protocol": dict, "notes": list,
}  # fmt: skip


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document as a dict. Raises ValueError where it is none."""
    try:
        parser = importlib.import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        parser = importlib.import_module("tomli")
    try:
        document: dict[str, Any] = parser.loads(text)
    except RecursionError as err:
        raise ValueError("nested too deeply to be a configuration") from err
    return document


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict. Raises ConfigError with file and line."""
    if not path.is_file():
        raise ConfigError(f"There is no file {path}")
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} is too large to be a configuration", f"{path.stat().st_size:,} bytes")
        return parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} cannot be read", str(err)) from err
    except ValueError as err:
        raise ConfigError(f"{path} is not valid TOML", str(err), "Correct that line") from err


def names() -> dict[str, tuple[str, ...]]:
    """Every built-in profile's name with its aliases; ``local`` first."""
    found: dict[str, tuple[str, ...]] = {"local": ()}
    for path in sorted(FOLDER.glob("*.toml")):
        found[path.stem] = tuple(read_toml(path).get("aliases", ()))
    return found


def load(name: str) -> Profile:
    """The profile of that name, alias or file.

    Raises:
        ConfigError: unknown name (the nearest are offered) or an invalid file.
    """
    if name == "local":
        return LOCAL
    if name.endswith(".toml") or "/" in name:
        return validate(Path(name))
    known = names()
    for profile, aliases in known.items():
        if name == profile or name in aliases:
            return validate(FOLDER / f"{profile}.toml")
    every = [*known, *(a for aliases in known.values() for a in aliases)]
    raise ConfigError(f"There is no profile named {name!r}", todo=nearest(name, every))


def validate(path: Path) -> Profile:
    """Read one profile file and check every key, type and value.

    Raises:
        ConfigError: naming the file and everything that is wrong with it, all at once.
    """
    data = read_toml(path)
    problems = _problems(data)
    if problems:
        raise ConfigError(
            f"{path} is not a valid profile", "; ".join(problems), "See hardware_profiles/*.toml for examples"
        )
    sources = data.get("sources", {})
    return Profile(
        name=data["name"],
        title=data["title"],
        kind=data["kind"],
        runtimes=tuple(data["runtimes"]),
        host=data.get("host", ""),
        int8_scheme=data.get("int8_scheme", "u8s8"),
        round_to=data.get("round_to", 8),
        precisions=tuple(data["precisions"]),
        facts={k: Fact(**_cite(v, sources)) for k, v in data.get("facts", {}).items()},
        power_modes=tuple(_cite(mode, sources) for mode in data.get("power_modes", ())),
        protocol=Protocol(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in data.get("protocol", {}).items()}
        ),
        notes=tuple(data.get("notes", ())),
    )


def _cite(entry: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    """Replace the short name of a source by its text from ``[sources]``."""
    source = entry.get("source", "")
    return {**entry, "source": sources.get(source, source)}


def _problems(data: dict[str, Any]) -> list[str]:
    found = [f"{key} is missing" for key in _REQUIRED if key not in data]
    known = _REQUIRED | _OPTIONAL
    for key, value in data.items():
        if key not in known:
            found.append(f"unknown key {key!r}. {nearest(key, known)}")
        elif not isinstance(value, known[key]) or isinstance(value, bool):
            found.append(f"{key} must be {TYPE_WORDS[known[key]]}, not {value!r}")
    if found:
        return found
    if data["schema"] != 1:
        found.append(f"schema {data['schema']} is not known (this edgefit reads 1)")
    found += _one_of("kind", [data["kind"]], KINDS) + _one_of("runtimes", data["runtimes"], RUNTIMES)
    found += _one_of("precisions", data["precisions"], PRECISIONS)
    found += _one_of("int8_scheme", [data.get("int8_scheme", "u8s8")], SCHEMES)
    if not 1 <= data.get("round_to", 8) <= 256:
        found.append(f"round_to must be 1 to 256, not {data['round_to']}")
    found += _fact_problems(data.get("facts", {})) + _protocol_problems(data.get("protocol", {}))
    return found


def _one_of(key: str, values: list[Any], known: tuple[str, ...]) -> list[str]:
    if not values:
        return [f"{key} is empty"]
    return [f"{key} has {v!r}; known: {', '.join(known)}" for v in values if v not in known]


def _fact_problems(facts: dict[str, Any]) -> list[str]:
    found = []
    for name, fact in facts.items():
        if not isinstance(fact, dict) or not {"value", "source"} <= set(fact) <= {
            "value",
            "source",
            "confidence",
        }:
            found.append(f"facts.{name} needs value and source (and may have confidence)")
        elif (
            isinstance(fact["value"], (int, float))
            and not isinstance(fact["value"], bool)
            and fact["value"] <= 0
        ):
            found.append(f"facts.{name} must be above 0, not {fact['value']}")
        elif fact.get("confidence", "medium") not in ("high", "medium", "low"):
            found.append(f"facts.{name}.confidence must be high, medium or low")
    return found


def _protocol_problems(protocol: dict[str, Any]) -> list[str]:
    defaults = Protocol()
    found = []
    for key, value in protocol.items():
        if not hasattr(defaults, key):
            found.append(f"unknown key protocol.{key!r}. {nearest(key, vars(defaults))}")
            continue
        values = value if isinstance(value, list) else [value]
        wants_list = isinstance(getattr(defaults, key), tuple)
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
        if wants_list != isinstance(value, list) or not values or not numbers:
            found.append(
                f"protocol.{key} must be {'a list of positive numbers' if wants_list else 'a positive number'}"
            )
    return found
