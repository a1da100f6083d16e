"""The steps that follow a policy, learned from what it says of prompts that it was not fitted to; and its trial."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.features import domain_numbers
from router.policy import Policy
from router.stepped import Stepped
from router.steps.base import Step
from router.steps.calibration import Calibration
from router.steps.familiarity import Familiarity, Likeness
from router.types import Estimate, Floats, Outcomes, Trial
from training.crossfit import Crossfit, crossfit, domain_groups, random_folds
from training.data import rows_of
from training.kept_fits import Fitted, afresh

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


def assured(
    policy: Policy, outcomes: Outcomes, seed: int, fitting: Callable[[], None], fitted: Fitted = afresh
) -> Assured:
    """`policy` is fitted to `outcomes`; its like is fitted to parts of them, and `fitting` called before each."""
    rng = np.random.default_rng(seed)
    if len(outcomes) < LEAST_PROMPTS:
        return Assured(policy, None)

    def build() -> Policy:
        fitting()
        return type(policy)(**policy.params)

    at_random = crossfit(build, outcomes, random_folds(len(outcomes), FOLDS, rng), rng, fitted)
    if at_random is None:
        return Assured(policy, None)
    by_domain = None
    if at_random.signals is not None:
        by_domain = crossfit(build, outcomes, domain_groups(outcomes, DOMAIN_GROUPS, rng), rng, fitted)
    domains, likeness = domain_numbers(outcomes.queries, rng), None
    if by_domain is not None and by_domain.signals is not None:
        likeness = Likeness.fit(policy.described(outcomes.queries), domains, rng)
    evidence = _Evidence(outcomes, at_random, by_domain, likeness, domains, np.arange(len(outcomes)))
    stepped = Stepped(policy, evidence.steps(), policy.experts_, policy.output_tokens_)
    return Assured(stepped, _trial(evidence, rng))


@dataclass(frozen=True)
class _Evidence:
    """What was said of prompts that were held out: at random, and with their domains. `rows` are those known."""

    outcomes: Outcomes
    at_random: Crossfit
    by_domain: Crossfit | None
    likeness: Likeness | None
    domains: NDArray[np.intp]  # [n], of all outcomes
    rows: NDArray[np.intp]

    def steps(self) -> list[Step]:
        steps: list[Step] = []
        if self.likeness is not None and self.by_domain is not None:
            familiar, unlike = (part.evidence(self.outcomes) for part in (self.at_random, self.by_domain))
            steps.append(Familiarity.fit(self.likeness, familiar, unlike, *self._means()))
        observed = self.outcomes.quality[self.at_random.rows]
        steps.append(Calibration.fit(self.after(steps).quality, observed))
        return steps

    def _means(self) -> tuple[Floats, Floats]:
        """The experts' means, and how far these range between domains, both [K]."""
        quality, domains = self.outcomes.quality[self.rows], self.domains[self.rows]
        known = np.isfinite(quality).any(axis=0)
        mean = np.where(known, _mean(quality), _mean(self.outcomes.quality))
        ranged = np.zeros(len(mean))
        for domain in np.unique(domains):
            there = quality[domains == domain]
            seen = np.isfinite(there).any(axis=0)
            ranged[seen] += len(there) * (_mean(there[:, seen]) - mean[seen]) ** 2
        return mean, np.sqrt(ranged / len(quality))

    def after(self, steps: list[Step]) -> Estimate:
        """What the steps make of the cross-fitted estimates, by the distances found when each was held out."""
        estimate = self.at_random.estimate
        for step in steps:
            if isinstance(step, Familiarity):
                assert self.at_random.signals is not None
                estimate = step.drawn(step.trust_at(self.at_random.signals), estimate)
            else:
                estimate = step.apply(rows_of(self.outcomes, self.at_random.rows).queries, estimate)
        return estimate

    def of(self, chosen: NDArray[np.bool_]) -> "_Evidence":
        """Of some prompts alone; `chosen` [n] are of all outcomes."""

        def part(found: Crossfit) -> Crossfit:
            return found.part(chosen[found.rows])

        by_domain = None if self.by_domain is None else part(self.by_domain)
        return replace(self, at_random=part(self.at_random), by_domain=by_domain, rows=self.rows[chosen[self.rows]])


def _mean(quality: Floats) -> Floats:
    seen = np.isfinite(quality)
    return np.asarray(np.where(seen, quality, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1))


def _trial(evidence: _Evidence, rng: np.random.Generator) -> Trial:
    """What the policy with its steps says of prompts that neither it nor they were learned from."""
    found = evidence.at_random.rows
    rows = np.sort(rng.permutation(found)[:TRIAL_PROMPTS])
    fold = random_folds(len(rows), FOLDS, rng)
    quality, output_tokens = (np.empty((len(rows), evidence.outcomes.quality.shape[1])) for _ in range(2))
    for held in range(FOLDS):
        own = np.zeros(len(evidence.outcomes), dtype=bool)
        own[rows[fold == held]] = True
        said = evidence.of(own).after(evidence.of(~own).steps())
        quality[fold == held], output_tokens[fold == held] = said.quality, said.output_tokens
    return Trial(
        quality=quality.astype(np.float32),
        output_tokens=output_tokens.astype(np.float32),
        input_tokens=evidence.outcomes.queries.input_tokens[rows],
        observed=evidence.outcomes.quality[rows],
    )
