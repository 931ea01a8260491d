"""`bench profiles evaluate` and `calibrate` on a small table: what they answer, and that nothing is written where nothing changed."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from bench import errors
from bench.cli import cli
from hardware_profiles import load
from hardware_profiles.prediction import coefficients, published, write

NETS = ("mobilenet_v1_0.25", "mobilenet_v2_0.35", "shufflenet_v2_x1_0", "squeezenet1_1")
DEVICES = ("raspberry-pi-4", "raspberry-pi-3b+", "raspberry-pi-zero2w", "pixel-2-xl")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The published rows of four small nets with ncnn and TFLite on four devices, and all of the power of a Raspberry Pi."""
    path = tmp_path_factory.mktemp("published") / "small.columns.xz"
    rows = [r for r in published.entries() if r["device_profile"] in DEVICES]
    sizes = {"128.0", "96.0", "224.0", "227.0"}
    kept = [
        r for r in rows
        if r["metric"] in ("power_w", "energy_j")
        or (r["canonical_model"] in NETS and r["input_size"] in sizes and "ncnn" in r["runtime"])
        or (r["canonical_model"] in NETS and r["input_size"] in sizes and r["runtime"] == "TFLite v2.7.1 (ruy)")
    ]  # fmt: skip
    published.write_entries(kept, path)
    return path


def run(*arguments: str):
    return CliRunner().invoke(cli, ["profiles", *arguments])


def test_evaluation_has_figures_for_every_series_and_both_baselines(table, monkeypatch):
    monkeypatch.setattr(published, "FILE", table)
    done = run("evaluate", "--by", "family", "--by", "device", "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["folds"]) == {"family", "device"} and found["rows"] > 30
    for part in found["folds"].values():
        for row in part["series"]:
            assert (
                row["mape"] >= 0
                and 0 <= row["coverage"] <= 1
                and 0 <= row["within_10"] <= row["within_20"] <= 1
            )
            assert (
                row["macs_activations_parameters"]["mape"] is None
                or row["macs_activations_parameters"]["mape"] >= 0
            )
        assert part["all"]["rows"] == sum(r["rows"] for r in part["series"])
        assert len(part["worst"]) == 3
    energy = found["energy"]
    assert energy["rows"] >= 3 and 0 < energy["power_mape"] < 0.5 and energy["median_ape"] < 1
    assert set(found["transfer"]) == {"rows", "correlation", "mape", "mape_corrected"}


def test_the_tables_for_people_have_a_row_a_runtime(table, monkeypatch):
    monkeypatch.setattr(published, "FILE", table)
    done = run("evaluate", "--by", "family", "--format", "md")
    assert done.exit_code == 0 and "| ncnn, float |" in done.output and "**all series**" in done.output
    text = run("evaluate", "--by", "family")
    assert "left out together: everything of one family" in text.output and "worst:" in text.output


def test_calibrating_twice_writes_once(table, monkeypatch, tmp_path):
    """The profiles of a copy, so that those of this installation stay as they are."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    for path in load.FOLDER.glob("*.toml"):
        shutil.copy(path, folder)
    monkeypatch.setattr(published, "FILE", table)
    monkeypatch.setattr(load, "FOLDER", folder)
    monkeypatch.setattr(write, "FILE", tmp_path / "runtimes.toml")
    before = (folder / "raspberry-pi-4.toml").read_text()
    done = run("calibrate", "--check")
    assert "would change" in done.output and (folder / "raspberry-pi-4.toml").read_text() == before
    assert run("calibrate").exit_code == 0
    after = (folder / "raspberry-pi-4.toml").read_text()
    assert after != before and after.partition(write.MARK)[0] == before.partition(write.MARK)[0]
    profile = load.validate(folder / "raspberry-pi-4.toml")
    assert {"ncnn", "litert"} <= {t["runtime"] for t in profile.calibration} and profile.power
    again = run("calibrate")
    assert again.exit_code == 0 and "nothing changed" in again.output
    assert "[kinds.cpu]" in (tmp_path / "runtimes.toml").read_text()


def test_what_is_stored_is_what_the_published_rows_give():
    """Every table cites its sources and has the terms of its kind; every runtime has a width for its intervals."""
    stored = coefficients.stored()
    assert set(stored["kinds"]) == {"cpu", "gpu", "npu"}
    for name, part in stored["kinds"].items():
        assert part["interval"] > 0 and part["interval_calibrated"] > 0 and part["ratio"] > 0, name
    tables = [(p.name, t) for p in load.every() for t in p.calibration]
    assert len(tables) > 100
    for name, entry in tables:
        assert (
            entry["sources"] and entry["rows"] >= 1 and set(entry["coefficients"]) == set(entry["deviations"])
        ), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "--profile", "raspberry-pi-4"), "are for --from"),
        (("calibrate", "--from", "nothing-here"), "Whose measurements"),
        (("calibrate", "--from", "nothing-here", "--profile", "raspberry-pi-4", "--check"), "--check is for"),
    ],
)
def test_half_a_command_is_told_what_is_missing(arguments, words):
    done = run(*arguments)
    assert isinstance(done.exception, errors.UsageError) and words in str(done.exception)
