"""The OpenAPI description: what FastAPI cannot see. The hot path is no route of its, and bodies are read by hand.

Every operation says which key it wants and which errors it may answer; `make test-fuzz` holds the gateway to it.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from gateway.admin import AUDIT_COUNT_MOST
from gateway.chat_request import MAX_CHOICES, MAX_MESSAGES, ROUTING_KEYS
from gateway.embeddings import MAX_INPUTS
from gateway.prompts import PROMPTS_MOST
from gateway.rerank import MAX_DOCUMENTS
from router.types import PREFERENCES

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": ["integer", "null"], "minimum": 1}
_AT_LEAST_1: Schema = {"type": "integer", "minimum": 1}
_NUMBER: Schema = {"type": ["number", "null"]}
_FLAG: Schema = {"type": ["boolean", "null"]}
_NAMES: Schema = {"type": ["array", "null"], "items": _STRING, "maxItems": 1000}
_OBJECTS: Schema = {"type": ["array", "null"], "items": {"type": "object"}}

ROUTING: Schema = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "preference": {"enum": [*PREFERENCES, None]},
        "quality_floor": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_cost_usd": {"type": ["number", "null"], "minimum": 0},
        "max_latency_s": {"type": ["number", "null"], "minimum": 0},
        "only": {**_NAMES, "minItems": 1},
        "exclude": _NAMES,
        "policy": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
        "session": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
        "sticky": _FLAG,
        "explain": _FLAG,
        "fallback": _FLAG,
    },
}
assert set(ROUTING["properties"]) == set(ROUTING_KEYS)

_PART: Schema = {"type": "object", "required": ["type"], "properties": {"type": _STRING, "text": _STRING}}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "examples": ["user", "system", "assistant", "tool"]},
        "content": {"anyOf": [_STRING, {"type": "array", "items": _PART}, {"type": "null"}]},
    },
}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


_MODEL: Schema = {"type": "string", "minLength": 1, "examples": ["auto", "auto:cheap"]}
_ASKED = {"model": _MODEL, "stream": _FLAG, "temperature": _NUMBER, "top_p": _NUMBER, "routing": ROUTING}
_MESSAGES: Schema = {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES, "items": _MESSAGE}
_CHAT = _object(
    ["model", "messages"],
    **_ASKED,
    messages=_MESSAGES,
    max_tokens=_COUNT,
    max_completion_tokens=_COUNT,
    n={**_COUNT, "maximum": MAX_CHOICES},
    seed={"type": ["integer", "null"]},
    stop={"anyOf": [_STRING, {"type": "array", "items": _STRING}, {"type": "null"}]},
    stream_options={"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
    response_format={"type": ["object", "null"], "properties": {"type": _STRING}},
    tools=_OBJECTS,
)
_SAYS: Schema = {"enum": ["user", "assistant", "system"]}
_BLOCK: Schema = {
    "anyOf": [
        _object(["type", "text"], type={"const": "text"}, text=_STRING),
        _object(["type"], type={"enum": ["image", "tool_use", "tool_result", "thinking", "redacted_thinking"]}),
    ]
}
_BLOCKS: Schema = {"anyOf": [_STRING, {"type": "array", "minItems": 1, "items": _BLOCK}]}
_ANTHROPIC = {
    **_ASKED,
    "messages": {**_MESSAGES, "items": _object(["role", "content"], role=_SAYS, content=_BLOCKS)},
    "system": _BLOCKS,
    "stop_sequences": {"type": "array", "items": _STRING},
    "tools": {"type": "array", "items": _object(["name"], name=_TEXT, input_schema={"type": "object"})},
    "thinking": {"type": "object"},
}
_TEXTS = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": _TEXT}
_TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer"}}

#: The bodies of the paths that are asked by POST.
BODIES: dict[str, Schema] = {
    "/v1/chat/completions": _CHAT,
    "/v1/route": _CHAT,
    "/v1/messages": _object(["model", "messages", "max_tokens"], **_ANTHROPIC, max_tokens=_AT_LEAST_1),
    "/v1/messages/count_tokens": _object(["model", "messages"], **_ANTHROPIC),
    "/v1/completions": _object(
        ["model", "prompt"],
        **_ASKED,
        prompt={"anyOf": [_STRING, {"type": "array", "minItems": 1, "maxItems": PROMPTS_MOST, "items": _STRING}]},
        max_tokens=_COUNT,
        n={**_COUNT, "maximum": MAX_CHOICES},
    ),
    "/v1/responses": _object(
        ["model"],
        **_ASKED,
        input={"anyOf": [_STRING, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        instructions={"type": ["string", "null"]},
        max_output_tokens=_COUNT,
        previous_response_id={"type": ["string", "null"]},
        store=_FLAG,
        tools=_OBJECTS,
        metadata={"type": ["object", "null"], "additionalProperties": _STRING},
    ),
    "/v1/embeddings": _object(
        ["model", "input"],
        model=_MODEL,
        input={"anyOf": [_TEXT, _TEXTS, _TOKENS, {"type": "array", "minItems": 1, "items": _TOKENS}]},
        encoding_format={"enum": ["float", "base64", None]},
        dimensions=_COUNT,
    ),
    "/v1/rerank": _object(
        ["query", "documents"],
        model=_MODEL,
        query=_TEXT,
        documents={
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_DOCUMENTS,
            "items": {"anyOf": [_TEXT, _object(["text"], text=_TEXT)]},
        },
        top_n=_COUNT,
        return_documents=_FLAG,
    ),
}  # fmt: skip
#: Parameters that are read by hand, by method and path.
_QUERY: dict[tuple[str, str], dict[str, Schema]] = {
    ("get", "/admin/api/keys"): {"team": _TEXT},
    ("get", "/admin/api/audit"): {
        "limit": {"type": "integer", "minimum": 1, "maximum": AUDIT_COUNT_MOST},
        "before": {"type": "string", "pattern": r"^\d{1,15}-\d{1,10}$", "examples": ["1700000000000-0"]},
    },
}
_REQUEST_ID: Schema = {"type": "string", "description": "1 to 128 letters, digits and . _ -; else one is made"}
#: Headers beside the body of what is routed as a chat is; wishes are in `routing` as well.
_HEADERS: dict[str, Schema] = {
    "cache-control": {"type": "string", "examples": ["no-cache", "no-store", "max-age=60"]},
    "x-pointsman-preference": {"enum": [*PREFERENCES]},
    "x-pointsman-quality-floor": {"type": "number", "minimum": 0, "maximum": 1},
    "x-pointsman-max-cost-usd": {"type": "number", "minimum": 0},
    "x-pointsman-max-latency-s": {"type": "number", "minimum": 0},
    "x-pointsman-only": {**_TEXT, "description": "names with commas between them"},
    "x-pointsman-exclude": {"type": "string", "description": "names with commas between them"},
    "x-pointsman-policy": _TEXT,
    "x-pointsman-session": {"type": "string", "minLength": 1, "maxLength": 256},
    **{f"x-pointsman-{flag}": {"enum": ["true", "false"]} for flag in ("sticky", "explain", "fallback")},
}
#: Paths in front of FastAPI's own: what they do, and what a whole answer always has.
_HOT: dict[str, tuple[str, list[str]]] = {
    "/v1/chat/completions": ("Chat completion, routed or by an expert's name; streaming and not", ["choices"]),
    "/v1/messages": ("Anthropic's Messages API in front of the same experts; streaming and not", ["content"]),
    "/v1/completions": ("Legacy text completion, each prompt asked as a chat; streaming and not", ["choices"]),
    "/v1/responses": ("OpenAI's Responses API in front of the same experts; streaming and not", ["output"]),
}
#: What an expert is asked for: its own server's refusals pass through.
_CALLS = (*_HOT, "/v1/embeddings", "/v1/rerank")
_OPEN = ("/healthz", "/readyz", "/metrics")
_SAID = {
    "400": "wrong in itself, or refused by a guard",
    "401": "no key, or an unknown one",
    "403": "not for this key",
    "404": "there is no such thing",
    "408": "the body did not arrive in time",
    "409": "it cannot be done as things are",
    "413": "the body is too large",
    "422": "no expert can take it within the wishes",
    "429": "over a limit or a budget, of ours or the expert's",
    "4XX": "the expert's own server refuses the request",
    "500": "the gateway failed",
    "502": "the expert failed",
    "503": "no expert, Redis, or the gateway itself is ready; or another instance is",
    "504": "the expert was too slow",
}


def described(build: Callable[[], Schema]) -> Schema:
    """FastAPI's description, completed."""
    schema = deepcopy(build())  # which FastAPI keeps
    parts = schema.setdefault("components", {})
    text = {"type": ["string", "null"]}
    error = _object(["message", "type"], message=_STRING, type=_STRING, param=text, code={})
    parts.setdefault("schemas", {}).update(
        Error=_object(["error"], error=error),
        AnthropicError=_object(["type", "error"], type={"const": "error"}, error=_object(["type", "message"])),
    )
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "or the same as `x-api-key`"},
        "admin": {"type": "http", "scheme": "bearer", "description": "an admin credential"},
    }
    paths = schema["paths"]
    for path, (summary, required) in _HOT.items():
        whole = {"type": "object", "required": required}
        paths.setdefault(path, {})["post"] = {
            "summary": summary,
            "operationId": path.removeprefix("/v1/").replace("/", "_"),
            "responses": {
                "200": {
                    "description": "the whole answer, or its events where `stream` is true",
                    "content": {
                        "application/json": {"schema": whole},
                        "text/event-stream": {"schema": {"type": "object", "description": "one event"}},
                    },
                }
            },
        }
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method == "post" and path in BODIES:
                content = {"application/json": {"schema": BODIES[path]}}
                operation["requestBody"] = {"required": True, "content": content}
            _parameters(method, path, operation)
            _complete(path, operation)
    _plain(paths)
    return schema


