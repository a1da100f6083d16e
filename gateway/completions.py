"""`POST /v1/completions`, OpenAI's legacy text completions in front of chat (see `gateway.translation`).

A prompt becomes one user message; texts come back out of the chat's answer or stream. For several prompts see
`gateway.prompts`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.chat_request import ChatRequest, parse_object, read_chat
from gateway.translation import Translation
from router.errors import InvalidRequest

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


class Completions(Translation):
    surface = "completions"

    def parse(self, data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
        return read_chat(chat_body(parse_object(data)), headers, experts)

    async def whole(self, status: int, body: bytes) -> bytes:
        return text_completion(body) if status == 200 else body

    async def events(self, events: bytes) -> bytes:
        return text_events(events)


def chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request of a text completion's. Raises `InvalidRequest` naming what cannot be honoured."""
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
                f"prompt: expected a string or a list of strings, got a list of {len(prompt)}", param="prompt"
            )
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt: expected a string or a list of one string, not tokens", param="prompt")
    return body | {"messages": [{"role": "user", "content": prompt}]}


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
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return event + _BLANK  # damaged on its way here: chat passes it on too
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
