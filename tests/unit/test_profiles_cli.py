"""`bench profiles`: list, show, validate, new, as a person meets them."""

from __future__ import annotations

import json

import click.testing
import pytest

from bench.cli import cli
from bench.errors import UsageError
from hardware_profiles import load


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        return click.testing.CliRunner().invoke(cli, ["profiles", *arguments], standalone_mode=False)

    return run


def _error(result) -> str:
    assert isinstance(result.exception, UsageError) and result.exception.exit_code == 2, result.output
    return str(result.exception)


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_the_list_has_every_profile_under_its_kind_within_80_columns(bench, arguments):
    lines = bench(*arguments).output.splitlines()
    assert max(map(len, lines)) <= 80
    first = [line.split()[0] for line in lines if line.startswith(" ") and line[1] != " "]
    assert set(load.names()) <= set(first)
    where = {line.split()[0]: i for i, line in enumerate(lines) if line}
    assert lines.index("phones") < where["pixel-4"] < lines.index("server and desktop GPUs") < where["l4"]
    (xavier,) = (line for line in lines if line.startswith(" jetson-agx-xavier"))
    assert xavier.split()[-4:] == ["32", "136.5", "22.6", "30"]
    assert "jetson-xavier" in " ".join(lines)  # what people type is found too


def test_the_list_as_json_is_one_document(bench):
    document = json.loads(bench("list", "--json").output)
    found = {p["name"]: p for p in document["profiles"]}
    assert document["schema"] == 1 and set(found) == set(load.names())
    assert found["pixel-4"]["aliases"] == ["pixel"] and found["pixel-4"]["host"] == "adb"
    assert found["raspberry-pi-5"]["facts"]["memory_gb"] == [4, 8, 16]
    assert "MAXN" in found["jetson-agx-xavier"]["power_modes"]


def test_a_profile_is_shown_with_sources_modes_and_what_it_cannot_do(bench):
    shown = bench("show", "jetson-nano").output
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "reached by ssh" in words and "cpu-gpu.alldbin.com" in words
    assert "tensorrt-int8: compute capability 5.3 has no INT8" in words
    assert " 5W 1 2 918 640 1600" in words and "MAXN 0 4 max" in words


def test_show_as_json_has_facts_with_note_and_source(bench):
    shown = json.loads(bench("show", "server-gpu", "--json").output)
    fact = shown["facts"]["peak_int8_tops_dense"]
    assert shown["name"] == "l4" and fact["value"] == 242 and "hmc-tech" in fact["source"] and fact["note"]


def test_a_file_with_markup_is_shown_as_it_is(bench, tmp_path):
    text = 'schema = 1\nname = "mine"\ntitle = "[/bold] [red]"\nkind = "phone"\nruntimes = ["litert"]\nprecisions = ["fp32"]\n'
    (tmp_path / "mine.toml").write_text(text + "[facts]\nmemory_gb = { value = '[/x]', source = '[/y] z' }\n")
    shown = bench("show", "mine.toml").output
    assert "[/bold] [red]" in shown and "[/x]" in shown and "[/y] z" in shown


def test_validate_says_everything_of_every_file_and_ends_with_2(bench, tmp_path):
    good = load.FOLDER / "l4.toml"
    (tmp_path / "bad.toml").write_text('schema = 1\nname = "b"\nknid = "phone"\nruntimes = ["litret"]\n')
    (tmp_path / "worse.toml").write_text("schema = = 1\n")
    result = bench("validate", "bad.toml", str(good), "worse.toml", "none.toml")
    assert result.return_value == 2 and result.stdout.startswith(f"{good}: a valid profile")
    said = result.stderr
    assert "line 3: knid is not a known key. Did you mean kind?" in said
    assert "line 4: runtimes[0] has 'litret'" in said and "precisions" in said
    assert "worse.toml is not valid TOML" in said and "line 1" in said
    assert "no file none.toml" in said and "3 of 4 files are not valid" in said
    assert bench("validate", str(good)).return_value == 0


def test_new_drafts_this_machine_and_overwrites_nothing(bench, tmp_path):
    result = bench("new", "my-box", "--from-local")
    assert result.return_value == 0 and "my-box.toml" in result.stderr
    assert load.load("my-box.toml").facts["cpu_cores"].value >= 1
    (tmp_path / "my-box.toml").write_text("kept")
    assert "already there" in _error(bench("new", "my-box", "--from-local"))
    assert (tmp_path / "my-box.toml").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new", "box"), "--from-local"),
        (("new", "../box", "--from-local"), "is no name for a profile"),
        (("new", "a\x1bb", "--from-local"), "is no name for a profile"),
        (("new", "local", "--from-local"), "is a built-in profile"),
        (("new", "Pixel", "--from-local"), "is a built-in profile"),
        (("show", "pixle"), "Did you mean pixel"),
        (("show", "x" * 400 + ".toml"), "x.toml"),
        (("show", "a\0b.toml"), ".toml"),
    ],
)
def test_mistakes_end_with_2_and_leave_nothing(bench, tmp_path, arguments, message):
    assert message in _error(bench(*arguments))
    assert list(tmp_path.iterdir()) == []
