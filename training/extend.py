"""New experts for an artifact that is there: from outcomes of theirs on some prompts, without fitting it again.

The artifact's policy and all that it says of the experts it knows stay as they were. Outcomes of known experts in
the same table are used where they fall on a newcomer's prompts: they make its scores say more.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.artifact import Artifact
from router.clustering import half_norms, kmeans
from router.errors import DataError
from router.expert_names import find
from router.policy import Policy
from router.stepped import Stepped
from router.steps.base import Step
from router.steps.familiarity import Familiarity, Likeness
from router.steps.newcomers import Ground, Kinds, Labelled, Newcomers
from router.types import Estimate, Outcomes, Queries, Trial
from training.data import Table, experts_of, rows_of
from training.fit import reference

LEAST_PROMPTS = 10  # labelled, of each newcomer
FEW_PROMPTS = 100  # fewer give a part of the gain only
CLUSTERS = 64
TEMPERATURE = 0.12
UNLIKE = 0.5  # mean familiarity of labelled prompts under which they say little of usual ones


@dataclass(frozen=True)
class Extension:
    """The artifact with its newcomers; what a user should know of them, one line each."""

    artifact: Artifact
    notes: tuple[str, ...]


def extended(artifact: Artifact, policy: Policy, table: Table, seed: int) -> Extension:
    """Adds the models of `table` that the artifact does not know; `policy` is the artifact's, restored.

    Raises `DataError` where there is none, or one with too few scores or with scores that are all the same.
    """
    outcomes = table.outcomes
    new = [k for k, name in enumerate(outcomes.experts) if name not in artifact.experts]
    if not new:
        raise DataError(
            f"the table holds no new model: the artifact knows {', '.join(outcomes.experts)} already; "
            "what it knows of them changes by training anew"
        )
    _check(experts_of(outcomes, new))
    names = tuple(outcomes.experts[k] for k in new)
    labelled = labelled_rows(policy, artifact.experts, outcomes, names)
    step = Newcomers.fit(ground(policy, artifact.reference, _likeness(artifact.steps), seed), labelled)
    counts = np.isfinite(labelled.quality).sum(axis=0).tolist()
    return Extension(
        artifact=replace(
            artifact,
            experts=(*artifact.experts, *names),
            output_tokens=np.concatenate([artifact.output_tokens, step.length]),
            steps=(*artifact.steps, step),
            trial=None if artifact.trial is None else _tried(artifact.trial, step),
            data_digest=hashlib.sha256(f"{artifact.data_digest} {table.digest}".encode()).hexdigest(),
            metrics={**artifact.metrics, "newcomers": _card(artifact, dict(zip(names, counts, strict=True)))},
        ),
        notes=tuple(_notes(artifact, labelled, names)),
    )


def onboarded(policy: Policy, outcomes: Outcomes, name: str) -> Policy:
    """`policy` with one more expert, from `FEW_PROMPTS` of its `outcomes`, drawn: what `extended` makes of them."""
    rng = np.random.default_rng(0)
    seen = np.flatnonzero(np.isfinite(outcomes.quality[:, outcomes.experts.index(name)]))
    drawn = rows_of(outcomes, np.sort(rng.permutation(seen)[:FEW_PROMPTS]))
    steps = policy.steps if isinstance(policy, Stepped) else ()
    found = ground(policy, reference(policy, outcomes, rng), _likeness(steps), 0)
    step = Newcomers.fit(found, labelled_rows(policy, policy.experts_, drawn, [name]))
    return Stepped(
        policy.policy if isinstance(policy, Stepped) else policy,
        (*steps, step),
        (*policy.experts_, name),
        np.concatenate([policy.output_tokens_, step.length]),
    )


def _likeness(steps: Sequence[Step]) -> Likeness | None:
    return next((step.likeness for step in steps if isinstance(step, Familiarity)), None)


def labelled_rows(policy: Policy, known: Sequence[str], outcomes: Outcomes, names: Sequence[str]) -> Labelled:
    """The prompts on which any of the newcomers `names` was observed, with what is `known` of others there."""
    place = {name: k for k, name in enumerate(outcomes.experts)}
    new = [place[name] for name in names]
    outcomes = rows_of(outcomes, np.flatnonzero(np.isfinite(outcomes.quality[:, new]).any(axis=1)))
    observed = np.full((len(outcomes), len(known)), np.nan)
    for column, name in enumerate(known):
        if name in place:
            observed[:, column] = outcomes.quality[:, place[name]]
    queries = policy.described(outcomes.queries)
    return Labelled(
        queries=queries,
        estimate=policy.predict(queries),
        observed=observed,
        quality=outcomes.quality[:, new],
        output_tokens=outcomes.output_tokens[:, new],
    )


def ground(policy: Policy, sample: Queries, likeness: Likeness | None, seed: int) -> Ground:
    """What newcomers are described by. `sample` are training queries; `likeness` tells their domains apart."""
    kinds = []
    if likeness is not None:
        kinds.append(_domains(likeness, sample))
    if policy.reads_query and sample.embeddings.shape[1]:
        kinds.append(_clusters(sample, np.random.default_rng(seed)))
    return Ground.fit(policy.predict(sample), kinds)


def _domains(likeness: Likeness, sample: Queries) -> Kinds:
    weights = likeness.scale[:, None] * likeness.weights * likeness.sharpness
    return Kinds.fit(weights, likeness.bias * likeness.sharpness - likeness.centre @ weights, sample)


def _clusters(sample: Queries, rng: np.random.Generator) -> Kinds:
    """A prompt's shares in clusters are what a linear classifier makes of its vector."""
    vectors = sample.embeddings
    centroids = kmeans(vectors, min(CLUSTERS, len(vectors)), rng)
    features = 0 if sample.features is None else sample.features.shape[1]
    weights = np.vstack([centroids.T, np.zeros((features, len(centroids)))]) * (2.0 / TEMPERATURE)
    return Kinds.fit(weights, -half_norms(centroids) * (2.0 / TEMPERATURE), sample)


