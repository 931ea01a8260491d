"""What of the browser runtimes needs no browser: the server, the pinned package, the clock's resolution."""

from __future__ import annotations

import dataclasses
import http.client
import io
import os
import socket
import stat
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.agent import timing
from bench.agent.browser import clock, package
from bench.agent.browser.server import Server
from bench.errors import MissingError, UsageError
from bench.hosts import open_host
from bench.measure.latency import images_timed
from bench.runtimes import get, install
from reports import causes
from reports.rows import rows
from tests.fixtures import example_run

# --- the server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def ask(server: Server, target: str, method: str = "GET") -> http.client.HTTPResponse:
    """One request with exactly this target: no library tidies it up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, target, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    answer.body = answer.read()
    connection.close()
    return answer


def target_of(server: Server, name: str) -> str:
    return server.address(name).partition(f":{server.port}")[2]


def test_what_is_put_is_served_until_it_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x" * 100_000)
    server.put("a.js", b"1;")
    server.put("model.onnx", str(tmp_path / "model"))
    answer = ask(server, target_of(server, "a.js"))
    assert (answer.status, answer.body) == (200, b"1;")
    assert answer.headers["Content-Type"] == "text/javascript"
    assert ask(server, target_of(server, "model.onnx")).body == b"x" * 100_000
    server.drop("a.js")
    assert ask(server, target_of(server, "a.js")).status == 404


def test_the_page_is_cross_origin_isolated(server: Server) -> None:
    server.put("page.html", b"")
    headers = ask(server, target_of(server, "page.html")).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_without_the_token_nothing_is_there(server: Server) -> None:
    server.put("a.js", b"1;")
    token = target_of(server, "a.js").split("/")[1]
    assert len(token) >= 32
    for target in (
        "/a.js",
        f"/{token[:-1]}/a.js",
        f"/{'x' * len(token)}/a.js",
        "*",
        f"/{token}",
    ):
        assert ask(server, target).status == 404, target


@pytest.mark.parametrize("climb", ["../{}", "..%2f{}", "a/../../{}", "/{}", "%2e%2e/{}", "{}%00"])
def test_no_path_leads_out(
    server: Server, climb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    server.put("a", b"1")
    for name in ("secret", str(tmp_path / "secret")):
        answer = ask(server, target_of(server, climb.format(name)))
        assert answer.status == 404 and b"secret" not in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_it_only_gives(server: Server, method: str) -> None:
    server.put("a", b"1")
    assert ask(server, target_of(server, "a"), method).status == 501


def test_it_listens_on_one_address_only(server: Server) -> None:
    """On all addresses it would answer at any of Linux's loopback ones."""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", server.port), timeout=2).close()


# --- the clock


