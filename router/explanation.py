"""A decision in words, for people."""

from router.null_experts import SEMANTIC
from router.stickiness import why_held
from router.types import NULL_PREFIX, UNLIKE, Decision, Floor


def why(decision: Decision) -> str:
    """For people: what the chosen expert is expected to do, against the strongest one, and what of the floor."""
    if decision.order[0].startswith(NULL_PREFIX):
        of = " of a question close to this one" if decision.order[0] == SEMANTIC else ""
        return f"{decision.order[0]}: an answer{of} that was kept, at no cost, is worth as much as any expert's"
    candidates = decision.candidates()
    terms = "the pace of a budget" if decision.paced else repr(decision.preference)
    chosen = candidates[0]
    standing = [candidate for candidate in candidates if candidate.reason is None]
    strongest = max(standing, key=lambda candidate: candidate.quality)
    text = f"{chosen.expert}: expected quality {chosen.quality:.3f} for ${chosen.cost_usd:.6f}"
    if len(standing) == 1:
        text += ", the only expert that can take this request within its limits"
    elif strongest.expert == chosen.expert:
        text += f", the highest of {len(standing)} and worth its price under {terms}"
    else:
        text += (
            f", chosen under {terms} over {strongest.expert}: {strongest.quality:.3f} for ${strongest.cost_usd:.6f}"
        )
    if decision.held is not None:
        text += f"; {why_held(decision)}"
    if decision.familiarity is not None and decision.familiarity < UNLIKE:
        text += (
            f"; little is proven of queries like it ({decision.familiarity:.2f} of 1): leans on each expert's mean"
        )
    return text if decision.floor is None else f"{text}; {_promise(decision.floor)}"


def _promise(floor: Floor) -> str:
    if not floor.guaranteed:
        return f"the quality floor of {floor.asked:g} is not guaranteed: {floor.reason}"
    sure = f"{100 * floor.confidence:g} %"
    return f"the quality floor of {floor.asked:g} is guaranteed with {sure} confidence: {floor.reason}"
