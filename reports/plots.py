"""Plotly figures of a run. Colours that depend on light or dark are set by the page (report.js)."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

from bench.types import Json, Quantity
from reports import rows as model
from reports import text
from reports.rows import Row

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = (
    "#3b82c4",
    "#d9822b",
    "#2a9d74",
    "#b85c9e",
    "#8a6fd1",
    "#c9a227",
    "#5aa9c9",
    "#c8553d",
    "#7c8a2e",
    "#7d7f86",
)
"""Ten colours that keep apart on white, on near-black and for most colour-blind readers."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
_AROUND = ("top right", "bottom right")
_PATTERNS = {"measured": "", "estimated": "/", "predicted": "x"}
STATES = {"int8": "#2a9d74", "float": "#3b82c4", "convert": "#d9822b", "layout": "#8a8f98"}
"""Colours of an operator's states, the same as in report.css."""
MOST_LAYERS = 80
EXACT_DB = 150.0
"""Where :func:`compress.int8.sensitivity.layer_sqnr` stops counting: there is no noise to show."""
AXES = {
    "latency_ms": "latency (ms)",
    "size_bytes": "size of the artifact (kB)",
    "memory_mb": "memory above the runtime's own (MB)",
    "energy_mj": "energy for one image (mJ)",
}


def _escape(value: str) -> str:
    """Text that plotly does not read as its own markup."""
    return html.escape(value, quote=False)


def _layout(figure: go.Figure, height: int, **axes: Any) -> go.Figure:
    figure.update_layout(
        height=height,
        template="none",
        margin={"l": 56, "r": 16, "t": 16, "b": 48},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 12},
        **axes,
    )
    return figure


def _errors(quantities: list[Quantity], scale: float = 1.0) -> Json:
    """Plotly error bars from intervals; nothing when no value has one."""
    if all(q.low is None for q in quantities):
        return {"visible": False}
    up = [0.0 if q.high is None or q.value is None else (q.high - q.value) * scale for q in quantities]
    down = [0.0 if q.low is None or q.value is None else (q.value - q.low) * scale for q in quantities]
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 2}


def runtime_order(items: list[Row]) -> dict[str, int]:
    """Runtime -> place, for one colour and symbol per runtime in every figure."""
    return {name: place for place, name in enumerate(sorted({r.cell.runtime for r in items}))}


def _hover(row: Row) -> str:
    shown = (
        f"<b>{_escape(row.cell.variant)}</b> ({_escape(row.cell.precision)})",
        _escape(row.cell.runtime),
        f"accuracy {text.points(row.metrics['accuracy'])} %",
        f"latency {text.interval(row.metrics['latency_ms'])} ms",
        f"size {text.size(row.metrics['size_bytes'])}",
    )
    return "<br>".join(shown)


def tradeoff(items: list[Row], order: dict[str, int]) -> go.Figure | None:
    """Accuracy against latency (log) for one setting, with intervals and the Pareto front; None if empty."""
    import plotly.graph_objects as go

    shown = [r for r in items if r.metrics["latency_ms"].value and r.metrics["accuracy"].value is not None]
    if not shown:
        return None
    figure, front = go.Figure(), model.pareto(shown)
    on_front = {id(row): place for place, row in enumerate(front)}
    figure.add_trace(
        go.Scatter(
            x=[r.metrics["latency_ms"].value for r in front],
            y=[100 * (r.metrics["accuracy"].value or 0.0) for r in front],
            mode="lines",
            line={"shape": "hv", "dash": "dot", "width": 1.5, "color": "#8a8f98"},
            name="Pareto front",
            hoverinfo="skip",
        )
    )
    for runtime, place in order.items():
        points = [r for r in shown if r.cell.runtime == runtime]
        if not points:
            continue
        latencies = [r.metrics["latency_ms"] for r in points]
        accuracies = [r.metrics["accuracy"] for r in points]
        colour, symbol = PALETTE[place % len(PALETTE)], SYMBOLS[place % len(SYMBOLS)]
        hollow = [q.provenance in ("predicted", "estimated") for q in latencies]
        figure.add_trace(
            go.Scatter(
                x=[q.value for q in latencies],
                y=[100 * (q.value or 0.0) for q in accuracies],
                error_x={**_errors(latencies), "color": colour},
                error_y={**_errors(accuracies, 100.0), "color": colour},
                mode="markers+text",
                marker={"size": 10, "color": colour, "symbol": [symbol + "-open" * h for h in hollow]},
                text=[_escape(r.cell.variant) if id(r) in on_front else "" for r in points],
                textposition=[_AROUND[on_front.get(id(r), 0) % len(_AROUND)] for r in points],
                textfont={"size": 11},
                hovertext=[_hover(r) for r in points],
                hoverinfo="text",
                name=_escape(runtime),
            )
        )
    return _layout(
        figure,
        440,
        xaxis={"title": {"text": AXES["latency_ms"]}, "type": "log", "automargin": True},
        yaxis={"title": {"text": "test accuracy (%)"}, "automargin": True},
    )


