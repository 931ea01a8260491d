"""What a pruning step refuses before any work, and what it takes for granted."""

from __future__ import annotations

import pytest

from bench.errors import ConfigError
from bench.steps import PruneStep, Training
from compress.prune import SCOPES, check_prune, check_trained, target
from compress.pruning.importance import NAMES


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (PruneStep(macs=1.0), "macs = 1.0"),
        (PruneStep(macs=float("nan")), "between 0 and 1"),
        (PruneStep(params=-0.5), "params = -0.5"),
        (PruneStep(latency=1.2), "latency = 1.2"),
        (PruneStep(macs=0.5, latency=0.6), "one target.*macs = 0.5 and latency = 0.6"),
        (PruneStep(params=0.5, size=0.5), "one target"),
        (PruneStep(importance="taylr"), "Did you mean taylor?"),
        (PruneStep(scope="isomorph"), "Did you mean isomorphic?"),
        (PruneStep(sparsity="4:2"), "2:4"),
        (PruneStep(round_to=-1), "round_to must be a whole number"),
        (PruneStep(steps=0), "steps must be a whole number of at least 1"),
        (PruneStep(steps=True), "steps must be a whole number"),
        (PruneStep(step_epochs=2), "there is one"),
        (PruneStep(sparse_epochs=-1), "sparse_epochs"),
        (PruneStep(blocks=True, trial_steps=-1), "trial_steps must be a whole number"),
        (PruneStep(trial_steps=50), "candidates that differ in their blocks"),
        (PruneStep(sparse_epochs=1, training=Training(lr=-1.0)), "lr must be positive"),
        (PruneStep(sparsity="unstructured", amount=1.0), "amount = 1.0"),
        (PruneStep(sparsity="unstructured", macs=0.5), "does not use macs"),
        (PruneStep(sparsity="unstructured", blocks=True), "does not use blocks"),
        (PruneStep(sparsity="2:4", amount=0.7), "does not use amount"),
        (PruneStep(sparsity="2:4", importance="taylor"), "does not use importance"),
        (PruneStep(sparsity="2:4", scope="local"), "does not use scope"),
        (PruneStep(sparsity="unstructured", round_to=8), "does not use round_to"),
        (PruneStep(sparsity="unstructured", scope="isomorphic"), "does not use scope = isomorphic"),
        (PruneStep(amount=0.7), "share of zeros"),
        (PruneStep(macs=0.5, runtime="litert"), "times nothing"),
    ],
)
def test_impossible_pruning_is_refused(step: PruneStep, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_prune(step)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scope", SCOPES)
def test_every_importance_goes_with_every_scope(name: str, scope: str) -> None:
    step = PruneStep(importance=name, scope=scope, steps=3, step_epochs=1, blocks=True)
    check_prune(step)
    assert step.trains and target(step) == ("macs", 0.5)


def test_a_pruning_says_with_its_own_options_how_long_it_trains() -> None:
    trains = PruneStep(sparse_epochs=2)
    check_trained(trains, ("lr", "optimizer"))
    with pytest.raises(
        ConfigError, match=r"x: this pruning says with options of its own.*, and epochs, patience would"
    ):
        check_trained(trains, ("lr", "epochs", "patience"), "x: ")
    with pytest.raises(ConfigError, match=r"trains nothing, and lr would do nothing.*distill"):
        check_trained(PruneStep(), ("lr",))


def test_trials_use_the_training_options() -> None:
    check_prune(step := PruneStep(latency=0.5, blocks=True, trial_steps=50))
    assert step.trains
    with pytest.raises(ConfigError, match="lr must be positive"):
        check_prune(PruneStep(blocks=True, trial_steps=50, training=Training(lr=-1.0)))


def test_half_of_the_macs_is_the_target_where_none_is_named() -> None:
    assert target(PruneStep()) == ("macs", 0.5)
    assert target(PruneStep(latency=0.6)) == ("latency", 0.6)
    assert target(PruneStep(size=0.25)) == ("size", 0.25)
