"""What `bench gate` and `bench compare` found: one document, and how the terminal, a pull request, JUnit and GitHub show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.errors import EdgefitError, UsageError
from bench.types import SCHEMA, Json, Quantity, to_json
from reports import text

WORST = ("FAILED", "REGRESSED", "INCONCLUSIVE")
"""The worst line names the whole, whatever the exit code is; with none of these it PASSED, and without a line all is NEW."""
MEANING = {
    "REGRESSED": "worse by more than the limit, beyond chance",
    "IMPROVED": "better by more than the limit, beyond chance",
    "SAME": "the whole interval is inside the limit",
    "NOT WORSE": "the interval excludes worse by more than the limit, and not that it is better",
    "INCONCLUSIVE": "too little is known to say",
    "FAILED": "it could not be measured or compared",
}
MODES = {
    "paired": "paired (both measured now, by turns; 99.5% intervals)",
    "recorded": "recorded (numbers of two times; 99.5% intervals)",
    "exact": "known exactly",
    "answers": "exact McNemar test on the answers to the same images, 95% intervals",
    "unpaired": "two numbers as of independent samples (Newcombe's interval, too wide where the images are the same ones); "
    "McNemar's test wants the answers to each image, which a report in JSON does not keep",
    "failed": "nothing was compared",
    "identical": "one record on both sides, every sample is the same",
}
STYLES = {
    "REGRESSED": "bold red",
    "FAILED": "bold red",
    "IMPROVED": "green",
    "SAME": "green",
    "NOT WORSE": "green",
    "INCONCLUSIVE": "yellow",
}
SUFFIXES = (".md", ".xml", ".json")


def to_document(checked: Any, base: Any, head: Any, code: int) -> Json:
    """The JSON document of a ``bench.gate.lines.Checked`` and its two ``bench.gate.sides.Source``: ``verdict``, ``exit_code``, ``base``, ``head``, ``lines``, what only one side has, ``notes``."""
    counts: dict[str, int] = {}
    for line in checked.lines:
        counts[line.verdict] = counts.get(line.verdict, 0) + 1
    return {
        "schema": SCHEMA,
        "verdict": next((v for v in WORST if v in counts), "PASSED" if counts else "NEW"),
        "exit_code": code,
        "base": {"title": base.title, "commit": base.commit},
        "head": {"title": head.title, "commit": head.commit},
        "counts": counts,
        "seconds": round(checked.seconds, 1),
        "lines": [_line(line) for line in checked.lines],
        "only_base": [s.label for s in checked.only_base],
        "only_head": [s.label for s in checked.only_head],
        "notes": list(checked.notes),
        "pairs": checked.pairs,
    }


def not_checked(error: EdgefitError, base: str, head: str) -> Json:
    """The document of a check that came to no verdict: one line, FAILED, which says why."""
    none = Quantity.missing(str(error)).to_json()
    shown = dict.fromkeys(("base", "head", "change", "limit"), text.MISSING)
    line = {
        "subject": head, "metric": "all", "mode": "failed", "gate": None, "base": none, "head": none, "change": none,
        "verdict": "FAILED", "p": None, "smallest": None, "note": str(error), "place": None, "shown": shown,
        "sentence": f"{head}: {error}",
    }  # fmt: skip
    sides = {"base": {"title": base, "commit": ""}, "head": {"title": head, "commit": ""}}
    return {
        "schema": SCHEMA, "verdict": "FAILED", "exit_code": error.exit_code, **sides, "counts": {"FAILED": 1},
        "seconds": 0.0, "lines": [line], "only_base": [], "only_head": [], "notes": [], "pairs": {},
    }  # fmt: skip


def _line(line: Any) -> Json:
    shown = {
        "base": _value(line, line.base),
        "head": _value(line, line.head),
        "change": _change(line),
        "limit": _limit(line),
    }
    return {
        "subject": line.subject.label,
        **{key: value for key, value in to_json(line).items() if key != "subject"},
        "place": to_json(line.subject),
        "shown": shown,
        "sentence": f"{line.subject.label}, {line.metric}: {shown['change']} ({shown['base']} to {shown['head']}), limit {shown['limit']}"
        + (f"; {line.note}" if line.note else ""),
    }


def _value(line: Any, quantity: Quantity) -> str:
    if quantity.value is None:
        return text.MISSING
    if line.metric == "size":
        return text.size(quantity)
    if line.metric == "accuracy":
        return f"{quantity.value * 100:.1f}%"
    return f"{text.mark(quantity)}{text.number(quantity.value)} {quantity.unit}"


def _change(line: Any) -> str:
    """``+5.1% [+4.0, +6.2]``, or points of accuracy."""
    found = line.change
    if found.value is None:
        return text.MISSING
    unit = "%" if found.unit == "ratio" else "pt"
    if found.low == found.high == found.value:
        return f"{found.value * 100:+.1f}{unit}" if found.value else f"0{unit}"
    shown = text.points(found, sign="+")
    value, _, bounds = shown.partition(" ")
    return f"{value}{unit} {bounds}".rstrip()


def _limit(line: Any) -> str:
    return f"{line.gate * 100:.3g}{'%' if line.metric != 'accuracy' else 'pt'}"


def _method(document: Json) -> list[str]:
    """One line for each way something was judged, and what else a reader must know."""
    modes = dict.fromkeys(line["mode"] for line in document["lines"])
    found = []
    for mode in modes:
        own = [line for line in document["lines"] if line["mode"] == mode]
        pairs = sorted({line["change"]["n"] for line in own if mode == "paired" and line["change"].get("n")})
        more = (
            f", {pairs[0]} to {pairs[-1]} pairs of processes"
            if len(pairs) > 1
            else f", {pairs[0]} pairs of processes"
            if pairs
            else ""
        )
        found.append(
            f"{text.listed(list(dict.fromkeys(line['metric'] for line in own)))}: {MODES[mode]}{more}"
        )
    found += _unanswered(document["lines"])
    for key, words in (("only_base", "only in the base"), ("only_head", "new")):
        if document[key]:
            found.append(
                f"{words}: {', '.join(document[key][:8])}"
                + (f" and {len(document[key]) - 8} more" if len(document[key]) > 8 else "")
            )
    return [*found, *document["notes"]]


def _unanswered(lines: Sequence[Json]) -> list[str]:
    """Why some lines have no answer; what is said of many lines is said once."""
    said: dict[tuple[str, str], list[Json]] = {}
    for line in lines:
        if line["verdict"] in ("INCONCLUSIVE", "FAILED"):
            why = line["note"] or "the interval reaches beyond the limit"
            said.setdefault((why, "pt" if line["metric"] == "accuracy" else "%"), []).append(line)
    found = []
    for (why, unit), some in said.items():
        if len(some) <= SINGLY:
            found += [f"{line['subject']}, {line['metric']}: {why}{_seen([line], unit)}" for line in some]
        else:
            metrics = text.listed(list(dict.fromkeys(line["metric"] for line in some)))
            subjects = text.plural(len({line["subject"] for line in some}), "subject")
            found.append(f"{metrics} of {subjects}: {why}{_seen(some, unit)}")
    return found


def _seen(lines: Sequence[Json], unit: str) -> str:
    """``; a change of 1.8pt would have been seen``, of several lines the least and the most."""
    least = sorted(line["smallest"] for line in lines if line["smallest"])
    shown = [f"{seen * 100:{'.2g' if seen < 0.1 else '.0f'}}" for seen in least]
    if not shown:
        return ""
    span = shown[0] if shown[0] == shown[-1] else f"{shown[0]} to {shown[-1]}"
    return f"; a change of {span}{unit} would have been seen"


def _rows(document: Json) -> Iterator[tuple[str, ...]]:
    for line in document["lines"]:
        shown = line["shown"]
        yield (
            line["subject"],
            line["metric"],
            shown["base"],
            shown["head"],
            shown["change"],
            shown["limit"],
            line["mode"],
            line["verdict"],
        )


SINGLY = 3
"""So many lines that say the same are named one by one."""
WIDE = 100
RIGHT = ("base", "now", "limit")
HEADS = ("what", "metric", "base", "now", "change", "limit", "mode", "verdict")


def terminal(document: Json, width: int | None = None) -> str:
    """What was checked, a line for each metric under its subject, how it was judged, and the end."""
    import io

    from rich.console import Console
    from rich.text import Text

    out = io.StringIO()
    own = Console()
    console = Console(file=out, width=width or own.width, force_terminal=own.is_terminal, highlight=False)
    console.print(f"{document['head']['title']} against {document['base']['title']}", markup=False)
    rows = [HEADS, *_rows(document)]
    wide = console.width >= WIDE
    shown = [i for i in range(1, len(HEADS)) if wide or HEADS[i] != "mode"]
    widths = {i: max(len(row[i]) for row in rows) for i in shown}
    last = ""
    for row in rows:
        if row is not HEADS and row[0] != last:
            console.print(row[0], markup=False, style="bold")
            last = row[0]
        cells = [row[i].rjust(widths[i]) if HEADS[i] in RIGHT else row[i].ljust(widths[i]) for i in shown]
        style = "dim" if row is HEADS else ""
        line = Text("  " + "  ".join(cells[:-1]) + "  ", style)
        console.print(line.append(row[-1], STYLES.get(row[-1], style)), soft_wrap=True)
    for note in _method(document):
        console.print(f"- {note}", markup=False)
    console.print(
        f"{document['verdict']} in {document['seconds']:.0f} s (exit {document['exit_code']})", style="bold"
    )
    return out.getvalue().rstrip()


def markdown(document: Json) -> str:
    """GitHub's Markdown, for a comment on a pull request."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("[", "\\[") for c in cells) + " |"

    marks = {
        "REGRESSED": "🔴 ",
        "FAILED": "🔴 ",
        "INCONCLUSIVE": "🟡 ",
        "IMPROVED": "🟢 ",
        "SAME": "⚪ ",
        "NOT WORSE": "⚪ ",
    }
    titles = (f"`{document[side]['title']}`" for side in ("head", "base"))
    lines = [
        f"### edgefit: {document['verdict']}",
        "",
        " against ".join(titles),
        "",
        row(HEADS),
        row(["---"] * len(HEADS)),
    ]
    lines += [row((*r[:-1], marks[r[-1]] + r[-1])) for r in _rows(document)]
    lines += ["", *(f"- {line}" for line in _method(document))]
    known = dict.fromkeys(line["verdict"] for line in document["lines"])
    lines += ["", "<sub>" + "; ".join(f"{v}: {MEANING[v]}" for v in known) + "</sub>", ""]
    return "\n".join(lines)


