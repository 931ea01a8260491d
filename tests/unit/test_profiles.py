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


BUILT_IN = [p for p in load.every() if p.name != "local"]


@pytest.mark.parametrize("profile", BUILT_IN, ids=lambda p: p.name)
def test_a_built_in_profile_contradicts_itself_nowhere(profile):
    facts = {key: fact.value for key, fact in profile.facts.items()}
    for precision, rate in (("fp16", "peak_fp16_tflops"), ("int8", "peak_int8_tops_dense")):
        assert rate not in facts or precision in profile.precisions
    if "compute_capability" in facts:
        capability = float(facts["compute_capability"])
        for precision, least in (("tf32", 8.0), ("bf16", 8.0), ("fp8", 8.9)):
            assert (precision in profile.precisions) <= (capability >= least)
            assert (precision in profile.unsupported) == (capability < least)
    for mode in profile.power_modes:
        assert mode["cpu_cores"] <= facts["cpu_cores"]
        assert mode.get("gpu_tpcs", 0) <= facts.get("gpu_tpcs", 0)
        assert mode.get("gpu_mhz", 0) <= facts["gpu_clock_mhz"] * 1.001
    assert profile.host == ("adb" if profile.kind == "phone" else "ssh")
    assert len({mode["id"] for mode in profile.power_modes}) == len(profile.power_modes)
    assert not profile.refusal(profile.runtimes[0], profile.precisions[0])


@pytest.mark.parametrize(
    ("name", "runtime", "precision", "version", "why"),
    [
        ("jetson-nano", "tensorrt", "int8", "", "no INT8 dot product"),
        ("jetson-tx2", "tensorrt", "int8", "", "6.2"),
        ("jetson-xavier", "tensorrt", "bf16", "", "8.0 (Ampere)"),
        ("jetson-xavier", "tensorrt", "int8", "11.0.0.2", "Volta"),
        ("jetson-nano", "tensorrt", "fp16", "10.3", "Maxwell"),
        ("raspberry-pi-4", "litert", "fp16", "", "half-precision"),
        ("coral", "litert", "fp32", "", "INT8 only"),
        ("xeon-gold-6226", "openvino", "fp8", "", "no fp8 support"),
    ],
)
def test_what_a_device_cannot_do_is_refused_with_the_reason(name, runtime, precision, version, why):
    assert why in load.load(name).refusal(runtime, precision, version)


@pytest.mark.parametrize(
    ("name", "runtime", "precision", "version"),
    [
        ("jetson-xavier", "tensorrt", "int8", ""),
        ("jetson-xavier", "tensorrt", "int8", "8.5.2"),
        ("jetson-nano", "tensorrt", "fp16", "8.2.1"),
        ("l4", "tensorrt", "fp8", "11.0"),
        ("raspberry-pi-4", "onnxruntime", "int8", ""),
    ],
)
def test_what_a_device_can_do_is_not_refused(name, runtime, precision, version):
    assert load.load(name).refusal(runtime, precision, version) == ""


def test_the_scheme_follows_the_processors_dot_products():
    schemes = {p.name: p.int8_scheme for p in BUILT_IN}
    assert schemes["epyc-7742"] == schemes["xeon-silver-4114"] == "u8s8-7bit"  # no VNNI: 16-bit sums saturate
    assert schemes["xeon-gold-6226"] == schemes["raspberry-pi-5"] == "u8s8"
    assert {p.int8_scheme for p in BUILT_IN if p.kind.endswith("gpu")} == {"s8s8"}


def test_a_power_mode_says_how_much_of_the_gpu_it_leaves():
    modes = {m["name"]: m for m in load.load("jetson-orin-nano").power_modes}
    assert modes["7W"]["gpu_tpcs"] == 2 and modes["7W"]["gpu_mhz"] == 408 and modes["15W"]["gpu_tpcs"] == 4


def test_a_disputed_figure_names_both():
    fact = load.load("l4").facts["peak_int8_tops_dense"]
    assert fact.value == 242 and "250.7" in fact.note


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
        (('name = "mine"', 'name = "local"'), "that is this machine"),
        (('name = "mine"', 'name = "../mine"'), "name must be a string of letters"),
        (('source = "sheet"', 'source = "shet"'), "Did you mean sheet"),
        (("[facts]", "[unsupported]\nint8 = 'why'\n[facts]"), "unsupported.int8 is also in precisions"),
        (("[facts]", "[unsupported]\nint7 = 'why'\n[facts]"), "unsupported.int7 is no precision"),
        (('"My board"', '"My board"\nhost = "telnet://x"'), "host must be ssh, adb"),
        (('"My board"', '"My board"\naliases = ["mine"]'), "aliases has the name itself"),
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
