"""A table in, an artifact out: fits one policy and packs it with the queries that calibrate a router."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from policies import policy_class
from router.artifact import Artifact, EncoderStamp, pack
from router.errors import DataError
from router.policy import Policy
from router.types import Outcomes, Queries
from training.data import Table

REFERENCE_QUERIES = 1_024


def build(kind: str, params: Mapping[str, Any], seed: int) -> Policy:
    """The policy of a kind, unfitted. Raises `DataError` for a parameter that it does not have."""
    policy = policy_class(kind)
    known = inspect.signature(policy).parameters
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise DataError(f"the policy {kind} has no parameter {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    return policy(**{"rng": seed, **params} if "rng" in known else dict(params))


def fit(policy: Policy, table: Table, encoder: EncoderStamp | None, seed: int) -> Artifact:
    """Fits `policy` on the table's outcomes. Raises `DataError` where there is nothing to choose from."""
    outcomes = table.outcomes
    if len(outcomes.experts) < 2:
        raise DataError(f"the tables hold one model only, {outcomes.experts[0]!r}: there is nothing to choose")
    policy.fit(outcomes)
    return pack(
        policy,
        reference(outcomes, np.random.default_rng(seed)),
        encoder=encoder,
        data_digest=table.digest,
        metrics={"train_prompts": len(outcomes), "train_scores": int(np.isfinite(outcomes.quality).sum())},
    )


def reference(outcomes: Outcomes, rng: np.random.Generator, size: int = REFERENCE_QUERIES) -> Queries:
    """A sample of the queries, without their prompts: what a router calibrates its prices of quality on."""
    rows = np.sort(rng.permutation(len(outcomes))[:size])
    queries = outcomes.queries
    return Queries(
        embeddings=queries.embeddings[rows].astype(np.float16).astype(np.float32),
        input_tokens=queries.input_tokens[rows],
    )
