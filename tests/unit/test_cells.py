"""What the maker of cells decides before a worker runs."""

from __future__ import annotations

import pytest

from bench.cells import MOST_WAITING, WAITING_MB, worker_room


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