def _check(outcomes: Outcomes) -> None:
    for name, scores in zip(outcomes.experts, outcomes.quality.T, strict=True):
        scores = scores[np.isfinite(scores)]
        if len(scores) < LEAST_PROMPTS:
            raise DataError(
                f"model {name!r} has scores on {len(scores)} prompts, at least {LEAST_PROMPTS} are needed, "
                f"and {FEW_PROMPTS} to be worth it"
            )
        if np.ptp(scores) == 0:
            raise DataError(
                f"model {name!r}: all {len(scores)} scores are {scores[0]:g}, which says nothing of what it is "
                "good at: add prompts that are harder or easier"
            )


def _tried(trial: Trial, step: Newcomers) -> Trial:
    """The trial with the newcomers, of whom nothing was observed in it: a floor is proven without them."""
    estimate = step.foretold(
        Estimate(trial.quality, np.zeros(trial.quality.shape), output_tokens=trial.output_tokens)
    )
    unseen = np.full((len(trial.observed), step.adds), np.nan)
    return replace(
        trial,
        quality=estimate.quality,
        output_tokens=estimate.output_tokens,
        observed=np.hstack([trial.observed, unseen]),
    )


def _card(artifact: Artifact, prompts: dict[str, int]) -> dict[str, Any]:
    """How many labelled prompts each newcomer came with, those of earlier extensions too."""
    return {**artifact.metrics.get("newcomers", {}), **prompts}


def _notes(artifact: Artifact, labelled: Labelled, names: Sequence[str]) -> Iterator[str]:
    beside = np.isfinite(labelled.observed).sum(axis=1) > 0
    for name, rows in zip(names, np.isfinite(labelled.quality).T, strict=True):
        if (like := find(name, artifact.experts)) is not None:
            yield f"{name!r} is added beside {artifact.experts[like]!r}; the same model must have the same name"
        few = f"; under {FEW_PROMPTS} it is known roughly" if rows.sum() < FEW_PROMPTS else ""
        yield f"{name!r} comes in by {rows.sum()} prompts, {beside[rows].sum()} with scores of known models{few}"
    familiarity = labelled.estimate.familiarity
    if familiarity is not None and familiarity.mean() < UNLIKE:
        yield "the policy is little trusted on such prompts, so they say little of the new models elsewhere"
