"""A fitted policy and the steps that follow it, as one policy: what an artifact with steps restores to."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from router.policy import Policy
from router.steps.base import Step
from router.types import Estimate, Floats, Outcomes, Queries


class Stepped(Policy):
    """`experts` and `output_tokens` [K] are of all experts: the policy's own, then those that steps add."""

    def __init__(
        self, policy: Policy, steps: Sequence[Step], experts: tuple[str, ...], output_tokens: Floats
    ) -> None:
        self.policy = policy
        self.steps = tuple(steps)
        self.experts_ = experts
        self.output_tokens_ = output_tokens
        self.reads_query = policy.reads_query
        self.reads_text = policy.reads_text
        self.explore = policy.explore

    @property
    def kind(self) -> str:
        return self.policy.kind

    @property
    def params(self) -> dict[str, Any]:
        return self.policy.params

    def _fit(self, outcomes: Outcomes) -> None:
        raise AssertionError("a policy is fitted before steps follow it")

    def worded(self, queries: Queries) -> Queries:
        return self.policy.worded(queries)

    def described(self, queries: Queries) -> Queries:
        return self.policy.described(queries)

    def _estimate(self, queries: Queries) -> Estimate:
        estimate = self.policy.predict(queries)
        for step in self.steps:
            estimate = step.apply(queries, estimate)
        return estimate

    def state(self) -> dict[str, NDArray[Any]]:
        return self.policy.state()

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.policy.restore(state)
