"""The history of results: an append-only file, changes of level, and what sessions differ by."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import history, trends
from bench.errors import StoreError, UsageError
from bench.gate.sides import Side, Source, Subject
from bench.history import Result
from bench.types import Artifact, Quantity
from reports import history as report

MACHINE = {"cpu": {"model": "A", "cores": 2, "features": ["avx2"]}}


def source(latency: float, name: str = "student", digest: str = "a" * 64) -> Source:
    numbers = {"latency_ms": Quantity(latency, "ms", latency * 0.98, latency * 1.02, 5, "measured"),
               "accuracy": Quantity(0.9, "fraction", 0.88, 0.92, 500, "measured"),
               "energy_mj": Quantity.missing("no meter")}  # fmt: skip
    return Source(
        "runs/x",
        {Subject(name, "onnxruntime"): Side(Artifact("onnx", digest, 10, "m.onnx"), None, numbers)},
        MACHINE,
    )


def day(n: int) -> str:
    return f"2026-{1 + n // 28:02d}-{1 + n % 28:02d}T00:00:00Z"


def results(values: list[float]) -> list[Result]:
    return [Result(day(i), f"{i:040x}", v, None, None) for i, v in enumerate(values)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "CACHE", str(tmp_path / "cache"))


# --- the file


def test_results_come_back_in_the_order_of_their_commits(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    for n in (2, 0, 1):
        assert history.add(path, source(5.0 + n), f"{n:040x}", day(n)) == 1
    found, bad = history.read(path)
    assert [r["numbers"]["latency_ms"]["value"] for r in found] == [5.0, 6.0, 7.0] and not bad
    assert "energy_mj" not in found[0]["numbers"]


def test_the_same_result_is_kept_once_and_another_artifact_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    assert [history.add(path, source(5.0), "c", day(0)) for _ in range(2)] == [1, 0]
    assert history.add(path, source(5.5, digest="b" * 64), "c", day(0)) == 1
    assert history.add(path, source(5.1), "c", day(0)) == 1  # another session at the same commit
    assert (
        history.add(path, source(5.1, digest=""), "c", day(0)) == 0
    )  # a report of it, which knows no artifact
    assert len(history.read(path)[0]) == 3


def test_two_branches_merge_line_by_line(tmp_path: Path) -> None:
    """What `merge=union` makes of two branches is the history of both."""
    files = []
    for branch in ("a", "b"):
        path = tmp_path / f"{branch}.jsonl"
        history.add(path, source(5.0), "base", day(0))
        history.add(path, source(6.0), branch, day(1))
        files.append(path.read_text().splitlines())
    lines = list(dict.fromkeys([*files[0], *files[1], files[0][0]]))
    random.Random(0).shuffle(lines)
    (tmp_path / "merged.jsonl").write_text("\n".join([*lines, files[1][1]]) + "\n")
    assert [r["commit"] for r in history.read(tmp_path / "merged.jsonl")[0]] == ["base", "a", "b"]


@given(st.binary(max_size=80), st.integers(0, 900))
def test_damage_costs_its_own_lines_only(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("h") / "h.jsonl"
    for n in range(3):
        history.add(path, source(5.0), f"{n}", day(n))
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at:])
    found, bad = history.read(path)
    touched = whole[:at].count(b"\n")
    assert len(found) >= 2 and {r["commit"] for r in found} >= {"0", "1", "2"} - {str(touched)}
    assert len(found) == 3 or bad or not noise


def test_a_torn_last_line_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history.add(path, source(5.0), "a", day(0))
    path.write_bytes(path.read_bytes()[:-30])
    history.add(path, source(6.0), "b", day(1))
    found, bad = history.read(path)
    assert [r["commit"] for r in found] == ["b"] and len(bad) == 1


def test_what_is_not_there_or_newer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Begin one with"):
        history.read(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="no numbers"):
        history.add(tmp_path / "h.jsonl", Source("x", {}, MACHINE), "c", day(0))
    body = b'{"schema":99,"kind":"result"'
    (tmp_path / "h.jsonl").write_bytes(body + history.SUM + history._sum(body) + b'"}\n')
    with pytest.raises(StoreError, match="newer"):
        history.read(tmp_path / "h.jsonl")


# --- changes


def test_a_step_is_found_with_its_commits_and_its_direction() -> None:
    rng = np.random.default_rng(0)
    values = [*(5.0 * np.exp(rng.normal(0, 0.01, 30))), *(5.25 * np.exp(rng.normal(0, 0.01, 20)))]
    (change,) = history.changes(results(values))
    assert (
        abs(int(change.first.commit, 16) - 30) <= 1
        and int(change.first.commit, 16) == int(change.last.commit, 16) + 1
    )
    assert change.share == pytest.approx(0.05, abs=0.01) and change.p < 1e-4


def test_noise_alone_is_hardly_ever_called_a_change() -> None:
    rng = np.random.default_rng(1)
    alarms = sum(
        bool(history.changes(results(list(5.0 * np.exp(rng.normal(0, 0.02, 40)))))) for _ in range(200)
    )
    assert alarms <= 10


def test_one_wild_result_is_no_change_of_level() -> None:
    rng = np.random.default_rng(2)
    values = list(5.0 * np.exp(rng.normal(0, 0.01, 30)))
    values[15] *= 1.5
    assert not history.changes(results(values))


def test_up_and_down_again_are_two_changes() -> None:
    values = [5.0, 5.01, 4.99] * 5 + [6.0, 6.01, 5.99] * 5 + [5.0, 5.01, 4.99] * 5
    found = history.changes(results(values))
    assert [round(c.share, 1) for c in found] == [0.2, -0.2]


def test_few_or_equal_results_have_none() -> None:
    assert not history.changes(results([5.0] * 5)) and not history.changes(results([5.0] * 50))
    assert not history.changes(results([0.9] * 50), relative=False)


def test_sessions_differ_by_what_neighbours_differ_by_whatever_the_level_did() -> None:
    rng = np.random.default_rng(3)
    values = [*(5.0 * np.exp(rng.normal(0, 0.03, 60))), *(8.0 * np.exp(rng.normal(0, 0.03, 60)))]
    one = history.Series(Subject("m", "onnxruntime"), "latency", "here")
    deviation, n = history.session_spread({one: results(values)}, "latency", "here") or (0, 0)
    assert deviation == pytest.approx(0.03, rel=0.3) and n == 120
    assert history.session_spread({one: results(values)}, "latency", "elsewhere") is None


def test_machines_are_told_apart_by_what_decides_times() -> None:
    other = {"cpu": {**MACHINE["cpu"], "features": ["avx512f"]}}
    assert history.machine_of(MACHINE) != history.machine_of(other)
    assert history.machine_of(MACHINE) == history.machine_of({**MACHINE, "load": [3]})


# --- what is shown


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "h.jsonl"
    for n in range(20):
        history.add(path, source(5.0 * (1.2 if n >= 12 else 1.0) + 0.01 * (n % 3)), f"{n:040x}", day(n))
    return path


def test_the_table_has_the_latest_value_and_the_change_with_its_commits(kept: Path) -> None:
    shown = report.terminal(trends.to_document(kept, ("latency",), "*", 10))
    assert "6.01 ms" in shown and "n=20" in shown
    assert (
        "worse by 20.0% between 000000000 and 000000000 (5.01 to 6.01 ms" in shown and "accuracy" not in shown
    )


def test_changes_are_looked_for_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trends.to_document(kept, (), "*", 10)
    monkeypatch.setattr(history, "changes", lambda *_: pytest.fail("looked for again"))
    assert trends.to_document(kept, (), "*", 10) == first


def test_the_page_is_one_file_with_every_change_and_no_network(kept: Path) -> None:
    page = report.page(trends.to_document(kept, (), "*", 100))
    assert "worse by 20.0%" in page and "connect-src" not in page and "default-src 'none'" in page
    assert 'src="http' not in page and page.count('class="plot"') == 2


def test_a_series_without_a_change_says_why_there_is_none(tmp_path: Path) -> None:
    for n, name in ((3, "few"), (8, "many")):
        for at in range(n):
            history.add(tmp_path / "h.jsonl", source(5.0, name), f"{at:040x}", day(at))
    document = trends.to_document(tmp_path / "h.jsonl", ("latency",), "*", 100)
    said = {row["subject"].split()[0]: row["unchanged"] for row in report.trends(document)["rows"]}
    assert said == {"few": "too few results to tell (6 needed)", "many": "no change found"}
    unknown = report.trends(document | {"missing": "ruptures is not installed"})["rows"]
    assert {row["unchanged"] for row in unknown} == {"too few results to tell (6 needed)", "not looked for"}
    assert ">none<" not in report.page(document)


def test_the_document_is_json(kept: Path) -> None:
    document = trends.to_document(kept, (), "stu*", 5)
    assert json.loads(json.dumps(document)) == document
    assert {s["metric"] for s in document["series"]} == {"latency", "accuracy"}
    assert not trends.to_document(kept, (), "nobody", 5)["series"]
