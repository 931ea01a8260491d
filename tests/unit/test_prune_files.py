"""A pruned net in its file: missing blocks, narrower parameters, zeros on purpose; and older files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import ModelError
from bench.types import Preprocess
from distill import models, widths

torch = pytest.importorskip("torch")
PRE = Preprocess(16, 16, 1, (0.5,), (0.5,))
SPEC = models.ModelSpec("edgefit:resnet14", 10, 1, tuple("0123456789"), PRE)
FACTORY = """
import torch
from torch import nn

class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6, 10)

    def forward(self, x):
        return self.fc((self.conv(x) * self.scale).mean((2, 3)))

def make():
    return Loose()
"""


def test_missing_blocks_come_back_missing_whoever_saves_the_net(tmp_path: Path) -> None:
    module = models.build(SPEC.arch, 10, 1).eval()
    widths.remove_modules(module, ["stage1.1", "stage3.1"])
    models.save(module, replace(SPEC, removed=("stage1.1", "stage3.1")), tmp_path / "a.safetensors")
    again, spec = models.load(tmp_path / "a.safetensors")
    models.save(again, spec, tmp_path / "b.safetensors")
    last, after = models.load(tmp_path / "b.safetensors")
    assert after.removed == ("stage1.1", "stage3.1")
    assert after.widths == {}
    image = torch.rand(2, 1, 16, 16)
    assert torch.equal(last(image), module(image))
    assert models.count(last, PRE)[1] < models.count(models.build(SPEC.arch, 10, 1), PRE)[1]


def test_a_file_that_misses_an_unknown_block_is_refused(tmp_path: Path) -> None:
    module = models.build(SPEC.arch, 10, 1)
    models.save(module, replace(SPEC, removed=("stage9.1",)), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"no module stage9\.1"):
        models.load(tmp_path / "a.safetensors")


def test_parameters_outside_a_layer_get_narrower_with_it(tmp_path: Path) -> None:
    (tmp_path / "loose.py").write_text(FACTORY)
    arch = f"py:{tmp_path}/loose.py:make"
    module = models.build(arch, 10, 1).eval()
    found = {"conv": [1, 4, 1], "fc": [4, 10, 1], "scale": [1, 4, 1, 1]}
    widths.apply_widths(module, found)
    torch.nn.init.normal_(module.scale)
    models.save(module, replace(SPEC, arch=arch), tmp_path / "a.safetensors")
    again, spec = models.load(tmp_path / "a.safetensors")
    assert spec.widths == found
    assert torch.equal(again.scale, module.scale)


def test_a_layer_the_net_does_not_have_cannot_be_resized() -> None:
    with pytest.raises(ModelError, match=r"no layer stage9\.0"):
        widths.apply_widths(models.build(SPEC.arch, 10, 1), {"stage9.0": [1, 4, 1]})


def test_a_file_from_before_blocks_could_go_still_loads(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "a.safetensors"
    models.save(models.build(SPEC.arch, 10, 1), SPEC, path)
    text = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    about = json.loads(text["__metadata__"]["edgefit"])
    for newer in ("removed", "quantization", "sparsity"):
        del about[newer]
    save_file(load_file(path), path, {"edgefit": json.dumps(about)})
    _, spec = models.load(path)
    assert (spec.removed, spec.sparsity) == ((), "")


def test_attention_is_counted_with_its_products_of_tokens() -> None:
    """N tokens of width D, H heads: 4 N D^2 for the projections, 2 N^2 D between the tokens."""
    from timm.layers import Attention

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention(8, num_heads=2)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.attn(x.flatten(2).transpose(1, 2).expand(-1, -1, 8)).mean(1)

    tokens, width = 16 * 16, 8
    macs, _ = models.count(Net(), PRE)
    assert macs == 4 * tokens * width**2 + 2 * tokens**2 * width
