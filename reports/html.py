"""One self-contained HTML file: no network, every string escaped, numbers with their provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import NothingFitsError
from bench.types import Json, Quantity
from reports import page as plumbing
from reports import plots, tables, text, verdicts
from reports import rows as model
from reports.choose import Constraints, choose
from reports.page import flatten
from reports.predict import predicted_lines
from reports.rows import Row

if TYPE_CHECKING:
    from bench.store import RunData

CONFUSION_BUDGET = 400_000
"""Numbers of all embedded confusion matrices together, so that many classes do not swell the file."""

SKIPPED_FILES = 50
_BARS = ("size_bytes", "memory_mb", "energy_mj")


@dataclass(frozen=True)
class Field:
    """One cell of the trade-off table: what is shown, what it is sorted by, and the tooltip."""

    shown: str
    order: float | str | None
    title: str = ""
    kind: str = "number"
    provenance: str = ""

    @property
    def parts(self) -> tuple[str, str]:
        """The value and its interval, which goes below it."""
        value, bracket, rest = self.shown.partition(" [")
        return value, f"[{rest}" if bracket and self.kind == "number" else ""


@dataclass(frozen=True)
class Heading:
    """A column: title, unit, whether it is text, and the tooltip."""

    title: str
    unit: str = ""
    is_text: bool = False
    title_text: str = ""


def environments(items: Iterable[Row]) -> list[tuple[str, str]]:
    """The cells' environments as one table; what differs between cells shows its different values."""
    seen: dict[str, dict[str, None]] = {}
    for row in items:
        for key, value in flatten(row.record.get("environment") or {}).items():
            seen.setdefault(key, {})[value] = None
    return [
        (
            key,
            next(iter(values))
            if len(values) == 1
            else f"varies ({len(values)}): {', '.join(list(values)[:4])}",
        )
        for key, values in seen.items()
    ]


# ---------------------------------------------------------------- the table


def _tooltip(quantity: Quantity, missing: str = "") -> str:
    if quantity.value is None:
        return quantity.reason or missing or "not recorded"
    parts = [quantity.provenance or "measured", quantity.method, f"n = {quantity.n}" if quantity.n else ""]
    return ", ".join(part for part in parts if part)


def _field(quantity: Quantity, show: Callable[[Quantity], str], shown: str | None = None) -> Field:
    value = show(quantity) if shown is None else shown
    provenance = (quantity.provenance or "measured") if quantity.value is not None else "missing"
    return Field(value, quantity.value, _tooltip(quantity), "number", provenance)


HEADINGS = (
    Heading("variant", is_text=True),
    Heading("runtime", is_text=True),
    Heading("batch"),
    Heading("threads"),
    Heading("accuracy", "%", title_text="Test set, with its Wilson interval"),
    Heading("change", "points", title_text="Accuracy minus the reference's on the same test images"),
    Heading("latency", "ms", title_text="Median of the steady state over the processes"),
    Heading("faster", "×", title_text="The reference's latency over this one, same runtime and setting"),
    Heading("size", title_text="Of the artifact as shipped"),
    Heading("smaller", "×"),
    Heading("memory", "MB", title_text="Peak of the worker above the runtime's own"),
    Heading("energy", "mJ", title_text="For one image"),
    Heading("host", is_text=True),
    Heading("precision", is_text=True),
    Heading("p90", "ms"),
    Heading("p99", "ms"),
    Heading("throughput", "img/s"),
    Heading("MACs"),
    Heading("parameters"),
)


def _fields(row: Row) -> list[Field]:
    metrics, relative = row.metrics, row.relative
    words = [row.cell.variant, row.cell.runtime]
    fixed = [Field(w, w, kind="text") for w in words] + [
        Field(str(n), float(n)) for n in (row.cell.batch, row.cell.threads)
    ]
    itself = "reference" if row.is_reference else None

    def against(name: str, show: Callable[[Quantity], str]) -> Field:
        known = relative[name].value is not None
        return _field(relative[name], show, itself if known else None)

    return [
        *fixed,
        _field(metrics["accuracy"], text.points),
        against("accuracy_change", lambda q: text.points(q, sign="+")),
        _field(metrics["latency_ms"], text.interval),
        against("x_faster", lambda q: text.ratio(q, "interval")),
        _field(metrics["size_bytes"], text.size),
        against("x_smaller", text.ratio),
        _field(metrics["memory_mb"], text.interval),
        _field(metrics["energy_mj"], text.interval),
        Field(row.cell.host, row.cell.host, kind="text"),
        Field(row.cell.precision, row.cell.precision, kind="text"),
        _field(metrics["p90_ms"], text.interval),
        _field(metrics["p99_ms"], text.interval),
        _field(metrics["throughput_ips"], text.interval),
        _field(metrics["macs"], text.count),
        _field(metrics["params"], text.count),
    ]


