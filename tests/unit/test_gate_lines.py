"""Verdicts of sizes, accuracies and recorded numbers, and the environments they may come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.errors import UsageError
from bench.gate import check, lines, sources
from bench.gate.fingerprint import differences
from bench.gate.lines import Checked, Line
from bench.gate.sides import Answers, Side, Source, Subject, shared
from bench.gate.thresholds import Settings, thresholds
from bench.stats import NEXT_RUN
from bench.types import Artifact, Quantity

SUBJECT = Subject("student", "onnxruntime")
RNG = np.random.default_rng(0)


def side(digest: str, size: float = 100_000, **numbers: Quantity) -> Side:
    known = {"size_bytes": Quantity(size, "B", provenance="measured"), **numbers}
    return Side(Artifact("onnx", digest, int(size), "m.onnx"), None, known)


def timed(digest: str, *values: float) -> Side:
    middle = Quantity(float(np.median(values)), "ms", provenance="measured", method=NEXT_RUN)
    return replace(side(digest, latency_ms=middle), processes={"latency_ms": list(values)})


def answers(right: int, n: int = 1000, images: str = "x") -> Answers:
    return Answers(np.arange(n) < right, images)


# --- size


@pytest.mark.parametrize(
    ("size", "verdict"), [(100_000, "SAME"), (101_000, "SAME"), (101_001, "REGRESSED"), (98_000, "IMPROVED")]
)
def test_a_size_is_known_to_the_byte(size: int, verdict: str) -> None:
    found = lines.exact(SUBJECT, "size", 0.01, side("a"), side("b", size))
    assert found.verdict == verdict and found.p is None


def test_one_file_is_the_same_in_every_metric_and_unknown_digests_are_not_one_file() -> None:
    assert lines.exact(SUBJECT, "latency", 0.03, side("a"), side("a")).verdict == "SAME"
    assert lines.exact(SUBJECT, "size", 0.01, side("", 100), side("", 200)).verdict == "REGRESSED"


# --- accuracy


def test_a_lost_point_on_many_images_is_a_regression() -> None:
    found = lines.accuracy(SUBJECT, 0.005, answers(9300, 10_000), answers(9150, 10_000))
    assert found.verdict == "REGRESSED" and found.change.value == pytest.approx(-0.015) and found.p < 1e-6


def test_a_few_images_cannot_tell_half_a_point_and_it_is_said_how_many_could() -> None:
    other = answers(297, 359)
    flipped = Answers(other.right ^ (np.arange(359) % 90 == 1), "x")
    found = lines.accuracy(SUBJECT, 0.005, other, flipped)
    assert found.verdict == "INCONCLUSIVE" and "images" in found.note and found.smallest > 0.005


def test_the_same_outcome_on_every_image_is_the_same() -> None:
    assert lines.accuracy(SUBJECT, 0.005, answers(200, 359), answers(200, 359)).verdict == "SAME"


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="different images"):
        lines.accuracy(SUBJECT, 0.005, answers(9), answers(9, images="y"))


# --- recorded


def test_numbers_of_two_times_count_the_spread_between_sessions() -> None:
    base, head = timed("a", 10.0, 10.1, 9.9, 10.0, 10.05), timed("b", 10.6, 10.7, 10.5, 10.6, 10.65)
    assumed = lines.recorded(SUBJECT, "latency", 0.03, base, head)
    assert assumed.verdict == "INCONCLUSIVE" and assumed.smallest > 0.15 and "assumed" in assumed.note
    known = lines.recorded(SUBJECT, "latency", 0.03, base, head, session=(0.004, 30))
    assert known.verdict == "REGRESSED" and known.change.low > 0.03 and "30 sessions" in known.note


def test_a_change_beyond_any_session_is_called() -> None:
    found = lines.recorded(SUBJECT, "latency", 0.03, timed("a", 10, 10.1, 9.9), timed("b", 20, 20.1, 19.9))
    assert found.verdict == "REGRESSED"
    faster = lines.recorded(SUBJECT, "latency", 0.03, timed("b", 20, 20.1, 19.9), timed("a", 10, 10.1, 9.9))
    assert faster.verdict == "IMPROVED"


def test_more_images_a_second_are_better() -> None:
    slow, fast = (
        replace(
            side(d, throughput_ips=Quantity(v, "images/s", provenance="measured")),
            processes={"throughput_ips": [v, v * 1.01]},
        )
        for d, v in (("a", 100.0), ("b", 200.0))
    )
    assert lines.recorded(SUBJECT, "throughput", 0.03, slow, fast).verdict == "IMPROVED"
    assert lines.recorded(SUBJECT, "throughput", 0.03, fast, slow).verdict == "REGRESSED"


def test_throughput_is_as_sure_as_the_latency_it_comes_from() -> None:
    """A baseline keeps the latencies of its processes, and one stream's throughput is images over latency."""
    slow, fast = (
        replace(timed(d, ms, ms * 1.01), numbers={"throughput_ips": Quantity(1e3 / ms, "images/s", provenance="measured")})
        for d, ms in (("a", 10.0), ("b", 5.0))
    )  # fmt: skip
    assert lines.recorded(SUBJECT, "throughput", 0.03, slow, fast).verdict == "IMPROVED"
    same = lines.recorded(SUBJECT, "throughput", 0.03, slow, replace(slow, artifact=fast.artifact))
    assert same.change.low is not None and same.smallest


