"""One request as a turn of its conversation: which one it is, what of it its expert has read, and where it went.

A conversation is known by the caller's `session`, or by how it begins: system prompt, tools and first user message.
Both are hashed with the caller's key as theirs, so that no caller meets another's. Nothing can be read back from
a hash, though one who knows a prompt to the letter, and its caller, can tell that it was sent.
"""

import hashlib
import time
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import orjson

from gateway.chat_request import ChatRequest
from router.ledger.sessions import Sessions, Stand
from router.types import Stay

DIGEST_BYTES = 16


class Turn:
    """`stay` before the decision, `served` after the answer."""

    def __init__(self, sessions: Sessions, request: ChatRequest, caller: str) -> None:
        self._sessions = sessions
        self._messages: list[dict[str, Any]] = request.body["messages"]
        self._tokens = request.input_tokens
        self._secret = hashlib.sha256(caller.encode()).digest()
        self._key = self._named(request)
        self._read = self._hash(self._messages)

    async def stay(self) -> Stay | None:
        """Where the conversation is; None at its beginning. Asks Redis only for what this replica cannot know."""
        stand = self._sessions.known(self._key)
        if stand is None or not self._continues(stand) or self._answers_since(stand) > 1:  # it went on elsewhere
            stand = await self._sessions.ask(self._key)
        if stand is None:
            return None
        warm = time.time() - stand.at <= self._sessions.settings.cached_s and self._continues(stand)
        return Stay(stand.expert, stand.tokens if warm else 0)

    def served(self, expert: str) -> None:
        """Its expert answered."""
        stand = Stand(expert, len(self._messages), self._read, self._tokens, time.time())
        self._sessions.keep(self._key, stand)

    def _named(self, request: ChatRequest) -> str:
        body, session = request.body, request.wishes.session
        if session is not None:
            return self._digest(b"session", [session.encode()])
        system = takewhile(lambda message: message["role"] in ("system", "developer"), self._messages)
        first = (message for message in self._messages if message["role"] == "user")
        begins = [*system, *list(first)[:1], body.get("tools") or body.get("functions")]
        return self._digest(b"begins", [orjson.dumps(begins)])

    def _continues(self, stand: Stand) -> bool:
        """Whether the messages that its expert has read are how this request begins."""
        return (
            len(self._messages) >= stand.messages and self._hash(self._messages[: stand.messages]) == stand.digest
        )

    def _answers_since(self, stand: Stand) -> int:
        return sum(message["role"] == "assistant" for message in self._messages[stand.messages :])

    def _hash(self, messages: list[dict[str, Any]]) -> str:
        return self._digest(b"messages", map(orjson.dumps, messages))

    def _digest(self, what: bytes, parts: Iterable[bytes]) -> str:
        digest = hashlib.blake2b(key=self._secret, person=what, digest_size=DIGEST_BYTES)
        for part in parts:
            digest.update(part)
        return digest.hexdigest()


def turn_of(sessions: Sessions, request: ChatRequest, caller: str) -> Turn | None:
    """None where no conversation is to be kept together: then nothing is hashed, remembered or asked.

    A request that names its expert is the caller's own choice and leaves its conversation as it is.
    """
    wishes = request.wishes
    if request.expert is not None or wishes.sticky is False:
        return None
    if wishes.session is None and not (wishes.sticky or sessions.settings.conversations):
        return None
    try:
        return Turn(sessions, request, caller)
    except orjson.JSONEncodeError:  # nested deeper than can be written; whoever sends it on says so
        return None
