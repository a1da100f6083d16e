"""Scores into a choice: which experts take which rows, and with what weight. Knows no query, token or price.

A gate is a pure function `scores [n, K] -> Gating` over the Python array API, written once for both levels: queries
to models (NumPy) and tokens to feed-forward experts (torch). The shape, a dispatch and a combine tensor for every
gate, is that of "Routers in Vision Mixture of Experts". Higher scores are better. For every gate:

- `combine` keeps the scores' dtype and device (halves are computed in float32), is never negative, and is zero
  where `dispatch` is False. Its rows sum to one (the softmax over the dispatched) unless the gate says otherwise.
- `eligible`, [n, K] or [K] bool, masks experts: a capability, health, or MaskMoE's routing masks, where a row sees
  `visible[group]` and rare groups see few experts. A score of NaN or -inf is ineligible too. A row with nothing
  eligible is all False and all zero, and no error: to look would stall an accelerator, and padding is such a row.
- Equal scores: the lower `cost` ([K] or [n, K], where the gate takes one), then the lower index.
- A row's result depends on that row alone. The gates in which it does not are in `router.balanced_gates`, and named
  in `ACROSS_QUERIES`.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

Array = Any  # of any library that keeps the array API; the standard names no type to write here

#: The gates of `router.balanced_gates`. There a caller can crowd an expert and so change, and observe, what becomes
#: of another's query in the same batch ("Buffer Overflow in Mixture of Experts"). So the gateway may use them only
#: for experts that belong to one owner, on that owner's queries; whoever lets a gate be chosen checks it here.
ACROSS_QUERIES: frozenset[str] = frozenset(
    {"balanced_assignment", "expert_choice", "selective_sinkhorn", "within_capacity"}
)


@dataclass(frozen=True, slots=True)
class Gating:
    """Who takes what: `dispatch` [n, K] bool, `combine` [n, K] the weight of each answer."""

    dispatch: Array
    combine: Array

    @property
    def load(self) -> Array:
        """Rows per expert, [K] int."""
        return count(namespace(self.dispatch), self.dispatch, axis=0)


def confidence(scores: Array, eligible: Array | None = None) -> Array:
    """The softmax over the eligible, [n, K]: the weights before a choice.

    Switch, OLMoE and Dynamic MoE combine with these, not renormalised over the chosen: where `dispatch`, take them.
    """
    xp, x, mask = prepared(scores, eligible)
    return xp.astype(softmax(xp, x, mask), scores.dtype)


def tsallis_entropy(probability: Array, index: float) -> Array:
    """The Tsallis entropy of each row of `probability` [n, K]: [n], from 0 to (1 - K^(1 - index)) / (index - 1).

    `index` > 0; one is the Shannon entropy, in nats.
    """
    require(index > 0, "index", index, "above 0")
    xp = namespace(probability)
    if index == 1:
        return -xp.sum(probability * xp.log(xp.where(probability > 0, probability, 1.0)), axis=1)
    return (1 - xp.sum(probability**index, axis=1)) / (index - 1)


def top_k(scores: Array, k: int, *, eligible: Array | None = None, cost: Array | None = None) -> Gating:
    """The k best of each row, or all its eligible if fewer. Switch Transformers is k = 1. Row by row."""
    require(k >= 1, "k", k, "at least 1")
    xp, x, mask = prepared(scores, eligible)
    return gated(xp, scores, x, mask & (rank(xp, x, mask, cost) < k))


def top_p(scores: Array, p: float, *, eligible: Array | None = None, cost: Array | None = None) -> Gating:
    """The fewest experts whose confidence together reaches p, in (0, 1]: more for harder rows. Row by row.

    A larger p never takes fewer. "Harder Tasks Need More Experts" (Dynamic MoE).
    """
    require(0 < p <= 1, "p", p, "above 0 and at most 1")
    xp, x, mask = prepared(scores, eligible)
    place = rank(xp, x, mask, cost)
    best_first = xp.take_along_axis(softmax(xp, x, mask), xp.argsort(place, axis=1), axis=1)
    before = xp.cumulative_sum(best_first, axis=1) - best_first
    return gated(xp, scores, x, mask & (xp.take_along_axis(before, place, axis=1) < p))


def entropy_adaptive(
    scores: Array, p: float, threshold: float, *, index: float = 1.1, eligible: Array | None = None
) -> Gating:
    """All eligible experts where the `tsallis_entropy` of the confidence is above `threshold`, else `top_p`.

    A row whose confidence says little is spread over all instead of cut at random. "DynMoLE". Row by row.
    """
    sure = top_p(scores, p, eligible=eligible)
    xp, x, mask = prepared(scores, eligible)
    unsure = tsallis_entropy(softmax(xp, x, mask), index) > threshold
    return gated(xp, scores, x, mask & (sure.dispatch | unsure[:, None]))


def sigmoid_top_k(
    scores: Array,
    k: int,
    *,
    bias: Array | None = None,
    shared: Array | None = None,
    eligible: Array | None = None,
) -> Gating:
    """The k best by sigmoid, weighted by their sigmoids normalised to one, beside experts that always take part.

    `shared` [K] bool marks those: dispatched wherever eligible, not counted in k, each at weight 1 on top of the
    routed ones, whose weights sum to one. `bias` [K] is added to the sigmoid for the selection only, never to the
    weight: `updated_bias` learns it. "On DeepSeekMoE: Statistical Benefits of Shared Experts and Normalized Sigmoid
    Gating"; "Auxiliary-Loss-Free Load Balancing Strategy". Row by row, given the bias.
    """
    require(k >= 1, "k", k, "at least 1")
    xp, x, mask = prepared(scores, eligible)
    always = xp.zeros_like(mask) if shared is None else mask & as_array(xp, shared, x, xp.bool)
    routed = mask & ~always
    log_sigmoid = xp.clip(x, max=0.0) - xp.log1p(xp.exp(-xp.abs(x)))
    # the sigmoid saturates: without a bias its order is read off the scores, where it does not
    selection = x if bias is None else xp.exp(log_sigmoid) + as_array(xp, bias, x, x.dtype)
    chosen = gated(xp, scores, log_sigmoid, routed & (rank(xp, selection, routed) < k))
    return Gating(chosen.dispatch | always, chosen.combine + xp.astype(always, scores.dtype))


def updated_bias(bias: Array, load: Array, *, rate: float = 1e-3, share: Array | None = None) -> Array:
    """The bias [K] of `sigmoid_top_k` after a batch: up by `rate` for the under-loaded, down for the over-loaded.

    `load` [K] counts the rows that each expert took, `share` [K] what part each ought to take (default: equal).
    "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts". The bias carries the load of past batches.
    """
    xp = namespace(bias)
    taken = as_array(xp, load, bias, bias.dtype)
    part = 1 / bias.shape[0] if share is None else as_array(xp, share, bias, bias.dtype)
    return bias + rate * xp.sign(xp.sum(taken) * part - taken)


def relu(scores: Array, *, eligible: Array | None = None) -> Gating:
    """Every expert whose score is above zero, weighted by that score. Row by row.

    Rows do not sum to one, and a row without a positive score gets no expert. "ReMoE".
    """
    xp, x, mask = prepared(scores, eligible)
    dispatch = mask & (x > 0)
    return Gating(dispatch, xp.astype(xp.where(dispatch, x, 0.0), scores.dtype))


def null_experts(
    scores: Array, null_scores: Array, k: int, *, eligible: Array | None = None, cost: Array | None = None
) -> Gating:
    """`top_k` among the K experts and m null ones, which stand for nothing done: a cached answer, an abstention.

    `null_scores` is [m] or [n, m]; a null expert costs nothing (of equal scores a null one loses without `cost`,
    and wins against any `cost` above zero). Only true experts are in the result: a row has from 0 to k of them,
    their weights sum to one, or to zero if there are none. "AdaMoE". Row by row.
    """
    require(k >= 1, "k", k, "at least 1")
    xp, x, mask = prepared(scores, eligible)
    n, experts = x.shape
    nulls = as_array(xp, null_scores, x, x.dtype)
    nulls = xp.broadcast_to(nulls, (n, nulls.shape[-1]))
    if cost is not None:
        cost = xp.broadcast_to(as_array(xp, cost, x), x.shape)
        cost = xp.concat([cost, xp.zeros(nulls.shape, dtype=cost.dtype, device=device(x))], axis=1)
    place = rank(xp, xp.concat([x, nulls], axis=1), xp.concat([mask, nulls > -math.inf], axis=1), cost)
    return gated(xp, scores, x, mask & (place[:, :experts] < k))


# What the gates are made of, here and in `router.balanced_gates`.


def namespace(array: Array) -> ModuleType:
    """The functions of the standard for this array's library."""
    # NumPy keeps the standard itself from 2.1 on; the wrapper would load 185 modules and 18 MB at the first call
    if isinstance(array, np.ndarray) and hasattr(np, "cumulative_sum"):
        return np
    return array_namespace(array)


