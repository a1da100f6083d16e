"""The application: `create_app(settings)` builds all of it, and nothing is opened before its lifespan begins."""

import logging
import re
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from gateway import admin, admin_config, counting, feedback, spending
from gateway.chat import Chat
from gateway.configuration import Configuration, Source
from gateway.errors import Failure, describe, failure, internal
from gateway.exchange import Exchange
from gateway.messages import Messages, anthropic_failure
from gateway.openapi import described
from gateway.prompts import Prompts
from gateway.responses import Responses
from gateway.service import Service
from gateway.stored import stored
from gateway.surfaces import SERVICE, api
from gateway.translation import Translated
from gateway.wire import ClientGone
from router.config import Settings
from router.errors import PointsmanError
from router.experts.pool import PoolError

log = logging.getLogger("pointsman")
CHAT_PATH = "/v1/chat/completions"
MESSAGES_PATH = "/v1/messages"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
SURFACES = ("embeddings", "rerank", "route", "models", "feedback")  # whose failures are counted


class Application(FastAPI):
    """FastAPI with the paths of `asked` taken out in front of it, before its middlewares: they are the hot path."""

    asked: Mapping[str, Any]  # the path of a POST -> its ASGI application
    service: Service  # of the requests to come; each keeps its own to its end

    @cached_property
    def _methods(self) -> list[tuple[re.Pattern[str], set[str]]]:
        """What each path may be asked by, read from the description: FastAPI's own answer knows of one route."""
        return [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), {method.upper() for method in operations})
            for path, operations in self.openapi()["paths"].items()
        ]

    def allowed(self, path: str, known: Mapping[str, str] | None) -> str:
        """The methods of a path; `known` are the headers of FastAPI's own refusal."""
        methods = {one.strip() for one in (known or {}).get("Allow", "").split(",") if one}
        for pattern, more in self._methods:
            if pattern.fullmatch(path):
                methods |= more
        return ", ".join(sorted(methods))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        own = self.asked.get(scope["path"]) if scope["method"] == "POST" else None
        service = scope[SERVICE] = self.service
        service.enter()
        try:
            await (own or self._other)(scope, receive, send)
        finally:
            service.leave()

    async def _other(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Exception:  # the outermost boundary
            # an HTTP request's is told and logged by `_unforeseen`; the server would log it again, message and all
            if scope["type"] != "http":
                raise


def create_app(settings: Settings, source: Source | None = None) -> Application:
    """`source` is the file that the settings were read from, where they may be read anew.

    Raises `ConfigError` for secrets and prices that are missing; opening, in the lifespan, raises the rest.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await configuration.open()
        try:
            yield
        finally:
            await configuration.close()

    def put_to_work(service: Service) -> None:
        app.service = service
        app.asked = {
            CHAT_PATH: Chat(service),
            MESSAGES_PATH: Translated(service, Messages),
            COMPLETIONS_PATH: Prompts(service),
            RESPONSES_PATH: Translated(service, partial(Responses, store=service.responses)),
        }

    app = Application(title="Pointsman", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    configuration = app.state.configuration = Configuration(settings, source, put_to_work)
    app.include_router(api)
    app.include_router(feedback.api)
    app.include_router(counting.api)
    app.include_router(spending.own)
    if settings.auth.admin:
        app.include_router(spending.api)
        app.include_router(admin.api)
        app.include_router(admin_config.api)
    else:
        app.include_router(admin.off)
    app.include_router(stored)
    app.add_exception_handler(PointsmanError, _ours)
    app.add_exception_handler(PoolError, _ours)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)
    app.openapi = partial(described, app.openapi)  # type: ignore[method-assign]
    return app


def _exchange(request: Request) -> Exchange:
    """The request's bookkeeping; made here for a request that failed before it had one."""
    exchange = getattr(request.state, "exchange", None)
    if not isinstance(exchange, Exchange):
        exchange = request.state.exchange = Exchange(request.headers.raw)
    return exchange


def _log(request: Request, exchange: Exchange, level: int, what: str) -> None:
    path = "".join(one if one.isprintable() else "?" for one in request.url.path[:200])
    log.log(level, "request=%s caller=%s path=%s %s", exchange.request_id, exchange.caller, path, what)


def _respond(request: Request, answer: Failure) -> Response:
    exchange = _exchange(request)
    service: Service = request.scope[SERVICE]
    surface = request.url.path.removeprefix("/v1/")
    if surface in SURFACES:
        service.metrics.answered(surface, "", answer.status)
    if request.url.path.startswith(MESSAGES_PATH):
        answer = anthropic_failure(answer, exchange.request_id)
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers.extend([*exchange.headers(), *answer.headers])
    return response


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, PointsmanError | PoolError)
    answer = describe(error)
    exchange = _exchange(request)
    what = exchange.failures() or type(error).__name__
    _log(
        request,
        exchange,
        logging.INFO if answer.status < 500 else logging.WARNING,
        f"status={answer.status} {what}",
    )
    return _respond(request, answer)


async def _gone(request: Request, _: Exception) -> Response:
    _log(request, _exchange(request), logging.INFO, "gone")
    return Response(status_code=499)  # nobody reads it


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there = request.url.path in request.app.asked  # which are no routes of FastAPI's
    if error.status_code == 404 and not there:
        return _respond(request, failure(404, f"no such path: {request.url.path[:200]}", code="path_not_found"))
    if error.status_code == 405 or there:
        message = f"{request.method} is not allowed on {request.url.path[:200]}"
        refused = failure(405, message, code="method_not_allowed")
        refused.headers.append((b"allow", request.app.allowed(request.url.path, error.headers).encode()))
        return _respond(request, refused)
    return _respond(request, failure(error.status_code, str(error.detail)))


async def _unforeseen(request: Request, error: Exception) -> Response:
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log(request, _exchange(request), logging.ERROR, f"{type(error).__name__}\n{frames}")
    return _respond(request, internal())
