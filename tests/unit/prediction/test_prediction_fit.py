"""The fit finds what made the data, shares it between devices, and never sees what it is judged on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.types import Profile
from hardware_profiles import load
from hardware_profiles.prediction import (
    calibrate,
    coefficients,
    evaluate,
    fit,
    learn,
    published,
    rates,
    write,
    zoo,
)
from hardware_profiles.prediction.features import TERMS
from hardware_profiles.prediction.fit import Sample
from hardware_profiles.prediction.graph import CONV, Graph, Op
from hardware_profiles.prediction.kinds import KINDS
from hardware_profiles.prediction.published import Row, Series

KIND = KINDS["cpu"]
RNG = np.random.default_rng(1)


def made_sample(
    rows: int, shift: float = 0.0, seed: int = 0, offset: float = 0.0
) -> tuple[Sample, np.ndarray]:
    """A series whose times follow coefficients that lie ``shift`` above the kind's start."""
    rng = np.random.default_rng(seed)
    have = [t not in KIND.absent for t in TERMS]
    theta = np.log([KIND.start.get(t, 1.0) for t in TERMS]) + shift + offset
    amounts = np.exp(rng.normal(-3, 1.5, (rows, len(TERMS)))) * have
    ms = amounts @ np.exp(theta)
    sample = Sample(
        "made-float",
        "cpu",
        amounts,
        np.log(ms),
        np.ones((rows, 1)),
        np.ones(rows),
        np.full(len(TERMS), offset),
    )
    return sample, theta


def test_many_rows_are_predicted_as_they_were_made():
    sample, _ = made_sample(60, shift=0.7)
    fitted = fit.fit({"a": sample}, KINDS).series["a"]
    error = fit.log_predictions(fitted.theta, sample.amounts) - sample.log_ms
    assert np.median(np.abs(error)) < 0.03


def test_a_device_without_rows_gets_what_its_runtime_needs_elsewhere():
    samples = {str(i): made_sample(30, shift=0.5, seed=i, offset=-float(i))[0] for i in range(4)}
    result = fit.fit(samples, KINDS)
    unseen, _ = made_sample(30, shift=0.5, seed=9, offset=-7.0)
    there = result.groups["made-float"] + unseen.offset
    error = fit.log_predictions(there, unseen.amounts) - unseen.log_ms
    assert np.median(np.abs(error)) < 0.15


def test_fewer_rows_leave_a_wider_interval():
    def spread(rows: int) -> float:
        sample, _ = made_sample(rows)
        fitted = fit.fit({"a": sample}, KINDS).series["a"]
        return float(np.diag(fitted.covariance).sum())

    assert spread(2) > spread(10) > spread(60)


def test_one_wild_row_does_not_move_the_others():
    clean, _ = made_sample(40)
    wild = replace(clean, log_ms=clean.log_ms + np.where(np.arange(40) == 7, 3.0, 0.0))
    one, other = (fit.fit({"a": s}, KINDS).series["a"].theta for s in (clean, wild))
    moved = np.abs(fit.log_predictions(one, clean.amounts) - fit.log_predictions(other, clean.amounts))
    assert np.median(moved) < 0.05


def test_the_same_rows_give_the_same_figures():
    samples = {str(i): made_sample(12, seed=i)[0] for i in range(3)}
    one, other = fit.fit(samples, KINDS), fit.fit(dict(reversed(samples.items())), KINDS)
    assert all((one.series[k].theta == other.series[k].theta).all() for k in samples)


# --- folds


def net(name: str, width: int) -> Graph:
    ops = []
    for i in range(6):
        pixels = 56 * 56 // 4 ** (i // 2)
        kernel = 3 if (i + len(name)) % 2 else 1
        ops.append(Op(str(i), CONV, "c", width * pixels, width * pixels, pixels * width * width * kernel**2,
                      width * width * kernel**2, width, width, pixels, (kernel, kernel), 1, 1))  # fmt: skip
    return Graph(tuple(ops), 3 * 224 * 224, 1000)


NETS = {
    name: net(name, width)
    for name, width in (("resnet18", 64), ("vgg11", 96), ("squeezenet1_1", 32), ("mobilenet_v2_1.0", 24), ("shufflenet", 40),
                        ("googlenet", 72))
}  # fmt: skip


