"""What a caller's quality floor becomes: how far the router economises under it, and whether that is certified.

A certificate belongs to a floor, a preference and a set of experts. It is made when it is first asked for, in a
thread, which takes some tens of milliseconds, and kept. Floors are rounded up to hundredths, the safe direction, so
that few of them serve all callers.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.expert_names import TIER_MARK
from router.guarantee import LEAST_PROMPTS, Replay, certified_share
from router.types import Floats, Floor, Preference, Trial

KEPT = 1024
MOST_WAITING = 16  # so that one who asks for ever new sets of experts keeps the others waiting for a moment at most
ORDER_SEED = 0

Key = tuple[float, Preference, tuple[int, ...]]


@dataclass(frozen=True)
class Grounds:
    """What certificates of one pool are made from. `trial` and `cost_usd` [m, K] have the pool's experts."""

    trial: Trial | None
    cost_usd: Floats
    names: Sequence[str]
    taken_for: Sequence[str]  # the artifact's names for the pool's experts
    prices_of_quality: Mapping[Preference, float]
    explore: float


class Floors:
    """`confidence` is that of every certificate by itself."""

    def __init__(self, grounds: Grounds, confidence: float) -> None:
        self._grounds = grounds
        self._confidence = confidence
        self._kept: OrderedDict[Key, Floor] = OrderedDict()
        self._lock = asyncio.Lock()
        self._waiting = 0
        prompts = 0 if grounds.trial is None else len(grounds.trial.quality)
        # tables come sorted by what their prompts are about: bets need an order that has nothing to do with that
        self._order = np.random.default_rng(ORDER_SEED).permutation(prompts)

    async def settle(self, asked: float, preference: Preference, out: Container[int], untried: str | None) -> Floor:
        """The floor for a request that all experts but those that are `out` can take.

        `untried` says what of the request no trial covers. Experts that are `out` for other reasons (disabled,
        excluded by the caller, resting) are left out of the trial too: the promise is against the best of the rest.
        """
        grounds = self._grounds
        standing = tuple(k for k in range(len(grounds.names)) if k not in out)
        if untried is not None:
            return self._on_estimates(asked, untried)
        if len(standing) == 1:
            return self._on_average(asked, 1.0, True, "no other expert stands to be chosen")
        if grounds.trial is None:
            return self._on_estimates(asked, "the policy's artifact carries no trial")
        for k in standing:
            if grounds.taken_for[k].startswith(TIER_MARK):
                return self._on_estimates(asked, f"of {grounds.names[k]} no more is known than its tier")
        key = (math.ceil(asked * 100 - 1e-9) / 100, preference, standing)
        if key not in self._kept and self._waiting >= MOST_WAITING:
            return self._on_estimates(asked, "too many floors are being certified at this moment")
        return replace(await self._found(key), asked=asked)

    def _on_estimates(self, asked: float, reason: str) -> Floor:
        """Nothing is promised: the floor is held against the estimates of each query, and `reason` says why."""
        return Floor(
            asked=asked,
            guaranteed=False,
            confidence=self._confidence,
            price_share=1.0,
            threshold=asked,
            reason=reason,
        )

    def _on_average(self, asked: float, price_share: float, guaranteed: bool, reason: str) -> Floor:
        return Floor(
            asked=asked,
            guaranteed=guaranteed,
            confidence=self._confidence,
            price_share=price_share,
            threshold=None,
            reason=reason,
        )

    async def _found(self, key: Key) -> Floor:
        if key not in self._kept:
            self._waiting += 1
            try:
                async with self._lock:
                    if key not in self._kept:
                        self._kept[key] = await asyncio.to_thread(self._certify, *key)
            finally:
                self._waiting -= 1
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _certify(self, floor: float, preference: Preference, standing: tuple[int, ...]) -> Floor:
        grounds, columns = self._grounds, list(standing)
        assert grounds.trial is not None
        observed = grounds.trial.observed[:, columns]
        rows = self._order[np.isfinite(observed[self._order]).all(axis=1)]
        if len(rows) < LEAST_PROMPTS:
            return self._on_estimates(
                floor,
                f"{len(rows)} prompts of the trial show all {len(columns)} experts, {LEAST_PROMPTS} are needed",
            )
        cells = np.ix_(rows, np.array(columns))
        share = certified_share(
            Replay(grounds.trial.quality[cells], grounds.cost_usd[cells], grounds.trial.observed[cells]),
            grounds.prices_of_quality[preference],
            floor,
            self._confidence,
            explore=grounds.explore,
        )
        if share is None:
            reason = f"{len(rows)} prompts do not prove it even where the highest estimate is always taken"
            return self._on_average(floor, 0.0, False, reason)
        reason = f"proven on {len(rows)} prompts of the trial against the best of {len(columns)} experts"
        return self._on_average(floor, share, True, reason)
