"""The surfaces beside chat: models, route, embeddings, health, metrics. FastAPI's routes; not the hot path."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from gateway.chat_request import ROUTED, parse_chat
from gateway.deciding import cached_or_decided, decision_json
from gateway.embeddings import SURFACE, call_of, closeness_of, encode_locally, parse_embeddings
from gateway.exchange import Exchange
from gateway.metrics import CONTENT_TYPE
from gateway.permission import permit_model, permitted
from gateway.rerank import SURFACE as RERANK
from gateway.rerank import parse_rerank, rerank_locally
from gateway.reserving import Bill
from gateway.service import Service
from gateway.turn import turn_of
from gateway.wire import ClientGone, patience_s, read_body, until_gone
from router.errors import UnknownModel
from router.experts.base import Call
from router.experts.pool import Attempt, PoolError
from router.keys.records import KeyRecord
from router.router import callers_choice
from router.types import Usage

api = APIRouter()
#: Where a request's scope holds the `Service` that it is answered by.
SERVICE = "pointsman.service"


def service_of(request: Request) -> Service:
    service: Service = request.scope[SERVICE]
    return service


In = Annotated[Service, Depends(service_of)]


def exchange_of(request: Request, service: In) -> Exchange:
    """The request's bookkeeping. Refuses a request without a known key."""
    exchange = Exchange(request.headers.raw)
    request.state.exchange = exchange
    exchange.known(service.keyring.caller(request.headers.raw))
    return exchange


Known = Annotated[Exchange, Depends(exchange_of)]


async def body_of(request: Request, service: In, exchange: Known) -> AsyncIterator[bytes]:
    yield await read_body(request.headers.raw, request.receive, service.settings.limits.body_bytes)


Body = Annotated[bytes, Depends(body_of)]


def answer(data: Any, exchange: Exchange, status: int = 200) -> Response:
    body = data if isinstance(data, bytes) else orjson.dumps(data)
    response = Response(body, status, media_type="application/json")
    response.raw_headers.extend(exchange.headers())
    return response


@api.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@api.get("/readyz")
async def readyz(service: In) -> Response:
    """Whether requests can be routed. A ledger that is away degrades the gateway and does not stop it."""
    ledger = service.ledger.status()
    ready = service.ready and (service.encoder is None or service.encoder.alive)
    status = "ok" if ledger.ok else "degraded"
    if not ready:
        status = "encoder failed" if service.ready else "starting"
    if service.draining:
        ready, status = False, "stopping"
    state: dict[str, Any] = {
        "status": status,
        "policy": service.router.use.label if service.ready else None,
        "encoder": service.encoder.name if service.encoder is not None else None,
        "ledger": {"status": "ok" if ledger.ok else "degraded", "reason": ledger.reason, "owed": ledger.owed},
        "experts": {
            name: service.pool.state(name) for name, expert in service.pool.experts.items() if expert.spec.enabled
        },
    }
    if service.registry is not None:
        reason = service.registry.reason
        state["keys"] = {"status": "degraded" if reason else "ok", "reason": reason}
    return Response(orjson.dumps(state), 200 if ready else 503, media_type="application/json")


@api.get("/metrics")
async def metrics(service: In) -> Response:
    """Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _models(service: Service, key: KeyRecord | None) -> list[dict[str, Any]]:
    names = [(name, "pointsman") for name in ROUTED]
    names += [(spec.name, "expert") for spec in service.pool.specs if spec.enabled]
    if service.encoder is not None:
        names.append((service.encoder.name, "pointsman"))
    allowed = None if key is None or key.models is None else {*ROUTED, *key.models}
    return [
        {"id": name, "object": "model", "created": service.started_at, "owned_by": owner}
        for name, owner in names
        if allowed is None or name in allowed
    ]


@api.get("/v1/models")
async def models(service: In, exchange: Known) -> Response:
    """The routed names, the experts, and the local encoder; of these what the caller's key may use."""
    return answer({"object": "list", "data": _models(service, exchange.key)}, exchange)