def made_rows(poison: str = "", factor: float = 1.0) -> list[Row]:
    """Every net on two boards; the times of one net can be made wrong."""
    rows = []
    for board, speed in (("raspberry-pi-4", 14.0), ("raspberry-pi-3b+", 11.0)):
        for i, (name, graph) in enumerate(NETS.items()):
            ms = (graph.macs / 1e9 / speed * 1000 + 2.0) * (factor if name == poison else 1.0)
            source = "one" if i % 2 else "other"
            rows.append(Row(Series(board, "ncnn", "fp32", 1), "v1", name, 224, 1, ms, source))
    return rows


GRAPHS = {(name, 224): graph for name, graph in NETS.items()}


@pytest.mark.parametrize("by", ["family", "source", "device"])
def test_a_row_is_judged_by_a_fit_that_has_not_seen_its_fold(by):
    """What is left out may be as wrong as it likes: its prediction stays the same."""
    found = []
    for factor in (1.0, 50.0):
        table = calibrate.series_of(made_rows("vgg11", factor), GRAPHS)
        held = evaluate.hold_out(table, calibrate.Maker(GRAPHS), by)
        found.append(
            {(str(h.series), e.model): p for h in held for e, p in zip(h.entries, h.predicted, strict=True)}
        )
    same = [key for key in found[0] if key[1] == "vgg11"]
    if by == "device":  # the other board's row is wrong too, and may be seen
        assert len(same) == 2
        return
    assert same and all(found[0][key] == found[1][key] for key in same)
    assert any(found[0][key] != found[1][key] for key in found[0] if key[1] != "vgg11"), (
        "the fold is seen by others"
    )


def test_predictions_of_left_out_families_are_near_where_the_data_are_regular():
    table = calibrate.series_of(made_rows(), GRAPHS)
    held = evaluate.hold_out(table, calibrate.Maker(GRAPHS), "family")
    rows = [evaluate.figures(h, evaluate.inside(held)[h.series]) for h in held]
    assert len(rows) == 2 and evaluate.summary(rows)["mape"] < 0.25
    assert all(r["macs"]["mape"] is not None for r in rows)


def test_what_the_errors_of_a_device_have_in_common_does_not_widen_ratios():
    table = calibrate.series_of(made_rows(), GRAPHS)
    held = evaluate.hold_out(table, calibrate.Maker(GRAPHS), "device")
    before = evaluate.ratios(held)["cpu"]
    for h in held:
        h.error += 1.0  # the whole device is 2.7 times slower than its facts say
    assert evaluate.ratios(held)["cpu"] == pytest.approx(before)
    assert evaluate.quantiles(held)["cpu"] > evaluate.ratios(held)["cpu"]


def test_intervals_of_left_out_folds_hold_most_rows_of_noisy_data():
    rng = np.random.default_rng(3)
    noisy = [replace(r, ms=r.ms * float(np.exp(rng.normal(0, 0.2)))) for r in made_rows()]
    held = evaluate.hold_out(calibrate.series_of(noisy, GRAPHS), calibrate.Maker(GRAPHS), "family")
    hits = np.concatenate([evaluate.inside(held)[h.series] for h in held])
    assert len(hits) == 12 and hits.mean() >= 0.75


def test_repetitions_count_once_and_versions_apart():
    rows = made_rows()
    again = [replace(r, ms=3 * r.ms) for r in rows]
    newer = [replace(r, version="v2", ms=0.5 * r.ms) for r in rows]
    table = calibrate.series_of([*rows, *again, *again, *newer], GRAPHS)
    entries = next(iter(table.values()))
    assert len(entries) == 2 * len(NETS)
    first = next(e for e in entries if e.version == "v1" and e.model == "vgg11")
    assert first.ms == pytest.approx(3 * next(r.ms for r in rows if r.model == "vgg11"))


# --- published rows


def test_every_published_latency_is_used_or_counted_with_a_reason():
    wanted = sum(e["metric"] in ("latency_ms", "throughput_ips") for e in published.entries())
    rows, left = published.read()
    assert len(rows) + sum(left.values()) == wanted
    assert len(rows) > 3000 and all(row.ms > 0 for row in rows)
    assert all(calibrate.device(row.series.device) for row in rows)


def entry(**changes: str) -> dict[str, str]:
    plain = {
        "device": "x", "device_profile": "raspberry-pi-4", "power_mode": "", "model": "resnet18", "input_size": "224.0", "batch": "1",
        "precision": "fp32", "runtime": "ncnn-cpu-4t", "metric": "latency_ms", "value": "10", "source": "a/b@c d", "notes": "",
        "canonical_model": "resnet18",
    }  # fmt: skip
    return plain | changes


