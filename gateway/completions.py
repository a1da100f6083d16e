"""`POST /v1/completions`, OpenAI's legacy text completions: in front of the chat surface, which does all the rest.

A prompt becomes one user message; texts come back out of the chat's answer or stream.
"""

from typing import Any

import orjson

from gateway.chat import Chat
from gateway.chat_request import parse_object
from gateway.service import Service
from gateway.wire import read_body
from router.errors import InvalidRequest

SURFACE = "completions"
#: What no chat request can express; each may be absent or one of these values.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None,),
    "suffix": (None, ""),
}
_CHATS_OWN = ("messages", "tools", "tool_choice", "functions", "function_call", "response_format")
_BLANK = b"\n\n"
_DATA = b"data: "


class Completions:
    """The ASGI application of the surface. Routing, keys, failover, metering and cancelling are `Chat`'s."""

    def __init__(self, service: Service) -> None:
        self._chat = Chat(service, surface=SURFACE)
        self._limit = service.settings.limits.body_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        read = False
        start: Any = None  # the head of a whole answer, which waits for the translated body's length

        async def receive_chat() -> Any:
            nonlocal read
            if read:
                return await receive()
            read = True
            data = await read_body(scope["headers"], receive, self._limit)
            return {"type": "http.request", "body": chat_body(data), "more_body": False}

        async def send_text(message: Any) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if message["status"] == 200 and _is_whole(message["headers"]):
                    start = message
                    return
                await send(message)
                streaming_ok.append(message["status"] == 200)
            elif start is not None:
                body = text_completion(message["body"])
                headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
                headers.append((b"content-length", b"%d" % len(body)))
                await send({**start, "headers": headers})
                await send({**message, "body": body})
            elif streaming_ok[0] and message["body"]:
                if events := text_events(message["body"]):
                    await send({**message, "body": events})
                elif not message.get("more_body"):
                    await send({**message, "body": b""})
            else:
                await send(message)

        streaming_ok: list[bool] = []
        await self._chat(scope, receive_chat, send_text)


def _is_whole(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-length" for name, _ in headers)


def chat_body(data: bytes) -> bytes:
    """The chat request of a text completion's. Raises `InvalidRequest` naming what cannot be honoured."""
    body = parse_object(data)
    for key, fine in _REFUSED.items():
        value = body.pop(key, None)
        if not any(type(value) is type(one) and value == one for one in fine):
            raise InvalidRequest(
                f"{key}: experts are asked by chat, which cannot honour it; leave it out", param=key
            )
    for key in _CHATS_OWN:
        if body.pop(key, None) is not None:
            raise InvalidRequest(f"{key}: belongs to /v1/chat/completions", param=key)
    prompt = body.pop("prompt", None)
    if isinstance(prompt, list):
        if len(prompt) != 1:
            raise InvalidRequest(
                f"prompt: expected one prompt a request, got a list of {len(prompt)}; send the others on their own",
                param="prompt",
            )
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt: expected a string or a list of one string, not tokens", param="prompt")
    body["messages"] = [{"role": "user", "content": prompt}]
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        raise InvalidRequest("the body is nested too deeply") from None


def text_completion(data: bytes) -> bytes:
    """A chat completion as a text completion; fields beside the choices survive."""
    answer = orjson.loads(data)
    answer["object"] = "text_completion"
    answer["choices"] = [_choice(choice, "message") for choice in answer["choices"]]
    return orjson.dumps(answer)


def text_events(events: bytes) -> bytes:
    """A chat stream's events as those of a text stream; without the chunks that say nothing, such as the role's."""
    return b"".join(_event(event) for event in events.split(_BLANK) if event)


def _event(event: bytes) -> bytes:
    data = event.removeprefix(_DATA)
    if not data.startswith(b"{"):
        return event + _BLANK
    chunk = orjson.loads(data)
    if "error" in chunk:
        return event + _BLANK
    sent = chunk.get("choices") or []
    choices = [_choice(choice, "delta") for choice in sent]
    choices = [choice for choice in choices if choice["text"] or choice["finish_reason"]]
    if sent and not choices and not chunk.get("usage"):
        return b""
    return _DATA + orjson.dumps({**chunk, "object": "text_completion", "choices": choices}) + _BLANK


def _choice(choice: dict[str, Any], key: str) -> dict[str, Any]:
    content = (choice.get(key) or {}).get("content")
    return {
        "text": content if isinstance(content, str) else "",
        "index": choice.get("index", 0),
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
