"""The command that looks inside an artifact: where its time goes, operator by operator."""

from __future__ import annotations

from pathlib import Path

import click

from bench import errors
from bench.terminal import console, open_run, print_json, say

SUFFIXES = (".md", ".html", ".json")


@click.command()
@click.argument("target", metavar="VARIANT|FILE")
@click.option("--runtime", default="", help="onnxruntime, litert or openvino; default: the first that fits.")
@click.option("--run", "run_name", help="The run that has the variant; default: the latest.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 4096))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option(
    "--top", default=20, show_default=True, type=click.IntRange(1), help="Operators that are listed."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write all of them to a .html, .md or .json file."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def explain(
    target: str, runtime: str, run_name: str | None, batch: int, threads: int, top: int, output: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Time, MACs, arithmetic and quantization noise of every operator, by the runtime's own profiler.

    \b
    bench explain teacher-int8 --runtime onnxruntime --output explain.html
    bench explain model.onnx

    The file runs in a fresh process, calls with and without the profiler by turns; what the profiler itself
    costs is said and taken off.
    """
    from bench import explain as engine
    from bench import explain_subject as subjects
    from bench.progress import Progress

    if output is not None and output.suffix not in SUFFIXES:
        raise errors.UsageError(
            f"--output {output} has another ending", todo=f"Use one of {', '.join(SUFFIXES)}"
        )
    path = Path(target)
    if run_name is None and path.is_file():
        subject, seed = subjects.subject_of_file(path, runtime), 0
    else:
        run = open_run(run_name)
        subject = subjects.subject_of_run(run, target, runtime, batch, threads)
        seed = int(run.manifest.get("seed") or 0)
    with Progress(console(), quiet=as_json) as progress:
        found = engine.explain(subject, batch=batch, threads=threads, seed=seed, notify=progress)
    if output is not None:
        _write(found, output)
    if as_json:
        print_json(found)
    else:
        from reports.explain import TerminalExplanation

        console(stderr=False).print(TerminalExplanation(found, top))
    if output is not None:
        say(f"wrote {output}")
    return errors.EXIT_DONE


def _write(found: dict[str, object], output: Path) -> None:
    import json

    from bench.store import explain_disk_errors, write_atomic
    from reports import explain as shown

    if output.suffix == ".json":
        made = json.dumps(found, indent=1, allow_nan=False) + "\n"
    else:
        made = shown.render_html(found) if output.suffix == ".html" else shown.render_md(found)
    with explain_disk_errors(output):
        write_atomic(output, made.encode())


COMMANDS = (explain,)
