"""Server-sent events of chat completions: what an upstream sends, turned into what our contract promises.

The first event decides the way. A well-formed upstream's bytes pass through: a few searches and at most two
replacements per read, no object per chunk. JSON escapes the quotes and line ends of any text, so an unescaped
`"model":"x"` in the bytes is a field and never an answer's content. Anything else is rewritten event by event:
every read of an upstream that needs mending, and of one that does not the odd read in which an event does not begin
as the first one did. So the JSON of an event that begins and ends rightly is not looked at; damage there passes.
"""

import re
import time
from typing import Any, Literal

import orjson

from router.experts.base import Call
from router.experts.usage import believed, usage_body
from router.types import ExpertSpec, Price, Usage

MAX_EVENT_BYTES = 16 * 1024 * 1024
DONE = b"data: [DONE]\n\n"
HELD_BYTES = 65_536  # of a stream without content; one that goes on is passed as it is
PROBATION_EVENTS = 4  # where an event does not begin with its id, so many are looked at for it
_WORD = re.compile(rb'"(?:content|reasoning_content|reasoning|arguments)"\s*:\s*"[^"]')
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')


class StreamError(Exception):
    """The upstream's stream is not what the API promises; `body` is the error it sent, if it sent one."""

    def __init__(
        self, message: str, body: dict[str, Any] | None = None, kind: Literal["garbage", "cut"] = "garbage"
    ) -> None:
        super().__init__(message)
        self.body = body
        self.kind = kind


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def has_content(events: bytes) -> bool:
    """Whether events that are ours hold a word of an answer: more than the roles that begin it, or its end."""
    if _WORD.search(events):  # nearly always; inside a text its quotes would be escaped
        return True
    for block in events.split(b"\n\n"):
        if block == b"data: [DONE]":
            return True
        choices = orjson.loads(block[6:]).get("choices") if block.startswith(b"data: {") else None
        for choice in choices or ():
            said = choice.get("delta") or {}
            if choice.get("finish_reason") or any(said[name] for name in said if name != "role"):
                return True
    return False


def usage_event(chunk: dict[str, Any], usage: Usage, price: Price, took_s: float, reported: Any = None) -> bytes:
    """The last chunk of a stream whose caller asked for usage; `cost_usd` is what it cost until `took_s`.

    `reported` is what the upstream wrote: what OpenAI's API has of it and ours does not is taken from there.
    """
    told = usage_body(usage, reported) | {"cost_usd": price.cost_usd(usage, took_s)}
    return event({**chunk, "choices": [], "usage": told})


