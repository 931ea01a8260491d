"""The lab's devices and their addresses: what is written is read again, and what makes no sense is named."""

from __future__ import annotations

import dataclasses
import ipaddress
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError, StoreError, UsageError
from bench.hosts import inventory, open_host
from bench.hosts.address import parse_ssh
from bench.hosts.inventory import Device

PLAIN = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=30)
SOME = PLAIN.filter(bool)
NAMES = st.from_regex(inventory.NAME, fullmatch=True).filter(lambda n: n not in ("local", "ssh"))
USERS = st.from_regex(r"[a-z_][a-z0-9_.-]{0,10}", fullmatch=True)
PLACES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
ADDRESSES = st.builds(
    lambda user, host, port: f"ssh://{user}{host}{port}",
    st.just("") | USERS.map(lambda u: f"{u}@"),
    PLACES | st.integers(0, 2**128 - 1).map(lambda n: f"[{ipaddress.IPv6Address(n)}]"),
    st.just("") | st.integers(1, 65535).map(":{}".format),
)
DEVICES = st.builds(
    Device, NAMES, st.just("local") | ADDRESSES, profile=PLAIN, workspace=SOME, python=SOME, note=PLAIN
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEFIT_HOSTS", str(tmp_path / "hosts.toml"))
    return tmp_path / "hosts.toml"


# --- addresses


@settings(max_examples=50)
@given(ADDRESSES)
def test_a_good_address_is_read_and_written_alike(text: str) -> None:
    address = parse_ssh(text.removeprefix("ssh://"))
    again = parse_ssh(str(address).removeprefix("ssh://"))
    assert again == address and not address.destination.startswith("-")


def test_the_parts_of_an_address() -> None:
    address = parse_ssh("nvidia@xavier.local:2222")
    assert (address.user, address.host, address.port) == ("nvidia", "xavier.local", 2222)
    assert parse_ssh("[fe80::1]:22").destination == "fe80::1" and parse_ssh("box").port is None


BAD = [
    "", "@", "user@", "@host", "-oProxyCommand=x", "user@-oProxyCommand=x", "-user@host", "a b", "host:", "host:0",
    "host:65536", "host:-1", "host:22x", "host:²²", "host/", "host/path", "a;touch x", "a$(touch x)", "a`x`", "a|x", "a&x", "a>x",
    "a'b", 'a"b', "a\\b", "a\nb", "a\0b", "a\tb", "%h", "a%b", "~", "*", "[::1", "::1]", "[::1]22", "[::1%eth0]", "[box]",
    "::1", "a@b@c", "us er@host", "us;er@host", "hóst", "a" * 300, "{a,b}", "#", "!", "host?",
]  # fmt: skip


@pytest.mark.parametrize("rest", BAD)
def test_what_is_no_address_is_refused(rest: str) -> None:
    with pytest.raises(UsageError):
        open_host(f"ssh://{rest}")


@given(st.text(max_size=40))
def test_any_text_is_an_address_of_plain_words_or_refused(text: str) -> None:
    try:
        address = parse_ssh(text)
    except UsageError:
        return
    words = address.destination
    assert words.isascii() and words.isprintable() and words[0] != "-"
    assert not set(words) & set(" '\"\\$`;|&<>()*?~#!%{}/")


@pytest.mark.parametrize(
    "address",
    [
        "ssh://user:s3cret@host",
        "ssh://:s3cret@host",
        "ssh://user:s3c@ret@host",
        "user:s3cret@host",
        "http://u:s3cret@h",
    ],
)
def test_a_password_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError, match="must not hold a password") as caught:
        open_host(address)
    assert "s3c" not in str(caught.value)


# --- the file


@settings(max_examples=30)
@given(st.lists(DEVICES, max_size=3))
def test_what_is_saved_is_loaded(devices: list[Device]) -> None:
    known = {device.name: device for device in devices}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "new", "hosts.toml")
        inventory.save(known, path)
        assert inventory.load(path) == known
        assert [p.name for p in path.parent.iterdir()] == ["hosts.toml"]


