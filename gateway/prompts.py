"""Several prompts in one text completion: each is a request of its own, and their answers are one.

So every prompt is routed, limited, metered and logged by itself; `x-pointsman-cost-usd` and the usage are the sums.
Choices are numbered across prompts, `n` for each. Streams are interleaved as they come, from when all have begun:
until then a failure is an answer with its status. Where one prompt fails the others are given up: they were asked
together. What they had cost by then stays billed.

Where a concurrency limit leaves room for fewer than there are, the others wait their turn: a limit of one refuses
no request of two prompts. A stream then begins with the first of them; what fails later is an event, and the
headers tell of those that had begun.
"""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from gateway.chat_request import MAX_CHOICES, parse_object
from gateway.completions import Completions
from gateway.errors import describe
from gateway.exchange import Exchange
from gateway.service import Service
from gateway.translation import Translated
from gateway.wire import Headers, send_failure
from router.errors import InvalidRequest, PointsmanError
from router.ledger.caps import Cap

PROMPTS_MOST = 32
DONE = b"data: [DONE]\n\n"
#: Of the answers' headers: those that are added up, of which the largest counts, and of which all are told.
_SUMS = (b"x-pointsman-attempts",)
_MOST = (b"openai-processing-ms", b"x-pointsman-overhead-ms")
_ALL = (b"x-pointsman-decision", b"x-pointsman-expert", b"x-pointsman-cache", b"x-pointsman-policy")
_COST = b"x-pointsman-cost-usd"


