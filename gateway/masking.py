"""Settings as they may be shown: places of secrets as they are, and nothing that may be a secret itself.

No setting holds a secret, but a header, a URL or a guard's own setting may hold one all the same.

In a URL's path a part is masked that says what it is (`token-...`, or what follows `/token/`) or looks drawn at
random: a UUID, a run of letters and digits of 24 or more, or runs of 8 or more, 12 characters together, that change
between letters and digits twice or more. So names of models, versions, regions and dates are shown, and a number in
hexadecimal is not.
"""

import re
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel

MASK = "***"
_TELLING = re.compile(r"key|secret|token|password|credential|authorization", re.IGNORECASE)
_SECRET_WORD = r"(?:key|secret|token|password|passwd|credential|bearer)s?"
_LABELLED = re.compile(rf"(?:^|[^a-z0-9])(?:(?:api|access|auth)?{_SECRET_WORD}|sk|pk)[^a-z0-9]+\w", re.IGNORECASE)
_LABEL = re.compile(rf"(?:api|access|auth)?[-_]?{_SECRET_WORD}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RUN = re.compile(r"[A-Za-z0-9]{8,}")
_CHANGE = re.compile(r"[A-Za-z](?=[0-9])|[0-9](?=[A-Za-z])")
LONG_RUN, RANDOM_CHARACTERS, CHANGES = 24, 12, 2
_URL = re.compile(r"([A-Za-z][\w+.\-]*://)(\S*)")


def masked(settings: BaseModel) -> dict[str, Any]:
    """As JSON."""
    shown = _shown(settings.model_dump(mode="json"))
    assert isinstance(shown, dict)
    return shown


def masked_url(url: str) -> str:
    """Without user, password and query, and without what may be a secret in the path of an HTTP URL."""
    return _URL.sub(_place, url)


def _place(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    place, *query = re.split(r"[?#]", rest, maxsplit=1)
    if query and "@" in query[0]:  # of a password, or of the query: either is no place
        return scheme + MASK
    user, at, place = place.rpartition("@")
    if scheme.lower() in ("http://", "https://"):
        host, *parts = place.split("/")
        place = "/".join([host, *map(_part, parts, ["", *parts])])
    return scheme + (MASK + at if user else "") + place + ("?" + MASK if query else "")


def _part(part: str, before: str) -> str:
    """A part of a path as it may be shown; `before` is the part before it."""
    text = unquote(part)
    if text and _LABEL.fullmatch(before):
        return MASK
    runs = _RUN.findall(text)
    drawn = sum(len(run) for run in runs if len(_CHANGE.findall(run)) >= CHANGES)
    secret = (
        _LABELLED.search(text)
        or _UUID.search(text)
        or drawn >= RANDOM_CHARACTERS
        or any(len(run) >= LONG_RUN for run in runs)
    )
    return MASK if secret else part


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
