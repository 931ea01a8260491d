"""Splits, bad data, decoding and preprocessing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.errors import ConfigError, DataError, UsageError
from bench.steps import DataOptions
from distill import data, folders, pixels, sources
from distill.sources import Listing, Sample

REAL = Path(os.environ.get("EDGEFIT_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_real = pytest.mark.skipif(
    not (REAL / "clothing").is_dir(),
    reason="no real images: set EDGEFIT_TEST_DATA to the folder that has clothing/",
)


def picture(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> Path:
    """A small random image; the seed makes its content unique."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def flat(root: Path, counts: dict[str, int], mode: str = "RGB", first: int = 0) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(root / name / f"{i:03}.png", first + 1000 * number + i, mode)
    return root


def options(root: Path, tmp_path: Path, **more: object) -> DataOptions:
    return DataOptions(spec=f"folder:{root}", root=str(tmp_path / "root"), **{"image_size": 8, **more})  # type: ignore[arg-type]


def test_digits_split_is_disjoint_seeded_and_needs_no_torch(tmp_path: Path) -> None:
    one = data.index(DataOptions(root=str(tmp_path)), 0)
    assert one.counts == {"train": 1134, "validation": 179, "calibration": 125, "test": 359}
    assert sum(one.counts.values()) == 1797
    assert (one.channels, one.native_size, one.size, len(one.classes)) == (1, (8, 8), (8, 8), 10)
    keys = [s.key for samples in one.samples.values() for s in samples]
    assert len(set(keys)) == 1797
    assert data.index(DataOptions(root=str(tmp_path)), 0) == one
    other = data.index(DataOptions(root=str(tmp_path)), 1)
    assert other.digest != one.digest
    assert other.samples["test"] != one.samples["test"]
    code = "import sys; from distill import data; from bench.steps import DataOptions; data.index(DataOptions(), 0); "
    code += "assert not {'torch', 'sklearn', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_digits_pixels_are_scaled_to_the_whole_range_and_normalised(tmp_path: Path) -> None:
    loaded = data.load(data.index(DataOptions(root=str(tmp_path)), 0))
    train = loaded.images["train"]
    assert train.shape == (1134, 1, 8, 8)
    assert (int(train.min()), int(train.max())) == (0, 255)
    normal = loaded.normalise(train)
    assert abs(float(normal.mean())) < 1e-3
    assert abs(float(normal.std()) - 1) < 1e-2
    pre = loaded.preprocess
    by_hand = (train[3].float() / 255 - pre.mean[0]) / pre.std[0]
    np.testing.assert_allclose(normal[3].numpy(), by_hand.numpy(), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 60), min_size=2, max_size=6),
    calibration=st.integers(1, 50),
    seed=st.integers(0, 5),
    official=st.sampled_from([(), ("test",), ("validation",), ("validation", "test")]),
    copies=st.integers(0, 3),
)
def test_any_split_is_disjoint_stratified_and_complete(
    sizes: list[int], calibration: int, seed: int, official: tuple[str, ...], copies: int
) -> None:
    def samples(split: str) -> list[Sample]:
        return [
            Sample(f"{split}/{c}/{i}", c, f"{split}{c}-{i}") for c, n in enumerate(sizes) for i in range(n)
        ]

    given_splits = {name: samples(name) for name in ("train", *official)}
    for name in official[:1]:  # train repeats some images of an official split
        given_splits["train"] += [
            Sample(f"copy/{i}", s.label, s.content) for i, s in enumerate(given_splits[name][:copies])
        ]
    listed = Listing(tuple(map(str, range(len(sizes)))), 3, (8, 8), given_splits)
    splits, notes = data.split(listed, calibration, seed)
    contents = [{s.content for s in splits[name]} for name in data.SPLITS]
    assert sum(len(c) for c in contents) == len(set().union(*contents))
    for name in data.SPLITS:
        if name != "calibration":
            assert {s.label for s in splits[name]} == set(range(len(sizes)))
    for name in official:
        assert splits[name] == given_splits[name]
    trainable = len(splits["train"]) + len(splits["calibration"])
    assert 1 <= len(splits["calibration"]) <= min(calibration, max(trainable // 10, len(sizes)))
    dropped = min(copies, len(given_splits[official[0]])) if official else 0
    assert any(n.startswith(f"{dropped} image") and "of train" in n for n in notes) == bool(dropped)
    assert data.split(listed, calibration, seed) == (splits, notes)


def test_missing_splits_are_cut_by_class_and_renaming_the_folder_keeps_the_digest(tmp_path: Path) -> None:
    root = flat(tmp_path / "a", {"cat": 30, "dog": 50})
    one = data.index(options(root, tmp_path), 0)
    assert one.per_class["test"] == (6, 10)
    assert one.per_class["validation"] == (3, 5)
    assert one.notes == ("5 calibration images, not 512: they are at most a tenth of train",)
    root.rename(tmp_path / "b")
    assert data.index(options(tmp_path / "b", tmp_path), 0).digest == one.digest
    assert data.index(options(tmp_path / "b", tmp_path, image_size=9), 0).digest != one.digest
    picture(tmp_path / "b" / "cat" / "000.png", 99)
    assert data.index(options(tmp_path / "b", tmp_path), 0).digest != one.digest


@pytest.mark.parametrize(
    ("train", "name", "test"),
    [("train", "validation", "test"), ("train", "valid", "test"), ("Training", "Val", "Testing")],
)
def test_official_splits_are_kept_and_copies_leave_train(
    tmp_path: Path, train: str, name: str, test: str
) -> None:
    root = tmp_path / "d"
    flat(root / train, {"a": 20, "b": 20})
    flat(root / name, {"a": 4, "b": 4}, first=100)
    flat(root / test, {"a": 5, "b": 5}, first=200)
    (tmp_path / "both" / "train" / "a").mkdir(parents=True)
    (tmp_path / "both" / "training" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="two folders for train"):
        data.index(options(tmp_path / "both", tmp_path), 0)
    (root / train / "a" / "copy.png").write_bytes((root / test / "a" / "000.png").read_bytes())
    one = data.index(options(root, tmp_path), 0)
    assert (one.counts["validation"], one.counts["test"]) == (8, 10)
    assert one.counts["train"] + one.counts["calibration"] == 40
    assert one.notes[0] == "1 image of train is also in validation or test: dropped from train"
    assert json.loads(json.dumps(one.to_json()))["counts"]["test"] == 10


def test_an_image_in_two_classes_is_said(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"cat": 12, "dog": 12, "fox": 12})
    (root / "fox" / "copy.png").write_bytes((root / "dog" / "003.png").read_bytes())
    notes = data.index(options(root, tmp_path), 0).notes
    assert any(n.startswith("1 image is in more than one class (one in dog and fox)") for n in notes)


def test_hidden_files_metadata_and_nested_folders(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 6, "b": 6})
    picture(root / "a" / "deep" / "er" / "x.png", 77)
    for path in (
        ".DS_Store",
        "README.md",
        "labels.csv",
        "a/.DS_Store",
        "a/Thumbs.db",
        ".git/config",
        "b/.hidden/x.txt",
    ):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("x")
    one = data.index(options(root, tmp_path), 0)
    assert one.classes == ("a", "b")
    assert (sum(one.counts.values()), one.skipped) == (13, ())


