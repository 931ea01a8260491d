"""The check: two sides, the metrics that matter, and one line for each. Nothing here prints."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench import errors
from bench.errors import UsageError
from bench.gate import accuracy, left_out, lines, numbers, pairwise
from bench.gate.fingerprint import differences
from bench.gate.lines import FAILED, Checked, Line
from bench.gate.looks import LOOKS
from bench.gate.sides import Side, Source, Subject, shared
from bench.gate.sources import Options
from bench.gate.thresholds import METRICS, Thresholds
from bench.measure import environment
from bench.types import Json, Notify, Quantity


def check(base: Source, head: Source, wanted: Thresholds, options: Options, notify: Notify) -> Checked:
    """Judge every metric of every subject that both sides have.

    Raises:
        UsageError: nothing in common, a subject of the base that the head lacks, numbers of another machine, or a metric that
            nobody measured.
    """
    start = time.monotonic()
    both, only_base, only_head = shared(base, head, options.allow_new)
    if only_base and not options.allow_missing:
        raise UsageError(
            f"{head.title} lacks {len(only_base)} of what {base.title} has", ", ".join(s.label for s in only_base[:5]),
            "Measure it too, make a new baseline, or give --allow-missing",
        )  # fmt: skip
    exact, noisy = _split(both, base, head, wanted, options, notify)
    notes = left_out.cells(base, head)
    notes += [
        f"no subject is called {p!r}: its limits are not used" for p in wanted.unused([s.name for s in both])
    ]
    paired = {
        s: g for s, g in noisy.items() if _both_here(base.sides[s], head.sides[s]) and not options.recorded
    }
    old = {s: g for s, g in noisy.items() if s not in paired}
    found = [*exact, *_recorded(old, base, head, options, notes, notify)]
    with tempfile.TemporaryDirectory(prefix="edgefit-gate-") as folder:
        timed = []
        for number, (subject, gates) in enumerate(paired.items()):
            by_pairs = {m: g for m, g in gates.items() if METRICS[m].pairs}
            if by_pairs:
                sides = base.sides[subject], head.sides[subject]
                place = Path(folder) / str(number)
                timed.append(pairwise.open_pairs(subject, *sides, by_pairs, place, options.seed + number))
            rest = {m: g for m, g in gates.items() if m not in by_pairs}
            found += _recorded({subject: rest} if rest else {}, base, head, options, notes, notify)
        started = time.monotonic()
        found += pairwise.measure(timed, found, options.budget, notify)
        notes += _overrun(time.monotonic() - started, options.budget) if timed else []
    _require_known(found, wanted)
    found, absent = left_out.metrics(found, wanted.explicit, options.compare)
    notes += absent
    order = {s: i for i, s in enumerate(both)}
    names = list(METRICS)
    judged = lines.together(found) if options.compare else lines.one_sided(lines.together(found))
    judged.sort(key=lambda line: (order[line.subject], names.index(line.metric)))
    pairs = {one.subject.label: one.raw() for one in timed}
    seconds = time.monotonic() - start
    return Checked(tuple(judged), tuple(only_base), tuple(only_head), tuple(notes), seconds, pairs)


def _overrun(took: float, budget: float) -> list[str]:
    """Why it took longer than was asked for."""
    few = f"{LOOKS[0]} pairs of each subject, the fewest that tell anything"
    return (
        [f"{few}, took {took:.0f} s, more than the budget of {budget:.0f} s"] if took > 1.1 * budget else []
    )


def _both_here(base: Side, head: Side) -> bool:
    return base.path is not None and head.path is not None


def _split(
    both: Sequence[Subject], base: Source, head: Source, wanted: Thresholds, options: Options, notify: Notify
) -> tuple[list[Line], dict[Subject, dict[str, float]]]:
    """The lines that are known without timing, and what is to be timed of each subject."""
    found: list[Line] = []
    noisy: dict[Subject, dict[str, float]] = {}
    for subject in both:
        one, other = base.sides[subject], head.sides[subject]
        same = bool(one.artifact.sha256) and one.artifact.sha256 == other.artifact.sha256
        for name, gate in wanted.of(subject.name).items():
            if same and not options.recorded and (METRICS[name].pairs or not METRICS[name].noisy):
                found.append(lines.exact(subject, name, gate, one, other))
            elif name == "size":
                found.append(_size(subject, gate, one, other))
            elif name == "accuracy":
                found.append(accuracy.judge(subject, gate, base, head, options, notify))
            else:
                paired = METRICS[name].pairs and _both_here(one, other) and not options.recorded
                line = None if paired else numbers.known(subject, name, gate, one, other)
                if line is None:
                    noisy.setdefault(subject, {})[name] = gate
                else:
                    found.append(line)
    return found, noisy


def _size(subject: Subject, gate: float, base: Side, head: Side) -> Line:
    if not all(side.numbers.get("size_bytes", Quantity(None)).value for side in (base, head)):
        return lines.unknown(subject, "size", gate, "a size is not recorded")
    return lines.exact(subject, "size", gate, base, head)


def _recorded(
    wanted: dict[Subject, dict[str, float]],
    base: Source,
    head: Source,
    options: Options,
    notes: list[str],
    notify: Notify,
) -> list[Line]:
    """Numbers of two times, from machines of one kind."""
    if not wanted:
        return []
    machine = head.machine or environment.describe()
    unlike = differences(base.machine, machine, {s.runtime for s in wanted})
    if unlike and not options.allow_mismatch:
        todo = "Compare artifacts that are both here, make a new baseline on this machine, or give --allow-mismatch"
        if options.compare:
            todo = "Give --allow-mismatch, or measure both on one machine"
        raise UsageError("The numbers of the base are from another environment", "; ".join(unlike), todo)
    notes += [
        f"environments differ: {text}" for text in unlike if f"environments differ: {text}" not in notes
    ]
    found = []
    spread = _spread(options.history, machine)
    for subject, gates in wanted.items():
        side = head.sides[subject] if options.compare else _measured(subject, head.sides[subject], notify)
        found += [
            lines.recorded(subject, m, gate, base.sides[subject], side, spread(m))
            for m, gate in gates.items()
        ]
    return found


def _spread(history: Path | None, machine: Json) -> Callable[[str], tuple[float, int] | None]:
    """How much sessions of a machine differ in a metric, by its history; None where that does not tell."""
    if history is None or not history.is_file():
        return lambda metric: None
    from bench.history import machine_of, read, series, session_spread

    found, name = series(read(history)[0]), machine_of(machine)
    return lambda metric: session_spread(found, metric, name)


def _measured(subject: Subject, side: Side, notify: Notify) -> Side:
    """A file's numbers, measured now where there are none."""
    if "latency_ms" in side.numbers or side.path is None:
        return side
    numbers, processes = measure(subject, side, notify)
    return replace(side, numbers=side.numbers | numbers, processes=processes)


