"""`bench predict`, and the commands that make predictions and judge them: profiles calibrate, profiles evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.cli_profiles import profiles
from bench.terminal import console, open_run, print_json, say

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


class _Size(click.ParamType):  # type: ignore[type-arg]
    """``N`` or ``HxW`` pixels."""

    name = "N|HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) not in (1, 2) or not all(p.isdecimal() and 8 <= int(p) <= 4096 for p in parts):
            self.fail(f"{value!r} is no size such as 224 or 192x256", param, ctx)
        return int(parts[0]), int(parts[-1])


@click.command()
@click.option(
    "--model",
    required=True,
    metavar="SPEC|FILE",
    help="timm:NAME, torchvision:NAME, edgefit:NAME, an ONNX file, ...",
)
@click.option("--profile", required=True, help="The device: see `bench profiles`, or a TOML file.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="Default: int8 for an INT8 file, else fp32.")
@click.option(
    "--runtime", default="", help="Default: one that was measured on the device, or on most others."
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 4096))
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Of a processor; default: what was measured on it."
)
@click.option("--power-mode", "mode", default="", metavar="MODE", help="Its name; default: the fastest.")
@click.option("--input-size", "size", type=_Size(), help="Pixels; default: the net's own.")
@click.option("--classes", type=click.IntRange(2, 1_000_000), help="Of a net by name; default: 1000.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def predict(
    model: str, profile: str, precision: str | None, runtime: str, batch: int, threads: int | None, mode: str,
    size: tuple[int, int] | None, classes: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Latency, memory and energy on a device that is not here, with intervals and reasons.

    From the graph of the model and facts about the device; see the README for how wrong such predictions are.
    """
    from bench.predicting import choose_runtime, choose_threads, open_graph, predict_cell
    from hardware_profiles import load
    from hardware_profiles.predict import Setting
    from hardware_profiles.prediction.rates import on_cpu
    from reports.predict import render_prediction

    target = load.load(profile)
    opened = None
    if precision is None:
        choose_runtime(target, "fp32")  # refuses this machine before a model is read
        opened = open_graph(model, size, classes)
        precision = "int8" if opened[0].int8 else "fp32"
    runtime = runtime or choose_runtime(target, precision)
    if threads and not on_cpu(target, runtime):
        raise errors.UsageError(
            f"{runtime} does not compute on {target.name}'s processor", todo="Leave --threads out"
        )
    setting = Setting(runtime, precision, batch, threads or choose_threads(target, runtime, precision), mode)
    cell = predict_cell(model, target, setting, size, classes, opened)
    if as_json:
        print_json(cell)
    else:
        click.echo(render_prediction(cell))
    return errors.EXIT_DONE if cell["status"] == "ok" else errors.EXIT_SOME_FAILED


@profiles.command("evaluate")
@click.option(
    "--by",
    "folds",
    multiple=True,
    type=click.Choice(["family", "source", "device"]),
    help="Default: all three.",
)
@click.option("--full", is_flag=True, help="A row for every series, not for every runtime.")
@click.option(
    "--format", "fmt", default="terminal", show_default=True, type=click.Choice(["terminal", "md", "json"])
)
def evaluate(folds: tuple[str, ...], full: bool, fmt: str) -> int:
    """How wrong predictions are: each published row predicted by a fit that has not seen what it shares with others."""
    from bench.progress import Progress
    from hardware_profiles.prediction import published
    from hardware_profiles.prediction.judge import judge
    from reports.predict import markdown_evaluation, render_evaluation

    with Progress(console(), quiet=fmt == "json") as progress:
        found = judge(published.FILE, folds or ("family", "source", "device"), progress)
    if fmt == "json":
        print_json(found)
    else:
        click.echo(markdown_evaluation(found) if fmt == "md" else render_evaluation(found, full))
    return errors.EXIT_DONE


@profiles.command("calibrate")
@click.option("--from", "run", metavar="RUN", help="Learn from this run's measured cells, for one profile.")
@click.option(
    "--profile", default="", help="With --from: the device they were measured on; a name or a TOML file."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="With --from: the profile to write; default: NAME.calibrated.toml.",
)
@click.option(
    "--this-machine", "here", is_flag=True, help="With --from: the run was made on the device itself."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 3 where a stored figure would change.")
def calibrate(run: str | None, profile: str, output: Path | None, here: bool, check: bool) -> int:
    """Fit the coefficients of predictions and store them in profiles.

    Without --from: to the published measurements, into the profiles of this installation. The same input gives the same
    files. With --from RUN --profile P: to what was measured on your own device; predictions with the profile that is
    written are then those of your board.
    """
    from bench.progress import Progress
    from hardware_profiles.prediction import published, write

    if run is None:
        if profile or output or here:
            raise errors.UsageError(
                "--profile, --output and --this-machine are for --from", todo="Add --from RUN"
            )
        with Progress(console()) as progress:
            changed = write.everything(published.FILE, progress, check)
        say(
            "\n".join(f"{'would change' if check else 'wrote'} {path}" for path in changed)
            or "nothing changed"
        )
        return errors.EXIT_SOME_FAILED if check and changed else errors.EXIT_DONE
    if check:
        raise errors.UsageError("--check is for the published measurements", todo="Leave it out with --from")
    if not profile:
        raise errors.UsageError("Whose measurements they are is not said", todo="Add --profile PROFILE")
    from bench.predicting import learn

    written, lines = learn(open_run(run), profile, output, here)
    click.echo("\n".join(lines))
    say(f"wrote {written}. Use it with: bench predict --profile {written} --model ...")
    return errors.EXIT_DONE


COMMANDS = (predict,)
