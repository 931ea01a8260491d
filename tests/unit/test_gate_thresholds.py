"""Thresholds as people type them, and [tool.edgefit.gate]."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError, UsageError
from bench.gate.thresholds import DEFAULT, METRICS, Settings, parse, read_settings, thresholds


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("latency:3%", "latency", 0.03), ("accuracy:0.5pt", "accuracy", 0.005), ("accuracy:1points", "accuracy", 0.01),
        ("size:.5%", "size", 0.005), ("memory", "memory", 0.05),
    ],
)  # fmt: skip
def test_thresholds_are_read(text: str, name: str, value: float) -> None:
    assert parse(text) == (name, pytest.approx(value))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("latncy:3%", "Did you mean latency"),
        ("latency:3", "no threshold"),
        ("latency:-3%", "no threshold"),
        ("latency:0%", "above 0 and below 100%"),
        ("latency:100%", "above 0 and below 100%"),
        ("latency:0.5pt", "in percent of the base"),
        ("accuracy:1%", "in points"),
        ("latency:nan%", "no threshold"),
        ("", "no metric"),
    ],
)
def test_nonsense_is_named(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_threshold_or_a_usage_error(text: str) -> None:
    try:
        name, value = parse(text)
    except UsageError:
        return
    assert name in METRICS and 0 < value < 1


def test_options_win_over_the_file_and_variants_over_all() -> None:
    settings = Settings(metrics=("latency:4%",), variants={"student-*": ("latency:8%", "size:2%")})
    from_file = thresholds((), settings)
    assert from_file.of("teacher") == {"latency": pytest.approx(0.04)}
    assert from_file.of("student-int8") == {"latency": pytest.approx(0.08), "size": pytest.approx(0.02)}
    assert thresholds(("latency:1%, size:2%",), settings).of("student-int8") == {
        "latency": 0.01,
        "size": 0.02,
    }
    assert set(thresholds((), Settings()).of("x")) == set(DEFAULT) and not thresholds((), Settings()).explicit


def test_a_metric_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        thresholds(("latency:1%", "latency:2%"), Settings())


def _project(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    (folder / "below").mkdir(exist_ok=True)
    return folder / "below"


def test_settings_of_the_nearest_project_are_read(tmp_path: Path) -> None:
    found = read_settings(
        _project(
            tmp_path,
            '[tool.edgefit.gate]\nbaseline = "gate.json"\nmetrics = ["latency:3%"]\n'
            '[tool.edgefit.gate.variants."*-int8"]\nmetrics = ["accuracy:1pt"]\n',
        )
    )
    assert found.baseline == "gate.json" and found.path == tmp_path / "pyproject.toml"
    wanted = thresholds((), found)
    assert wanted.of("a-int8") == {"latency": 0.03, "accuracy": 0.01}
    assert wanted.unused(["a-int8", "b"]) == [] and wanted.unused(["a"]) == ["*-int8"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[tool.edgefit.gate]\nbasline = 'x'\n", "Did you mean baseline"),
        ("[tool.edgefit.gate]\nbaseline = 3\n", "must be a text"),
        ("[tool.edgefit.gate]\nmetrics = 'latency:3%'\n", "list of texts"),
        ("[tool.edgefit.gate.variants]\nx = 3\n", "must be tables"),
        ("[tool.edgefit.gate.variants.'c']\nmetric = ['size']\n", "variants.'c' .* has no 'metric'"),
        ("[tool.edgefit]\ngate = 3\n", "is no table"),
        ("[tool\n", "pyproject.toml"),
    ],
)
def test_what_a_project_cannot_say_is_a_clear_error(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        read_settings(_project(tmp_path, text))


def test_a_size_may_be_asked_not_to_grow_at_all() -> None:
    assert parse("size:0%") == ("size", 0.0)
    with pytest.raises(UsageError, match="above 0"):
        parse("accuracy:0pt")
