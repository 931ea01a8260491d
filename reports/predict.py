"""Predictions as text: one cell with its reasons, and how wrong predictions are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from bench.types import Json, Quantity
from reports import text
from reports.rows import Row

_ROWS = (
    ("latency_ms", "latency", "ms a call"),
    ("throughput_ips", "throughput", "images/s"),
    ("memory_mb", "memory", "MB above the empty runtime"),
    ("energy_mj", "energy", "mJ an image"),
    ("size_bytes", "size", ""),
)


def render_prediction(cell: Json) -> str:
    """A predicted cell: values with their 90% intervals, where the time goes, what would help."""
    threads = f", {text.plural(cell['threads'], 'thread')}" if cell["threads"] > 1 else ""
    mode = f", {cell['power_mode']}" if cell["power_mode"] else ""
    lines = [
        f"{cell['model']} on {cell['device']},",
        f"{cell['runtime']} {cell['precision']}, batch {cell['batch']}{threads}{mode}",
        "  PREDICTED, not measured: the device is not here",
    ]
    if cell.get("reason"):
        return "\n".join([*lines, *_wrapped("  ", f"It does not run there: {cell['reason']}.")])
    for key, label, unit in _ROWS:
        quantity = Quantity.from_json(cell[key])
        if quantity.value is None:
            lines.append(f"  {label:11} {text.MISSING} ({quantity.reason})")
        elif key == "size_bytes":
            lines.append(f"  {label:11} {text.size(quantity)}")
        else:
            lines.append(f"  {label:11} {text.interval(quantity)} {unit}")
    lines.append(
        f"  counted     {cell['macs']['value'] / 1e9:.3g} GMACs, {cell['params']['value'] / 1e6:.3g} M parameters"
    )
    bounds = ", ".join(f"{name} {share:.0%}" for name, share in cell["bounds"].items())
    lines += [f"  time goes to {bounds}", "  most expensive kernels"]
    wide = max(len(layer["shape"]) for layer in cell["layers"])
    lines += [
        f"    {layer['ms']:8.3g} ms {layer['share']:4.0%}  {layer['shape']:{wide}}  {layer['bound']:7}  {layer['name']}"
        for layer in cell["layers"]
    ]
    for mark, sentences in (("- ", cell["advice"]), ("note: ", cell["notes"])):
        lines += [line for s in sentences for line in _wrapped(f"  {mark}", s)]
    basis = cell["latency_ms"]["method"].rpartition("; ")[2]
    lines += _wrapped("  * ", f"predicted; latency with a 90% interval, from {basis}")
    return "\n".join(lines)


def _wrapped(lead: str, sentence: str) -> list[str]:
    """A sentence in lines of at most 80 columns."""
    return textwrap.wrap(
        sentence, 80, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
    )


MOST_ADVICE = 6


def predicted_lines(items: Sequence[Row]) -> list[str]:
    """What a run's predictions stand on, and what would make its variants faster; each sentence once."""
    bases: dict[tuple[str, str], list[str]] = {}
    advice: dict[str, list[tuple[str, str]]] = {}
    for row in items:
        found = row.record.get("prediction")
        if not found:
            continue
        basis = (row.metrics["latency_ms"].method or "").rpartition("; ")[2]
        where = f"{row.cell.runtime} on {row.cell.host}"
        todo = f"; to measure: {row.remedy}" if row.remedy else ""
        bases.setdefault((where, f"from {basis}{todo}"), []).append(row.cell.precision.upper())
        for said in found["advice"]:  # sentences that differ in their figures only are told once
            alike = re.sub(r"[\d.]+", "#", f"{where}: {said}")
            advice.setdefault(alike, []).append((row.cell.variant, f"on {where}: {said}"))
    lines = [
        f"{where}, {' and '.join(dict.fromkeys(some))}: {basis}" for (where, basis), some in bases.items()
    ]
    told = []
    for alike_ones in advice.values():
        names, said = [name for name, _ in alike_ones], alike_ones[0][1]
        of = f" (figures of {names[0]})" if len({s for _, s in alike_ones}) > 1 else ""
        told.append(f"{_names(names)} {said}{of}")
    more = [f"and {len(told) - MOST_ADVICE} more, in --format json"] if len(told) > MOST_ADVICE else []
    return [*lines, *told[:MOST_ADVICE], *more]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# --- evaluation

_FIGURES = ("median", "MAPE", "<10%", "<20%", "Spearman", "in 90%")


