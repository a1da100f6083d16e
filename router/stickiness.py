"""Whether a conversation stays with its expert: prompt-cache discount and switching margin against expected gain.

The expert that served the conversation last is favoured by what staying is worth, in the utility's own unit:

    favour = lambda * cached_tokens * (input price - cached-input price) + margin

where lambda is the price of quality of `router.objective`. So its utility counts the part of the prompt that its
provider has cached at the cached price, and another expert is taken only where its own utility, at the full price,
is higher by more than the margin. Whatever rules an expert out (health, limits, capabilities, the caller's wishes)
comes before, so that a conversation is never held where it cannot be served. Costs that caps, budgets and answers
speak of stay those without the discount: a cache promises nothing.
"""

import numpy as np

from router.types import Decision, Floats, Held, Price


def held(expert: str, cached_tokens: int, price: Price, price_of_quality: float, margin: float) -> Held:
    """What speaks for the conversation's expert. `margin` is in units of quality."""
    cached = price.input if price.cached_input is None else price.cached_input
    saves_usd = cached_tokens * max(price.input - cached, 0.0) / 1e6
    return Held(expert, cached_tokens, saves_usd, price_of_quality * saves_usd + margin)


def favours(held: Held, experts: tuple[str, ...]) -> Floats:
    """What is added to the experts' utilities [K]."""
    return np.where(np.array(experts) == held.expert, held.favour, 0.0)


def stays(decision: Decision) -> bool:
    """Whether the decision leaves the conversation where it was."""
    return decision.held is not None and decision.order[0] == decision.held.expert


def why_held(decision: Decision) -> str:
    """For people: why the conversation stays with its expert, or why it moves. Needs `decision.held`."""
    before = decision.held
    assert before is not None
    utility = dict(zip(decision.experts, decision.utility, strict=True))
    worth = f"{before.favour:.4f}"
    if before.saves_usd:
        worth += f", with about {before.cached_tokens} tokens in its prompt cache, saving ${before.saves_usd:.6f}"
    if stays(decision):
        others = [utility[name] for name in decision.order[1:]]
        gain = max(others) - utility[before.expert] if others else 0.0
        reason = (
            f"another is better by {gain:.4f}, staying is worth {worth}" if gain > 0 else "still the best choice"
        )
        return f"the conversation stays with {before.expert}: {reason}"
    reason = decision.ruled_out.get(before.expert, "")
    if not reason and before.expert not in decision.order:
        reason = "a limit or a budget passed it over"
    if not reason:
        gain = utility[decision.order[0]] - utility[before.expert]
        drawn = gain <= before.favour
        reason = "drawn to learn" if drawn else f"this one is better by {gain:.4f}, staying was worth {worth}"
    return f"the conversation moves from {before.expert}: {reason}"
