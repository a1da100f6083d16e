"""`POST /v1/feedback`: a caller rates a decision of their own key, in [0, 1] or with a thumb."""

import time

from fastapi import APIRouter, Response

from gateway.chat_request import parse_object
from gateway.surfaces import Body, In, Known, answer
from router.errors import InvalidRequest, UnknownRecord

api = APIRouter()
THUMBS = {"up": 1.0, "down": 0.0}
_BODY = {
    "type": "object",
    "required": ["decision"],
    "properties": {
        "decision": {"type": "string", "minLength": 1, "maxLength": 100},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "thumb": {"enum": list(THUMBS)},
    },
    "oneOf": [{"required": ["score"]}, {"required": ["thumb"]}],
}


@api.post(
    "/v1/feedback",
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}}},
)
async def feedback(body: Body, service: In, exchange: Known) -> Response:
    """A rating of a decision: the last one counts. Another key's decision is as unknown as one that never was."""
    decisions = service.decisions
    if decisions is None:
        raise InvalidRequest("no decisions are recorded here: the configuration has no `decisions`")
    given = parse_object(body)
    decision = given.get("decision")
    if not isinstance(decision, str) or not 0 < len(decision) <= 100:
        raise InvalidRequest("decision: expected the id of a decision", param="decision")
    score = score_of(given.get("score"), given.get("thumb"))
    if await decisions.owner(decision) != exchange.owner:
        raise UnknownRecord(f"no decision of this key is called {decision!r}, or it is too old", param="decision")
    decisions.record(
        {"kind": "feedback", "decision_id": decision, "at": time.time(), "caller": exchange.caller, "score": score}
    )
    service.metrics.answered("feedback", "", 200)
    return answer({"object": "feedback", "decision": decision, "score": score}, exchange)


def score_of(score: object, thumb: object) -> float:
    """Raises `InvalidRequest` unless exactly one of the two is given, and right."""
    if (score is None) == (thumb is None):
        raise InvalidRequest("give exactly one of `score` (0 to 1) or `thumb` (up or down)", param="score")
    if thumb is not None:
        if not isinstance(thumb, str) or thumb not in THUMBS:
            raise InvalidRequest("thumb: expected up or down", param="thumb")
        return THUMBS[thumb]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InvalidRequest("score: expected a number from 0 to 1", param="score")
    return float(score)
