"""A chat request as it comes in: checked, its wishes read, what it needs of an expert found out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from router.embedding import query_text
from router.errors import InvalidRequest, UnknownModel
from router.types import PREFERENCES, Context, Preference, Query, Wishes

IMAGE_TOKENS = 765  # a 1024 x 1024 image at high detail, by OpenAI's published rule
MESSAGE_TOKENS = 4  # what the chat format adds to each message
MAX_MESSAGES = 10_000
MAX_CHOICES = 128  # of one request, as OpenAI's own API
MAX_NAMES = 1_000  # in `only` and `exclude`
LARGE_BYTES = 256 * 1024  # of a body that is looked over before it is parsed
MAX_CONTAINERS, MAX_COMMAS = 400_000, 1_000_000  # each value of JSON takes tens of bytes once it is parsed
ROUTED = ("auto", *(f"auto:{preference}" for preference in PREFERENCES))
ROUTING_KEYS = (
    "preference",
    "quality_floor",
    "max_cost_usd",
    "max_latency_s",
    "only",
    "exclude",
    "policy",
    "session",
    "sticky",
    "explain",
    "fallback",
)
#: Never sent to an expert: what a local mixture of experts could take for the gates of its own layers. Nothing in a
#: request may choose among those; all other parameters that we do not know pass through.
GATES = frozenset(
    {
        "expert_bias",
        "expert_ids",
        "expert_mask",
        "gate_bias",
        "gate_logits",
        "gates",
        "gating",
        "moe",
        "moe_top_k",
        "num_experts_per_tok",
        "router_bias",
        "router_logits",
        "routed_experts",
    }
)
_PREFIX = b"x-pointsman-"
_HEADER_KEYS = {_PREFIX + key.replace("_", "-").encode(): key for key in ROUTING_KEYS}

_NUMBER = (int, float)
#: Parameters whose type is checked here, since not every expert checks it; all others pass through untouched.
_TYPES: dict[str, tuple[type, ...]] = {
    "frequency_penalty": _NUMBER,
    "max_completion_tokens": (int,),
    "max_tokens": (int,),
    "n": (int,),
    "presence_penalty": _NUMBER,
    "response_format": (dict,),
    "seed": (int,),
    "stream": (bool,),
    "stream_options": (dict,),
    "temperature": _NUMBER,
    "tools": (list,),
    "top_p": _NUMBER,
}
_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "a list",
    str: "a string",
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`body` is the caller's without `routing`; `expert` is None where the request is routed."""

    body: dict[str, Any]
    expert: str | None
    stream: bool
    include_usage: bool
    wishes: Wishes
    input_tokens: int
    max_output_tokens: int | None
    needs: frozenset[str]
    answers: int = 1  # `n`
    heard: str | None = None  # what the router chooses by, where a guard says so

    def query(self, tenant: str) -> Query:
        """As the router sees it; `tenant` is the name of the caller's key."""
        messages = self.body["messages"]
        return Query(
            text=query_text(messages) if self.heard is None else self.heard,
            input_tokens=self.input_tokens,
            max_output_tokens=self.max_output_tokens,
            answers=self.answers,
            needs=self.needs,
            context=Context(
                tools="tools" in self.needs,
                images="vision" in self.needs,
                turn=max(sum(message.get("role") == "user" for message in messages), 1),
                tenant=tenant,
            ),
        )


