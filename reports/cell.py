"""One measured cell as text: what `bench measure` prints."""

from __future__ import annotations

from bench.stats import wilson
from bench.types import Json, Quantity
from reports import text

_ROWS = (
    ("latency_ms", "latency", "ms a call"),
    ("p90_ms", "90th percentile", "ms"),
    ("p95_ms", "95th percentile", "ms"),
    ("p99_ms", "99th percentile", "ms"),
    ("throughput_ips", "throughput", "images/s"),
    ("first_call_ms", "first call", "ms"),
    ("load_ms", "load", "ms"),
    ("memory_mb", "memory", "MB above the empty runtime"),
    ("energy_mj", "energy", "mJ an image"),
    ("carbon_ug", "carbon", "µg CO2e an image"),
    ("size_bytes", "size", ""),
    ("accuracy", "accuracy", "%"),
)


def render_cell(cell: Json) -> str:
    """Every metric of one cell with interval, count, provenance, or the reason why there is none."""
    lines = [f"{cell['file']} on {cell['runtime']}, {_setting(cell)}"]
    if cell["status"] != "ok":
        return "\n".join([*lines, f"  failed: {cell['reason']}"])
    for key, label, unit in _ROWS:
        quantity = Quantity.from_json(cell[key]) if key in cell else Quantity.missing("not recorded")
        if quantity.value is None:
            lines.append(f"  {label:16} {text.MISSING} ({quantity.reason})")
            continue
        if key == "size_bytes":
            shown = text.size(quantity)
        elif key == "accuracy":
            shown = text.points(quantity)
        else:
            shown = text.interval(quantity)
        count = f", n={quantity.n}" if quantity.n and quantity.n > 1 else ""
        lines.append(f"  {label:16} {shown} {unit}".rstrip() + f" ({quantity.provenance}{count})")
        if key == "memory_mb":
            lines += _memory_parts(cell)
    lines.append(
        f"  stopped by the {'width of the interval' if cell['stopped'] == 'interval' else 'time cap'}"
    )
    lines += [f"  note: {note}" for note in cell["notes"]]
    lines.append(f"{_intervals(cell)} {text.MARKS['estimated']} estimated")
    return "\n".join(lines)


def _setting(cell: Json) -> str:
    """``int8, batch 1, 2 threads``; the precision where the file was read."""
    known = [cell["precision"]] if cell.get("precision") else []
    return ", ".join([*known, f"batch {cell['batch']}", text.plural(cell["threads"], "thread")])


def _intervals(cell: Json) -> str:
    """What the intervals are of: where another run's median falls, or the calls of the only process."""
    processes = (cell["environment"].get("runtime") or {}).get("processes") or ()
    if len(processes) > 1:
        return f"Intervals are 95%, over {len(processes)} processes: where another run's value falls."
    return "Intervals are 95%, within one process."


def _memory_parts(cell: Json) -> list[str]:
    processes = (cell["environment"].get("runtime") or {}).get("processes") or ()
    parts = (processes[0].get("memory_parts_mb") if processes else None) or {}
    known = [f"{part} {q['value']:.1f}" for part, q in parts.items() if q["value"] is not None]
    return [f"  {'':16} at its highest, first process: {', '.join(known)} MB"] if known else []


def render_cells(found: Json) -> str:
    """One file on several runtimes: a line each, then what is particular to each, then why others are absent."""
    cells = found["cells"]
    first = cells[0]
    lines = [f"{first['file']}, {_setting(first)}"]
    width = max(len(c["runtime"]) for c in cells)
    rows = [_summary(c) for c in cells]
    widths = [max(len(h), *(len(r[i]) for r in rows)) for i, h in enumerate(_COLUMNS)]
    lines.append(
        f"  {'runtime':{width}}  " + "  ".join(f"{h:>{w}}" for h, w in zip(_COLUMNS, widths, strict=True))
    )
    for cell, row in zip(cells, rows, strict=True):
        shown = (
            "  ".join(f"{v:>{w}}" for v, w in zip(row, widths, strict=True))
            if cell["status"] == "ok"
            else f"failed: {cell['reason']}"
        )
        lines.append(f"  {cell['runtime']:{width}}  {shown}".rstrip())
    for note in dict.fromkeys(n for c in cells for n in c["notes"]):
        users = [c["runtime"] for c in cells if note in c["notes"]]
        where = "" if len(users) == len(cells) else f" ({', '.join(users)})"
        lines.append(f"  note: {note}{where}")
    lines += [f"  not here: {name}: {reason}" for name, reason in found["absent"].items()]
    lines.append(_intervals(first))
    return "\n".join(lines)


