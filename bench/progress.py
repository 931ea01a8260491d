"""Progress for people: the events of a run as lines and one live bar on standard error.

On a terminal a rich progress bar says which item, how far, how fast and how long still; elsewhere
(a CI log, a pipe) one line an item, so that logs stay readable.
"""

from __future__ import annotations

import time
from typing import Any

from rich.markup import escape

from bench.types import Json


class Progress:
    """A ``Notify`` callable with a display behind it. Use as a context manager."""

    def __init__(self, console: Any, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self._bar: Any = None
        self._stage: Any = None
        self._detail: Any = None
        self._epoch = ("", 0)
        self._item, self._item_start, self._process = "", 0.0, ""
        self._todo, self._took = 0, list[float]()

    def __enter__(self) -> Progress:
        if not self.quiet and self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[info]}"),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: str, info: Json) -> None:
        handler = getattr(self, f"_on_{event}", None)
        if handler is not None and not self.quiet:
            handler(info)

    def _on_stage(self, info: Json) -> None:
        self._todo, self._took = info.get("todo", 0), []
        if self._bar is not None:
            if self._stage is not None:
                self._bar.remove_task(self._stage)
            self._stage = self._bar.add_task(info["name"], total=info["total"], info="")

    def _on_item(self, info: Json) -> None:
        if not info["done"]:
            self._item, self._item_start = info["name"], time.monotonic()
            self._process = ""
            self._show_now("")
            return
        self._drop_detail()
        if self._item == info["name"] and not info.get("skipped"):
            self._took.append(time.monotonic() - self._item_start)
            self.console.print(
                f"  {escape(info['name'])}  [dim]{self._took[-1]:.1f} s[/dim]", highlight=False
            )
            self._item = ""
        if self._bar is not None and self._stage is not None:
            self._bar.advance(self._stage)

    def _on_train(self, info: Json) -> None:
        eta = info.get("eta_seconds")
        text = f"{info.get('images_per_second', 0):.0f} images/s"
        if eta is not None:
            text += f", {eta:.0f} s left"
        if info.get("val_accuracy") is not None:
            text += f", validation {info['val_accuracy']:.3f}"
        if self._bar is None and (info["variant"], info["epoch"]) != self._epoch:
            self._epoch = (info["variant"], info["epoch"])
            self.console.print(f"    epoch {info['epoch']}/{info['epochs']}: {text}", highlight=False)
        self._show(
            f"    epoch {info['epoch']}/{info['epochs']}", info.get("step", 0), info.get("steps", 1), text
        )

    def _on_process(self, info: Json) -> None:
        self._process = f" process {info['n']} of {info['of']}" if info["of"] > 1 else ""

    def _on_phase(self, info: Json) -> None:
        self._show_now(info["name"])

    def _on_progress(self, info: Json) -> None:
        if info.get("median_ms") is not None:
            width = info.get("half_width")
            spread = f" +-{width:.1%}" if width is not None else ""
            self._show_now(f"{info['median_ms']:.3f} ms{spread}, n={info['n']}")

    def _on_log(self, info: Json) -> None:
        self.console.print(f"  [dim]{escape(info['text'])}[/dim]", highlight=False)

    def _on_warning(self, info: Json) -> None:
        self.console.print(f"  [yellow]warning:[/yellow] {escape(info['text'])}", highlight=False)

    def _on_failed(self, info: Json) -> None:
        self.console.print(
            f"  [red]failed:[/red] {escape(str(info['name']))}: {escape(info['reason'])}", highlight=False
        )
        self._item = ""  # it is not told again with its time, as what was made is

    def _show_now(self, what: str) -> None:
        """The item, how far it is, and how long the rest of its stage will take at the pace so far."""
        parts = [f"{self._item}{self._process}", what, self._left()]
        self._update(info=": ".join(p for p in parts[:2] if p) + (f" ({parts[2]})" if parts[2] else ""))

    def _left(self) -> str:
        remaining = self._todo - len(self._took)
        if not self._took or remaining < 1:
            return ""
        seconds = remaining * sum(self._took) / len(self._took) - (time.monotonic() - self._item_start)
        return (
            f"about {max(1, round(seconds / 60))} min left"
            if seconds > 90
            else f"about {max(1, seconds):.0f} s left"
        )

    def _update(self, **fields: Any) -> None:
        if self._bar is not None and self._stage is not None:
            self._bar.update(self._stage, **fields)

    def _show(self, text: str, step: int, steps: int, info: str) -> None:
        if self._bar is None:
            return
        if self._detail is None:
            self._detail = self._bar.add_task(text, total=steps, info=info)
        self._bar.update(self._detail, description=text, completed=step, total=steps, info=info)

    def _drop_detail(self) -> None:
        if self._bar is not None and self._detail is not None:
            self._bar.remove_task(self._detail)
        self._detail = None
