"""What is embedded of a chat request. Knows nothing of encoders, experts or HTTP."""

from collections.abc import Iterator
from typing import Any

SHORT_CHARS = 80  # a last message under this leans on what was said before it
BARE_CHARS = 16  # a first message under this ("great!") has its meaning from the system prompt
TURN_CHARS = 400  # of each earlier turn, its beginning: enough for its subject
LOOK_BACK = 6  # earlier messages considered
FAR_BACK = 2000  # messages searched for the user's last: an agent's tools may have answered many times
LIMIT_CHARS = 16_384  # more than any encoder's window; head and tail of the rest
MOST_PARTS = 128  # of one message, the first and the last


def query_text(messages: list[dict[str, Any]]) -> str:
    """The text that stands for a chat request when an expert is chosen. "" if there is none at all.

    It is the last user message, alone if it has 80 characters or more. That is what policies are trained on
    (single prompts), it says what is asked now, and it does not change while an agent's tools answer, so the
    steps of one task are a segment that shares a cache entry and an expert (what Seg-MoE does with runs of tokens).
    A shorter one ("and in Spanish?") often means nothing
    alone: the beginnings of the turns before it are put in front, oldest first, until there is enough to
    understand it, so that it stays at the end, which the encoder keeps when it cuts to its window.

    The system prompt is left out: it is the same for all requests of an application and would draw them all
    to one place. It is used only where the conversation is a bare word or two without an earlier turn ("great!"
    sent to a classifier), or has no user text. Tool results and images are never embedded; the text beside
    them is. Odd shapes are skipped, never refused: validation is the gateway's.
    """
    if not isinstance(messages, list):
        return ""
    position, asked = _last_user(messages)
    if len(asked) >= SHORT_CHARS:
        return _shorten(asked, LIMIT_CHARS)
    earlier = _earlier(messages[max(position - LOOK_BACK, 0) : max(position, 0)])
    if not earlier and len(asked) < BARE_CHARS:
        earlier = [text for text in (_instructions(messages),) if text]
    return "\n".join([*earlier, asked] if asked else earlier)


def _last_user(messages: list[dict[str, Any]]) -> tuple[int, str]:
    """Index and text of the last user message that has text; (-1, "") if there is none near the end."""
    for index in range(len(messages) - 1, max(len(messages) - 1 - FAR_BACK, -1), -1):
        if _role(messages[index]) == "user" and (text := _text(messages[index])):
            return index, text
    return -1, ""


def _earlier(turns: list[dict[str, Any]]) -> list[str]:
    """The beginnings of the nearest turns, oldest first, of as many as make a short message long enough."""
    found: list[str] = []
    for message in reversed(turns):
        if _role(message) in ("user", "assistant") and (text := _text(message)):
            found.insert(0, text[:TURN_CHARS])
            # an answer without its question has no subject: go on to the user's turn
            if _role(message) == "user" and sum(map(len, found)) >= SHORT_CHARS:
                break
    return found


def _instructions(messages: list[dict[str, Any]]) -> str:
    for message in messages[:LOOK_BACK]:
        if _role(message) in ("system", "developer") and (text := _text(message)):
            return _shorten(text, TURN_CHARS)
    return ""


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    return role if isinstance(role, str) else ""


def _text(message: dict[str, Any]) -> str:
    """A message's text: its content, or the text parts of it, one a line."""
    content = message.get("content")
    if isinstance(content, str):
        return _shorten(content, LIMIT_CHARS).strip()
    return "\n".join(_parts(content)).strip() if isinstance(content, list) else ""


def _parts(content: list[Any]) -> Iterator[str]:
    half = MOST_PARTS // 2
    for part in content if len(content) <= MOST_PARTS else content[:half] + content[-half:]:
        if isinstance(part, str):
            yield _shorten(part, LIMIT_CHARS)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            yield _shorten(part["text"], LIMIT_CHARS)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} {text[-(limit // 2) :]}"