@given(st.integers(1, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_the_clocks_step_is_its_least_move(step: int, moves: list[int]) -> None:
    readings = np.cumsum([7, *moves, 1]) * step
    assert clock.step([float(r) for r in readings]) == step


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="stands still"):
        clock.step([3.0, 3.0, 3.0])


@given(st.floats(1e-7, 10.0), st.sampled_from([5e-6, 1e-4, 1e-3]))
def test_a_sample_lasts_as_many_steps_as_it_must_and_not_much_longer(call: float, tick: float) -> None:
    calls = clock.calls_per_sample(call, tick)
    assert calls * call >= clock.STEPS * tick * 0.999 or call < tick / clock.STEPS
    assert calls == 1 or (calls - 1) * call <= clock.STEPS * tick * 1.001


@pytest.mark.parametrize(("call", "tick", "calls"), [(2e-3, 5e-6, 1), (1e-4, 5e-6, 10), (1e-3, 1e-4, 20)])
def test_an_isolated_page_needs_fewer_calls_a_sample(call: float, tick: float, calls: int) -> None:
    assert clock.calls_per_sample(call, tick) == calls


@given(st.integers(0, 40), st.floats(1e-3, 1.0))
def test_a_stall_does_not_make_the_samples_shorter(at: int, stall: float) -> None:
    calls = [1.4e-4] * 40
    calls.insert(at, stall)
    assert clock.typical(calls, 5e-6) == 1.4e-4


def test_calls_that_the_clock_cannot_tell_are_averaged() -> None:
    assert clock.typical([0.0, 0.0, 0.0, 1e-4], 1e-4) == pytest.approx(2.5e-5)


# --- samples that come in blocks


class Clock:
    """Goes on by a block's length whenever a block is taken."""

    def __init__(self, values: list[float]) -> None:
        self.now, self.values = 0.0, values

    def perf_counter(self) -> float:
        return self.now

    def block(self) -> list[float]:
        self.now += sum(self.values)
        return self.values


def test_blocks_of_samples_stop_as_single_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Clock([0.010, 0.011, 0.010, 0.011, 0.010])
    monkeypatch.setattr(timing, "time", page)
    warm, settled = timing.warm_up(page.block, 0.3, 0.02)
    assert settled and len(warm) % 5 == 0 and set(warm) == {0.010, 0.011}
    rests: list[int] = []
    samples, stopped = timing.steady(
        page.block, 1e-9, 20, 0.5, lambda *_: None, turn_seconds=0.05, rest=rests.append
    )
    assert stopped == "cap" and len(samples) % 5 == 0 and samples.sum() == pytest.approx(0.5, abs=0.06)
    assert rests and all(n % 5 == 0 for n in rests)  # a turn never ends inside a block
    assert timing.half_width(array("d", samples)) < 0.1


def test_a_sample_of_many_calls_stands_for_as_many_images() -> None:
    assert images_timed(10, 4, {}) == 40
    assert images_timed(10, 4, {"calls_per_sample": 3}) == 120


# --- the package and the browser


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def archive_of(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            content = name.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def needed() -> list[str]:
    return [f"package/dist/{n}" for p in package.ENTRY for n in package.files(p)]


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_another_archive_than_the_pinned_one_is_refused_and_nothing_is_installed(
    home: Path, tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "package.tgz", needed())
    with pytest.raises(MissingError, match="not the archive") as caught:
        install.install_browser(archive)
    assert package.INTEGRITY in str(caught.value)
    assert not home.exists() and not install.installed()


def test_the_needed_files_are_installed_and_no_others(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = [
        "package/package.json",
        "package/dist/ort.all.js",
        "../../outside",
        "package/dist/../../../outside",
    ]
    archive = archive_of(tmp_path / "package.tgz", [*needed(), *extra])
    monkeypatch.setattr(package, "INTEGRITY", integrity(archive))
    folder = install.install_browser(archive)
    assert folder.is_relative_to(home) and install.installed()
    assert sorted(p.name for p in home.rglob("*") if p.is_file()) == sorted({Path(n).name for n in needed()})
    assert install.install_browser(archive) == folder  # again, over the first
    assert not list(tmp_path.rglob("outside"))


def test_an_archive_that_lacks_a_file_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = archive_of(tmp_path / "package.tgz", needed()[1:])
    monkeypatch.setattr(package, "INTEGRITY", integrity(archive))
    with pytest.raises(MissingError, match="has no file"):
        install.install_browser(archive)
    assert not [p for p in home.rglob("*") if p.is_file()]


def integrity(archive: Path) -> str:
    """The hash of an archive as the error names it."""
    with pytest.raises(MissingError) as caught:
        install.check_integrity(archive)
    return caught.value.found.partition(",")[0]


def test_npm_is_asked_for_the_pinned_version_and_its_answer_is_checked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        tmp_path,
        "npm",
        f'echo "$@" > {tmp_path}/asked\nfor last; do true; done\necho other > "$last/package.tgz"',
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(MissingError, match="not the archive"):
        install.install_browser()
    assert (tmp_path / "asked").read_text().startswith(f"pack onnxruntime-web@{package.VERSION} ")
    program(tmp_path, "npm", "echo no such registry >&2; exit 1")
    with pytest.raises(MissingError, match="no such registry"):
        install.install_browser()
    assert not home.exists()


def test_without_npm_the_archive_can_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="--file"):
        install.install_browser()
    with pytest.raises(UsageError, match=r"gone\.tgz"):
        install.install_browser(tmp_path / "gone.tgz")


def test_the_probe_says_what_is_missing_one_after_the_other(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, browser, gpu = open_host("local"), get("browser"), get("browser-webgpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "edgefit[browser]" in browser.probe(host).remedy
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(package.VARIABLE, raising=False)
    assert "EDGEFIT_CHROMIUM" in browser.probe(host).remedy
    program(tmp_path, "mine", "")
    monkeypatch.setenv(package.VARIABLE, str(tmp_path / "mine"))
    assert browser.probe(host).remedy == "Run: bench runtimes install browser"
    folder = Path(package.folder())
    folder.mkdir(parents=True)
    for name in package.files("wasm"):
        (folder / name).write_text("")
    assert browser.probe(host).available and browser.probe(host).devices == ("cpu",)
    assert "bench runtimes install" in gpu.probe(host).remedy


def test_chromium_comes_from_the_variable_else_from_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(package.VARIABLE, raising=False)
    assert package.chromium() is None
    program(tmp_path, "google-chrome", "")
    assert package.chromium() == str(tmp_path / "google-chrome")
    program(tmp_path, "chromium", "")
    assert package.chromium() == str(tmp_path / "chromium")
    monkeypatch.setenv(package.VARIABLE, str(tmp_path / "gone"))
    assert package.chromium() is None  # what was named is not there: no other in its place


# --- the verdict


def test_int8_that_is_no_win_in_webassembly_has_its_own_cause(tmp_path: Path) -> None:
    run = example_run(tmp_path)
    found = {(r.cell.variant, r.cell.runtime): r for r in rows(run)}
    native, base = found["teacher-int8", "litert"], found["teacher", "litert"]
    row = dataclasses.replace(native, cell=dataclasses.replace(native.cell, runtime="browser"))
    said = causes.causes(row, base, {}, {})
    assert any("WebAssembly" in cause for cause in said) and not any("VNNI" in cause for cause in said)
    assert not any("WebAssembly" in cause for cause in causes.causes(native, base, {}, {}))
    there = dataclasses.replace(native, cell=dataclasses.replace(native.cell, runtime="tensorrt"))
    assert not any("VNNI" in cause for cause in causes.causes(there, base, {}, {}))
