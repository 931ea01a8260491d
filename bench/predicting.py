"""What `bench predict` answers: one cell, all of it predicted. Nothing here prints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, UsageError
from bench.types import SCHEMA, Cell, Json, Profile, Quantity, to_json

if TYPE_CHECKING:
    from bench.store import RunData
    from hardware_profiles.predict import Prediction, Setting
    from hardware_profiles.prediction.graph import Graph
    from hardware_profiles.prediction.learn import Measured

SIDE = 224
OURS = 32
"""Pixels of the images that our own nets are for."""
FORETOLD = ("latency_ms", "throughput_ips", "memory_mb", "energy_mj", "p90_ms", "p99_ms")
"""Metrics of a cell that a prediction fills in, some with the reason why there is none."""
ALWAYS_MISSING = {
    "p90_ms": ("ms", "a prediction is of the typical call, not of its tail"),
    "p99_ms": ("ms", "a prediction is of the typical call, not of its tail"),
    "accuracy": ("fraction", "a graph does not tell it: measure it with bench run or bench measure"),
}


Opened = tuple["Graph", str, "int | None"]
"""A graph, what it is called, and the size of its file in bytes."""


def open_graph(model: str, size: tuple[int, int] | None, classes: int | None) -> Opened:
    """The graph of a file or of a net by name, what it is called, and the file's size in bytes.

    Raises:
        UsageError: a file that is not there, or of a kind that is not read.
        ModelError: it cannot be built, read or run.
    """
    from hardware_profiles.predict import read_file, read_graph

    path = Path(model).expanduser()
    if path.suffix == ".safetensors" or (path.suffix and not _is_spec(model)):
        if not path.is_file():
            raise UsageError(f"There is no file {path}")
        if classes is not None:
            raise UsageError(f"{path.name} has its own classes", todo="Leave --classes out")
        if path.suffix == ".onnx":
            return read_file(path, size), path.name, path.stat().st_size
        if path.suffix == ".safetensors":
            from distill import models

            module, spec = models.load(path)
            pre = spec.preprocess
            high, wide = size or (pre.height, pre.width)
            return read_graph(module, pre.channels, high, wide), path.name, None
        raise UsageError(
            f"{path.name} cannot be predicted: graphs are read of ONNX files",
            todo="Give the ONNX file of the same model, a model of ours (.safetensors) or a net's name",
        )
    if not _is_spec(model) and path.is_dir():
        raise UsageError(f"{model} is a folder", todo="Name an ONNX file, or a net such as timm:resnet18")
    from distill import models

    module = models.build(model, classes or 1000, 3)
    high, wide = size or _own_size(model, module)
    return read_graph(module, 3, high, wide), model, None


def _is_spec(model: str) -> bool:
    return model.partition(":")[0] in ("edgefit", "timm", "torchvision", "py")


def _own_size(model: str, module: Any) -> tuple[int, int]:
    """The size of the images that a net is meant for."""
    if model.startswith("edgefit:"):
        return OURS, OURS
    stated = (getattr(module, "default_cfg", None) or {}).get("input_size")
    if stated:
        return int(stated[1]), int(stated[2])
    side = 299 if "inception_v3" in model else SIDE
    return side, side


def choose_runtime(profile: Profile, precision: str) -> str:
    """The first runtime of a profile that was measured on the device in that precision; else the one measured on most others."""
    if profile.kind == "local":
        raise ConfigError(
            "This machine is here: there is nothing to predict",
            todo="Measure on it with bench measure or bench run",
        )
    from hardware_profiles.prediction.coefficients import group_of, stored
    from hardware_profiles.prediction.rates import named

    int8 = precision == "int8"
    known = [e["runtime"] for e in profile.calibration if (e["precision"] == "int8") == int8]
    measured = next((r for r in profile.runtimes if named(profile, r) in known), None)
    if measured is not None:
        return measured
    able = [r for r in profile.runtimes if not profile.refusal(r, precision)] or list(profile.runtimes)
    groups = stored()["groups"]

    def devices(runtime: str) -> int:
        return int(groups.get(group_of(named(profile, runtime), precision), {}).get("devices", 0))

    return max(able, key=devices)


def choose_threads(profile: Profile, runtime: str, precision: str) -> int:
    """The threads that were measured on the device with that runtime, as near to all its cores as there are; else 1."""
    int8 = precision == "int8"
    known = [
        e.get("threads", 1)
        for e in profile.calibration
        if e["runtime"] == runtime and (e["precision"] == "int8") == int8
    ]
    return max(known, default=max(profile.protocol.threads))


def setting_of(profile: Profile, cell: Cell) -> Setting:
    """What a cell of a run asks of a device."""
    from hardware_profiles.predict import Setting

    return Setting(cell.runtime, cell.precision, cell.batch, cell.threads)


def predict_cell(
    model: str,
    profile: Profile,
    setting: Setting,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    opened: Opened | None = None,
) -> Json:
    """One cell as a document: every quantity predicted, or missing with its reason. ``opened``: the model, where it was read."""
    from hardware_profiles.predict import check, predict

    setting = check(profile, setting)
    graph, name, file_size = opened or open_graph(model, size, classes)
    return cell_of(predict(graph, profile, setting), graph, name, file_size, profile, setting)


def cell_of(
    found: Prediction, graph: Graph, name: str, file_size: int | None, profile: Profile, setting: Setting
) -> Json:
    from hardware_profiles.prediction.features import BYTES

    counted = partial(Quantity, n=1, provenance="measured", method="counted in the graph, batch 1")
    size = graph.params * BYTES[setting.precision]
    stored = Quantity(size, "bytes", provenance="predicted", method="parameters alone")
    if file_size and not 0.8 < file_size / max(size, 1) < 1.6:
        file_size = None  # the file is of another precision
    quantities = metrics(found, setting) | {
        "size_bytes": Quantity(file_size, "bytes", n=1, provenance="measured", method="size of the file")
        if file_size
        else stored,
        "macs": counted(graph.macs, "macs"),
        "params": counted(graph.params, "params"),
    }
    return {
        "schema": SCHEMA,
        "model": name,
        "profile": profile.name,
        "device": profile.title,
        "runtime": setting.runtime,
        "precision": setting.precision,
        "batch": setting.batch,
        "threads": setting.threads,
        "power_mode": setting.mode or None,
        "status": "failed" if found.unfit else "ok",
        "reason": found.unfit,
        **{key: to_json(quantity) for key, quantity in quantities.items()},
        "calibrated": found.calibrated,
        "alike": found.alike,
        "bounds": found.bounds,
        "layers": to_json(found.layers),
        "advice": list(found.advice),
        "notes": list(found.notes),
        "environment": {"profile": profile.name, "predicted": True},
    }  # fmt: skip


def metrics(found: Prediction, setting: Setting) -> dict[str, Quantity]:
    """A prediction under the names that cells have."""
    if found.unfit:
        units = {"latency_ms": "ms", "throughput_ips": "images/s", "energy_mj": "mJ"}
        nothing = {name: Quantity.missing(found.unfit, unit) for name, unit in units.items()}
        return (
            nothing
            | {n: Quantity.missing(r, u) for n, (u, r) in ALWAYS_MISSING.items()}
            | {"memory_mb": found.memory_mb}
        )
    latency = found.latency_ms
    assert latency.value is not None and latency.low is not None and latency.high is not None
    images = 1000.0 * setting.batch
    throughput = Quantity(
        images / latency.value, "images/s", images / latency.high, images / latency.low, provenance="predicted",
        method=f"{latency.method}; one call after the other",
    )  # fmt: skip
    missing = {name: Quantity.missing(reason, unit) for name, (unit, reason) in ALWAYS_MISSING.items()}
    return {
        "latency_ms": latency,
        "throughput_ips": throughput,
        "memory_mb": found.memory_mb,
        "energy_mj": found.energy_mj,
    } | missing


def learn(run: RunData, name: str, output: Path | None, here: bool) -> tuple[Path, list[str]]:
    """Tighten a profile with a run's measured cells and write it; the file, and what changed in words.

    Cells of the profile's own host count; with ``here`` those of the machine that it ran on, which then is that device.

    Raises:
        UsageError: the run has nothing to learn from, or the file is somebody's own.
    """
    from hardware_profiles import load
    from hardware_profiles.prediction.learn import learn as fitted
    from hardware_profiles.prediction.write import MARK, replace, with_tables

    profile = load.load(name)
    target = output or Path(f"{profile.name}.calibrated.toml")
    if target.suffix != ".toml":
        raise UsageError(f"--output must end in .toml, not {target.name!r}")
    ours = target.is_file() and MARK in target.read_text(encoding="utf-8", errors="replace")
    if target.exists() and not (ours and output):
        raise UsageError(
            f"{target} is already there", todo="Name it with --output to write it anew, or another"
        )
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {target.parent}")
    measured, graphs = _measured(run, "local" if here else profile.name)
    tables, lines = fitted(profile, measured, graphs)
    own = Path(name) if name.endswith(".toml") or "/" in name else load.FOLDER / f"{profile.name}.toml"
    text = with_tables(own.read_text(encoding="utf-8"), tables, list(profile.power))
    load.from_document(load.parse_toml(text), str(target), text)
    replace(target, text)
    return target, lines


def _measured(run: RunData, host: str) -> tuple[list[Measured], dict[str, Graph]]:
    """The measured latencies of a host's cells, and the graphs of their files by name."""
    from hardware_profiles.predict import read_graph
    from hardware_profiles.prediction.learn import Measured

    cells = [c for c in run.cells if (c["metrics"].get("latency_ms") or {}).get("provenance") == "measured"]
    rows, graphs = [], {}
    for record in [c for c in cells if c["cell"]["host"] == host]:
        cell, variant = record["cell"], record["cell"]["variant"]
        source = _graph_file(run, variant)
        if source is None:
            continue
        if variant not in graphs:
            graphs[variant] = read_graph(source)
        ms = record["metrics"]["latency_ms"]["value"]
        rows.append(Measured(variant, cell["runtime"], cell["precision"], cell["batch"], cell["threads"], ms))
    if not rows:
        raise UsageError(
            f"{run.path} has no latency that was measured on {host}, with an ONNX file to learn from",
            todo="Measure there first (bench run --host ...), or say --this-machine if the run was made on that device",
        )
    return rows, graphs


def _graph_file(run: RunData, variant: str) -> Path | None:
    """An ONNX file of a variant, whatever runtime it was made for."""
    for record in run.artifacts.values():
        if (
            record["variant"] == variant
            and record["status"] == "ok"
            and record["artifact"]["format"] == "onnx"
        ):
            return run.object_path(record["artifact"]["sha256"])
    return None
