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
    ("size_bytes", "size", ""),
    ("accuracy", "accuracy", "%"),
)


def render_cell(cell: Json) -> str:
    """Every metric of one cell with interval, count, provenance, or the reason why there is none."""
    lines = [
        f"{cell['file']} on {cell['runtime']}, batch {cell['batch']}, {text.plural(cell['threads'], 'thread')}"
    ]
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
    lines.append(
        f"  stopped by the {'width of the interval' if cell['stopped'] == 'interval' else 'time cap'}"
    )
    lines += [f"  note: {note}" for note in cell["notes"]]
    lines.append(f"Intervals are 95%, within one process. {text.MARKS['estimated']} estimated")
    return "\n".join(lines)


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
