"""How often a certified quality floor is missed on prompts that nobody certified it on, and what it saves.

The estimates are cross-fitted on `train`: of each prompt, from a fit that had not seen it. Then the prompts are
split 200 times, at random, into a half on which the floor is certified (at most as many prompts as an artifact
carries) and a half on which the certified rule is held against the best single expert of that half. That half's own
mean is uncertain too, so the share of misses is of a harder promise than the one made, which is about expectations.
The cost of the best single expert is that of the one that was best where the floor was certified. Run by
quality.py (`--parts floors`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from report import Figure, judged

from router.guarantee import SHARES, Replay, certified_share, served_quality
from router.objective import SPEND, price_of_quality
from router.types import Floats, Outcomes, Preference
from training.data import experts_of, rows_of
from training.evaluate import comparable
from training.fit import build
from training.own_cost import expected_cost

FLOORS = (0.9, 0.95, 0.98, 1.0)
CONFIDENCE = 0.9
SPLITS = 200
FOLDS = 4
TRIAL_PROMPTS = 2_048


@dataclass(frozen=True)
class Tried:
    """Cross-fitted estimates [n, K] beside what came of them, where every expert is observed and priced."""

    replay: Replay
    paid: Floats

    def part(self, rows: NDArray[np.intp]) -> Replay:
        return Replay(self.replay.quality[rows], self.replay.cost_usd[rows], self.replay.observed[rows])


def measure(
    dataset: str, train: Outcomes, *, policy: str = "linear", preference: Preference = "cheap", seed: int = 0
) -> list[Figure]:
    """The figures of one table's training split, with its vectors."""
    rng = np.random.default_rng(seed)
    return list(figures(f"{dataset}: {policy}, {preference}", tried(policy, train, seed), preference, rng))


def tried(policy: str, train: Outcomes, seed: int) -> Tried:
    rows, kept, _ = comparable(train)
    outcomes = experts_of(train, kept.tolist())
    fold = np.random.default_rng(seed).permutation(np.arange(len(outcomes)) % FOLDS)
    quality, lengths = (np.empty(outcomes.quality.shape, np.float32) for _ in range(2))
    for held in range(FOLDS):
        fitted = build(policy, {}, seed).fit(rows_of(outcomes, np.flatnonzero(fold != held)))
        estimate = fitted.predict(rows_of(outcomes, np.flatnonzero(fold == held)).queries)
        quality[fold == held], lengths[fold == held] = estimate.quality, estimate.output_tokens
    replay = Replay(quality[rows], expected_cost(outcomes, lengths)[rows], outcomes.quality[rows])
    return Tried(replay, outcomes.cost_usd[rows])


def figures(name: str, made: Tried, preference: Preference, rng: np.random.Generator) -> Iterator[Figure]:
    price = price_of_quality(made.replay.quality, made.replay.cost_usd, SPEND[preference])
    served = served_quality(made.replay, price)
    spent = served_quality(replace(made.replay, observed=made.paid), price)
    prompts = len(served)
    halves = [np.split(rng.permutation(prompts), [prompts // 2]) for _ in range(SPLITS)]
    for floor in FLOORS:
        certified, missed, costs = [], [], []
        for shown, hidden in halves:
            trial = shown[:TRIAL_PROMPTS]
            share = certified_share(made.part(trial), price, floor, CONFIDENCE)
            column = SHARES.index(share or 0.0)
            singles = made.replay.observed[hidden].mean(axis=0)
            best = made.replay.observed[trial].mean(axis=0).argmax()
            certified.append(share is not None)
            missed.append(share is not None and served[hidden, column].mean() < floor * singles.max())
            costs.append((spent[hidden, column].mean(), made.paid[hidden, best].mean()))
        ours, singles_cost = np.array(costs).T
        low, high = 1.0 - np.quantile(ours / singles_cost, [0.95, 0.05])
        said = f"{name}, floor {floor:g}"
        yield judged(
            Figure(f"{said}: missed, of {SPLITS} splits", float(np.mean(missed)), goal=f"<= {1 - CONFIDENCE:.2g}")
        )
        yield Figure(f"{said}: certified", float(np.mean(certified)))
        saved = 1.0 - ours.mean() / singles_cost.mean()
        yield Figure(f"{said}: saved of the best single's cost", float(saved), float(low), float(high))