def test_a_few_bad_files_are_listed_and_skipped_and_many_are_an_error(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 150, "b": 151})
    whole = picture(root / "a" / "cut.jpg", 5, size=(64, 64)).read_bytes()
    (root / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "notes.txt").write_text("hello")
    (root / "b" / "empty.png").write_bytes(b"")
    one = data.index(options(root, tmp_path), 0)
    assert sum(one.counts.values()) == 301
    assert {path for path, _ in one.skipped} == {"a/cut.jpg", "b/notes.txt", "b/empty.png"}
    assert all(reason for _, reason in one.skipped)
    for i in range(4):
        (root / "b" / f"bad{i}.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"7 of the 308 files.*more than 1%.*cut\.jpg"):
        data.index(options(root, tmp_path), 0)


def test_the_second_look_reads_no_image_and_a_damaged_memo_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = flat(tmp_path / "d", {"a": 5, "b": 5})
    looked: list[Path] = []
    look = folders._look
    monkeypatch.setattr(folders, "_look", lambda path: looked.append(path) or look(path))
    one = data.index(options(root, tmp_path), 0)
    assert len(looked) == 10
    assert data.index(options(root, tmp_path), 0) == one
    assert len(looked) == 10
    (memo,) = (tmp_path / "root" / "index").glob("*.json")
    for damage in ("{", '{"version": 1, "files": {"a/000.png": [1, "x"]}}', "[]"):
        looked.clear()
        memo.write_text(damage)
        assert data.index(options(root, tmp_path), 0) == one
        assert len(looked) == 10


def test_bad_folders_are_named(tmp_path: Path) -> None:
    def fails(root: Path, match: str) -> None:
        with pytest.raises(DataError, match=match):
            data.index(options(root, tmp_path), 0)

    fails(tmp_path / "nowhere", "does not exist")
    picture(tmp_path / "loose" / "x.png", 1)
    fails(tmp_path / "loose", "no class folders")
    fails(tmp_path / "loose" / "x.png", "is a file")
    fails(flat(tmp_path / "one", {"a": 5}), "one class only")
    (flat(tmp_path / "empty", {"a": 5, "b": 5}) / "c").mkdir()
    fails(tmp_path / "empty", "c of train .* hold no images")
    fails(flat(tmp_path / "few", {"a": 5, "b": 1}), "class b has too few images")
    flat(tmp_path / "unknown" / "train", {"a": 5, "b": 5})
    flat(tmp_path / "unknown" / "test", {"a": 5, "z": 5}, first=50)
    fails(tmp_path / "unknown", "classes that train lacks.*z")
    flat(tmp_path / "testonly" / "test", {"a": 5, "b": 5})
    fails(tmp_path / "testonly", "no train")


def test_a_set_without_images_to_calibrate_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few images to calibrate"):
        data.index(options(flat(tmp_path / "d", {"a": 3, "b": 3}), tmp_path), 0)


def test_bad_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean cifar10"):
        data.index(DataOptions(spec="cifar11"), 0)
    with pytest.raises(DataError, match=f"folder:{tmp_path}"):
        data.index(DataOptions(spec=str(tmp_path)), 0)
    with pytest.raises(UsageError, match="needs a path"):
        data.index(DataOptions(spec="folder:"), 0)
    for wrong in (
        {"image_size": 0}, {"resize": "strech"}, {"calibration": 0}, {"mean": (0.5,)}, {"std": (0.5,)},
        {"mean": (0.5,), "std": (0.0,)}, {"mean": (float("nan"),), "std": (0.5,)},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            data.index(replace(DataOptions(), **wrong), 0)
    of_colours = DataOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # the digits are grey
    with pytest.raises(ConfigError, match="one number for each channel"):
        data.load(data.index(of_colours, 0))


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 6, "b": 6}, mode="L")
    assert data.index(options(root, tmp_path), 0).channels == 1
    picture(root / "a" / "colour.png", 500)
    loaded = data.load(data.index(options(root, tmp_path), 0))
    assert loaded.images["train"].shape[1] == 3
    assert len(loaded.preprocess.mean) == 3


