"""The command that searches: ``bench tune``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import RUNS, console, print_json, say

SECONDS = {"s": 1, "m": 60, "h": 3600}
DEFAULT_SECONDS = 1200.0
"""Time of a search when neither --time nor --trials is given."""


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """``90s``, ``20m``, ``1h30m``: in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        if not re.fullmatch(r"(\d+(\.\d+)?[smh])+", text):
            self.fail(f"{value!r} is no time such as 90s, 20m or 1h30m", param, ctx)
        seconds = sum(float(n) * SECONDS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)([smh])", text))
        if seconds <= 0:
            self.fail("must be more than nothing", param, ctx)
        return float(seconds)


@click.command()
@click.option("--recipe", default="tune", show_default=True, help="A recipe with a table [tune].")
@click.option("--data", default="", help="digits, folder:PATH, cifar10, ...; default: the recipe's.")
@click.option("--profile", default="local", show_default=True, help="The target: see `bench profiles`.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="What the latency is measured on.")
@click.option(
    "--objective",
    type=click.Choice(["latency", "size", "energy"]),
    default="latency",
    show_default=True,
    help="What is made small while validation accuracy is made large.",
)
@click.option(
    "--time", "seconds", type=_Duration(), help="Of all sessions together: 90s, 20m, 1h30m. [default: 20m]"
)
@click.option("--trials", type=click.IntRange(1), help="At most so many, over all sessions.")
@click.option("--storage", default="", metavar="URL", help="Share the study: any Optuna storage address.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's directory; default: runs/NAME.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def tune(out: Path | None, as_json: bool, seconds: float | None, trials: int | None, **chosen: Any) -> int:
    """Search a recipe's space for the best trade-offs between accuracy and measured latency.

    Trials are small recipes in one run: what two of them share is made once. The recipe's own variants come
    first, so that the front contains whatever of them is not beaten. Interrupted, the same command goes on; a
    longer --time or more --trials goes further. Everything is chosen on validation images.

    The front is left in the run as ordinary variants, for `bench report`, `bench choose` and `bench export`.

    Several workers share a study with --storage (sqlite:///study.db, postgresql://...); each has its own
    --out, and the front of all is in the table, of which each run holds what it made itself.
    """
    from bench.progress import Progress
    from bench.store import Run
    from bench.tune.maker import Maker
    from bench.tune.search import Budget, Search
    from bench.tune.setup import Options, prepare
    from bench.tune.study import open_study

    if out == Path():
        raise errors.UsageError("--out is empty or the present folder", todo="Name a folder for the run")
    if seconds is None and trials is None:
        seconds = DEFAULT_SECONDS
    setup = prepare(Options(**chosen))
    path = out or RUNS / setup.name
    options, points = setup.options, setup.points
    say(f"searching {points.where} on {options.runtime}; run {path}")
    interrupted = False
    with Run(path) as store, Progress(console(), quiet=as_json) as progress:
        for warning in (*store.warnings, *_warnings(setup)):
            progress("warning", {"text": warning})
        study = open_study(
            points.space, options.seed, setup.name, setup.identity, path, storage=options.storage
        )
        budget = Budget(seconds, study.spent)
        search = Search(points, study, Maker(setup, store), budget, progress, options.objective, trials)
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted, search.ended = True, "interrupted"
    _tell(search, setup, path, as_json, interrupted)
    if interrupted:
        raise KeyboardInterrupt
    return errors.EXIT_SOME_FAILED if search.failed else errors.EXIT_DONE


def _warnings(setup: Any) -> list[str]:
    target = setup.profile.name
    if target == "local":
        return []
    return [
        f"{target} is not here: latency and energy are this machine's, measured on {setup.options.runtime}"
    ]


def _tell(search: Any, setup: Any, path: Path, as_json: bool, interrupted: bool) -> None:
    """The answer on standard output; the run's report as a page beside it."""
    from bench.store import explain_disk_errors, read_run, write_atomic
    from reports import tables

    if as_json:
        print_json(document(search, setup, path))
    elif search.reference is None:
        say("nothing was measured yet")
    else:
        terminal = console(stderr=False)
        terminal.print(table(search, setup, terminal.width))
    _say_problems(search)
    if interrupted or not (path / "manifest.json").exists():
        return
    html = path / "report.html"
    with explain_disk_errors(html):
        write_atomic(html, tables.render([read_run(path)], "html").encode())
    say(f"\n{search.ended}. Report: {html}\nNext: bench choose {path} --max-drop 1%")
    say("To search further: the same command with more --time or --trials")


def _say_problems(search: Any) -> None:
    found = search.answer()
    reasons = dict.fromkeys(f.result.reason for f in found if f.result.state == "pruned")
    for reason in list(reasons)[:5]:
        say(f"given up: {reason}")
    if len(reasons) > 5:
        say(f"given up: {len(reasons) - 5} more; --json has them all")
    for text in search.failed:
        say(f"failed: {text}")


def table(search: Any, setup: Any, width: int) -> Any:
    """The front, cheapest first, then what was made by hand and is beaten, as a rich table."""
    from rich import box
    from rich.table import Table

    from reports import text

    objective, everything = setup.options.objective, search.answer()
    found = [f for f in everything if f.result.state == "complete" and (f.on_front or f.by_hand)]
    trials = text.plural(sum(f.trial is not None for f in everything), "trial")
    style, cost = ("interval", text.interval) if width >= 120 else ("±", text.percent_arm)
    unit = {"latency": ["latency\nms"], "size": [], "energy": ["energy\nmJ"]}[objective]
    grid = Table(
        box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, title_justify="left",
        title=f"{trials}, judged on validation images",
    )  # fmt: skip
    grid.add_column("variant", overflow="fold", min_width=12)
    for heading in ("made by", "front"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("accuracy\n%", *unit, "of the\nreference", "size"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for f in sorted(found, key=lambda f: (not f.on_front, f.result.cost.value)):
        r = f.result
        measured = [cost(r.cost)] if unit else []
        grid.add_row(
            f.name, _maker(search, f), "yes" if f.on_front else "beaten", text.points(r.accuracy, style),
            *measured, _share(search, r), text.size(r.size), style="" if f.on_front else "dim",
        )  # fmt: skip
    return grid


def _maker(search: Any, found: Any) -> str:
    if found.name == search.points.recipe.reference:
        return "reference"
    made = "hand" if found.by_hand else f"trial {found.trial}"
    return made if found.here else f"{made}, elsewhere"


def _share(search: Any, result: Any) -> str:
    """The objective as a share of the reference's; latency's by turns."""
    share = result.ratio.value or result.cost.value / search.reference.cost.value
    return f"{share:.2f}x"


def document(search: Any, setup: Any, path: Path) -> dict[str, Any]:
    """The answer as JSON: every variant tried, with its choices, what it gave or why it gave nothing."""
    from bench.tune.setup import METRICS

    options = setup.options
    variants = [
        {
            "variant": f.name,
            "trial": f.trial,
            "by_hand": f.by_hand,
            "here": f.here,
            "pareto": f.on_front,
            "params": f.params,
            "status": f.result.state,
            "reason": f.result.reason,
            "val_accuracy": f.result.accuracy.to_json(),
            METRICS[options.objective]: f.result.cost.to_json(),
            "size_bytes": f.result.size.to_json(),
            "latency_ratio": f.result.ratio.to_json(),
            "seconds": f.result.seconds,
        }
        for f in search.answer()
    ]
    return {
        "schema": 1,
        "run": str(path),
        "objective": options.objective,
        "runtime": options.runtime,
        "reference": setup.points.recipe.reference,
        "seconds": round(search.budget.spent, 1),
        "ended": search.ended,
        "variants": variants,
    }


COMMANDS = (tune,)
