"""The commands that do one step alone: train, distill, prune, qat, quantize, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.terminal import console, print_json, say


def _data_options(data: str, image_size: int | None, model: Path | None = None) -> Any:
    """How the data is read: as the given model takes its images, but for a size that the person names."""
    from bench.steps import DataOptions

    if model is None:
        return DataOptions(spec=data, image_size=image_size)
    from distill import models

    if not model.is_file():
        raise errors.UsageError(f"There is no model file {model}")
    pre = models.read_spec(model).preprocess
    return DataOptions(data, image_size or pre.height, pre.resize, pre.mean, pre.std)


data_option = click.option(
    "--data", default="digits", show_default=True, help="digits, folder:PATH, cifar10, ..."
)
size_option = click.option(
    "--image-size",
    type=click.IntRange(4, 4096),
    help="Side in pixels; default: the data's own, for folders 64.",
)
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
_set_option = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="A training option: epochs, lr, augment, ..."
)
_output_option = click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write."
)
_test_option = click.option(
    "--test", is_flag=True, help="Judge the result on the test set, not on validation."
)
json_option = click.option("--json", "as_json", is_flag=True)


def _training(sets: tuple[str, ...], has_weights: bool = False, kind: Any = None) -> Any:
    """The training that ``--set`` asks for, over the defaults of the step ``kind``."""
    from bench import recipe
    from bench.steps import Training
    from distill.train import check_training

    own = recipe.own_training(kind()) if kind else {}
    training = recipe.build(Training, own | dict(recipe.parse_override(s) for s in sets), "--set")
    check_training(training, has_weights)
    return training


def _do_step(step: Any, data: str, image_size: int | None, as_json: bool, **given: Any) -> int:
    """Do one step with the options of its command, and show what came of it."""
    models = (given.get("parent"), *given.get("teachers", ()))
    result = _run(step, _data_options(data, image_size, next(filter(None, models), None)), as_json, **given)
    return _show(result, as_json)


def _run(step: Any, options: Any, quiet: bool, test: bool, **given: Any) -> dict[str, Any]:
    from bench import single
    from bench.progress import Progress

    split = "test" if test else "validation"
    with Progress(console(), quiet=quiet) as progress:
        return single.run_step(step, options, split=split, notify=progress, **given)


def _show(result: dict[str, Any], as_json: bool) -> int:
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

    click.echo(f"{result['model']}: {result['params']:,} parameters, {result['macs']:,} MACs")
    click.echo(render_classification(result["classification"]))
    return errors.EXIT_DONE


@click.command()
@click.option("--model", required=True, help="edgefit:NAME, timm:NAME, torchvision:NAME, py:FILE.py:FACTORY.")
@click.option(
    "--weights", default="", help="Start from these: .safetensors, .pt, or pretrained (the library's)."
)
@click.option(
    "--mean",
    metavar="R,G,B",
    help="Normalise images as the weights were trained with; default: by the data's own.",
)
@click.option("--std", metavar="R,G,B", help="The deviation that goes with --mean.")
@data_option
@size_option
@_output_option
@seed_option
@_set_option
@_test_option
@json_option
def train(
    model: str, weights: str, mean: str | None, std: str | None, sets: tuple[str, ...], data: str,
    image_size: int | None, as_json: bool, **rest: Any,
) -> int:  # fmt: skip
    """Train one model; with --weights and --set epochs=0 import it as it is."""
    import dataclasses

    from bench.steps import TrainStep

    begin = TrainStep(model, weights)
    step = dataclasses.replace(begin, training=_training(sets, begin.has_weights))
    options = _data_options(data, image_size, Path(model) if model.endswith(".safetensors") else None)
    if mean or std:
        options = dataclasses.replace(options, mean=_numbers(mean), std=_numbers(std))
    return _show(_run(step, options, as_json, **rest), as_json)


def _numbers(text: str | None) -> tuple[float, ...]:
    """``0.485,0.456,0.406`` as numbers."""
    try:
        return tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError as err:
        raise errors.UsageError(
            f"--mean and --std want numbers such as 0.485,0.456,0.406, not {text!r}"
        ) from err


@click.command()
@click.option(
    "--teacher", "teachers", required=True, multiple=True, type=click.Path(path_type=Path),
    help="The teacher's .safetensors; several times for an ensemble.",
)  # fmt: skip
@click.option("--model", default="", help="A fresh student.")
@click.option(
    "--inherit", is_flag=True, help="It starts from the teacher's weights where names and shapes agree."
)
@click.option("--student", type=click.Path(path_type=Path), help="Or a student to go on from (.safetensors).")
@click.option(
    "--loss",
    default="kd",
    show_default=True,
    help="kd, kd-std, dkd, dist, at, hint, or a sum: 'dkd + 0.5*at'.",
)
@click.option("--temperature", default=4.0, show_default=True)
@click.option("--alpha", default=0.7, show_default=True, help="Weight of the teacher against the labels.")
@click.option("--alone", is_flag=True, help="Then train the same student without a teacher, to compare.")
@data_option
@size_option
@_output_option
@seed_option
@_set_option
@_test_option
@json_option
def distill(
    teachers: tuple[Path, ...],
    model: str,
    inherit: bool,
    student: Path | None,
    loss: str,
    temperature: float,
    alpha: float,
    alone: bool,
    sets: tuple[str, ...],
    data: str,
    image_size: int | None,
    as_json: bool,
    **rest: Any,
) -> int:
    """Train a student with a teacher's outputs as targets."""
    from bench.steps import DistillStep, TrainStep
    from distill.train import check_distill

    if bool(model) == bool(student):
        raise errors.UsageError("Give either --model (a fresh student) or --student (a file to go on from)")
    training = _training(sets)
    step = DistillStep(tuple(map(str, teachers)), model, loss, temperature, alpha, training, inherit)
    check_distill(step)
    options = _data_options(data, image_size, student or teachers[0])  # the twin sees the same images
    taught = _run(step, options, as_json, teachers=teachers, parent=student, **rest)
    if not alone:
        say("  What the same student reaches without a teacher is not known: add --alone")
        return _show(taught, as_json)
    if not as_json:
        _show(taught, as_json)
    output: Path = rest.pop("output")
    twin = output.with_name(f"{output.stem}-alone{output.suffix}")
    found = _run(TrainStep(model, training=training), options, as_json, output=twin, parent=student, **rest)
    return _show(taught | {"alone": found} if as_json else found, as_json)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--macs", default=0.0, help="Share of the multiply-accumulates to keep; 0.5 where no target is given."
)
@click.option("--params", default=0.0, help="Or of the parameters.")
@click.option("--size", default=0.0, help="Or of the fp32 file.")
@click.option("--latency", default=0.0, help="Or of the latency, measured on --runtime.")
@click.option(
    "--runtime",
    default="onnxruntime",
    show_default=True,
    help="Where --latency, or what zeros gain, is measured.",
)
@click.option("--blocks", is_flag=True, help="Whole residual blocks may go too.")
@click.option(
    "--trial-steps",
    default=0,
    show_default=True,
    help="Train so many steps before judging which blocks can go.",
)
@click.option(
    "--importance", default="l1", show_default=True, help="l1, l2, bn, lamp, fpgm, taylor, hessian or random."
)
@click.option("--scope", default="global", show_default=True, help="global, local or isomorphic.")
@click.option("--round-to", default=0, help="Channels stay a multiple of this; default: of 16, or of 8.")
@click.option("--steps", default=1, show_default=True, help="Prune in so many stages.")
@click.option("--step-epochs", default=0, show_default=True, help="Epochs of training between two stages.")
@click.option(
    "--sparse-epochs", default=0, show_default=True, help="Epochs with a group-sparse penalty first."
)
@click.option("--sparsity", default="", help="Zeros in place of fewer channels: 2:4 or unstructured.")
@click.option("--amount", default=0.5, show_default=True, help="Share of zeros (unstructured).")
@data_option
@size_option
@_output_option
@seed_option
@_set_option
@_test_option
@json_option
def prune(model: Path, sets: tuple[str, ...], **given: Any) -> int:
    """Remove channels of a model; recover its accuracy afterwards with `bench distill --student`."""
    import dataclasses

    from bench.recipe import parse_override
    from bench.steps import PruneStep
    from compress.prune import check_prune, check_trained

    names = {f.name for f in dataclasses.fields(PruneStep)} & set(given)
    step = PruneStep(**{name: given.pop(name) for name in names}, training=_training(sets))
    check_prune(step)
    check_trained(step, (parse_override(text)[0] for text in sets))
    return _do_step(step, parent=model, **given)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--teacher", "teachers", multiple=True, type=click.Path(path_type=Path), help="Default: the model itself."
)
@click.option(
    "--scheme",
    default="",
    help="u8s8, u8s8-7bit (both also LiteRT) or s8s8 (TensorRT); default: this machine's.",
)
@click.option("--images", default=256, show_default=True, help="Calibration images for the first ranges.")
@click.option("--ranges", default="mse", show_default=True, help="How these are found: as bench quantize's.")
@click.option("--loss", default="kd", show_default=True, help="kd, kd-std, dkd, dist, or a sum.")
@click.option("--temperature", default=4.0, show_default=True)
@click.option("--alpha", default=0.7, show_default=True, help="Weight of the teacher against the labels.")
@data_option
@size_option
@_output_option
@seed_option
@_set_option
@_test_option
@json_option
def qat(
    model: Path, teachers: tuple[Path, ...], scheme: str, images: int, ranges: str, loss: str, temperature: float,
    alpha: float, sets: tuple[str, ...], **rest: Any,
) -> int:  # fmt: skip
    """Train with int8 arithmetic simulated; then `bench export` writes the int8 file."""
    from bench.steps import QatStep
    from compress.qat import check_qat

    scheme = scheme or default_scheme(Path("model.onnx"))
    training = _training(sets, kind=QatStep)
    step = QatStep(tuple(map(str, teachers)), scheme, ranges, images, loss, temperature, alpha, training)
    check_qat(step)
    return _do_step(step, parent=model, teachers=teachers, **rest)


