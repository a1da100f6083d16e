"""A request of OpenAI's Responses API as a chat-completions request. Knows nothing of experts, routing or HTTP.

What a chat cannot express is refused by name: built-in tools, files, background work, conversations that a server
keeps under a name, prompt templates. Thoughts of earlier turns are not sent on. Whatever the Responses API does not
know passes through untouched, `routing` among it.
"""

from typing import Any

import orjson

from gateway.fields import need_json, need_list, need_object, need_string, wrong
from router.errors import InvalidRequest

#: What asks for features of OpenAI's own servers; each may be absent or one of these values.
REFUSED: dict[str, tuple[Any, ...]] = {
    "background": (None, False),
    "context_management": (None, []),
    "conversation": (None,),
    "prompt": (None,),
    "top_logprobs": (None, 0),
    "truncation": (None, "disabled"),
}
#: What changes no answer of an expert's: of the caller's own use, or of built-in tools alone.
_LEFT_OUT = ("max_tool_calls", "store", "stream_options", "previous_response_id")
_CHATS_OWN = (
    "function_call",
    "functions",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "reasoning_effort",
    "response_format",
)
#: What answers repeat of their request, and what stands there where it was not sent.
_REPEATED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_INCLUDED = ("reasoning.encrypted_content",)  # there is none to show, and nothing is lost by it
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
_SYSTEM = ("system", "developer")
_CHOICES = ("none", "auto", "required")


def repeated(body: dict[str, Any]) -> dict[str, Any]:
    """What the answer says of its request, each value as JSON that is written already."""
    said = {key: body[key] if body.get(key) is not None else default for key, default in _REPEATED.items()}
    return {key: orjson.Fragment(need_json(value, key)) for key, value in said.items()}


