"""The sides of a check by their names: a run, model files, a stored baseline or export, a git revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.errors import UsageError
from bench.gate import baseline, pairwise, revisions
from bench.gate.sides import Side, Source, Subject, from_file, from_run
from bench.gate.thresholds import Settings
from bench.measure.feeding import Feeding
from bench.runtimes import SUFFIXES

GIT = "git:"


@dataclass(frozen=True)
class Options:
    """How the sides are read and measured.

    ``recorded``: compare numbers even where both artifacts are here. ``compare``: for `bench compare`, which measures nothing
    and has no line for a metric that neither side has. ``history``: a file of results (:mod:`bench.history`) that
    tells how much sessions of this machine differ.
    """

    runtime: str = ""
    batch: int = 1
    threads: int = 1
    data: str = ""
    seed: int = 0
    budget: float = pairwise.BUDGET
    allow_mismatch: bool = False
    allow_missing: bool = False
    allow_new: bool = False
    recorded: bool = False
    compare: bool = False
    history: Path | None = None
    feeding: Feeding = field(default_factory=Feeding)


def open_source(
    text: str, options: Options, settings: Settings | None = None, beside: str = "", name: str = ""
) -> Source:
    """A side by its name: a run, a model file, a baseline or a report in JSON, or ``git:REVISION[:FILE]``.

    Args:
        beside: the other side's name: the file that a revision without one means.
        name: what its subject is called, where it is a file.

    Raises:
        EdgefitError: whatever is wrong with it.
    """
    from bench.store import read_run
    from bench.terminal import find_run

    if text.startswith(GIT):
        revision, _, inside = text[len(GIT) :].partition(":")
        path = Path(inside or beside)
        if not inside and (not beside or (Path(beside) / "manifest.json").exists()):
            raise UsageError(
                f"{text} does not say which file", todo="Write git:REVISION:FILE, or check a file"
            )
        there, commit = revisions.file_at(revision, path, settings.build if settings else "")
        found = _file(there, options, name or path.stem)
        return replace(found, title=f"{path} at {revision} ({commit[:9]})", commit=commit)
    path = Path(text)
    if path.suffix == ".json":
        if options.compare and not path.is_file():
            raise UsageError(
                f"There is no file {path}",
                todo="Write one with `bench report RUN --format json --output FILE`",
            )
        return _only(baseline.read(path), options.runtime)
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        return _file(path, options, name)
    return from_run(read_run(find_run(text)), options.runtime)


def _only(source: Source, runtime: str) -> Source:
    """The side without other runtimes than this one; an empty name is all of them."""
    return replace(source, sides={s: side for s, side in source.sides.items() if runtime in ("", s.runtime)})


def open_sides(
    names: Sequence[str], against: str, options: Options, settings: Settings | None = None
) -> tuple[Source, Source]:
    """(base, head) of what is checked: one run, or files, which a revision has by the same names.

    Files that the revision does not have are only in the head; so is all where ``allow_new`` and there is no baseline yet.

    Raises:
        EdgefitError: see :func:`open_source`; several files against what is no revision and no stored baseline.
    """
    head = merged([open_source(name, options, settings) for name in names])
    if not against.startswith(GIT):
        if len(names) > 1 and Path(against).suffix != ".json":
            raise UsageError(
                "Several files are held against a revision or a JSON baseline",
                against,
                "Write --baseline git:REVISION",
            )
        if options.allow_new and Path(against).suffix == ".json" and not Path(against).exists():
            return Source(against, {}), head
        return open_source(against, options, settings, name=Path(names[0]).stem), head
    found, absent = [], None
    for name in names:
        try:
            found.append(open_source(against, options, settings, beside=name, name=Path(name).stem))
        except revisions.NotThereError as error:
            absent = error
    if absent is not None and not found and not options.allow_new:
        raise absent
    return merged(found) if found else Source(against[len(GIT) :], {}), head


def merged(sources: Sequence[Source]) -> Source:
    """Several files as one side. Raises UsageError where two have one name."""
    if len(sources) == 1:
        return sources[0]
    sides: dict[Subject, Side] = {}
    for source in sources:
        for subject, side in source.sides.items():
            if subject in sides:
                raise UsageError(
                    f"Two files are called {subject.label}", source.title, "Check them one at a time"
                )
            sides[subject] = side
    title = ", ".join(s.title for s in sources[:3]) + (
        f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    )
    return replace(sources[0], title=title, sides=sides)


def _file(path: Path, options: Options, name: str) -> Source:
    feeding = options.feeding if not path.with_name(path.name + ".json").exists() else None
    return from_file(path, options.runtime, options.batch, options.threads, name, feeding, bool(options.data))
