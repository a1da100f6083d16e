"""Capacities hold, shares are even, assignments are the best there are."""

from typing import Any

import numpy as np
import pytest
from gate_batches import allowed, batches, quick
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router import gates
from router.balanced_gates import balanced_assignment, expert_choice, selective_sinkhorn, within_capacity


@quick
@given(batch=batches(), capacity=st.integers(0, 8))
@example(batch=(np.full((4, 2), 200.0), None), capacity=2)
def test_expert_choice_fills_every_column_exactly(batch: tuple[Any, Any], capacity: int) -> None:
    scores, eligible = batch
    gating = expert_choice(scores, capacity, eligible=eligible)
    assert np.array_equal(gating.load, np.minimum(capacity, allowed(scores, eligible).sum(axis=0)))


def test_expert_choice_takes_the_rows_that_are_surest_of_it() -> None:
    scores = np.array([[5.0, 5.0], [2.0, 0.0], [1.0, 3.0]])  # the first row scores highest, and is sure of nothing
    assert expert_choice(scores, 1).dispatch.tolist() == [[False, False], [True, False], [False, True]]


def test_expert_choice_tells_rows_apart_where_the_softmax_saturates() -> None:
    scores = np.array([[50.0, 0.0], [60.0, 0.0], [55.0, 0.0]], dtype=np.float32)
    assert expert_choice(scores, 1).dispatch.tolist() == [[False, True], [True, False], [False, False]]


@st.composite
def capacities(draw: st.DrawFn) -> tuple[Any, Any, int, Any]:
    scores, eligible = draw(batches())
    room = draw(st.integers(0, 4) | hnp.arrays(np.int64, scores.shape[1], elements=st.integers(0, 4)))
    return scores, eligible, draw(st.integers(1, 3)), room


@quick
@given(case=capacities())
def test_no_expert_goes_over_its_capacity_and_rectifying_only_adds(case: tuple[Any, Any, int, Any]) -> None:
    scores, eligible, k, room = case
    drop, following, fill = (
        within_capacity(scores, k, room, overflow=overflow, eligible=eligible).dispatch
        for overflow in ("drop", "next", "fill")
    )
    assert not (drop & ~gates.top_k(scores, k, eligible=eligible).dispatch).any()
    assert not (drop & ~following).any()
    assert not (following & ~fill).any()
    assert (following.sum(axis=1) <= k).all()
    assert (fill.sum(axis=0) == np.minimum(room, allowed(scores, eligible).sum(axis=0))).all()


@quick
@given(case=capacities())
def test_overflow_leaves_no_row_short_while_an_expert_it_may_ask_has_room(case: tuple[Any, Any, int, Any]) -> None:
    scores, eligible, k, room = case
    gating = within_capacity(scores, k, room, eligible=eligible)
    short = gating.dispatch.sum(axis=1) < k
    could = allowed(scores, eligible) & ~gating.dispatch & (gating.load < room)
    assert not could[short].any()


@quick
@given(batch=batches(), k=st.integers(1, 3))
def test_with_room_for_all_capacity_changes_nothing(batch: tuple[Any, Any], k: int) -> None:
    scores, eligible = batch
    free, capped = gates.top_k(scores, k, eligible=eligible), within_capacity(scores, k, 7, eligible=eligible)
    assert np.array_equal(free.combine, capped.combine)


