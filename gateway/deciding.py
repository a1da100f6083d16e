"""The decision on a request: the router's, the cache's or the caller's own; and how it is shown."""

import secrets
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from gateway.caching import directives
from gateway.chat_request import ChatRequest
from gateway.exchange import Exchange
from gateway.service import Service
from gateway.turn import Turn
from gateway.wire import Headers
from router.errors import NoExpertFits, NoHealthyExpert
from router.explanation import why
from router.stickiness import stays
from router.types import NULL_PREFIX, Decision


async def cached_or_decided(
    service: Service,
    exchange: Exchange,
    request: ChatRequest,
    headers: Headers,
    turn: Turn | None,
    *,
    arrived: bool = False,
) -> Decision:
    """As `decide`, with a kept answer as a null expert in the choice where a cache is configured and has one."""
    if service.cache is None:
        return await decide(service, request, exchange.caller, turn, arrived=arrived)
    asked = directives(headers)
    exchange.cache = lookup = await service.cache.look(request, exchange.owner, service.router.use.label, asked)
    try:
        decision = await decide(service, request, exchange.caller, turn, arrived=arrived)
    except NoHealthyExpert:
        if lookup.found is None:
            raise
        preference = request.wishes.preference or service.settings.policy.preference
        return lookup.alone("dec_" + secrets.token_hex(12), service.router.use.label, preference)
    return await lookup.join(decision)


async def decide(
    service: Service, request: ChatRequest, caller: str, turn: Turn | None = None, *, arrived: bool = False
) -> Decision:
    """The router's decision, or the caller's own where the request names its expert. Raises `RequestError`.

    `arrived`: an expert will be asked, which counts in the pace of the caller's budgets.
    """
    router = service.router
    price = None
    if service.admission is not None and service.pace is not None:
        caps = service.admission.caps.of_caller(caller)
        price = service.pace.arrived(caps) if arrived else service.pace.price(caps)
    if request.expert is None:
        stay = None if turn is None else await turn.stay()
        decision = await router.decide(request.query(caller), request.wishes, price=price, stay=stay)
        service.metrics.encode_s.observe(decision.encode_s)
        return decision
    if request.wishes.fallback:
        with suppress(NoExpertFits, NoHealthyExpert):  # no other could help: the caller's own choice stands alone
            return await router.decide(request.query(caller), request.wishes, first=request.expert)
    return router.named(
        request.expert, request.input_tokens, request.max_output_tokens, request.wishes, request.answers
    )


def _reason(decision: Decision) -> str:
    named = not decision.experts and not decision.order[0].startswith(NULL_PREFIX)
    return "the caller named the expert" if named else why(decision)


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as `/v1/route` and `explain` show it."""
    return {
        "object": "routing.decision",
        "id": decision.id,
        "expert": decision.order[0],
        "policy": decision.policy,
        "preference": decision.preference,
        "paced": decision.paced,
        "reason": _reason(decision),
        "familiarity": None if decision.familiarity is None else round(decision.familiarity, 4),
        "session": None if (held := decision.held) is None else asdict(held) | {"stays": stays(decision)},
        "quality_floor": None if (floor := decision.floor) is None else asdict(floor),
        "candidates": [
            {
                "expert": candidate.expert,
                "eligible": candidate.reason is None,
                "reason": candidate.reason,
                "quality": round(candidate.quality, 6),
                "quality_std": round(candidate.std, 6),
                "cost_usd": round(candidate.cost_usd, 9),
                "latency_s": round(candidate.latency_s, 4),
                "utility": round(candidate.utility, 6),
                "propensity": round(candidate.propensity, 6),
            }
            for candidate in decision.candidates()
        ],
        "timing_ms": {
            "encode": round(decision.encode_s * 1e3, 3),
            "decide": round(decision.decide_s * 1e3, 3),
        },
    }
