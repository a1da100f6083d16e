"""Everything that can go wrong, as one tree.

    PointsmanError
    ├── ConfigError        the configuration is wrong: the start stops, the key is named
    ├── ArtifactError      a policy artifact cannot be used: the file and what was expected are named
    ├── EncoderError       the query encoder cannot be found, exported or loaded
    ├── DataError          an outcomes table is wrong: file, row and column are named
    ├── LedgerError        the ledger cannot be started or reached
    ├── RequestError       the caller's fault (HTTP 4xx)
    │   ├── InvalidRequest     malformed or contradictory
    │   ├── UnknownModel       no such expert or routed name
    │   ├── Blocked            a guard does not let it, or its answer, go on
    │   ├── NoExpertFits       no expert can take the request, or none within its limits
    │   ├── BodyTooLarge       over the configured size
    │   ├── Forbidden          the caller's key may not do that
    │   ├── UnknownRecord      no such key or team
    │   └── Conflict           what there is does not allow the change
    ├── OverLimit          a rate limit or a budget is used up
    ├── NoHealthyExpert    every expert that could answer is resting after failures
    └── ExpertError        an expert failed; `kind` says how, `retryable` whether another may be asked

Messages name the value and the choices, and never hold a key, a prompt or a traceback.
"""

from typing import Literal

FailureKind = Literal[
    "connect",  # no connection
    "timeout",  # no first byte in time
    "rate_limit",  # upstream 429
    "busy",  # as many calls are under way to it as the configuration allows
    "server",  # upstream 5xx
    "garbage",  # an answer that is not what the API promises
    "cut",  # the answer ended early
    "auth",  # upstream 401/403: our key, not the caller's
    "context_length",  # the prompt does not fit this expert
    "content_filter",  # refused by the expert's filter
    "caller",  # any other upstream 4xx: the caller's fault, passed through
]

#: Failures after which the next-best expert is asked.
RETRYABLE: frozenset[str] = frozenset(
    {"connect", "timeout", "rate_limit", "busy", "server", "garbage", "cut", "auth", "context_length"}
)

#: Answers of a healthy expert to a request that was at fault.
CALLERS_FAULT: frozenset[str] = frozenset({"caller", "context_length", "content_filter"})


class PointsmanError(Exception):
    """The root: catch this to catch all of ours."""


class ConfigError(PointsmanError):
    pass


class ArtifactError(PointsmanError):
    pass


class EncoderError(PointsmanError):
    pass


class DataError(PointsmanError):
    pass


class LedgerError(PointsmanError):
    pass


class RequestError(PointsmanError):
    """The caller's fault. `param` is the field at fault, `code` the machine-readable reason."""

    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    pass


class UnknownModel(RequestError):
    code = "model_not_found"


class Blocked(RequestError):
    code = "blocked_by_guard"


class NoExpertFits(RequestError):
    code = "no_expert_fits"


class BodyTooLarge(RequestError):
    code = "request_too_large"


class Forbidden(RequestError):
    code = "not_allowed"


class UnknownRecord(RequestError):
    code = "not_found"


class Conflict(RequestError):
    code = "conflict"


class NoHealthyExpert(PointsmanError):
    """`retry_after_s`: when the first of them is tried again."""

    def __init__(self, experts: list[str], retry_after_s: float) -> None:
        super().__init__(f"resting after failures: {', '.join(experts)}")
        self.retry_after_s = retry_after_s


class OverLimit(PointsmanError):
    """A rate limit or a `budget` is used up. `retry_after_s` is None where the request never fits.

    `expert` is whose limit it is, if it is an expert's; `cheapest`: the cheapest expert that still fits may answer.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: bool,
        retry_after_s: float | None,
        expert: str | None = None,
        cheapest: bool = False,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.retry_after_s = retry_after_s
        self.expert = expert
        self.cheapest = cheapest


class ExpertError(PointsmanError):
    """An expert failed. `status` and `body` are the upstream's, where it answered at all."""

    def __init__(
        self,
        expert: str,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        body: bytes | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"expert {expert!r}: {message}")
        self.expert = expert
        self.kind: FailureKind = kind
        self.message = message
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        return self.kind in RETRYABLE
