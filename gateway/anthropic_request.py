"""A request of Anthropic's Messages API as a chat-completions request. Knows nothing of experts, routing or HTTP.

What has no counterpart there is either without consequence for the answer (`LEFT_OUT`, `cache_control`, thoughts of
earlier turns: not sent on) or refused by name (`REFUSED`, server tools, documents). Whatever the Messages API does
not know passes through untouched, `routing` among it.
"""

from typing import Any

from gateway.fields import need_json, need_list, need_object, need_string, wrong
from router.errors import InvalidRequest

#: Parameters that mean the same in both APIs, or that some OpenAI-compatible servers take by this name.
_AS_THEY_ARE = ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
#: What asks for features of Anthropic's own servers.
REFUSED = ("container", "mcp_servers")
#: What concerns Anthropic's own servers and changes no answer; and `thinking`, which only says what is shown.
LEFT_OUT = (
    "betas",
    "cache_control",
    "context_management",
    "diagnostics",
    "inference_geo",
    "service_tier",
    "speed",
    "thinking",
    "user_profile_id",
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_THOUGHTS = ("thinking", "redacted_thinking")  # signed for the model that thought them
_ROLES = ("user", "assistant", "system")


def chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """The chat-completions body that asks for the same. Raises `InvalidRequest` naming the field.

    Usage is always asked for, since every stream of messages reports it.
    """
    for key in REFUSED:
        if body.get(key):
            raise InvalidRequest(f"{key}: not supported here; leave it out", param=key)
    if body.get("max_tokens") is None:
        raise InvalidRequest("max_tokens: expected an integer of at least 1, got nothing", param="max_tokens")
    rest = dict(body)
    chat = {key: rest.pop(key) for key in _AS_THEY_ARE if key in rest}
    chat["messages"] = _messages(rest.pop("system", None), rest.pop("messages", None))
    if tools := rest.pop("tools", None):
        chat["tools"] = [_tool(tool, i) for i, tool in enumerate(need_list(tools, "tools"))]
    if (choice := rest.pop("tool_choice", None)) is not None:
        chat.update(_tool_choice(choice))
    if (stops := rest.pop("stop_sequences", None)) is not None:
        if not all(isinstance(stop, str) for stop in need_list(stops, "stop_sequences")):
            raise InvalidRequest("stop_sequences: expected a list of strings", param="stop_sequences")
        if stops:
            chat["stop"] = stops
    if (metadata := rest.pop("metadata", None)) is not None and need_object(metadata, "metadata").get("user_id"):
        chat["user"] = metadata["user_id"]
    if (config := rest.pop("output_config", None)) is not None:
        chat.update(_output_format(need_object(config, "output_config").get("format")))
    for key in (*LEFT_OUT, *REFUSED):
        rest.pop(key, None)
    if chat.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return rest | chat


def _messages(system: Any, messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: expected a list of at least one message", param="messages")
    out: list[dict[str, Any]] = []
    if system:
        out.append({"role": "system", "content": _text_of(system, "system", between="\n\n")})
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = need_object(message, where).get("role")
        if role not in _ROLES:
            raise wrong(f"{where}.role", f"one of {', '.join(_ROLES)}", role)
        content = message.get("content")
        if not isinstance(content, str | list):
            raise wrong(f"{where}.content", "a string or a list of blocks", content)
        if isinstance(content, str):
            out.append({"role": role, "content": content})
        elif role == "user":
            out.extend(_user(content, where))
        elif role == "assistant":
            out.append(_assistant(content, where))
        else:
            out.append({"role": role, "content": _text_of(content, f"{where}.content", between="\n\n")})
    return out


def _user(blocks: list[Any], where: str) -> list[dict[str, Any]]:
    """Results of tools first, each a message of its own, as chat completions want them; then what else is said.

    Chat completions have no images in a tool's message: they move to the user's.
    """
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        at = f"{where}.content[{j}]"
        kind = need_object(block, at).get("type")
        if kind == "tool_result":
            message, images = _tool_result(block, at)
            results.append(message)
            parts.extend(images)
        else:
            parts.append(_part(block, kind, at, "text, image, tool_result"))
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}] if parts or not results else results