def test_every_mode_decodes_upright_and_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert folders.open_image(tmp_path / "clear.png", 3).getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert folders.open_image(tmp_path / "deep.png", 1).getpixel((1, 1)) == 128
    for mode, name in (("P", "p.gif"), ("CMYK", "c.jpg"), ("1", "b.png")):
        picture(tmp_path / name, 3, mode)
        assert folders.open_image(tmp_path / name, 3).mode == "RGB"
    sideways = Image.new("RGB", (20, 10))
    tag = sideways.getexif()
    tag[0x0112] = 6
    sideways.save(tmp_path / "side.jpg", exif=tag)
    assert folders.open_image(tmp_path / "side.jpg", 3).size == (10, 20)


def test_crop_keeps_the_aspect_and_stretch_does_not() -> None:
    wide = Image.fromarray(np.repeat(np.repeat([[0, 255, 255, 0]], 10, 1), 20, 0).astype(np.uint8))
    assert np.asarray(sources.resize(wide, (8, 8), "crop"))[:, 1:7].mean() == 255
    assert 100 < np.asarray(sources.resize(wide, (8, 8), "stretch")).mean() < 155


def test_large_data_is_kept_in_a_file_with_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = data.index(options(flat(tmp_path / "d", {"a": 9, "b": 9}), tmp_path), 0)
    in_memory = data.load(index)
    monkeypatch.setattr(pixels, "available_memory", lambda: 100)
    for _ in range(2):
        on_disk = data.load(index)
        for name in data.SPLITS:
            assert bool((on_disk.images[name] == in_memory.images[name]).all())
    assert len(list((tmp_path / "root" / "cache").iterdir())) == 4


