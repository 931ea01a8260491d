"""The tables of ``benchmark_model --enable_op_profiling``: time per operator and per kind of operator.

Format after TensorFlow, tsl/util/stats_calculator.cc. Columns are separated by tabs, and which there are depends on the release: they are found
by their titles. The table "Top by Computation Time" repeats rows of "Run Order" and is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bench.parsers.text import number, whole

_SECTION = re.compile(
    r"(?:Profiling Info for (Benchmark Initialization)|Operator-wise Profiling Info for (Regular Benchmark Runs)):?"
)
_TITLE = re.compile(r"=+ (Run Order|Top by .*|Summary by node type) =+")
_FOOT = re.compile(
    r"Number of nodes executed: [0-9]+|Timings \(microseconds\): count=.*|Memory \(bytes\): count=.*|[0-9]+ nodes observed"
)
_COLUMN = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Op:
    """One operator in the order of execution, times in ms of one pass."""

    kind: str
    name: str
    first_ms: float | None
    avg_ms: float | None
    percent: float | None
    memory_kb: float | None
    calls: int | None


@dataclass(frozen=True)
class Kind:
    """All operators of one kind together."""

    kind: str
    count: int | None
    avg_ms: float | None
    percent: float | None
    memory_kb: float | None
    calls: int | None


@dataclass(frozen=True)
class Profile:
    """Tables of the initialization and of the measured runs."""

    initialization: tuple[Op, ...] = ()
    ops: tuple[Op, ...] = ()
    kinds: tuple[Kind, ...] = ()


@dataclass
class _Tables:
    """What the reader has; ``columns`` is empty outside a table, ``ordered`` once the section's run order came."""

    section: str = ""
    title: str = ""
    ordered: bool = False
    columns: tuple[str, ...] = ()
    initialization: list[Op] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)


class ProfileReader:
    """Reads the tables out of a log, line by line."""

    def __init__(self) -> None:
        self._tables = _Tables()

    def read(self, message: str) -> bool:
        """Whether the line belongs to a table."""
        tables, text = self._tables, message.strip()
        section = _SECTION.fullmatch(text)
        if section:
            tables.section, tables.title = section[1] or section[2], ""
            tables.columns, tables.ordered = (), False
            return True
        if not tables.section:
            return False
        title = _TITLE.fullmatch(text)
        if title:
            tables.title, tables.columns = title[1], ()
            return True
        if text.lower().startswith("[node type]"):
            self._header(text)
            return True
        if not tables.columns or "\t" not in text:
            if not text and tables.columns:
                tables.title, tables.columns = "", ()
            return _FOOT.fullmatch(text) is not None
        return self._row([part.strip() for part in text.split("\t")])

    def _header(self, text: str) -> None:
        tables = self._tables
        if "[count]" in text:
            tables.title = "Summary by node type"
        elif not tables.title or tables.columns or tables.title.startswith("Summary"):
            # some releases leave the titles out: run order comes first
            tables.title = "Top by Computation Time" if tables.ordered else "Run Order"
        tables.ordered = tables.ordered or tables.title == "Run Order"
        tables.columns = tuple(name.strip().lower() for name in _COLUMN.findall(text))

    def _row(self, parts: list[str]) -> bool:
        tables = self._tables
        if len(parts) != len(tables.columns):
            return False
        cells = dict(zip(tables.columns, parts, strict=True))
        kind = cells["node type"]
        memory, calls = number(cells.get("mem kb", "")), whole(cells.get("times called", ""))
        if tables.title == "Run Order":
            rows = tables.ops if tables.section.startswith("Regular") else tables.initialization
            values = (
                number(cells.get("first", "")),
                number(cells.get("avg ms", "")),
                _percent(cells.get("%", "")),
            )
            rows.append(Op(kind, cells.get("name", ""), *values, memory, calls))
        elif tables.title.startswith("Summary") and tables.section.startswith("Regular"):
            count, avg = whole(cells.get("count", "")), number(cells.get("avg ms", ""))
            tables.kinds.append(Kind(kind, count, avg, _percent(cells.get("avg %", "")), memory, calls))
        return True

    def done(self) -> Profile | None:
        """What was read; None when there was no table."""
        tables = self._tables
        if not tables.section:
            return None
        return Profile(tuple(tables.initialization), tuple(tables.ops), tuple(tables.kinds))


def _percent(text: str) -> float | None:
    return number(text.removesuffix("%"))
