"""`POST /v1/chat/completions`: the hot path, a plain ASGI application without a framework's request object.

`make bench-proxy` holds it against a bare FastAPI route.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from gateway.chat_request import ChatRequest, parse_chat
from gateway.deciding import cached_or_decided, decision_json
from gateway.decision_row import Outcome
from gateway.errors import Failure, describe, failure, internal, retry_after, stream_error
from gateway.exchange import Exchange
from gateway.held import as_events, whole_body
from gateway.permission import permitted
from gateway.reserving import Bill, expected
from gateway.service import Service
from gateway.turn import turn_of
from gateway.wire import JSON, ClientGone, Headers, patience_s, read_body, send_failure, until_gone
from router.errors import (
    ExpertError,
    PointsmanError,
)
from router.experts.base import Answer, Call, Stream
from router.experts.pool import Attempt, PoolError, Served
from router.types import Entry, Payer, Usage

log = logging.getLogger("pointsman")

SURFACE = "chat/completions"
Parse = Callable[[bytes, Sequence[tuple[bytes, bytes]], Sequence[str]], ChatRequest]
Prepare = Callable[[bytes, str], Awaitable[None]]
_EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


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
            exchange.over()
            if exchange.bill is not None:
                exchange.bill.settle(service.pace)
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
        exchange.wants_stream = request.stream
        exchange.held = request.stream and service.guarding is not None and service.guarding.holds_streams
        streaming = request.stream and not exchange.held
        exchange.most_tokens, exchange.answers = request.max_output_tokens, request.answers
        if service.decisions is not None:
            exchange.outcome = Outcome(request)
        turn = turn_of(service.sessions, request, exchange.owner)
        decision = await cached_or_decided(service, exchange, request, headers, turn, arrived=True)
        exchange.decision = decision
        if exchange.cache is not None and exchange.cache.chosen is not None:
            await self._again(exchange, exchange.cache.chosen.body, send)
            return
        if service.admission is not None:
            expect = partial(expected, service, request, decision)
            exchange.bill = Bill(service.admission, decision.id, exchange.caller, expect)
            order = await exchange.bill.reserve(decision.order, routed=request.expert is None)
            if order != decision.order:
                exchange.decision = decision = replace(decision, order=order)
        call = Call(
            surface=SURFACE,
            body=whole_body(request.body) if exchange.held else request.body,
            deadline=asyncio.get_running_loop().time() + patience_s(headers, service.settings.limits.timeout_s),
            request_id=exchange.request_id,
            input_tokens=request.input_tokens,
            include_usage=request.include_usage,
            moves_on_refusal=request.wishes.fallback,
            admits=None if exchange.bill is None else exchange.bill.admits,
        )
        exchange.call = call
        exchange.under_way = self._begun(request, decision.order[0], exchange.payer)
        asked = time.perf_counter()
        limit = service.settings.limits.attempts
        try:
            served = await service.pool.ask(call, decision.order, attempts=limit, streaming=streaming)
        except PoolError as error:
            self._note(exchange, error.attempts, call)
            raise
        finally:
            exchange.upstream_s = time.perf_counter() - asked
        exchange.call = None
        self._note(exchange, served.attempts, call)
        if exchange.outcome is not None:
            exchange.outcome.expert = served.expert
        if served.beaten is not None:
            beaten, since = served.beaten
            self._bill_abandoned(exchange, call, beaten, _since(since))
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
            await self._whole(exchange, request, served, served.answer, send)

    def _begun(self, request: ChatRequest, expert: str, payer: Payer) -> Callable[[], None] | None:
        service = self._service
        usage, cost_nano = service.router.expected(
            expert, request.input_tokens, request.max_output_tokens, request.answers
        )
        return service.ledger.begin(Entry(expert, ok=True, usage=usage, cost_nano=cost_nano, payer=payer))

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
            self._bill_abandoned(exchange, call, expert, _since(since))
        asked = call.under_way[-1][0] if call.under_way else ""  # nobody: it was a pause between attempts
        self._service.metrics.answered(self._surface, asked, 499)

    def _bill_abandoned(
        self, exchange: Exchange, call: Call, expert: str, waited_s: float, *, ok: bool = True
    ) -> None:
        """An attempt was given up: its expert had read the prompt and written for a while.

        A stream bills itself; here what was produced can only be estimated, from the time that passed.
        """
        service = self._service
        load, spec = service.ledger.load(expert), service.pool.experts[expert].spec
        writing_s = max(waited_s - (load.ttft_s or spec.ttft_s), 0.0)
        written = (
            0 if exchange.wants_stream and not exchange.held else int(writing_s / (load.token_s or spec.token_s))
        )
        most = service.router.expected_length(expert, exchange.most_tokens)
        usage = Usage(call.input_tokens, exchange.answers * min(written, round(most)), estimated=True)
        cost_nano = service.meter(
            expert, usage, exchange.payer, ok=ok, ttft_s=waited_s, took_s=waited_s, streamed=False
        )
        exchange.spent(expert, usage, cost_nano)

    def _note(self, exchange: Exchange, attempts: list[Attempt], call: Call) -> None:
        exchange.attempts = attempts
        for attempt in attempts:
            if attempt.failure is None:
                continue
            if attempt.failure.kind == "timeout":  # who is given up on bills what it had read and written
                self._service.metrics.failures.labels(attempt.expert, "timeout").inc()
                self._bill_abandoned(exchange, call, attempt.expert, attempt.waited_s, ok=not attempt.blamed)
            else:
                self._service.missed(attempt.expert, attempt.failure.kind, exchange.payer, blamed=attempt.blamed)

    async def _whole(
        self, exchange: Exchange, request: ChatRequest, served: Served, answer: Answer, send: Any
    ) -> None:
        cost_nano = self._service.meter(
            served.expert,
            answer.usage,
            exchange.payer,
            ok=True,
            ttft_s=answer.ttft_s,
            took_s=served.took_s,
            streamed=False,
        )
        exchange.spent(served.expert, answer.usage, cost_nano)
        body = answer.body
        if self._service.guarding is not None:
            body = await self._service.guarding.after(body)
        if exchange.outcome is not None:
            exchange.outcome.ended = "ok"
        kind = _EVENTS
        if exchange.held:
            body = as_events(body, include_usage=request.include_usage, cost_usd=cost_nano / 1e9)
            if exchange.cache is not None:
                exchange.cache.heard(body)
                exchange.cache.keep_stream(served.expert)
        else:
            if exchange.cache is not None:
                exchange.cache.keep(served.expert, body)
            body = self._explained(exchange, body, served.expert)
            kind = [JSON, (b"content-length", b"%d" % len(body))]
        headers = [
            *kind,
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
        _, expected_nano = service.router.expected(
            served.expert, request.input_tokens, request.max_output_tokens, request.answers
        )
        headers = [
            *_EVENTS,
            *exchange.headers(),
            *exchange.routed(served.expert, expected_nano),
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
                    served.expert, usage, exchange.payer, ok=ok, ttft_s=stream.ttft_s, took_s=took_s, streamed=True
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
            answer.headers.extend(retry_after(1.0))
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


def _since(began: float) -> float:
    """Seconds from then, on the event loop's clock."""
    return max(asyncio.get_running_loop().time() - began, 0.0)