def export_file(
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
    from bench.progress import Progress

    fmt, _ = single.FORMATS.get(output.suffix, ("", ""))
    if not fmt:
        raise errors.UsageError(f"--output must end in {', '.join(single.FORMATS)}, not {output.name!r}")
    options = _data_options(data, image_size, model)
    with Progress(console(), quiet=as_json) as progress:
        result = single.export_model(
            model, fmt, precision, scheme, step, options, output, seed=seed, notify=progress
        )
    if as_json:
        print_json(result)
    else:
        for note in result["notes"]:
            say(f"  {note}")
        parity = result["parity"]
        agrees = (
            f"; agrees with its parent on {parity['agreement']:.1%} of {parity['n']} images" if parity else ""
        )
        click.echo(f"{output}: {result['artifact']['size_bytes']:,} bytes{agrees}")
    return errors.EXIT_DONE


def trained_in_int8(model: Path) -> bool:
    """Whether a model file was trained with int8 simulated: it is exported as int8."""
    from distill import models

    return model.is_file() and bool(models.read_spec(model).quantization)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--precision", type=click.Choice(["int8", "fp16", "bf16"]), default="int8", show_default=True)
@click.option("--scheme", default="", help="u8s8, u8s8-7bit, s8s8 or litert; default: this machine's.")
@click.option("--dynamic", is_flag=True, help="Ranges of activations found at run time.")
@click.option("--ranges", default="minmax", show_default=True, help="minmax, percentile, entropy or mse.")
@click.option("--images", default=256, show_default=True, help="Calibration images.")
@click.option("--per-tensor", is_flag=True, help="One scale for all output channels of a layer.")
@click.option("--equalize", is_flag=True, help="Cross-layer equalisation first.")
@click.option("--correct-bias", is_flag=True, help="Empirical bias correction.")
@click.option(
    "--keep-float", "float_layers", multiple=True, metavar="LAYER", help="A layer that stays float."
)
@click.option(
    "--input", "input_type", default="float32", show_default=True, help="float32, or int8 (LiteRT)."
)
@click.option(
    "--max-drop", metavar="POINTS", help="Such as 1%: try dearer methods until the loss is within it."
)
@click.option(
    "--ladder",
    metavar="RUNGS",
    help="Of its methods only these: channel,equalize,mse,float,qat (all of them).",
)
@click.option("--qat-epochs", default=3, show_default=True, help="Of its last rung.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The .onnx, .tflite or .pt2 file (or the .mlpackage) to write.",
)
@data_option
@size_option
@seed_option
@json_option
def quantize(
    model: Path,
    precision: str,
    scheme: str,
    dynamic: bool,
    per_tensor: bool,
    input_type: str,
    max_drop: str | None,
    ladder: str | None,
    output: Path,
    data: str,
    image_size: int | None,
    seed: int,
    as_json: bool,
    **chosen: Any,
) -> int:
    """Write a model in a smaller number format, calibrated on training images."""
    from bench.steps import LADDER, QuantizeStep
    from compress.quantize import check_quantize

    step = QuantizeStep(
        precision,
        activations="dynamic" if dynamic else "static",
        per_channel=not per_tensor,
        input=input_type,
        max_drop=_share(max_drop) if max_drop else None,
        ladder=LADDER if ladder is None else tuple(rung.strip() for rung in ladder.split(",")),
        **chosen,
    )
    check_quantize(step)
    if precision == "int8" and not scheme:
        scheme = default_scheme(output)
    return export_file(
        model, output, precision, scheme if precision == "int8" else "", step, data, image_size, seed, as_json
    )


def _share(text: str) -> float:
    """``1%`` or ``0.01`` as a fraction."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as err:
        raise errors.UsageError(f"--max-drop wants a share such as 1%, not {text!r}") from err


def default_scheme(output: Path) -> str:
    from bench import runtimes, single
    from bench.measure import environment

    _, runtime = single.FORMATS.get(output.suffix, ("", ""))
    return runtimes.get(runtime or "onnxruntime").int8_scheme(environment.describe())


COMMANDS = (train, distill, prune, qat, quantize)