def prepared(scores: Array, eligible: Array | None) -> tuple[ModuleType, Array, Array]:
    """The namespace, the scores made finite in at least 32 bits, and who is eligible [n, K]."""
    xp = namespace(scores)
    require(scores.ndim == 2 and scores.shape[1] > 0, "the shape of scores", tuple(scores.shape), "[n, K], K > 0")
    require(xp.isdtype(scores.dtype, "real floating"), "the dtype of scores", scores.dtype, "a float")
    limits = xp.finfo(scores.dtype)
    x = scores if limits.bits >= 32 else xp.astype(scores, xp.float32)
    mask = x > -math.inf  # False for NaN
    if eligible is not None:
        mask = mask & as_array(xp, eligible, x, xp.bool)
    largest = float(limits.max)
    return xp, xp.clip(xp.where(mask, x, 0.0), min=-largest, max=largest), mask


def gated(xp: ModuleType, scores: Array, logits: Array, dispatch: Array) -> Gating:
    """The dispatched, weighted by the softmax of their logits, in the dtype of the scores."""
    return Gating(dispatch, xp.astype(softmax(xp, logits, dispatch), scores.dtype))


def shifted(xp: ModuleType, x: Array, mask: Array) -> Array:
    """Each row less its highest: at most zero, and finite however extreme the scores."""
    quarter = float(xp.finfo(x.dtype).max) / 4
    bounded = xp.where(mask, xp.clip(x, min=-quarter, max=quarter), -quarter)
    return bounded - xp.max(bounded, axis=1, keepdims=True)