def render_evaluation(found: Json, full: bool) -> str:
    """The tables of `bench profiles evaluate`: a row a runtime, or a row a series."""
    lines = [_data(found)]
    for by, part in found["folds"].items():
        lines += ["", f"left out together: everything of one {by}", *_table(part, full)]
        lines += ["worst:"] + [
            f"  {w['model']} at {w['size']} on {w['series']}: measured {w['measured_ms']:.3g} ms, predicted {w['predicted_ms']:.3g}"
            for w in part["worst"]
        ]
    lines += _energy(found.get("energy")) + _transfer(found.get("transfer"))
    lines += [
        "",
        "median, MAPE: absolute relative error, mean over series. <10%, <20%: share of rows. in 90%: share of rows inside the",
        "90% interval, whose width was set on the other folds. MACs, M+A+P: MAPE of least squares on MACs alone, and on MACs,",
        "activations and parameters, on the same folds (- where a fold leaves them nothing to fit).",
    ]
    return "\n".join(lines)


def _energy(found: Json | None) -> list[str]:
    if not found or found["mape"] is None:
        return []
    return [
        "",
        f"energy of {found['rows']} rows on boards whose power was published, family left out: median error {found['median_ape']:.1%}, "
        f"MAPE {found['mape']:.1%}; of the power alone {found['power_mape']:.1%}",
    ]


def _transfer(found: Json | None) -> list[str]:
    if not found or found["mape"] is None:
        return []
    helps = found["mape_corrected"] < found["mape"]
    return [
        "",
        f"times of the same nets on x86 machines would change the MAPE of {found['rows']} rows on other processors from "
        f"{found['mape']:.1%} to {found['mape_corrected']:.1%} (correlation {found['correlation']:+.2f}): "
        + ("they would help, and are not used yet" if helps else "they are not used"),
    ]


def _data(found: Json) -> str:
    left = sum(found["left_out"].values())
    reasons = "; ".join(
        f"{count} {reason}" for reason, count in sorted(found["left_out"].items(), key=lambda p: -p[1])
    )
    return f"{found['rows']} published latencies of {found['nets']} nets, {found['series']} series; {left} rows left out: {reasons}"


def _table(part: Json, full: bool) -> list[str]:
    rows = [(_name(r, full), r) for r in (part["series"] if full else part["runtimes"])]
    rows += [("all series", part["all"]), (f"series of {part['many']} nets or more", part["large"])]
    wide = max(len(name) for name, _ in rows)
    lines = [
        f"  {'':{wide}} {'series':>6} {'rows':>5}  "
        + " ".join(f"{f:>8}" for f in _FIGURES)
        + "     MACs    M+A+P"
    ]
    for name, row in rows:
        figures = [row[k] for k in ("median_ape", "mape", "within_10", "within_20")]
        cells = [_percent(v) for v in figures]
        cells += [f"{row['spearman']:.2f}" if row["spearman"] is not None else "-", _percent(row["coverage"])]
        cells += [_percent(row[b]["mape"]) for b in ("macs", "macs_activations_parameters")]
        lines.append(
            f"  {name:{wide}} {row.get('series', 1):>6} {row['rows']:>5}  "
            + " ".join(f"{c:>8}" for c in cells)
        )
    return lines


def _name(row: Json, full: bool) -> str:
    if not full:
        return str(row["name"])
    threads = f", {row['threads']} thr" if row["threads"] > 1 else ""
    mode = f", {row['power_mode'][:24]}" if row["power_mode"] else ""
    return f"{row['device']} / {row['runtime']} / {row['precision']}{threads}{mode}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def markdown_evaluation(found: Json) -> str:
    """The same as tables for a README."""
    lines: list[str] = []
    for by, part in found["folds"].items():
        lines += [
            f"Left out together: everything of one {by}.",
            "",
            "| runtime | series | rows | median | MAPE | <10% | <20% | Spearman | in 90% | MACs | M+A+P |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [_markdown_row(r["name"], r) for r in part["runtimes"]]
        lines += [_markdown_row("**all series**", part["all"])]
        lines += [_markdown_row(f"**series of {part['many']} nets or more**", part["large"]), ""]
    return "\n".join(lines)


def _markdown_row(name: str, row: Json) -> str:
    figures: Sequence[float | None] = [row[k] for k in ("median_ape", "mape", "within_10", "within_20")]
    spearman = "-" if row["spearman"] is None else f"{row['spearman']:.2f}"
    baselines = [_percent(row[b]["mape"]) for b in ("macs", "macs_activations_parameters")]
    cells = [*(_percent(v) for v in figures), spearman, _percent(row["coverage"]), *baselines]
    return f"| {name} | {row['series']} | {row['rows']} | {' | '.join(cells)} |"
