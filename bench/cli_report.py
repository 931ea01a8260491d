"""`bench report`: the numbers of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, open_runs, say


def print_report(runs: Sequence[Any], view: Any = None) -> None:
    """The report in the terminal, as wide as it is."""
    from reports import layout, terminal

    shown = console(stderr=False)
    shown.print(terminal.TerminalReport(runs, view or layout.USUAL_VIEW))


def write_report(
    runs: Sequence[Any], fmt: str, output: Path, view: Any = None, history: dict[str, Any] | None = None
) -> None:
    """The report as a file."""
    from bench.store import explain_disk_errors, write_atomic
    from reports import layout, tables

    with explain_disk_errors(output):
        write_atomic(output, tables.render(runs, fmt, view or layout.USUAL_VIEW, history=history).encode())


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["terminal", "md", "latex", "html", "csv", "json"]),
    default="terminal",
    show_default=True,
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write to this file instead of standard output."
)
@click.option(
    "--columns",
    default="",
    metavar="NAMES",
    help="Comma-separated: accuracy, change, latency, faster, size, smaller, memory, energy, p90, p99, throughput, macs, ...",
)
@click.option(
    "--sort",
    default="",
    metavar="NAME",
    help="A column, or variant, runtime, host, ...; -NAME: largest first.",
)
@click.option(
    "--group-by",
    default="",
    metavar="NAMES",
    help="A table for each: runtime, host, variant, ..., or none. Default: host,batch,threads.",
)
@click.option(
    "--side-by-side",
    default="",
    metavar="NAME",
    help="Columns for each: run (of several runs the default), host, runtime, batch, ...",
)
@click.option(
    "--history",
    is_flag=False,
    flag_value="",
    type=click.Path(path_type=Path),
    help="With html: the trends of this history too.",
)
def report(
    runs: tuple[str, ...], fmt: str, output: Path | None, columns: str, sort: str, group_by: str, side_by_side: str,
    history: Path | None,
) -> int:  # fmt: skip
    """The trade-off table of a run, with provenance, intervals, failures and skips; of several runs, side by side."""
    from reports import layout, tables

    view = layout.parse_view(columns, sort, group_by, side_by_side, len(runs))
    if history is not None and fmt != "html":
        raise errors.UsageError(
            "--history is for --format html", todo="Leave it out, or use: bench history show"
        )
    data = open_runs(runs)
    trends = _trends(history) if history is not None else None
    if output is not None:
        write_report(data, fmt, output, view, trends)
        say(f"wrote {output}")
    elif fmt == "terminal":
        print_report(data, view)
    else:
        click.echo(tables.render(data, fmt, view, history=trends))
    return errors.EXIT_DONE


def _trends(path: Path) -> dict[str, Any]:
    from bench import cli_history, trends

    return trends.to_document(cli_history.place_of(path if path.name else None), (), "*", 100_000)


COMMANDS = (report,)