class Prompts:
    """The ASGI application of text completions: of one prompt, or of several."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._one = Translated(service, Completions)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            caller = self._service.keyring.caller(scope["headers"]).name
        except PointsmanError:
            await self._one(scope, receive, send)
            return
        limit = self._service.settings.limits.body_bytes
        messages = await _whole(receive, limit)
        try:
            bodies = _apart(b"".join(message.get("body", b"") for message in messages), limit)
        except InvalidRequest as error:
            self._service.metrics.answered(Completions.surface, "", 400)
            await send_failure(describe(error), Exchange(scope["headers"]).headers(), send)
            return
        if len(bodies) < 2:
            await self._one(scope, _replayed(messages, receive), send)
            return
        headers = [header for header in scope["headers"] if header[0] not in (b"content-length", b"x-request-id")]
        headers.append((b"x-request-id", Exchange(scope["headers"]).request_id.encode()))
        at_once = min(self._room(caller, bodies[0].get("model")), len(bodies))
        together, turns = Together(bodies, send, at_once), asyncio.Semaphore(at_once)

        async def ask(part: _Part) -> None:
            async with turns:
                if not together.given_up.is_set():
                    await self._one({**scope, "headers": headers}, part.receive, part.send)

        watcher = asyncio.create_task(together.watch(receive))
        try:
            async with asyncio.TaskGroup() as group:
                for part in together.parts:
                    group.create_task(ask(part))
        except asyncio.CancelledError:
            pass  # the gateway stops: every part was told so, and the caller is
        finally:
            watcher.cancel()
        await together.end()

    def _room(self, caller: str, model: Any) -> int:
        """How many requests at once the limits leave to a caller whom nobody else is beside."""
        if self._service.admission is None:
            return PROMPTS_MOST
        caps, experts = self._service.admission.caps, self._service.chat_experts
        theirs = [_places(caps.of_expert(name)) for name in ([model] if model in experts else experts)]
        return min(_places(caps.of_caller(caller)), max(theirs))  # one that has no room is passed over


def _places(caps: Iterable[Cap]) -> int:
    return min((cap.limit for cap in caps if cap.what == "concurrency"), default=PROMPTS_MOST)


class Together:
    """The answers to several prompts on their way to one caller."""

    def __init__(self, bodies: Sequence[dict[str, Any]], send: Any, at_once: int) -> None:
        """`at_once` of them are asked at the same time."""
        self._at_once = at_once
        self.parts = [_Part(self, i, body) for i, body in enumerate(bodies)]
        self.given_up = asyncio.Event()
        self.begun = asyncio.Event()  # all streams have that could
        self._send = send
        self._failed: _Part | None = None
        self._gone = False
        self._sent = False
        self._id: str | None = None
        self._last: dict[str, Any] | None = None  # the chunk with the usage so far

    async def watch(self, receive: Any) -> None:
        """Until the caller goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self.given_up.set()

    def failed(self, part: "_Part") -> None:
        if self._failed is None:
            self._failed = part
        self.given_up.set()

    async def started(self) -> None:
        """One more answer has begun; waits for all the others that are asked at the same time."""
        if sum(part.status == 200 for part in self.parts) >= self._at_once:
            if not self._sent:
                self._sent = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            self.begun.set()
        waiting = [asyncio.create_task(event.wait()) for event in (self.begun, self.given_up)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def events(self, part: "_Part", events: bytes) -> None:
        """Passes a stream's events on under the answer's own id and numbers."""
        if self.given_up.is_set():
            return
        out = b"".join(self._event(part, event) for event in events.split(b"\n\n") if event)
        if out:
            await self._send({"type": "http.response.body", "body": out, "more_body": True})

    def _event(self, part: "_Part", event: bytes) -> bytes:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            return b""
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return event + b"\n\n"  # damaged on its way here
        if "error" in chunk:
            self.failed(part)
            return event + b"\n\n"
        self._id = self._id or chunk.get("id") or "cmpl-" + secrets.token_hex(12)
        chunk["id"] = self._id
        if not chunk["choices"] and isinstance(chunk.get("usage"), dict):
            self._last = chunk | {"usage": added([chunk["usage"], (self._last or {}).get("usage")])}
            return b""
        for choice in chunk["choices"]:
            choice["index"] = part.number_of(choice["index"])
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    async def end(self) -> None:
        """All have ended: what is left to say."""
        if self._gone:
            return
        if self._sent:  # streams
            rest = b"" if self._last is None else b"data: " + orjson.dumps(self._last) + b"\n\n"
            rest += DONE
            if self._failed is not None:  # one that had begun has said so itself
                rest = b"" if self._failed.status == 200 else self._failed.event()
            await self._send({"type": "http.response.body", "body": rest})
            return
        if self._failed is not None:
            headers, body = self._failed.headers, b"".join(self._failed.body)
            await self._send({"type": "http.response.start", "status": self._failed.status, "headers": headers})
        else:
            body = joined([orjson.loads(b"".join(part.body)) for part in self.parts], self.parts[0].choices)
            headers = [header for header in self._headers() if header[0] != b"content-length"]
            headers.append((b"content-length", b"%d" % len(body)))
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self) -> Headers:
        return merged([part.headers for part in self.parts if part.status])


class _Part:
    """One prompt's side: the ASGI channels of its own request."""

    def __init__(self, together: Together, number: int, body: dict[str, Any]) -> None:
        self._together = together
        self._data: bytes | None = orjson.dumps(body)
        n = body.get("n")
        self.choices = n if type(n) is int and 0 < n <= MAX_CHOICES else 1
        self.first = number * self.choices
        self.status = 0
        self.headers: Headers = []
        self.body: list[bytes] = []
        self._streams = False

    def number_of(self, index: int) -> int:
        """Of a choice among those of all prompts; what an upstream counts beyond its own is its last."""
        return self.first + min(max(index, 0), self.choices - 1)

    def event(self) -> bytes:
        """Its whole answer, an error, as an event of the stream that the others are in."""
        return b"data: " + b"".join(self.body) + b"\n\n"

    async def receive(self) -> dict[str, Any]:
        if self._data is not None:
            data, self._data = self._data, None
            return {"type": "http.request", "body": data}
        await self._together.given_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
            self._streams = dict(self.headers).get(b"content-type", b"").startswith(b"text/event-stream")
            if self._streams:
                await self._together.started()
        elif self._streams:
            await self._together.events(self, message["body"])
        else:
            self.body.append(message["body"])
            if self.status != 200:
                self._together.failed(self)


