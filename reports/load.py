"""An artifact under load as text: what `bench load` and `bench sweep` print."""

from __future__ import annotations

from bench.types import Json, Quantity
from reports import text

_LABELS = {
    "latency_ms": ("median latency", "ms"),
    "p90_ms": ("90th percentile", "ms"),
    "p99_ms": ("99th percentile", "ms"),
    "throughput_ips": ("throughput", "images/s"),
}
_COLUMNS = ("batch", "threads", "streams")


def _counts(found: Json) -> str:
    return ", ".join(
        (
            f"batch {found['batch']}",
            text.plural(found["threads"], "thread"),
            text.plural(found["streams"], "stream"),
        )
    )


def render_load(found: Json) -> str:
    """LoadGen's verdict with its reasons, then every quantity with interval and count; MLPerf's figure first."""
    lines = [f"{found['file']} on {found['runtime']}, {found['scenario']}, {_counts(found)}"]
    if found["status"] != "ok":
        return "\n".join([*lines, f"  failed: {found['reason']}"])
    lines.append(f"  LoadGen {found['loadgen']}: {found['verdict']}")
    lines += [f"    {reason}" for reason in found["verdict_reasons"]]
    if found["scenario"] == "server":
        lines.append(
            f"  {'asked':16} {found['qps']:g} queries/s, 99% of them within {found['latency_bound_ms']:g} ms"
        )
    names = [found["headline"], *(n for n in _LABELS if n in found and n != found["headline"])]
    for name in names:
        label, unit = _LABELS[name]
        quantity = Quantity.from_json(found[name])
        if quantity.value is None:
            lines.append(f"  {label:16} {text.MISSING} ({quantity.reason})")
        else:
            lines.append(
                f"  {label:16} {text.interval(quantity)} {unit} ({quantity.provenance}, n={quantity.n})"
            )
    lines += [f"  note: {note}" for note in found["notes"]]
    return "\n".join([*lines, "Intervals are 95%, within one process."])


def render_sweep(found: Json) -> str:
    """One line a setting: median latency of a call and throughput with intervals, then reasons and notes."""
    rows: list[tuple[str, ...]] = [(*_COLUMNS, "latency, ms", "throughput, images/s", "")]
    notes: list[str] = []
    for row in found["settings"]:
        marks = ""
        for note in [row["reason"]] * (row["status"] != "ok") + row["notes"]:
            if note not in notes:
                notes.append(note)
            marks += f"({notes.index(note) + 1})"
        latency, rate = (Quantity.from_json(row[k]) for k in ("latency_ms", "throughput_ips"))
        numbers = (str(row[c]) for c in _COLUMNS)
        rows.append((*numbers, text.interval(latency), text.interval(rate), marks))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{found['file']} on {found['runtime']}"]
    lines += ["  " + "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"  ({number}) {note}" for number, note in enumerate(notes, 1)]
    lines += [f"  note: {note}" for note in found["notes"]]
    return "\n".join([*lines, "Each setting in a fresh process; intervals are 95%, within that process."])