def test_a_full_disk_or_an_interrupt_leaves_nothing_of_the_decoded_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is claimed before a page is written: through a map, a full disk would end the process."""
    index = data.index(options(flat(tmp_path / "d", {"a": 9, "b": 9}), tmp_path), 0)
    loaded = data.load(index)
    monkeypatch.setattr(pixels, "available_memory", lambda: 100)

    def full(file: int, start: int, size: int) -> None:
        assert size > 18 * 3 * 64 / 4
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(DataError, match=r"do not fit in memory.*No space left"):
            data.load(index)
        with pytest.raises(OSError, match="No space left"):
            loaded.write_eval(tmp_path / "eval")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load(index)
    assert not list((tmp_path / "root" / "cache").iterdir()) and not list((tmp_path / "eval").iterdir())


def test_images_are_normalised_as_asked_or_by_those_of_train(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 9, "b": 9})
    own = data.index(options(root, tmp_path), 0)
    asked = data.index(options(root, tmp_path, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.25)), 0)
    assert asked.digest != own.digest and (asked.decoded, asked.held_out) == (own.decoded, own.held_out)
    loaded, plain = data.load(asked), data.load(own)
    assert (loaded.preprocess.mean, loaded.preprocess.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.25))
    pixels_, found = loaded.images["test"][:1], loaded.normalise(loaded.images["test"][:1])
    assert found[0, 2].numpy() == pytest.approx((pixels_[0, 2].numpy() / 255 - 0.6) / 0.25, abs=1e-5)
    assert plain.normalise(plain.images["train"]).mean().item() == pytest.approx(0.0, abs=1e-5)
    assert data.index(options(root, tmp_path), 1).held_out != own.held_out


def test_moments_are_exact_whatever_is_counted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 4), dtype=np.uint8)
    whole = pixels.moments(images)
    monkeypatch.setattr(pixels, "MOMENT_PIXELS", 45)
    assert pixels.moments(images) == whole
    np.testing.assert_allclose(whole[1], (images / 255).std(axis=(0, 2, 3)), atol=1e-6)


def test_pixels_of_an_unknown_range_are_refused_and_dark_ones_are_said(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 200, "b": 9}, "L")
    Image.fromarray(np.full((10, 12), 0.5, np.float32)).save(root / "a" / "float.tif")
    twelve = np.random.default_rng(0).integers(0, 4096, (10, 12)).astype(np.uint16)
    Image.fromarray(twelve).save(root / "a" / "deep.png")
    for _ in range(2):  # and as remembered
        found = data.index(options(root, tmp_path), 0)
        assert [(name, "floating-point pixels" in why) for name, why in found.skipped] == [
            ("a/float.tif", True)
        ]
        assert any("no value above" in note and "nearly black" in note for note in found.notes)
    Image.fromarray(np.full((10, 12), 65535, np.uint16)).save(root / "a" / "bright.png")
    Image.frombytes("I;16B", (12, 10), bytes(range(240))).save(root / "a" / "big-endian.tif")
    assert len(data.index(options(root, tmp_path), 0).skipped) == 1
    assert not any("nearly black" in note for note in data.index(options(root, tmp_path), 0).notes)


def test_a_file_that_vanishes_after_the_index_is_named(tmp_path: Path) -> None:
    root = flat(tmp_path / "d", {"a": 9, "b": 9})
    index = data.index(options(root, tmp_path), 0)
    (root / "a" / "003.png").unlink()
    with pytest.raises(DataError, match=r"003\.png could be read when it was indexed"):
        data.load(index)


def test_evaluation_files_hold_validation_then_test(tmp_path: Path) -> None:
    loaded = data.load(data.index(options(flat(tmp_path / "d", {"a": 20, "b": 20}), tmp_path), 0))
    bounds = loaded.write_eval(tmp_path / "eval")
    images, labels = np.load(tmp_path / "eval" / "images.npy"), np.load(tmp_path / "eval" / "labels.npy")
    assert bounds == {"validation": (0, 4), "test": (4, 12)}
    assert (images.shape, images.dtype, labels.dtype) == ((12, 8, 8, 3), np.uint8, np.int64)
    np.testing.assert_array_equal(images[4:], loaded.images["test"].permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(labels[:4], loaded.labels["validation"].numpy())


def test_calibration_is_stratified_and_repeatable(tmp_path: Path) -> None:
    loaded = data.load(data.index(DataOptions(root=str(tmp_path)), 0))
    some = loaded.calibration(20)
    assert some.shape == (20, 1, 8, 8)
    assert bool((loaded.calibration(20) == some).all())
    whole = loaded.normalise(loaded.images["calibration"])
    rows = [int((whole == image).flatten(1).all(1).nonzero()[0]) for image in some]
    assert set(Counter(loaded.labels["calibration"][rows].tolist()).values()) == {2}
    assert len(loaded.calibration(10_000)) == 125
    with pytest.raises(DataError):
        loaded.calibration(0)


def test_a_torchvision_set_that_cannot_be_fetched_says_how_to_place_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match=r"no route to host.*download=True.*copy the contents"):
        data.index(DataOptions(spec="cifar10", root=str(tmp_path)), 0)


def test_a_torchvision_set_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    opened = []

    class Fake:
        classes = ("plane", "car")

        def __init__(self, root: str, train: bool, download: bool) -> None:
            opened.append(train)
            rng = np.random.default_rng(int(train))
            self.data = rng.integers(0, 256, (60 if train else 10, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 2 for i in range(len(self.data))]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    chosen = DataOptions(spec="cifar10", root=str(tmp_path))
    one = data.index(chosen, 0)
    assert one == data.index(chosen, 0)
    assert opened == [True, False]
    assert (one.counts["test"], one.size, one.classes) == (10, (32, 32), ("plane", "car"))
    (array,) = (tmp_path / "arrays").iterdir()
    array.write_bytes(array.read_bytes()[:2000])  # a copy that was cut
    assert data.index(chosen, 0) == one and opened == [True, False, True, False]
    loaded = data.load(one)
    row = int(one.samples["test"][3].key.split("/")[1])
    np.testing.assert_array_equal(
        loaded.images["test"][3].permute(1, 2, 0).numpy(), Fake("", False, True).data[row]
    )


@needs_real
def test_real_photos_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = DataOptions(spec=f"folder:{REAL / 'clothing'}", root=str(tmp_path))
    one = data.index(chosen, 0)
    assert (one.counts["validation"], one.counts["test"], len(one.classes)) == (341, 372, 10)
    assert sum(one.counts.values()) == 3781
    assert (one.channels, one.size, one.skipped) == (3, (64, 64), ())
    looked: list[Path] = []
    monkeypatch.setattr(folders, "_look", looked.append)
    assert data.index(chosen, 0) == one and not looked
