"""Numbers are strict and text is bounded."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.parsers import (
    benchmark_app,
    benchmark_model,
    executor_runner,
    jetson_clocks,
    nvpmodel,
    onnxruntime_perf_test,
    trtexec,
)
from bench.parsers.text import MAX_CHARS, Text, celsius, from_json, number, percent, whole
from tests.parser_checks import EXAMPLES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12.0),
        ("-0.5", -0.5),
        ("9.99242e+06", 9992420.0),
        ("1E-4", 1e-4),
        ("0", 0.0),
        ("0.000", 0.0),
        ("7.", 7.0),
    ],
)
def test_a_decimal_number_is_read(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e-400",
        "1" * 400,
        "1_000",
        "0x10",
        "1,5",
        "٣",
        "1.2.3",
        "1 ",
        "--1",
        ".",
        "1e",
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert number(text) is None


@EXAMPLES
@given(st.text())
def test_a_number_is_what_python_reads(text: str) -> None:
    value = number(text)
    assert value is None or value == float(text)


def test_loads_and_temperatures_have_bounds() -> None:
    assert percent("100") == 100 and percent("101") is None and percent("-1") is None
    assert celsius("-20.5") == -20.5 and celsius("-256") is None and celsius("1000") is None
    assert whole("007") == 7 and whole("+7") is None and whole("9" * 19) is None


def test_long_text_loses_its_middle_but_no_half_line() -> None:
    text = "first 1\n" + "filler 22\n" * (MAX_CHARS // 10 + 10) + "last 333\n"
    source = Text(text)
    assert source.truncated and source.lines[0] == "first 1" and source.lines[-2] == "last 333"
    assert set(source.lines) == {"first 1", "filler 22", "last 333", ""}


def test_one_line_longer_than_everything_leaves_nothing() -> None:
    source = Text("1" * (MAX_CHARS + 1))
    assert source.truncated and not any(source.lines)


def test_an_overlong_line_is_unknown_and_not_read() -> None:
    source = Text("a\n" + "b" * 20_000 + "\nc")
    assert source.lines == ["a", "", "c"] and [len(line) for line in source.unknown] == [20_000]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", '{"a": 1' + "0" * 5000 + "}", "\0"])
def test_broken_json_is_a_problem_or_none_and_never_raises(text: str) -> None:
    value, problem = from_json(text)
    assert problem or value == {"a": None}


@pytest.mark.parametrize(
    "line",
    [
        "[I] GPU Compute Time: min = " + "1 ms, max = " * 1200,
        "GPU MinFreq=" + "a=" * 7000 + " !",
        "cpu0: " + " IdleStates:" * 1200,
        "NV Power Mode: a" + " " * 15_000 + "b",
        "count=1 " * 1900,
        "Replacing 1 node(s) with delegate (" + "(" * 15_000,
        "Explicitly applied " + " delegate" * 1600,
        "[I] Layer '" + "' (" * 5000,
        "[ INFO ] " + " performance hint will be set to" * 480,
        "[Step 1/11] " + "(" * 15_000,
        "Min Latency: " + " s" * 7000,
        "Execution of method " + " failed" * 2000 + "\0",
        "In function " + "assert faile" * 1300,
        "I/ExecuTorch" + " " * 15_000,
    ],
)
def test_no_line_takes_long(line: str) -> None:
    start = time.perf_counter()
    for parse in (
        trtexec.parse,
        jetson_clocks.parse,
        nvpmodel.parse_query,
        nvpmodel.parse_modes,
        benchmark_model.parse,
        benchmark_app.parse,
        onnxruntime_perf_test.parse,
        executor_runner.parse,
    ):
        parse(line)
    assert time.perf_counter() - start < 2.0
