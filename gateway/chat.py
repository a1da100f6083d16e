"""`POST /v1/chat/completions`: the hot path, a plain ASGI application without a framework's request object.

`make bench-proxy` holds it against a bare FastAPI route.
"""

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson

from gateway.auth import Caller
from gateway.caching import Lookup, directives
from gateway.chat_request import ChatRequest, parse_chat
from gateway.decision_row import Outcome
from gateway.errors import Failure, describe, failure, internal, stream_error
from gateway.permission import permitted
from gateway.reserving import Bill, reserve
from gateway.service import Service
from gateway.turn import Turn, turn_of
from gateway.wire import JSON, ClientGone, Headers, read_body, send_failure, until_gone
from router.errors import (
    ExpertError,
    NoExpertFits,
    NoHealthyExpert,
    PointsmanError,
)
from router.experts.base import Answer, Call, Stream
from router.experts.pool import Attempt, PoolError, Served
from router.explanation import why
from router.keys.records import KeyRecord
from router.stickiness import stays
from router.types import NULL_PREFIX, Decision, Usage, Wishes

log = logging.getLogger("pointsman")

SURFACE = "chat/completions"
Parse = Callable[[bytes, Sequence[tuple[bytes, bytes]], Sequence[str]], ChatRequest]
Prepare = Callable[[bytes, str], Awaitable[None]]
LEAST_PATIENCE_S = 1.0
MARGIN_S = 0.5  # taken off the client's own read timeout, so that our answer comes before it gives up
_REQUEST_ID = re.compile(rb"[\w.\-]{1,128}")
_EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Exchange:
    """One request on its way through: what its headers, its log line and its bill need."""

    __slots__ = (
        "attempts",
        "began",
        "bill",
        "cache",
        "call",
        "caller",
        "decision",
        "key",
        "most_tokens",
        "outcome",
        "request_id",
        "started",
        "streaming",
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
        self.call: Call | None = None  # while an expert is asked and nothing has come yet
        self.decision: Decision | None = None
        self.attempts: list[Attempt] = []
        self.streaming = False  # the head of a stream is sent: what fails from now on is an event
        self.upstream_s = 0.0
        self.wants_stream = False
        self.started = False  # an answer's first byte is on its way
        self.most_tokens: int | None = None
        self.wishes: Wishes | None = None
        self.outcome: Outcome | None = None  # where decisions are logged
        self.cache: Lookup | None = None  # where one is configured
        self.bill: Bill | None = None  # where limits or budgets are configured

    def known(self, caller: Caller) -> None:
        self.caller, self.key = caller.name, caller.key

    @property
    def owner(self) -> str:
        """Whose what it stores is: a virtual key's name may be another's later, its id never is."""
        return self.caller if self.key is None else self.key.id

    def spent(self, expert: str, usage: Usage, cost_nano: int) -> None:
        """A call, or a part of one, was metered."""
        if self.bill is not None:
            self.bill.add(expert, usage, cost_nano)
        if self.outcome is not None:
            self.outcome.spent(usage, cost_nano)

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


class Chat:
    """The ASGI application of the chat surface; `surface` is the one that its metrics count."""

    def __init__(
        self,
        service: Service,
        *,
        surface: str = SURFACE,
        parse: Parse = parse_chat,
        prepare: Prepare | None = None,
    ) -> None:
        """`parse` reads the body of a request; `prepare` gets the body and its caller's name before."""
        self._service = service
        self._surface = surface
        self._parse = parse
        self._prepare = prepare

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        service = self._service
        exchange = Exchange(scope["headers"])
        service.metrics.in_flight.inc()
        try:
            exchange.known(service.keyring.caller(scope["headers"]))
            data = await read_body(scope["headers"], receive, service.settings.limits.body_bytes)
            if self._prepare is not None:
                await self._prepare(data, exchange.owner)
            request = self._parse(data, scope["headers"], service.chat_experts)
            await until_gone(self._answer(exchange, request, scope["headers"], send), receive)
        except asyncio.CancelledError:
            await self._stopped(exchange, send)
        except ClientGone:
            self._bill_unheard(exchange)
            if exchange.outcome is not None:
                exchange.outcome.ended = "gone"
            log.info("request=%s caller=%s gone", exchange.request_id, exchange.caller)
        except (PointsmanError, PoolError) as error:
            await self._refuse(exchange, describe(error), exchange.failures() or type(error).__name__, send)
        except Exception as error:  # the boundary: whatever else happens, the caller gets the contract's error
            what = type(error).__name__ + "\n" + "".join(traceback.format_tb(error.__traceback__))
            if exchange.started and not exchange.streaming:
                log.warning("request=%s caller=%s gone while it was answered", exchange.request_id, exchange.caller)
            elif exchange.streaming:
                log.error("request=%s caller=%s %s", exchange.request_id, exchange.caller, what)
                await send({"type": "http.response.body", "body": b"data: " + internal().body + b"\n\n"})
            else:
                await self._refuse(exchange, internal(), what, send)
        finally:
            if exchange.bill is not None:
                exchange.bill.settle(service)
            if exchange.outcome is not None:
                self._remember(exchange, exchange.outcome)
            service.metrics.in_flight.dec()

    async def _answer(self, exchange: Exchange, request: ChatRequest, headers: Headers, send: Any) -> None:
        service = self._service
        if exchange.key is not None:
            request = permitted(exchange.key, request, service.router.use, service.settings.policy.preference)
        if service.guarding is not None:
            request = await service.guarding.before(request)
        exchange.wishes = request.wishes
        exchange.wants_stream, exchange.most_tokens = request.stream, request.max_output_tokens
        if service.decisions is not None:
            exchange.outcome = Outcome(request)
        turn = turn_of(service.sessions, request, exchange.owner)
        decision = await cached_or_decided(service, exchange, request, headers, turn, arrived=True)
        exchange.decision = decision
        if exchange.cache is not None and exchange.cache.chosen is not None:
            await self._again(exchange, exchange.cache.chosen.body, send)
            return
        if service.admission is not None:
            exchange.bill = Bill()
            decision = await reserve(service, exchange.bill, request, decision, exchange.caller)
            exchange.decision = decision
        call = Call(
            surface=SURFACE,
            body=request.body,
            deadline=asyncio.get_running_loop().time() + self._patience_s(headers),
            request_id=exchange.request_id,
            input_tokens=request.input_tokens,
            include_usage=request.include_usage,
            moves_on_refusal=request.wishes.fallback,
        )
        exchange.call = call
        asked = time.perf_counter()
        limit = service.settings.limits.attempts
        try:
            served = await service.pool.ask(call, decision.order, attempts=limit, streaming=request.stream)
        except PoolError as error:
            self._note(exchange, error.attempts)
            raise
        finally:
            exchange.upstream_s = time.perf_counter() - asked
        exchange.call = None
        self._note(exchange, served.attempts)
        if exchange.outcome is not None:
            exchange.outcome.expert = served.expert
        if served.beaten is not None:
            self._bill_abandoned(exchange, call, *served.beaten)
        if turn is not None:
            turn.served(served.expert)
        if len(served.attempts) > 1:
            log.warning("request=%s %s; %s answered", exchange.request_id, exchange.failures(), served.expert)
        if request.expert is None:
            service.metrics.decisions.labels(decision.preference, served.expert).inc()
        if served.stream is not None:
            await self._stream(exchange, request, served, served.stream, send)
        else:
            assert served.answer is not None
            await self._whole(exchange, served, served.answer, send)

    def _remember(self, exchange: Exchange, outcome: Outcome) -> None:
        """Hands the row of a request that got as far as a decision to the decision log."""
        decisions, decision, wishes = self._service.decisions, exchange.decision, exchange.wishes
        if decisions is None or decision is None or wishes is None:
            return
        decisions.record(
            outcome.row(
                decision,
                exchange.attempts,
                request_id=exchange.request_id,
                caller=exchange.caller,
                key=exchange.key,
                wishes=wishes,
                took_s=time.perf_counter() - exchange.began,
                keep=decisions.keep,
            )
        )

    def _bill_unheard(self, exchange: Exchange) -> None:
        """The caller left before an answer came."""
        call = exchange.call
        if call is None:
            return
        for expert, since in call.under_way:
            self._bill_abandoned(exchange, call, expert, since)
        asked = call.under_way[-1][0] if call.under_way else ""  # nobody: it was a pause between attempts
        self._service.metrics.answered(self._surface, asked, 499)

    def _bill_abandoned(self, exchange: Exchange, call: Call, expert: str, since: float) -> None:
        """An attempt was cancelled: its expert had read the prompt and written for a while.

        A stream bills itself; here what was produced can only be estimated, from the time that passed.
        """
        service = self._service
        load, spec = service.ledger.load(expert), service.pool.experts[expert].spec
        waited_s = max(asyncio.get_running_loop().time() - since, 0.0)
        writing_s = max(waited_s - (load.ttft_s or spec.ttft_s), 0.0)
        written = 0 if exchange.wants_stream else int(writing_s / (load.token_s or spec.token_s))
        most = service.router.expected_length(expert, exchange.most_tokens)
        usage = Usage(call.input_tokens, min(written, round(most)), estimated=True)
        cost_nano = service.meter(expert, usage, ok=True, ttft_s=waited_s, took_s=waited_s, streamed=False)
        exchange.spent(expert, usage, cost_nano)

    def _patience_s(self, headers: Headers) -> float:
        """How long all attempts together may take: our limit, or the client's own read timeout if that is less."""
        patience = self._service.settings.limits.timeout_s
        for name, value in headers:
            if name == b"x-stainless-read-timeout":
                try:
                    theirs = float(value)
                except ValueError:
                    continue
                if theirs > 0:
                    theirs = max(theirs, LEAST_PATIENCE_S)
                    patience = min(patience, max(theirs - MARGIN_S, theirs / 2))
        return patience

    def _note(self, exchange: Exchange, attempts: list[Attempt]) -> None:
        exchange.attempts = attempts
        for attempt in attempts:
            if attempt.failure is not None:
                self._service.missed(attempt.expert, attempt.failure.kind, blamed=attempt.blamed)

    async def _whole(self, exchange: Exchange, served: Served, answer: Answer, send: Any) -> None:
        cost_nano = self._service.meter(
            served.expert, answer.usage, ok=True, ttft_s=answer.ttft_s, took_s=served.took_s, streamed=False
        )
        exchange.spent(served.expert, answer.usage, cost_nano)
        body = answer.body
        if self._service.guarding is not None:
            body = await self._service.guarding.after(body)
        if exchange.outcome is not None:
            exchange.outcome.ended = "ok"
        if exchange.cache is not None:
            exchange.cache.keep(served.expert, body)
        body = self._explained(exchange, body, served.expert)
        headers = [
            JSON,
            (b"content-length", b"%d" % len(body)),
            *exchange.headers(),
            *exchange.routed(served.expert, cost_nano),
            *exchange.passed_on(answer.headers),
        ]
        self._service.metrics.overhead_s.observe(exchange.overhead_s())
        self._service.metrics.answered(self._surface, served.expert, 200)
        exchange.started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    def _explained(exchange: Exchange, body: bytes, served: str) -> bytes:
        assert exchange.decision is not None and exchange.wishes is not None
        if not exchange.wishes.explain or not body.endswith(b"}"):
            return body
        said = orjson.dumps(decision_json(exchange.decision) | {"served": served})
        return body[:-1] + b',"pointsman":' + said + b"}"

    async def _again(self, exchange: Exchange, body: bytes, send: Any) -> None:
        """A kept answer, as it was given the first time; a stream in one piece."""
        assert exchange.decision is not None
        null, service = exchange.decision.order[0], self._service
        if exchange.outcome is not None:
            exchange.outcome.expert, exchange.outcome.ended = null, "ok"
        if service.pace is not None and service.admission is not None:
            service.pace.spent(service.admission.caps.of_caller(exchange.caller), 0)
        if exchange.wants_stream:
            kind = _EVENTS
        else:
            body = self._explained(exchange, body, null)
            kind = [JSON, (b"content-length", b"%d" % len(body))]
        headers = [*kind, *exchange.headers(), *exchange.routed(null, 0)]
        self._service.metrics.overhead_s.observe(exchange.overhead_s())
        self._service.metrics.answered(self._surface, null, 200)
        exchange.started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(
        self, exchange: Exchange, request: ChatRequest, served: Served, stream: Stream, send: Any
    ) -> None:
        service = self._service
        began = time.perf_counter()
        spec = service.pool.experts[served.expert].spec
        expected = Usage(
            request.input_tokens, round(service.router.expected_length(served.expert, request.max_output_tokens))
        )
        headers = [
            *_EVENTS,
            *exchange.headers(),
            *exchange.routed(served.expert, spec.price.cost_nano(expected)),
            *exchange.passed_on(stream.headers),
        ]
        service.metrics.overhead_s.observe(exchange.overhead_s())
        exchange.streaming = True
        ok, status = False, 500
        cache = exchange.cache
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for events in stream:
                if cache is not None:
                    cache.heard(events)
                await send({"type": "http.response.body", "body": events, "more_body": True})
            service.pool.ended(served)
            if cache is not None:
                cache.keep_stream(served.expert)
            await send({"type": "http.response.body", "body": b""})
            ok, status = True, 200
        except asyncio.CancelledError:
            ok = True  # the caller left, or the gateway stops: no failure of the expert
            status = 499
            raise
        except ExpertError as error:
            status = 502
            service.pool.failed_midway(served, error)
            service.metrics.failures.labels(error.expert, error.kind).inc()
            log.warning("request=%s stream broke: %s", exchange.request_id, error)
            await send({"type": "http.response.body", "body": stream_error(error)})
        finally:
            try:
                await stream.aclose()
            finally:  # billed even if the caller leaves now
                took_s = stream.ttft_s + time.perf_counter() - began
                usage = stream.usage
                cost_nano = service.meter(
                    served.expert, usage, ok=ok, ttft_s=stream.ttft_s, took_s=took_s, streamed=True
                )
                exchange.spent(served.expert, usage, cost_nano)
                if exchange.outcome is not None:
                    exchange.outcome.ttft_s = stream.ttft_s
                    exchange.outcome.ended = "ok" if status == 200 else "gone" if status == 499 else "cut"
                service.metrics.answered(self._surface, served.expert, status)

    async def _stopped(self, exchange: Exchange, send: Any) -> None:
        """The gateway stops and the time for what was under way is over: the caller is told, not cut off."""
        log.warning("request=%s caller=%s ended by the gateway's stop", exchange.request_id, exchange.caller)
        if exchange.outcome is not None:
            exchange.outcome.ended = "cut"
        answer = failure(503, "the gateway is stopping", code="stopping")
        if exchange.streaming:
            await send({"type": "http.response.body", "body": b"data: " + answer.body + b"\n\n"})
        else:
            answer.headers.append((b"retry-after", b"1"))
            self._bill_unheard(exchange)
            await send_failure(answer, exchange.headers(), send)

    async def _refuse(self, exchange: Exchange, failure: Failure, what: str, send: Any) -> None:
        expert = exchange.attempts[-1].expert if exchange.attempts else ""
        self._service.metrics.answered(self._surface, expert, failure.status)
        level = (
            logging.INFO if failure.status < 500 else logging.ERROR if failure.status == 500 else logging.WARNING
        )
        log.log(
            level, "request=%s caller=%s status=%d %s", exchange.request_id, exchange.caller, failure.status, what
        )
        await send_failure(failure, exchange.headers(), send)


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
    return lookup.join(decision)


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
    return router.named(request.expert, request.input_tokens, request.max_output_tokens, request.wishes)


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