def measure(
    subject: Subject, side: Side, notify: Notify
) -> tuple[dict[str, Quantity], dict[str, list[float]]]:
    """What `bench measure` finds of a file: the metrics, and their values in each process.

    Raises:
        WorkerError: it could not be measured.
    """
    from bench.measure.artifact import measure_file
    from bench.types import Protocol
    from reports.spread import process_values

    assert side.path is not None
    notify("item", {"name": f"{subject.label}: measuring", "done": False})
    cell = measure_file(
        side.path, runtime=subject.runtime, data="", batch=subject.batch, threads=subject.threads, seed=0,
        protocol=Protocol(max_seconds=5.0), notify=lambda event, details: None,
    )  # fmt: skip
    if cell["status"] != "ok":
        raise errors.WorkerError(f"{subject.label} could not be measured", cell["reason"])
    found = {
        m.key: Quantity.from_json(cell[m.key]) for m in METRICS.values() if isinstance(cell.get(m.key), dict)
    }
    known = {key: quantity for key, quantity in found.items() if quantity.value is not None}
    return known, process_values({"runtime": cell["environment"]["runtime"]})


def _require_known(found: Sequence[Line], wanted: Thresholds) -> None:
    """Raises UsageError for a metric that was asked for and that nobody measured anywhere."""
    for name in wanted.explicit:
        own = [line for line in found if line.metric == name]
        if own and all(line.change.value is None for line in own):
            failed = [line for line in own if line.verdict == FAILED]
            if failed:
                continue
            raise UsageError(
                f"Nobody measured {name}",
                own[0].note or own[0].change.reason,
                "Leave it out, or measure it on both sides",
            )


def exit_code(checked: Checked, allow_inconclusive: bool = False) -> int:
    """0 nothing got worse, 4 something did, 5 not known, 1 something could not be measured."""
    verdicts = {line.verdict for line in checked.lines}
    if FAILED in verdicts:
        return errors.EXIT_INTERNAL
    if "REGRESSED" in verdicts:
        return errors.EXIT_REGRESSED
    if "INCONCLUSIVE" in verdicts and not allow_inconclusive:
        return errors.EXIT_INCONCLUSIVE
    return errors.EXIT_DONE


def complete(source: Source, data: str, options: Options, notify: Notify) -> Source:
    """A side with all that a baseline keeps: its files are measured and asked for their answers where that was not done."""
    sides = {}
    for subject, side in source.sides.items():
        full = _measured(subject, side, notify)
        sides[subject] = replace(
            full, answers=accuracy.answered(subject, full, data or source.data, options, notify)
        )
    return replace(
        source, sides=sides, machine=source.machine or environment.describe(), data=data or source.data
    )
