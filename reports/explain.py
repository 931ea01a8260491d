"""`bench explain` as text, Markdown and one HTML page: where the time of an artifact goes, operator by operator."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bench.types import Json, Quantity
from reports import text
from reports.plots import EXACT_DB

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

STATES = {
    "int8": "integer arithmetic",
    "float": "float arithmetic",
    "convert": "between number formats",
    "layout": "between orders of the axes",
}
STYLES = {"int8": "green", "float": "blue", "convert": "yellow", "layout": "magenta"}
SHORTER = (
    (r"\b(NHWC|NCHW|NC|ND), ?", ""),
    (r" ?\((NHWC|NCHW|NC|ND)\)", ""),
    (r"[(),]", ""),
    (r"Convolution", "Conv"),
    (r"Fully ?Connected", "FC"),
    (r"QuantizeLinear", "Quantize"),
    (r"DequantizeLinear", "Dequantize"),
    (r"DEPTHWISE_CONV_2D", "DW_CONV_2D"),
)
TOP = 20


def short_op(op: str) -> str:
    """``Conv QC8 IGEMM`` for ``Convolution (NHWC, QC8) IGEMM``: an operator's name without what is the same everywhere."""
    for pattern, words in SHORTER:
        op = re.sub(pattern, words, op)
    return " ".join(op.split())


def quantity(row: Json, name: str) -> Quantity:
    return Quantity.from_json(row[name])


def title(found: Json) -> str:
    """``teacher-int8 (int8) on onnxruntime 1.32.0, batch 1, 1 thread``."""
    what = found["variant"] or found["file"].rpartition("/")[2]
    return (
        f"{what} ({found['precision']}) on {found['runtime']} {found['version']}, "
        f"batch {found['batch']}, {text.plural(found['threads'], 'thread')}"
    )


def total_us(found: Json) -> float:
    """The operators' times together, without the profiler's own."""
    return float(sum(row["time_us"]["value"] for row in found["layers"]))


def by_state(found: Json) -> list[tuple[str, float, int]]:
    """(state, share of the time, number of operators), the largest first."""
    shares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for row in found["layers"]:
        shares[row["state"]] = shares.get(row["state"], 0.0) + row["share"]
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return sorted(((s, v, counts[s]) for s, v in shares.items()), key=lambda item: -item[1])


def _ms(found: Json, name: str) -> str:
    known = quantity(found, name)
    return f"{text.interval(known)} ms" if known.value is not None else f"not known ({known.reason})"


def summary(found: Json) -> list[str]:
    """What the operators explain of the latency, and what kinds of operators the time goes to."""
    share = quantity(found, "explained")
    n = len(found["layers"])
    lines = []
    if share.value is not None:
        lines.append(
            f"{text.plural(n, 'operator')} take {total_us(found) / 1e3:.3g} ms, {100 * share.value:.0f}% of a call without the "
            f"profiler ({_ms(found, 'plain_ms')} here; with it {_ms(found, 'profiled_ms')})"
        )
    if found["run"]:
        lines.append(f"The run measured {_ms(found, 'latency_ms')}")
    parts = [f"{state} {100 * part:.0f}% ({count})" for state, part, count in by_state(found)]
    lines.append("By state: " + ", ".join(parts))
    graph = found["graph"]
    if graph.get("layers"):
        lines.append(
            f"{graph['int8_layers']} of {text.plural(graph['layers'], 'layer')} in int8, "
            f"{text.count(Quantity(graph['macs']))} MACs an image"
        )
    return lines


def sqnr_reason(found: Json) -> str:
    """Why no layer has a signal to noise ratio; empty when one has."""
    known = [quantity(row, "sqnr_db") for row in found["layers"]]
    if any(q.value is not None for q in known):
        return ""
    reasons = [q.reason for q in known if q.reason and q.reason != "computes no layer"]
    return reasons[0] if reasons else "no layer was found again in the file"


def _notes(found: Json) -> list[tuple[str, list[str]]]:
    causes = [f"{c[:1].upper()}{c[1:]}" for c in found["causes"]]
    notes = list(found["notes"])
    missing = sqnr_reason(found)
    if missing:
        notes.append(f"no SQNR: {missing}")
    if found["graph"].get("error"):
        notes.append(f"the file's graph could not be read: {found['graph']['error']}")
    return [(head, lines) for head, lines in (("What the graph shows", causes), ("Notes", notes)) if lines]


def ordered(found: Json) -> list[Json]:
    """The operators, those first that take longest."""
    return sorted(found["layers"], key=lambda row: -row["time_us"]["value"])


def _cells(row: Json) -> list[str]:
    macs, noise = quantity(row, "macs"), quantity(row, "sqnr_db")
    return [
        f"{row['time_us']['value']:.1f}",
        f"{100 * row['share']:.1f}",
        text.count(macs),
        text.MISSING if noise.value is None else "≥150" if noise.value >= EXACT_DB else f"{noise.value:.1f}",
    ]


HEADS = ("time\nµs", "share\n%", "MACs", "SQNR\ndB")