@api.get("/v1/models/{name:path}")
async def model(name: str, service: In, exchange: Known) -> Response:
    """One model by its name, which may hold slashes."""
    known = _models(service, exchange.key)
    for entry in known:
        if entry["id"] == name:
            return answer(entry, exchange)
    there = ", ".join(entry["id"] for entry in known)
    raise UnknownModel(f"no model is called {name[:200]!r}; there are: {there}", param="model")


@api.post("/v1/route")
async def route(body: Body, request: Request, service: In, exchange: Known) -> Response:
    """The decision alone for a chat request; nothing is called and nothing is billed."""
    parsed = parse_chat(body, request.headers.raw, service.chat_experts)
    if exchange.key is not None:
        parsed = permitted(exchange.key, parsed, service.router.use, service.settings.policy.preference)
    if service.guarding is not None:
        parsed = await service.guarding.before(parsed)
    turn = turn_of(service.sessions, parsed, exchange.owner)
    decision = await cached_or_decided(service, exchange, parsed, request.headers.raw, turn)
    exchange.decision = decision
    return answer(decision_json(decision), exchange)


@api.post("/v1/embeddings")
async def embeddings(body: Body, request: Request, service: In, exchange: Known) -> Response:
    """OpenAI's embeddings, from an embedding expert or the local encoder."""
    encoder = service.encoder
    parsed = parse_embeddings(body, service.embedding_experts, encoder.name if encoder is not None else None)
    order: list[str] = []
    if parsed.expert is not None:
        allowed = None if exchange.key is None else exchange.key.models
        order = [parsed.expert]
        if parsed.routed:
            closeness = await closeness_of(parsed, service.pilots, encoder)
            order = service.alike(parsed.expert, allowed, closeness)
    if exchange.key is not None and not (parsed.routed and order):
        permit_model(exchange.key, parsed.expert or (encoder.name if encoder is not None else ""))
    if service.guarding is not None:
        parsed, order = await service.guarding.before_embedding(parsed, order)
    if parsed.expert is None:
        assert encoder is not None
        return await _encoded(SURFACE, parsed.input_tokens, encode_locally(parsed, encoder), service, exchange)
    timeout_s = patience_s(request.headers.raw, service.settings.limits.timeout_s)
    call = call_of(SURFACE, parsed.body, parsed.input_tokens, timeout_s, exchange.request_id)
    return await _asked(order, call, service, exchange, request)


@api.post("/v1/rerank")
async def rerank(body: Body, request: Request, service: In, exchange: Known) -> Response:
    """Documents by their relevance to a query, from a rerank expert or by the local encoder's cosine."""
    encoder = service.encoder
    parsed = parse_rerank(body, service.rerank_experts, encoder.name if encoder is not None else None)
    order = [] if parsed.expert is None else [parsed.expert]
    if order and parsed.routed:
        order = service.rerankers(None if exchange.key is None else exchange.key.models)
    if exchange.key is not None and not (parsed.routed and order):
        permit_model(exchange.key, parsed.expert or (encoder.name if encoder is not None else ""))
    if service.guarding is not None:
        parsed, order = await service.guarding.before_rerank(parsed, order)
    if parsed.expert is None:
        assert encoder is not None
        return await _encoded(RERANK, parsed.input_tokens, rerank_locally(parsed, encoder), service, exchange)
    timeout_s = patience_s(request.headers.raw, service.settings.limits.timeout_s)
    call = call_of(RERANK, parsed.body, parsed.input_tokens, timeout_s, exchange.request_id)
    return await _asked(order, call, service, exchange, request)


