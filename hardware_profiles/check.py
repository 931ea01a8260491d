"""What is wrong with a profile's document: every problem with its field, found with the standard library alone.

:func:`shape` checks what ``schema.json`` says too (a test compares the two), :func:`meaning` what a schema
cannot say. Both yield problems one by one, so that a hostile file costs no more than is shown of it.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bench.errors import nearest

KINDS = ("local", "edge-gpu", "edge-asic", "arm-cpu", "phone", "server-gpu", "x86-cpu", "browser")
SCHEMES = ("u8s8", "u8s8-7bit", "s8s8", "litert")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
RUNTIMES = ("torch", "onnxruntime", "litert", "openvino", "executorch", "tensorrt")
CONFIDENCES = ("high", "medium", "low")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
KEY_WITH_DASHES = re.compile(r"[a-z][a-z0-9-]{0,31}")
HOST = re.compile(r"(local|ssh|adb)|(ssh|adb)://[^/\s]+")
HIDDEN = re.compile("[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of a line on a terminal."""
UNSUPPORTED = re.compile(
    rf"({'|'.join(RUNTIMES)})(-({'|'.join(PRECISIONS)}|[1-9][0-9]{{0,3}}))?|{'|'.join(PRECISIONS)}"
)
LARGEST_NUMBER = 1e15
LONGEST_TEXT = 2000

Field = tuple["str | int", ...]


class Problem(NamedTuple):
    """``field`` is where it is, from the outside in; ``text`` goes on after the field's name."""

    field: Field
    text: str

    def __str__(self) -> str:
        return f"{field_name(self.field)} {self.text}"


Check = Callable[[Field, Any], Iterator[Problem]]


def field_name(field: Field) -> str:
    """``facts.memory_gb``, ``power_modes[2].name``; the whole file where it is empty."""
    if not field:
        return "the file"
    parts = [f"[{p}]" if isinstance(p, int) else f".{_key(p)}" for p in field]
    return "".join(parts).lstrip(".")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_+-]{1,64}", key) else shown(key)


