"""Profiles: every built-in one is valid, and a person's own file is checked with clear words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError
from hardware_profiles import load

VALID = """
schema = 1
name = "mine"
title = "My board"
kind = "edge-gpu"
runtimes = ["tensorrt"]
precisions = ["fp32", "int8"]
int8_scheme = "s8s8"
[sources]
sheet = "the data sheet"
[facts]
memory_gb = { value = 8, source = "sheet" }
[protocol]
batches = [1, 4]
"""


def _file(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", list(load.names()))
def test_built_in_profiles_are_valid_and_every_fact_has_a_source(name):
    profile = load.load(name)
    assert profile.name == name and profile.runtimes and profile.precisions
    assert all(len(f.source) > 10 for f in profile.facts.values())
    assert name == "local" or profile.facts["memory_bw_gbs"].value > 0


def test_the_profiles_people_ask_for_are_there():
    names = load.names()
    assert {"jetson-agx-xavier", "jetson-orin-nano", "raspberry-pi-5", "coral-edgetpu-usb", "t4"} <= set(
        names
    )
    assert load.load("jetson-xavier") == load.load("jetson-agx-xavier")
    # a class of device means one of its devices, so that a report names what its figures are of
    assert load.load("pixel").name == "pixel-4" and load.load("server-gpu").name == "l4"
    every = [*names, *(a for aliases in names.values() for a in aliases)]
    assert len(set(every)) == len(every) >= 60


def test_xavier_facts_are_the_published_ones():
    profile = load.load("jetson-xavier")
    assert profile.facts["peak_int8_tops_dense"].value == 22.6
    assert {m["name"] for m in profile.power_modes} >= {"MAXN", "MODE_10W", "MODE_30W_ALL"}


def test_a_profile_of_ones_own(tmp_path):
    profile = load.load(str(_file(tmp_path, VALID)))
    assert profile.facts["memory_gb"].source == "the data sheet"
    assert profile.protocol.batches == (1, 4) and profile.int8_scheme == "s8s8"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind =", "knid ="), "Did you mean kind"),
        (('"edge-gpu"', '"toaster"'), "known: local, edge-gpu"),
        (("value = 8", "value = -8"), "must be above 0"),
        (("value = 8, source", "value = 8, sauce"), "needs value and source"),
        (("batches = [1, 4]", "batches = 4"), "list of positive numbers"),
        (("batches", "badges"), "Did you mean batches"),
        (("schema = 1", "schema = 7"), "schema 7 is not known"),
        (('runtimes = ["tensorrt"]', "runtimes = []"), "runtimes is empty"),
        (('name = "mine"', "name = 3"), "name must be a str"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=r"mine\.toml") as caught:
        load.validate(_file(tmp_path, VALID.replace(*change)))
    assert message in str(caught.value)


def test_malformed_toml_says_the_line(tmp_path):
    with pytest.raises(ConfigError, match="line 3"):
        load.validate(_file(tmp_path, 'schema = 1\nname = "x"\nkind = = 2\n'))


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ConfigError, match="jetson-xavier"):
        load.load("jetson-xaver")


def test_hostile_nesting_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError):
        load.validate(_file(tmp_path, "a = " + "[" * 100_000))


@given(st.text(max_size=200))
def test_any_text_is_either_valid_or_a_config_error(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("p") / "x.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError):
        load.validate(path)
