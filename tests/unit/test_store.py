"""A run on disk survives whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import store
from bench.errors import StoreError
from bench.records import parse_records
from bench.store import Run, read_run

GOLDEN = Path(__file__).parents[1] / "golden"


def _cell(key: str, **more: object) -> dict:
    return {"kind": "cell", "key": key, "status": "ok", "cell": {"variant": key}, "metrics": {}} | more


def _run_with(path: Path, *records: dict) -> None:
    with Run(path) as run:
        run.write_manifest({"name": "x"})
        for record in records:
            run.append(record)


def test_what_was_appended_is_found_again(tmp_path):
    _run_with(tmp_path / "r", _cell("a"), _cell("b"), _cell("a", status="failed"))
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "a")["status"] == "failed"  # the latest counts
        assert run.done("cell", "b")["status"] == "ok"
        assert run.done("cell", "c") is None
    assert [c["key"] for c in read_run(tmp_path / "r").cells] == ["a", "b"]


def test_reports_see_only_the_present_plan(tmp_path):
    with Run(tmp_path / "r") as run:
        run.append(_cell("old"))
        run.append(_cell("new"))
        run.write_manifest({"plan": {"variant": [], "artifact": [], "cell": ["new", "not made yet"]}})
    assert [c["key"] for c in read_run(tmp_path / "r").cells] == ["new"]


def test_a_torn_last_line_costs_only_itself(tmp_path):
    _run_with(tmp_path / "r", _cell("a"), _cell("b"))
    file = tmp_path / "r" / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "a") and run.done("cell", "b") is None
        assert "line 2" in run.warnings[0] and "damaged" in run.warnings[0]
        run.append(_cell("b"))
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "b") and not run.warnings
    assert len(list((tmp_path / "r" / "damaged").iterdir())) == 1  # nothing is thrown away


def test_a_changed_number_is_noticed(tmp_path):
    _run_with(tmp_path / "r", _cell("a", metrics={"latency_ms": {"value": 1.5}}))
    file = tmp_path / "r" / "records.jsonl"
    file.write_bytes(file.read_bytes().replace(b"1.5", b"0.5"))
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "a") is None
        assert "checksum" in run.warnings[0]


def test_a_damaged_or_missing_object_undoes_the_records_that_name_it(tmp_path):
    with Run(tmp_path / "r") as run:
        good, bad, gone = (run.put_bytes(text, ".npy") for text in (b"good", b"bad", b"gone"))
        for key, sha in (("good", good), ("bad", bad), ("gone", gone)):
            run.append(_cell(key, samples=sha))
        run.find(bad).write_bytes(b"flipped")
        run.find(gone).unlink()
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "good")
        assert run.done("cell", "bad") is None and run.done("cell", "gone") is None
        assert len(run.warnings) == 2 and any("set aside" in w for w in run.warnings)
        assert run.put_bytes(b"bad", ".npy") == bad  # made again
        assert run.object_path(bad).read_bytes() == b"bad"


def test_two_writers_are_refused_but_readers_are_not(tmp_path):
    with Run(tmp_path / "r") as run:
        run.write_manifest({"name": "x"})
        with pytest.raises(StoreError, match=f"process {os.getpid()}"), Run(tmp_path / "r"):
            pass
        assert read_run(tmp_path / "r").manifest["name"] == "x"


def test_a_killed_writer_leaves_no_lock_and_no_half_record(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from bench.store import Run\n"
        "run = Run(Path(sys.argv[1])); run.__enter__(); run.append({'kind': 'cell', 'key': 'a', 'status': 'ok'})\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=False)
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "a")


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    with Run(tmp_path / "r") as run:
        run.append(_cell("a"))
        real = os.fsync

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store.os, "fsync", full)
        with pytest.raises(StoreError, match="finished work is kept"):
            run.append(_cell("b"))
        with pytest.raises(StoreError, match="No space left"):
            run.put_bytes(b"big", ".bin")
        monkeypatch.setattr(store.os, "fsync", real)
    with Run(tmp_path / "r") as run:
        assert run.done("cell", "a") and run.done("cell", "b") is None and not run.warnings
        assert not list((tmp_path / "r" / "objects").iterdir())


def test_an_unwritable_place_is_a_clear_error(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StoreError, match="another place"), Run(blocker / "r"):
        pass


def test_records_of_the_old_schema_are_upgraded(tmp_path):
    data = read_run(GOLDEN / "run-schema0")
    (cell,) = data.cells
    assert cell["kind"] == "cell" and cell["schema"] == 1
    latency = cell["metrics"]["latency_ms"]
    assert latency["value"] == 1.25 and latency["provenance"] == "measured" and latency["low"] is None


def test_records_of_a_newer_schema_are_refused(tmp_path):
    _run_with(tmp_path / "r", _cell("a"))
    (tmp_path / "r" / "records.jsonl").write_text(json.dumps({"schema": 99, "sum": "?"}) + "\n")
    with Run(tmp_path / "r") as run:  # the checksum does not match: damaged, not newer
        assert run.warnings
    record = {"schema": 99, "kind": "cell", "key": "a"}
    record["sum"] = store.checksum(record)
    with pytest.raises(StoreError, match="newer edgefit"):
        parse_records(json.dumps(record).encode())


def test_reading_what_is_no_run(tmp_path):
    with pytest.raises(StoreError, match="is not a run"):
        read_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{not json")
    with pytest.raises(StoreError, match="cannot be read"):
        read_run(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_in_the_records_file_are_survived(junk):
    good = {"schema": 1, "kind": "cell", "key": "a"}
    good["sum"] = store.checksum(good)
    records, _ = parse_records(junk + b"\n" + json.dumps(good).encode() + b"\n")
    assert good in records


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False))
)
def test_the_checksum_does_not_depend_on_key_order(record):
    again = dict(reversed(list(record.items())))
    assert store.checksum(record) == store.checksum(again)


def test_a_fresh_start_keeps_the_old_run_and_refuses_while_it_is_written(tmp_path):
    with Run(tmp_path / "r") as run:
        run.append(_cell("a"))
        with pytest.raises(StoreError, match="Another process"):
            store.set_aside(tmp_path / "r")
    first = store.set_aside(tmp_path / "r")
    _run_with(tmp_path / "r", _cell("b"))
    second = store.set_aside(tmp_path / "r")
    assert first != second and not (tmp_path / "r").exists()
    assert (
        b'"a"' in (first / "records.jsonl").read_bytes() and b'"b"' in (second / "records.jsonl").read_bytes()
    )


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '{"schema": "x"}',
        '{"schema": null}',
        '{"schema": 1, "plan": 5}',
        '{"plan": {"cell": 5}}',
        '{"data": 3}',
    ],
)
def test_a_manifest_that_makes_no_sense_is_a_clear_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="damaged"):
        read_run(tmp_path)


def test_too_little_space_stops_before_work(tmp_path):
    with pytest.raises(StoreError, match="are free"):
        store.require_space(tmp_path, 10**18)
    store.require_space(tmp_path, 1)
