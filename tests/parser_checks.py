"""What every parser is held to: hostile text never raises, and every number of a result stands in the text."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parent / "fixtures_tools"
EXAMPLES = settings(
    max_examples=int(os.environ.get("EDGEFIT_FUZZ_EXAMPLES", "200")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NASTY = (
    *(
        "nan",
        "-nan",
        "inf",
        "NaN",
        "1e400",
        "1e-400",
        "-1",
        "1" * 400,
        "0x10",
        "1_000",
        "٣",
        "1,5",
        "--",
        "%",
        "\0",
    ),
    *(
        " ",
        "\t",
        "\n",
        "\r\n",
        ":",
        "=",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "@",
        "/",
        ";",
        '"',
        "'",
        "ms",
        "mW",
        "C",
        "x" * 20_000,
    ),
)
TOKEN = re.compile(r"([0-9]+)(?:\.([0-9]*))?(?:[eE]([-+]?[0-9]+))?")


def fixture(tool: str, name: str) -> str:
    """One fixture's text."""
    return (FIXTURES / tool / f"{name}.txt").read_text()


@functools.cache
def fixtures(tool: str) -> list[str]:
    """All texts of a tool, in a fixed order."""
    return [path.read_text() for path in sorted((FIXTURES / tool).glob("*.txt"))]


@functools.cache
def _words(tool: str) -> list[str]:
    return sorted({word for text in fixtures(tool) for word in text.split(" ")})


def _wounded(tool: str, seed: int) -> str:
    """A fixture with a few wounds: parts cut out, doubled, exchanged, or replaced by nonsense."""
    draw = random.Random(seed)
    text = draw.choice(fixtures(tool))
    for _ in range(draw.randint(1, 5)):
        start, size = draw.randint(0, len(text)), draw.randint(0, 30)
        before, part, after = text[:start], text[start : start + size], text[start + size :]
        nonsense = draw.choice(NASTY)
        text = draw.choice(
            (before + after, before + part * 2 + after, before + nonsense + after, before + nonsense, after)
        )
    # without a zero in the text a zero in the result is an invented one
    return text.replace("0", "8") if draw.randint(0, 1) else text


def _shuffled(tool: str, seed: int) -> str:
    """Lines of a tool's own words in any order, with nonsense and arbitrary characters in between."""
    draw = random.Random(seed)

    def word() -> str:
        kind = draw.randint(0, 9)
        if kind < 7:
            return draw.choice(_words(tool))
        if kind < 9:
            return draw.choice(NASTY[:-1])
        return "".join(chr(draw.randint(0, 0xD7FF)) for _ in range(draw.randint(0, 8)))

    lines = (" ".join(word() for _ in range(draw.randint(0, 8))) for _ in range(draw.randint(0, 8)))
    return "\n".join(lines)


def hostile(tool: str) -> st.SearchStrategy[str]:
    """Wounded fixtures, shuffled words and plain random text; made from one drawn number, which is ten times as fast as many."""
    seeds = st.integers(0, 2**48)
    return st.one_of(
        seeds.map(lambda seed: _wounded(tool, seed)),
        seeds.map(lambda seed: _shuffled(tool, seed)),
        st.text(max_size=100),
    )


def _numbers(value: Any, skip: frozenset[str]) -> Iterator[float]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name not in skip:
                yield from _numbers(getattr(value, field.name), skip)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _numbers(entry, skip)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _numbers(entry, skip)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _key(value: float) -> str:
    return f"{abs(value):.10e}"


def _printed(text: str) -> set[str]:
    """Keys of every number that can be read out of the text."""
    found = set()
    for whole, fraction, power in TOKEN.findall(text):
        readings = [
            whole,
            fraction,
            power,
            f"{whole}.{fraction}",
            f"{whole}e{power}",
            f"{whole}.{fraction}e{power}",
        ]
        for reading in readings:
            try:
                value = float(reading)
            except ValueError:
                continue
            if math.isfinite(value):
                found.add(_key(value))
    return found


def check_honest(result: Any, text: str, scales: tuple[float, ...] = (), skip: tuple[str, ...] = ()) -> None:
    """Every number of the result is finite and printed in the text, or printed in a unit ``scales`` times smaller.

    ``skip`` names fields that count lines or places instead of reading a number.
    """
    printed = _printed(text)
    for value in _numbers(result, frozenset(skip)):
        assert math.isfinite(value), value
        assert any(_key(value * scale) in printed for scale in (1.0, *scales)), (value, text)
