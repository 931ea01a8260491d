"""The commands that hold one thing against another: compare and gate."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.cli_measure import feeding_options
from bench.terminal import console, print_json, say

_A_METRIC = re.compile(r"(latency|throughput|memory|energy|size|accuracy)(:\S*)?")


def _out_of_arguments(arguments: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """``--metric latency:3% accuracy:0.5pt``: what follows the first metric and looks like one is a metric too."""
    metrics = [a for a in arguments if _A_METRIC.fullmatch(a) and not Path(a).exists()]
    return [a for a in arguments if a not in metrics], metrics


@click.command()
@click.argument("subjects", nargs=-1, metavar="[RUN|FILE...]")
@click.option(
    "--baseline",
    default="",
    metavar="RUN|FILE|JSON|git:REV[:FILE]",
    help="What it is held against; default: baseline in [tool.edgefit.gate] of pyproject.toml.",
)
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME:LIMIT ...",
    help="latency:3%, throughput:3%, memory:5%, energy:5%, size:1%, accuracy:0.5pt; several are allowed.",
)  # fmt: skip
@click.option("--runtime", default="", help="Only this runtime; for a file, the one that takes it.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 4096), help="Of a file.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Of a file.")
@click.option(
    "--data", default="", help="Images for the accuracy of a file; default: those of the run or baseline."
)
@click.option(
    "--budget",
    default="180s",
    show_default=True,
    metavar="TIME",
    help="Pairs are added until the answer is clear or this is spent.",
)
@click.option(
    "--recorded", is_flag=True, help="Compare the recorded numbers even where both artifacts are here."
)
@click.option("--allow-mismatch", is_flag=True, help="Recorded numbers of another environment count too.")
@click.option("--allow-missing", is_flag=True, help="What only the baseline has is no error.")
@click.option("--allow-new", is_flag=True, help="Nothing to hold it against yet is no error.")
@click.option("--allow-inconclusive", is_flag=True, help="Exit 0 where nothing is known to be worse.")
@click.option(
    "--update-baseline", is_flag=True, help="Write the baseline anew from what is checked; wants --reason."
)
@click.option("--reason", default="", help="Why the baseline is changed; kept in it.")
@click.option(
    "--write",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also as .md, .xml (JUnit) or .json; several are allowed.",
)
@feeding_options
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def gate(subjects: tuple[str, ...], baseline: str, metrics: tuple[str, ...], budget: str, files: tuple[Path, ...],
         allow_inconclusive: bool, update_baseline: bool, reason: str, as_json: bool, **rest: Any) -> int:  # fmt: skip
    """Is it worse than before? The check for CI: exit 0 no, 4 yes, 5 not known.

    Where both artifacts are here they are measured now, by turns, in pairs of fresh processes; pairs are added until the
    answer is clear. Otherwise the recorded numbers count, if they are from an environment like this one.

    \b
    bench gate model.onnx --baseline git:main --metric latency:3% size:1%
    bench gate runs/new --baseline runs/old --metric latency:3% accuracy:0.5pt
    bench gate model.onnx --baseline gate.json --data folder:PHOTOS
    bench gate model.onnx --baseline gate.json --update-baseline --reason "first"
    """
    from bench.gate import check, sources
    from bench.gate.thresholds import read_settings, thresholds
    from bench.measure.feeding import Feeding, parse
    from bench.progress import Progress
    from reports import gate as report
    from reports.limits import parse_quantity

    names, more = _out_of_arguments(subjects)
    settings = read_settings(Path.cwd())
    names = names or [settings.subject] * bool(settings.subject)
    against = baseline or settings.baseline
    if not names or not against:
        what = "what to check" if not names else "what to hold it against (--baseline)"
        raise errors.UsageError(
            f"It is not said {what}", todo="Give it, or write it into [tool.edgefit.gate] of pyproject.toml"
        )
    report.check_files(files)
    if any(file.resolve() == Path(against).resolve() for file in files):
        raise errors.UsageError(
            f"--write would replace the baseline {against}", todo="Give the report another name"
        )
    wanted = thresholds((*metrics, *more), settings)
    if settings.preprocess and rest["feeding"] == Feeding():
        rest["feeding"] = parse(preprocess=settings.preprocess)
    own = {
        "data": rest["data"] or settings.data,
        "budget": parse_quantity(budget, "latency", "the budget") / 1e3,
    }
    options = sources.Options(**rest | own, history=Path(settings.history) if settings.history else None)
    with Progress(console(), quiet=as_json) as progress:
        if update_baseline:
            head = sources.merged([sources.open_source(name, options, settings) for name in names])
            return _update(Path(against), head, reason, options, progress)
        try:
            base, head = sources.open_sides(names, against, options, settings)
            checked = check.check(base, head, wanted, options, progress)
        except errors.EdgefitError as error:
            if isinstance(error, errors.WorkerError):
                error.exit_code = errors.EXIT_INTERNAL  # it could not be measured: no verdict
            _publish(report.not_checked(error, against, ", ".join(names)), files, as_json)
            raise
    code = check.exit_code(checked, allow_inconclusive)
    document = report.to_document(checked, base, head, code)
    _publish(document, files, as_json)
    if as_json:
        print_json(document)
    else:
        click.echo(report.terminal(document))
    return code


def _publish(document: dict[str, Any], files: tuple[Path, ...], as_json: bool) -> None:
    """Write the files, and tell GitHub where it runs this."""
    from reports import gate as report

    for file in files:
        report.write(file, document)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in report.workflow_commands(document):
            click.echo(line, err=as_json)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as out:
                out.write(report.markdown(document))


def _update(path: Path, head: Any, reason: str, options: Any, progress: Any) -> int:
    from bench.gate import baseline as stored
    from bench.gate import check

    if path.suffix != ".json":
        raise errors.UsageError(
            "--update-baseline writes a JSON file", str(path), "Give --baseline FILE.json"
        )
    if not reason.strip():
        raise errors.UsageError("--update-baseline wants to know why", todo='Give --reason "what changed"')
    full = check.complete(head, options.data, options, progress)
    stored.write(path, full, reason.strip(), full.machine, full.data)
    say(
        f"wrote {path}: {len(full.sides)} subject{'s' if len(full.sides) > 1 else ''}, {path.stat().st_size / 1e3:.1f} kB; commit it"
    )
    return errors.EXIT_DONE


@click.command()
@click.argument("base")
@click.argument("head")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME:LIMIT ...", help="Default: all that both have."
)
@click.option("--runtime", default="", help="Only this runtime.")
@click.option("--allow-mismatch", is_flag=True, help="Compare numbers of different environments.")
@click.option(
    "--format", "fmt", default="terminal", show_default=True, type=click.Choice(["terminal", "md", "json"])
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def compare(
    base: str,
    head: str,
    metrics: tuple[str, ...],
    runtime: str,
    allow_mismatch: bool,
    fmt: str,
    as_json: bool,
) -> int:
    """Two runs (or reports in JSON, or stored baselines), metric by metric.

    Nothing is measured: the two were measured at two times, and the spread between sessions is counted.
    For a verdict that can be trusted to a few percent, `bench gate` measures both now.
    """
    from bench.gate import check, sources
    from bench.gate.thresholds import METRICS, Settings, thresholds
    from reports import gate as report

    wanted = thresholds(metrics or tuple(METRICS), Settings())
    if not metrics:  # all that there is: nothing was asked for in particular
        from dataclasses import replace

        wanted = replace(wanted, explicit=frozenset())
    options = sources.Options(
        runtime=runtime, allow_mismatch=allow_mismatch, allow_missing=True, recorded=True, compare=True
    )
    sides = [sources.open_source(name, options) for name in (base, head)]
    checked = check.check(sides[0], sides[1], wanted, options, lambda event, details: None)
    document = report.to_document(checked, sides[0], sides[1], errors.EXIT_DONE)
    if as_json or fmt == "json":
        print_json(document)
    else:
        click.echo(report.markdown(document) if fmt == "md" else report.terminal(document))
    return errors.EXIT_DONE


COMMANDS = (compare, gate)
