"""A request under the limits and budgets: what it reserves before its call, and what its answer says of that."""

from dataclasses import replace

from gateway.chat_request import ChatRequest
from gateway.service import Service
from gateway.wire import Headers
from router.errors import OverLimit
from router.ledger.reservation import Reservation
from router.types import Decision, Usage


class Bill:
    """What one request has reserved and what it came to so far."""

    __slots__ = ("cost_nano", "expert", "reservation", "tokens")

    def __init__(self) -> None:
        self.reservation: Reservation | None = None
        self.expert: str | None = None
        self.tokens = 0
        self.cost_nano = 0

    async def reserve(
        self, service: Service, name: str, caller: str, expert: str, tokens: int, cost_nano: int
    ) -> None:
        """What a call is expected to take. Raises `OverLimit`."""
        assert service.admission is not None
        self.reservation = service.admission.reservation(name, caller, expert, tokens, cost_nano)
        await service.admission.admit(self.reservation)

    def add(self, expert: str, usage: Usage, cost_nano: int) -> None:
        self.expert = expert
        self.tokens += usage.input_tokens + usage.output_tokens
        self.cost_nano += cost_nano

    def settle(self, service: Service) -> None:
        if self.reservation is not None and service.admission is not None:
            service.admission.settle(self.reservation, self.tokens, self.cost_nano, self.expert)
            if service.pace is not None and self.expert is not None:
                service.pace.spent(self.reservation.caps, self.cost_nano)

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


async def reserve(service: Service, bill: Bill, request: ChatRequest, decision: Decision, caller: str) -> Decision:
    """The decision as the limits leave it. Raises `OverLimit` where nothing is left of it.

    A routed request passes experts that are at limits of their own over, and goes to the cheapest that fits where
    a budget that allows that is spent.
    """
    order, tries, thrifty = list(decision.order), 0, False
    while True:
        expert = order[0]
        tokens, cost_nano = expected(service, request, decision, expert)
        name = decision.id if not tries else f"{decision.id}:{tries}"
        try:
            await bill.reserve(service, name, caller, expert, tokens, cost_nano)
        except OverLimit as refusal:
            tries += 1
            if len(order) > 1 and refusal.expert is not None:
                order.pop(0)
            elif refusal.cheapest and request.expert is None and not thrifty:
                thrifty = True
                order.sort(key=lambda name: expected(service, request, decision, name)[1])
                order = order[:1]
            else:
                raise
        else:
            return decision if tuple(order) == decision.order else replace(decision, order=tuple(order))


def expected(service: Service, request: ChatRequest, decision: Decision, expert: str) -> tuple[int, int]:
    """Tokens and nano-dollars that a call is expected to take."""
    usage, cost_nano = service.router.expected(
        expert, request.input_tokens, request.max_output_tokens, request.answers
    )
    if expert in decision.experts:
        cost_nano = round(float(decision.cost_usd[decision.experts.index(expert)]) * 1e9)
    return usage.input_tokens + usage.output_tokens, cost_nano
