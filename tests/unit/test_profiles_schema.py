"""What a profile may hold: our own checks agree with schema.json, and no file of any content is a traceback."""

from __future__ import annotations

import copy
import json
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from hardware_profiles import check, load

SCHEMA = json.loads((load.FOLDER / "schema.json").read_text())
# TOML tells 8 from 8.0, JSON does not
CHECKER = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=CHECKER)(SCHEMA)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9.+-]{0,10}", fullmatch=True).filter(lambda name: name != "local")
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zl", "Zp")), min_size=1).map(
    lambda text: text + "."  # never a short name
)
NUMBERS = st.integers(1, 10**6) | st.floats(1e-6, 1e12)
SOURCES = WORDS | st.just("sheet") | st.lists(WORDS | st.just("sheet"), min_size=1, max_size=3)
FACTS = st.fixed_dictionaries(
    {"value": NUMBERS | WORDS | st.booleans() | st.lists(NUMBERS | WORDS, min_size=1, max_size=3), "source": SOURCES},
    optional={"confidence": st.sampled_from(check.CONFIDENCES), "note": WORDS},
)  # fmt: skip
MODES = st.fixed_dictionaries(
    {"name": WORDS.map(lambda name: name[:60]), "source": SOURCES},
    optional={"id": st.integers(0, 20), "cpu_cores": st.integers(1, 64), "gpu_mhz": NUMBERS},
)
COUNTS = st.lists(st.integers(1, 64), min_size=1, max_size=3)


def _some(known):
    return st.lists(st.sampled_from(known), min_size=1, unique=True)


@st.composite
def documents(draw):
    """A valid profile's document."""
    found = draw(
        st.fixed_dictionaries(
            {
                "schema": st.just(1),
                "name": NAMES,
                "title": WORDS.map(lambda title: title[:100]),
                "kind": st.sampled_from(check.KINDS),
                "runtimes": _some(check.RUNTIMES),
                "precisions": _some(check.PRECISIONS[:4]),
                "sources": st.just({"sheet": "the data sheet"}),
            },
            optional={
                "host": st.sampled_from(["ssh", "adb", "local", "ssh://me@board:22", "adb://0123ABC"]),
                "int8_scheme": st.sampled_from(check.SCHEMES),
                "round_to": st.integers(1, 256),
                "notes": st.lists(WORDS, max_size=2),
                "aliases": st.lists(NAMES, max_size=2, unique=True),
                "facts": st.dictionaries(KEYS, FACTS, max_size=4),
                "power_modes": st.lists(MODES, max_size=2),
                "protocol": st.fixed_dictionaries({}, optional={"batches": COUNTS, "max_seconds": NUMBERS}),
                "unsupported": st.dictionaries(
                    st.sampled_from(["fp8", "tensorrt-int8", "tensorrt-11", "openvino"]), WORDS
                ),
            },
        )
    )
    found["aliases"] = [alias for alias in found.get("aliases", ()) if alias != found["name"]]
    return found


def toml(value) -> str:
    """A value as TOML; a document's top level is a table a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)  # json writes Infinity, TOML inf
    return json.dumps(value, ensure_ascii=False)


def text_of(document) -> str:
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in document.items())


@settings(max_examples=50)
@given(documents())
def test_a_valid_profile_is_read_back_as_it_was_written(document):
    text = text_of(document)
    profile = load.from_document(load.parse_toml(text), "x.toml", text)
    assert VALIDATOR.is_valid(document)
    assert (profile.name, profile.title, profile.kind) == (
        document["name"],
        document["title"],
        document["kind"],
    )
    assert {k: f.value for k, f in profile.facts.items()} == {
        k: f["value"] for k, f in document.get("facts", {}).items()
    }
    assert all("sheet" not in f.source.split(load.BETWEEN) for f in profile.facts.values())
    assert len(profile.power_modes) == len(document.get("power_modes", ()))
    assert profile.unsupported == document.get("unsupported", {})
    assert list(profile.protocol.batches) == document.get("protocol", {}).get("batches", [1])


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(["", "local", "../x", "int8", "a\nb", "x" * 3000, "sheet", "ssh://", "tensorrt-11", 0, 1.0]),
    st.lists(st.integers(0, 2) | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip


@st.composite
def mutations(draw):
    """A document that was valid, one place of which is changed, removed or new; and that place's outermost key."""
    document = copy.deepcopy(draw(documents()))
    here, first = document, None
    while True:
        key = draw(st.sampled_from(sorted(here)) if isinstance(here, dict) else st.integers(0, len(here) - 1))
        first = key if first is None else first
        inside = here[key]
        if not (isinstance(inside, (dict, list)) and inside) or draw(st.integers(0, 2)) == 0:
            break
        here = inside
    how = draw(st.sampled_from(["change", "remove", "add"]))
    if how == "change":
        here[key] = draw(JUNK)
    elif how == "remove":
        del here[key]
    elif isinstance(here, dict):
        new = draw(KEYS | st.text(max_size=8))
        here[new] = draw(JUNK)
        first = new if here is document else first
    else:
        here.append(draw(JUNK))
    return document, first