def shown(value: Any) -> str:
    """A value as an error shows it: short, printable, whatever it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else f"a whole number of {value.bit_length()} bits"
    if isinstance(value, float):
        return str(value)
    words = {list: "a list", dict: "a table", datetime.datetime: "a date", datetime.date: "a date"}
    return words.get(type(value), "a time")


# --- the kinds of values


def text(most: int = LONGEST_TEXT) -> Check:
    """One line of text of 1 to ``most`` characters."""

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, str):
            yield Problem(field, f"must be a string, not {shown(value)}")
        elif not value:
            yield Problem(field, "is empty")
        elif len(value) > most:
            yield Problem(field, f"has {len(value)} characters; at most {most} are read")
        elif HIDDEN.search(value):
            yield Problem(field, f"has control characters: {shown(value)}")

    return check


def matching(pattern: re.Pattern[str], what: str) -> Check:
    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, str) or not pattern.fullmatch(value) or HIDDEN.search(value):
            yield Problem(field, f"must be {what}, not {shown(value)}")

    return check


def one_of(known: tuple[str, ...]) -> Check:
    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, str) or value not in known:
            yield Problem(field, f"has {shown(value)}; known: {', '.join(known)}")

    return check


def whole(low: int = 1, high: float = LARGEST_NUMBER) -> Check:
    """A whole number from ``low`` to ``high``."""

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            limit = f" of {low} to {high}" if high < LARGEST_NUMBER else f" of at least {low}"
            yield Problem(field, f"must be a whole number{limit}, not {shown(value)}")

    return check


def number(below: float = LARGEST_NUMBER) -> Check:
    """A finite number above 0 and at most ``below``."""

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            yield Problem(field, f"must be a number, not {shown(value)}")
        elif not 0 < value <= below or math.isnan(value):
            yield Problem(field, f"must be above 0 and at most {below:g}, not {shown(value)}")

    return check


def listing(of: Check, what: str, unique: bool = False, least: int = 1) -> Check:
    """A list of at least ``least`` values; ``what`` names them."""

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield Problem(field, f"must be a list of {what}, not {shown(value)}")
            return
        if len(value) < least:
            yield Problem(field, "is empty")
        problems = [p for i, v in enumerate(value) for p in of((*field, i), v)]
        yield from problems
        if unique and not problems and len(set(value)) < len(value):
            yield Problem(field, "names something twice")

    return check


def table(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    """A table of known keys."""
    known = required | optional

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem(field, f"must be a table, not {shown(value)}")
            return
        missing = [key for key in required if key not in value]
        if missing:
            yield Problem(field, f"needs {_words(required)} ({_words(missing)} missing)")
        for key, entry in value.items():
            if key in known:
                yield from known[key]((*field, key), entry)
            else:
                yield Problem((*field, key), f"is not a known key. {nearest(key[:64], known)}")

    return check


def entries(of: Check, keys: re.Pattern[str], what: str) -> Check:
    """A table of keys that the writer chooses; ``what`` says of which kind."""

    def check(field: Field, value: Any) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem(field, f"must be a table, not {shown(value)}")
            return
        for key, entry in value.items():
            if not keys.fullmatch(key):
                yield Problem((*field, key), f"is no {what}")
            else:
                yield from of((*field, key), entry)

    return check


def _words(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _version(field: Field, value: Any) -> Iterator[Problem]:
    if value != 1 or not isinstance(value, int) or isinstance(value, bool):
        yield Problem(field, f"{shown(value)} is not known (this edgefit reads 1)")


def _name(field: Field, value: Any) -> Iterator[Problem]:
    if isinstance(value, str) and value.lower() == "local":
        yield Problem(field, "must not be local: that is this machine")
    else:
        what = "a string of letters, digits and . _ + - (64 at most, the first a letter or digit)"
        yield from matching(NAME, what)(field, value)


def _fact_value(field: Field, value: Any) -> Iterator[Problem]:
    if isinstance(value, str):
        yield from text()(field, value)
    elif isinstance(value, list):
        yield from listing(_scalar, "numbers and strings")(field, value)
    elif not isinstance(value, bool):
        yield from _scalar(field, value)


def _scalar(field: Field, value: Any) -> Iterator[Problem]:
    yield from (text() if isinstance(value, str) else number())(field, value)


def _source(field: Field, value: Any) -> Iterator[Problem]:
    yield from (listing(text(), "strings") if isinstance(value, list) else text())(field, value)


_FACT = table(
    {"value": _fact_value, "source": _source}, {"confidence": one_of(CONFIDENCES), "note": text()}
)  # fmt: skip
_CLOCKS = ("cpu_mhz", "gpu_mhz", "memory_mhz", "dla_mhz")
_MODE = table(
    {"name": text(64), "source": _source},
    {"id": whole(0), "cpu_cores": whole(), "gpu_tpcs": whole(), **{clock: number() for clock in _CLOCKS}},
)
_TERM = re.compile("[a-z][a-z0-9]{0,31}")
_TERMS = entries(number(), _TERM, "term of a prediction")
_CALIBRATION = table(
    {
        "runtime": matching(KEY_WITH_DASHES, "the name of a runtime"),
        "precision": one_of(PRECISIONS),
        "nets": whole(),
        "rows": whole(),
        "sources": listing(text(), "strings", least=0),
        "coefficients": _TERMS,
        "deviations": _TERMS,
    },
    {"threads": whole(1, 4096), "power_mode": text(64), "error": number(), "versions": number()},
)
_POWER = table(
    {
        "unit": one_of(("cpu", "accelerator")),
        "precision": one_of(PRECISIONS),
        "watts": number(),
        "deviation": number(),
        "rows": whole(),
    },
    {"power_mode": text(64), "sources": listing(text(), "strings", least=0)},
)
_COUNTS = listing(whole(), "positive numbers")
_PROTOCOL = table(
    {},
    {
        "processes": whole(),
        "half_width": number(1),
        "min_runs": whole(),
        "max_seconds": number(),
        "warmup_seconds": number(),
        "timeout_seconds": number(),
        "batches": _COUNTS,
        "threads": _COUNTS,
        "cpus": listing(whole(0), "CPU numbers"),
    },
)
_PROFILE = table(
    {
        "schema": _version,
        "name": _name,
        "title": text(120),
        "kind": one_of(KINDS),
        "runtimes": listing(one_of(RUNTIMES), "runtimes", unique=True),
        "precisions": listing(one_of(PRECISIONS), "precisions", unique=True),
    },
    {
        "aliases": listing(_name, "names", unique=True, least=0),
        "host": matching(HOST, "ssh, adb, local, ssh://... or adb://..."),
        "int8_scheme": one_of(SCHEMES),
        "round_to": whole(1, 256),
        "notes": listing(text(), "strings", least=0),
        "protocol": _PROTOCOL,
        "sources": entries(text(), KEY, "short name of a source (small letters, digits and _)"),
        "unsupported": entries(
            text(), UNSUPPORTED, "precision, runtime, RUNTIME-PRECISION or RUNTIME-MAJOR_VERSION"
        ),
        "facts": entries(_FACT, KEY, "name of a fact (small letters, digits and _)"),
        "power_modes": listing(_MODE, "tables", least=0),
        "calibration": listing(_CALIBRATION, "tables", least=0),
        "power": listing(_POWER, "tables", least=0),
    },
)


def shape(data: dict[str, Any]) -> Iterator[Problem]:
    """Keys, types and values, as in ``schema.json``; and no NaN, which a schema cannot name."""
    return _PROFILE((), data)


def meaning(data: dict[str, Any]) -> Iterator[Problem]:
    """What contradicts itself in a document of the right shape."""
    sources = data.get("sources", {})
    cited: list[tuple[Field, Any]] = [
        (("facts", key, "source"), fact["source"]) for key, fact in data.get("facts", {}).items()
    ]
    cited += [
        (("power_modes", i, "source"), mode["source"]) for i, mode in enumerate(data.get("power_modes", ()))
    ]
    for field, source in cited:
        for name in source if isinstance(source, list) else [source]:
            if KEY.fullmatch(name) and name not in sources:
                hint = nearest(name, sources) if sources else "Give the source in words, or add [sources]"
                yield Problem(field, f"{shown(name)} is not in [sources]. {hint}")
    for precision in data.get("unsupported", {}):
        if precision in data["precisions"]:
            yield Problem(("unsupported", precision), "is also in precisions")
    if data["name"] in data.get("aliases", ()):
        yield Problem(("aliases",), "has the name itself")


# --- lines


def lines(document: str) -> dict[Field, int]:
    """Where (the line, from 1) each table and key of a TOML text begins.

    Reads headers and keys as people write them, one a line: a hint for an error, not a parser.
    """
    seen: dict[Field, int] = {}
    arrays: dict[Field, int] = {}
    head: Field = ()
    for number_, line in enumerate(document.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([\w+.\"'-]+)\s*\]", line)
        key = re.match(r"\s*(?:([\w+-]+)|\"([^\"]{1,64})\")\s*=", line)
        if header:
            head = tuple(part.strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                arrays[head] = arrays.get(head, -1) + 1
                seen.setdefault(head, number_)
                head = (*head, arrays[head])
            for end in range(1, len(head) + 1):
                seen.setdefault(head[:end], number_)
        elif key:
            seen.setdefault((*head, key[1] or key[2]), number_)
    return seen


def line_of(seen: dict[Field, int], field: Field) -> int | None:
    """The line of a field, or of the innermost table around it; None where neither is found."""
    return next((seen[field[:end]] for end in range(len(field), 0, -1) if field[:end] in seen), None)
