"""What litellm's exceptions mean for us, and what of their text may reach a caller."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from router.errors import ExpertError, FailureKind
from router.experts.retries import retry_after_s

#: By the name of litellm's exception class, since the classes need its import.
_KINDS: Mapping[str, FailureKind] = {
    "Timeout": "timeout",
    "APITimeoutError": "timeout",
    "ContextWindowExceededError": "context_length",
    "ContentPolicyViolationError": "content_filter",
    "RateLimitError": "rate_limit",
    "AuthenticationError": "auth",
    "PermissionDeniedError": "auth",
    "PaymentRequiredError": "auth",
    "NotFoundError": "server",  # our name for the model or our URL is wrong, not the caller's request
}
_CODES: Mapping[Any, FailureKind] = {
    "context_length_exceeded": "context_length",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
}
_TOLD: frozenset[FailureKind] = frozenset({"caller", "context_length", "content_filter"})
_NETWORK = ("ConnectError", "ReadError", "WriteError", "RemoteProtocolError", "APIConnectionError")
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Exception|Timeout)\s*(?::|-)\s*)+")
_ADVICE = re.compile(r"\s*\.?\s*(?:To drop these, set|Traceback \(most recent call last\)).*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Exchange:
    """How far a call had come when it failed. `secret` is struck out of every text."""

    expert: str
    sent: bool
    begun: bool = False
    secret: str | None = None


def failure_of(error: Exception, exchange: Exchange) -> ExpertError:
    """The `ExpertError` of an exception that litellm raised."""
    # what broke a stream comes wrapped, for a router of litellm's own
    error = getattr(error, "original_exception", None) or error
    status = _status(error)
    details = _details(error, exchange.secret)
    kind = _kind(error, status, details, exchange)
    if kind in _TOLD:
        status = status if status is not None and 400 <= status < 500 else 400
        body = orjson.dumps({"error": details})
        return ExpertError(exchange.expert, kind, _summary(kind, status), status=status, body=body)
    return ExpertError(
        exchange.expert, kind, _summary(kind, status), status=status, retry_after_s=_retry_after_s(error)
    )


def _kind(error: Exception, status: int | None, details: dict[str, Any], exchange: Exchange) -> FailureKind:
    for cause in type(error).__mro__:
        if cause.__name__ in _KINDS:
            return _KINDS[cause.__name__]
    if status in (401, 402, 403):
        return "auth"
    if details["code"] in _CODES:
        return _CODES[details["code"]]
    if not exchange.sent:
        return "caller"  # litellm could not put the request into the provider's form
    causes = {type(cause).__name__ for cause in _chain(error)}
    if causes & set(_NETWORK) and not _answered(error):
        return "cut" if exchange.begun else "connect"
    if type(error).__name__ == "APIConnectionError":
        # litellm's name for whatever it has no other for: an error event, or an answer that it could not read
        return "server" if "APIError" in causes else "garbage"
    if status is None or status >= 500 or status in (405, 408):
        return "server"
    return "caller" if status >= 400 else "garbage"


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What `error` came of, without itself."""
    cause, left = error.__cause__ or error.__context__, 8
    while cause is not None and left:
        yield cause
        cause, left = cause.__cause__ or cause.__context__, left - 1


def _answered(error: Exception) -> bool:
    return any("HTTPStatusError" in type(cause).__name__ for cause in _chain(error))


def _summary(kind: FailureKind, status: int | None) -> str:
    """Ours alone: an upstream's text may hold a key or a prompt, and messages are logged."""
    words = {
        "connect": "no connection to the provider",
        "timeout": "no answer in time",
        "cut": "the provider's stream broke off",
        "garbage": "an answer that litellm cannot read",
        "context_length": "the prompt is too long for it",
        "content_filter": "refused by the provider's filter",
        "auth": "the provider does not accept our key",
    }.get(kind, "failed")
    return words if status is None or kind in ("connect", "timeout", "cut") else f"{words} (answered {status})"


def _details(error: Exception, secret: str | None) -> dict[str, Any]:
    """The `error` object of OpenAI's API, from what the provider or litellm said."""
    told: Any = getattr(error, "body", None)
    text = _ADVICE.sub("", str(getattr(error, "message", None) or error))
    if not isinstance(told, dict):
        told = _embedded(text)
    inner = told.get("error")
    told = inner if isinstance(inner, dict) else told
    message = told.get("message")
    message = message if isinstance(message, str) and message else _PREFIX.sub("", text)
    if secret:
        message = message.replace(secret, "***")
    return {
        "message": message[:2000],
        "type": "invalid_request_error",
        "param": told.get("param"),
        "code": told.get("code"),
    }


def _embedded(text: str) -> dict[str, Any]:
    """The provider's JSON that litellm quotes within its message; empty where it quotes none."""
    start, end = text.find("{"), text.rfind("}")
    try:
        told = orjson.loads(text[start : end + 1]) if 0 <= start < end else {}
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _retry_after_s(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None)
    if not isinstance(headers, Mapping):
        return None
    return retry_after_s(headers.get("retry-after"), headers.get("retry-after-ms"))