def _table(items: list[Row]) -> Json:
    """Headings and lines, without the columns that say the same everywhere or nothing at all."""
    front = {id(row) for group in model.by_setting(items).values() for row in model.pareto(group)}
    lines = [(row, _fields(row)) for row in items]
    keep = []
    for place, heading in enumerate(HEADINGS):
        values = {fields[place].order for _, fields in lines}
        constant = heading.title in ("host", "batch", "threads") and len(values) == 1
        if not constant and values != {None}:
            keep.append(place)
    return {
        "headings": [HEADINGS[place] for place in keep],
        "rows": [
            {
                "fields": [fields[place] for place in keep],
                "status": row.status,
                "reason": row.reason,
                "reference": row.is_reference,
                "front": id(row) in front,
            }
            for row, fields in lines
        ],
        "setting": ", ".join(model.setting_title(s) for s in model.by_setting(items)) if items else "",
    }


# ---------------------------------------------------------------- the rest of the page


def _card(title: str, value: str, name: str, note: str) -> Json:
    return {"title": title, "value": value, "name": name, "note": note}


def _pick(run: RunData, items: list[Row], objective: str, title: str) -> Json:
    """What ``choose`` picks within one point of the reference."""
    try:
        row = choose(run, Constraints(max_drop=0.01), objective, items=items).chosen
    except NothingFitsError:
        return _card(title, text.MISSING, "", "nothing is known to be within 1 point")
    change, place = row.relative["val_accuracy_change"], f"{row.cell.runtime} on {row.cell.host}"
    if objective == "latency":
        metric, against, word = row.metrics["latency_ms"], row.relative["x_faster"], "faster"
        value = f"{text.mark(metric)}{text.number(metric.value or 0.0, text.half_width(metric))} ms"
    else:
        metric, against, word = row.metrics["size_bytes"], row.relative["x_smaller"], "smaller"
        value = text.size(metric)
    better = f"{text.ratio(against)} {word}, " if against.value is not None else ""
    note = "the reference itself" if row.is_reference else f"{better}{text.points(change, sign='+')} points"
    return _card(
        title, value, row.cell.variant, f"{place}; {note}{' on validation' * (not row.is_reference)}"
    )


def _cards(run: RunData, items: list[Row]) -> list[Json]:
    """The reference, the best within one point of it, and how many cells there are."""
    cards = []
    reference = next((r for r in items if r.is_reference and r.metrics["accuracy"].value is not None), None)
    if reference is not None:
        accuracy, size = reference.metrics["accuracy"], text.size(reference.metrics["size_bytes"])
        note = f"{text.points(accuracy)} % of the test set on {reference.cell.runtime}; {size}"
        cards.append(
            _card("Reference", f"{100 * (accuracy.value or 0.0):.1f} %", reference.cell.variant, note)
        )
    cards.append(_pick(run, items, "latency", "Fastest within 1 point"))
    cards.append(_pick(run, items, "size", "Smallest within 1 point"))
    counts = {status: sum(r.status == status for r in items) for status in ("ok", "failed", "skipped")}
    foretold = sum(bool(r.record.get("prediction")) for r in items)
    note = f"{counts['failed']} failed, {counts['skipped']} skipped"
    note = f"{foretold} predicted, {note}" if foretold else note
    return [*cards, _card("Cells", f"{counts['ok'] - foretold} of {len(items)}", "measured", note)]


def _figures(run: RunData, items: list[Row]) -> Json:
    order = plots.runtime_order(items)
    settings = []
    for setting, group in model.by_setting(items).items():
        made = {"latency_ms": plots.tradeoff(group, order)}
        made |= {name: plots.bars(group, name, order) for name in _BARS}
        missing = {
            name: next((r.metrics[name].reason for r in group if r.metrics[name].reason), "not recorded")
            for name, figure in made.items()
            if figure is None
        }
        settings.append(
            {
                "title": model.setting_title(setting),
                "figures": {name: plots.to_json(figure) for name, figure in made.items()},
                "missing": missing,
            }
        )
    columns = ("val_accuracy", "val_loss", "train_loss")
    return {
        "settings": settings,
        "curves": {name: plots.to_json(plots.curves(run.variants, name)) for name in columns},
    }


