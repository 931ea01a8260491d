"""`bench gate` and `bench compare` end to end: real files, real processes, real git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.gate import noise
from bench.gate.looks import LOOKS
from bench.measure.selftest import standard_model
from tests.command import bench


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of these tests are theirs."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    return tmp_path / "home"


def git(cwd: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True)


def classifier(path: Path, wrong: int = 0, note: str = "") -> Path:
    """A linear classifier of the digits, fitted; ``wrong``: so many classes have their columns exchanged."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.repeat(np.repeat(digits.images, 1, axis=1), 1, axis=2).reshape(len(digits.images), -1) / 16.0
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weights = np.linalg.lstsq(design, np.eye(10)[digits.target] * 2 - 1, rcond=None)[0].astype(np.float32)
    if wrong:
        order = [*np.roll(np.arange(wrong), 1), *range(wrong, 10)]
        weights = weights[:, order]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weights[:-1], "w"), numpy_helper.from_array(weights[-1], "b")]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "digits", [images], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.doc_string = note
    onnx.save(model, path)
    return path


FEED = ("--data", "digits", "--preprocess", "unit")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a net, m.onnx, and its stored baseline, gate.json."""
    folder = tmp_path_factory.mktemp("stored")
    classifier(folder / "m.onnx")
    made = bench(
        "gate",
        "m.onnx",
        "--baseline",
        "gate.json",
        "--update-baseline",
        "--reason",
        "first",
        *FEED,
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr
    return folder


def test_a_file_that_is_the_same_passes_and_everything_is_written(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", note="the same net in another file")
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "accuracy:0.5pt", "size:5%", *FEED,
                 "--write", "out.md", "--write", "out.xml", "--json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "PASSED" and {line["verdict"] for line in document["lines"]} == {"SAME"}
    assert document["lines"][1]["base"]["value"] > 0.85
    assert (
        "PASSED" in (tmp_path / "out.md").read_text() and "<testsuite" in (tmp_path / "out.xml").read_text()
    )


def test_settings_say_how_images_are_fed(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", wrong=2)
    settings = '[tool.edgefit.gate]\ndata = "digits"\nmetrics = ["accuracy:0.5pt"]\n'
    (tmp_path / "pyproject.toml").write_text(settings + 'preprocess = "unit"\n')
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", cwd=tmp_path)
    assert done.returncode == 4 and "REGRESSED" in done.stdout, done.stderr
    (tmp_path / "pyproject.toml").write_text(settings + 'preprocess = "imagnet"\n')
    wrong = bench("gate", "b.onnx", "--baseline", "a.onnx", cwd=tmp_path)
    assert wrong.returncode == 2 and "imagenet" in wrong.stderr


def test_a_description_of_another_file_is_not_believed(tmp_path: Path) -> None:
    from bench.measure.artifact import describe_file
    from bench.types import to_json

    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", wrong=2)
    beside = json.dumps(to_json(describe_file(tmp_path / "a.onnx")[0]))
    (tmp_path / "b.onnx.json").write_text(beside)
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "size:1%", cwd=tmp_path)
    assert done.returncode == 2 and "b.onnx.json describes another file" in done.stderr


def test_a_file_that_is_not_there_is_no_run(tmp_path: Path) -> None:
    done = bench("gate", "m.onnx", "--baseline", "a.onnx", "--metric", "size:1%", cwd=tmp_path)
    assert done.returncode == 2 and "There is no file m.onnx" in done.stderr


def test_a_report_does_not_replace_the_baseline(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text("{}")
    done = bench(
        "gate",
        "m.onnx",
        "--baseline",
        "gate.json",
        "--metric",
        "size:1%",
        "--write",
        "gate.json",
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "would replace the baseline" in done.stderr
    assert (tmp_path / "gate.json").read_text() == "{}"


def test_a_planted_loss_of_accuracy_is_a_regression(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", wrong=2)
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "accuracy", *FEED, cwd=tmp_path)
    assert done.returncode == 4 and "REGRESSED" in done.stdout and "McNemar" in done.stdout


def test_github_gets_annotations_and_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", wrong=3)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "accuracy", *FEED, cwd=tmp_path)
    assert done.returncode == 4 and "::error title=REGRESSED accuracy::" in done.stdout
    assert "### edgefit: REGRESSED" in (tmp_path / "summary.md").read_text()


def test_pairs_are_measured_until_the_answer_is_clear(tmp_path: Path) -> None:
    """Twice the work is seen at the first look; the budget is spent on nothing else."""
    base = standard_model(tmp_path)
    model = onnx.load(base)
    for i in range(8, 14):  # six more convolutions of the same size
        model.graph.initializer.append(
            numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[1]), f"w{i}")
        )
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "GlobalAveragePool")
    last = model.graph.node[at].input[0]
    for i in range(8, 14):
        model.graph.node.insert(at, helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        last, at = f"c{i}", at + 1
    model.graph.node[at].input[0] = last
    onnx.save(model, tmp_path / "slow.onnx")
    done = bench(
        "gate",
        "slow.onnx",
        "--baseline",
        base.name,
        "--metric",
        "latency:3%",
        "throughput",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    document = json.loads(done.stdout)
    latency, throughput = document["lines"]
    assert latency["verdict"] == throughput["verdict"] == "REGRESSED"
    n = latency["change"]["n"]  # the first look, unless this machine is very busy
    assert latency["mode"] == "paired" and n in LOOKS and latency["change"]["low"] > 0.2
    assert throughput["change"]["high"] < -0.15
    (pairs,) = document["pairs"].values()
    assert len(pairs) == n and {p["first"] for p in pairs} == {"base", "head"}
    for pair in pairs:  # the ratio can be computed again from what is kept
        ratios = [h / b for b, h in zip(pair["base_turns_ms"], pair["head_turns_ms"], strict=False)]
        assert np.exp(np.median(np.log(ratios))) == pytest.approx(pair["ratio"], rel=1e-3)


@pytest.mark.skipif("EDGEFIT_LONG_TESTS" not in os.environ, reason="takes 30 s; set EDGEFIT_LONG_TESTS=1")
def test_a_budget_that_is_too_small_is_inconclusive_and_no_verdict(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", note="other")
    files = ("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "latency:0.001%", "--budget", "1s")
    done = bench(*files, cwd=tmp_path)
    assert done.returncode == 5 and "INCONCLUSIVE" in done.stdout and "would have been seen" in done.stdout


def test_a_stored_baseline_is_updated_with_a_reason_and_measured_beside_what_is_new(
    stored: Path, tmp_path: Path
) -> None:
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    refused = bench("gate", "m.onnx", "--baseline", "gate.json", "--update-baseline", cwd=tmp_path)
    assert refused.returncode == 2 and "wants to know why" in refused.stderr
    assert json.loads((tmp_path / "gate.json").read_text())["reason"] == "first"
    same = bench("gate", "m.onnx", "--baseline", "gate.json", cwd=tmp_path)
    assert same.returncode == 0 and same.stdout.count("SAME") == 3
    classifier(tmp_path / "m.onnx", wrong=2)
    worse = bench("gate", "m.onnx", "--baseline", "gate.json", "--metric", "accuracy", cwd=tmp_path)
    assert worse.returncode == 4, worse.stderr


def test_numbers_of_another_machine_are_refused_by_name(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "gate.json").read_text())
    document["machine"]["cpu"]["model"] = "Cray-1"
    document["subjects"][0]["artifact"]["sha256"] = "0" * 64
    (tmp_path / "gate.json").write_text(json.dumps(document))
    done = bench("gate", "m.onnx", "--baseline", "gate.json", "--metric", "latency", cwd=tmp_path)
    assert done.returncode == 2 and "CPU: Cray-1 in the base" in done.stderr


def test_a_file_as_a_git_revision_has_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    classifier(tmp_path / "m.onnx")
    git(tmp_path, "add", "m.onnx")
    git(tmp_path, "commit", "-qm", "first")
    classifier(tmp_path / "m.onnx", wrong=2)
    done = bench("gate", "m.onnx", "--baseline", "git:main", "--metric", "accuracy", *FEED, cwd=tmp_path)
    assert done.returncode == 4 and "m.onnx at main" in done.stdout, done.stderr
    nowhere = bench("gate", "m.onnx", "--baseline", "git:nowhere", cwd=tmp_path)
    assert nowhere.returncode == 2 and "no revision 'nowhere'" in nowhere.stderr
    (tmp_path / "n.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    absent = bench("gate", "n.onnx", "--baseline", "git:main", cwd=tmp_path)
    assert absent.returncode == 2 and "n.onnx is not in the revision" in absent.stderr


def test_several_files_against_a_revision_and_new_ones(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    for name in ("m", "n"):
        classifier(tmp_path / f"{name}.onnx", note=name)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    classifier(tmp_path / "new.onnx", note="new")
    classifier(tmp_path / "n.onnx", note="n" * 3000)
    size = ("--baseline", "git:HEAD", "--metric", "size:1%")
    done = bench("gate", "m.onnx", "n.onnx", "new.onnx", *size, cwd=tmp_path)
    assert done.returncode == 4 and "new: new on onnxruntime" in done.stdout, done.stderr
    alone = ("gate", "new.onnx", *size)
    assert bench(*alone, cwd=tmp_path).returncode == 2
    assert bench(*alone, "--allow-new", cwd=tmp_path).returncode == 0


def test_the_action_s_script_checks_against_the_base_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    git(far, "init", "-q", "-b", "main")
    classifier(far / "m.onnx")
    git(far, "add", ".")
    git(far, "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", str(far), str(near))
    git(near, "update-ref", "-d", "refs/remotes/origin/main")
    classifier(near / "m.onnx", note="x" * 3000)
    script = Path(__file__).parents[2] / ".github/actions/bench-gate/check.sh"
    for key, value in {"SUBJECT": "m.onnx", "BASELINE": "git:origin/main", "METRICS": "size:1%", "BENCH": str(Path(sys.executable).with_name("bench")),
                       "GITHUB_OUTPUT": str(tmp_path / "output")}.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    done = subprocess.run(["bash", script], cwd=near, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert (tmp_path / "output").read_text() == "verdict=REGRESSED\n" and (near / "bench-gate.xml").exists()


def test_a_revision_is_built_once(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    classifier(tmp_path / "source.onnx")
    (tmp_path / "make.sh").write_text(
        f"echo built >> {tmp_path}/built.txt; mkdir -p out; cp source.onnx out/m.onnx\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        '[tool.edgefit.gate]\nbuild = "sh make.sh"\nsubject = "out/m.onnx"\nbaseline = "git:main"\nmetrics = ["size:1%"]\n'
    )
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "out").mkdir()
    classifier(tmp_path / "out" / "m.onnx", note="x" * 5000)
    for _ in range(2):
        done = bench("gate", cwd=tmp_path)
        assert done.returncode == 4 and "REGRESSED" in done.stdout, done.stderr
    assert (tmp_path / "built.txt").read_text() == "built\n"
    (tmp_path / "pyproject.toml").write_text(
        "[tool.edgefit.gate]\nbuild = \"sh -c 'echo no such compiler; exit 3'\"\n"
    )
    failed = bench("gate", "out/m.onnx", "--baseline", "git:main", cwd=tmp_path)
    assert failed.returncode not in (0, 4, 5) and "no such compiler" in failed.stderr


def test_a_crash_is_no_regression(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:-200])
    for sides in (("b.onnx", "--baseline", "a.onnx"), ("a.onnx", "--baseline", "b.onnx")):
        written = ("--write", "out.md", "--write", "out.xml", "--write", "out.json")
        done = bench("gate", *sides, "--metric", "latency", *written, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr
        document = json.loads((tmp_path / "out.json").read_text())
        assert (document["verdict"], document["exit_code"]) == ("FAILED", 1)
        assert document["lines"][0]["note"] in done.stderr.replace("error: ", "")
        assert 'errors="1"' in (tmp_path / "out.xml").read_text()
        assert "FAILED" in (tmp_path / "out.md").read_text()


def test_a_number_that_files_do_not_have_is_said_without_measuring(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    classifier(tmp_path / "b.onnx", wrong=2)
    done = bench("gate", "b.onnx", "--baseline", "a.onnx", "--metric", "energy:5%", cwd=tmp_path)
    assert done.returncode == 2 and "Nobody measured energy" in done.stderr, done.stderr
    assert "the file of the base has no record" in done.stderr
    assert "measuring" not in done.stderr and "pairs" not in done.stderr


def test_a_baseline_that_is_not_there_yet_may_be_allowed(tmp_path: Path) -> None:
    classifier(tmp_path / "a.onnx")
    asked = ("gate", "a.onnx", "--baseline", "gate.json", "--metric", "size:1%")
    assert bench(*asked, cwd=tmp_path).returncode == 2
    done = bench(*asked, "--allow-new", cwd=tmp_path)
    assert done.returncode == 0 and "NEW" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "It is not said what to check"),
        (("a.onnx",), "what to hold it against"),
        (("a.onnx", "--baseline", "gate.json"), "There is no baseline gate.json"),
        (("a.onnx", "--baseline", "a.onnx", "--metric", "latncy:3%"), "Did you mean latency"),
        (("a.onnx", "--baseline", "a.onnx", "--write", "x.txt"), "must end in"),
        (("a.onnx", "a.onnx", "--baseline", "git:main"), "Two files are called a"),
        (("a.onnx", "--baseline", "git:main"), "is in no git repository"),
    ],
)
def test_what_cannot_be_checked_is_wrong_usage(
    tmp_path: Path, arguments: tuple[str, ...], match: str
) -> None:
    classifier(tmp_path / "a.onnx")
    done = bench("gate", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and match in done.stderr, done.stderr


def test_the_simulation_and_the_check_share_their_statistics() -> None:
    assert noise.simulate("white", 0.05, 20).verdicts == {"REGRESSED": 20}


def test_results_are_kept_per_commit_and_shown_and_plotted(stored: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    shutil.copyfile(stored / "gate.json", tmp_path / "gate.json")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    added = bench("history", "add", "gate.json", cwd=tmp_path)
    assert added.returncode == 0 and "1 results of gate.json added" in added.stderr, added.stderr
    unknown = bench("history", "add", "gate.json", "--commit", "v9", cwd=tmp_path)
    assert unknown.returncode == 2 and "has no revision 'v9'" in unknown.stderr
    shown = bench("history", "show", cwd=tmp_path)
    assert shown.returncode == 0 and "m on onnxruntime" in shown.stdout and "latency" in shown.stdout
    plotted = bench("history", "plot", cwd=tmp_path)
    assert plotted.returncode == 0 and (tmp_path / "trend.html").stat().st_size > 1e6
    nothing = bench("history", "show", "--file", "none.jsonl", cwd=tmp_path)
    assert nothing.returncode == 2 and "Begin one" in nothing.stderr


def test_two_stored_results_are_compared(stored: Path, tmp_path: Path) -> None:
    shutil.copyfile(stored / "gate.json", tmp_path / "a.json")
    other = json.loads((tmp_path / "a.json").read_text())
    other["subjects"][0]["artifact"]["sha256"] = "0" * 64
    other["subjects"][0]["numbers"]["size_bytes"]["value"] *= 1.5
    (tmp_path / "b.json").write_text(json.dumps(other))
    done = bench("compare", "a.json", "b.json", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    verdicts = {line["metric"]: (line["mode"], line["verdict"]) for line in document["lines"]}
    assert document["verdict"] == "REGRESSED", "it exits with 0, but that is no pass"
    assert verdicts["accuracy"] == ("answers", "SAME") and verdicts["size"] == ("exact", "REGRESSED")
    assert verdicts["latency"][0] == "recorded" and done.returncode == 0
    table = bench("compare", "a.json", "b.json", "--format", "md", cwd=tmp_path).stdout
    assert "| m on onnxruntime | accuracy |" in table