async def _whole(receive: Any, limit: int) -> list[dict[str, Any]]:
    """The messages of a body, as far as it is read before its end, its limit or the caller's going away."""
    messages: list[dict[str, Any]] = []
    size = 0
    while True:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if messages[-1]["type"] != "http.request" or not messages[-1].get("more_body") or size > limit:
            return messages


def _replayed(messages: list[dict[str, Any]], receive: Any) -> Any:
    waiting = iter(messages)

    async def again() -> Any:
        return next(waiting, None) or await receive()

    return again


def _apart(data: bytes, limit: int) -> list[dict[str, Any]]:
    """The bodies of one prompt each; none where there are not several, or something else is wrong.

    Raises `InvalidRequest`, too, where all that the prompts share would be more than `limit` bytes.
    """
    if len(data) > limit or b'"prompt"' not in data:
        return []
    try:
        body = parse_object(data)
    except InvalidRequest:
        return []
    prompts = body.get("prompt")
    if not isinstance(prompts, list) or len(prompts) < 2:
        return []
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidRequest("prompt: expected a string or a list of strings, not tokens", param="prompt")
    if len(prompts) > PROMPTS_MOST:
        raise InvalidRequest(f"prompt: at most {PROMPTS_MOST} prompts, got {len(prompts)}", param="prompt")
    shared = len(data) - sum(map(len, prompts))
    if shared * len(prompts) > limit:
        raise InvalidRequest(
            f"prompt: {shared} bytes beside the prompts are too many for each of them", param="prompt"
        )
    return [{**body, "prompt": prompt} for prompt in prompts]


def joined(answers: list[dict[str, Any]], each: int) -> bytes:
    """The text completions of several prompts as one; `each` has so many choices."""
    choices = [
        {**choice, "index": number * each + (index if index in range(each) else min(at, each - 1))}
        for number, answer in enumerate(answers)
        for at, choice in enumerate(answer["choices"])
        for index in (choice["index"] if type(choice["index"]) is int else at,)
    ]
    models = dict.fromkeys(str(answer.get("model")) for answer in answers)
    one = {**answers[0], "choices": choices, "model": ", ".join(models)}
    if any("usage" in answer for answer in answers):
        one["usage"] = added([answer.get("usage") for answer in answers])
    if "pointsman" in one:
        one["pointsman"] = [answer.get("pointsman") for answer in answers]
    return orjson.dumps(one)


def added(usages: Sequence[Any]) -> dict[str, Any]:
    """The sums of the numbers in objects of one shape; what is no number is the first's."""
    total: dict[str, Any] = {}
    for usage in usages:
        for key, value in (usage if isinstance(usage, dict) else {}).items():
            known = total.get(key)
            if isinstance(value, dict):
                total[key] = added([known, value])
            elif _number(value) and _number(known):
                total[key] = known + value
            elif known is None:
                total[key] = value
    return total


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def merged(given: Sequence[Headers]) -> Headers:
    """One answer's headers of several: the first's, but for those that speak of all."""
    values: dict[bytes, list[bytes]] = {}
    for headers in given:
        for name, value in headers:
            values.setdefault(name, []).append(value)
    return [(name, _merged(name, found)) for name, found in values.items()]


def _merged(name: bytes, found: list[bytes]) -> bytes:
    if name in _SUMS:
        return b"%d" % sum(map(int, found))
    if name == _COST:
        return b"%d.%09d" % divmod(sum(round(float(one) * 1e9) for one in found), 10**9)
    if name in _MOST:
        return max(found, key=float)
    if name in _ALL:
        return b", ".join(dict.fromkeys(found))
    return found[0]
