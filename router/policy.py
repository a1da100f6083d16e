"""The contract that every policy keeps: it estimates quality, and nothing else.

Price, latency, load, permissions and health enter afterwards (`router.objective`), so one trained policy
serves every preference, floor and budget without refitting.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from router.errors import DataError
from router.types import Estimate, Floats, Outcomes, Queries


class Policy(ABC):
    """Predicts the expected quality of every expert on every query.

    Constructor arguments are keyword-only and stored as given; learned state ends in `_`. Randomness comes
    from the `rng` seed argument alone. `fit` learns, per expert, the mean output length beside the quality,
    since expected cost depends on it.
    """

    #: False for policies that never look at the embedding: the router then does not embed.
    reads_query: bool = True
    #: True for policies whose `described` runs a model of its own over the prompts, for milliseconds: the router
    #: calls it in a thread of its own, so that the event loop never waits for it.
    reads_text: bool = False
    #: What a search (`training.space`) may try for the constructor's arguments: a list of choices, or a range such
    #: as {"low": 1, "high": 64, "log": True}. Empty: derived from the arguments' types and defaults.
    space: ClassVar[Mapping[str, Any]] = {}
    #: Share of decisions drawn uniformly from the candidates instead of taking the best.
    explore: float = 0.0

    experts_: tuple[str, ...]
    output_tokens_: Floats  # [K]: mean output tokens of each expert

    @property
    def kind(self) -> str:
        """The policy's kind is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def params(self) -> dict[str, Any]:
        """The constructor's arguments, as given."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def fit(self, outcomes: Outcomes) -> Self:
        """Learns from `outcomes`; rows and experts may be partly unobserved (NaN).

        An expert without one observed quality raises `DataError`.
        """
        unseen = ~np.isfinite(outcomes.quality).any(axis=0)
        if unseen.any():
            raise DataError(
                f"expert {outcomes.experts[int(unseen.argmax())]!r} has no observed quality in the rows to learn "
                "from: leave it out of them, or learn from other rows"
            )
        self.experts_ = outcomes.experts
        self.output_tokens_ = mean_length(outcomes.output_tokens)
        self._fit(outcomes)
        return self

    @abstractmethod
    def _fit(self, outcomes: Outcomes) -> None: ...

    def predict(self, queries: Queries) -> Estimate:
        """Quality and its uncertainty for every query [n] and expert [K], in the order of `experts_`."""
        return self._estimate(self.described(queries))

    def worded(self, queries: Queries) -> Queries:
        """The queries with the `words` that this policy reads of their prompts alone, while they are embedded."""
        return queries

    def described(self, queries: Queries) -> Queries:
        """The queries with the `features` that this policy reads of their prompts; as given where it reads none."""
        return queries

    def _lengths(self, queries: Queries) -> Floats:
        """Expected output tokens [n, K]: each expert's mean, unless the policy knows better."""
        return np.broadcast_to(self.output_tokens_, (len(queries), len(self.output_tokens_)))

    def _estimate(self, queries: Queries) -> Estimate:
        """Of queries that are `described`. Most policies give quality and lengths apart, by the two below."""
        quality, std = self._predict(queries)
        return Estimate(quality=quality, std=std, output_tokens=self._lengths(queries))

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        """(quality, std), both [n, K]; of a policy that has no `_estimate` of its own."""
        raise NotImplementedError

    @abstractmethod
    def state(self) -> dict[str, Floats]:
        """The learned arrays, for `state.safetensors` (without `experts_` and `output_tokens_`)."""

    @abstractmethod
    def restore(self, state: Mapping[str, Floats]) -> None:
        """Takes back what `state` gave; a missing or misshapen array raises `ArtifactError`."""


def mean_length(output_tokens: Floats, prior_tokens: float = 256.0, prior_weight: float = 10.0) -> Floats:
    """Mean output tokens per expert [K] of a table [n, K] with NaN where unobserved.

    Shrunk towards the mean of all experts (a pool of unseen lengths: towards `prior_tokens`).
    """
    seen = np.isfinite(output_tokens)
    count = seen.sum(axis=0)
    total = np.where(seen, output_tokens, 0.0).sum(axis=0)
    centre = total.sum() / count.sum() if count.sum() else prior_tokens
    return np.asarray((total + prior_weight * centre) / (count + prior_weight), dtype=np.float32)
