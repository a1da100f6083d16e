"""A table in, an artifact out: fits one policy and packs it with the queries that calibrate a router."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from policies import policy_class
from router.artifact import Artifact, EncoderStamp, pack
from router.errors import ConfigError, DataError
from router.policy import Policy
from router.types import Outcomes, Queries
from training.assurance import Assured, assured
from training.data import Table, rows_of
from training.kept_fits import Fitted, afresh

REFERENCE_QUERIES = 1_024


def build(kind: str, params: Mapping[str, Any], seed: int) -> Policy:
    """The policy of a kind, unfitted. Raises `ConfigError` for a parameter that it does not have or take."""
    policy = policy_class(kind)
    known = inspect.signature(policy).parameters
    checked = {"rng": seed} if "rng" in known else {}
    for name, value in params.items():
        if name not in known:
            raise ConfigError(f"the policy {kind} has no parameter {name!r}; it has: {', '.join(known) or 'none'}")
        try:
            checked[name] = TypeAdapter(known[name].annotation).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"the policy {kind}, parameter {name}: {problem}, got {value!r}") from error
    return policy(**checked)


def fit(
    policy: Policy,
    table: Table,
    encoder: EncoderStamp | None,
    seed: int,
    *,
    assure: bool = False,
    fitting: Callable[[], None] = lambda: None,
    fitted: Fitted = afresh,
) -> Artifact:
    """Fits `policy` on the table's outcomes. Raises `DataError` where there is nothing to choose between.

    With `assure`, the steps that follow it and its trial are learned too, from up to eight fits to parts of the
    table; `fitting` is called before each fit, and `fitted` makes it: by default `policy` itself is fitted.
    """
    outcomes = table.outcomes
    if len(outcomes.experts) < 2:
        raise DataError(f"the tables hold one model only, {outcomes.experts[0]!r}: there is nothing to choose")
    fitting()
    policy = fitted(policy, outcomes)
    sure = assured(policy, outcomes, seed, fitting, fitted) if assure else Assured(policy, None)
    return pack(
        sure.policy,
        reference(policy, outcomes, np.random.default_rng(seed)),
        encoder=encoder,
        data_digest=table.digest,
        metrics={"train_prompts": len(outcomes), "train_scores": int(np.isfinite(outcomes.quality).sum())},
        trial=sure.trial,
    )


def reference(
    policy: Policy,
    outcomes: Outcomes,
    rng: np.random.Generator,
) -> Queries:
    """A sample of the queries: what a router calibrates its prices of quality on.

    Without their prompts: what the policy reads of them stands in their place.
    """
    rows = np.sort(rng.permutation(len(outcomes))[:REFERENCE_QUERIES])
    queries = policy.described(rows_of(outcomes, rows).queries)
    return Queries(
        embeddings=queries.embeddings.astype(np.float16).astype(np.float32),
        input_tokens=queries.input_tokens,
        features=queries.features,
    )
