"""What every study needs: how to train the policy, on what, and what to judge it on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router.policy import Policy
from router.types import Outcomes
from training.assurance import assured
from training.kept_fits import Fitted, afresh

#: Called with a line on each part of a study that is done.
Tick = Callable[[str], None]


def silent(line: str) -> None:
    """The tick of one who does not wait."""


@dataclass(frozen=True)
class Setup:
    """`build` gives the policy, unfitted, every time anew. Both tables hold the same experts in the same order.

    With `assure`, each training also learns the steps that follow a policy (`training.assurance`), from up to eight
    fits more. `fitted` makes every fit.
    """

    build: Callable[[], Policy]
    train: Outcomes
    held_out: Outcomes
    seed: int = 0
    assure: bool = False
    fitted: Fitted = afresh

    def trained(self, outcomes: Outcomes) -> Policy:
        policy = self.fitted(self.build(), outcomes)
        if not self.assure:
            return policy
        return assured(policy, outcomes, self.seed, lambda: None, self.fitted).policy

    def rng(self, place: int = 0) -> np.random.Generator:
        """The same every time: what is judged on the same queries shares resamples; others have another place."""
        return np.random.default_rng((self.seed, place))