def bars(items: list[Row], metric: str, order: dict[str, int]) -> go.Figure | None:
    """Horizontal bars of ``metric``, grouped by variant, one colour per runtime; None when nothing is known.

    Hatched bars are estimated (/) or predicted (x).
    """
    import plotly.graph_objects as go

    shown = [r for r in items if r.metrics[metric].value is not None]
    if not shown:
        return None
    figure = go.Figure()
    scale = 1e-3 if metric == "size_bytes" else 1.0
    variants = list(dict.fromkeys(_escape(r.cell.variant) for r in shown))
    for runtime, place in order.items():
        rows = [r for r in shown if r.cell.runtime == runtime]
        if not rows:
            continue
        quantities = [r.metrics[metric] for r in rows]
        show = text.size if metric == "size_bytes" else text.interval
        labels = [show(q) for q in quantities]
        figure.add_trace(
            go.Bar(
                y=[_escape(r.cell.variant) for r in rows],
                x=[(q.value or 0.0) * scale for q in quantities],
                error_x=_errors(quantities, scale) | {"color": "#8a8f98"},
                orientation="h",
                name=_escape(runtime),
                marker={
                    "color": PALETTE[place % len(PALETTE)],
                    "pattern": {
                        "shape": [_PATTERNS[q.provenance or "measured"] for q in quantities],
                        "fillmode": "overlay",
                        "size": 7,
                    },
                },
                hovertext=[
                    f"{_escape(r.cell.variant)}, {_escape(runtime)}: {s}"
                    for r, s in zip(rows, labels, strict=True)
                ],
                hoverinfo="text",
            )
        )
    bar_count = len({(r.cell.variant, r.cell.runtime) for r in shown})
    return _layout(
        figure,
        110 + 15 * bar_count + 8 * len(variants),
        barmode="group",
        bargap=0.25,
        xaxis={"title": {"text": AXES[metric]}, "rangemode": "tozero", "automargin": True},
        yaxis={"autorange": "reversed", "automargin": True, "categoryarray": variants, "type": "category"},
    )