@given(st.text(max_size=200))
def test_any_file_is_devices_or_a_clear_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hosts.toml")
        path.write_bytes(text.encode(errors="replace"))
        try:
            found = inventory.load(path)
        except ConfigError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(device, Device) for device in found.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=2)
)


@settings(max_examples=30)
@given(st.sampled_from(inventory.KEYS), JSON.filter(lambda v: not isinstance(v, str)))
def test_a_value_of_another_type_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        inventory.save(
            {"a": dataclasses.replace(Device("a", "local"), **{key: value or 1})}, Path("/dev/null/x")
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\n", r"\[a\]: address is missing"),
        ('[a]\naddress = "ssh://h"\nadress = "x"\n', "'adress'. Did you mean address"),
        ('[a]\naddress = "ssh://h"\npassword = "x"\n', "unknown key 'password'"),
        ('[a]\naddress = "ssh://u:pw@h"\n', r"\[a\]: address: .*password"),
        ('[a]\naddress = "usb://h"\n', "Supported: local"),
        ("[a]\naddress = 7\n", "address must be a string"),
        ('[a]\naddress = ""\n', "address must be"),
        ('[a]\naddress = "local"\nnote = "\\u001b[2J"\n', "note must be one line"),
        ('[a]\naddress = "local"\nworkspace = "a\\nb"\n', "workspace must be one line"),
        ('[a]\naddress = "local"\npython = ""\n', "python must be"),
        ('["a b"]\naddress = "local"\n', "no name for a device"),
        ('[-a]\naddress = "local"\n', "no name for a device"),
        ('[local]\naddress = "local"\n', "no name for a device"),
        ('["ssh://h"]\naddress = "local"\n', "no name for a device"),
        ('a = "ssh://h"\n', "must be a table"),
        ("[[a]]\n", "must be a table"),
        ("[a.b]\n", "unknown key 'b'"),
        ("[a\n", "not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
        ("#" * 1_000_001, "too large"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        inventory.load()
    assert str(file) in str(caught.value) and "pw@" not in str(caught.value)


def test_many_devices_may_share_a_profile_and_names_open_hosts(file: Path) -> None:
    for name in ("one", "two", "v1.2"):
        devices = inventory.load()
        devices[name] = Device(name, f"ssh://nvidia@{name}", profile="jetson-agx-xavier")
        inventory.save(devices)
    assert {d.profile for d in inventory.load().values()} == {"jetson-agx-xavier"}
    assert (
        open_host("two").name == "ssh://nvidia@two"
        and inventory.device("v1.2").address == "ssh://nvidia@v1.2"
    )


def test_a_device_that_is_only_an_address(file: Path) -> None:
    assert inventory.device("ssh://h") == Device("", "ssh://h") and inventory.device("local").workspace
    with pytest.raises(UsageError, match="Supported: local"):
        inventory.device("xavier")
    inventory.save({"xavier": Device("xavier", "ssh://h")})
    for find in (inventory.device, open_host):
        with pytest.raises(UsageError, match="Did you mean xavier"):
            find("xaver")


def test_a_device_that_would_not_load_is_not_saved(file: Path) -> None:
    inventory.save({"a": Device("a", "local")})
    before = file.read_bytes()
    with pytest.raises(ConfigError):
        inventory.save({"a": Device("a", "ssh://u:pw@h")})
    assert file.read_bytes() == before


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("EDGEFIT_HOSTS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inventory.place() == tmp_path / ".config/edgefit/hosts.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert inventory.place() == tmp_path / ".config/edgefit/hosts.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert inventory.place() == Path("/elsewhere/edgefit/hosts.toml")
    monkeypatch.setenv("EDGEFIT_HOSTS", "/dev/null/hosts.toml")
    assert inventory.load() == {}
    with pytest.raises(StoreError, match="EDGEFIT_HOSTS"):
        inventory.save({})