def parse_chat(data: bytes, headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
    """Raises `InvalidRequest` naming the field, or `UnknownModel` listing what there is."""
    return read_chat(parse_object(data), headers, experts)


def read_chat(body: dict[str, Any], headers: Sequence[tuple[bytes, bytes]], experts: Sequence[str]) -> ChatRequest:
    """As `parse_chat`, of a body that is parsed; takes `routing` out of it."""
    routing = body.pop("routing", None)
    for key in body.keys() & GATES:
        del body[key]
    _check_types(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: expected a list of at least one message", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"messages: at most {MAX_MESSAGES}, got {len(messages)}", param="messages")
    expert, preference = named_model(body, experts)
    wishes = _wishes(routing, headers, preference)
    tokens, needs = _weigh(messages)
    tools = body.get("tools") or body.get("functions")
    if tools:
        needs.add("tools")
        tokens += _weigh_tools(tools)
    response_format = body.get("response_format")
    if response_format and response_format.get("type") in ("json_object", "json_schema"):
        needs.add("json")
    options = body.get("stream_options")
    return ChatRequest(
        body=body,
        expert=expert,
        stream=body.get("stream") is True,
        include_usage=options is not None and options.get("include_usage") is True,
        wishes=wishes,
        input_tokens=tokens,
        max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        needs=frozenset(needs),
        answers=body.get("n") or 1,
    )


def check_values(*parts: bytes) -> None:
    """Raises `InvalidRequest` where JSON would take far more memory once it is parsed."""
    if sum(map(len, parts)) <= LARGE_BYTES:
        return
    containers = sum(part.count(b"[") + part.count(b"{") for part in parts)
    if containers > MAX_CONTAINERS or sum(part.count(b",") for part in parts) > MAX_COMMAS:
        raise InvalidRequest(
            f"the JSON holds too many values: at most {MAX_COMMAS} commas, {MAX_CONTAINERS} containers"
        )


def parse_object(data: bytes) -> dict[str, Any]:
    check_values(data)
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"the body must be a JSON object, got {_kind(body)}")
    return body


def named_model(body: dict[str, Any], experts: Sequence[str]) -> tuple[str | None, Preference | None]:
    """(expert, None) for an expert's own name, (None, preference) for a routed one."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(f"model: expected a model's name, got {_kind(model)}", param="model")
    if model == "auto":
        return None, None
    for preference in PREFERENCES:
        if model == f"auto:{preference}":
            return None, preference
    if model in experts:
        return model, None
    there = ", ".join((*ROUTED, *experts))
    raise UnknownModel(f"no model is called {model[:200]!r}; there are: {there}", param="model")


def _check_types(body: dict[str, Any]) -> None:
    for key in body.keys() & _TYPES.keys():
        value, types = body[key], _TYPES[key]
        if value is None:
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise InvalidRequest(f"{key}: expected {_NAMES[types[-1]]}, got {_kind(value)}", param=key)
    for key in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(key)
        if value is not None and value < 1:
            raise InvalidRequest(f"{key}: expected at least 1, got {value}", param=key)
    if (body.get("n") or 1) > MAX_CHOICES:
        raise InvalidRequest(f"n: at most {MAX_CHOICES} answers to one request, got {body['n']}", param="n")


def _weigh(messages: list[Any]) -> tuple[int, set[str]]:
    """(input tokens, needs) of the messages: four bytes a token, so within a third or so of any tokenizer."""
    size = 0
    tokens = MESSAGE_TOKENS * len(messages)
    needs: set[str] = set()
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{i}]: expected an object with a `role`, got {_kind(message)}", param=f"messages[{i}]"
            )
        content = message.get("content")
        if isinstance(content, str):
            size += len(content) if content.isascii() else len(content.encode())
        elif isinstance(content, list):
            for part in content:
                size_of_part, image = _weigh_part(part, i, needs)
                size += size_of_part
                tokens += IMAGE_TOKENS if image else 0
        elif content is not None:
            raise InvalidRequest(
                f"messages[{i}].content: expected a string or a list of parts, got {_kind(content)}",
                param=f"messages[{i}].content",
            )
    return tokens + size // 4, needs


def _weigh_tools(tools: Any) -> int:
    try:
        return len(orjson.dumps(tools)) // 4
    except orjson.JSONEncodeError:
        raise InvalidRequest("tools: nested too deeply", param="tools") from None


def _weigh_part(part: Any, i: int, needs: set[str]) -> tuple[int, bool]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest(
            f"messages[{i}].content: a part is an object with a `type`, got {_kind(part)}",
            param=f"messages[{i}].content",
        )
    if kind == "image_url":
        needs.add("vision")
        return 0, True
    if kind == "input_audio":
        needs.add("audio")
        return 0, False
    text = part.get("text")
    if not isinstance(text, str):
        return 0, False
    return len(text) if text.isascii() else len(text.encode()), False


def _wishes(routing: Any, headers: Sequence[tuple[bytes, bytes]], preference: Preference | None) -> Wishes:
    """The wishes of the headers, of the body's `routing` (which wins), and of the model's suffix (wins both)."""
    given: dict[str, Any] = {}
    for name, value in headers:
        if name.startswith(_PREFIX):
            if name not in _HEADER_KEYS:
                known = ", ".join(sorted(key.decode() for key in _HEADER_KEYS))
                raise InvalidRequest(f"unknown header {name.decode('latin-1')!r}; there are: {known}")
            given[_HEADER_KEYS[name]] = _from_header(_HEADER_KEYS[name], value.decode("latin-1").strip())
    if routing is not None:
        if not isinstance(routing, dict):
            raise InvalidRequest(f"routing: expected an object, got {_kind(routing)}", param="routing")
        given |= {key: value for key, value in routing.items() if value is not None}
    if preference is not None:
        given["preference"] = preference
    return _check_wishes(given) if given else _NO_WISHES


_NO_WISHES = Wishes()


def _from_header(key: str, text: str) -> Any:
    if key in ("only", "exclude"):
        return [name.strip() for name in text.split(",") if name.strip()]
    if key in ("explain", "fallback", "sticky"):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if key in ("quality_floor", "max_cost_usd", "max_latency_s"):
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _check_wishes(given: dict[str, Any]) -> Wishes:
    clean: dict[str, Any] = {}
    for key, value in given.items():
        if key not in ROUTING_KEYS:
            raise InvalidRequest(
                f"routing.{key[:100]}: unknown key; there are: {', '.join(ROUTING_KEYS)}",
                param=f"routing.{key[:100]}",
            )
        clean[key] = _check_wish(key, value)
    return Wishes(**clean)


def _check_wish(key: str, value: Any) -> Any:
    def wrong(expected: str) -> InvalidRequest:
        shown = repr(value)[:100] if isinstance(value, str | int | float) else _kind(value)
        return InvalidRequest(f"routing.{key}: expected {expected}, got {shown}", param=f"routing.{key}")

    if key == "preference":
        if value not in PREFERENCES:
            raise wrong(f"one of {', '.join(PREFERENCES)}")
    elif key in ("only", "exclude"):
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise wrong("a list of experts' names")
        if len(value) > MAX_NAMES:
            raise wrong(f"at most {MAX_NAMES} names")
        if key == "only" and not value:
            raise wrong("at least one expert's name")
        return frozenset(value)
    elif key in ("explain", "fallback", "sticky"):
        if not isinstance(value, bool):
            raise wrong("a boolean")
    elif key in ("policy", "session"):
        if not isinstance(value, str) or not 0 < len(value) <= 256:
            raise wrong("a string of 1 to 256 characters")
    else:
        top = 1.0 if key == "quality_floor" else float("inf")
        if not isinstance(value, _NUMBER) or isinstance(value, bool) or not 0 <= value <= top:
            raise wrong("a number from 0 to 1" if key == "quality_floor" else "a number of at least 0")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else _NAMES.get(type(value), type(value).__name__)
