"""Mixture of Routers: several policies, each trusted where it was right about prompts that it had not seen.

Stacked generalization (Wolpert, 1992) with weights that are not negative (Breiman, 1996), found apart for every
direction in which the experts differ (`router.directions`): one policy may know how hard a prompt is, another who
is good at it. Only predictions of prompts that a policy was not fitted to are weighed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies import policy_class
from router.artifact import nested, take, within
from router.blending import SHRINKAGE, TABLE_SHARES, UNTRIED, Narrowing, area, narrowed, weighed
from router.directions import directions
from router.features import ReadingPolicy
from router.members import built
from router.policy import Policy
from router.tree_policy import Together
from router.types import Estimate, Floats, Outcomes, Queries

FOLDS = 5
MEMBERS: tuple[dict[str, Any], ...] = (
    {"kind": "domain"},
    {"kind": "linear"},
    {"kind": "forest", "trees": 40},
)


class Stack(ReadingPolicy):
    """`members`: each the `kind` of a policy and its parameters."""

    def __init__(self, *, members: Sequence[Mapping[str, Any]] = MEMBERS, rng: int = 0) -> None:
        self.members = [dict(member) for member in members]
        self.rng = rng

    def _built(self, number: int) -> Policy:
        member = built(self.members[number], f"members[{number}]", policy_class, self.rng + 10 * number)
        if isinstance(member, ReadingPolicy):
            member.lend(self.reader_)
        return member

    def _learn(self, outcomes: Outcomes) -> None:
        self.parts_ = [self._built(number).fit(outcomes) for number in range(len(self.members))]
        folds = np.random.default_rng(self.rng).integers(FOLDS, size=len(outcomes))
        self.together_ = Together(self.parts_)
        honest = [self._honest(number, outcomes, folds) for number in range(len(self.parts_))]
        mean = np.nanmean(outcomes.quality, axis=0)
        above = np.stack(honest) - mean
        turned = directions(above.mean(axis=0) + mean, outcomes.quality)
        seen = np.isfinite(outcomes.quality)
        truth = np.where(seen, outcomes.quality - mean, above.mean(axis=0)) @ turned.there
        weights, blend = weighed(above @ turned.there, truth, folds)
        mixing = np.stack([(turned.there * w) @ turned.back for w in weights])
        self.mean_ = mean.astype(np.float32)
        tables = [number for number, member in enumerate(self.members) if member["kind"] == "domain"]
        table = above[tables[0]] if tables else None
        how = self._chosen(blend @ turned.back, table, outcomes)
        final = np.stack(
            [narrowed(mix, None, Narrowing(how.shrinkage * (1 - how.table_share), 0)) for mix in mixing]
        )
        if tables:
            final[tables[0]] = narrowed(mixing[tables[0]], np.eye(len(mean)), how)
        self.mixing_ = final.astype(np.float32)
        self.honest_ = mean + narrowed(blend @ turned.back, table, how)

    def _chosen(self, guess: Floats, table: Floats | None, outcomes: Outcomes) -> Narrowing:
        """What would have been worth most on the training prompts, by what is honestly said of them."""
        seen = np.isfinite(outcomes.cost_usd)
        usual = np.where(seen, outcomes.cost_usd, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        lengths = [vars(part).pop("honest_lengths_") for part in self.parts_ if _foretells(part)]
        longer = np.mean(lengths, axis=0) / self.output_tokens_ if lengths else 1.0
        expected = np.broadcast_to(usual * longer, guess.shape)
        choices = [Narrowing(*c) for c in product(SHRINKAGE, (0.0,) if table is None else TABLE_SHARES)]
        worth = [
            area(self.mean_ + narrowed(guess, table, how), expected, outcomes.quality, outcomes.cost_usd)
            for how in choices
        ]
        return choices[int(np.argmax(worth))] if np.isfinite(worth).all() else UNTRIED

    def _honest(self, number: int, outcomes: Outcomes, folds: NDArray[np.int64]) -> Floats:
        """What a member says of every prompt when it was not fitted to it, [n, K]."""
        own: Floats | None = vars(self.parts_[number]).pop("honest_", None)
        if own is not None:
            return own
        result = np.empty(outcomes.quality.shape)
        for fold in range(FOLDS):
            held = folds == fold
            quality = np.where(held[:, None], np.nan, outcomes.quality)
            if not np.isfinite(quality).any(axis=0).all():
                result[held] = np.nanmean(outcomes.quality, axis=0)
                continue
            member = self._built(number).fit(replace(outcomes, quality=quality))
            result[held] = member.predict(outcomes.queries).quality[held]
        return result

    def _estimate(self, queries: Queries) -> Estimate:
        """What the members say side by side, [n, M K], is weighed in one product."""
        members, experts = self.mixing_.shape[:2]
        estimates = self.together_.estimates(queries)
        said = np.concatenate([estimate.quality for estimate in estimates], axis=1)
        quality = (said - np.tile(self.mean_, members)) @ self.mixing_.reshape(-1, experts) + self.mean_
        quality = np.minimum(np.maximum(quality, 0.0), 1.0)
        apart = said.reshape(-1, members, experts) - quality[:, None]
        own = np.concatenate([estimate.std for estimate in estimates], axis=1).reshape(apart.shape)
        knowing = [
            said.output_tokens for said, part in zip(estimates, self.parts_, strict=True) if _foretells(part)
        ]
        return Estimate(
            quality=quality,
            std=np.sqrt((apart * apart + own * own).mean(axis=1)),
            output_tokens=np.asarray(sum(knowing) / len(knowing)) if knowing else self._lengths(queries),
        )

    def _learned(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean_, "mixing": self.mixing_}
        for number, part in enumerate(self.parts_):
            arrays |= nested(f"members.{number}", part.state())
        return arrays

    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.mean_ = take(state, "mean", (experts,))
        self.mixing_ = take(state, "mixing", (len(self.members), experts, experts))
        self.parts_ = []
        for number in range(len(self.members)):
            part = self._built(number)
            part.experts_, part.output_tokens_ = self.experts_, self.output_tokens_
            part.restore(within(f"members.{number}", state))
            self.parts_.append(part)
        self.together_ = Together(self.parts_)


def _foretells(part: Policy) -> bool:
    """Whether it foretells an answer's length."""
    return bool(getattr(part, "foretells_lengths", False))
