"""Every other provider, through litellm: `pip install 'pointsman[remote]'`.

litellm is imported when the first such expert is opened, in a thread. It adds milliseconds to every call and to
every chunk: where a provider has an OpenAI-compatible URL, `kind: endpoint` is the fast way to it.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import numpy as np
import orjson

from router.config_experts import RemoteSettings
from router.errors import ExpertError, FailureKind
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.failure import Exchange, failure_of
from router.experts.plain import plain_answer, plain_chunk
from router.experts.provider import CHAT, EMBEDDINGS, Fields, Provider, UnknownField
from router.experts.sse import HELD_BYTES, Rewriter, event, has_content
from router.experts.usage import believed, input_usage_body, usage_body
from router.types import ExpertSpec, Usage

PROBE_S = 10.0


class RemoteExpert(Expert):
    """One model of a provider that litellm speaks to. No retries here: failover is the pool's."""

    _open: ClassVar[int] = 0  # litellm's clients are the process's, so what counts their users is too

    def __init__(self, settings: RemoteSettings, spec: ExpertSpec) -> None:
        self.spec = spec
        self._settings = settings
        self.address = settings.model, settings.api_base, settings.api_key
        self._provider: Provider | None = None
        self._failures: tuple[type[Exception], ...] = ()

    async def open(self) -> None:
        """Imports litellm and finds the provider. Raises `ConfigError`; makes no request."""
        self._provider = await asyncio.to_thread(Provider.connect, self._settings)
        RemoteExpert._open += 1
        import httpx
        import openai

        self._failures = (openai.OpenAIError, httpx.HTTPError)

    async def close(self) -> None:
        """The last one closes litellm's clients, which all remote experts of a process share."""
        if self._provider is None:
            return
        litellm, self._provider = self._provider.litellm, None
        RemoteExpert._open -= 1
        if not RemoteExpert._open:
            await litellm.close_litellm_async_clients()
            # a closed client would be taken from the cache again
            litellm.in_memory_llm_clients_cache.flush_cache()

    async def complete(self, call: Call) -> Answer:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if call.surface == "embeddings":
            response = await self._asked(call, EMBEDDINGS, {"input": call.body.get("input")})
            body, usage = self._embeddings(call, response)
        else:
            response = await self._asked(call, CHAT, {"messages": call.body.get("messages")})
            answer = plain_answer(response.model_dump(), self.spec.name)
            usage = believed(answer, call, self.spec) or Usage()
            if not usage.input_tokens and not usage.output_tokens:
                usage = Usage(call.input_tokens, len(orjson.dumps(answer["choices"])) // 4, estimated=True)
            answer["usage"] = usage_body(usage, answer.get("usage"))
            body = orjson.dumps(answer)
        return Answer(body=body, usage=usage, ttft_s=loop.time() - began, headers=_limit_headers(response))

    async def stream(self, call: Call) -> Stream:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if call.surface == "embeddings":
            raise self._refused("embeddings cannot be streamed", "stream")
        if call.body.get("n") not in (None, 1):
            # litellm ends the stream with the first choice that ends
            raise self._refused("n: a streamed answer of a remote expert has one choice", "n")
        options = call.body.get("stream_options")
        extra = {
            "messages": call.body.get("messages"),
            "stream": True,
            "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True},
        }
        chunks = await self._asked(call, CHAT, extra)
        stream = RemoteStream(self, chunks, call)
        try:
            await stream.prime(self._limit(call, began))
        except BaseException:
            await stream.aclose()
            raise
        stream.ttft_s = loop.time() - began
        stream.headers = _limit_headers(chunks)
        return stream

    async def probe(self) -> str:
        """Lists the provider's models where that is free; else only looks whether a key is there."""
        provider = self._opened()
        missing = provider.missing_keys()
        if missing:
            raise self._failed("auth", f"has no key: set `api_key`, or {', '.join(missing)}")
        request = provider.listing()
        if request is None:
            return f"not asked: {provider.name} has no free request that shows whether it answers"
        import httpx

        url, headers = request
        try:
            async with httpx.AsyncClient(timeout=PROBE_S) as client:
                response = await client.get(url, headers=headers)
        except httpx.HTTPError as error:
            raise self._failed("connect", f"cannot be reached: {type(error).__name__}") from error
        if response.status_code in (400, 401, 403):  # 400: Google's word for a wrong key
            raise self._failed("auth", f"the provider does not accept our key (answered {response.status_code})")
        if response.status_code != 200:
            return f"reachable; {provider.name} does not list its models (answered {response.status_code})"
        return "reachable, key accepted"

    async def _asked(self, call: Call, fields: Fields, extra: dict[str, Any]) -> Any:
        """litellm's answer, or its stream before the first chunk."""
        provider = self._opened()
        try:
            arguments = provider.arguments(call.body, fields) | extra
        except UnknownField as error:
            raise self._refused(str(error), error.field) from None
        limit = self._limit(call, asyncio.get_running_loop().time())
        sent: list[None] = []
        arguments["logger_fn"] = lambda _: sent.append(None)  # called when the request leaves
        ask = provider.litellm.aembedding if "input" in extra else provider.litellm.acompletion
        try:
            async with asyncio.timeout_at(limit):
                return await ask(**arguments)
        except TimeoutError:
            raise self._failed("timeout", "no answer in time") from None
        except self._failures as error:
            raise self.failed_with(error, sent=bool(sent)) from error

    def failed_with(self, error: Exception, *, sent: bool = True, begun: bool = False) -> ExpertError:
        key = self._provider.probe_key if self._provider is not None else None
        return failure_of(error, Exchange(self.spec.name, sent=sent, begun=begun, secret=key))

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions with which litellm says that a call failed."""
        return self._failures

    @property
    def says_its_end(self) -> bool:
        """Whether the provider's protocol ends each answer with a reason, so that its lack is a broken stream."""
        provider = self._opened()
        return provider.openai_like or provider.name == "anthropic"

    def _opened(self) -> Provider:
        if self._provider is None:
            raise self._failed("connect", "is not open")
        return self._provider

    def _limit(self, call: Call, began: float) -> float:
        return min(call.deadline, call.first_byte_by, began + self._settings.first_byte_timeout_s)

    def _failed(self, kind: FailureKind, message: str) -> ExpertError:
        return ExpertError(self.spec.name, kind, message)

    def _refused(self, message: str, param: str) -> ExpertError:
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        return ExpertError(
            self.spec.name, "caller", "cannot be asked this", status=400, body=orjson.dumps({"error": error})
        )

    def _embeddings(self, call: Call, response: Any) -> tuple[bytes, Usage]:
        answer = response.model_dump()
        for row in answer.get("data") or ():
            # litellm's providers give floats; the official clients ask for base64
            if call.body.get("encoding_format") == "base64" and isinstance(row.get("embedding"), list):
                vector = np.asarray(row["embedding"], dtype="<f4")
                row["embedding"] = base64.b64encode(vector.tobytes()).decode()
        usage = believed(answer, call, self.spec) or Usage()
        if not usage.input_tokens:
            usage = Usage(call.input_tokens, estimated=True)
        answer |= {"model": self.spec.name, "usage": input_usage_body(usage)}
        return orjson.dumps(answer), usage


class RemoteStream(Stream):
    """litellm's chunks as server-sent events, mended by the same rules as an endpoint's."""

    def __init__(self, expert: RemoteExpert, chunks: Any, call: Call) -> None:
        self._expert = expert
        self._chunks = chunks
        self._deadline = call.deadline
        self._rewriter = Rewriter(expert.spec, call)
        self._first = b""
        self.ttft_s = 0.0

    @property
    def usage(self) -> Usage:
        return self._rewriter.usage

    async def prime(self, limit: float) -> None:
        """Waits for the first content, until `limit` on the loop's clock. Raises `ExpertError`."""
        while True:
            events = await self._read(limit)
            self._first += events
            self._check()
            if has_content(events) or len(self._first) > HELD_BYTES or self._rewriter.done:
                return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            events = self._first
            while True:
                if events:
                    yield events
                self._check()
                if self._rewriter.done:
                    return
                events = await self._read(self._deadline)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await self._chunks.aclose()

    async def _read(self, limit: float) -> bytes:
        begun = bool(self._first)
        try:
            async with asyncio.timeout_at(limit):
                chunk = await anext(self._chunks)
        except StopAsyncIteration:
            return self._rewriter.close()
        except TimeoutError:
            raise ExpertError(self._expert.spec.name, "timeout", "no whole answer in time") from None
        except self._expert.failures as error:
            raise self._expert.failed_with(error, begun=begun) from error
        plain = plain_chunk(chunk.model_dump(), self._expert.spec.name)
        if plain["usage"] is not None and not any(getattr(seen, "usage", None) for seen in self._chunks.chunks):
            plain["usage"] = None  # litellm's own sum, where the provider reports none
        ends = any(choice["finish_reason"] for choice in plain["choices"])
        if ends and self._expert.says_its_end and self._chunks.received_finish_reason is None:
            # litellm ends a stream that broke off with a reason of its own making
            raise ExpertError(self._expert.spec.name, "cut", "the stream ended before its last chunk")
        return self._rewriter.feed(event(plain)) if plain["choices"] or plain["usage"] else b""

    def _check(self) -> None:
        failure = self._rewriter.failure
        if failure is not None:
            kind: FailureKind = "cut" if "ended" in str(failure) else "garbage"
            raise ExpertError(self._expert.spec.name, kind, str(failure))


def _limit_headers(response: Any) -> list[tuple[bytes, bytes]]:
    """The provider's own rate limits, which clients read to pace themselves."""
    hidden = getattr(response, "_hidden_params", None)
    headers = (hidden.get("additional_headers") if isinstance(hidden, dict) else None) or {}
    return [
        (name.encode(), str(value).encode())
        for name, value in headers.items()
        if name.startswith("x-ratelimit-") and f"{name}{value}".isascii()
    ]
