"""Any OpenAI-compatible URL: OpenAI itself, vLLM, SGLang, Ollama, llama.cpp. The fast path."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from router.config_experts import EndpointSettings
from router.errors import ConfigError, ExpertError, FailureKind, InvalidRequest
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.http import Exchange, Origin, TransportError
from router.experts.retries import retry_after_s
from router.experts.sse import HELD_BYTES, Rewriter, StreamError, has_content
from router.experts.usage import believed, input_usage_body, usage_body
from router.types import ExpertSpec, Usage

#: The list that an answer must hold, by surface.
PROMISED = {"chat/completions": "choices", "embeddings": "data", "rerank": "results"}
#: How servers without OpenAI's code say that a prompt is too long: vLLM, SGLang and Together, llama.cpp, TGI,
#: Ollama, Gemini, Anthropic, xAI, Bedrock.
_TOO_LONG = re.compile(
    rb"maximum (?:context|model|prompt) length|longer than the model.{1,8} context length|available context size"
    rb"|`max_new_tokens` must be <=|max context length|maximum number of tokens allowed|prompt is too long"
    rb"|exceeds? (?:the )?context (?:window|limit)|input is too long for requested model",
    re.IGNORECASE,
)
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class EndpointExpert(Expert):
    """`connections` bounds the calls under way to this upstream; more wait their turn within their deadline.

    `first_byte_timeout_s` bounds silence: before the answer, and within a stream that has begun.
    """

    def __init__(
        self, settings: EndpointSettings, spec: ExpertSpec, *, connections: int = 1024, index: int = 0
    ) -> None:
        """`index`: which of the settings' addresses this is."""
        self.spec = spec
        self._settings = settings
        self._address = address = settings.places()[index]
        self._where = f"experts.{spec.name}"
        if settings.endpoints:
            self._where += f".endpoints.{index}"
            self.place, self.zone, self.weight = str(index), address.zone, address.weight
        self.health_check_s = settings.health_check_s
        self._model = settings.model or settings.name
        self.address = address.url, self._model, address.api_key, tuple((address.headers or {}).items())
        self._connections = connections
        self._origin: Origin | None = None
        self._heads: dict[str, bytes] = {}

    async def open(self) -> None:
        """Raises `ConfigError` for a key that is missing, and for a URL or a header that cannot be sent."""
        where, address = self._where, self._address
        key = address.api_key.read(f"{where}.api_key") if address.api_key else None
        try:
            self._origin = Origin(address.url, connections=self._connections)
        except ValueError as error:
            raise ConfigError(f"{where}.url: {error}") from error
        headers = {"host": self._origin.authority, "content-type": "application/json", "user-agent": "pointsman"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        headers |= {name.lower(): value for name, value in (address.headers or {}).items()}
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"{where}: the header {name!r} must be a name and printable ASCII")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        base, _, query = address.url.split("://", 1)[1].partition("?")
        path = "/" + base.partition("/")[2].strip("/")
        path, query = path.rstrip("/"), f"?{query}" if query else ""
        for surface in PROMISED:
            self._heads[surface] = f"POST {path}/{surface}{query} HTTP/1.1\r\n{lines}".encode()
        self._probe_head = f"GET {path}/models{query} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n".encode()

    async def close(self) -> None:
        if self._origin is not None:
            self._origin.close()

    async def complete(self, call: Call) -> Answer:
        began = time.perf_counter()
        exchange = await self._exchange(call, {**call.body, "model": self._model}, streaming=False)
        body = exchange.body()
        exchange.finish()
        if exchange.status != 200:
            raise self._refused(exchange.status, exchange.headers, body)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise self._failed("garbage", "answered 200 with something that is not JSON") from None
        promised = PROMISED[call.surface]
        if not isinstance(answer, dict) or not isinstance(answer.get(promised), list):
            if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
                raise self._refused(_status_of(answer["error"]), exchange.headers, body)
            raise self._failed("garbage", f"answered 200 without `{promised}`")
        answer["model"] = self.spec.name
        try:
            usage = believed(answer, call, self.spec) or Usage(
                call.input_tokens, _guessed_tokens(answer), estimated=True
            )
            if call.surface == "chat/completions":
                answer["usage"] = usage_body(usage, answer.get("usage"))
            elif call.surface == "embeddings" or "usage" in answer:  # rerank has shapes without it
                answer["usage"] = input_usage_body(usage)
            whole = orjson.dumps(answer)
        except orjson.JSONEncodeError:
            raise self._failed("garbage", "answered 200 with JSON that is nested too deeply") from None
        return Answer(
            body=whole,
            usage=usage,
            ttft_s=exchange.started_at - began,
            headers=_limit_headers(exchange.headers),
        )

    async def stream(self, call: Call) -> Stream:
        loop = asyncio.get_running_loop()
        began, asked = loop.time(), time.perf_counter()
        options = call.body.get("stream_options")
        body = {
            **call.body,
            "model": self._model,
            "stream": True,
            "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True},
        }
        exchange = await self._exchange(call, body, streaming=True)
        try:
            if exchange.status != 200:
                raise self._refused(exchange.status, exchange.headers, exchange.body())
            kind = exchange.headers.get(b"content-type", b"")
            if not kind.startswith(b"text/event-stream"):
                raise self._failed("garbage", "was asked to stream and answered without text/event-stream")
            stream = EndpointStream(self, exchange, Rewriter(self.spec, call, asked))
            async with asyncio.timeout_at(self._first_byte_at(call, began)):
                await stream.prime()
            stream.ttft_s = time.perf_counter() - asked
            exchange.limit_silence(self._settings.first_byte_timeout_s)
        except TimeoutError:
            exchange.finish()
            raise self._failed("timeout", "sent no first word in time") from None
        except BaseException:
            exchange.finish()
            raise
        stream.headers = _limit_headers(exchange.headers)
        return stream

    async def probe(self) -> str:
        """Asks for the list of models, which no provider bills."""
        exchange = await self._sent(self._probe_head, b"", streaming=False, timeout_s=10.0)
        body = exchange.body()
        exchange.finish()
        if exchange.status != 200:
            raise self._refused(exchange.status, exchange.headers, body)
        try:
            models = [model["id"] for model in orjson.loads(body)["data"]]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return "reachable, key accepted; it lists no models"
        if self._model not in models:
            shown = ", ".join(sorted(map(str, models))[:8])
            raise self._failed("caller", f"does not know the model {self._model!r}; it has: {shown}")
        return f"reachable, key accepted, {self._model} is there"

    def _first_byte_at(self, call: Call, began: float) -> float:
        return min(call.deadline, call.first_byte_by, began + self._settings.first_byte_timeout_s)

    async def _exchange(self, call: Call, body: dict[str, Any], *, streaming: bool) -> Exchange:
        if self._origin is None:
            raise self._failed("connect", "is not open")
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError:
            raise InvalidRequest("the body is nested too deeply") from None
        head = b"%sx-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (
            self._heads[call.surface],
            call.request_id.encode(),
            len(data),
        )
        now = asyncio.get_running_loop().time()
        timeout_s = self._first_byte_at(call, now) - now
        return await self._sent(head, data, streaming=streaming, timeout_s=timeout_s)

    async def _sent(self, head: bytes, data: bytes, *, streaming: bool, timeout_s: float) -> Exchange:
        assert self._origin is not None
        try:
            return await self._origin.exchange(head, data, streaming=streaming, timeout_s=timeout_s)
        except TransportError as error:
            raise self.transport_failed(error) from error

    def transport_failed(self, error: TransportError) -> ExpertError:
        return self._failed(error.stage, str(error))

    def _failed(self, kind: FailureKind, message: str) -> ExpertError:
        return ExpertError(self.spec.name, kind, message)

    def stream_failed(self, error: StreamError) -> ExpertError:
        if error.body is None:
            return self._failed(error.kind, str(error))
        try:
            body = orjson.dumps({"error": error.body})
        except orjson.JSONEncodeError:
            body = b""  # nested too deeply to be passed on
        return self._refused(_status_of(error.body), {}, body)

    def _refused(self, status: int, headers: dict[bytes, bytes], body: bytes) -> ExpertError:
        kind = refusal(status, body)
        return ExpertError(
            self.spec.name,
            kind,
            f"answered {status}",
            status=status,
            body=body,
            retry_after_s=_retry_after_s(headers),
        )