def test_overflow_goes_to_the_next_best_and_the_surest_row_stays() -> None:
    scores = np.array([[2.0, 1.0, 0.0], [9.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    assert within_capacity(scores, 1, 1).dispatch.astype(int).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def best_balanced(scores: Any, mask: Any) -> tuple[int, int, float]:
    """By trying all: (rows placed, -places missing to the lower share, total score)."""
    n, experts = scores.shape
    live = int(mask.any(axis=1).sum())
    low, high = live // experts, -(-live // experts)
    best = (-1, 0, 0.0)
    for code in np.ndindex(*[experts + 1] * n):
        pairs = [(i, j) for i, j in enumerate(code) if j < experts]
        load = np.bincount([j for _, j in pairs], minlength=experts)
        if all(mask[i, j] for i, j in pairs) and load.max(initial=0) <= high:
            total = sum(float(scores[i, j]) for i, j in pairs)
            best = max(best, (len(pairs), -int(np.maximum(low - load, 0).sum()), total))
    return best


@pytest.mark.parametrize("seen", [0.3, 0.6, 1.0])
def test_balanced_assignment_is_the_best_of_all_balanced_ones(seen: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, experts = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        scores = rng.integers(-20, 20, size=(n, experts)).astype(np.float64)
        mask = rng.random((n, experts)) < seen
        assert_best(scores, mask)


def assert_best(scores: Any, mask: Any) -> None:
    gating = balanced_assignment(scores, eligible=mask)
    low = int(mask.any(axis=1).sum()) // scores.shape[1]
    missing = int(np.maximum(low - gating.load, 0).sum())
    found = (int(gating.load.sum()), -missing, float(scores[gating.dispatch].sum()))
    assert found == best_balanced(scores, mask)


@pytest.mark.parametrize(("n", "experts", "load"), [(7, 4, [2, 1, 1, 1]), (6, 3, [2, 2, 0])])
def test_crowding_one_expert_costs_no_other_its_lower_share_and_else_the_scores_decide(
    n: int, experts: int, load: list[int]
) -> None:
    crowd = np.arange(n)[:, None] < 4  # may only go to expert 0; the others only elsewhere, and all prefer expert 1
    eligible = crowd == (np.arange(experts) == 0)
    scores = np.tile(np.where(np.arange(experts) == 1, 9.0, 0.0), (n, 1))
    assert balanced_assignment(scores, eligible=eligible).load.tolist() == load


def test_balanced_assignment_takes_balance_before_any_score() -> None:
    scores = np.array([[20.0, 0.0, -20.0]] * 2 + [[0.0, 20.0, -20.0]] * 2)
    assert sorted(balanced_assignment(scores).load.tolist()) == [1, 1, 2]


@quick
@given(scores=hnp.arrays(np.float32, (7, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_balanced_assignment_gives_every_expert_its_share_however_extreme_the_scores(scores: Any) -> None:
    gating = balanced_assignment(scores)
    assert (gating.dispatch.sum(axis=1) == 1).all()
    assert sorted(gating.load.tolist()) == [2, 2, 3]


@pytest.mark.parametrize("entropy", [0.2, 1.0, 5.0])
def test_the_plan_of_sinkhorn_has_even_rows_and_columns(entropy: float) -> None:
    scores = np.random.default_rng(3).normal(size=(50, 4)) + np.array([3.0, 0.0, 0.0, -1.0])
    plan = selective_sinkhorn(scores, 4, entropy=entropy).combine
    assert plan.sum(axis=1) == pytest.approx(np.ones(50))
    assert plan.sum(axis=0) == pytest.approx(np.full(4, 12.5), rel=2e-4)
    # nearest to exp(scores / entropy): the plan differs from it by a factor per row and one per column
    log_ratio = np.log(plan) - scores / entropy
    cross = log_ratio - log_ratio[:1] - log_ratio[:, :1] + log_ratio[:1, :1]
    assert np.abs(cross).max() < 1e-6


def test_sinkhorn_leaves_out_dead_rows_and_columns() -> None:
    scores = np.random.default_rng(4).normal(size=(12, 4))
    eligible = np.ones((12, 4), bool)
    eligible[:2], eligible[:, 3] = False, False
    plan = selective_sinkhorn(scores, 4, eligible=eligible).combine
    assert plan.sum(axis=0) == pytest.approx(np.array([10 / 3, 10 / 3, 10 / 3, 0.0]), rel=2e-4)


def test_sinkhorn_spreads_the_load_that_top_k_piles_up_and_only_in_selected_batches() -> None:
    scores = np.random.default_rng(5).normal(size=(400, 8)) + np.linspace(-1.5, 1.5, 8)
    plain, unselected = gates.top_k(scores, 2), selective_sinkhorn(scores, 2, selected=False)
    balanced = selective_sinkhorn(scores, 2)
    assert np.array_equal(plain.combine, unselected.combine)
    assert balanced.load.max() < 1.2 * balanced.load.mean() < 0.7 * plain.load.max()
