"""What is wrong with a configuration, in its file's words: the key, the expert by its name, and the choices."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from router.config_base import NAME_PATTERN

Location = tuple[int | str, ...]

#: Where under `auth` a wrong value may be shown: it is no secret.
LIMITS_OF_KEYS = (("auth", "limits"), ("auth", "budget"))
#: A header or a mapping may hold a secret that was put where only its place belongs.
SECRET_PLACES = {"headers", "api_key", "keys", "password", "sentinel_password", "auth", "url"}
SECRETS = {"api_key", "password", "sentinel_password", "secret", "admin"}
# pydantic speaks of Python's types and of patterns, which the reader's file knows nothing of
_IN_OUR_WORDS = {
    "model_type": "expected keys and values",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "int_parsing": "expected a whole number",
    "float_parsing": "expected a number",
}
_PATTERNS = {NAME_PATTERN: "expected letters, digits and any of _ . - / @ : +"}


def told(error: ValidationError, kind: Any, raw: Any) -> list[str]:
    """One line per mistake in `raw`, which was to be a `kind` (a model, or a type of models in others)."""
    lines = []
    for one in error.errors():
        location: Location = one["loc"]
        lines.append(f"{_dotted(location, raw)}: {_expected(one, kind)}")
    return lines


def _dotted(location: Location, raw: Any) -> str:
    """The key as the file has it, an expert by its name where it has one."""
    parts: list[str] = []
    for at, part in enumerate(location):
        if at == 2 and location[0] == "experts":
            continue  # pydantic puts the union's tag (`endpoint`) into the path: the reader's file has no such key
        parts.append(_name_of(raw, part) if at == 1 and location[0] == "experts" else str(part))
    return ".".join(parts) or "(top level)"


def _name_of(raw: Any, index: int | str) -> str:
    try:
        name = raw["experts"][index]["name"]
    except (KeyError, IndexError, TypeError):
        return str(index)
    return name if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() else str(index)


def _expected(error: Any, kind: Any) -> str:
    type_, location, context = error["type"], error["loc"], error.get("ctx", {})
    if type_ == "extra_forbidden":
        there = _nearest(str(location[-1]), _keys_beside(location, kind))
        return f"unknown key; there are: {', '.join(there)}"
    if type_ == "union_tag_not_found":
        tags = filter(None, map(_tag, _at(location, kind)))
        return f"give its `kind`: {', '.join(tags)}"
    if type_ == "union_tag_invalid":
        return f"no kind is called {context['tag'][:100]!r}; there are: {context['expected_tags']}"
    message = _IN_OUR_WORDS.get(type_) or str(error["msg"]).removeprefix("Value error, ")
    if type_ == "string_pattern_mismatch":
        message = _PATTERNS.get(context["pattern"], message)
    place = next((part for part in reversed(location) if isinstance(part, str)), "")
    if type_ in ("model_type", "tuple_type") and place in SECRETS:
        return "a secret is never written here: give {env: VARIABLE} or {file: PATH}"
    if type_ == "tuple_type" and place == "budget":
        message = "expected `usd` with `per` or `rolling_hours`, or a list of such"
    value = error.get("input")
    secret = SECRET_PLACES & set(location) and location[:1] + location[3:4] not in LIMITS_OF_KEYS
    if secret or not isinstance(value, str | int | float | None) or type_ == "missing":
        return message
    return f"{message}, got {value!r}"


def _keys_beside(location: Location, kind: Any) -> list[str]:
    """The keys that there may be where the last one of `location` is."""
    return list(dict.fromkeys(key for model in _at(location[:-1], kind) for key in model.model_fields))


def _at(location: Location, kind: Any) -> list[type[BaseModel]]:
    """The models that may be there."""
    models = list(_models(kind))
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [model for model in models if _tag(model) == part]
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = tagged or [model for field in fields for model in _models(field.annotation)]
    return models


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models in a type: of a list's entries, of a union's members."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        return
    for one in get_args(kind):
        yield from _models(one)


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None and get_origin(field.annotation) is Literal else None


def _nearest(word: str, choices: Iterable[str]) -> list[str]:
    """Those that look most like it first."""
    return sorted(choices, key=lambda one: -difflib.SequenceMatcher(None, word.lower(), one).ratio())