def input_items(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The request's own items; a string is one message of the user's."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    if given is None:
        return []
    if not isinstance(given, list):
        raise wrong("input", "a string or a list of items", given)
    return [need_object(item, f"input[{i}]") for i, item in enumerate(given)]


def chat_body(body: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """The chat-completions body that asks for the same, after the `earlier` items of its conversation.

    Raises `InvalidRequest` naming the field. Usage is always asked for, since every stream of responses reports it.
    """
    rest = dict(body)
    for key, fine in REFUSED.items():
        value = rest.pop(key, None)
        if not any(type(value) is type(one) and value == one for one in fine):
            raise InvalidRequest(f"{key}: experts are asked by chat, which cannot express it", param=key)
    for key in _CHATS_OWN:
        if rest.pop(key, None) is not None:
            raise InvalidRequest(f"{key}: belongs to /v1/chat/completions", param=key)
    rest.pop("input", None)
    items = [*earlier, *input_items(body)]
    if not items:
        raise InvalidRequest("input: expected a string or a list of at least one item, got nothing", param="input")
    messages = _messages(items, len(earlier))
    instructions = rest.pop("instructions", None)
    if instructions is not None:
        if not isinstance(instructions, str):
            raise wrong("instructions", "a string", instructions)
        messages.insert(0, {"role": "system", "content": instructions})
    if not messages:
        raise InvalidRequest("input: holds nothing but thoughts", param="input")
    chat: dict[str, Any] = {"messages": messages}
    if (tools := rest.pop("tools", None)) is not None and need_list(tools, "tools"):
        chat["tools"] = [_tool(tool, i) for i, tool in enumerate(tools)]
    if (choice := rest.pop("tool_choice", None)) is not None:
        chat["tool_choice"] = _tool_choice(choice)
    chat |= _text(rest.pop("text", None))
    chat |= _reasoning(rest.pop("reasoning", None))
    if (most := rest.pop("max_output_tokens", None)) is not None:
        if type(most) is not int or most < 1:
            raise wrong("max_output_tokens", "an integer of at least 1", most)
        # the older name is known to more servers; OpenAI's reasoning models take the newer one only
        chat["max_completion_tokens" if "reasoning_effort" in chat else "max_tokens"] = most
    if (included := rest.pop("include", None)) is not None:
        for i, what in enumerate(need_list(included, "include")):
            if what not in _INCLUDED:
                raise wrong(f"include[{i}]", f"one of {', '.join(_INCLUDED)}", what)
    if (metadata := rest.pop("metadata", None)) is not None:
        for value in need_object(metadata, "metadata").values():
            if not isinstance(value, str):
                raise wrong("metadata", "an object of strings", value)
    for key in _LEFT_OUT:
        rest.pop(key, None)
    if rest.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return {key: value for key, value in rest.items() if value is not None} | chat


def _messages(items: list[dict[str, Any]], earlier: int) -> list[dict[str, Any]]:
    """Calls join the assistant's message that they follow, as chat completions have them.

    Images of a tool go to a user's message behind the tools' own, which hold text alone there.
    """
    out: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        where = f"input[{i - earlier}]"
        kind = item.get("type", "message")
        if kind not in _ITEMS:
            raise wrong(f"{where}.type", f"one of {', '.join(_ITEMS)}", kind)
        if kind == "reasoning":
            continue
        if kind == "function_call_output":
            message, pictures = _tool_output(item, where)
            out.append(message)
            images += pictures
            continue
        if images:
            out.append({"role": "user", "content": images})
            images = []
        last = out[-1] if out and out[-1]["role"] == "assistant" else None
        if kind == "function_call":
            if last is None:
                last = {"role": "assistant", "content": None}
                out.append(last)
            last.setdefault("tool_calls", []).append(_call(item, where))
            continue
        message = _message(item, where)
        if message["role"] == "assistant" and last is not None and "tool_calls" in last:
            last["content"] = (last["content"] or "") + message["content"]
        else:
            out.append(message)
    if images:
        out.append({"role": "user", "content": images})
    return out


def _message(item: dict[str, Any], where: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", *_SYSTEM):
        raise wrong(f"{where}.role", f"one of user, assistant, {', '.join(_SYSTEM)}", role)
    role = "system" if role in _SYSTEM else role  # which every server knows
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise wrong(f"{where}.content", "a string or a list of parts", content)
    places = [f"{where}.content[{j}]" for j in range(len(content))]
    if role == "user":
        parts = [_part(part, at) for part, at in zip(content, places, strict=True)]
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"role": role, "content": parts[0]["text"]}
        return {"role": role, "content": parts}
    texts = []
    for part, at in zip(content, places, strict=True):
        kind = need_object(part, at).get("type")
        if kind not in ("input_text", "output_text", "refusal"):
            raise wrong(f"{at}.type", "one of input_text, output_text, refusal", kind)
        texts.append(need_string(part, "refusal" if kind == "refusal" else "text", at))
    return {"role": role, "content": ("" if role == "assistant" else "\n\n").join(texts)}


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = need_object(part, where).get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": need_string(part, "text", where)}
    if kind != "input_image":
        raise wrong(f"{where}.type", "one of input_text, input_image", kind)
    if part.get("file_id") is not None:
        raise InvalidRequest(f"{where}.file_id: there are no files here; send image_url", param=f"{where}.file_id")
    image = {"url": need_string(part, "image_url", where)}
    if part.get("detail") is not None:
        image["detail"] = need_string(part, "detail", where)
    return {"type": "image_url", "image_url": image}


def _call(item: dict[str, Any], where: str) -> dict[str, Any]:
    function = {"name": need_string(item, "name", where), "arguments": need_string(item, "arguments", where)}
    return {"id": need_string(item, "call_id", where), "type": "function", "function": function}


def _tool_output(item: dict[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(the tool's message, its images)"""
    output = item.get("output")
    if isinstance(output, str):
        text, images = output, []
    elif isinstance(output, list):
        parts = [_part(part, f"{where}.output[{j}]") for j, part in enumerate(output)]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        images = [part for part in parts if part["type"] != "text"]
    else:
        raise wrong(f"{where}.output", "a string or a list of parts", output)
    return {"role": "tool", "tool_call_id": need_string(item, "call_id", where), "content": text}, images


def _tool(tool: Any, i: int) -> dict[str, Any]:
    where = f"tools[{i}]"
    if (kind := need_object(tool, where).get("type")) != "function":
        raise wrong(f"{where}.type", "function, a tool that the caller runs", kind)
    function = {"name": need_string(tool, "name", where)}
    function |= {key: tool[key] for key in ("description", "parameters", "strict") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str) and choice in _CHOICES:
        return choice
    if not isinstance(choice, dict):
        raise wrong("tool_choice", f"one of {', '.join(_CHOICES)}, or a function", choice)
    if choice.get("type") != "function":
        raise wrong("tool_choice.type", "function", choice.get("type"))
    return {"type": "function", "function": {"name": need_string(choice, "name", "tool_choice")}}


def _text(wanted: Any) -> dict[str, Any]:
    """`text`, which says the form of an answer and how much it talks."""
    if wanted is None:
        return {}
    chat = {}
    if need_object(wanted, "text").get("verbosity") is not None:
        chat["verbosity"] = need_string(wanted, "verbosity", "text")
    form = wanted.get("format")
    if form is None or (kind := need_object(form, "text.format").get("type")) == "text":
        return chat
    if kind == "json_object":
        return chat | {"response_format": {"type": kind}}
    if kind != "json_schema":
        raise wrong("text.format.type", "one of text, json_object, json_schema", kind)
    schema = {
        "name": need_string(form, "name", "text.format"),
        "schema": need_object(form.get("schema"), "text.format.schema"),
    }
    schema |= {key: form[key] for key in ("description", "strict") if form.get(key) is not None}
    return chat | {"response_format": {"type": kind, "json_schema": schema}}


def _reasoning(wanted: Any) -> dict[str, Any]:
    if wanted is None or need_object(wanted, "reasoning").get("effort") is None:
        return {}
    return {"reasoning_effort": need_string(wanted, "effort", "reasoning")}
