"""A line of the doctor's report, and the words and commands that its checks share."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal

from bench.measure.doctor.look import Look
from bench.runtimes.base import Probe

Grade = Literal["ok", "warning", "problem"]
IN_A_VM = (
    "Nothing can be done from inside a virtual machine: use dedicated or bare-metal CPUs, or "
    "measure often and compare interleaved pairs"
)
NO_REMEDY = "The documentation of what is missing says how to get it"
PROCESSES = "ps -eo pid,ni,pcpu,rss,comm --sort={} | head -n 8"
COMMAND = re.compile(r"(?:[A-Z][^:;\n]*: )?((?:sudo|pip|echo|chmod|nvidia-smi)\b[^;#(\n]*)(.*)", re.DOTALL)
"""What a probe's remedy begins with when it is, or names, a command: ``Install it with: pip install ...``."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Args:
        check: what was looked at, one or two words.
        grade: ``ok``, ``warning`` (widens intervals or hides something), ``problem`` (numbers will be wrong or missing).
        text: what was found and, unless ok, what it does to a measurement.
        todo: what to do, one sentence; empty where the command says it all.
        command: one line for a shell; empty where no command helps, and then ``todo`` says what does.
    """

    check: str
    grade: Grade
    text: str
    todo: str = ""
    command: str = ""


def remedy(probe: Probe) -> tuple[str, str]:
    """A probe's remedy as (sentence, command); never both empty. An aside in brackets stays a sentence."""
    found = COMMAND.match(probe.remedy)
    if found is None:
        return " ".join(probe.remedy.split()) or NO_REMEDY, ""
    aside = found[2].strip()
    return aside.strip("()") if aside.startswith("(") and "\n" not in aside else "", found[1].strip()


def set_command(look: Look, value: str, path: str) -> str:
    """The command that writes a value to a system file (``*`` in its path stays a pattern)."""
    place = "/" + path.lstrip("/")
    return f"echo {value} | {sudo(look)}tee {place if '*' in place else shlex.quote(place)}"


def sudo(look: Look) -> str:
    return "" if look.superuser else "sudo "


def count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
