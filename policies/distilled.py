"""Any policy distilled into a small frozen one: a single product of the prompt's vector.

StableMoE: Stable Routing Strategy for Mixture of Experts (Dai et al., 2022): routing is learned first, then
distilled into a light router that is frozen, so that routes no longer fluctuate. The student is a ridge regression
on what the teacher says of the training prompts; it needs the vector alone, whatever the teacher reads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies import policy_class
from router.artifact import take
from router.members import built
from router.policy import Policy
from router.ridge import ridge
from router.types import Floats, Outcomes, Queries

TEACHER: Mapping[str, Any] = {"kind": "best"}
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # a teacher is less noisy than outcomes
SHORTEST = 0.05  # of an expert's mean length, that an answer is expected to be
LEAST_STD = 0.01


class Distilled(Policy):
    """`teacher`: the `kind` of a policy and its parameters. It is not kept."""

    def __init__(self, *, teacher: Mapping[str, Any] = TEACHER, rng: int = 0) -> None:
        self.teacher = dict(teacher)
        self.rng = rng

    def _fit(self, outcomes: Outcomes) -> None:
        teacher = built(self.teacher, "teacher", policy_class, self.rng).fit(outcomes)
        said = teacher.predict(outcomes.queries)
        target = np.hstack([said.quality, said.output_tokens / self.output_tokens_])
        path = ridge(outcomes.queries.embeddings, target, STRENGTHS)
        error = path.error(target)
        half = slice(0, len(self.experts_)), slice(len(self.experts_), None)
        best = [int(error[:, part].mean(axis=1).argmin()) for part in half]
        both = list(zip(best, half, strict=True))
        # in half precision, as it is stored
        self.weights_ = (
            np.hstack([path.weights[b][:, part] for b, part in both]).astype(np.float16).astype(np.float32)
        )
        self.bias_ = np.hstack([path.intercept[b, part] for b, part in both]).astype(np.float32)
        apart = error[best[0], half[0]] + (said.std**2).mean(axis=0)
        self.std_ = np.maximum(np.sqrt(apart), LEAST_STD).astype(np.float32)

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        experts = len(self.std_)
        quality = queries.embeddings @ self.weights_[:, :experts] + self.bias_[:experts]
        return np.minimum(np.maximum(quality, 0.0), 1.0), np.broadcast_to(self.std_, quality.shape)

    def _lengths(self, queries: Queries) -> Floats:
        experts = len(self.std_)
        ratio = queries.embeddings @ self.weights_[:, experts:] + self.bias_[experts:]
        return np.asarray(self.output_tokens_[:experts] * np.maximum(ratio, SHORTEST))

    def state(self) -> dict[str, Floats]:
        return {"weights": self.weights_.astype(np.float16), "bias": self.bias_, "std": self.std_}

    def restore(self, state: Mapping[str, Floats]) -> None:
        experts = len(self.experts_)
        self.weights_ = take(state, "weights", (None, 2 * experts))
        self.bias_ = take(state, "bias", (2 * experts,))
        self.std_ = take(state, "std", (experts,))