@given(mutations())
def test_a_changed_profile_is_valid_or_an_error_that_names_the_field(mutation):
    document, first = mutation
    assert bool(list(check.shape(document))) != VALIDATOR.is_valid(document)
    try:
        load.from_document(document, "x.toml")
    except ConfigError as error:
        fields = [first, "the file"] if isinstance(first, str) else []
        # a source or a precision that went missing is reported where it is used
        fields += {"sources": ["facts", "power_modes"], "precisions": ["unsupported"]}.get(first, [])
        assert any(check.field_name((f,)) in str(error) for f in fields), (first, str(error))
        assert len(str(error)) < 10_000 and not check.HIDDEN.search(str(error).replace("\n", ""))


DEEP = "a." * 60_000 + "a"
HOSTILE = {
    "a megabyte of brackets": "a = " + "[" * 1_000_000,
    "deep lists": "a = " + "[" * 90_000,
    "deep tables": "a = " + "{a = " * 30_000,
    "a deep header": f"[{DEEP}]",
    "a deep key": f"{DEEP} = 1",
    "deep facts": "facts" + ".a" * 150 + " = 1",
    "a name with a path": 'schema = 1\nname = "../../etc/passwd"',
    "a name with control characters": 'schema = 1\nname = "a\\u001b[31m"',
    "a title that hides": 'schema = 1\ntitle = "a\\u202etxt.exe"',
    "markup": 'schema = 1\nname = "[/bold]"',
    "not a number": "round_to = nan",
    "infinite": "schema = 1\n[facts]\nmemory_gb = { value = inf, source = 'x y' }",
    "a huge number": f"round_to = {'9' * 4000}",
    "a huge hexadecimal number": f"round_to = 0x{'f' * 100_000}",
    "a date": "schema = 2026-11-01T00:00:00Z",
    "every key unknown": "\n".join(f"key{i} = {i}" for i in range(9_000)),
    "a long key": f'"{"x" * 100_000}" = 1',
    "a key with control characters": '"\\u0007\\n" = 1',
    "booleans": "schema = true\nround_to = true",
    "no text": "\0",
    "another encoding": "\xff\xfe".encode("latin-1").decode("latin-1"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_short_clear_errors_at_once(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load.validate(path)
    assert time.monotonic() - start < 10
    said = str(caught.value)
    assert "x.toml" in said and len(said) < 10_000
    assert not check.HIDDEN.search(said.replace("\n", ""))


def test_a_folder_and_bytes_are_no_profile(tmp_path):
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "b.toml"):
        with pytest.raises(ConfigError):
            load.validate(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[facts]\na = { value = 1, source = 'x y' }\nb = { value = 0, source = 'x y' }", "line 3: facts.b.value"),
        ("[[power_modes]]\nname = 'A'\nsource = 'x y'\n[[power_modes]]\nsource = 'x y'", "line 4: power_modes[1]"),
        ("[protocol]\n\nbatches = 4", "line 3: protocol.batches"),
        ("[facts.a]\nvalue = 1\nsauce = 'x'", "line 3: facts.a.sauce"),
        ("runtimes = [\n  'torch',\n  'troch',\n]", "line 1: runtimes[1]"),
    ],
)  # fmt: skip
def test_a_problem_is_found_by_its_line(tmp_path, text, line):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load.validate(path)
    assert line in str(caught.value)


def test_every_built_in_profile_follows_the_schema():
    for path in load.FOLDER.glob("*.toml"):
        assert not [e.message for e in VALIDATOR.iter_errors(load.read_toml(path))], path.name
