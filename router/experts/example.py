"""The smallest plausible JSON value that a JSON schema allows: what a simulated expert answers with.

Covers what callers of structured outputs and tools write: types, properties, items, enum, const, default,
anyOf/oneOf/allOf, local $ref, bounds and lengths. `pattern`, `uniqueItems` and `not` are not looked at.
"""

import math
from typing import Any

MAX_VALUES = 5_000
MAX_DEPTH = 64
SHALLOW = 4  # below this depth, what may be empty or null is

_FORMATS = {
    "date": "2025-01-31",
    "date-time": "2025-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Any) -> Any:
    """A value that `schema` allows. Raises `ValueError` where there is none or it would be huge."""
    return _Builder(schema).value(schema, 0)


class _Builder:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = MAX_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._spend(1)
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema nests deeper than {MAX_DEPTH}")
        if schema is False:
            raise ValueError("the schema allows no value (it is `false`)")
        schema = self._flat(schema if isinstance(schema, dict) else {}, depth)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        kind = _kind(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number"):
            return _number(schema, kind == "integer")
        return {"boolean": True, "null": None}.get(kind)

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise ValueError(f"the schema asks for more than {MAX_VALUES} values")

    def _flat(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """The schema with its references, alternatives and conjunctions resolved into one."""
        for _ in range(MAX_DEPTH):
            if isinstance(schema.get("$ref"), str):
                schema = _merged(_without(schema, "$ref"), self._resolve(schema["$ref"]))
                continue
            key = next((k for k in ("allOf", "anyOf", "oneOf") if isinstance(schema.get(k), list)), None)
            if key is None:
                return schema
            branches = [branch for branch in schema[key] if isinstance(branch, dict)]
            if key != "allOf":
                empty = [branch for branch in branches if branch.get("type") == "null"]
                branches = (empty if depth >= SHALLOW and empty else branches)[:1]
            schema = _without(schema, key)
            # each merge copies what was merged so far
            self._spend(len(branches) * sum(len(branch.get("properties") or ()) for branch in branches) // 2)
            for branch in branches:
                schema = _merged(schema, branch)
        raise ValueError("the schema's references run in a circle")

    def _resolve(self, reference: str) -> dict[str, Any]:
        target = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            target = target.get(part) if isinstance(target, dict) else None
        if not reference.startswith("#") or not isinstance(target, dict):
            raise ValueError(f"the schema's $ref {reference[:200]!r} leads nowhere")
        return target

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        if not isinstance(required, list):
            required = list(properties) if depth < SHALLOW else []
        return {name: self.value(properties.get(name, {}), depth + 1) for name in required if isinstance(name, str)}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        least = _length(schema, "minItems", 0)
        if isinstance(schema.get("prefixItems"), list):
            return [self.value(item, depth + 1) for item in schema["prefixItems"]]
        count = max(least, 1 if depth < SHALLOW else 0)
        count = min(count, _length(schema, "maxItems", count))
        self._spend(count)
        return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]

    def _string(self, schema: dict[str, Any]) -> str:
        fixed = _FORMATS.get(str(schema.get("format")))
        if fixed is not None:
            return fixed
        least = _length(schema, "minLength", 0)
        self._spend(least // 16)
        text = "simulated".ljust(least, ".")
        return text[: _length(schema, "maxLength", len(text))]


def _kind(schema: dict[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return "null" if depth >= SHALLOW and "null" in kind else str(next(iter(kind), "string"))
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if "minimum" in schema or "maximum" in schema else "string"


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != key}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = one | other
    for key in ("properties", "$defs"):
        if isinstance(one.get(key), dict) and isinstance(other.get(key), dict):
            merged[key] = one[key] | other[key]
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        merged["required"] = [
            *one["required"],
            *(name for name in other["required"] if name not in one["required"]),
        ]
    return merged


def _length(schema: dict[str, Any], key: str, default: int) -> int:
    value = schema.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def _finite(schema: dict[str, Any], key: str) -> float | None:
    value = schema.get(key)
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    return value if good else None


def _number(schema: dict[str, Any], whole: bool) -> int | float:
    """A number within the bounds; where they contradict each other, the lower one is kept."""
    step = _finite(schema, "multipleOf") or (1 if whole else 0.5)
    low, above = _finite(schema, "minimum"), _finite(schema, "exclusiveMinimum")
    high, below = _finite(schema, "maximum"), _finite(schema, "exclusiveMaximum")
    value: float = step
    if below is not None and value >= below:
        value = (math.ceil(below / step) - 1) * step
    if high is not None and value > high:
        value = math.floor(high / step) * step
    if above is not None and value <= above:
        value = (math.floor(above / step) + 1) * step
    if low is not None and value < low:
        value = math.ceil(low / step) * step
    return round(value) if whole else value
