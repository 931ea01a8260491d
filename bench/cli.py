"""The commands. The only module that prints to the person or exits.

Nothing heavy is imported here: every command imports what it needs when it runs, so that
``bench --help`` answers at once.
"""

from __future__ import annotations

import copy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from bench import (
    cli_choose,
    cli_explain,
    cli_export,
    cli_gate,
    cli_history,
    cli_hosts,
    cli_info,
    cli_measure,
    cli_predict,
    cli_profiles,
    cli_report,
    cli_steps,
    cli_tune,
    errors,
)
from bench.errors import EdgefitError
from bench.terminal import RUNS, console, print_json, say


class _Group(click.Group):
    """Offers the nearest command when a name is unknown."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(
                f"No such command {args[0]!r}. {errors.nearest(args[0], self.list_commands(ctx))}", ctx
            )
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="edgefit", message="edgefit %(version)s")
def cli(debug: bool) -> None:
    """Which compressed version of my image classifier should I ship to this device?

    \b
    bench run --profile jetson-xavier                     the main job, on embedded data
    bench run --recipe small --data folder:PHOTOS         on your own images
    bench report RUN --format html --output report.html   the trade-off table and plots
    bench choose RUN --max-latency 5ms --max-drop 1%      the variant to ship
    """


# --- bench run


@cli.command()
@click.option(
    "--profile", default="local", show_default=True, help="The target: see `bench profiles`, or a TOML file."
)
@click.option(
    "--recipe",
    default="demo",
    show_default=True,
    help="demo, small, full, cifar10, mobilenet, chain, tune, reproduce-..., or a TOML file.",
)
@click.option("--data", default="", help="digits, folder:PATH, cifar10, ...; default: the recipe's.")
@click.option(
    "--model", default="", help="The teacher: edgefit:NAME, timm:NAME, torchvision:NAME, py:FILE.py:FACTORY."
)
@click.option(
    "--weights",
    default="",
    help="Weights to start the teacher from: .safetensors, .pt, or pretrained (the library's).",
)
@click.option(
    "--host",
    default="local",
    show_default=True,
    help="Where the target is: local, a NAME of `bench hosts`, ssh://..., adb://...",
)
@click.option(
    "--power-mode", default="", metavar="MODE", help="Of a Jetson host, for this run: a name or number."
)
@click.option(
    "--lock-clocks", is_flag=True, help="Hold a Jetson host's clocks at their highest for this run."
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's directory; default: runs/NAME.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--only", default="", metavar="GLOB", help="Measure only these variants (and the reference).")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe.")
@click.option("--dry-run", is_flag=True, help="Print the matrix and stop; nothing is created.")
@click.option("--fresh", is_flag=True, help="Start over; an earlier run of that name is kept under another.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def run(out: Path | None, dry_run: bool, fresh: bool, as_json: bool, **chosen: Any) -> int:
    """Make the variants of a recipe, measure each on every runtime, print the trade-off table.

    The same command again goes on where it stopped, and does nothing that is done.
    """
    from bench import pipeline, preflight
    from bench.progress import Progress
    from bench.store import Run, read_run, set_aside
    from reports.text import plural

    if out == Path():
        raise errors.UsageError("--out is empty or the present folder", todo="Name a folder for the run")
    prepared = preflight.prepare(preflight.RunOptions(**chosen))
    path = out or RUNS / prepared.name
    preflight.check_models(prepared, path, load_weights=not dry_run)
    if dry_run:
        _print_plan(prepared, path, as_json)
        return errors.EXIT_DONE
    if fresh and path.exists():
        say(f"the earlier run is kept as {set_aside(path)}")
    terminal = console()
    _say_plan(prepared, path)
    start = time.monotonic()
    with Run(path) as store, Progress(terminal, quiet=as_json) as progress:
        for warning in (*store.warnings, *_data_warnings(prepared)):
            progress("warning", {"text": warning})
        with preflight.device_set_up(prepared, progress) as ready:
            outcome = pipeline.execute(ready, store, progress)
    seconds = time.monotonic() - start
    data = read_run(path)
    if as_json:
        from reports import tables

        click.echo(tables.render([data], "json"))
    else:
        cli_report.print_report([data])
        html = path / "report.html"
        if outcome.made or not html.exists():
            cli_report.write_report([data], "html", html)
        say(
            f"\n{plural(outcome.made, 'record')} made, {outcome.reused} already done, in {seconds:.1f} s. Report: {html}\n"
            f"Next: bench choose {path} --max-drop 1%"
        )
    if outcome.failed:
        say(f"{len(outcome.failed)} failed:\n  " + "\n  ".join(outcome.failed))
        return errors.EXIT_SOME_FAILED
    return errors.EXIT_DONE


def _data_warnings(prepared: Any) -> list[str]:
    from reports.text import plural

    notes, skipped = list(prepared.index.notes), prepared.index.skipped
    if not skipped:
        return notes
    names = "; ".join(f"{path}: {reason}" for path, reason in skipped[:5])
    return [
        *notes,
        f"{plural(len(skipped), 'file')} of the data left out: {names}{' ...' if len(skipped) > 5 else ''}",
    ]


def _say_plan(prepared: Any, path: Path) -> None:
    from reports.text import plural

    plan, index = prepared.plan, prepared.index
    counts = ", ".join(f"{n} {split}" for split, n in index.counts.items())
    measured = sum(1 for c in plan.cells if not c.skip)
    foretold = sum(c.predict for c in plan.cells)
    cells = f"{plural(measured, 'cell')} to measure, " + (f"{foretold} to predict, " if foretold else "")
    cells += f"{len(plan.cells) - measured - foretold} skipped"
    say(f"{plan.profile.title}: {plural(len(plan.variants), 'variant')}, {cells}")
    say(f"data {index.spec} ({len(index.classes)} classes; {counts}); run {path}")


def _print_plan(prepared: Any, path: Path, as_json: bool) -> None:
    from bench.types import to_json
    from reports.text import plural

    plan = prepared.plan
    document = {
        "schema": 1,
        "run": str(path),
        "profile": plan.profile.name,
        "recipe": plan.recipe.name,
        "data": prepared.index.to_json(),
        "variants": [to_json(v) for v in plan.variants],
        "artifacts": [to_json(e) for e in plan.exports],
        "cells": [to_json(c) for c in plan.cells],
    }
    if as_json:
        print_json(document)
        return
    from rich.table import Table

    terminal = console(stderr=False)
    steps = Table(
        "variant", "step", "from", title=plural(len(plan.variants), "variant"), title_justify="left"
    )
    for v in plan.variants:
        steps.add_row(v.variant.name, v.variant.step.kind, ", ".join(v.variant.needs) or "-")
    terminal.print(steps, _matrix(plan))
    reasons = list(dict.fromkeys(c.skip for c in plan.cells if c.skip))
    for number, reason in enumerate(reasons, 1):
        terminal.print(f"({number}) {reason}", highlight=False)
    terminal.print(f"Nothing was created. The run would be {path}", highlight=False)


def _matrix(plan: Any) -> Any:
    """Variants by runtimes: how many cells are measured, or the number of the reason why none is."""
    from rich.table import Table

    from reports.text import plural

    columns = list(dict.fromkeys((c.cell.runtime, c.cell.host) for c in plan.cells))
    reasons = list(dict.fromkeys(c.skip for c in plan.cells if c.skip))
    title = f"{plural(len(plan.cells), 'cell')}: how many are measured, (n) why not"
    table = Table("variant", *(f"{r}\n{h}" for r, h in columns), title=title, title_justify="left")
    for name in dict.fromkeys(c.cell.variant for c in plan.cells):
        row = []
        for column in columns:
            cells = [
                c for c in plan.cells if (c.cell.variant, c.cell.runtime, c.cell.host) == (name, *column)
            ]
            skips = [c.skip for c in cells if c.skip]
            mark = "predicted " if cells and cells[0].predict else ""
            row.append(f"{mark}({reasons.index(skips[0]) + 1})" if skips else str(len(cells)))
        table.add_row(name, *row)
    return table


for _command in (
    *cli_steps.COMMANDS, *cli_export.COMMANDS, *cli_report.COMMANDS, *cli_choose.COMMANDS, *cli_tune.COMMANDS, *cli_measure.COMMANDS, *cli_explain.COMMANDS,
    *cli_gate.COMMANDS, *cli_history.COMMANDS, *cli_profiles.COMMANDS, *cli_predict.COMMANDS, *cli_info.COMMANDS, *cli_hosts.COMMANDS,
):  # fmt: skip
    cli.add_command(_command)
_alias = copy.copy(cli_hosts.hosts)  # for who writes `bench host add`; the help need not say it twice
_alias.hidden = True
cli.add_command(_alias, "host")


def main() -> None:
    """Entry point: run a command and turn whatever happens into a message and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(_run(arguments, debug))


def _terminated(*_: Any) -> None:
    """SIGTERM is an interrupt too, also where a shell's ``&`` has SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        return int(cli.main(arguments, prog_name="bench", standalone_mode=False) or 0)
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.ClickException as err:
        err.show()
        return errors.EXIT_USAGE
    except EdgefitError as err:
        if debug:
            raise
        say(f"error: {err}")
        return err.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("\ninterrupted: what was finished is kept; the same command goes on from there")
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return errors.EXIT_DONE
    except Exception as err:
        if debug:
            raise
        say(
            f"error: something edgefit did not foresee: {type(err).__name__}: {err}\nAdd --debug to see where, and please report it."
        )
        return errors.EXIT_INTERNAL
