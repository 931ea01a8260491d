"""What a person sees while a run works: every event has words, and none can break the run."""

from __future__ import annotations

import io
from typing import ClassVar

import pytest
from rich.console import Console

from bench.progress import Progress

TRAIN = {
    "variant": "teacher", "epoch": 1, "epochs": 3, "step": 1, "steps": 9, "images_per_second": 120.0,
    "eta_seconds": 30.0, "val_accuracy": None, "loss": 2.0,
}  # fmt: skip
EVENTS = [
    ("stage", {"name": "variants", "total": 2, "todo": 2}),
    ("item", {"name": "teacher", "done": False}),
    ("train", TRAIN),
    ("train", TRAIN | {"step": 2}),
    ("train", TRAIN | {"epoch": 2, "val_accuracy": 0.5}),
    ("warning", {"text": "careful [/red] with [brackets"}),
    ("log", {"text": "reading folder:[x]"}),
    ("item", {"name": "teacher", "done": True}),
    ("item", {"name": "student", "done": True}),
    ("stage", {"name": "cells", "total": 1, "todo": 1}),
    ("item", {"name": "teacher / litert", "done": False}),
    ("process", {"n": 1, "of": 3}),
    ("phase", {"name": "load", "memory_kb": 1}),
    ("progress", {"n": 100, "median_ms": 1.234, "half_width": 0.02}),
    ("failed", {"kind": "cell", "name": "teacher", "reason": "it broke [/]"}),
    ("item", {"name": "teacher / litert", "done": True}),
    ("something new", {}),
]


@pytest.mark.parametrize("terminal", [True, False])
def test_every_event_is_shown_and_harmless(terminal):
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=terminal, width=100)) as progress:
        for event, info in EVENTS:
            progress(event, dict(info))
    text = out.getvalue()
    assert "careful [/red] with [brackets" in text and "it broke [/]" in text and "folder:[x]" in text
    assert "  teacher  " in text and "  teacher / litert  " not in text  # what failed was not made


def test_a_log_gets_one_line_an_epoch():
    out = io.StringIO()
    with Progress(Console(file=out, width=100)) as progress:
        for event, info in EVENTS:
            progress(event, dict(info))
    assert (
        out.getvalue().count("epoch 1/3") == 1
        and "epoch 2/3: 120 images/s, 30 s left, validation 0.500" in out.getvalue()
    )


def test_the_bar_says_which_process_and_how_long_the_rest_takes():
    class Bar:
        said: ClassVar[list[str]] = []

        def update(self, task, **fields):
            self.said.append(fields.get("info", ""))

        def advance(self, task):
            pass

    progress = Progress(Console(file=io.StringIO(), width=100))
    progress("stage", {"name": "cells", "total": 3, "todo": 3})
    progress._bar, progress._stage = Bar(), 0
    progress("item", {"name": "a", "done": False})
    progress("process", {"n": 2, "of": 5})
    progress("progress", {"n": 100, "median_ms": 1.234, "half_width": 0.02})
    assert Bar.said[-1] == "a process 2 of 5: 1.234 ms +-2.0%, n=100"
    progress("item", {"name": "a", "done": True})
    progress("item", {"name": "b", "done": False})
    progress("phase", {"name": "load"})
    assert Bar.said[-1].startswith("b: load (about ") and Bar.said[-1].endswith(" s left)")


def test_quiet_is_quiet():
    out = io.StringIO()
    with Progress(Console(file=out), quiet=True) as progress:
        for event, info in EVENTS:
            progress(event, dict(info))
    assert out.getvalue() == ""
