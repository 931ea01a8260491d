"""Load: LoadGen's logs as LoadGen wrote them, intervals, options, and tests that meet an error."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.agent import load, loadgen
from bench.agent.backends import Backend
from bench.agent.inputs import Refused
from bench.errors import UsageError, WorkerError
from bench.measure.load import (
    SCENARIOS,
    LoadOptions,
    Verdict,
    oversubscription,
    parse_detail,
    parse_summary,
    rate_of_slices,
    read_verdict,
    scenario_quantities,
    stream_quantities,
)

HEAD = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : {}
Mode     : PerformanceOnly
{}
"""
TAIL = """
================================================
Additional Stats
================================================
Min latency (ns)                : 1034219
 * not a reason
"""
VALID = (
    HEAD.format("SingleStream", "90.0th percentile latency (ns) : 1125579")
    + """Result is : VALID
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (880).
"""
    + TAIL
)
INVALID = (
    HEAD.format("Server", "Completed samples per second    : 187.55")
    + """Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.
 * Would need to run at least 269 more queries,
 with the run being successful if every additional
 query were under latency.
"""
    + TAIL
)

# --- LoadGen's logs


def test_a_valid_run_has_no_reasons() -> None:
    assert parse_summary(VALID) == ("VALID", ())


def test_an_invalid_run_has_loadgens_reasons() -> None:
    verdict, reasons = parse_summary(INVALID)
    assert verdict == "INVALID"
    assert reasons == (
        "Performance constraints satisfied: no",
        "Early stopping satisfied: no",
        "Reduce target QPS to improve latency.",
        "Run unsuccessful.",
        "Would need to run at least 269 more queries, with the run being successful if every additional query "
        "were under latency.",
    )


@given(st.text())
def test_a_summary_without_a_result_is_an_error(text: str) -> None:
    with pytest.raises(WorkerError, match="no result"):
        parse_summary(text.replace("Result is", ""))


@given(st.text(), st.sampled_from(["VALID", "INVALID"]))
def test_whatever_follows_the_result_is_read(text: str, result: str) -> None:
    assert parse_summary(f"Result is : {result}\n{text}")[0] == result


ENTRIES = st.dictionaries(
    st.text(min_size=1),
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    max_size=5,
)


@given(ENTRIES, st.lists(st.text(alphabet=st.characters(exclude_characters="\n\r"))), st.lists(st.text()))
def test_the_detail_log_comes_back(entries: dict, garbage: list, errors: list) -> None:
    def line(key: str, value: object, is_error: bool) -> str:
        return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {"is_error": is_error}})

    lines = [line(k, v, False) for k, v in entries.items()] + [line("error_runtime", e, True) for e in errors]
    broken = [f":::MLLOG {g}" for g in garbage if not g.lstrip().startswith("{")]
    values, found = parse_detail("\n".join([*broken, *lines[:2], *broken, *lines[2:]]))
    assert values == entries and found == tuple(errors)


@given(st.text())
def test_any_other_detail_log_has_no_values(text: str) -> None:
    assert parse_detail(":::MLLOG " + text.replace("key", "")) == ({}, ())


def test_logs_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="left no result"):
        read_verdict(tmp_path)


# --- quantities


@settings(deadline=None)  # the first example imports scipy
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.001, 1), st.integers(1, 64)), min_size=1, max_size=60))
def test_every_image_between_begin_and_end_counts_once(parts: list) -> None:
    calls = np.array([(start, start + took, images) for start, took, images in parts])
    rate, _ = rate_of_slices(calls, 0.0, 10.0)
    assert rate * 10.0 == pytest.approx(calls[:, 2].sum())


def test_a_steady_stream_has_its_rate_and_no_width() -> None:
    starts = np.arange(0.0, 10.0, 0.01)
    calls = np.column_stack([starts, starts + 0.01, np.full(len(starts), 4.0)])
    rate, arm = rate_of_slices(calls, 0.0, 10.0)
    assert rate == pytest.approx(400.0) and arm == pytest.approx(0.0, abs=1e-6)


def test_the_interval_of_a_rate_holds_the_rate() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        ends = np.cumsum(rng.gamma(4.0, 0.0025, 1200))  # 100 calls a second
        calls = np.column_stack([np.concatenate([[0.0], ends[:-1]]), ends, np.ones(len(ends))])
        rate, arm = rate_of_slices(calls, 0.0, 10.0)
        held += abs(rate - 100.0) <= arm
    assert 0.91 <= held / 300 <= 0.99  # 95%, within 3 standard errors