def test_one_process_each_says_nothing_of_the_spread() -> None:
    found = lines.recorded(
        SUBJECT, "latency", 0.03, timed("a", 10.0), side("b", latency_ms=Quantity(20.0, "ms"))
    )
    assert found.verdict == "INCONCLUSIVE" and found.change.low is None and "one process" in found.note


def test_a_missing_number_has_its_reason() -> None:
    found = lines.recorded(
        SUBJECT, "energy", 0.05, side("a"), side("b", energy_mj=Quantity.missing("no meter"))
    )
    assert found.change.value is None and found.verdict == "INCONCLUSIVE"


# --- together


def _line(p: float, verdict: str = "REGRESSED") -> Line:
    change = Quantity(0.05, "ratio", 0.03, 0.07)
    return Line(SUBJECT, "latency", "paired", 0.03, change, change, change, verdict, p)  # type: ignore[arg-type]


def test_a_change_must_stand_beside_everything_else_that_is_judged() -> None:
    alone = lines.together([_line(0.004)])
    among = lines.together([_line(0.004), *[_line(0.5, "SAME")] * 9])
    assert alone[0].verdict == "REGRESSED" and among[0].verdict == "INCONCLUSIVE" and "Holm" in among[0].note
    assert all(line.verdict == "SAME" for line in among[1:])


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["SAME", "IMPROVED"], 0), (["SAME", "REGRESSED", "INCONCLUSIVE"], 4), (["SAME", "INCONCLUSIVE"], 5),
        (["FAILED", "REGRESSED"], 1),
    ],
)  # fmt: skip
def test_the_worst_decides_the_exit_code(verdicts: list[str], code: int) -> None:
    assert check.exit_code(Checked(tuple(_line(0.1, v) for v in verdicts))) == code


def test_not_known_may_be_allowed_but_worse_never() -> None:
    assert check.exit_code(Checked((_line(1.0, "INCONCLUSIVE"),)), allow_inconclusive=True) == 0
    assert check.exit_code(Checked((_line(0.0, "REGRESSED"),)), allow_inconclusive=True) == 4


@pytest.mark.parametrize(
    ("metric", "low", "high", "verdict"),
    [
        ("latency", -0.137, 0.004, "NOT WORSE"), ("latency", -0.137, 0.031, "INCONCLUSIVE"),
        ("throughput", -0.02, 0.15, "NOT WORSE"), ("throughput", -0.15, 0.02, "INCONCLUSIVE"),
        ("accuracy", -0.004, 0.02, "NOT WORSE"), ("latency", None, None, "INCONCLUSIVE"),
    ],
)  # fmt: skip
def test_a_gate_passes_what_cannot_be_worse_though_it_may_be_better(
    metric: str, low: float | None, high: float | None, verdict: str
) -> None:
    change = Quantity(0.0, "ratio", low, high)
    gate = 0.005 if metric == "accuracy" else 0.03
    [found] = lines.one_sided([Line(SUBJECT, metric, "paired", gate, change, change, change, "INCONCLUSIVE")])
    assert found.verdict == verdict
    assert check.exit_code(Checked((found,))) == (0 if verdict == "NOT WORSE" else 5)


def test_a_verdict_that_stands_is_left_alone() -> None:
    found = [_line(0.001, v) for v in ("REGRESSED", "IMPROVED", "SAME", "FAILED")]
    assert lines.one_sided(found) == found


