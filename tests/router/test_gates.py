"""The promises that every gate keeps, and the gates that look at one row at a time."""

import importlib
import inspect
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gate_batches import WIDEST, allowed, batches, quick
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router import balanced_gates, gates
from router.balanced_gates import balanced_assignment, expert_choice, selective_sinkhorn, within_capacity
from router.gates import Array, Gating

Gate = Callable[..., Gating]
BIAS = [0.3, -0.2, 0.1, 0.0, 0.5]
SHARED = [False, True, False, False, False]

#: Every gate at every setting that leads to code of its own, all as `(scores, eligible)`.
BY_ROW: dict[str, Gate] = {
    "top_k": lambda s, e: gates.top_k(s, 2, eligible=e),
    "top_k by cost": lambda s, e: gates.top_k(s, 2, eligible=e, cost=BIAS[: s.shape[1]]),
    "top_p": lambda s, e: gates.top_p(s, 0.7, eligible=e),
    "entropy_adaptive": lambda s, e: gates.entropy_adaptive(s, 0.5, 0.9, eligible=e),
    "sigmoid_top_k": lambda s, e: gates.sigmoid_top_k(s, 2, eligible=e),
    "sigmoid_top_k biased": lambda s, e: gates.sigmoid_top_k(s, 2, bias=BIAS[: s.shape[1]], eligible=e),
    "sigmoid_top_k shared": lambda s, e: gates.sigmoid_top_k(s, 2, shared=SHARED[: s.shape[1]], eligible=e),
    "relu": lambda s, e: gates.relu(s, eligible=e),
    "null_experts": lambda s, e: gates.null_experts(s, [0.0, 0.5], 2, eligible=e),
}
BY_BATCH: dict[str, Gate] = {
    "expert_choice": lambda s, e: expert_choice(s, 2, eligible=e),
    "within_capacity drop": lambda s, e: within_capacity(s, 2, 2, overflow="drop", eligible=e),
    "within_capacity next": lambda s, e: within_capacity(s, 2, 2, overflow="next", eligible=e),
    "within_capacity fill": lambda s, e: within_capacity(s, 1, 2, overflow="fill", eligible=e),
    "balanced_assignment": lambda s, e: balanced_assignment(s, eligible=e),
    "selective_sinkhorn": lambda s, e: selective_sinkhorn(s, 2, eligible=e),
}
EVERY = BY_ROW | BY_BATCH
NOT_TO_ONE = {"relu", "sigmoid_top_k shared"}

every_gate = pytest.mark.parametrize("name", EVERY)


@every_gate
@quick
@given(batch=batches(("float16", "float32", "float64")))
def test_only_the_eligible_are_dispatched_and_only_the_dispatched_weigh(name: str, batch: tuple[Any, Any]) -> None:
    scores, eligible = batch
    before = scores.copy()
    gating = EVERY[name](scores, eligible)
    assert gating.dispatch.dtype == np.bool_
    assert gating.dispatch.shape == scores.shape
    assert not (gating.dispatch & ~allowed(scores, eligible)).any()
    assert gating.combine.dtype == scores.dtype
    assert gating.combine.shape == scores.shape
    assert np.isfinite(gating.combine).all()
    assert (gating.combine >= 0).all()
    assert not gating.combine[~gating.dispatch].any()
    assert np.array_equal(scores, before, equal_nan=True)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - NOT_TO_ONE))
@quick
@given(batch=batches())
def test_weights_of_a_row_sum_to_one_or_nothing_is_dispatched(name: str, batch: tuple[Any, Any]) -> None:
    gating = EVERY[name](*batch)
    assert gating.combine.sum(axis=1) == pytest.approx(gating.dispatch.any(axis=1).astype(float), abs=1e-5)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"relu", "null_experts"} - BY_BATCH.keys()))
@quick
@given(batch=batches())
def test_a_row_is_left_empty_only_if_nothing_is_eligible(name: str, batch: tuple[Any, Any]) -> None:
    gating = EVERY[name](*batch)
    assert np.array_equal(gating.dispatch.any(axis=1), allowed(*batch).any(axis=1))


@pytest.mark.parametrize("name", BY_ROW)
@quick
@given(batch=batches(("float16", "float32", "float64")), data=st.data())
def test_a_row_never_depends_on_other_rows(name: str, batch: tuple[Any, Any], data: st.DataObject) -> None:
    scores, eligible = batch
    assume(len(scores) > 0)
    kept = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1, max_size=9))
    mask = eligible if eligible is None or eligible.ndim == 1 else eligible[kept]
    whole, part = BY_ROW[name](scores, eligible), BY_ROW[name](scores[kept], mask)
    assert np.array_equal(part.dispatch, whole.dispatch[kept])
    assert np.array_equal(part.combine, whole.combine[kept])  # to the bit: nothing leaks