def test_a_table_that_is_written_reads_back(tmp_path):
    some = published.entries()[:50]
    published.write_entries(some, tmp_path / "t.xz")
    assert published.entries(tmp_path / "t.xz") == some
    with pytest.raises(ValueError, match="tab"):
        published.write_entries([{**some[0], "notes": "a\tb"}, some[1]], tmp_path / "u.xz")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("ncnn", "fp32", 4)),
        ({"precision": "float(ncnn default: fp16 where hw has it)"}, ("ncnn", "fp32", 4)),
        ({"precision": "float(ncnn default)", "device_profile": "jetson-agx-orin-cpu"}, ("ncnn", "fp16", 4)),
        ({"runtime": "tflite", "precision": "fp16"}, ("litert", "fp32", 0)),
        ({"runtime": "TFLite v1.15.0-rc2"}, ("litert-1", "fp32", 1)),
        ({"runtime": "JetPack 4.6, TensorRT 8.0.1", "device_profile": "jetson-agx-xavier", "precision": "int8"},
         ("tensorrt", "int8", 1)),
        ({"runtime": "qnn_dlc", "precision": "w8a8", "device_profile": "galaxy-s24"}, ("qnn", "int8", 1)),
    ],
)  # fmt: skip
def test_published_names_become_ours(changes, expected):
    rows, left = published.rows_of([entry(**changes)])
    assert not left
    series = rows[0].series
    assert (series.runtime, series.precision, series.threads) == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": "offline"}, "batch is offline"),
        ({"input_size": ""}, "input size"),
        ({"precision": ""}, "precision is not stated"),
        ({"notes": "p50=100.0; min=40.0"}, "median run took 2 times"),
        ({"notes": "layers npu/gpu/cpu=10/0/3;"}, "another processor"),
        ({"runtime": "ncnn-vulkan", "canonical_model": "vision_transformer"}, "another processor"),
    ],
)
def test_rows_that_say_nothing_are_left_out_with_the_reason(changes, reason):
    rows, left = published.rows_of([entry(**changes)])
    assert not rows and reason in next(iter(left))


def test_throughput_becomes_the_time_of_a_call():
    rows, _ = published.rows_of([entry(metric="throughput_ips", value="500", batch="8")])
    assert rows[0].ms == pytest.approx(16.0) and rows[0].batch == 8


@pytest.mark.parametrize(
    ("name", "size", "gmacs"),
    [
        ("mobilenet_v1_1.0", 224, 0.569), ("mobilenet_v1_0.25", 128, 0.014), ("mobilenet_v2_1.4", 224, 0.582),
        ("proxylessnas_gpu?", 224, 0.33), ("alexnet", 227, 0.7291), ("alexnet", 224, 0.71), ("resnet50", 224, 4.11), ("squeezenet1_1", 224, 0.35),
        ("timm:mobilenetv3_small_100", 224, 0.06), ("shufflenet_v2_x0_5", 224, 0.04),
    ],
)  # fmt: skip
def test_rebuilt_nets_have_the_published_work(name, size, gmacs):
    from hardware_profiles.prediction import read_torch

    graph = read_torch.read(zoo.build(name, size), 3, size, size)
    assert graph.macs / 1e9 == pytest.approx(gmacs, rel=0.06)


def test_what_nobody_can_rebuild_is_none():
    assert zoo.build("resnet50@structured-pruned-0.5") is None and zoo.build("gpunet") is None


def test_families_keep_relatives_together_and_strangers_apart():
    assert zoo.family("timm:mobilenetv2_100") == zoo.family("mobilenet_v2_0.35") == "mobilenet_v2"
    assert zoo.family("resnext50_32x4d") == zoo.family("seresnext101_32x4d") != zoo.family("resnet50")
    assert zoo.family("timm:regnety_004") != zoo.family("densenet121") != zoo.family("resnet18")


# --- what devices can do


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4x Cortex-A72 1.5GHz (1.8GHz newer)", [(4, 4)]),
        ("1x A76 2.84 + 3x A76 2.42 + 4x A55 1.78GHz", [(1, 8), (3, 8), (4, 4)]),
        ("2x Denver2 + 4x A57 2.0GHz", [(2, 8), (4, 4)]),
        ("8x NVIDIA Carmel ARMv8.2 2.2656GHz, 8MB L2", [(8, 8)]),
        ("host CPU", []),
    ],
)
def test_cores_are_read_from_their_description(text, expected):
    assert [(c.count, c.lanes) for c in rates.clusters(text)] == expected