# --- the whole check on recorded sides


MACHINE = {"cpu": {"model": "A", "cores": 4}, "packages": {"onnxruntime": "1.32.0"}}


def source(
    title: str, *sides: Side, machine: dict | None = None, names: tuple[str, ...] = ("student",)
) -> Source:
    return Source(
        title,
        {Subject(n, "onnxruntime"): s for n, s in zip(names, sides, strict=True)},
        MACHINE if machine is None else machine,
    )


def run(base: Source, head: Source, *metrics: str, **options: bool) -> Checked:
    return check.check(
        base, head, thresholds(metrics, Settings()), sources.Options(**options), lambda event, details: None
    )


def test_another_machine_is_refused_by_name_unless_allowed() -> None:
    base = source("old", timed("a", 10, 10.1, 9.9))
    head = source("new", timed("b", 20, 20.1, 19.9), machine={"cpu": {"model": "B", "cores": 4}})
    with pytest.raises(UsageError, match="CPU: A in the base, B now"):
        run(base, head, "latency:3%")
    found = run(base, head, "latency:3%", allow_mismatch=True)
    assert found.lines[0].verdict == "REGRESSED" and any("CPU" in note for note in found.notes)


def test_another_version_of_the_runtime_is_another_environment_and_of_another_package_not() -> None:
    newer = {"cpu": MACHINE["cpu"], "packages": {"onnxruntime": "1.33.0", "torch": "3"}}
    assert differences(MACHINE, newer, ["onnxruntime"]) == ["onnxruntime: 1.32.0 in the base, 1.33.0 now"]
    assert not differences(MACHINE, newer, ["litert"])
    assert differences({}, {}) and differences({}, MACHINE)


def test_nothing_in_common_is_an_error_and_no_pass() -> None:
    with pytest.raises(UsageError, match="nothing in common"):
        run(source("old", side("a"), names=("x",)), source("new", side("b"), names=("y",)), "size")


def test_accuracy_that_nobody_asked_for_and_nobody_can_judge_is_no_line_but_a_note() -> None:
    base, head = source("old", timed("a", 10, 10.1, 9.9)), source("new", timed("b", 20, 20.1, 19.9))
    found = run(base, head)
    assert {line.metric for line in found.lines} == {"latency", "size"}
    assert found.notes == (
        "accuracy of 1 subject is not compared: no answers to the same images: give --data",
    )
    with pytest.raises(UsageError, match="Nobody measured accuracy"):
        run(base, head, "accuracy")


def test_accuracy_of_a_side_with_answers_and_one_with_a_number_is_unpaired() -> None:
    number = Quantity(0.95, "fraction", n=1000, provenance="measured")
    base = source("old", side("a", accuracy=number))
    head = source("new", replace(side("b"), answers=answers(948)))
    (line,) = run(base, head, "accuracy").lines
    assert (line.mode, line.verdict) == ("unpaired", "INCONCLUSIVE")
    assert (
        line.change.value == pytest.approx(-0.002) and line.note == "the base lacks the answers to each image"
    )
    (turned,) = run(head, base, "accuracy").lines
    assert turned.note == "the head lacks the answers to each image"


def test_what_the_head_lacks_is_an_error_unless_allowed() -> None:
    base = source("old", side("a"), side("b"), names=("x", "y"))
    with pytest.raises(UsageError, match=r"lacks 1 .*y on onnxruntime"):
        run(base, source("new", side("c"), names=("x",)), "size")
    found = run(base, source("new", side("c"), names=("x",)), "size", allow_missing=True)
    assert [s.name for s in found.only_base] == ["y"] and len(found.lines) == 1


def test_a_metric_that_nobody_measured_is_an_error_when_it_was_asked_for() -> None:
    base, head = source("old", timed("a", 10, 10.1)), source("new", timed("b", 10, 10.1))
    with pytest.raises(UsageError, match="Nobody measured energy"):
        run(base, head, "energy:5%", "latency")


def test_subjects_keep_the_order_of_the_head() -> None:
    base = source("old", side("a"), side("b"), side("c"), names=("x", "y", "z"))
    head = source("new", side("a"), side("b"), side("d"), names=("z", "x", "w"))
    both, only_base, only_head = shared(base, head)
    assert [s.name for s in both] == ["z", "x"] and [s.name for s in only_base + only_head] == ["y", "w"]
