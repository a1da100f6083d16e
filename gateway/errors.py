"""Failures as OpenAI's API says them: status, headers and `{"error": {message, type, param, code}}`."""

import math
from dataclasses import dataclass, field
from typing import Any

import orjson

from router.errors import (
    CALLERS_FAULT,
    BodyTooLarge,
    Conflict,
    ExpertError,
    Forbidden,
    LedgerError,
    NoExpertFits,
    NoHealthyExpert,
    OverLimit,
    PointsmanError,
    RequestError,
    UnknownModel,
    UnknownRecord,
)
from router.experts.pool import PoolError


class Unauthorized(PointsmanError):
    """No key, or a wrong one: the caller is told the same in both cases."""


class KeysUnknown(PointsmanError):
    """The keys were never read, since Redis is away: nobody can be told from a stranger yet."""


class NotStored(RequestError):
    """No such stored response of this caller's: another's is told the same."""

    code = "not_stored"


class StoreAway(PointsmanError):
    """Stored responses cannot be reached now."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error answer, ready to be sent."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
#: OpenAI's codes, for upstreams that say the same in words alone.
_PASSED_CODES = {"context_length": "context_length_exceeded", "content_filter": "content_filter"}
_NO_RETRY = (b"x-should-retry", b"false")


def failure(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Failure:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Failure(status, orjson.dumps({"error": error}))


def describe(error: PointsmanError | PoolError) -> Failure:
    """The answer to a caller for one of our errors."""
    if isinstance(error, PoolError):
        return _refused(error.last, retried=len(error.attempts) > 1)
    if isinstance(error, RequestError):
        return failure(_request_status(error), error.message, param=error.param, code=error.code)
    if isinstance(error, Unauthorized):
        return failure(401, str(error), code="invalid_api_key")
    if isinstance(error, NoHealthyExpert):
        answer = failure(503, str(error), code="no_healthy_expert")
        answer.headers.extend(retry_after(error.retry_after_s))
        return answer
    if isinstance(error, OverLimit):
        return _over_limit(error)
    if isinstance(error, StoreAway):
        answer = failure(503, str(error), code="store_unavailable")
        answer.headers.extend(retry_after(1.0))
        return answer
    if isinstance(error, KeysUnknown | LedgerError):
        answer = failure(503, str(error), code="ledger_unavailable")
        answer.headers.extend(retry_after(1.0))
        return answer
    return internal()


def _over_limit(error: OverLimit) -> Failure:
    if error.budget:
        body = {"message": str(error), "type": "insufficient_quota", "param": None, "code": "budget_exceeded"}
        return Failure(429, orjson.dumps({"error": body}), [_NO_RETRY])
    answer = failure(429, str(error), code="rate_limit_exceeded")
    answer.headers.extend([_NO_RETRY] if error.retry_after_s is None else retry_after(error.retry_after_s))
    return answer


def internal() -> Failure:
    return failure(500, "the gateway failed; the request id names the log line", code="internal_error")


def _request_status(error: RequestError) -> int:
    if isinstance(error, Forbidden):
        return 403
    if isinstance(error, UnknownModel | UnknownRecord | NotStored):
        return 404
    if isinstance(error, Conflict):
        return 409
    if isinstance(error, BodyTooLarge):
        return 413
    if isinstance(error, NoExpertFits) and error.code != "context_length_exceeded":
        return 422
    return 400


def _refused(error: ExpertError, *, retried: bool) -> Failure:
    if error.kind in CALLERS_FAULT:
        return _passed_through(error)
    if error.kind == "rate_limit":
        answer = failure(429, f"{error}; its provider limits the rate", code="rate_limit_exceeded")
        if not retried:
            answer.headers.extend(retry_after(error.retry_after_s or 1.0))
    elif error.kind == "busy":
        answer = failure(503, str(error), code="expert_busy")
        if not retried:
            answer.headers.extend(retry_after(1.0))
    elif error.kind == "timeout":
        answer = failure(504, str(error), code="expert_timeout")
    elif error.kind == "auth":
        message = f"expert {error.expert!r}: its provider refuses the gateway's credentials"
        answer = failure(502, message, code="expert_auth")
        retried = True  # by no one: the same key will be refused again
    else:
        answer = failure(502, str(error), code=f"expert_{error.kind}")
    if retried:
        answer.headers.append(_NO_RETRY)
    return answer


def _passed_through(error: ExpertError) -> Failure:
    """The upstream's own words: the fault is the caller's. Its fields are kept, the four of ours made sure."""
    status = error.status if error.status is not None and 400 <= error.status < 500 else 400
    answer = failure(status, str(error), code=_PASSED_CODES.get(error.kind))
    try:
        body = orjson.loads(error.body or b"")
    except orjson.JSONDecodeError:
        return answer
    if not isinstance(body, dict):
        return answer
    # OpenAI's own shape, or what vLLM and FastAPI servers say
    sent = body.get("error") or body.get("message") or body.get("detail")
    if isinstance(sent, str):
        sent = {"message": sent}
    if not isinstance(sent, dict):
        return answer
    ours: dict[str, Any] = orjson.loads(answer.body)["error"]
    if ours["code"] is not None and not isinstance(sent.get("code"), str):
        sent = {**sent, "code": ours["code"]}
    try:
        return Failure(status, orjson.dumps({"error": ours | sent}))
    except orjson.JSONEncodeError:  # nested deeper than can be written
        return answer


def retry_after(seconds: float) -> list[tuple[bytes, bytes]]:
    return [
        (b"retry-after", b"%d" % max(math.ceil(seconds), 1)),
        (b"retry-after-ms", b"%d" % math.ceil(seconds * 1000)),
    ]


def stream_error(error: ExpertError) -> bytes:
    """The last event of a stream that broke after its first one."""
    return b"data: " + describe(PoolError(error, [])).body + b"\n\n"
