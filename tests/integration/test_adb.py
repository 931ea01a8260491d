"""A phone over adb, by a stand-in: found, told apart from others, refused, and what it says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import MissingError, UsageError
from bench.hosts import open_host, phone
from bench.hosts.base import HostRefused, HostUnreachable
from bench.hosts.check import Step, check
from bench.hosts.inventory import Device
from bench.runtimes.phone import Phone
from tests.standin_phone import MODEL, Phones, tool


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phones:
    made = Phones(tmp_path / "phones")
    monkeypatch.setenv("EDGEFIT_ADB_COMMAND", made.command)
    return made


def says(address: str) -> str:
    return open_host(address).exec(["getprop", "ro.product.model"], 30).stdout


def test_two_phones_are_told_apart_by_their_serials(phones: Phones) -> None:
    phones.add("AAA", model="Pixel 4 (stand-in)")
    phones.add("192.168.1.20:37005", model="Galaxy S24 (stand-in)")
    assert "Pixel 4" in says("adb://AAA") and "Galaxy" in says("adb://192.168.1.20:37005")
    with pytest.raises(UsageError, match=r"Give adb://192.168.1.20:37005 \(.*\), adb://AAA") as caught:
        says("adb://")
    assert caught.value.exit_code == 2


def test_the_only_phone_needs_no_serial(phones: Phones) -> None:
    phones.add("AAA")
    host = open_host("adb://")
    assert MODEL in host.exec(["getprop"], 30).stdout and host.name == "adb://AAA"


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("unauthorized", HostRefused, "accept its question"),
        ("authorizing", HostRefused, "accept its question"),
        ("no permissions", HostRefused, "udev"),
        ("offline", HostUnreachable, "replug"),
        ("recovery", HostUnreachable, "recovery"),
    ],
)
def test_a_phone_that_cannot_be_used_says_why(
    phones: Phones, state: str, error: type[Exception], words: str
) -> None:
    phones.add("AAA", state=state)
    with pytest.raises(error, match=words):
        says("adb://AAA")


def test_no_phone_another_phone_and_no_adb_are_three_errors(
    phones: Phones, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostUnreachable, match="USB debugging"):
        says("adb://")
    phones.add("BBB")
    with pytest.raises(HostUnreachable, match="adb://BBB"):
        says("adb://AAA")
    monkeypatch.setenv("EDGEFIT_ADB_COMMAND", "/no/such/adb")
    with pytest.raises(MissingError, match="EDGEFIT_ADB_COMMAND"):
        says("adb://BBB")


@pytest.mark.parametrize("lost", ["offline", "unauthorized"])
def test_a_phone_that_is_lost_between_two_commands_is_no_failed_command(
    phones: Phones, tmp_path: Path, lost: str
) -> None:
    phones.add("AAA")
    host = open_host("adb://AAA")
    host.exec(["true"], 30)
    phones.set_state("AAA", lost)
    (tmp_path / "a").write_bytes(b"x")
    for use in (lambda: host.exec(["true"], 30), lambda: host.put(tmp_path / "a", str(tmp_path / "b"))):
        with pytest.raises((HostUnreachable, HostRefused)):
            use()
    phones.set_state("AAA", "device")
    assert host.exec(["true"], 30).returncode == 0


@pytest.mark.parametrize("rest", ["-s", "a b", "a;b", "$(id)", "a\nb", "a/b", "x" * 200])
def test_what_is_no_serial_is_refused_before_adb_sees_it(rest: str) -> None:
    with pytest.raises(UsageError, match="no address of a phone"):
        open_host(f"adb://{rest}")


def test_a_path_that_is_not_absolute_is_below_the_folder_where_commands_start(
    phones: Phones, tmp_path: Path
) -> None:
    folder = phones.add("AAA")
    host = open_host("adb://AAA")
    (tmp_path / "a").write_bytes(b"x")
    host.put(tmp_path / "a", "edgefit/objects/x")
    assert (folder / "tmp/edgefit/objects/x").read_bytes() == b"x"
    assert host.exec(["cat", "edgefit/objects/x"], 30).stdout == "x"


def test_a_phone_says_what_it_is_and_what_disturbs(phones: Phones) -> None:
    phones.add("AAA")
    facts = phone.describe(open_host("adb://AAA"))
    assert facts["machine"]["model"] == facts["phone"]["model"] == MODEL
    known = facts["phone"]
    assert (known["soc"], known["android"], known["abi"]) == ("SM8150", "13", "arm64-v8a")
    assert len(known["cores_max_mhz"]) == facts["cpu"]["cores"] and facts["os"]["name"] == "Android 13"
    state = known["state"]
    assert (state["battery_level"], state["battery_c"], state["thermal_status"]) == (0.81, 26.4, 0)
    assert phone.warnings(state) == []
    phones.conditions("AAA", charging=True, thermal=2, screen=True)
    told = " ".join(phone.warnings(phone.state(open_host("adb://AAA"))))
    assert "screen is on" in told and "charging" in told and "moderate (2)" in told


def test_a_phone_that_says_nothing_is_described_with_nulls(phones: Phones) -> None:
    folder = phones.add("AAA")
    for program in ("getprop", "dumpsys"):
        (folder / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
    found = phone.describe(open_host("adb://AAA"))["phone"]
    assert found["model"] is None and found["state"]["charging"] is None
    assert phone.warnings(found["state"]) == []


def test_without_power_monitors_the_reason_is_said(phones: Phones) -> None:
    folder = phones.add("AAA")
    host = open_host("adb://AAA")
    assert phone.energies(host)[1].startswith("the phone has no power monitors")
    monitor = folder / "iio/devices/iio:device0"
    monitor.mkdir()
    (monitor / "energy_value").write_text("t=1000\nCH0(T=1000)[S2M_VDD_CPUCL2], 5000\n")
    found, reason = phone.energies(host)
    assert reason == "" and found.rails[0].energy_uws == 5000


def look(address: str, folder: str = ".cache/edgefit-device") -> dict[str, Step]:
    return {step.name: step for step in check(Device("", address, workspace=folder), lambda *_: None)}


def test_a_phone_that_is_ready_passes_every_step_of_the_check(phones: Phones) -> None:
    folder = phones.add("AAA", tools=("benchmark_model",))
    steps = look("adb://AAA")
    assert {step.state for step in steps.values()} == {"ok"}
    assert MODEL in steps["phone"].found and "arm64-v8a" in steps["phone"].found
    assert "for litert" in steps["benchmark_model"].found and "MB/s up" in steps["transfer"].found
    assert not any((folder / "tmp/edgefit").iterdir())


def test_what_a_phone_lacks_and_what_disturbs_it_are_said(phones: Phones) -> None:
    phones.add("AAA")
    phones.conditions("AAA", thermal=3)
    steps = look("adb://AAA")
    assert steps["tools"].state == "failed" and "EDGEFIT_ANDROID_BENCHMARK" in steps["tools"].todo
    assert steps["conditions"].state == "warning" and "severe (3)" in steps["conditions"].found


def test_the_check_of_an_unauthorised_phone_stops_there(phones: Phones) -> None:
    phones.add("AAA", state="unauthorized")
    steps = look("adb://AAA")
    assert (steps["adb"].state, steps["phone"].state) == ("ok", "failed")
    assert "accept its question" in steps["phone"].todo
    assert {s.state for name, s in steps.items() if name not in ("adb", "phone")} == {"skipped"}


def test_what_runs_left_on_a_phone_is_removed(phones: Phones) -> None:
    folder = phones.add("AAA")
    left = folder / "tmp/edgefit/objects/x.tflite"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(300_000))
    host = open_host("adb://AAA")
    assert phone.clean(host, phone.WORKSPACE, 30.0)["freed_bytes"] == 0 and left.exists()
    assert phone.clean(host, phone.WORKSPACE, 0.0)["freed_bytes"] >= 300_000 and not left.exists()


def test_a_tool_is_sent_by_its_content_and_once(
    phones: Phones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = phones.add("AAA", tools=("benchmark_model",))
    monkeypatch.setenv(
        "EDGEFIT_ANDROID_BENCHMARK", str(tool("benchmark_model", tmp_path / "benchmark_model"))
    )
    for _ in range(2):
        found = Phone.reach(Device("", "adb://AAA")).tools["litert"]
        assert "/edgefit/tools/" in found.path  # the one that is given comes before the one that is there
    assert len(list((folder / "tmp/edgefit/tools").iterdir())) == 1


def test_an_accelerator_that_no_phone_has_is_refused(phones: Phones, monkeypatch: pytest.MonkeyPatch) -> None:
    phones.add("AAA", tools=("benchmark_model",))
    monkeypatch.setenv("EDGEFIT_ANDROID_ACCELERATOR", "npu")
    probe = Phone.reach(Device("", "adb://AAA")).runtime("litert").probe(open_host("local"))
    assert not probe.available and "benchmark_model does not run on npu" in probe.reason
    monkeypatch.setenv("EDGEFIT_ANDROID_ACCELERATOR", "tpu")
    with pytest.raises(UsageError, match="EDGEFIT_ANDROID_ACCELERATOR"):
        Phone.reach(Device("", "adb://AAA"))
