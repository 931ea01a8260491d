"""`bench export`: a model as a file for a runtime, a variant out of a run, or what was chosen with all that it takes to ship it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import errors
from bench.cli_steps import (
    data_option,
    default_scheme,
    export_file,
    json_option,
    seed_option,
    size_option,
    trained_in_int8,
)
from bench.terminal import find_run, print_json


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--variant", help="With a run: the variant to take out of it.")
@click.option(
    "--chosen", is_flag=True, help="With a run: a deployment folder of what `bench choose` named last."
)
@click.option("--license", "licence", default="", help="With --chosen: the model's licence, for its card.")
@click.option("--data-license", "data_licence", default="", help="With --chosen: the data's licence.")
@click.option("--format", "fmt", default="", help="With a run: onnx, tflite or pt2.")
@click.option("--runtime", default="", help="With a run: the file that this runtime was given.")
@click.option("--host", default="", help="With a run: local, or the device whose file is wanted.")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The file to write; with a run, the folder.",
)
@data_option
@size_option
@seed_option
@json_option
def export(
    source: Path,
    variant: str | None,
    chosen: bool,
    licence: str,
    data_licence: str,
    fmt: str,
    runtime: str,
    host: str,
    output: Path,
    as_json: bool,
    **rest: Any,
) -> int:
    """Write a model as ONNX, TFLite, Core ML or a torch program, or take a variant's file out of a run.

    With --chosen: a folder with the file, an example, eight images with their scores, a check (verify.py) and a model card.
    """
    from bench import single
    from bench.types import to_json

    if chosen:
        if variant or fmt or runtime:
            raise errors.UsageError(
                "--chosen says which file", todo="Leave --variant, --format and --runtime out"
            )
        return _deploy(find_run(str(source)), host, output, licence, data_licence, as_json)
    if source.is_file() and source.suffix in single.FORMATS:
        raise errors.UsageError(
            f"{source.name} is exported already", todo="Export a .safetensors model file, or a run's variant"
        )
    if source.is_file() or source.suffix == ".safetensors":
        simulated = source.suffix == ".safetensors" and trained_in_int8(source)
        kind = ("int8", default_scheme(output)) if simulated else ("fp32", "")
        return export_file(source, output, *kind, None, as_json=as_json, **rest)
    if not variant and not source.exists():
        raise errors.UsageError(f"There is no model file and no run {source}")
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


def _deploy(path: Path, host: str, output: Path, licence: str, data_licence: str, as_json: bool) -> int:
    from bench.deploy import choice, folder
    from bench.store import read_run

    run = read_run(path)
    chosen = choice.read_choice(run, host)
    names = folder.write(run, chosen, output, licence, data_licence)
    if as_json:
        print_json(
            {"folder": str(output), "variant": chosen.variant, "runtime": chosen.runtime, "files": names}
        )
    else:
        click.echo(
            f"{output}: {chosen.variant} for {chosen.runtime}, {len(names)} files. There: pip install -r requirements.txt && python verify.py"
        )
        if chosen.runtime not in folder.REQUIREMENTS:
            click.echo(f"Its example and its check run the file with another runtime: see {folder.CARD}.")
    return errors.EXIT_DONE


COMMANDS = (export,)
