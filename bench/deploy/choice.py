"""What `bench choose` named last for a run, kept in the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.store import RunData

CHOICE = "choice.json"
"""What ``bench choose`` leaves in the run's folder."""


@dataclass(frozen=True)
class Chosen:
    """The variant and place that `bench choose` named, why, and what weakens that."""

    variant: str
    runtime: str
    host: str
    batch: int
    threads: int
    explanation: str
    warnings: tuple[str, ...] = ()


def read_choice(run: RunData, host: str = "") -> Chosen:
    """What `bench choose` named last for this run; of a choice for several of its hosts, what is for ``host``.

    Raises:
        UsageError: nothing was chosen, not for that host, or the note is damaged.
    """
    path = run.path / CHOICE
    todo = f"Choose first: bench choose {run.path}"
    try:
        stored = json.loads(path.read_text())
        cell = stored["chosen"]
        if host and cell["host"] != host:
            cells = {target["cell"]["host"]: target["cell"] for target in stored["targets"]}
            if host not in cells:
                raise UsageError(f"Nothing was chosen for {host} in {run.path}", ", ".join(cells), todo)
            cell = cells[host]
        return Chosen(
            cell["variant"],
            cell["runtime"],
            cell["host"],
            cell["batch"],
            cell["threads"],
            stored["explanation"],
            tuple(stored.get("warnings", ())),
        )
    except FileNotFoundError as error:
        raise UsageError(f"Nothing was chosen in {run.path}", todo=todo) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read", f"{type(error).__name__}: {error}", todo) from error
