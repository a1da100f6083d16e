"""A request under the limits and budgets: what it reserves before its call, and what its answer says of that."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence

from gateway.chat_request import ChatRequest
from gateway.service import Service
from gateway.wire import Headers
from router.errors import OverLimit
from router.ledger.admission import Admission
from router.ledger.pace import Pace
from router.ledger.reservation import Reservation
from router.types import Decision, Usage

log = logging.getLogger("pointsman")

#: The tokens and nano-dollars that a call of an expert is expected to take.
Expect = Callable[[str], tuple[int, int]]


class Bill:
    """What one request has reserved and what it came to so far."""

    __slots__ = ("_admission", "_caller", "_expect", "_name", "_others", "_taken", "reservation")

    def __init__(self, admission: Admission, name: str, caller: str, expect: Expect) -> None:
        """`name` is the decision's id."""
        self._admission = admission
        self._name = name
        self._caller = caller
        self._expect = expect
        self.reservation: Reservation | None = None  # for the first expert that is asked
        self._others: list[Reservation] = []  # beside it, for those in its place
        self._taken: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # tokens and cost, by expert

    async def reserve(self, order: Sequence[str], *, routed: bool) -> tuple[str, ...]:
        """What the first of the experts is expected to take; the order as the limits leave it.

        A request passes experts that are at limits of their own over. One that is `routed` goes to the cheapest
        that fits where a budget that allows that is spent. Raises `OverLimit` where nothing is left.
        """
        left, tries, thrifty = list(order), 0, False
        while True:
            name = self._name if not tries else f"{self._name}:{tries}"
            tokens, cost_nano = self._expect(left[0])
            self.reservation = self._admission.reservation(name, self._caller, left[0], tokens, cost_nano)
            try:
                await self._admission.admit(self.reservation)
            except OverLimit as refusal:
                tries += 1
                if len(left) > 1 and refusal.expert is not None:
                    left.pop(0)
                elif refusal.cheapest and routed and not thrifty:
                    thrifty = True
                    left.sort(key=lambda expert: self._expect(expert)[1])
                else:
                    raise
            else:
                return tuple(left)

    async def admits(self, expert: str) -> bool:
        """Whether the limits let an expert be asked in the place of the first; then what it takes more is kept."""
        assert self.reservation is not None
        name = f"{self._name}+{len(self._others)}"
        more = self._admission.beside(self.reservation, name, expert, *self._expect(expert))
        self._others.append(more)  # whatever comes of it: a caller may leave while Redis is asked
        try:
            await self._admission.admit(more)
        except OverLimit as refusal:
            log.info("decision=%s expert %r is not asked: %s", self._name, expert, refusal)
            return False
        return True

    def add(self, expert: str, usage: Usage, cost_nano: int) -> None:
        taken = self._taken[expert]
        taken[0] += usage.input_tokens + usage.output_tokens
        taken[1] += cost_nano

    def settle(self, pace: Pace | None = None) -> None:
        """`pace` is told what the request came to, where it was told that it arrived."""
        first, admission = self.reservation, self._admission
        if first is None:
            return
        tokens, cost_nano = (sum(taken[i] for taken in self._taken.values()) for i in (0, 1))
        admission.settle(first, tokens, cost_nano, self._own(first))
        for other in self._others:
            admission.settle(other, 0, 0, self._own(other))
        if pace is not None and self._taken:
            pace.spent(first.caps, cost_nano)

    def _own(self, reservation: Reservation) -> tuple[int, int]:
        tokens, cost_nano = self._taken.get(reservation.expert, (0, 0))
        return tokens, cost_nano

    def headers(self) -> Headers:
        """The tightest limit of requests and of tokens, and a warning for each budget that runs out."""
        reservation = self.reservation
        if reservation is None or not reservation.caps:
            return []
        found: Headers = []
        for what in ("requests", "tokens"):
            rows = [
                (cap.limit - used, cap.limit)
                for cap, used in zip(reservation.caps, reservation.used, strict=bool(reservation.used))
                if cap.what == what
            ]
            if rows:
                left, limit = min(rows)
                found += [
                    (f"x-ratelimit-limit-{what}".encode(), b"%d" % limit),
                    (f"x-ratelimit-remaining-{what}".encode(), b"%d" % max(left, 0)),
                    # a window is as if nothing had been only once its last slot, this request's, has left it
                    (f"x-ratelimit-reset-{what}".encode(), b"60s" if left < limit else b"0ms"),
                ]
        for cap, used in zip(reservation.caps, reservation.used, strict=bool(reservation.used)):
            if cap.what == "usd" and used >= cap.warn_at:
                said = (
                    f"{cap.owner}: ${used / 1e9:.6f} of ${cap.limit / 1e9:g} per {cap.said.partition(' per ')[2]}"
                )
                found.append((b"x-pointsman-budget-warning", said.encode("ascii", "replace")))
        return found


def expected(service: Service, request: ChatRequest, decision: Decision, expert: str) -> tuple[int, int]:
    """Tokens and nano-dollars that a call is expected to take."""
    usage, cost_nano = service.router.expected(
        expert, request.input_tokens, request.max_output_tokens, request.answers
    )
    if expert in decision.experts:
        cost_nano = round(float(decision.cost_usd[decision.experts.index(expert)]) * 1e9)
    return usage.input_tokens + usage.output_tokens, cost_nano