def _parameters(method: str, path: str, operation: Schema) -> None:
    found = [("query", name, schema) for name, schema in _QUERY.get((method, path), {}).items()]
    if path not in _OPEN:
        found.append(("header", "x-request-id", _REQUEST_ID))
    if method == "post" and path in (*_HOT, "/v1/route", "/v1/messages/count_tokens"):
        found += [("header", name, schema) for name, schema in _HEADERS.items()]
    if found:
        own = [{"in": place, "name": name, "required": False, "schema": schema} for place, name, schema in found]
        operation["parameters"] = [*operation.get("parameters", []), *own]


def _complete(path: str, operation: Schema) -> None:
    """The operation with its key and its errors."""
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own: our parameters are texts, and read by us
    if path in _OPEN:
        return
    admin = path.startswith("/admin/")
    operation["security"] = [{"admin" if admin else "key": []}]
    statuses = ["400", "401", "500", "503"]
    if "requestBody" in operation:
        statuses += ["408", "413"]
    if admin:
        statuses += ["404", "409", "413"]
    elif path in _CALLS:
        statuses += ["403", "404", "422", "429", "4XX", "502", "504"]
    elif path == "/v1/route":
        statuses += ["403", "404", "422"]
    elif "{" in path or path in ("/v1/feedback", "/v1/messages/count_tokens"):
        statuses += ["404"]
    kind = "AnthropicError" if path.startswith("/v1/messages") else "Error"
    for status in sorted(set(statuses)):
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind}"}}}
        responses.setdefault(status, {"description": _SAID[status], "content": content})


def _plain(paths: Schema) -> None:
    """The open paths, of which one is text and one may say no."""
    metrics, ready = (paths[path]["get"]["responses"] for path in ("/metrics", "/readyz"))
    metrics["200"]["content"] = {"text/plain": {"schema": _STRING}}
    ready["503"] = {"description": "not ready, or stopping", "content": ready["200"]["content"]}
