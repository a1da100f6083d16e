"""The configured guards around a request: before it is routed, and before its whole answer is sent.

Where none is configured there is no `Guarding`, and nothing of this runs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from gateway.chat_request import ChatRequest
from gateway.embeddings import EmbeddingsRequest, read_texts
from gateway.rerank import RerankRequest
from router.config import GuardSettings
from router.errors import Blocked, NoExpertFits
from router.guards.base import Verdict, load_guard
from router.types import ExpertSpec

#: A body of more bytes or tokens' worth of them is read in a thread, so that nobody else waits for it.
LONG_BYTES = 16 * 1024


class Guarding:
    """In the order in which they are configured. Raises `ConfigError` for guards that cannot be had."""

    def __init__(self, settings: Sequence[GuardSettings], experts: Sequence[ExpertSpec]) -> None:
        self._guards = [(one.kind, load_guard(one, experts)) for one in settings]
        self._readers = [(kind, guard) for kind, guard in self._guards if guard.reads_answers]
        #: Streams are held until their answers are whole and looked at.
        self.holds_streams = any(
            guard.reads_answers and one.streams == "hold"
            for one, (_, guard) in zip(settings, self._guards, strict=True)
        )
        self._refuses_streams = [
            one.kind
            for one, (_, guard) in zip(settings, self._guards, strict=True)
            if guard.reads_answers and one.streams == "refuse"
        ]

    async def before(self, request: ChatRequest) -> ChatRequest:
        """The request as the guards let it on. Raises `Blocked`, or `NoExpertFits` where no expert is left."""
        if request.stream and self._refuses_streams:
            raise Blocked(
                f"guard {self._refuses_streams[0]!r}: an answer must be whole to be looked at; leave out `stream`",
                param="stream",
            )
        for kind, guard in self._guards:
            # what tools were called with is in no estimate of tokens
            size = LONG_BYTES + 1 if "tools" in request.needs else 4 * request.input_tokens
            verdict = await _asked(guard.before, request.body, size)
            request = _applied(request, verdict, kind)
        return request

    async def before_embedding(
        self, request: EmbeddingsRequest, order: list[str]
    ) -> tuple[EmbeddingsRequest, list[str]]:
        """The request, and who of `order` may answer it. The gateway's own encoder counts as local; tokens, which
        no guard can read, are refused. Raises as `before`.
        """
        if request.texts is None:
            raise Blocked("guards read texts: send `input` as texts, not as tokens", param="input")
        for kind, guard in self._guards:
            verdict = await _asked(guard.before, request.body, 4 * request.input_tokens)
            order = _left(order, verdict, kind)
            if verdict.body is not None:
                request = replace(request, body=verdict.body, texts=read_texts(verdict.body["input"]))
        return request, order

    async def before_rerank(self, request: RerankRequest, order: list[str]) -> tuple[RerankRequest, list[str]]:
        """As `before_embedding`, of query and documents."""
        for kind, guard in self._guards:
            texts = {"input": [request.query, *request.texts]}
            verdict = await _asked(guard.before, texts, 4 * request.input_tokens)
            order = _left(order, verdict, kind)
            if verdict.body is not None:
                query, *documents = verdict.body["input"]
                body = {**request.body, "query": query, "documents": documents}
                request = replace(request, body=body, query=query, texts=documents)
        return request, order

    async def after(self, answer: bytes) -> bytes:
        """The body of a whole answer as the guards let it out. Raises `Blocked`."""
        if not self._readers:
            return answer
        body: dict[str, Any] = orjson.loads(answer)
        changed = False
        for kind, guard in self._readers:
            verdict = await _asked(guard.after, body, len(answer))
            _refuse(verdict, kind)
            if verdict.body is not None:
                body, changed = verdict.body, True
        return orjson.dumps(body) if changed else answer


async def _asked(hook: Callable[[Mapping[str, Any]], Verdict], body: dict[str, Any], size: int) -> Verdict:
    return hook(body) if size <= LONG_BYTES else await asyncio.to_thread(hook, body)


def _refuse(verdict: Verdict, kind: str) -> None:
    if verdict.block is not None:
        raise Blocked(f"guard {kind!r}: {verdict.block}")


def _left(order: list[str], verdict: Verdict, kind: str) -> list[str]:
    """Who of `order` may answer; empty where the gateway itself does."""
    _refuse(verdict, kind)
    if verdict.only is None or not order:
        return order
    return [name for name in order if name in verdict.only] or [*_narrowed(None, verdict, kind, order[0])]


def _applied(request: ChatRequest, verdict: Verdict, kind: str) -> ChatRequest:
    _refuse(verdict, kind)
    if verdict.body is not None:
        request = replace(request, body=verdict.body)
    if verdict.heard is not None:
        request = replace(request, heard=verdict.heard)
    if verdict.only is not None:
        wishes = request.wishes
        kept_to = _narrowed(wishes.kept_to, verdict, kind, request.expert)
        reason = f"guard {kind!r}: {verdict.reason}"
        request = replace(request, wishes=replace(wishes, kept_to=kept_to, kept_because=reason))
    return request


def _narrowed(kept_to: frozenset[str] | None, verdict: Verdict, kind: str, expert: str | None) -> frozenset[str]:
    """Who may answer still. A caller's own choice of another is refused: it is told whom to ask."""
    assert verdict.only is not None
    left = verdict.only if kept_to is None else kept_to & verdict.only
    if expert is not None and expert not in left:
        there = ", ".join(sorted(left)) or "none"
        raise NoExpertFits(
            f"guard {kind!r}: {verdict.reason}; {expert!r} may not answer this, only: {there}", param="model"
        )
    return left
