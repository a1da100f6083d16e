"""Null experts: kept answers that take part in the choice at no price.

AdaMoE (Zeng et al., 2024) adds experts that compute nothing to a gate's choice. Here a kept answer is one, for the
request that it fits: its quality is what is foretold of the expert that wrote it, on this very query; its cost and
latency are 0. It is chosen where its utility is at least that of every expert that may take the request. A caller
who named an expert has no other to compare it with, and takes it.

An answer to a question that is merely close (`SEMANTIC`) is wrong with some probability, and worth that much less.
"""

from dataclasses import replace

import numpy as np

from router.types import NULL_PREFIX, Decision, Preference

EXACT = NULL_PREFIX + "exact"
SEMANTIC = NULL_PREFIX + "semantic"


def with_null(decision: Decision, null: str, writer: str, wrong: float = 0.0) -> Decision:
    """The decision with the null expert in it, first in `order` where it is chosen and else ruled out.

    `writer` is the expert that wrote the kept answer, `wrong` the probability that it answers another question. The
    propensity says what is done now that there is a hit.
    """
    if not decision.experts:
        return replace(decision, order=(null, *decision.order))
    if writer not in decision.experts:
        return decision  # nothing is known of who wrote it
    quality = (1.0 - wrong) * float(decision.quality[decision.experts.index(writer)])
    eligible = [decision.experts.index(name) for name in decision.order]
    best = max(float(decision.utility[k]) for k in eligible)
    chosen = quality >= best
    wider = replace(
        decision,
        experts=(*decision.experts, null),
        quality=np.append(decision.quality, quality),
        std=np.append(decision.std, decision.std[decision.experts.index(writer)]),
        cost_usd=np.append(decision.cost_usd, 0.0),
        latency_s=np.append(decision.latency_s, 0.0),
        utility=np.append(decision.utility, quality),
        propensity=np.append(decision.propensity * (not chosen), float(chosen)),
    )
    if chosen:
        return replace(wider, order=(null, *decision.order))
    reason = f"its utility {quality:.4f} is under the best expert's {best:.4f}"
    return replace(wider, ruled_out={**decision.ruled_out, null: reason})


def null_alone(decision_id: str, null: str, policy: str, preference: Preference) -> Decision:
    """The decision where no expert can be asked now and a kept answer is all there is."""
    none = np.zeros(0)
    return Decision(
        id=decision_id,
        order=(null,),
        policy=policy,
        preference=preference,
        experts=(),
        quality=none,
        std=none,
        cost_usd=none,
        latency_s=none,
        utility=none,
        propensity=none,
        ruled_out={},
    )
