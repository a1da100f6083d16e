"""Settings as they may be shown: places of secrets as they are, and nothing that may be a secret itself.

No setting holds a secret, but a header, a URL or a guard's own setting may hold one all the same.
"""

import re
from typing import Any

from pydantic import BaseModel

MASK = "***"
_TELLING = re.compile(r"key|secret|token|password|credential|authorization", re.IGNORECASE)
_URL = re.compile(r"([A-Za-z][\w+.\-]*://)(\S*)")


def masked(settings: BaseModel) -> dict[str, Any]:
    """As JSON."""
    shown = _shown(settings.model_dump(mode="json"))
    assert isinstance(shown, dict)
    return shown


def masked_url(url: str) -> str:
    """Without user, password and query."""
    return _URL.sub(_place, url)


def _place(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    place, *query = re.split(r"[?#]", rest, maxsplit=1)
    if query and "@" in query[0]:  # of a password, or of the query: either is no place
        return scheme + MASK
    user, at, place = place.rpartition("@")
    return scheme + (MASK + at if user else "") + place + ("?" + MASK if query else "")


def _shown(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        if name == "headers":
            return dict.fromkeys(value, MASK)
        return {key: _shown(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(one, name) for one in value]
    if not isinstance(value, str):
        return value
    return MASK if _TELLING.search(name) else masked_url(value)
