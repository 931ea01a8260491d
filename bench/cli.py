"""The commands. The only module that prints to the person or exits.

Nothing heavy is imported here: every command imports what it needs when it runs, so that
``bench --help`` answers at once.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.errors import EdgefitError

RUNS = Path("runs")


class _Group(click.Group):
    """Offers the nearest command when a name is unknown."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"No such command {args[0]!r}. {errors.nearest(args[0], self.list_commands(ctx))}", ctx)
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


def _console(stderr: bool = True) -> Any:
    from rich.console import Console

    return Console(stderr=stderr)


def _say(text: str = "") -> None:
    click.echo(text, err=True)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def _find_run(name: str | None) -> Path:
    """A run by path, by its name under ``runs/``, or the latest one."""
    if name is None:
        found = sorted(RUNS.glob("*/manifest.json"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise errors.UsageError("There is no run here", todo="Make one with `bench run`, or name its directory")
        return found[-1].parent
    for path in (Path(name), RUNS / name):
        if (path / "manifest.json").exists():
            return path
    known = [p.parent.name for p in RUNS.glob("*/manifest.json")]
    hint = errors.nearest(name, known) if known else "Make one with `bench run`"
    raise errors.UsageError(f"There is no run {name!r}", todo=hint)


# --- bench run


@cli.command()
@click.option("--profile", default="local", show_default=True, help="The target: see `bench profiles`, or a TOML file.")
@click.option("--recipe", default="demo", show_default=True, help="demo, small, full, or a TOML file.")
@click.option("--data", default="", help="digits, folder:PATH, cifar10, ...; default: the recipe's.")
@click.option("--model", default="", help="The teacher: edgefit:NAME, timm:NAME, torchvision:NAME, py:FILE.py:FACTORY.")
@click.option("--weights", default="", help="Weights to start the teacher from (.safetensors, .pt).")
@click.option("--host", default="local", show_default=True, help="Where the target is.")
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
    from bench.store import Run, read_run

    prepared = preflight.prepare(preflight.RunOptions(**chosen))
    path = out or RUNS / prepared.name
    if dry_run:
        _print_plan(prepared, path, as_json)
        return errors.EXIT_DONE
    if fresh and path.exists():
        old = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}")
        path.rename(old)
        _say(f"the earlier run is kept as {old}")
    console = _console()
    _say_plan(prepared, path)
    start = time.monotonic()
    with Run(path) as store, Progress(console, quiet=as_json) as progress:
        for warning in (*store.warnings, *_data_warnings(prepared)):
            progress("warning", {"text": warning})
        outcome = pipeline.execute(prepared, store, progress)
    seconds = time.monotonic() - start
    data = read_run(path)
    if as_json:
        from reports import tables

        click.echo(tables.render(data, "json"))
    else:
        _print_report(data)
        html = path / "report.html"
        if outcome.made or not html.exists():
            _write_report(data, "html", html)
        _say(
            f"\n{outcome.made} made, {outcome.reused} already done, in {seconds:.1f} s. Report: {html}\n"
            f"Next: bench choose {path} --max-drop 1%"
        )
    if outcome.failed:
        _say(f"{len(outcome.failed)} failed:\n  " + "\n  ".join(outcome.failed))
        return errors.EXIT_SOME_FAILED
    return errors.EXIT_DONE


def _data_warnings(prepared: Any) -> list[str]:
    skipped = prepared.index.skipped
    if not skipped:
        return []
    names = "; ".join(f"{path}: {reason}" for path, reason in skipped[:5])
    return [f"{len(skipped)} file(s) of the data are left out: {names}{' ...' if len(skipped) > 5 else ''}"]


def _say_plan(prepared: Any, path: Path) -> None:
    plan, index = prepared.plan, prepared.index
    counts = ", ".join(f"{n} {split}" for split, n in index.counts.items())
    measured = sum(1 for c in plan.cells if not c.skip)
    _say(f"{plan.profile.title}: {len(plan.variants)} variants, {measured} cells to measure, {len(plan.cells) - measured} skipped")
    _say(f"data {index.spec} ({len(index.classes)} classes; {counts}); run {path}")


def _print_plan(prepared: Any, path: Path, as_json: bool) -> None:
    from bench.types import to_json

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
        _print_json(document)
        return
    from rich.table import Table

    console = _console(stderr=False)
    steps = Table("variant", "step", "parent", "key", title=f"{len(plan.variants)} variants", title_justify="left")
    for v in plan.variants:
        steps.add_row(v.variant.name, v.variant.step.kind, v.variant.parent or "-", v.key)
    cells = Table("variant", "runtime", "precision", "host", "plan", title=f"{len(plan.cells)} cells", title_justify="left")
    for c in plan.cells:
        cells.add_row(c.cell.variant, c.cell.runtime, c.cell.precision, c.cell.host, f"skip: {c.skip}" if c.skip else "measure")
    console.print(steps, cells)
    console.print(f"Nothing was created. The run would be {path}", highlight=False)


# --- bench report, choose


def _print_report(data: Any) -> None:
    from reports import tables

    console = _console(stderr=False)
    click.echo(tables.render(data, "terminal", width=console.width))


def _write_report(data: Any, fmt: str, output: Path) -> None:
    from bench.store import explain_disk_errors, write_atomic

    from reports import tables

    with explain_disk_errors(output):
        write_atomic(output, tables.render(data, fmt).encode())


@cli.command()
@click.argument("run", required=False)
@click.option("--format", "fmt", type=click.Choice(["terminal", "md", "html", "csv", "json"]), default="terminal", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of standard output.")
def report(run: str | None, fmt: str, output: Path | None) -> int:
    """The trade-off table of a run, with provenance, intervals, failures and skips."""
    from bench.store import read_run

    from reports import tables

    data = read_run(_find_run(run))
    if output is not None:
        _write_report(data, fmt, output)
        _say(f"wrote {output}")
    elif fmt == "terminal":
        _print_report(data)
    else:
        click.echo(tables.render(data, fmt))
    return errors.EXIT_DONE


@cli.command()
@click.argument("run", required=False)
@click.option("--max-latency", help="For example 5ms.")
@click.option("--max-size", help="For example 5MB.")
@click.option("--max-memory", help="For example 50MB.")
@click.option("--max-energy", help="Per image, for example 3mJ.")
@click.option("--min-accuracy", help="For example 0.9 or 90%.")
@click.option("--max-drop", help="Points of accuracy below the reference, for example 1%.")
@click.option("--objective", default="latency", show_default=True, help="What to make best: latency, size, memory, energy, accuracy.")
@click.option("--runtime", help="Only this runtime.")
@click.option("--json", "as_json", is_flag=True)
def choose(run: str | None, objective: str, runtime: str | None, as_json: bool, **limits: str | None) -> int:
    """Name the variant to ship under these constraints, and why each other was refused."""
    from bench.store import read_run

    from reports import choose as chooser

    constraints = chooser.parse_constraints(**limits)
    choice = chooser.choose(read_run(_find_run(run)), constraints, objective=objective, runtime=runtime)
    if as_json:
        _print_json(chooser.choice_json(choice))
    else:
        click.echo(chooser.render_choice(choice))
    return errors.EXIT_DONE


# --- one step alone


def _data_options(data: str, image_size: int | None) -> Any:
    from bench.types import DataOptions

    return DataOptions(spec=data, image_size=image_size)


_data_option = click.option("--data", default="digits", show_default=True, help="digits, folder:PATH, cifar10, ...")
_size_option = click.option("--image-size", type=click.IntRange(4, 4096), help="Side in pixels; default: the data's own.")
_seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
_set_option = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="A training option: epochs, lr, augment, ...")
_output_option = click.option("--output", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write.")
_json_option = click.option("--json", "as_json", is_flag=True)


def _training(sets: tuple[str, ...]) -> Any:
    from bench import recipe
    from bench.types import Training

    from distill.train import check_training

    training = recipe.build(Training, dict(recipe.parse_override(s) for s in sets), "--set")
    check_training(training)
    return training


def _do_step(step: Any, data: str, image_size: int | None, output: Path, seed: int, as_json: bool, **models: Any) -> int:
    from bench import single
    from bench.progress import Progress

    with Progress(_console(), quiet=as_json) as progress:
        result = single.run_step(step, _data_options(data, image_size), output, seed=seed, notify=progress, **models)
    if as_json:
        _print_json(result)
        return errors.EXIT_DONE
    for row in result["history"]:
        _say(f"  epoch {row['epoch']:3d}  train loss {row['train_loss']:.4f}  validation accuracy {row['val_accuracy']:.4f}")
    for note in result["notes"]:
        _say(f"  {note}")
    click.echo(f"{output}: {result['params']:,} parameters, {result['macs']:,} MACs")
    return errors.EXIT_DONE


@cli.command()
@click.option("--model", required=True, help="edgefit:NAME, timm:NAME, torchvision:NAME, py:FILE.py:FACTORY.")
@click.option("--weights", default="", help="Start from these weights.")
@_data_option
@_size_option
@_output_option
@_seed_option
@_set_option
@_json_option
def train(model: str, weights: str, sets: tuple[str, ...], **rest: Any) -> int:
    """Train one model."""
    from bench.types import TrainStep

    return _do_step(TrainStep(model, weights, _training(sets)), **rest)


@cli.command()
@click.option("--teacher", required=True, type=click.Path(path_type=Path), help="The teacher's .safetensors.")
@click.option("--model", default="", help="A fresh student.")
@click.option("--student", type=click.Path(path_type=Path), help="Or a student to go on from (.safetensors).")
@click.option("--temperature", default=4.0, show_default=True)
@click.option("--alpha", default=0.7, show_default=True, help="Weight of the teacher against the labels.")
@_data_option
@_size_option
@_output_option
@_seed_option
@_set_option
@_json_option
def distill(
    teacher: Path, model: str, student: Path | None, temperature: float, alpha: float, sets: tuple[str, ...], **rest: Any
) -> int:
    """Train a student with a teacher's outputs as targets."""
    from bench.types import DistillStep

    from distill.losses import check_distill

    if bool(model) == bool(student):
        raise errors.UsageError("Give either --model (a fresh student) or --student (a file to go on from)")
    step = DistillStep(str(teacher), model, temperature=temperature, alpha=alpha, training=_training(sets))
    check_distill(step)
    return _do_step(step, teacher=teacher, parent=student, **rest)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--macs", default=0.5, show_default=True, help="Share of multiply-accumulates to keep.")
@click.option("--importance", default="l1", show_default=True)
@click.option("--scope", default="global", show_default=True)
@click.option("--round-to", default=8, show_default=True, help="Channels stay a multiple of this.")
@_data_option
@_size_option
@_output_option
@_seed_option
@_json_option
def prune(model: Path, macs: float, importance: str, scope: str, round_to: int, **rest: Any) -> int:
    """Remove channels of a model; recover its accuracy afterwards with `bench distill --student`."""
    from bench.types import PruneStep

    from compress.prune import check_prune

    step = PruneStep(macs, importance, scope, round_to)
    check_prune(step)
    return _do_step(step, parent=model, **rest)


def _export_file(
    model: Path, output: Path, precision: str, scheme: str, step: Any, data: str, image_size: int | None, seed: int, as_json: bool
) -> int:
    from bench import single

    fmt, _ = single.FORMATS.get(output.suffix, ("", ""))
    if not fmt:
        raise errors.UsageError(f"--output must end in {', '.join(single.FORMATS)}, not {output.name!r}")
    size = image_size or single_size(model)
    result = single.export_model(model, fmt, precision, scheme, step, _data_options(data, size), output, seed=seed)
    if as_json:
        _print_json(result)
    else:
        for note in result["notes"]:
            _say(f"  {note}")
        parity = result["parity"]
        click.echo(
            f"{output}: {output.stat().st_size:,} bytes; agrees with its parent on {parity['agreement']:.1%} of {parity['n']} images"
        )
    return errors.EXIT_DONE


def single_size(model: Path) -> int:
    """The image size a model file was made for, read from its metadata."""
    from distill import models

    return int(models.read_spec(model).preprocess.height)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["int8", "fp16", "bf16"]), default="int8", show_default=True)