@given(st.text(max_size=60))
def test_any_description_of_cores_is_read_or_ignored(text):
    assert all(c.count >= 0 and 0 < c.ghz < 7 for c in rates.clusters(text))


def test_a_slower_power_mode_has_lower_rates():
    xavier = load.load("jetson-xavier")
    full, ten = (rates.rates(xavier, "tensorrt", "fp16", 1, mode) for mode in ("", "MODE_10W"))
    assert (
        full
        and ten
        and ten.gmacs == pytest.approx(full.gmacs * 520 / 1377 / 2, rel=0.01)
        and ten.gbs < full.gbs
    )
    assert (
        rates.rates(xavier, "litert", "fp32", 8, "MODE_10W").gmacs
        < rates.rates(xavier, "litert", "fp32", 8).gmacs / 4
    )


@pytest.mark.parametrize(
    ("board", "mode", "share"),
    [("jetson-agx-xavier", "MODE_30W_ALL", 1600 / 2133), ("jetson-agx-orin-32gb", "MODE_15W", 2133 / 3200)],
)
def test_a_mode_with_a_slower_memory_clock_has_its_share_of_the_bandwidth(board, mode, share):
    """The clock of the mode that holds nothing back is not listed: it follows from the bandwidth and the bus."""
    profile = load.load(board)
    full, slow = (rates.rates(profile, "tensorrt", "fp16", 1, m).gbs for m in ("", mode))
    assert slow / full == pytest.approx(share, rel=0.01)


def test_more_threads_help_less_than_in_proportion():
    pi = load.load("raspberry-pi-4")
    one, four = (rates.rates(pi, "ncnn", "fp32", n).gmacs for n in (1, 4))
    assert one * 2 < four < one * 4


def test_a_profile_without_facts_is_told_what_is_missing():
    bare = Profile("bare", "bare", "edge-gpu", ("tensorrt",))
    with pytest.raises(ConfigError, match="peak_fp32_tflops"):
        coefficients.find(bare, "tensorrt", "fp32")


# --- what is stored


def test_a_profile_keeps_its_text_when_its_tables_are_written_anew():
    own = (load.FOLDER / "raspberry-pi-4.toml").read_text()
    profile = load.load("raspberry-pi-4")
    again = write.with_tables(own, list(profile.calibration), list(profile.power))
    assert again == own
    bare = own.partition(f"\n{write.MARK}")[0]
    assert write.with_tables(bare, list(profile.calibration), list(profile.power)).startswith(bare)


def test_own_measurements_pull_the_prediction_to_themselves_and_narrow_it():
    profile = load.load("raspberry-pi-5")
    names = list(NETS)
    truth = {n: NETS[n].macs / 1e9 * 25.0 + 4.0 for n in names}
    measured = [learn.Measured(n, "onnxruntime", "fp32", 1, 4, truth[n]) for n in names[:4]]
    tables, lines = learn.learn(profile, measured, NETS)
    assert len(tables) == len(profile.calibration) + 1 and "4 measured" in lines[0]
    taught = replace(profile, calibration=tuple(tables))
    before, after = (coefficients.find(p, "onnxruntime", "fp32", 4) for p in (profile, taught))
    assert after.calibrated and not before.calibrated
    from hardware_profiles.predict import Setting, predict

    for name in names[4:]:
        old, new = (
            predict(NETS[name], p, Setting("onnxruntime", "fp32", threads=4)).latency_ms
            for p in (profile, taught)
        )
        assert abs(np.log(new.value / truth[name])) < abs(np.log(old.value / truth[name]))
        assert new.high / new.low < old.high / old.low


def test_powers_of_whole_servers_are_not_those_of_a_card():
    rows = [entry(metric="power_w", value="600", device_profile="l4", runtime="TensorRT 8.6.0", precision="int8"),
            entry(metric="power_w", value="6.0", runtime="TFLite v2.7.1 (ruy)"),
            entry(metric="power_w", value="7.0", runtime="TFLite v2.7.1 (ruy)")]  # fmt: skip
    found = calibrate.powers(rows)
    assert set(found) == {"raspberry-pi-4"}
    assert found["raspberry-pi-4"][0]["watts"] == 6.5 and found["raspberry-pi-4"][0]["rows"] == 2
