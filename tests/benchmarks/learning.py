"""How the share of the gap that a policy closes grows with the prompts that it learns from, and where that leads.

All recorded prompts of a table, `train` and `val` together, are split into four parts; each part is judged by a
policy trained on an eighth, a quarter, half and all of the other three. A figure is the mean over the parts, its
interval the normal one of that mean. The ceiling is read off a least-squares line over 1/sqrt(prompts), at zero:
what endless prompts of the same kind would give this policy if errors fell as those of an estimated mean do; its
interval leaves out one part at a time (jackknife). Run by quality.py (`--parts learning`).
"""

from collections.abc import Iterator

import numpy as np
from report import Figure

from router.types import Floats
from training.data import Table, rows_of
from training.evaluate import evaluate
from training.fit import build

PARTS = 4
FRACTIONS = (0.125, 0.25, 0.5, 1.0)
NORMAL_95 = 1.96


def measure(dataset: str, table: Table, *, policy: str, seed: int = 0) -> Iterator[Figure]:
    outcomes = table.outcomes
    rng = np.random.default_rng(seed)
    part = rng.permutation(np.arange(len(outcomes)) % PARTS)
    share, prompts = np.empty((PARTS, len(FRACTIONS))), np.empty(len(FRACTIONS))
    for held in range(PARTS):
        known = rng.permutation(np.flatnonzero(part != held))
        for place, fraction in enumerate(FRACTIONS):
            prompts[place] = fraction * len(known)
            fitted = build(policy, {}, seed).fit(rows_of(outcomes, np.sort(known[: round(prompts[place])])))
            judgement = evaluate(fitted, rows_of(outcomes, np.flatnonzero(part == held)), rng, dataset=dataset)
            share[held, place] = judgement.own_cost["share"].value
    name = f"{dataset}: {policy}, share, own cost"
    for place, count in enumerate(prompts):
        mean = float(share[:, place].mean())
        wide = NORMAL_95 * float(share[:, place].std(ddof=1)) / PARTS**0.5
        yield Figure(f"{name}, {count:.0f} prompts", mean, mean - wide, mean + wide)
    ceiling = _ceiling(prompts, share.mean(axis=0))
    others = [_ceiling(prompts, np.delete(share, held, axis=0).mean(axis=0)) for held in range(PARTS)]
    wide = NORMAL_95 * float(np.sqrt((PARTS - 1) * np.var(others)))
    yield Figure(f"{name}, ceiling", ceiling, ceiling - wide, ceiling + wide)


def _ceiling(prompts: Floats, share: Floats) -> float:
    return float(np.polyfit(prompts**-0.5, share, 1)[1])