def curves(variants: dict[str, Json], column: str) -> go.Figure | None:
    """``val_accuracy``, ``val_loss`` or ``train_loss`` by epoch of trained variants; a star: the one kept."""
    import plotly.graph_objects as go

    trained = [
        (n, r) for n, r in variants.items() if any(_number(h.get(column)) for h in r.get("history") or ())
    ]
    if not trained:
        return None
    share = column == "val_accuracy"
    figure = go.Figure()
    for place, (name, record) in enumerate(trained):
        history = [h for h in record["history"] if _number(h.get(column))]
        kept = [h["epoch"] == record.get("best_epoch") for h in history]
        figure.add_trace(
            go.Scatter(
                x=[h["epoch"] for h in history],
                y=[h[column] * (100 if share else 1) for h in history],
                mode="lines+markers",
                line={"width": 1.8, "color": PALETTE[place % len(PALETTE)]},
                marker={
                    "size": [11 if k else 4 for k in kept],
                    "symbol": ["star" if k else "circle" for k in kept],
                },
                name=_escape(name),
            )
        )
    titles = {
        "val_accuracy": "validation accuracy (%)",
        "val_loss": "validation loss",
        "train_loss": "training loss",
    }
    return _layout(
        figure,
        360,
        xaxis={"title": {"text": "epoch"}, "automargin": True},
        yaxis={"title": {"text": titles[column]}, "type": "linear" if share else "log", "automargin": True},
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")


def confusion(labels: int) -> go.Figure:
    """An empty heat map for ``labels`` classes; the page fills it with the cell that is looked at."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Heatmap(z=[[0.0]], zmin=0, zmax=1, xgap=1, ygap=1, hoverinfo="text", showscale=False)
    )
    return _layout(
        figure,
        min(760, 220 + 24 * labels),
        xaxis={"title": {"text": "predicted"}, "type": "category", "automargin": True},
        yaxis={"title": {"text": "true"}, "type": "category", "autorange": "reversed", "automargin": True},
    )


def layers(rows: list[Json]) -> go.Figure:
    """Horizontal bars of time per operator in running order, coloured by state; beside them the SQNR of int8 layers.

    Of more than MOST_LAYERS, those that take longest. Without any SQNR there is no second panel.
    """
    import plotly.graph_objects as go

    slowest = sorted(range(len(rows)), key=lambda i: -rows[i]["time_us"]["value"])[:MOST_LAYERS]
    shown = [(i + 1, rows[i]) for i in sorted(slowest)]
    labels = [f"{i} {_escape(_shortened(row['name']))}" for i, row in shown]
    noise = any(_noisy(row) for _, row in shown)
    figure = go.Figure(_state_bars(labels, [row for _, row in shown]))
    domain = [0.0, 0.7] if noise else [0.0, 1.0]
    if noise:
        figure.add_trace(_noise_panel(labels, [row for _, row in shown]))
        figure.update_layout(
            xaxis2={
                "title": {"text": "SQNR (dB)"},
                "domain": [0.76, 1.0],
                "anchor": "y",
                "automargin": True,
                "rangemode": "tozero",
            }
        )
    return _layout(
        figure,
        90 + 19 * len(shown),
        showlegend=False,
        barmode="stack",
        bargap=0.2,
        xaxis={
            "title": {"text": "time of a call (µs)"},
            "domain": domain,
            "rangemode": "tozero",
            "automargin": True,
        },
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": labels,
            "dtick": 1,
        },
    )


def _state_bars(labels: list[str], rows: list[Json]) -> list[go.Bar]:
    """One trace of bars for each state that occurs."""
    import plotly.graph_objects as go

    bars = []
    for state, colour in STATES.items():
        own = [(label, row) for label, row in zip(labels, rows, strict=True) if row["state"] == state]
        if not own:
            continue
        times = [Quantity.from_json(row["time_us"]) for _, row in own]
        bars.append(
            go.Bar(
                y=[label for label, _ in own],
                x=[q.value for q in times],
                error_x=_errors(times) | {"color": "#8a8f98"},
                orientation="h",
                name=state,
                marker={"color": colour},
                hovertext=[_layer_hover(row) for _, row in own],
                hoverinfo="text",
            )
        )
    return bars


def _noise_panel(labels: list[str], rows: list[Json]) -> go.Scatter:
    import plotly.graph_objects as go

    known = [(label, row) for label, row in zip(labels, rows, strict=True) if _noisy(row)]
    return go.Scatter(
        y=[label for label, _ in known],
        x=[row["sqnr_db"]["value"] for _, row in known],
        xaxis="x2",
        mode="markers",
        marker={"size": 8, "color": "#b85c9e"},
        name="SQNR",
        hovertext=[f"{_escape(row['name'])}: {row['sqnr_db']['value']:.1f} dB" for _, row in known],
        hoverinfo="text",
    )


def _noisy(row: Json) -> bool:
    value = row["sqnr_db"]["value"]
    return value is not None and value < EXACT_DB


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _layer_hover(row: Json) -> str:
    macs = Quantity.from_json(row["macs"])
    shown = (
        f"<b>{_escape(row['name'])}</b>",
        _escape(row["op"] + (f", {row['shape']}" if row["shape"] else "")),
        f"{row['time_us']['value']:.1f} µs, {100 * row['share']:.1f}% of all",
        f"{text.count(macs)} MACs" if macs.value is not None else "",
        *(_escape(reason) for reason in row["reasons"]),
    )
    return "<br>".join(part for part in shown if part)


def to_json(figure: go.Figure | None) -> Json | None:
    """The figure as plain JSON (no binary arrays), or None."""
    if figure is None:
        return None
    plain: Json = json.loads(figure.to_json())
    return plain
