"""One request on its way through the gateway, whatever surface it came by."""

import re
import secrets
import time
from collections.abc import Callable, Sequence

from gateway.auth import Caller
from gateway.caching import Lookup
from gateway.decision_row import Outcome
from gateway.reserving import Bill
from gateway.wire import Headers
from router.experts.base import Call
from router.experts.pool import Attempt
from router.explanation import why
from router.keys.records import KeyRecord
from router.types import NOBODY, Decision, Payer, Usage, Wishes

_REQUEST_ID = re.compile(rb"[\w.\-]{1,128}")


class Exchange:
    """One request on its way through: what its headers, its log line and its bill need."""

    __slots__ = (
        "answers",
        "attempts",
        "began",
        "bill",
        "cache",
        "call",
        "caller",
        "decision",
        "held",
        "key",
        "most_tokens",
        "outcome",
        "payer",
        "request_id",
        "started",
        "streaming",
        "under_way",
        "upstream_s",
        "wants_stream",
        "wishes",
    )

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.began = time.perf_counter()
        self.request_id = next(
            (value.decode() for name, value in headers if name == b"x-request-id" and _REQUEST_ID.fullmatch(value)),
            "",
        ) or "req_" + secrets.token_hex(12)
        self.caller = ""
        self.key: KeyRecord | None = None  # the caller's, where it is a virtual one
        self.payer = NOBODY  # whose account pays
        self.call: Call | None = None  # while an expert is asked and nothing has come yet
        self.under_way: Callable[[], None] | None = None  # tells the ledger that it is no more
        self.decision: Decision | None = None
        self.attempts: list[Attempt] = []
        self.streaming = False  # the head of a stream is sent: what fails from now on is an event
        self.upstream_s = 0.0
        self.wants_stream = False
        self.held = False  # its stream is made of a whole answer, once guards have seen that
        self.started = False  # an answer's first byte is on its way
        self.most_tokens: int | None = None  # of each of the `answers` that are asked for
        self.answers = 1
        self.wishes: Wishes | None = None
        self.outcome: Outcome | None = None  # where decisions are logged
        self.cache: Lookup | None = None  # where one is configured
        self.bill: Bill | None = None  # where limits or budgets are configured

    def known(self, caller: Caller) -> None:
        self.caller, self.key = caller.name, caller.key
        self.payer = Payer(caller.name) if caller.key is None else caller.key.payer

    @property
    def owner(self) -> str:
        """Whose what it stores is: a virtual key's name may be another's later, its id never is."""
        return self.caller if self.key is None else self.key.id

    def spent(self, expert: str, usage: Usage, cost_nano: int) -> None:
        """A call, or a part of one, was metered."""
        self.over()
        if self.bill is not None:
            self.bill.add(expert, usage, cost_nano)
        if self.outcome is not None:
            self.outcome.spent(usage, cost_nano)

    def over(self) -> None:
        """No call is under way any more."""
        if self.under_way is not None:
            self.under_way()
            self.under_way = None

    def failures(self) -> str:
        """What came of the experts that were asked in vain, for the log."""
        return "; ".join(str(attempt.failure) for attempt in self.attempts if attempt.failure is not None)

    def overhead_s(self) -> float:
        return time.perf_counter() - self.began - self.upstream_s

    def headers(self) -> Headers:
        """What every answer carries, errors too."""
        took_ms = (time.perf_counter() - self.began) * 1e3
        overhead_ms = took_ms - self.upstream_s * 1e3
        headers = [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", b"%d" % took_ms),
            (b"x-pointsman-overhead-ms", b"%.3f" % overhead_ms),
            (b"x-pointsman-attempts", b"%d" % len(self.attempts)),
        ]
        if self.cache is not None:
            headers.append((b"x-pointsman-cache", self.cache.state))
        if self.bill is not None:
            headers += self.bill.headers()
        return headers

    def passed_on(self, upstreams: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[bytes, bytes]]:
        """The upstream's headers that callers read: its limits only where the gateway has none of that kind."""
        if self.bill is None:
            return upstreams
        ours = {name for name, _ in self.bill.headers()}
        return [(name, value) for name, value in upstreams if name not in ours]

    def routed(self, expert: str, cost_nano: int) -> Headers:
        """What a routed answer carries on top."""
        decision = self.decision
        assert decision is not None
        headers = [
            (b"x-pointsman-decision", decision.id.encode()),
            (b"x-pointsman-expert", expert.encode()),
            (b"x-pointsman-policy", decision.policy.encode()),
            (b"x-pointsman-cost-usd", b"%d.%09d" % divmod(cost_nano, 1_000_000_000)),
        ]
        if self.wishes is not None and self.wishes.explain and len(decision.experts):
            failed = [f"{a.expert} failed ({a.failure.kind})" for a in self.attempts if a.failure is not None]
            said = "; ".join([why(decision), *failed, *([f"{expert} answered"] if failed else [])])
            headers.append((b"x-pointsman-reason", said.encode("ascii", "replace")))
        return headers
