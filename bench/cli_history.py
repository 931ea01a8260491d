"""`bench history`: results per commit, where their levels changed, and the trend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json, say

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: history in [tool.edgefit.gate], else bench-history.jsonl.",
)
_metric = click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="latency, throughput, memory, energy, size, accuracy; default: all there are.",
)
_match = click.option("--subject", "match", default="*", metavar="GLOB", help="Only subjects of that name.")


def place_of(path: Path | None) -> Path:
    """The file of the history: as given, as pyproject.toml says, or the usual one."""
    from bench.gate.thresholds import read_settings
    from bench.history import DEFAULT

    if path is not None:
        return path
    settings = read_settings(Path.cwd())
    return Path(settings.history) if settings.history else DEFAULT


def _metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    from bench.gate.thresholds import METRICS

    for name in names:
        if name not in METRICS:
            raise errors.UsageError(f"There is no metric {name!r}", todo=errors.nearest(name, METRICS))
    return names


@click.group()
def history() -> None:
    """Results per commit in a file that git merges: add, show, plot."""


@history.command("add")
@click.argument("sources", nargs=-1, required=True, metavar="RUN|FILE|JSON...")
@_file
@click.option(
    "--commit", default="", help="Whose results these are; else the commit a run was made at, else HEAD."
)
@click.option("--runtime", default="", help="Only this runtime; for a file, the one that takes it.")
@click.option("--data", default="", help="Images for the accuracy of files.")
def history_add(sources: tuple[str, ...], path: Path | None, commit: str, runtime: str, data: str) -> int:
    """Keep the numbers of runs, reports in JSON, baselines or model files (which are measured now)."""
    from bench import history as store
    from bench import trends
    from bench.gate import check, revisions
    from bench.gate.sources import Options, open_source
    from bench.progress import Progress

    place, here = place_of(path), Path.cwd()
    head = revisions.commit_of(here, commit or "HEAD")
    options = Options(runtime=runtime, data=data)
    said: list[str] = []
    with Progress(console()) as progress:
        for text in sources:
            source = check.complete(open_source(text, options), data, options, progress)
            name, more = head, ""
            if source.commit and not commit:
                try:
                    name = revisions.commit_of(here, source.commit)
                except errors.UsageError:  # a run of another repository
                    more = f" (HEAD: this clone has no {source.commit[:9]}, which it was made at; --commit says another)"
            new = store.add(place, source, name, revisions.time_of(here, name))
            said.append(
                f"{new} results of {text} added at {name[:9]}{more}" + ("" if new else "; they were there")
            )
        trends.to_document(place, (), "*", 1)  # finds what changed now, so that `show` need not
    for line in said:
        say(f"{place}: {line}")
    return errors.EXIT_DONE


@history.command("show")
@_file
@_metric
@_match
@click.option(
    "--last", default=10, show_default=True, type=click.IntRange(1, 100_000), help="Results of each series."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def history_show(path: Path | None, metrics: tuple[str, ...], match: str, last: int, as_json: bool) -> int:
    """The latest results of each subject and metric, and where their level changed."""
    from bench import trends
    from reports import history as report

    document = trends.to_document(place_of(path), _metrics(metrics), match, last)
    _say_damage(document)
    if as_json:
        print_json(document)
    else:
        click.echo(report.terminal(document, console(stderr=False).width))
    return errors.EXIT_DONE


@history.command("plot")
@_file
@_metric
@_match
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("trend.html"),
    show_default=True,
    help="The page.",
)
def history_plot(path: Path | None, metrics: tuple[str, ...], match: str, output: Path) -> int:
    """A page with the trend of each subject and metric, its changes marked with their commits."""
    from bench import trends
    from bench.store import explain_disk_errors, write_atomic
    from reports import history as report

    document = trends.to_document(place_of(path), _metrics(metrics), match, 100_000)
    _say_damage(document)
    with explain_disk_errors(output):
        write_atomic(output, report.page(document).encode())
    say(f"wrote {output}")
    return errors.EXIT_DONE


def _say_damage(document: dict[str, Any]) -> None:
    if document["damaged"]:
        first = document["damaged"][0]
        say(
            f"warning: {len(document['damaged'])} damaged line(s) of {document['file']} are left out (line {first[0]}: {first[1]})"
        )


COMMANDS = (history,)