def _tool_result(block: dict[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the tool's message, its images)"""
    content = block.get("content")
    texts: list[str] = []
    images: list[dict[str, Any]] = []
    if isinstance(content, str):
        texts.append(content)
    elif content is not None:
        for k, inner in enumerate(need_list(content, f"{where}.content")):
            at = f"{where}.content[{k}]"
            part = _part(inner, need_object(inner, at).get("type"), at, "text, image")
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(part)
    text = "\n".join(texts)
    if block.get("is_error") is True:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": need_string(block, "tool_use_id", where), "content": text}, images


def _part(block: dict[str, Any], kind: Any, where: str, allowed: str) -> dict[str, Any]:
    if kind == "text":
        return {"type": "text", "text": need_string(block, "text", where)}
    if kind != "image":
        raise wrong(f"{where}.type", f"one of {allowed}", kind)
    source = need_object(block.get("source"), f"{where}.source")
    if source.get("type") == "base64":
        media, data = (
            need_string(source, "media_type", f"{where}.source"),
            need_string(source, "data", f"{where}.source"),
        )
        url = f"data:{media};base64,{data}"
    elif source.get("type") == "url":
        url = need_string(source, "url", f"{where}.source")
    else:
        raise wrong(f"{where}.source.type", "one of base64, url", source.get("type"))
    return {"type": "image_url", "image_url": {"url": url}}


def _assistant(blocks: list[Any], where: str) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        at = f"{where}.content[{j}]"
        kind = need_object(block, at).get("type")
        if kind == "text":
            texts.append(need_string(block, "text", at))
        elif kind == "tool_use":
            arguments = need_json(need_object(block.get("input"), f"{at}.input"), f"{at}.input").decode()
            function = {"name": need_string(block, "name", at), "arguments": arguments}
            calls.append({"id": need_string(block, "id", at), "type": "function", "function": function})
        elif kind not in _THOUGHTS:
            raise wrong(f"{at}.type", f"one of text, tool_use, {', '.join(_THOUGHTS)}", kind)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    return message | ({"tool_calls": calls} if calls else {})


def _tool(tool: Any, i: int) -> dict[str, Any]:
    where = f"tools[{i}]"
    kind = need_object(tool, where).get("type")
    if kind not in (None, "custom"):
        raise wrong(f"{where}.type", "custom, a tool that the caller runs", kind)
    function: dict[str, Any] = {"name": need_string(tool, "name", where)}
    if tool.get("description") is not None:
        function["description"] = tool["description"]
    function["parameters"] = need_object(tool.get("input_schema"), f"{where}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> dict[str, Any]:
    kind = need_object(choice, "tool_choice").get("type")
    wanted: Any
    if kind == "tool":
        wanted = {"type": "function", "function": {"name": need_string(choice, "name", "tool_choice")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        wanted = _CHOICES[kind]
    else:
        raise wrong("tool_choice.type", f"one of {', '.join(_CHOICES)}, tool", kind)
    alone = choice.get("disable_parallel_tool_use") is True
    return {"tool_choice": wanted} | ({"parallel_tool_calls": False} if alone else {})


def _output_format(wanted: Any) -> dict[str, Any]:
    if wanted is None:
        return {}
    if (kind := need_object(wanted, "output_config.format").get("type")) != "json_schema":
        raise wrong("output_config.format.type", "json_schema", kind)
    schema = need_object(wanted.get("schema"), "output_config.format.schema")
    form = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


def _text_of(content: Any, where: str, *, between: str) -> str:
    """A string, or text blocks as one."""
    if isinstance(content, str):
        return content
    texts = []
    for j, block in enumerate(need_list(content, where)):
        at = f"{where}[{j}]"
        if (kind := need_object(block, at).get("type")) != "text":
            raise wrong(f"{at}.type", "text", kind)
        texts.append(need_string(block, "text", at))
    return between.join(texts)
