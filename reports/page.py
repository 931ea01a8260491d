"""What every HTML page shares: one self-contained file, plotly inside, text that stays text."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from reports.tables import finite


def json_for_script(value: Any) -> str:
    """JSON that is safe inside ``<script>``: no ``<``, ``>``, ``&`` or line separators of JavaScript."""
    raw = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested dicts as ``{"cpu.model": "..."}``; lists of plain values are joined."""
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    if isinstance(value, (list, tuple)):
        shown = ", ".join(str(v) if not isinstance(v, dict) else json.dumps(v, default=str) for v in value)
        return {prefix: shown or "none"}
    if isinstance(value, float):
        return {prefix: f"{value:.6g}"}
    return {prefix: "unknown" if value in (None, "") else str(value)}


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    # </script> would end the element; inside JavaScript strings <\/ means the same.
    return re.sub(r"</(script)", r"<\\/\1", str(get_plotlyjs()), flags=re.IGNORECASE)


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _asset(name: str) -> str:
    return resources.files("reports").joinpath("templates", name).read_text(encoding="utf-8")


def render(name: str, payload: Any, **values: Any) -> str:
    """The page ``templates/NAME.html.j2`` with its script ``NAME.js`` and the JSON that the script reads."""
    from markupsafe import Markup

    # Markup: our own files and escaped JSON, never text from a run.
    page: str = _template(f"{name}.html.j2").render(
        **values,
        css=Markup(_asset("report.css")),
        js=Markup(_asset("page.js") + _asset(f"{name}.js")),
        plotly=Markup(_plotly_js()),
        payload=Markup(json_for_script(payload)),
    )
    return page
