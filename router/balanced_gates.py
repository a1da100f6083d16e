"""Gates that balance a batch: capacities, even shares, assignments. In each of them the rows depend on one another.

They keep the promises of `router.gates`, save the last one. One owner's experts and queries only: see
`router.gates.ACROSS_QUERIES`. Apart from `expert_choice` they look at the data between steps, so on an accelerator
they wait for it.
"""

from types import ModuleType
from typing import Literal

import numpy as np
from array_api_compat import device, is_torch_array

from router.gates import Array, Gating, as_array, count, gated, prepared, rank, require, shifted, top_k

#: What a full expert does with further rows: `drop` (Switch), send them to the next best with room (`next`), and
#: also give the places still free to the rows that score highest there (`fill`).
Overflow = Literal["drop", "next", "fill"]

_SINKHORN_SWEEPS = 300
_SINKHORN_TOLERANCE = 1e-4  # of an expert's share
_NEVER = -1e30  # log of no mass: finite, so that sums over an empty row or column stay numbers


def expert_choice(scores: Array, capacity: int | Array, *, eligible: Array | None = None) -> Gating:
    """Every expert takes the rows that are surest of it: exactly `capacity` of them, or all eligible if fewer.

    `capacity` is one number or [K]. A row may get any number of experts, none too; its weights sum to one, or to
    zero. "Mixture-of-Experts with Expert Choice Routing". Across queries.
    """
    xp, x, mask = prepared(scores, eligible)
    return gated(xp, scores, x, _admitted(xp, mask, _log_softmax(xp, x, mask), _room(xp, capacity, x)))


def within_capacity(
    scores: Array, k: int, capacity: int | Array, *, overflow: Overflow = "next", eligible: Array | None = None
) -> Gating:
    """`top_k` under a capacity per expert, one number or [K]: an expert asked by too many takes the surest rows.

    With `overflow="next"` a turned-away row asks its next best expert with room until it has k or none is left; a
    place once given is kept. `fill` afterwards fills every expert, so rows may get more than k. Weights sum to one,
    or to zero in a row that found no room. "Switch Transformers" (`drop`), "Rectify-Router" (overflow and fill-in).
    Across queries.
    """
    require(k >= 1, "k", k, "at least 1")
    require(overflow in ("drop", "next", "fill"), "overflow", overflow, "drop, next or fill")
    xp, x, mask = prepared(scores, eligible)
    room, worth, place = _room(xp, capacity, x), _log_softmax(xp, x, mask), rank(xp, x, mask)
    experts = x.shape[1]
    held = _admitted(xp, mask & (place < k), worth, room)
    # a round either serves all who ask or fills an expert, so there are at most this many
    for _ in range(0 if overflow == "drop" else experts + k):
        left = room - count(xp, held, axis=0)
        short = count(xp, held, axis=1)[:, None] < k
        open_place = xp.where(mask & ~held & short & (left > 0), place, experts)
        asked = (open_place < experts) & (open_place == xp.min(open_place, axis=1, keepdims=True))
        if not bool(xp.any(asked)):
            break
        held = held | _admitted(xp, asked, worth, left)
    if overflow == "fill":
        held = held | _admitted(xp, mask & ~held, worth, room - count(xp, held, axis=0))
    return gated(xp, scores, x, held)