class Rewriter:
    """Feeds on an upstream's bytes and gives whole events. One per stream.

    `spec` is the expert's, whose name the caller sees as the model. When the upstream breaks its promise, `failure`
    says how: the events before it are still given, and nothing after it is read.
    """

    def __init__(self, spec: ExpertSpec, call: Call, began: float | None = None) -> None:
        """`began`: when the upstream was asked, on the clock of `time.perf_counter`; None: now."""
        self._spec = spec
        self._model = spec.name
        self._call = call
        self._began = time.perf_counter() if began is None else began
        self._asked = call.include_usage
        self.failure: StreamError | None = None
        self._reported: Usage | None = None
        self._usage_fields: dict[str, Any] | None = None  # as the upstream wrote them
        self._usage_sent = False
        self._doubted = False  # what the upstream says of its usage
        self._events = 0
        self._tail = b""
        self._head: dict[str, Any] | None = None  # id, object, created, model of the first event
        self._fast = False
        self._crlf = False
        self._old_model = self._new_model = self._id = b""
        self._begins = self._between = b""  # how every event begins, and what stands between two
        self._probation = 0
        self._no_usage = self._has_usage = self._reason = b""
        self._finished = False
        self._role_sent: set[int] = set()
        self.done = False

    @property
    def usage(self) -> Usage:
        """What the upstream reported; until then one token per event, marked as estimated."""
        if self._reported is not None:
            return self._reported
        return Usage(self._call.input_tokens, max(self._events - 1, 0), estimated=True)

    def feed(self, data: bytes) -> bytes:
        """The whole events in `data` and in what was left before, ready to send."""
        if self._tail:
            data = self._tail + data
        if not self._fast and b"\r\n" in data:
            self._crlf = True
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            self._tail = data
            if len(data) > MAX_EVENT_BYTES:
                self.failure = StreamError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
            return b""
        self._tail = data[end:]
        return self._events_in(data[:end] if self._tail else data)

    def close(self) -> bytes:
        """What is owed at the upstream's end; an end that came too early is a `failure`."""
        out = b""
        if _is_whole(self._tail):
            out = self._events_in(self._tail.rstrip() + b"\n\n")
        self._tail = b""
        if self.done or self.failure is not None:
            return out
        if not self._finished:
            self.failure = StreamError("the stream ended before its last chunk", kind="cut")
            return out
        self.done = True
        return out + self._owed_usage() + DONE

    def _events_in(self, data: bytes) -> bytes:
        if self._fast:
            return self._pass(data)
        if self._head is not None:
            return self._each(data)
        try:
            return self._start(data)
        except StreamError as error:
            self.failure = error
            return b""

    def _start(self, data: bytes) -> bytes:
        for block in data.split(b"\n\n"):
            chunk = _payload(block)
            if chunk is not None:
                break
        else:
            return b""  # comments only
        if chunk == b"[DONE]":
            raise StreamError("the stream ended before its first chunk", kind="cut")
        first = _parse(chunk)
        known = isinstance(first.get("id"), str) and first["id"]
        self._head = {
            "id": first["id"] if known else f"chatcmpl-{self._call.request_id}",
            "object": "chat.completion.chunk",
            "created": first.get("created") or int(time.time()),
            "model": self._model,
        }
        match = _MODEL.search(chunk)
        if match is None or self._crlf or not data.startswith(b"data: {") or not _conforms(first, self._asked):
            return self._each(data)
        space = b" " if b'": ' in chunk[:40] else b""
        self._fast = True
        self._role_sent = {choice.get("index", 0) for choice in first["choices"]}
        self._old_model = match.group()
        self._new_model = b'"model":' + space + orjson.dumps(self._model)
        self._id = b'"id":' + space + orjson.dumps(first["id"])
        begins = chunk.startswith(b"{" + self._id)
        self._begins = b"data: {" + (self._id if begins else b"")
        self._between = b"}\n\n" + self._begins
        self._probation = 0 if begins else PROBATION_EVENTS
        self._no_usage = b"," + space + b'"usage":' + space + b"null"
        self._has_usage = b'"usage":' + space + b"{"
        self._reason = b'"finish_reason":' + space + b'"'
        return self._pass(data)

    def _pass(self, data: bytes) -> bytes:
        events = data.count(b"\n\n")
        if (
            self._has_usage in data
            or b'"error"' in data
            or not (data.startswith(self._begins) and data.endswith(b"}\n\n"))
            or (events > 1 and data.count(self._between) != events - 1)
        ):
            return self._mixed(data)
        if self._events < self._probation and data.count(self._id) < events:
            self._fast = False  # an id of its own on every event: each must be given the first one's
            return self._each(data)
        self._events += events
        if not self._finished:
            self._finished = self._reason in data
        return self._dress(data)

    def _mixed(self, data: bytes) -> bytes:
        """A read with odd events: what comes before the first of them still passes as it is."""
        odd = [at for mark in (self._has_usage, b'"error":', b"data: [DONE]") if (at := data.find(mark)) >= 0]
        cut = data.rfind(b"\n\n", 0, min(odd, default=0)) + 2
        if cut < 2:
            return self._each(data)
        out = self._pass(data[:cut])
        return out if self.failure is not None else out + self._each(data[cut:])

    def _dress(self, data: bytes) -> bytes:
        if self._old_model != self._new_model:
            data = data.replace(self._old_model, self._new_model)
        if not self._asked:
            data = data.replace(self._no_usage, b"")
        return data

    def _each(self, data: bytes) -> bytes:
        out = []
        try:
            for block in data.split(b"\n\n"):
                payload = _payload(block)
                if payload is None:
                    continue
                if payload == b"[DONE]":
                    out.append(self._owed_usage() + DONE)
                    self.done = self._finished = True
                    break
                out.append(self._one(payload))
        except StreamError as error:
            self.failure = error
        except orjson.JSONEncodeError:
            self.failure = StreamError("a chunk is nested too deeply")
        return b"".join(out)

    def _one(self, payload: bytes) -> bytes:
        plain = self._fast and payload.startswith(self._begins[6:]) and payload.endswith(b"}")
        if plain and self._has_usage not in payload and b'"error"' not in payload:
            self._events += 1
            self._finished = self._finished or self._reason in payload
            return self._dress(b"data: " + payload + b"\n\n")
        chunk = _parse(payload)
        usage = believed(chunk, self._call, self._spec, quiet=self._doubted)
        fields = chunk.pop("usage", None)
        self._doubted = self._doubted or (bool(fields) and usage is None)
        if usage is not None:
            self._reported, self._usage_fields = usage, fields
        if fields and not chunk.get("choices"):
            return self._usage_event(chunk)
        self._events += 1  # usage on a chunk of the answer: the caller gets it in a chunk of its own at the end
        return event(self._mend(chunk))

    def _owed_usage(self) -> bytes:
        return self._usage_event({})

    def _usage_event(self, chunk: dict[str, Any]) -> bytes:
        if not self._asked or self._usage_sent or self._head is None:
            return b""
        self._usage_sent = True
        took_s = time.perf_counter() - self._began
        return usage_event({**chunk, **self._head}, self.usage, self._spec.price, took_s, self._usage_fields)

    def _mend(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """One chunk made to keep the contract: constant id, role first, finish reason explicit."""
        assert self._head is not None
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise StreamError("a chunk has no choices")
        mended = []
        for choice in choices:
            if not isinstance(choice, dict):
                raise StreamError("a chunk's choice is no object")
            delta = choice.get("delta")
            delta = dict(delta) if isinstance(delta, dict) else {}
            index = choice.get("index", 0)
            if not isinstance(index, int):
                raise StreamError("a choice's index is no number")
            if index not in self._role_sent and not self._fast:
                self._role_sent.add(index)
                delta = {"role": "assistant"} | {k: v for k, v in delta.items() if k != "role" or v}
            reason = choice.get("finish_reason")
            self._finished = self._finished or reason is not None
            mended.append({"index": 0, **choice, "delta": delta, "finish_reason": reason})
        out = {**chunk, **self._head, "choices": mended}
        if self._asked:
            out["usage"] = None
        else:
            out.pop("usage", None)
        return out


def _payload(block: bytes) -> bytes | None:
    """What an event's `data:` lines hold; None for comments and empty blocks."""
    lines = [line[5:].lstrip() for line in block.split(b"\n") if line.startswith(b"data:")]
    if not lines:
        return None
    return lines[0].rstrip() if len(lines) == 1 else b"\n".join(lines)


def _is_whole(event: bytes) -> bool:
    """Whether the bytes after the last empty line are an event that only lacks its own."""
    payload = _payload(event)
    if payload is None or payload == b"[DONE]":
        return payload is not None
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise StreamError("a chunk is not JSON") from None
    if not isinstance(chunk, dict):
        raise StreamError("a chunk is no JSON object")
    error = chunk.get("error")
    if error:
        raise StreamError("the upstream sent an error in the stream", error if isinstance(error, dict) else {})
    return chunk


def _conforms(first: dict[str, Any], asked: bool) -> bool:
    """Whether the first event shows an upstream whose bytes may pass as they are, its usage `asked` for or not."""
    choices = first.get("choices")
    if not (isinstance(choices, list) and choices and isinstance(first.get("id"), str) and first["id"]):
        return False
    if (
        first.get("object") != "chat.completion.chunk"
        or not first.get("created")
        or (asked and "usage" not in first)
    ):
        return False
    return all(
        isinstance(choice, dict)
        and type(choice.get("index", 0)) is int
        and "finish_reason" in choice
        and isinstance(choice.get("delta"), dict)
        and choice["delta"].get("role")
        for choice in choices
    )
