"""The report's page in a real Chromium: filter, sort, a number and what is behind it, keyboard, dark, print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.agent.browser import package
from bench.types import Json
from reports import layout, rows, tables
from tests.fixtures import FakeRun, example_run

sync = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'edgefit[browser]'"
)
sync.expect.set_options(timeout=60_000)  # a busy machine draws late; nothing here is about how late
ROW = "#tradeoff tbody tr:not(.group):not([hidden])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = package.chromium()
    if program is None:
        pytest.skip(f"no Chromium here; install one or name it in {package.VARIABLE}")
    with sync.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """The example, with stored calls of two processes for the cells that ran."""
    found = example_run(tmp_path_factory.mktemp("page"))
    rng = np.random.default_rng(0)
    for place, cell in enumerate(found.cells):
        if cell["status"] == "ok":
            cell["samples"] = f"calls{place}"
            calls = rng.lognormal(-9, 0.02, (2, 500))
            with (found.path / "objects" / f"calls{place}").open("wb") as file:
                np.savez(file, process_0=calls[0], process_1=calls[1])
    return found


@pytest.fixture(scope="module")
def place(run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("html") / "report.html"
    path.write_text(tables.render([run], "html"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, place: str) -> Iterator[Any]:
    """The page; an error in its scripts fails the test."""
    wrong: list[str] = []
    shown = browser.new_page()
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    shown.goto(place)
    yield shown
    shown.close()
    assert not wrong


def names(page: Any) -> list[str]:
    return [re.sub(r"\s*(failed|skipped)$", "", t) for t in page.locator(f"{ROW} > th").all_inner_texts()]


def test_words_limits_places_and_the_front_narrow_the_table(page: Any) -> None:
    every = page.locator(ROW).count()
    page.fill("#filter", "student-kd")
    assert 0 < page.locator(ROW).count() < every
    assert all("student-kd" in name for name in names(page))
    page.fill("#filter", "latency<0.1 accuracy>=96")
    latencies = page.locator(f"{ROW} td[data-order]").all()
    assert names(page) == ["student-kd", "student-kd-int8"], latencies
    page.fill("#filter", "")
    page.select_option("[data-filter=runtime]", "litert")
    assert set(page.locator(f"{ROW} > td:nth-child(2)").all_inner_texts()) == {"litert"}
    page.check("#front-only")
    assert page.locator("#count").inner_text().startswith(f"{page.locator(ROW).count()} of {every}")
    page.fill("#filter", "nothing-is-called-so")
    assert page.locator(ROW).count() == 0


def test_a_heading_sorts_both_ways_and_missing_values_stay_last(page: Any) -> None:
    page.focus("th[data-name=latency] button")
    for key in ("Enter", " "):
        page.keyboard.press(key)
        at = page.evaluate(
            "[...document.querySelectorAll('#tradeoff thead th')].findIndex((h) => h.dataset.name === 'latency')"
        )
        shown = [row.locator("> *").nth(at).get_attribute("data-order") for row in page.locator(ROW).all()]
        values = [float(v) for v in shown if v]
        assert values == sorted(values, reverse=key == " ") and len(values) > 10
        assert not any(shown[len(values) :])


def test_a_number_opens_its_calls_and_environment_by_keyboard(page: Any) -> None:
    link = page.locator("#tradeoff a[href$='/latency']").first
    link.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("#detail")
    sync.expect(dialog).to_be_visible()
    assert re.search(r"cell-\d+/latency", page.url)
    sync.expect(dialog.locator("#detail-plot .main-svg").first).to_be_visible()
    assert page.evaluate("document.getElementById('detail-plot').data.map((t) => t.x.length)") == [167, 167]
    said = dialog.inner_text()
    assert "Every 3th" not in said and "Every 3rd call" in said
    assert "measured" in said and "governor" in said
    page.keyboard.press("Escape")
    sync.expect(dialog).to_be_hidden()
    assert page.url.endswith("#table")


def test_a_link_to_a_number_opens_it_and_accuracy_leads_to_its_classes(
    browser: Any, page: Any, place: str, run: FakeRun
) -> None:
    target = page.locator("#tradeoff a[href$='/accuracy']").nth(1).get_attribute("href")
    other = browser.new_page()
    other.goto(f"{place}{target}")
    sync.expect(other.locator("#detail")).to_be_visible()
    other.click("#detail-classes a")
    sync.expect(other.locator("#detail")).to_be_hidden()
    at = int(re.findall(r"cell-(\d+)", target)[0])
    shown = other.locator("#classified option:checked").inner_text()
    row = rows.rows(run)[at]
    assert shown == f"{row.cell.variant} on {row.cell.runtime}"
    other.close()


def test_several_runs_and_groups_are_on_one_page(browser: Any, run: FakeRun, tmp_path: Path) -> None:
    import dataclasses

    twin = dataclasses.replace(run, path=run.path.parent / "twin")
    (tmp_path / "both.html").write_text(
        tables.render([run, twin], "html", layout.parse_view("latency,size", "-latency", "host", "run", 2))
    )
    shown = browser.new_page()
    shown.goto((tmp_path / "both.html").as_uri())
    heads = shown.locator("#tradeoff thead th").all_inner_texts()
    assert sum("latency" in head for head in heads) == 2 and any("twin" in head for head in heads)
    assert shown.locator("#tradeoff tr.group").count() == 2
    assert shown.locator("#about .of-run").count() == 2
    shown.close()


def test_dark_mode_and_print_have_their_own_colours(page: Any) -> None:
    def colour() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = colour()
    page.emulate_media(color_scheme="dark")
    dark = colour()
    page.emulate_media(media="print")
    assert light != dark and colour() == "rgb(255, 255, 255)"
    assert page.locator(".tools").first.is_hidden()
    assert len(page.pdf()) > 20_000
    drawn = page.evaluate(
        "[...document.querySelectorAll('section .plot')].filter((p) => !p.children.length).length"
    )
    assert drawn == 0, "plots that nobody scrolled to are missing from the print"


def test_the_history_is_a_section_of_the_page(browser: Any, run: FakeRun, tmp_path: Path) -> None:
    result = {
        "time": "2026-01-02T00:00:00Z",
        "commit": "a" * 40,
        "value": 5.0,
        "low": 4.9,
        "high": 5.1,
        "provenance": "measured",
    }
    history: Json = {
        "file": "bench-history.jsonl", "missing": "", "damaged": [], "least": 6,
        "series": [{"subject": "teacher", "metric": "latency", "machine": "here", "relative": True, "n": 2, "changes": [],
                    "results": [result, {**result, "time": "2026-01-03T00:00:00Z", "value": 5.2, "high": 5.3}]}],
    }  # fmt: skip
    (tmp_path / "trend.html").write_text(tables.render([run], "html", history=history))
    shown = browser.new_page()
    shown.goto((tmp_path / "trend.html").as_uri())
    shown.locator("#trends").scroll_into_view_if_needed()
    sync.expect(shown.locator("#trend0 .main-svg").first).to_be_visible()
    shown.close()