@pytest.mark.parametrize("name", BY_BATCH)
def test_a_gate_across_queries_lets_one_row_change_another(name: str) -> None:
    victim = np.array([1.0, 0.9, 0.0])
    elsewhere, crowd = np.array([0.0, 0.0, 9.0]), np.array([9.0, 0.0, 0.0])
    alone = BY_BATCH[name](np.stack([victim, elsewhere, elsewhere]), None)
    crowded = BY_BATCH[name](np.stack([victim, crowd, crowd]), None)
    assert not np.array_equal(alone.dispatch[0], crowded.dispatch[0])


def test_every_gate_is_held_to_the_promises_and_stands_on_the_right_side() -> None:
    def public(module: ModuleType) -> set[str]:
        own = [f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
        return {f.__name__ for f in own if f.__annotations__["return"] is Gating and f.__name__ != "gated"}

    assert public(gates) == {name.split()[0] for name in BY_ROW}
    assert public(balanced_gates) == {name.split()[0] for name in BY_BATCH} == gates.ACROSS_QUERIES


def library(name: str) -> tuple[Callable[[Any], Array], Callable[[Array], Any]]:
    """(from NumPy, to NumPy); skips where the library is not installed."""
    module = pytest.importorskip(name)
    return (module.from_numpy if name == "torch" else module.asarray), np.asarray


both_libraries = pytest.mark.parametrize("other", ["torch", "array_api_strict"])


@both_libraries
@every_gate
@settings(quick, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 7), experts=st.integers(1, WIDEST), masked=st.booleans())
def test_other_array_libraries_choose_as_numpy_does(
    name: str, other: str, seed: int, n: int, experts: int, masked: bool
) -> None:
    there, back = library(other)
    rng = np.random.default_rng(seed)
    scores = 2 * rng.normal(size=(n, experts)).astype(np.float32)  # no ties: those may hang on the last digit
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    eligible = rng.random(scores.shape) < 0.8 if masked else None
    expected = EVERY[name](scores, eligible)
    gating = EVERY[name](there(scores), None if eligible is None else there(eligible))
    assert type(gating.combine) is type(there(scores))
    assert back(gating.combine).dtype == scores.dtype
    assert np.array_equal(back(gating.dispatch), expected.dispatch)
    assert back(gating.combine) == pytest.approx(expected.combine, abs=1e-5)


@both_libraries
def test_other_array_libraries_break_ties_as_numpy_does(other: str) -> None:
    there, back = library(other)
    scores = np.random.default_rng(6).integers(0, 2, size=(20, 40)).astype(np.float32)
    cost = np.arange(40)[::-1].copy()
    for price in (None, cost):
        ours = gates.top_k(scores, 7, cost=price)
        theirs = gates.top_k(there(scores), 7, cost=None if price is None else there(price))
        assert np.array_equal(back(theirs.dispatch), ours.dispatch)


def test_a_bfloat16_batch_is_chosen_in_float32() -> None:
    torch = pytest.importorskip("torch")
    scores = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for gate in EVERY.values():
        half, single = gate(scores, None), gate(scores.float(), None)
        assert half.combine.dtype == torch.bfloat16
        assert torch.equal(half.dispatch, single.dispatch)
        assert torch.equal(half.combine, single.combine.to(torch.bfloat16))


def test_gradients_pass_through_the_weights() -> None:
    torch = pytest.importorskip("torch")
    for name in EVERY.keys() - {"balanced_assignment"}:
        scores = (torch.randn(6, 5, generator=torch.Generator().manual_seed(1)) + 1).requires_grad_()
        (EVERY[name](scores, None).combine ** 2).sum().backward()
        assert torch.isfinite(scores.grad).all()
        assert scores.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", BY_ROW)