class TerminalExplanation:
    """A rich renderable: the operators that take longest, what the others take together, and what explains it."""

    def __init__(self, found: Json, top: int = TOP) -> None:
        self.found, self.top = found, top

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(title(self.found), style="bold")
        yield Text("")
        reasons = list(dict.fromkeys(r for row in ordered(self.found)[: self.top] for r in row["reasons"]))
        yield self._table(reasons, options.max_width)
        for number, reason in enumerate(reasons, 1):
            yield Text(f"({number}) {reason}")
        yield Text("")
        for line in summary(self.found):
            yield Text(f"{line}.")
        for head, lines in _notes(self.found):
            yield Text(f"\n{head}", style="bold")
            yield from (Text(f"- {line}", style="dim" if head == "Notes" else "") for line in lines)

    def _table(self, reasons: list[str], width: int) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False)
        wide = width >= 110
        table.add_column("layer", overflow="fold", max_width=40 if wide else max(12, width - 58))
        table.add_column("operator", overflow="fold", max_width=30 if wide else 16)
        if wide:
            table.add_column("kernel, channels", overflow="fold")
        table.add_column("state", no_wrap=True)
        for head in HEADS:
            table.add_column(Text(head), justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        rows = ordered(self.found)
        for row in rows[: self.top]:
            marks = "".join(f"({reasons.index(r) + 1})" for r in row["reasons"])
            name = [Text(row["name"]), Text(short_op(row["op"]))] + [Text(row["shape"])] * wide
            table.add_row(*name, Text(row["state"], style=STYLES[row["state"]]), *_cells(row), marks)
        rest = rows[self.top :]
        blank = [""] * wide
        if rest:
            took, share = sum(r["time_us"]["value"] for r in rest), sum(r["share"] for r in rest)
            table.add_row(
                f"{len(rest)} others", "", *blank, "", f"{took:.1f}", f"{100 * share:.1f}", "", "", ""
            )
        table.add_section()
        macs = sum(quantity(r, "macs").value or 0.0 for r in rows)
        counted = text.count(Quantity(macs)) if macs else text.MISSING
        table.add_row(
            f"all {len(rows)}",
            "",
            *blank,
            "",
            f"{total_us(self.found):.1f}",
            "100.0",
            counted,
            "",
            "",
            style="bold",
        )
        return table


def render_terminal(found: Json, width: int = 80, top: int = TOP) -> str:
    """The terminal view as plain text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(TerminalExplanation(found, top))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def render_md(found: Json) -> str:
    """Markdown: every operator in the order in which they run, then what explains the time."""
    from reports.tables import escape_md

    heads = (
        "#",
        "layer",
        "operator",
        "kernel, channels",
        "state",
        "time, µs",
        "share, %",
        "MACs",
        "SQNR, dB",
        "",
    )
    out = [f"# {escape_md(title(found))}", ""]
    out += [f"- {escape_md(line)}." for line in summary(found)] + [""]
    out += ["| " + " | ".join(heads) + " |", "|---:|---|---|---|---|---:|---:|---:|---:|---|"]
    for number, row in enumerate(found["layers"], 1):
        words = [row["name"], row["op"], row["shape"], row["state"]]
        cells = [str(number), *map(escape_md, words), *_cells(row), escape_md("; ".join(row["reasons"]))]
        out.append("| " + " | ".join(cells) + " |")
    for head, lines in _notes(found):
        out += ["", f"## {head}", "", *(f"- {escape_md(line)}" for line in lines)]
    return "\n".join(out) + "\n"


def render_html(found: Json) -> str:
    """One HTML page that needs no network: bars of time per operator, the noise of each layer, and the whole table."""
    from reports import page, plots

    figure = plots.layers(found["layers"])
    graph = found["graph"]
    return page.render(
        "explain",
        {"figure": plots.to_json(figure)},
        title=title(found),
        profiler=found["profiler"],
        cards=list(_cards(found)),
        lines=summary(found),
        states=[(state, STATES[state]) for state, _, _ in by_state(found)],
        notes=_notes(found),
        rows=[_html_row(number, row) for number, row in enumerate(found["layers"], 1)],
        shown=min(len(found["layers"]), plots.MOST_LAYERS),
        count=len(found["layers"]),
        graph=list(page.flatten(graph).items()),
        environment=list(page.flatten(found["environment"]).items()),
        file=found["file"],
        run=found["run"],
    )


def _cards(found: Json) -> Iterable[Json]:
    plain, run = quantity(found, "plain_ms"), quantity(found, "latency_ms")
    known = run if run.value is not None else plain
    where = "in the run" if run.value is not None else "here, without the profiler"
    shown = text.MISSING if known.value is None else f"{text.number(known.value, text.half_width(known))} ms"
    yield {"title": "Latency", "value": shown, "note": where}
    slowest = ordered(found)[0]
    yield {
        "title": "Slowest operator",
        "value": f"{100 * slowest['share']:.0f} %",
        "note": f"{slowest['name']} ({short_op(slowest['op'])})",
    }
    for state, share, count in by_state(found)[:3]:
        yield {
            "title": f"Time in {state}",
            "value": f"{100 * share:.0f} %",
            "note": text.plural(count, "operator"),
        }


def _html_row(number: int, row: Json) -> Json:
    """A line of the table: what is shown and what it is sorted by."""

    def field(name: str, shown: str, scale: float = 1.0) -> dict[str, Any]:
        known = quantity(row, name)
        return {
            "shown": shown,
            "order": "" if known.value is None else known.value * scale,
            "title": known.reason if known.value is None else known.method,
        }

    time, share, macs, noise = _cells(row)
    return {
        "number": number,
        "name": row["name"],
        "op": row["op"] + (f" ({row['kernel']})" if row["kernel"] else ""),
        "shape": row["shape"],
        "state": row["state"],
        "numbers": [
            field("time_us", time),
            {"shown": share, "order": row["share"], "title": ""},
            field("macs", macs),
            field("sqnr_db", noise),
        ],
        "reasons": "; ".join(row["reasons"]),
    }