def junit(document: Json) -> str:
    """JUnit's XML: a test case for each line."""
    bad = ("REGRESSED", "FAILED", "INCONCLUSIVE")
    count = {v: sum(line["verdict"] == v for line in document["lines"]) for v in bad}
    suite = ElementTree.Element("testsuite", {
        "name": "edgefit gate", "tests": str(len(document["lines"])), "time": str(document["seconds"]),
        "failures": str(count["REGRESSED"]), "errors": str(count["FAILED"]), "skipped": str(count["INCONCLUSIVE"]),
    })  # fmt: skip
    for line in document["lines"]:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": line["subject"], "name": line["metric"]}
        )
        kind = {"REGRESSED": "failure", "FAILED": "error", "INCONCLUSIVE": "skipped"}.get(line["verdict"])
        if kind:
            ElementTree.SubElement(case, kind, {"message": f"{line['verdict']}: {line['sentence']}"})
        ElementTree.SubElement(case, "system-out").text = line["sentence"]
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def workflow_commands(document: Json) -> Iterator[str]:
    """GitHub's workflow commands: an error for what got worse, a warning for what is not known."""
    kinds = {"REGRESSED": "error", "FAILED": "error", "INCONCLUSIVE": "warning"}
    for line in document["lines"]:
        if line["verdict"] in kinds:
            said = line["sentence"].replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            title = f"{line['verdict']} {line['metric']}".replace(",", "%2C").replace(":", "%3A")
            yield f"::{kinds[line['verdict']]} title={title}::{said}"