def test_few_calls_have_a_rate_without_an_interval() -> None:
    calls = np.array([(i, i + 1.0, 1.0) for i in range(10)])
    assert rate_of_slices(calls, 0.0, 10.0) == (pytest.approx(1.0), None)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loadgens_figure_is_kept_and_lies_in_its_interval(scenario: str) -> None:
    rng = np.random.default_rng(1)
    queries = rng.gamma(9.0, 1e-4, 2000)
    ends = np.cumsum(queries)
    calls = np.column_stack([ends - queries, ends, np.ones(len(ends))])
    kind = "per_query_" if scenario == "multi-stream" else ""
    values = {f"result_{100 * q:.2f}_percentile_{kind}latency_ns": 1e6 * (1 + q) for q in (0.5, 0.9, 0.99)}
    values |= dict.fromkeys(("result_samples_per_second", "result_completed_samples_per_sec"), 1234.5)
    found = scenario_quantities(scenario, Verdict("VALID", (), "6.0.17", values), calls, queries)
    name, headline, q = SCENARIOS[scenario]
    best = found[headline]
    assert best.value == pytest.approx(1 + q if q else 1234.5)
    assert best.low < best.value < best.high and best.n == 2000
    assert best.provenance == "measured" and f"LoadGen 6.0.17, {name}" in best.method


def test_a_percentile_of_few_queries_has_no_interval_and_says_so() -> None:
    queries = np.full(100, 1e-3)
    calls = np.column_stack([np.arange(100.0), np.arange(100.0) + 1, np.ones(100)])
    values = {f"result_{p}_percentile_per_query_latency_ns": 1e6 for p in ("50.00", "99.00")}
    found = scenario_quantities("multi-stream", Verdict("INVALID", ("x",), "6", values), calls, queries)
    assert found["p99_ms"].value == 1.0 and found["p99_ms"].low is None
    assert "too few queries" in found["p99_ms"].method


def test_calls_after_the_end_are_not_under_load() -> None:
    calls = np.array([(t, t + 0.001, 2.0) for t in np.arange(0, 1, 0.001)] + [(0.9995, 5.0, 2.0)])
    found = stream_quantities(calls, 0.0, 1.0, 2)
    assert found["latency_ms"].value == pytest.approx(1.0) and found["latency_ms"].high < 2
    assert found["throughput_ips"].value == pytest.approx(2000, rel=0.01)


