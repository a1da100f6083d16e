"""What a policy says of prompts that it was not fitted to: the evidence for trust, calibration and guarantees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.features import domain_numbers
from router.policy import Policy
from router.steps.familiarity import Evidence, Likeness
from router.types import Estimate, Floats, Outcomes
from training.data import rows_of
from training.kept_fits import Fitted, afresh

Groups = NDArray[np.intp]


@dataclass(frozen=True)
class Crossfit:
    """Estimates of the prompts `rows`, each from a policy fitted without the prompt's group; [n, K]."""

    rows: NDArray[np.intp]
    estimate: Estimate
    mean: Floats  # [n, K]: the experts' means on what the policy was fitted to
    signals: Floats | None  # [n, 3]; None for a policy that never reads the query

    def evidence(self, outcomes: Outcomes) -> Evidence:
        assert self.signals is not None
        observed = outcomes.quality[self.rows]
        return Evidence(self.signals, self.estimate.quality, observed, self.mean)

    def part(self, kept: NDArray[np.bool_]) -> "Crossfit":
        """Of the prompts where `kept` [n] says so."""
        signals = None if self.signals is None else self.signals[kept]
        said = self.estimate
        estimate = Estimate(said.quality[kept], said.std[kept], said.output_tokens[kept])
        return Crossfit(self.rows[kept], estimate, self.mean[kept], signals)


def crossfit(
    build: Callable[[], Policy],
    outcomes: Outcomes,
    groups: Groups,
    rng: np.random.Generator,
    fitted: Fitted = afresh,
) -> Crossfit | None:
    """Fits a policy without each group [n] in turn. A group without which an expert would have no outcome is left
    out; None where that leaves nothing."""
    parts = [part for part in _parts(build, outcomes, groups, rng, fitted) if part is not None]
    if not parts:
        return None
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows)
    estimates = [part.estimate for part in parts]

    def joined(arrays: list[Floats]) -> Floats:
        return np.asarray(np.concatenate(arrays)[order])

    return Crossfit(
        rows=rows[order],
        estimate=Estimate(
            quality=joined([estimate.quality for estimate in estimates]),
            std=joined([estimate.std for estimate in estimates]),
            output_tokens=joined([estimate.output_tokens for estimate in estimates]),
        ),
        mean=joined([part.mean for part in parts]),
        signals=None
        if any(part.signals is None for part in parts)
        else joined([part.signals for part in parts if part.signals is not None]),
    )


def _parts(
    build: Callable[[], Policy], outcomes: Outcomes, groups: Groups, rng: np.random.Generator, fitted: Fitted
) -> Iterator[Crossfit | None]:
    for group in np.unique(groups):
        held, kept = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        others = rows_of(outcomes, kept)
        seen = np.isfinite(others.quality)
        if not seen.any(axis=0).all():
            yield None
            continue
        policy = fitted(build(), others)
        queries = policy.described(rows_of(outcomes, held).queries)
        signals = None
        if policy.reads_query or queries.features is not None:
            known = policy.described(others.queries)
            signals = Likeness.fit(known, domain_numbers(others.queries, rng), rng).signals(queries)
        mean = np.where(seen, others.quality, 0.0).sum(axis=0) / seen.sum(axis=0)
        yield Crossfit(
            rows=held,
            estimate=policy.predict(queries),
            mean=np.broadcast_to(mean, (len(held), len(mean))),
            signals=signals,
        )


def random_folds(prompts: int, folds: int, rng: np.random.Generator) -> Groups:
    return np.asarray(rng.permutation(np.arange(prompts) % folds))


def domain_groups(outcomes: Outcomes, most: int, rng: np.random.Generator) -> Groups:
    """Whole domains in at most `most` groups of about the same size; clusters where the data name no domains."""
    domains = domain_numbers(outcomes.queries, rng)
    sizes = np.bincount(domains)
    filled = np.zeros(min(most, len(sizes)))
    owner = np.zeros(len(sizes), dtype=np.intp)
    for domain in np.argsort(-sizes + rng.random(len(sizes)), kind="stable"):
        owner[domain] = filled.argmin()
        filled[owner[domain]] += sizes[domain]
    return np.asarray(owner[domains])