def _classified(items: list[Row]) -> tuple[list[Json], int]:
    """What the views of classes show, reference and Pareto front first; and how many were left out."""
    front = {id(row) for group in model.by_setting(items).values() for row in model.pareto(group)}
    seen: set[tuple[str, ...]] = set()
    chosen: list[Json] = []
    budget, left_out = CONFUSION_BUDGET, 0
    for row in sorted(items, key=lambda r: (not r.is_reference, id(r) not in front)):
        found = row.record.get("classification")
        key = (row.cell.variant, row.cell.runtime, row.cell.host, row.cell.precision)
        if not found or key in seen:
            continue
        seen.add(key)
        budget -= len(found["labels"]) ** 2
        if budget < 0 and chosen:
            left_out += 1
            continue
        title = f"{row.cell.variant} on {row.cell.runtime}"
        title += "" if row.cell.host == "local" else f" (scheme of {row.cell.host})"
        chosen.append({**found, "title": title, "accuracy": text.points(row.metrics["accuracy"])})
    return chosen, left_out


def _data_facts(run: RunData) -> list[tuple[str, str]]:
    data = {k: v for k, v in (run.manifest.get("data") or {}).items() if k not in ("skipped", "classes")}
    classes = [str(c) for c in (run.manifest.get("data") or {}).get("classes") or ()]
    shown = ", ".join(classes[:30]) + (f" and {len(classes) - 30} more" if len(classes) > 30 else "")
    return [*flatten(data).items(), (f"classes ({len(classes)})", shown or "unknown")]


def _profile_facts(run: RunData) -> list[tuple[str, str]]:
    """The profile's own fields; each published fact with its source."""
    profile = dict(run.manifest.get("profile") or {})
    facts = profile.pop("facts", None) or {}
    shown = list(flatten(profile).items())
    for name, fact in facts.items():
        if isinstance(fact, dict) and "value" in fact:
            shown.append(
                (name, f"{next(iter(flatten(fact['value']).values()))} ({fact.get('source', 'no source')})")
            )
        else:
            shown += list(flatten(fact, name).items())
    return shown


def _variants(run: RunData) -> list[Json]:
    result = []
    for name, record in run.variants.items():
        step = record.get("step") or {}
        options = [
            f"{k}={v}" for k, v in step.items() if k not in ("kind", "version", "training") and v != ""
        ]
        macs, params = record.get("macs"), record.get("params")
        result.append(
            {
                "name": name,
                "parent": record.get("parent") or text.MISSING,
                "step": ", ".join([str(step.get("kind", "")), *options]),
                "macs": text.count(Quantity(macs)) if macs else text.MISSING,
                "params": text.count(Quantity(params)) if params else text.MISSING,
                "seconds": f"{record.get('seconds') or 0:.1f}",
                "status": record["status"] + (" (intermediate)" if record.get("intermediate") else ""),
                "notes": "; ".join(str(n) for n in record.get("notes") or ()),
            }
        )
    return result


def render_html(run: RunData) -> str:
    """The whole report as one HTML document that needs no network (about 5 MB, most of it plotly)."""
    items = model.rows(run)
    classified, left_out = _classified(items)
    data = run.manifest.get("data") or {}
    profile = run.manifest.get("profile") or {}
    most = max((len(c["labels"]) for c in classified), default=0)
    payload = {
        **_figures(run, items),
        "classified": classified,
        "confusion": plots.to_json(plots.confusion(most)) if classified else None,
    }
    skipped = [
        (str(s[0]), str(s[1])) if isinstance(s, (list, tuple)) else (str(s), "")
        for s in data.get("skipped") or ()
    ]
    found = verdicts.compare(run, items)
    return plumbing.render(
        "report",
        payload,
        title=f"{data.get('spec', 'data')} on {profile.get('title') or profile.get('name', 'local')}",
        summary=tables.summary(run),
        run=run.manifest,
        cards=_cards(run, items),
        verdicts=tables.verdict_lines(run, items, found),
        sentences=verdicts.sentences(found),
        predicted=predicted_lines(items),
        table=_table(items),
        legend=(text.LEGEND, text.INTERVAL_NOTE, text.SPLIT_NOTE),
        settings=[s["title"] for s in payload["settings"]],
        curves=[name for name, figure in payload["curves"].items() if figure],
        classified=[c["title"] for c in classified],
        left_out=left_out,
        problems=model.problems(run, items),
        gaps=tables.gap_lines(items),
        data=_data_facts(run),
        skipped=skipped[:SKIPPED_FILES],
        skipped_more=max(0, len(skipped) - SKIPPED_FILES),
        variants=_variants(run),
        environment=list(flatten(run.manifest.get("environment") or {}).items()),
        cell_environment=environments(items),
        profile=_profile_facts(run),
    )
