"""What the maker of cells decides before a worker runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.cells import MOST_WAITING, WAITING_MB, CellMaker, worker_room
from bench.errors import WorkerError
from bench.hosts.base import HostRefused, HostUnreachable
from bench.plan import PlannedCell
from bench.types import Cell


@pytest.mark.parametrize(
    ("memory", "room"),
    [
        ({"available_mb": 64_000, "cgroup_mb": None}, MOST_WAITING),
        ({"available_mb": 64_000, "cgroup_mb": 4 * WAITING_MB}, 1),
        ({"available_mb": 3 * WAITING_MB, "cgroup_mb": None}, 0),
        ({}, MOST_WAITING),
    ],
)
def test_workers_that_wait_take_a_quarter_of_the_free_memory(
    memory: dict[str, float | None], room: int
) -> None:
    assert worker_room({"memory": memory}) == room


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch):
    """A maker whose next measurement raises what it is given."""

    def make(error: Exception) -> CellMaker:
        made = {"status": "ok", "artifact": {"size_bytes": 1, "format": "onnx"}}
        plan = SimpleNamespace(variant=lambda name: SimpleNamespace(key="v"))
        prepared = SimpleNamespace(plan=plan, environment={}, there=None)
        run = SimpleNamespace(done=lambda kind, key: made)

        def measure(*_: object) -> None:
            raise error

        found = CellMaker(prepared, run, lambda *_: None, lambda: None)  # type: ignore[arg-type]
        monkeypatch.setattr(found, "_measure", measure)
        return found

    return make


CELL = PlannedCell(Cell("teacher", "onnxruntime", "fp32"), "key", "export", "onnxruntime")


def test_a_worker_that_crashed_fails_its_cell_and_the_rest_go_on(maker) -> None:
    record = maker(WorkerError("it crashed")).make(CELL, [])
    assert (record["status"], record["reason"]) == ("failed", "it crashed.")
    assert record["metrics"]["latency_ms"]["reason"] == "it crashed."


@pytest.mark.parametrize("error", [HostUnreachable("gone"), HostRefused("no key")])
def test_a_device_that_stays_away_ends_the_run_and_fails_no_cell(maker, error: Exception) -> None:
    with pytest.raises(type(error)):
        maker(error).make(CELL, [])