class EndpointStream(Stream):
    """An upstream's events on their way; see `Stream`."""

    def __init__(self, expert: EndpointExpert, exchange: Exchange, rewriter: Rewriter) -> None:
        self._expert = expert
        self._exchange = exchange
        self._rewriter = rewriter
        self._first = b""
        self.ttft_s = 0.0

    @property
    def usage(self) -> Usage:
        return self._rewriter.usage

    async def prime(self) -> None:
        """Waits for the first content. Raises `ExpertError` where there is none or an error comes before it."""
        while True:
            events = await self._read()
            self._first += events
            if has_content(events) or len(self._first) > HELD_BYTES or self._rewriter.done:
                return
            if self._rewriter.failure is not None:
                raise self._expert.stream_failed(self._rewriter.failure)

    async def _read(self) -> bytes:
        try:
            data = await self._exchange.next()
        except TransportError as error:
            raise self._expert.transport_failed(error) from error
        return self._rewriter.feed(data) if data else self._rewriter.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rewriter = self._rewriter
        try:
            events = self._first
            while True:
                if events:
                    yield events
                if rewriter.failure is not None:
                    raise self._expert.stream_failed(rewriter.failure)
                if rewriter.done:
                    return
                events = await self._read()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        self._exchange.finish(read_out=self._rewriter.done)


def refusal(status: int, body: bytes) -> FailureKind:
    """What an upstream's error status means for us; the body tells two kinds of 400 apart."""
    if status == 429:
        return "rate_limit"
    if status in (401, 402, 403):
        return "auth"
    if status >= 500 or status in (404, 405, 408):  # 404: our URL or our name for the model is wrong
        return "server"
    if status < 400:
        return "garbage"
    code = _error_code(body)
    if code == "context_length_exceeded" or _TOO_LONG.search(body, 0, 4096):
        return "context_length"
    if code in ("content_filter", "content_policy_violation"):
        return "content_filter"
    return "caller"


def _error_code(body: bytes) -> str | None:
    try:
        error = orjson.loads(body)["error"]
        return str(error["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _status_of(error: dict[str, Any]) -> int:
    """The HTTP status that an error sent with a status of 200 would have had."""
    for said in (error.get("status"), error.get("code")):
        if type(said) is int and 400 <= said < 600:
            return said
    callers = "invalid_request_error", "BadRequestError"
    return 400 if error.get("type") in callers or error.get("code") == "context_length_exceeded" else 500


def _retry_after_s(headers: dict[bytes, bytes]) -> float | None:
    plain, milliseconds = (
        None if (said := headers.get(name)) is None else said.decode("latin-1")
        for name in (b"retry-after", b"retry-after-ms")
    )
    return retry_after_s(plain, milliseconds)


def _limit_headers(headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The upstream's own rate limits, which clients read to pace themselves."""
    return [(name, value) for name, value in headers.items() if name.startswith(b"x-ratelimit-")]


def _guessed_tokens(answer: dict[str, Any]) -> int:
    """Output tokens of an answer without usage: a token for every four bytes of its text."""
    return len(orjson.dumps(answer.get("choices", []))) // 4