def test_a_gate_by_row_stays_on_its_device_and_never_waits_to_see_the_data(name: str) -> None:
    torch = pytest.importorskip("torch")
    gating = BY_ROW[name](torch.zeros(6, 5, device="meta"), None)  # a device that holds no data to look at
    assert gating.dispatch.device.type == gating.combine.device.type == "meta"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: gates.top_k(s, 0), "k must be at least 1, not 0"),
        (lambda s: gates.top_p(s, 1.5), "p must be above 0 and at most 1, not 1.5"),
        (lambda s: gates.entropy_adaptive(s, 0.5, 1.0, index=0.0), "index must be above 0, not 0.0"),
        (lambda s: expert_choice(s, -1), "capacity must be at least 0, not -1"),
        (lambda s: within_capacity(s, 1, 1, overflow="back"), "overflow must be drop, next or fill, not 'back'"),
        (lambda s: selective_sinkhorn(s, 1, entropy=0.0), "entropy must be above 0, not 0.0"),
        (lambda s: gates.relu(s[0]), r"the shape of scores must be \[n, K\], K > 0, not \(3,\)"),
        (lambda s: gates.relu(s[:, :0]), r"the shape of scores must be \[n, K\], K > 0, not \(2, 0\)"),
        (lambda s: gates.relu(s.astype(int)), "the dtype of scores must be a float, not dtype"),
    ],
)
def test_a_wrong_argument_is_named_with_the_choices(call: Callable[[Any], Gating], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(np.zeros((2, 3)))


def test_importing_the_gates_loads_neither_scipy_nor_torch() -> None:
    source = inspect.getsource(importlib.import_module("router.gates")) + inspect.getsource(balanced_gates)
    top_level = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any("scipy" in line or "import torch" in line for line in top_level)


# One row at a time.


@quick
@given(batch=batches(), k=st.integers(1, 7), cost=st.none() | hnp.arrays(float, WIDEST, elements=st.integers(0, 2)))
def test_top_k_takes_the_best_then_the_cheapest_then_the_first(batch: tuple[Any, Any], k: int, cost: Any) -> None:
    scores, eligible = batch
    price = np.zeros(scores.shape[1]) if cost is None else cost[: scores.shape[1]]
    gating = gates.top_k(scores, k, eligible=eligible, cost=None if cost is None else price)
    for row, mask, chosen in zip(scores, allowed(scores, eligible), gating.dispatch, strict=True):
        ranked = sorted((-row[j], price[j], j) for j in np.flatnonzero(mask))
        assert np.flatnonzero(chosen).tolist() == sorted(j for _, _, j in ranked[:k])


def test_weights_of_top_k_are_the_softmax_over_the_chosen() -> None:
    gating = gates.top_k(np.log(np.array([[1.0, 2.0, 6.0, 1.0]])), 2)
    assert gating.combine == pytest.approx(np.array([[0.0, 0.25, 0.75, 0.0]]))


def test_confidence_is_the_softmax_over_the_eligible() -> None:
    probability = gates.confidence(np.log(np.array([[1.0, 2.0, 5.0]])), np.array([True, True, False]))
    assert probability == pytest.approx(np.array([[1 / 3, 2 / 3, 0.0]]))


@quick
@given(batch=batches(), low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_top_p_never_takes_fewer_for_a_larger_p(batch: tuple[Any, Any], low: float, high: float) -> None:
    scores, eligible = batch
    small = gates.top_p(scores, min(low, high), eligible=eligible).dispatch
    large = gates.top_p(scores, max(low, high), eligible=eligible).dispatch
    assert not (small & ~large).any()


@quick
@given(batch=batches(), p=st.floats(0.01, 0.99))
def test_top_p_takes_just_enough_confidence(batch: tuple[Any, Any], p: float) -> None:
    scores, eligible = batch
    probability = gates.confidence(scores, eligible).astype(float)
    dispatch = gates.top_p(scores, p, eligible=eligible).dispatch
    for mass, chosen in zip(probability, dispatch, strict=True):
        if chosen.any():
            assert mass[chosen].sum() > p - 1e-5
            assert mass[chosen].sum() - mass[chosen].min() < p + 1e-5
            assert mass[chosen].min() >= np.where(chosen, 0.0, mass).max()


def test_top_p_stops_as_soon_as_p_is_reached() -> None:
    even = np.zeros((1, 4))
    assert [int(gates.top_p(even, p).load.sum()) for p in (0.25, 0.5, 0.51, 1.0)] == [1, 2, 3, 4]


def test_tsallis_entropy_runs_from_zero_to_its_bound_and_meets_shannon_at_one() -> None:
    even, sure = np.full((1, 4), 0.25), np.array([[1.0, 0.0, 0.0, 0.0]])
    for index in (0.5, 1.1, 2.0):
        assert gates.tsallis_entropy(even, index) == pytest.approx((1 - 4 ** (1 - index)) / (index - 1))
        assert gates.tsallis_entropy(sure, index) == pytest.approx(0.0)
    assert gates.tsallis_entropy(even, 1) == pytest.approx(math.log(4))
    assert gates.tsallis_entropy(even, 1 + 1e-9) == pytest.approx(math.log(4), rel=1e-5)
    assert gates.tsallis_entropy(sure, 1) == pytest.approx(0.0)


@quick
@given(batch=batches(), threshold=st.floats(0, 2))
def test_entropy_adaptive_takes_all_where_unsure_and_else_top_p(batch: tuple[Any, Any], threshold: float) -> None:
    scores, eligible = batch
    entropy = gates.tsallis_entropy(gates.confidence(scores, eligible), 1.1)
    soft, hard = allowed(scores, eligible), gates.top_p(scores, 0.5, eligible=eligible).dispatch
    dispatch = gates.entropy_adaptive(scores, 0.5, threshold, eligible=eligible).dispatch
    assert np.array_equal(dispatch, np.where((entropy > threshold)[:, None], soft, hard))


def test_weights_of_the_sigmoid_gate_are_sigmoids_normalised_over_the_chosen() -> None:
    scores = np.array([[0.5, -1.0, 2.0]])
    sigmoid = 1 / (1 + np.exp(-scores[0, [0, 2]]))
    gating = gates.sigmoid_top_k(scores, 2)
    assert gating.combine[0, [0, 2]] == pytest.approx(sigmoid / sigmoid.sum())


def test_a_bias_changes_who_is_chosen_and_never_the_weight() -> None:
    scores = np.array([[1.0, 0.9, -4.0]])
    gating = gates.sigmoid_top_k(scores, 2, bias=np.array([-1.0, 0.0, 0.5]))
    without = gates.sigmoid_top_k(scores, 2, eligible=np.array([False, True, True]))
    assert gating.dispatch.tolist() == [[False, True, True]]
    assert np.array_equal(gating.combine, without.combine)


def test_shared_experts_take_part_wherever_eligible_beside_k_others() -> None:
    scores = np.array([[2.0, 3.0, 1.0, 0.0]] * 2)
    eligible = np.array([[True, True, True, True], [True, False, True, True]])
    gating = gates.sigmoid_top_k(scores, 1, shared=np.array([False, True, True, False]), eligible=eligible)
    assert gating.dispatch.tolist() == [[True, True, True, False], [True, False, True, False]]
    assert gating.combine.tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]


def test_the_sigmoid_gate_still_tells_scores_apart_where_the_sigmoid_saturates() -> None:
    scores = np.array([[40.0, 50.0, 60.0], [-900.0, -800.0, -1000.0]], dtype=np.float32)
    gating = gates.sigmoid_top_k(scores, 1)
    assert gating.dispatch.argmax(axis=1).tolist() == [2, 1]
    assert gating.combine.max(axis=1).tolist() == [1.0, 1.0]


def test_the_loss_free_bias_evens_out_a_skewed_load() -> None:
    rng = np.random.default_rng(0)
    skew, bias, loads = np.linspace(-1.0, 1.0, 8), np.zeros(8), []
    for _ in range(600):
        gating = gates.sigmoid_top_k(rng.normal(size=(256, 8)) + skew, 2, bias=bias)
        bias = gates.updated_bias(bias, gating.load, rate=2e-3)
        loads.append(gating.load)
    first, settled = loads[0] / loads[0].mean(), np.mean(loads[-100:], axis=0) / np.mean(loads[-100:])
    assert first.max() > 2
    assert settled == pytest.approx(np.ones(8), abs=0.05)


def test_the_loss_free_bias_follows_unequal_shares() -> None:
    bias = gates.updated_bias(np.zeros(3), np.array([50, 30, 20]), rate=0.1, share=np.array([0.6, 0.3, 0.1]))
    assert bias.tolist() == [0.1, 0.0, -0.1]


@quick
@given(batch=batches())
def test_relu_weighs_by_the_positive_scores_themselves(batch: tuple[Any, Any]) -> None:
    scores, eligible = batch
    positive = np.where(allowed(scores, eligible), np.nan_to_num(scores), 0.0).clip(min=0)
    gating = gates.relu(scores, eligible=eligible)
    assert np.array_equal(gating.combine, positive)
    assert np.array_equal(gating.dispatch, positive > 0)


@quick
@given(batch=batches(), nulls=hnp.arrays(np.float64, st.integers(0, 3), elements=st.integers(-2, 3)))
def test_null_experts_stand_in_the_ranking_and_not_in_the_result(batch: tuple[Any, Any], nulls: Any) -> None:
    scores, eligible = batch
    mask = allowed(scores, eligible)
    beside = np.concatenate([scores, np.tile(nulls, (len(scores), 1)).astype(scores.dtype)], axis=1)
    all_masks = np.concatenate([mask, np.ones((len(scores), len(nulls)), bool)], axis=1)
    expected = gates.top_k(beside, 2, eligible=all_masks).dispatch[:, : scores.shape[1]]
    gating = gates.null_experts(scores, nulls, 2, eligible=eligible)
    assert np.array_equal(gating.dispatch, expected)


def test_a_row_whose_best_are_null_abstains() -> None:
    gating = gates.null_experts(np.array([[0.0, 1.0], [3.0, 4.0]]), np.array([2.0, 2.0]), 2)
    assert gating.dispatch.tolist() == [[False, False], [True, True]]
    assert gating.combine.sum(axis=1).tolist() == [0.0, 1.0]


def test_a_null_expert_wins_a_tie_only_where_cost_is_counted() -> None:
    scores, null = np.array([[1.0, 0.0]]), np.array([1.0])
    assert gates.null_experts(scores, null, 1).dispatch.any()
    assert not gates.null_experts(scores, null, 1, cost=np.array([0.1, 0.1])).dispatch.any()