async def _encoded(
    surface: str, tokens: int, work: Coroutine[Any, Any, bytes], service: Service, exchange: Exchange
) -> Response:
    """The answer of the gateway's own encoder, within the caller's limits. It costs nothing."""
    assert service.encoder is not None
    name = service.encoder.name
    try:
        if service.admission is not None:
            exchange.bill = Bill(service.admission, callers_choice(name).id, exchange.caller, lambda _: (tokens, 0))
            await exchange.bill.reserve([name], routed=False)
        body = await work
        if exchange.bill is not None:
            exchange.bill.add(name, Usage(tokens), 0)
    finally:
        work.close()
        if exchange.bill is not None:
            exchange.bill.settle()
    service.metrics.answered(surface, name, 200)
    return answer(body, exchange)


async def _asked(order: list[str], call: Call, service: Service, exchange: Exchange, request: Request) -> Response:
    """The answer of the first expert that gives one to a call that has input alone, within the limits."""
    exchange.decision = callers_choice(order[0])
    if service.admission is not None:
        expect = partial(_expected, service, call.input_tokens)
        exchange.bill = Bill(service.admission, exchange.decision.id, exchange.caller, expect)
    try:
        if exchange.bill is not None:
            order = [*await exchange.bill.reserve(order, routed=len(order) > 1)]
            exchange.decision = replace(exchange.decision, order=tuple(order))
            call.admits = exchange.bill.admits
        return await _answered(order, call, service, exchange, request)
    finally:
        if exchange.bill is not None:
            exchange.bill.settle()


def _expected(service: Service, tokens: int, expert: str) -> tuple[int, int]:
    """Tokens and nano-dollars that a call of an expert is expected to take that has input alone."""
    spec = service.pool.experts[expert].spec
    return tokens, spec.price.cost_nano(Usage(tokens), service.ledger.load(expert).ttft_s or spec.ttft_s)


async def _answered(
    order: list[str], call: Call, service: Service, exchange: Exchange, request: Request
) -> Response:
    began, limit = time.perf_counter(), service.settings.limits.attempts
    try:
        asking = service.pool.ask(call, order, attempts=min(len(order), limit), streaming=False)
        served = await until_gone(asking, request.receive)
    except PoolError as error:
        _note(exchange, error.attempts, call, service)
        raise
    except ClientGone:
        for asked, since in call.under_way:
            waited_s = max(asyncio.get_running_loop().time() - since, 0.0)
            _bill_abandoned(exchange, call, service, asked, waited_s)
        raise
    finally:
        exchange.upstream_s = time.perf_counter() - began
    _note(exchange, served.attempts, call, service)
    assert served.answer is not None
    cost_nano = service.meter(
        served.expert,
        served.answer.usage,
        exchange.payer,
        ok=True,
        ttft_s=served.answer.ttft_s,
        took_s=exchange.upstream_s,
        streamed=False,
    )
    if exchange.bill is not None:
        exchange.bill.add(served.expert, served.answer.usage, cost_nano)
    service.metrics.answered(call.surface, served.expert, 200)
    response = answer(served.answer.body, exchange)
    response.raw_headers.extend(exchange.routed(served.expert, cost_nano))
    return response


def _note(exchange: Exchange, attempts: list[Attempt], call: Call, service: Service) -> None:
    exchange.attempts = attempts
    for attempt in attempts:
        if attempt.failure is None:
            continue
        if attempt.failure.kind == "timeout":
            service.metrics.failures.labels(attempt.expert, "timeout").inc()
            _bill_abandoned(exchange, call, service, attempt.expert, attempt.waited_s, ok=not attempt.blamed)
        else:
            service.missed(attempt.expert, attempt.failure.kind, exchange.payer, blamed=attempt.blamed)


def _bill_abandoned(
    exchange: Exchange, call: Call, service: Service, expert: str, waited_s: float, *, ok: bool = True
) -> None:
    """A call was given up: its expert had read the input."""
    usage = Usage(call.input_tokens, estimated=True)
    cost_nano = service.meter(
        expert, usage, exchange.payer, ok=ok, ttft_s=waited_s, took_s=waited_s, streamed=False
    )
    if exchange.bill is not None:
        exchange.bill.add(expert, usage, cost_nano)