def balanced_assignment(scores: Array, *, eligible: Array | None = None) -> Gating:
    """One expert per row, every expert the same number of rows (to within one), at the highest total score.

    Where masks forbid that: no expert takes more than its even share rounded up; within it as many rows as possible
    are placed, then as few places as possible are missing to the share rounded down, then the total is highest.
    Weights are 1; a row left out is zero. Exact, on the CPU: time grows with n^2 at least. Needs scipy (the extra
    `train`). "BASE Layers". Across queries.
    """
    from scipy.optimize import linear_sum_assignment

    xp, x, mask = prepared(scores, eligible)
    cost, slots = _slot_costs(_on_cpu(x, "float64"), _on_cpu(mask, "bool"))
    _, column = linear_sum_assignment(cost)
    expert = as_array(xp, column[: x.shape[0]] // slots, x, xp.int64)  # K and above: left out
    dispatch = mask & (expert[:, None] == xp.arange(x.shape[1], device=device(x)))
    return Gating(dispatch, xp.astype(dispatch, scores.dtype))


def selective_sinkhorn(
    scores: Array, k: int, *, selected: bool = True, entropy: float = 1.0, eligible: Array | None = None
) -> Gating:
    """`top_k` of a transport plan that spreads the rows evenly over the experts, weighted by that plan.

    The plan is nearest to exp(scores / entropy) among those whose rows sum to one and whose columns sum to n / K:
    a smaller `entropy` holds closer to the scores and takes longer. What is even is the plan (k = K shows it); the
    k best of it are nearly so. Masks that forbid an even plan leave rows that sum to one over uneven columns.
    The paper balances only a small random share of the batches and takes plain `top_k` for the rest: the caller
    draws, and `selected` says what came of it. "Selective Sinkhorn Routing for Improved Sparse Mixture of Experts".
    Across queries.
    """
    require(entropy > 0, "entropy", entropy, "above 0")
    if not selected or scores.shape[0] == 0:
        return top_k(scores, k, eligible=eligible)
    xp, x, mask = prepared(scores, eligible)
    steep = xp.clip(shifted(xp, x, mask), min=-1e4 * entropy) / entropy
    balanced = top_k(_log_plan(xp, steep, mask), k, eligible=mask)
    return Gating(balanced.dispatch, xp.astype(balanced.combine, scores.dtype))


def _log_softmax(xp: ModuleType, x: Array, mask: Array) -> Array:
    """How sure a row is of each expert, in logs, [n, K].

    It keeps its digits at both ends, near no chance and near certainty, where the softmax would tie: the best of a
    row is left out of the sum and comes back as the 1 of log1p.
    """
    below = shifted(xp, x, mask)
    best = rank(xp, x, mask) == 0
    others = xp.sum(xp.where(mask & ~best, xp.exp(below), 0.0), axis=1, keepdims=True)
    return below - xp.log1p(others)


def _admitted(xp: ModuleType, asked: Array, worth: Array, room: Array) -> Array:
    """Of the rows that ask [n, K], those of highest worth in each column, as many as its room [K]."""
    return asked & (rank(xp, worth, asked, axis=0) < room)


def _room(xp: ModuleType, capacity: int | Array, x: Array) -> Array:
    if isinstance(capacity, int):
        require(capacity >= 0, "capacity", capacity, "at least 0")
    return as_array(xp, capacity, x, xp.int64)


def _log_plan(xp: ModuleType, steep: Array, mask: Array) -> Array:
    """Sinkhorn's sweeps in logs: rows that sum to one over columns that approach equal shares, [n, K]."""
    live_rows = xp.any(mask, axis=1, keepdims=True)
    live = xp.any(mask, axis=0, keepdims=True)
    rows, columns = (xp.clip(count(xp, axis, None), min=1) for axis in (live_rows, live))
    share = xp.log(xp.astype(rows, steep.dtype)) - xp.log(xp.astype(columns, steep.dtype))
    plan = xp.where(mask, steep, _NEVER)
    for _ in range(_SINKHORN_SWEEPS):
        plan = xp.where(mask, plan - _log_sum_exp(xp, plan, axis=1), _NEVER)
        gap = xp.where(live, _log_sum_exp(xp, plan, axis=0) - share, 0.0)
        if bool(xp.all(xp.abs(gap) < _SINKHORN_TOLERANCE)):
            break
        plan = plan - gap
    return xp.where(mask, plan - _log_sum_exp(xp, plan, axis=1), _NEVER)


def _log_sum_exp(xp: ModuleType, x: Array, axis: int) -> Array:
    highest = xp.max(x, axis=axis, keepdims=True)
    return highest + xp.log(xp.sum(xp.exp(x - highest), axis=axis, keepdims=True))


def _slot_costs(scores: Array, mask: Array) -> tuple[Array, int]:
    """The costs of BASE as one assignment, and the places per expert: the even share, rounded up.

    Columns are the places, then one way out for each row at a price above any gain in score. Below the n rows stand
    K that may only take the last place of an expert: leaving that place to one of them is how an expert comes to
    one row less than another, and at most one can.
    """
    n, experts = mask.shape
    live = int(mask.any(axis=1).sum())
    slots = max(-(-live // experts), 1)
    spare = experts if live % experts else 0
    # a power of two, so that no digit is lost: all scores within (-1, 1), all gains within (-2n, 2n)
    worth = np.ldexp(scores, -np.frexp(np.abs(np.where(mask, scores, 0.0)).max(initial=0.0))[1])
    taken = np.where(np.repeat(mask, slots, axis=1), -np.repeat(worth, slots, axis=1), np.inf)
    last = np.arange(experts * slots) % slots == slots - 1
    kept_free = np.tile(np.where(last, 0.0, np.inf), (spare, 1))
    missing = 2.0 * n + 1.0
    way_out = np.repeat([(experts + 1) * missing, missing], [n, spare])[:, None]
    return np.hstack([np.vstack([taken, kept_free]), np.tile(way_out, (1, n + spare))]), slots


def _on_cpu(array: Array, dtype: str) -> Array:
    return np.asarray(array.detach().cpu() if is_torch_array(array) else array, dtype=dtype)
