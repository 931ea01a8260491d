"""Zeros among the weights: where they are put, and that training leaves them alone."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import ConfigError, StepError
from bench.steps import Training

torch = pytest.importorskip("torch")
nn = torch.nn


def layers(module: Any) -> list[tuple[str, Any]]:
    from compress.pruning.sparsity import _layers

    return _layers(module)


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 4)
    )


def test_two_of_every_four_inputs_are_zero_and_they_are_the_smallest() -> None:
    from compress.pruning.sparsity import two_of_four

    module = net()
    before = module[2].weight.detach().clone()
    assert two_of_four(layers(module)) == ["0", "1"]
    after = module[2].weight.detach()
    fours = after.permute(0, 2, 3, 1).reshape(-1, 4)
    assert ((fours == 0).sum(1) == 2).all()
    wanted = before.permute(0, 2, 3, 1).reshape(-1, 4).abs().sort(1).values[:, 2:]
    assert torch.equal(fours.abs().sort(1).values[:, 2:], wanted)
    assert ((module[4].weight.reshape(-1, 4) == 0).sum(1) == 2).all()
    assert (module[1].weight != 0).all()


def test_a_net_that_cannot_take_the_pattern_is_refused() -> None:
    from compress.pruning.sparsity import two_of_four

    with pytest.raises(StepError, match="unstructured"):
        two_of_four(layers(nn.Sequential(nn.Conv2d(3, 8, 3))))


def test_the_smallest_weights_go_of_all_layers_together_or_of_each() -> None:
    from compress.pruning.sparsity import smallest

    for scope in ("global", "local"):
        module = net()
        with torch.no_grad():
            module[4].weight.mul_(100)
        smallest(layers(module), 0.5, scope)
        weights = [layer.weight for _, layer in layers(module)]
        zero = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert zero == pytest.approx(0.5, abs=0.01)
        assert bool((module[4].weight == 0).any()) is (scope == "local")


def test_no_layer_is_emptied() -> None:
    from compress.pruning.sparsity import smallest

    module = net()
    with torch.no_grad():
        module[2].weight.mul_(1e-6)
    smallest(layers(module), 0.9, "global")
    assert 0.98 >= float((module[2].weight == 0).float().mean()) > 0.9


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_zeros_stay_zeros_and_the_rest_learns(name: str) -> None:
    from compress.pruning.sparsity import two_of_four
    from distill.sparse import keep_zeros

    module = net()
    two_of_four(layers(module))
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(ConfigError, match="Muon cannot train"):
        keep_zeros(module, Training(optimizer="muon"))
    keep_zeros(module, Training(optimizer=name))
    if name == "sgd":
        optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    for seed in range(3):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        module(torch.randn(4, 3, 7, 7)).square().mean().backward()
        optimizer.step()
    for old, new in zip(before, module.parameters(), strict=True):
        if old.ndim > 1:
            assert torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)