def softmax(xp: ModuleType, x: Array, mask: Array) -> Array:
    """Over what the mask leaves of each row [n, K]; a row of which it leaves nothing is zero."""
    raised = xp.where(mask, xp.exp(shifted(xp, x, mask)), 0.0)
    total = xp.sum(raised, axis=1, keepdims=True)
    return raised / xp.where(total > 0, total, 1.0)


def rank(xp: ModuleType, values: Array, mask: Array, cost: Array | None = None, axis: int = 1) -> Array:
    """The place of each value along `axis`, 0 the highest; what is masked out comes last."""
    falling = -xp.where(mask, values, -math.inf)
    if cost is None:
        order = xp.argsort(falling, axis=axis, stable=True)
    else:
        cost = xp.broadcast_to(as_array(xp, cost, values), values.shape)
        cheapest = xp.argsort(cost, axis=axis, stable=True)
        within = xp.argsort(xp.take_along_axis(falling, cheapest, axis=axis), axis=axis, stable=True)
        order = xp.take_along_axis(cheapest, within, axis=axis)
    return xp.argsort(order, axis=axis)


def as_array(xp: ModuleType, value: Array, like: Array, dtype: Any = None) -> Array:
    return xp.asarray(value, dtype=dtype, device=device(like))


def count(xp: ModuleType, mask: Array, axis: int | None) -> Array:
    return xp.sum(xp.astype(mask, xp.int64), axis=axis)


def require(holds: bool, name: str, value: object, choices: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {choices}, not {value!r}")
