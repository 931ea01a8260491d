"""Where the time of one artifact goes: per operator, by the runtime's own profiler, with what explains it. Nothing here prints.

What `bench explain` answers; :mod:`reports.explain` shows it.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, WorkerError
from bench.explain_subject import Subject
from bench.hosts import open_host
from bench.measure import environment
from bench.measure.latency import latency
from bench.runtimes.base import CellJob
from bench.steps import DataOptions
from bench.types import SCHEMA, Json, Notify, Protocol, Quantity, to_json

if TYPE_CHECKING:
    from compress.speed.facts import Graph, Kernel

SECONDS, MOST, LEAST = 2.0, 200, 10
"""Of the profiled and the plain calls together; and of the calls of either kind."""
TIMEOUT_SECONDS = 300.0
SQNR_IMAGES = 16
ROUGH = 0.3
"""Of a call: what whole microseconds may leave open before shares are called rough."""
SLOW, WORTH, LEAST_US = 3.0, 0.03, 5.0
"""A layer that does so many times less work a microsecond than the median one, and takes such a share and so long, is named."""


def explain(subject: Subject, *, batch: int, threads: int, seed: int, notify: Notify) -> Json:
    """Profile an artifact in a fresh process and put everything that is known beside each operator.

    Returns:
        One JSON document: ``layers`` in the order in which they run, each with ``name``, ``op``, ``state`` (int8, float,
        convert, layout), ``time_us``, ``share``, ``macs``, ``sqnr_db`` (of the layer's output; ``input_sqnr_db`` of its input) and ``reasons``; ``latency_ms`` (of the run),
        ``plain_ms`` and ``profiled_ms`` (here, without and with the profiler), ``explained`` (share of ``plain_ms`` in the
        operators), ``overhead_us`` (of the profiler, taken off each), ``graph`` (:func:`compress.speed.facts.graph_facts`) and
        ``causes`` in words.

    Raises:
        WorkerError: the runtime cannot run the file, or its profiler cannot be read.
    """
    from compress.quiet import quiet
    from compress.speed.match import match

    with quiet():
        graph, facts = _graph(subject)
    raw = _profile(subject, batch, threads, notify)
    profile = raw["profile"]
    kernels = match(graph, subject.runtime.name, profile["rows"])
    facts = _executed(facts, subject, kernels)
    noise = _sqnr(subject, graph, seed)
    plain = latency([ms * 1e-3 for ms in profile["plain_ms"]], batch)["latency_ms"]
    own = latency([ms * 1e-3 for ms in profile["profiled_ms"]], batch)["latency_ms"]
    overhead = _overhead(profile, plain)
    # not every format says what its weights are
    precision = "int8" if facts.get("int8_layers") else subject.artifact.precision
    rows = _rows(profile, kernels, overhead, noise, facts, batch)
    total = sum(row["time_us"]["value"] for row in rows)
    return {
        "schema": SCHEMA,
        "file": str(subject.path),
        "variant": subject.variant,
        "run": str(subject.run.path) if subject.run else "",
        "runtime": subject.runtime.name,
        "version": raw["runtime"]["version"],
        "format": subject.artifact.format,
        "precision": precision,
        "batch": batch,
        "threads": threads,
        "profiler": profile["profiler"],
        "latency_ms": to_json(subject.cell_ms),
        "plain_ms": to_json(plain),
        "profiled_ms": to_json(own),
        "overhead_us": sum(overhead) / len(overhead),
        "explained": to_json(_explained(total, profile, plain)),
        "layers": rows,
        "graph": facts,
        "causes": _causes(facts, precision, plain),
        "environment": environment.describe(),
        "notes": _notes(raw, profile, overhead, plain),
    }


def _graph(subject: Subject) -> tuple[Graph, Json]:
    """The graph as executed and its facts; what cannot be read has no layers, and a reason."""
    from compress.speed.facts import Graph, graph_facts, read_graph

    fmt = subject.artifact.format
    try:
        graph = read_graph(subject.path, fmt)
    except Exception as error:  # a foreign file: the profile is still worth showing
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Graph((), (), 0, {}), {"error": reason}
    return graph, graph_facts(subject.path, fmt)


def _executed(facts: Json, subject: Subject, kernels: Sequence[Kernel]) -> Json:
    """The facts as far as they hold on this runtime, with the operators that really ran."""
    from reports.causes import facts_of

    if not facts or "error" in facts:
        return facts
    integer = sum(k.layer is not None and k.state == "int8" for k in kernels)
    found = facts_of(facts, subject.artifact.format, subject.runtime.name)
    return found | {"kernels": len(kernels), "int8_layers": integer}


def _profile(subject: Subject, batch: int, threads: int, notify: Notify) -> Json:
    """The worker's result with its ``profile``, from a fresh process."""
    from bench.runtimes.worker import Worker, job_json

    name, asked = subject.runtime.name, {"seconds": SECONDS, "most": MOST, "least": LEAST}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        protocol = Protocol(timeout_seconds=TIMEOUT_SECONDS)
        job = CellJob(subject.artifact, subject.path, folder, batch, threads, "cpu", protocol, predict=False)
        with Worker(open_host("local"), name, threads) as worker:
            worker.ready()
            worker.run(
                job_json(job, name) | {"profile": asked},
                TIMEOUT_SECONDS,
                lambda event: notify(event["event"], {k: v for k, v in event.items() if k != "event"}),
            )
        result: Json = json.loads((folder / "result.json").read_text())
    if result["status"] != "ok":
        raise WorkerError(f"{subject.path.name} cannot be profiled on {name}", result["reason"])
    if not result["profile"]["rows"]:
        raise WorkerError(f"{result['profile']['profiler']} names no operator of {subject.path.name}")
    return result


def _overhead(profile: Json, plain: Quantity) -> list[float]:
    """Microseconds that the profiler adds to each operator: what they take together beyond a call without it, by weight."""
    weights = [float(row.get("weight", 1.0)) for row in profile["rows"]]
    total = sum(float(row["us"]) + float(profile["cut_us"]) for row in profile["rows"])
    beyond = max(0.0, total - 1e3 * (plain.value or total * 1e-3))
    return [beyond * weight / sum(weights) for weight in weights]


def _explained(total_us: float, profile: Json, plain: Quantity) -> Quantity:
    """The share of a call without the profiler that the operators take; ``total_us`` without the profiler's own time."""
    if not plain.value:
        return Quantity.missing(plain.reason or "no call without the profiler was timed", "share")
    arm = profile["cut_us"] * len(profile["rows"])
    share = total_us / (1e3 * plain.value)
    method = f"sum over operators in {profile['profiler']}, less its own work, against calls without it in the same process"
    low, high = (max(0.0, total_us + d) / (1e3 * plain.value) for d in (-arm, arm))
    return Quantity(share, "share", low, high, len(profile["profiled_ms"]), "measured", method)


def _rows(
    profile: Json,
    kernels: Sequence[Kernel],
    overhead: Sequence[float],
    noise: tuple[dict[str, Json], str],
    facts: Json,
    batch: int,
) -> list[Json]:
    cut, calls = profile["cut_us"], len(profile["profiled_ms"])
    method = f"{profile['profiler']}, mean of the middle half of {calls} calls"
    method += ", less its own work" if any(overhead) else ""
    times = [max(0.0, row["us"] + cut - own) for row, own in zip(profile["rows"], overhead, strict=True)]
    total = sum(times) or 1.0
    rows = []
    for row, kernel, us in zip(profile["rows"], kernels, times, strict=True):
        layer, name = kernel.layer, kernel.layer.name if kernel.layer else ""
        macs = (
            Quantity(layer.macs * batch, "MACs", n=1, provenance="measured", method="from the shapes")
            if layer and layer.macs
            else Quantity.missing("computes no layer" if not layer else "its shapes are not known", "MACs")
        )
        rows.append(
            {
                "name": name or kernel.name or row["name"],
                "op": row["op"],
                "kernel": row.get("kernel", ""),
                "state": kernel.state,
                "shape": layer.shape if layer else "",
                "time_us": to_json(
                    Quantity(us, "us", max(0.0, us - cut), us + cut, calls, "measured", method)
                ),
                "profiled_us": row["us"],
                "share": us / total,
                "macs": to_json(macs),
                **{key: to_json(_noise_of(name, noise, key)) for key in ("sqnr_db", "input_sqnr_db")},
                "reasons": _reasons(row, kernel, facts),
            }
        )
    _name_slow(rows)
    return rows


def _name_slow(rows: list[Json]) -> None:
    """Say of layers that they do far less work in their time than the others."""
    speeds = {
        i: row["macs"]["value"] / row["time_us"]["value"]
        for i, row in enumerate(rows)
        if row["macs"]["value"] and row["time_us"]["value"]
    }
    if not speeds:
        return
    usual = statistics.median(speeds.values())
    for i, speed in speeds.items():
        worth = rows[i]["share"] >= WORTH and rows[i]["time_us"]["value"] >= LEAST_US
        if worth and speed * SLOW < usual:
            rows[i]["reasons"].append(f"{usual / speed:.0f}x fewer MACs a microsecond than the median layer")


def _noise_of(name: str, noise: tuple[dict[str, Json], str], key: str) -> Quantity:
    """``sqnr_db`` of a layer's output, or ``input_sqnr_db`` of what goes into it."""
    found, reason = noise
    value = found.get(name, {}).get(key)
    if value is None:
        return Quantity.missing(
            reason or ("not compared with the float file" if name else "computes no layer"), "dB"
        )
    method = (
        f"signal over quantization noise, cumulative, {SQNR_IMAGES} validation images, against the float file"
    )
    return Quantity(value, "dB", n=SQNR_IMAGES, provenance="measured", method=method)


def _reasons(row: Json, kernel: Kernel, facts: Json) -> list[str]:
    """What makes this operator slower than it need be, as far as the file shows it."""
    said = []
    odd = {name: (width, near) for name, width, near in facts.get("odd_channels") or ()}
    if kernel.layer and kernel.layer.name in odd:
        said.append("{} channels: kernels want a multiple of 8, such as {}".format(*odd[kernel.layer.name]))
    if row.get("delegated") is False:
        said.append("not taken by XNNPACK: runs in LiteRT's own kernel, and cuts the graph")
    if kernel.state == "float" and facts.get("int8_layers") and row["op"] in (facts.get("island_ops") or {}):
        said.append("float between int8 operators")
    return said


def _causes(facts: Json, precision: str, plain: Quantity) -> list[str]:
    from reports.causes import graph_causes

    return graph_causes(facts, {}, precision, plain)


def _notes(raw: Json, profile: Json, overhead: Sequence[float], plain: Quantity) -> list[str]:
    notes = list(raw["notes"])
    mean = sum(overhead) / len(overhead)
    if mean >= 0.05:
        notes.append(
            f"the profiler's own work is taken off, {mean:.1f} µs an operator, so that together they take what a call takes "
            "without it"
        )
    cut = profile["cut_us"]
    notes.append(f"{profile['profiler']}: whole microseconds are written, so a time is known to ±{cut:g} µs")
    if cut * len(profile["rows"]) > ROUGH * 1e3 * (plain.value or math.inf):
        notes.append("this net is quick for its runtime's profiler: its shares are rough")
    return notes


def _sqnr(subject: Subject, graph: Graph, seed: int) -> tuple[dict[str, Json], str]:
    """Signal to quantization noise of the layers, by name; or why there is none."""
    from compress.int8.sensitivity import layer_sqnr
    from compress.quiet import quiet

    if subject.float_path is None and subject.float_model is None:
        return {}, subject.float_reason
    fmt = subject.artifact.format
    try:
        images = _images(subject, seed)
        with quiet(), _float_file(subject, images) as plain:
            rows = layer_sqnr(plain, subject.path, images.numpy(), fmt)
    except (
        Exception
    ) as error:  # data that moved away, a file of another make: the times are still worth showing
        return {}, f"not compared with the float file: {' '.join(str(error).split())[:200]}"
    by_order = dict(zip((layer.name for layer in graph.layers), rows, strict=False))
    by_name = {row["layer"]: row for row in rows}
    return (by_order if len(rows) == len(graph.layers) else {}) | by_name, ""


def _images(subject: Subject, seed: int) -> Any:
    """A few validation images of the run's data, normalised: float32 tensor N x C x H x W."""
    from compress.parity import validation_images
    from distill import data as datasets

    pre = subject.artifact.preprocess
    if subject.run is None or pre is None:
        raise UsageError("how it is fed is not known")
    spec = (subject.run.manifest.get("data") or {}).get("spec", "")
    options = DataOptions(spec, pre.height, pre.resize, pre.mean, pre.std)
    return validation_images(datasets.load(datasets.index(options, seed)), SQNR_IMAGES)[1]


@contextmanager
def _float_file(subject: Subject, images: Any) -> Iterator[Path]:
    """The float file with the subject's weights; written from its model for the time being where no run keeps one."""
    if subject.float_path is not None:
        yield subject.float_path
        return
    from compress import float_files
    from distill import models

    assert subject.float_model is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"float.{subject.artifact.format}"
        float_files.write(models.load(subject.float_model)[0].eval(), images, path)
        yield path
