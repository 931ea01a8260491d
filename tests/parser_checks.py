"""What every parser is held to: hostile text never raises, and every number of a result stands in the text."""

from __future__ import annotations

import dataclasses
import math
import os
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


def fixtures(tool: str) -> list[str]:
    """All texts of a tool, in a fixed order."""
    return [path.read_text() for path in sorted((FIXTURES / tool).glob("*.txt"))]


@st.composite
def mutated(draw: st.DrawFn, tool: str) -> str:
    """A fixture with a few wounds: parts cut out, doubled, exchanged, or replaced by nonsense."""
    text = draw(st.sampled_from(fixtures(tool)))
    for _ in range(draw(st.integers(1, 5))):
        start, size = draw(st.integers(0, max(len(text) - 1, 0))), draw(st.integers(0, 30))
        before, part, after = text[:start], text[start : start + size], text[start + size :]
        kind = draw(st.integers(0, 4))
        other = draw(st.sampled_from(NASTY))
        text = (before + after, before + part * 2 + after, before + other + after, before + other, after)[
            kind
        ]
    return text


@st.composite
def shuffled(draw: st.DrawFn, tool: str) -> str:
    """Lines of a tool's own words in any order, with arbitrary text in between."""
    words = sorted({word for text in fixtures(tool) for word in text.split(" ")})
    word = st.one_of(st.sampled_from(words), st.sampled_from(NASTY[:-1]), st.text(max_size=8))
    lines = draw(st.lists(st.lists(word, max_size=8), max_size=8))
    return "\n".join(" ".join(line) for line in lines)


def hostile(tool: str) -> st.SearchStrategy[str]:
    """Wounded fixtures, shuffled words and plain random text."""
    return st.one_of(mutated(tool), shuffled(tool), st.text(max_size=200))


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
