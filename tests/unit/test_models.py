"""Building, describing, saving, resizing and feeding weights to models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.errors import ModelError
from bench.types import Preprocess
from distill import losses, models, nets

PRE = Preprocess(32, 32, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
LABELS = tuple("abcdefghij")


def spec(arch: str) -> models.ModelSpec:
    return models.ModelSpec(arch, 10, 3, LABELS, PRE)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet8", 78_042),
        ("resnet20", 272_474),
        ("resnet56", 855_770),
        ("resnet20x0.5", 68_786),
        ("tiny", 6_418),
    ],
)
def test_our_nets_have_the_published_sizes_and_answer_logits(name: str, params: int) -> None:
    net = models.build(f"edgefit:{name}", 10, 3)
    assert models.count(net, PRE)[1] == params
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_macs_of_resnet20_are_those_of_the_paper() -> None:
    net = models.build("edgefit:resnet20", 10, 3).train()
    macs, _ = models.count(net, PRE)
    assert macs == pytest.approx(41.1e6, rel=0.01)  # 40.6 M with the shortcuts of option A
    assert net.training


@pytest.mark.parametrize("arch", ["edgefit:mobilenet_v3_small", "timm:resnet10t", "torchvision:resnet18"])
def test_other_families_take_grey_images_and_any_class_count(arch: str, tmp_path: Path) -> None:
    net = models.build(arch, 7, 1).eval()
    image = torch.rand(2, 1, 32, 32)
    assert net(image).shape == (2, 7)
    described = models.ModelSpec(arch, 7, 1, LABELS[:7], Preprocess(32, 32, 1, (0.5,), (0.5,)))
    models.save(net, described, tmp_path / "m.safetensors")
    again, found = models.load(tmp_path / "m.safetensors")
    assert found == described
    torch.testing.assert_close(again(image), net(image))


@pytest.mark.parametrize(
    ("arch", "match"),
    [
        ("edgefit:resnet21", "Did you mean .*resnet20"),
        ("resnet20", "Did you mean edgefit:resnet20"),
        ("resnet18", "Did you mean timm:resnet18"),
        ("vgg16_typo", "Others are timm:NAME"),
        ("edgefit:", "no model"),
        ("edgefit:resnet20x99", "width factor"),
        ("timm:resnet18x", "Did you mean"),
        ("torchvision:resnet19", "Did you mean"),
        ("py:nowhere.py:make", "no model file"),
    ],
)
def test_unknown_names_offer_the_nearest(arch: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        models.build(arch, 10, 3)


def test_every_name_we_list_builds() -> None:
    for name in nets.NAMES:
        assert models.head(models.build(f"edgefit:{name}", 3, 1), 3)


def test_a_file_describes_itself_and_restores_every_bit(tmp_path: Path) -> None:
    net = models.build("edgefit:tiny", 10, 3).to(memory_format=torch.channels_last)
    path = tmp_path / "m.safetensors"
    models.save(net, spec("edgefit:tiny"), path)
    state = torch.random.get_rng_state()
    again, found = models.load(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found == spec("edgefit:tiny") == models.read_spec(path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_pruned_net_comes_back_at_its_widths(tmp_path: Path) -> None:
    net = models.build("edgefit:resnet8", 10, 3).eval()
    conv, norm, after = net.stage1[0].main[0], net.stage1[0].main[1], net.stage1[0].main[3]
    keep = [0, 2, 3, 7, 11]
    for layer in (conv, norm):
        for name in ("weight", "bias", "running_mean", "running_var"):
            old = getattr(layer, name, None)
            if old is not None:
                new = old.detach()[keep]
                setattr(layer, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
    conv.out_channels = norm.num_features = after.in_channels = 5
    after.weight = nn.Parameter(after.weight.detach()[:, keep])
    models.save(net, spec("edgefit:resnet8"), tmp_path / "p.safetensors")
    again, found = models.load(tmp_path / "p.safetensors")
    assert found.widths == {
        "stage1.0.main.0": [16, 5, 1],
        "stage1.0.main.1": [5, 5, 1],
        "stage1.0.main.3": [5, 16, 1],
    }
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(image), net(image))
    assert models.count(again, PRE) == models.count(net, PRE)
    assert models.count(again, PRE)[1] < 78_042


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "absent", "foreign"])
def test_damaged_model_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    models.save(models.build("edgefit:tiny", 10, 3), spec("edgefit:tiny"), path)
    whole = path.read_bytes()
    if damage == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "absent":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": whole[: len(whole) // 2], "flip": b"\xff" * 8 + whole[8:], "empty": b""}[damage]
        )
    with pytest.raises(ModelError, match=r"m\.safetensors"):
        models.load(path)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_of_common_checkpoints_load(tmp_path: Path, wrap: str | None, prefix: str) -> None:
    source = models.build("edgefit:tiny", 10, 3)
    state = {prefix + k: v for k, v in source.state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "w.pt")
    net = models.build("edgefit:tiny", 10, 3, str(tmp_path / "w.pt"))
    assert torch.equal(net.fc.weight, source.fc.weight)


def test_a_classifier_of_another_size_is_dropped_with_a_note(tmp_path: Path) -> None:
    source = models.build("edgefit:tiny", 100, 3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    net, notes = models.build_with_notes("edgefit:tiny", 10, 3, str(tmp_path / "w.safetensors"))
    assert net.fc.out_features == 10
    assert torch.equal(net.features[0].weight, source.features[0].weight)
    assert "fc" in notes[0]


def test_weights_that_do_not_fit_name_the_tensors(tmp_path: Path) -> None:
    save_file(models.build("edgefit:tinyx2", 10, 3).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(
        ModelError, match=r"features\.0\.weight: \(16, 3, 3, 3\), the model has \(8, 3, 3, 3\)"
    ):
        models.build("edgefit:tiny", 10, 3, str(tmp_path / "wide.safetensors"))
    save_file(models.build("edgefit:resnet8", 10, 3).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="missing: features"):
        models.build("edgefit:tiny", 10, 3, str(tmp_path / "other.safetensors"))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_pickle_that_needs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"would run code.*system.*state_dict\(\)"):
        models.build("edgefit:tiny", 10, 3, "evil.pt")
    assert not (tmp_path / "pwned").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ModelError, match=r"would run code.*Linear.*state_dict\(\)"):
        models.build("edgefit:tiny", 10, 3, "whole.pt")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("w.pt", b"rubbish", "damaged"),
        ("w.pt", b"", "damaged"),
        ("w.safetensors", b"rubbish", "damaged"),
        ("w.onnx", b"x", "cannot be read from"),
        ("gone.pt", None, "do not exist"),
    ],
)
def test_unreadable_weights_are_named(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=match):
        models.build("edgefit:tiny", 10, 3, str(tmp_path / name))


def test_a_factory_gets_the_arguments_it_knows(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def full(num_classes, in_channels): return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 16, num_classes))\n"
        "def fixed(): return nn.Linear(4, 4)\n"
        "def wrong(): return 3\n"
        "def broken(): raise KeyError('x')\n"
    )
    assert models.build(f"py:{file}:full", 5, 2)(torch.zeros(1, 2, 4, 4)).shape == (1, 5)
    assert isinstance(models.build(f"py:{file}:fixed", 5, 2), nn.Linear)
    for name, match in (("wrong", "did not make"), ("broken", "KeyError"), ("ful", "Did you mean full")):
        with pytest.raises(ModelError, match=match):
            models.build(f"py:{file}:{name}", 5, 2)


def test_images_a_net_cannot_take_are_named() -> None:
    with pytest.raises(ModelError, match="cannot take images of 1 x 32 x 32"):
        models.count(models.build("edgefit:tiny", 10, 3), Preprocess(32, 32, 1, (0.5,), (0.5,)))


def test_pretrained_weights_without_a_network_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(ModelError, match=r"pretrained weights of torchvision:resnet18.*no route to host"):
        models.build("torchvision:resnet18", 10, 3, "pretrained")
    with pytest.raises(ModelError, match="no pretrained weights"):
        models.build("edgefit:tiny", 10, 3, "pretrained")


def test_torchvision_pretrained_weights_fit_grey_images_and_other_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision

    stored = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: dict(stored))
    net, notes = models.build_with_notes("torchvision:resnet18", 4, 1, "pretrained")
    torch.testing.assert_close(net.conv1.weight, stored["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(net.layer4[1].bn2.weight, stored["layer4.1.bn2.weight"])
    assert "starts anew" in notes[0]


def test_focal_loss_is_cross_entropy_at_gamma_zero_and_less_on_easy_images() -> None:
    logits, target = torch.randn(16, 5), torch.randint(0, 5, (16,))
    torch.testing.assert_close(
        losses.focal(logits, target, gamma=0), nn.functional.cross_entropy(logits, target)
    )
    smooth = nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(losses.focal(logits, target, gamma=0, smoothing=0.1), smooth)
    easy = torch.tensor([[4.0, 0.0]])
    right = torch.tensor([0])
    assert losses.focal(easy, right) < 0.01 * nn.functional.cross_entropy(easy, right)


def test_distillation_is_zero_for_equal_logits_and_follows_the_paper() -> None:
    a, b = torch.randn(8, 5), torch.randn(8, 5)
    assert float(losses.distillation(a, a, 4.0)) == pytest.approx(0, abs=1e-6)
    p, q = (b / 4).softmax(1), (a / 4).softmax(1)
    by_hand = 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses.distillation(a, b, 4.0), by_hand)


def test_class_weights_give_every_class_the_same_sum() -> None:
    counts = [10, 30, 0, 60]
    weights = losses.class_weights(counts)
    assert [round(w * c, 6) for w, c in zip(weights, counts, strict=True)] == [
        33.333333,
        33.333333,
        0,
        33.333333,
    ]
