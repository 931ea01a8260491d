"""How many channels stay: rounding, scopes, budgets; on groups that are made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StepError
from compress.pruning import costs
from compress.pruning.channels import MIN_KEPT, Group
from compress.pruning.costs import Budget, Costs, LayerCost

torch = pytest.importorskip("torch")
SCOPES = st.sampled_from(["global", "local", "isomorphic"])


def group(scores: Any, sets: int = 1, kind: str = "", effects: Any = ()) -> Group:
    return Group(None, None, torch.as_tensor(scores, dtype=torch.float32), sets, effects, kind)


@given(
    units=st.integers(1, 300),
    sets=st.sampled_from([1, 2, 3, 4, 8]),
    round_to=st.integers(1, 32),
    share=st.floats(0, 1),
)
def test_widths_are_multiples_and_never_empty(units: int, sets: int, round_to: int, share: float) -> None:
    made = group(range(units), sets)
    kept = costs.rounded(made, units * share, round_to)
    assert 1 <= kept <= units
    assert kept == units or kept * sets % round_to == 0
    assert kept >= min(units, MIN_KEPT * units)
    assert costs.rounded(made, float(units), round_to) == units


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1), SCOPES)
def test_a_larger_ratio_never_keeps_more(sizes: list[int], a: float, b: float, scope: str) -> None:
    groups = [group(torch.arange(float(n)) * (i + 1), kind=str(i % 2)) for i, n in enumerate(sizes)]
    less, more = (costs.wanted(groups, r, scope) for r in sorted((a, b)))
    assert all(x >= y for x, y in zip(less, more, strict=True))


def test_scopes_rank_among_all_within_a_kind_or_not_at_all() -> None:
    groups = [
        group([1, 2, 3, 4], kind="stem"),
        group([5, 6, 7, 8], kind="stem"),
        group([10, 20], kind="fc"),
    ]
    assert costs.wanted(groups, 0.5, "global") == [0, 3, 2]
    assert costs.wanted(groups, 0.5, "isomorphic") == [0, 4, 1]
    assert costs.wanted(groups, 0.5, "local") == [2, 2, 1]


def square(units: int) -> tuple[list[Group], Costs]:
    """One layer of ``units`` x ``units``, with the same group of channels on both sides, and a bias."""
    layer = object()
    effects = ((layer, "out", units), (layer, "in", units))
    cost = LayerCost(100 * units * units, units * units, units, units, units)
    return [group(range(units), effects=effects)], Costs({layer: cost}, cost.macs, units * units + units)


@given(st.integers(2, 200), st.floats(0.35, 0.99), st.sampled_from(["macs", "params"]))
def test_a_budget_is_met_and_the_next_wider_net_would_miss_it(units: int, share: float, what: Any) -> None:
    groups, cost = square(units)
    budget = Budget(what, share, cost.macs if what == "macs" else cost.params)
    [kept] = costs.search(groups, cost, budget, "global", 1)
    assert budget.spent(cost, groups, [kept]) <= budget.limit
    assert kept == units or budget.spent(cost, groups, [kept + 1]) > budget.limit


def test_a_budget_out_of_reach_says_how_close_one_gets() -> None:
    groups, cost = square(16)
    with pytest.raises(StepError, match=r"target of 0\.010 of the parent's MACs.*0\.016 at best"):
        costs.search(groups, cost, Budget("macs", 0.01, cost.macs), "global", 1)
    with pytest.raises(StepError, match=r"parameters, which size is counted by here, cannot.*Raise size"):
        costs.search(groups, cost, Budget("params", 0.01, cost.params, "size"), "global", 1)
