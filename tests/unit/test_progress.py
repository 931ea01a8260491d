"""What a person sees while a run works: every event has words, and none can break the run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.progress import Progress

TRAIN = {
    "variant": "teacher", "epoch": 1, "epochs": 3, "step": 1, "steps": 9, "images_per_second": 120.0,
    "eta_seconds": 30.0, "val_accuracy": None, "loss": 2.0,
}  # fmt: skip
EVENTS = [
    ("stage", {"name": "variants", "total": 2}),
    ("item", {"name": "teacher", "done": False}),
    ("train", TRAIN),
    ("train", TRAIN | {"step": 2}),
    ("train", TRAIN | {"epoch": 2, "val_accuracy": 0.5}),
    ("warning", {"text": "careful [/red] with [brackets"}),
    ("log", {"text": "reading folder:[x]"}),
    ("item", {"name": "teacher", "done": True}),
    ("item", {"name": "student", "done": True}),
    ("stage", {"name": "cells", "total": 1}),
    ("item", {"name": "teacher / litert", "done": False}),
    ("phase", {"name": "load", "pss_kb": 1}),
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


def test_a_log_gets_one_line_an_epoch():
    out = io.StringIO()
    with Progress(Console(file=out, width=100)) as progress:
        for event, info in EVENTS:
            progress(event, dict(info))
    assert (
        out.getvalue().count("epoch 1/3") == 1
        and "epoch 2/3: 120 images/s, 30 s left, validation 0.500" in out.getvalue()
    )


def test_quiet_is_quiet():
    out = io.StringIO()
    with Progress(Console(file=out), quiet=True) as progress:
        for event, info in EVENTS:
            progress(event, dict(info))
    assert out.getvalue() == ""
