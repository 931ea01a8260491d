"""The commands that do one step alone: train, distill, prune, quantize, export, measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, find_run, print_json, say


def _data_options(data: str, image_size: int | None) -> Any:
    from bench.types import DataOptions

    return DataOptions(spec=data, image_size=image_size)


_data_option = click.option(
    "--data", default="digits", show_default=True, help="digits, folder:PATH, cifar10, ..."
)
_size_option = click.option(
    "--image-size",
    type=click.IntRange(4, 4096),
    help="Side in pixels; default: the data's own, for folders 64.",
)
_seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
_set_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A training option: epochs, lr, augment, ..."
)
_output_option = click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write."
)
_test_option = click.option(
    "--test", is_flag=True, help="Judge the result on the test set, not on validation."
)
_json_option = click.option("--json", "as_json", is_flag=True)


def _training(sets: tuple[str, ...], has_weights: bool = False) -> Any:
    from bench import recipe
    from bench.types import Training
    from distill.train import check_training

    training = recipe.build(Training, dict(recipe.parse_override(s) for s in sets), "--set")
    check_training(training, has_weights)
    return training


def _do_step(
    step: Any,
    data: str,
    image_size: int | None,
    output: Path,
    seed: int,
    test: bool,
    as_json: bool,
    **models: Any,
) -> int:
    from bench import single
    from bench.progress import Progress

    given = next((path for path in models.values() if path is not None), None)
    size = image_size or (model_size(given) if given else None)
    split = "test" if test else "validation"
    with Progress(console(), quiet=as_json) as progress:
        result = single.run_step(
            step, _data_options(data, size), output, seed=seed, split=split, notify=progress, **models
        )
    if as_json:
        print_json(result)
        return errors.EXIT_DONE
    for row in result["history"]:
        say(
            f"  epoch {row['epoch']:3d}  train loss {row['train_loss']:.4f}  validation accuracy {row['val_accuracy']:.4f}"
        )
    for note in result["notes"]:
        say(f"  {note}")
    from reports.cell import render_classification

    click.echo(f"{output}: {result['params']:,} parameters, {result['macs']:,} MACs")
    click.echo(render_classification(result["classification"]))
    return errors.EXIT_DONE


@click.command()
@click.option("--model", required=True, help="edgefit:NAME, timm:NAME, torchvision:NAME, py:FILE.py:FACTORY.")
@click.option("--weights", default="", help="Start from these weights.")
@_data_option
@_size_option
@_output_option
@_seed_option
@_set_option
@_test_option
@_json_option
def train(model: str, weights: str, sets: tuple[str, ...], **rest: Any) -> int:
    """Train one model."""
    from bench.types import TrainStep

    return _do_step(TrainStep(model, weights, _training(sets, bool(weights))), **rest)


@click.command()
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
@_test_option
@_json_option
def distill(
    teacher: Path,
    model: str,
    student: Path | None,
    temperature: float,
    alpha: float,
    sets: tuple[str, ...],
    **rest: Any,
) -> int:
    """Train a student with a teacher's outputs as targets."""
    from bench.types import DistillStep
    from distill.train import check_distill

    if bool(model) == bool(student):
        raise errors.UsageError("Give either --model (a fresh student) or --student (a file to go on from)")
    step = DistillStep(str(teacher), model, temperature=temperature, alpha=alpha, training=_training(sets))
    check_distill(step)
    return _do_step(step, teacher=teacher, parent=student, **rest)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--macs", default=0.5, show_default=True, help="Share of multiply-accumulates to keep.")
@click.option("--importance", default="l1", show_default=True)
@click.option("--scope", default="global", show_default=True)
@click.option("--round-to", default=8, show_default=True, help="Channels stay a multiple of this.")
@_data_option
@_size_option
@_output_option
@_seed_option
@_test_option
@_json_option
def prune(model: Path, macs: float, importance: str, scope: str, round_to: int, **rest: Any) -> int:
    """Remove channels of a model; recover its accuracy afterwards with `bench distill --student`."""
    from bench.types import PruneStep
    from compress.prune import check_prune

    step = PruneStep(macs, importance, scope, round_to)
    check_prune(step)
    return _do_step(step, parent=model, **rest)


def _export_file(
    model: Path,
    output: Path,
    precision: str,
    scheme: str,
    step: Any,
    data: str,
    image_size: int | None,
    seed: int,
    as_json: bool,
) -> int:
    from bench import single

    fmt, _ = single.FORMATS.get(output.suffix, ("", ""))
    if not fmt:
        raise errors.UsageError(f"--output must end in {', '.join(single.FORMATS)}, not {output.name!r}")
    size = image_size or model_size(model)
    result = single.export_model(
        model, fmt, precision, scheme, step, _data_options(data, size), output, seed=seed
    )
    if as_json:
        print_json(result)
    else:
        for note in result["notes"]:
            say(f"  {note}")
        parity = result["parity"]
        click.echo(
            f"{output}: {output.stat().st_size:,} bytes; agrees with its parent on {parity['agreement']:.1%} of {parity['n']} images"
        )
    return errors.EXIT_DONE


def model_size(model: Path) -> int:
    """The image size a model file was made for, read from its metadata."""
    from distill import models

    if not model.is_file():
        raise errors.UsageError(f"There is no model file {model}")

    return int(models.read_spec(model).preprocess.height)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["int8", "fp16", "bf16"]), default="int8", show_default=True)
@click.option("--scheme", default="", help="u8s8, u8s8-7bit, s8s8 or litert; default: this machine's.")
@click.option("--ranges", default="minmax", show_default=True)
@click.option("--images", default=256, show_default=True, help="Calibration images.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The .onnx, .tflite or .pt2 file to write.",
)
@_data_option
@_size_option
@_seed_option
@_json_option
def quantize(
    model: Path, precision: str, scheme: str, ranges: str, images: int, output: Path, **rest: Any
) -> int:
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


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--variant", help="With a run: the variant to take out of it.")
@click.option("--format", "fmt", default="", help="With a run: onnx, tflite or pt2.")
@click.option("--runtime", default="", help="With a run: the file that this runtime was given.")
@click.option("--host", default="", help="With a run: local, or the device whose file is wanted.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to write; with a run, the folder.",
)
@_data_option
@_size_option
@_seed_option
@_json_option
def export(
    source: Path,
    variant: str | None,
    fmt: str,
    runtime: str,
    host: str,
    output: Path,
    as_json: bool,
    **rest: Any,
) -> int:
    """Write a model as ONNX, TFLite or an exported program, or take a variant's file out of a run."""
    from bench import single
    from bench.types import to_json

    if source.is_file() or source.suffix == ".safetensors":
        return _export_file(source, output, "fp32", "", None, as_json=as_json, **rest)
    if not variant:
        raise errors.UsageError(
            "Say which variant of the run to export", todo="Add --variant NAME; `bench report` lists them"
        )
    target, artifact = single.export_variant(find_run(str(source)), variant, fmt, runtime, host, output)
    if as_json:
        print_json({"file": str(target), "artifact": to_json(artifact)})
    else:
        scheme = f" ({artifact.scheme})" if artifact.scheme else ""
        click.echo(f"{target}: {artifact.precision}{scheme}, {artifact.size_bytes:,} bytes")
    return errors.EXIT_DONE


COMMANDS = (train, distill, prune, quantize, export)
