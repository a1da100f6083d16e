"""The steps that follow a policy, learned from what it says of prompts that it was not fitted to; and its trial."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router.features import domain_numbers
from router.policy import Policy
from router.stepped import Stepped
from router.steps.base import Step
from router.steps.calibration import Calibration
from router.steps.familiarity import Familiarity, Likeness
from router.types import Estimate, Floats, Outcomes, Trial
from training.crossfit import Crossfit, crossfit, domain_groups, random_folds
from training.data import rows_of

FOLDS = 4
DOMAIN_GROUPS = 4
MOST_FITS = 1 + FOLDS + DOMAIN_GROUPS
LEAST_PROMPTS = 100  # under which no step is learned
TRIAL_PROMPTS = 2_048


@dataclass(frozen=True)
class Assured:
    """The policy with its steps, and its trial; as it was, without a trial, where the prompts are too few."""

    policy: Policy
    trial: Trial | None


def assured(policy: Policy, outcomes: Outcomes, seed: int, fitting: Callable[[], None]) -> Assured:
    """`policy` is fitted to `outcomes`; its like is fitted to parts of them, and `fitting` called before each."""
    rng = np.random.default_rng(seed)
    if len(outcomes) < LEAST_PROMPTS:
        return Assured(policy, None)

    def build() -> Policy:
        fitting()
        return type(policy)(**policy.params)

    at_random = crossfit(build, outcomes, random_folds(len(outcomes), FOLDS, rng), rng)
    if at_random is None:
        return Assured(policy, None)
    steps: list[Step] = []
    if at_random.signals is not None:
        by_domain = crossfit(build, outcomes, domain_groups(outcomes, DOMAIN_GROUPS, rng), rng)
        if by_domain is not None and by_domain.signals is not None:
            steps.append(_familiarity(policy, outcomes, at_random, by_domain, rng))
    estimate = _after(steps, at_random, outcomes)
    steps.append(Calibration.fit(estimate.quality, outcomes.quality[at_random.rows]))
    final = _after(steps, at_random, outcomes)
    return Assured(
        Stepped(policy, steps, policy.experts_, policy.output_tokens_), _trial(final, at_random, outcomes, rng)
    )


def _familiarity(
    policy: Policy, outcomes: Outcomes, at_random: Crossfit, by_domain: Crossfit, rng: np.random.Generator
) -> Familiarity:
    domains = domain_numbers(outcomes.queries, rng)
    likeness = Likeness.fit(policy.described(outcomes.queries), domains, rng)
    mean = _mean(outcomes.quality)
    ranged = np.zeros(len(mean))
    for domain in np.unique(domains):
        there = outcomes.quality[domains == domain]
        seen = np.isfinite(there).any(axis=0)
        ranged[seen] += len(there) * (_mean(there[:, seen]) - mean[seen]) ** 2
    spread = np.sqrt(ranged / len(outcomes))
    familiar, unlike = at_random.evidence(outcomes), by_domain.evidence(outcomes)
    return Familiarity.fit(likeness, familiar, unlike, mean, spread)


def _mean(quality: Floats) -> Floats:
    seen = np.isfinite(quality)
    return np.asarray(np.where(seen, quality, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1))


def _after(steps: list[Step], found: Crossfit, outcomes: Outcomes) -> Estimate:
    """What the steps make of the cross-fitted estimates, by the distances found when each was held out."""
    estimate = found.estimate
    for step in steps:
        if isinstance(step, Familiarity):
            assert found.signals is not None
            estimate = step.drawn(step.trust_at(found.signals), estimate)
        else:
            estimate = step.apply(rows_of(outcomes, found.rows).queries, estimate)
    return estimate


def _trial(estimate: Estimate, found: Crossfit, outcomes: Outcomes, rng: np.random.Generator) -> Trial:
    rows = np.sort(rng.permutation(len(found.rows))[:TRIAL_PROMPTS])
    own = found.rows[rows]
    return Trial(
        quality=estimate.quality[rows],
        output_tokens=estimate.output_tokens[rows],
        input_tokens=outcomes.queries.input_tokens[own],
        observed=outcomes.quality[own],
    )