@click.option("--scheme", default="", help="u8s8, u8s8-7bit, s8s8 or litert; default: this machine's.")
@click.option("--ranges", default="minmax", show_default=True)
@click.option("--images", default=256, show_default=True, help="Calibration images.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The .onnx, .tflite or .pt2 file to write.")
@_data_option
@_size_option
@_seed_option
@_json_option
def quantize(model: Path, precision: str, scheme: str, ranges: str, images: int, output: Path, **rest: Any) -> int:
    """Write a model in a smaller number format, calibrated on training images."""
    from bench.types import QuantizeStep

    from compress.quantize import check_quantize

    step = QuantizeStep(precision, ranges, images)
    check_quantize(step)
    if precision == "int8" and not scheme:
        scheme = _default_scheme(output)
    return _export_file(model, output, precision, scheme if precision == "int8" else "", step, **rest)


def _default_scheme(output: Path) -> str:
    from bench import runtimes, single
    from bench.measure import environment

    _, runtime = single.FORMATS.get(output.suffix, ("", "onnxruntime"))
    return runtimes.get(runtime).int8_scheme(environment.describe())


@cli.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--variant", help="With a run: the variant to take out of it.")
@click.option("--format", "fmt", default="", help="With a run: onnx, tflite or pt2.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The file to write; with a run, the folder.")
@_data_option
@_size_option
@_seed_option
@_json_option
def export(source: Path, variant: str | None, fmt: str, output: Path, as_json: bool, **rest: Any) -> int:
    """Write a model as ONNX, TFLite or an exported program, or take a variant's file out of a run."""
    from bench import single

    if source.is_file():
        return _export_file(source, output, "fp32", "", None, as_json=as_json, **rest)
    if not variant:
        raise errors.UsageError("Say which variant of the run to export", todo="Add --variant NAME; `bench report` lists them")
    target = single.export_variant(_find_run(str(source)), variant, fmt, output)
    if as_json:
        _print_json({"file": str(target)})
    else:
        click.echo(str(target))
    return errors.EXIT_DONE


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--runtime", default="", help="Default: the one that takes this kind of file.")
@click.option("--data", default="", help="Measure accuracy on these images too.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 4096))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option("--max-seconds", default=5.0, show_default=True, help="Cap of the timed part.")
@_seed_option
@_json_option
def measure(file: Path, max_seconds: float, as_json: bool, **rest: Any) -> int:
    """Time and weigh one artifact in a fresh process."""
    from bench import single
    from bench.progress import Progress
    from bench.recipe import check_protocol
    from bench.types import Protocol

    protocol = Protocol(max_seconds=max_seconds, timeout_seconds=max_seconds + 120)
    check_protocol(protocol, "--max-seconds")
    with Progress(_console(), quiet=as_json) as progress:
        cell = single.measure_file(file, protocol=protocol, notify=progress, **rest)
    if as_json:
        _print_json(cell)
    else:
        from reports import tables

        click.echo(tables.render_cell(cell))
    return errors.EXIT_DONE if cell["status"] == "ok" else errors.EXIT_SOME_FAILED


# --- bench profiles, runtimes


@cli.group(invoke_without_command=True)
@click.pass_context
def profiles(ctx: click.Context) -> None:
    """The targets: list, show, validate."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(profiles_list)


@profiles.command("list")
def profiles_list() -> int:
    """Every built-in profile."""
    from hardware_profiles import load
    from rich.table import Table

    table = Table("profile", "device", "runtimes", "INT8 scheme", "facts")
    for name, aliases in load.names().items():
        profile = load.load(name)
        label = name + (f" (= {', '.join(aliases)})" if aliases else "")
        table.add_row(label, profile.title, ", ".join(profile.runtimes), profile.int8_scheme, str(len(profile.facts)))
    _console(stderr=False).print(table)
    return errors.EXIT_DONE


@profiles.command("show")
@click.argument("name")
@_json_option
def profiles_show(name: str, as_json: bool) -> int:
    """All that is known of one target, with sources."""
    from bench.types import to_json

    from hardware_profiles import load
    from rich.table import Table

    profile = load.load(name)
    if as_json:
        _print_json(to_json(profile))
        return errors.EXIT_DONE
    console = _console(stderr=False)
    console.print(f"[bold]{profile.name}[/bold]: {profile.title}", highlight=False)
    console.print(f"runtimes {', '.join(profile.runtimes)}; precisions {', '.join(profile.precisions)}; INT8 {profile.int8_scheme}")
    facts = Table("fact", "value", "confidence", "source")
    for key, fact in profile.facts.items():
        facts.add_row(key, str(fact.value), fact.confidence, fact.source)
    if profile.facts:
        console.print(facts)
    for mode in profile.power_modes:
        console.print("power mode " + ", ".join(f"{k} {v}" for k, v in mode.items() if k != "source"), highlight=False)
    for note in profile.notes:
        console.print(note, highlight=False)
    return errors.EXIT_DONE


@profiles.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
def profiles_validate(file: Path) -> int:
    """Check a profile file of your own."""
    from hardware_profiles import load

    profile = load.validate(file)
    click.echo(f"{file}: a valid profile of {profile.title} with {len(profile.facts)} facts")
    return errors.EXIT_DONE


@cli.command("runtimes")
@_json_option
def list_runtimes(as_json: bool) -> int:
    """What can run models on this machine, and what is missing for the rest."""
    from bench.measure import environment
    from bench.preflight import probe_runtimes
    from bench.types import to_json

    facts = probe_runtimes(environment.describe())
    if as_json:
        _print_json([to_json(f) for f in facts])
        return errors.EXIT_DONE
    from rich.table import Table

    table = Table("runtime", "state", "takes", "INT8 here", "not run here")
    for f in facts:
        state = f"missing: {f.missing}. {f.remedy}" if f.missing else f"{f.version} on {f.device}"
        table.add_row(f.name, state, f.format, f.int8_scheme, "\n".join(f"{p}: {r}" for p, r in f.refusals))
    _console(stderr=False).print(table)
    return errors.EXIT_DONE


def main() -> None:
    """Entry point: run a command and turn whatever happens into a message and an exit code."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sys.exit(_run(arguments, debug))


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
        _say(f"error: {err}")
        return err.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("\ninterrupted: what was finished is kept; the same command goes on from there")
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return errors.EXIT_DONE
    except Exception as err:
        if debug:
            raise
        _say(f"error: something edgefit did not foresee: {type(err).__name__}: {err}\nAdd --debug to see where, and please report it.")
        return errors.EXIT_INTERNAL