def test_oversubscription_is_said() -> None:
    machine = {"cpu": {"cores": 8, "cgroup_cpus": 4.0}}
    assert oversubscription(2, 2, machine) == []
    assert "4 x 2 = 8 compute threads on 4 cores" in oversubscription(2, 4, machine)[0]


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        (LoadOptions("server"), 1, "--qps"),
        (LoadOptions("offline", qps=5.0), 1, "--qps is for the server"),
        (LoadOptions("single-stream", streams=2), 1, "one query at a time"),
        (LoadOptions("single-stream"), 2, "at most 1"),
        (LoadOptions("multi-stream"), 9, "at most 8"),
        (LoadOptions("server", seconds=3600.0, qps=1e4), 1, "Lower --qps"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: LoadOptions, batch: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.check(batch)


# --- the worker's side


class Pretender(Backend):
    """Stands in for a runtime: every call takes 0.2 ms, and the ``fails_at``-th of all raises."""

    fails_at, calls, loaded_by = 0, 0, []  # type: ignore[var-annotated]

    def load(self, path: str, threads: int, device: str) -> None:
        Pretender.loaded_by.append(threading.get_ident())
        self.thread = threading.get_ident()

    def inputs(self) -> list:
        return [{"name": "x", "shape": [None, 3], "dtype": "float32"}]

    outputs = inputs

    def feed(self, prepared: np.ndarray) -> None:
        self.fed = prepared

    def call(self) -> None:
        assert threading.get_ident() == self.thread, "an instance belongs to the thread that loaded it"
        Pretender.calls += 1
        if Pretender.calls == Pretender.fails_at:
            raise RuntimeError("the model broke")
        time.sleep(2e-4)

    def fetch(self) -> np.ndarray:
        return self.fed


@pytest.fixture
def make():
    """Loads a Pretender; afterwards LoadGen, which runs out behind a failed test, is waited for."""
    Pretender.fails_at, Pretender.calls, Pretender.loaded_by = 0, 0, []

    def instance() -> Backend:
        backend = Pretender()
        backend.load("", 1, "cpu")
        return backend

    yield instance
    for thread in threading.enumerate():
        if thread.name.startswith("load-"):
            thread.join(30)
            assert not thread.is_alive()


SAMPLES = np.arange(30, dtype=np.float32).reshape(10, 3)


def options(scenario: str, **changes: object) -> dict:
    streams, batch = (1, 1) if scenario in loadgen.DIRECT else (2, 4)
    given = {"scenario": scenario, "streams": streams, "batch": batch, "seconds": 0.3, "warmup_seconds": 0.05}
    return {**given, "qps": 300.0, "latency_bound_ms": 50.0, **changes}


def quiet(count: int) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("scenario", loadgen.SCENARIOS)
def test_every_query_of_loadgen_is_answered_once(scenario: str, make, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    found = loadgen.LoadGen(make, SAMPLES, options(scenario), str(tmp_path), quiet).run()
    verdict = read_verdict(tmp_path)
    per_query = {"multi-stream": 8, "offline": verdict.values["effective_samples_per_query"]}.get(scenario, 1)
    asked = verdict.values["result_query_count"] * per_query
    assert found["calls"][:, 2].sum() == asked > 0
    assert found["calls"][:, 2].max() <= options(scenario)["batch"]
    assert len(found["queries"]) == (0 if scenario == "offline" else verdict.values["result_query_count"])
    assert verdict.values["effective_min_duration_ms"] == 300
    assert len(set(Pretender.loaded_by)) == options(scenario)["streams"]
    assert {p.name for p in tmp_path.iterdir()} >= {"mlperf_log_summary.txt", "mlperf_log_detail.txt"}


@pytest.mark.parametrize("scenario", loadgen.SCENARIOS)
def test_an_error_under_loadgen_ends_the_test_with_its_reason(scenario: str, make, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    test = loadgen.LoadGen(make, SAMPLES, options(scenario, seconds=1.0), str(tmp_path), quiet)
    started = threading.Event()
    issue = test._issue

    def break_then_issue(queries: object) -> None:
        if not started.is_set():
            started.set()
            Pretender.fails_at = Pretender.calls + 10
        issue(queries)

    test._issue = break_then_issue  # type: ignore[method-assign]
    with pytest.raises(Refused, match="the model broke"):
        test.run()
    assert started.is_set()


@pytest.mark.parametrize("scenario", [*loadgen.SCENARIOS, load.STREAMS])
def test_an_instance_that_cannot_be_called_ends_the_test(scenario: str, make, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    Pretender.fails_at = 1
    with pytest.raises(Refused, match="the model broke"):
        if scenario == load.STREAMS:
            load.concurrent(make, SAMPLES, options(scenario), quiet)
        else:
            loadgen.LoadGen(make, SAMPLES, options(scenario), str(tmp_path), quiet).run()


def test_streams_work_at_the_same_time_each_in_its_own_thread(make) -> None:
    found = load.concurrent(make, SAMPLES, options(load.STREAMS, streams=3), quiet)
    calls = found["calls"]
    assert len(set(Pretender.loaded_by)) == 3
    assert calls[:, 0].min() >= found["begin"] and set(calls[:, 2]) == {4.0}
    assert (np.diff(calls[:, 1]) >= 0).all()
    assert (
        calls[:, 0] >= found["end"]
    ).sum() <= 3  # a stream looks at the clock, feeds, and then starts its last call
    assert (calls[1:, 0] < calls[:-1, 1]).any(), "calls overlap"


def test_an_error_in_one_stream_ends_all(make) -> None:
    Pretender.fails_at = 400
    with pytest.raises(Refused, match="with 2 streams: RuntimeError: the model broke"):
        load.concurrent(make, SAMPLES, options(load.STREAMS, seconds=60.0), quiet)


def test_nothing_is_told_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TELL_SECONDS", 0.01)
    ended, counts, heard = threading.Event(), iter([1, 1, 1, 2, 2]), []

    def count() -> int:
        number = next(counts, None)
        if number is None:
            ended.set()
        return number or 2

    load.watch(ended, count, heard.append)
    assert heard == [1, 2]