def check_files(files: Sequence[Path]) -> None:
    """Raises UsageError for a file that :func:`write` has no form for; asked before anything is measured."""
    for file in files:
        if file.suffix not in SUFFIXES:
            raise UsageError(
                f"{file} says not what to write", todo=f"Its name must end in {', '.join(SUFFIXES)}"
            )


def write(file: Path, document: Json) -> None:
    """The document in the form of the file's name; replaced atomically."""
    from bench.store import explain_disk_errors, write_atomic

    forms: dict[str, Callable[[Json], str]] = {
        ".md": markdown,
        ".xml": junit,
        ".json": lambda d: json.dumps(d, indent=1, allow_nan=False) + "\n",
    }
    with explain_disk_errors(file):
        write_atomic(file, forms[file.suffix](document).encode())


def render_simulation(document: Json) -> str:
    """How often the check and what people use now were wrong, as `bench selftest --simulate` prints it."""
    tallies = document["simulated"]
    others = list(tallies[0]["others"])
    heads = ["machine", "gate", "not known", "pairs", *others]
    lines: list[str] = []
    titles = dict.fromkeys((t["change"], t["spread"]) for t in tallies)
    for change, spread in titles:
        own = [t for t in tallies if (t["change"], t["spread"]) == (change, spread)]
        n = own[0]["n"]
        what = (
            f"{change:.0%} slower: found in so many of {n} checks"
            if change
            else f"nothing changed: false alarms in {n} checks"
        )
        lines += [f"{what} (processes differ by {spread:.1%})", ""]
        rows = [heads]
        for t in own:
            counts = t["verdicts"]
            called = counts.get("REGRESSED", 0) + (0 if change else counts.get("IMPROVED", 0))
            row = [
                t["machine"],
                called,
                counts.get("INCONCLUSIVE", 0),
                f"{t['pairs']:.1f}",
                *(t["others"][o] for o in others),
            ]
            rows.append([str(cell) for cell in row])
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    lines += [
        "gate: this program's check, at a limit of 3% like the others. not known: it ended INCONCLUSIVE.",
        "mean: of all calls of the first 12 pairs. Mann-Whitney: p < 0.01 over the calls of one",
        "process each. pytest-benchmark: --benchmark-compare-fail=mean:3%, one process each.",
    ]
    return "\n".join(lines)