_COLUMNS = ("latency ms a call", "first call ms", "load ms", "memory MB", "accuracy %")


def _summary(cell: Json) -> list[str]:
    shown = []
    for key in ("latency_ms", "first_call_ms", "load_ms", "memory_mb"):
        quantity = Quantity.from_json(cell[key])
        shown.append(text.MISSING if quantity.value is None else text.interval(quantity))
    quantity = Quantity.from_json(cell["accuracy"])
    return [*shown, text.MISSING if quantity.value is None else text.points(quantity)]


def render_classification(found: Json) -> str:
    """Accuracy, top-5, AUC-ROC and a line a class; every figure with its n."""
    quantity = Quantity(
        found["accuracy"], "fraction", *wilson(round(found["accuracy"] * found["n"]), found["n"])
    )
    parts = [f"accuracy {text.points(quantity)} %"]
    if found["top5"] is not None:
        parts.append(f"top-5 {100 * found['top5']:.1f} %")
    parts.append(f"macro F1 {found['macro_f1']:.3f}")
    auc = found["auc_roc"]
    parts.append(f"AUC-ROC {auc:.3f}" if auc is not None else f"no AUC-ROC ({found['auc_roc_reason']})")
    lines = [f"{found['split']}, n={found['n']}: " + ", ".join(parts)]
    width = max(5, *(len(row["label"]) for row in found["per_class"]))
    lines.append(f"  {'class':{width}}     n  recall [95%]          precision  F1")
    for row in found["per_class"]:
        recall = (
            "–"
            if row["recall"] is None
            else f"{row['recall']:.3f} [{row['recall_low']:.3f}, {row['recall_high']:.3f}]"
        )
        rest = ("–" if row[k] is None else f"{row[k]:.3f}" for k in ("precision", "f1"))
        lines.append(f"  {row['label']:{width}} {row['n']:5d}  {recall:20}  {next(rest):9}  {next(rest)}")
    return "\n".join(lines)


def render_selftest(document: Json) -> str:
    """What `bench selftest` prints: each comparison, then what the machine calls and sees."""
    comparisons = document["comparisons"]
    lines = [
        f"A/A on {document['runtime']}, {document['file']}: {text.plural(len(comparisons), 'comparison')} of "
        f"{text.plural(comparisons[0]['pairs'], 'pair')} of processes, gate {document['gate']:.1%}"
    ]
    for number, c in enumerate(comparisons, 1):
        interval = f"[{c['low']:.3f}, {c['high']:.3f}]"
        lines.append(f"  {number:3d}  ratio {c['ratio']:.3f} {interval:16} {c['verdict']}")
    alarms = Quantity.from_json(document["false_alarms"])
    between, by_turns, least = (
        Quantity.from_json(document[k]) for k in ("between_processes", "by_turns", "smallest_effect")
    )
    lines += [
        f"False alarms: {round((alarms.value or 0) * len(comparisons))} of {len(comparisons)} "
        f"({text.points(alarms)}%, 95%)",
        f"Processes of one program differ by {100 * (between.value or 0):.1f}%, timed by turns by "
        f"{100 * (by_turns.value or 0):.1f}% (standard deviations, n={between.n} and {by_turns.n})",
        f"The smallest change that {text.plural(comparisons[0]['pairs'], 'pair')} show here: "
        f"{100 * (least.value or 0):.1f}% (80% power)",
        *(f"{line}." for line in document["advice"]),
        "Ratios with 99% intervals; REGRESSED or IMPROVED would be false alarms.",
    ]
    return "\n".join(lines)
