"""Bounded text and strict numbers, shared by the parsers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

MAX_CHARS = 4_000_000
"""Longer text loses its middle: a log's options are at its beginning, its results at its end."""
MAX_LINE = 16_000
"""Longer lines are not looked at: no tool writes them."""
MAX_JSON = 64_000_000
COLDEST_C, HOTTEST_C = -100.0, 200.0
"""A sensor that is off reads -256 on Jetson; beyond these nothing was measured."""

_NUMBER = re.compile(r"[-+]?[0-9]{1,18}(?:\.[0-9]{0,40})?(?:[eE][-+]?[0-9]{1,3})?")
_WHOLE = re.compile(r"[0-9]{1,18}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")

Convert = Callable[[str], Any]


def number(text: str) -> float | None:
    """A finite decimal number; None for anything else, also for one that a float cannot hold."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    vanished = value == 0.0 and re.search("[1-9]", re.split("[eE]", text)[0]) is not None
    return None if math.isinf(value) or vanished else value


def whole(text: str) -> int | None:
    """A whole number of at most 18 digits, without a sign."""
    return int(text) if _WHOLE.fullmatch(text) else None


def integer(text: str) -> int | None:
    """A whole number of at most 18 digits, with or without a minus."""
    return int(text) if _INTEGER.fullmatch(text) else None


def percent(text: str) -> int | None:
    """A load: a whole number up to 100."""
    value = whole(text)
    return value if value is not None and value <= 100 else None


def celsius(text: str) -> float | None:
    """A temperature that a sensor can have measured."""
    value = number(text)
    return value if value is not None and COLDEST_C <= value <= HOTTEST_C else None


def flag(text: str) -> bool | None:
    """``true``/``false``, ``Enabled``/``Disabled``, ``1``/``0``, in any case."""
    return {"true": True, "enabled": True, "1": True, "false": False, "disabled": False, "0": False}.get(
        text.lower()
    )


class Text:
    """A tool's output as lines; ``unknown`` collects what the parser does not understand."""

    def __init__(self, text: str) -> None:
        self.truncated = len(text) > MAX_CHARS
        if self.truncated:
            half = MAX_CHARS // 2
            head, tail = text[:half], text[-half:]
            # a line cut in two would show a number cut in two
            text = head[: head.rfind("\n") + 1] + (tail[tail.index("\n") + 1 :] if "\n" in tail else "")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        self.unknown = [line for line in lines if len(line) > MAX_LINE]
        self.lines = [line if len(line) <= MAX_LINE else "" for line in lines]

    def left(self, line: str) -> None:
        """Keep a line that nothing has understood; empty ones say nothing."""
        if line.strip():
            self.unknown.append(line)


class Fields:
    """Lines that hold one value each: (name, conversion, pattern with one group), the pattern for the whole line."""

    def __init__(self, *rules: tuple[str, Convert, str]) -> None:
        self._rules = [(name, convert, re.compile(pattern)) for name, convert, pattern in rules]

    def read(self, line: str, found: dict[str, Any]) -> bool:
        """Whether the line was understood; its value is then in ``found``."""
        for name, convert, pattern in self._rules:
            match = pattern.fullmatch(line)
            if match:
                value = convert(match[1])
                if value is not None:
                    found[name] = value
                return value is not None
        return False


def from_json(text: str) -> tuple[Any, str]:
    """(value, "") or (None, what is wrong); numbers that a float cannot hold become None."""
    if len(text) > MAX_JSON:
        return None, f"{len(text)} characters, more than {MAX_JSON}"
    try:
        value = json.loads(text, parse_float=number, parse_int=integer, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    return value, ""


def of_json(value: Any) -> float | None:
    """A JSON value that is a number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
