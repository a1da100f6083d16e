"""Whether a policy chooses the same expert for a prompt worded otherwise (S2MoE and StableMoE measure such flips).

The recorded outcomes are those of the prompt as it was: what a flip costs supposes that the experts themselves
answer a reworded prompt as they answered the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.errors import DataError
from router.objective import price_of_quality, utility
from router.policy import Policy
from router.types import Floats, Outcomes, Queries
from training.data import experts_of, rows_of
from training.evaluate import comparable, known_experts
from training.interval import Interval, mean_intervals
from training.studies.base import Tick, silent
from training.studies.rewording import RULES, Rule, reworded

SPEND = 0.5  # of the best single expert's cost


@dataclass(frozen=True)
class Flips:
    """`changed` is the share of prompts that the rule changes at all, `flipped` the share whose expert is another.

    `quality` and `cost_usd` are what the choices on the reworded prompts reach and cost above the first ones.
    """

    rule: str
    changed: float
    flipped: Interval
    quality: Interval
    cost_usd: Interval


def flips(
    policy: Policy,
    held_out: Outcomes,
    embed: Callable[[Sequence[str]], Floats],
    seed: int = 0,
    rules: Mapping[str, Rule] = RULES,
    tick: Tick = silent,
) -> tuple[Flips, ...]:
    """How choices change at half the best single expert's cost. `embed` gives the vectors [n, d] of prompts."""
    known, columns, _ = known_experts(held_out, policy.experts_)
    rows, kept, _ = comparable(known)
    outcomes = experts_of(rows_of(known, rows), kept.tolist())
    if (prompts := outcomes.queries.prompts) is None:
        raise DataError("rewording needs the prompts themselves, not their vectors alone")
    cost = outcomes.cost_usd.mean(axis=0)
    every = np.arange(len(prompts))

    def predicted(queries: Queries) -> Floats:
        return policy.predict(queries).quality[:, columns][:, kept]

    first = predicted(outcomes.queries)
    price = price_of_quality(first, np.broadcast_to(cost, first.shape), SPEND)
    chosen = utility(first, cost, price).argmax(axis=1)
    found = []
    for name, rule in rules.items():
        texts = tuple(reworded(prompts, rule, seed))
        vectors = embed(texts) if policy.reads_query else outcomes.queries.embeddings
        other = predicted(replace(outcomes.queries, prompts=texts, embeddings=vectors, features=None))
        then = utility(other, cost, price).argmax(axis=1)
        change = [
            (then != chosen).astype(float),
            outcomes.quality[every, then] - outcomes.quality[every, chosen],
            outcomes.cost_usd[every, then] - outcomes.cost_usd[every, chosen],
        ]
        changed = float(np.mean([new != old for new, old in zip(texts, prompts, strict=True)]))
        found.append(Flips(name, changed, *mean_intervals(np.stack(change, axis=1), np.random.default_rng(seed))))
        tick(name)
    return tuple(found)
