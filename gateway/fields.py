"""Fields of JSON: what a caller must send, named where it is not so; and what an upstream may have left out."""

from typing import Any

import orjson

from router.errors import InvalidRequest

_KINDS = {bool: "a boolean", int: "an integer", float: "a number", dict: "an object", list: "a list"}
_MARKS = ("role", "type")  # what says a kind and never holds anything of a prompt


def wrong(where: str, expected: str, got: Any) -> InvalidRequest:
    """What a field says of its kind is shown, no other text: it may be a prompt's."""
    if isinstance(got, str):
        shown = repr(got[:40]) if where.rpartition(".")[2] in _MARKS else "a string"
    else:
        shown = "nothing" if got is None else _KINDS[type(got)]
    return InvalidRequest(f"{where}: expected {expected}, got {shown}", param=where)


def need_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    return value


def need_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(where, "a list", value)
    return value


def need_string(holder: dict[str, Any], key: str, where: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise wrong(f"{where}.{key}", "a string", value)
    return value


def need_json(value: Any, where: str) -> bytes:
    """The value as JSON, which may be nested deeper than can be written."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise InvalidRequest(f"{where}: nested too deeply", param=where) from None


def object_or_empty(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def list_or_empty(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def string_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
