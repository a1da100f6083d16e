"""The semantic cache: which questions may share an answer, and the answer to the closest one that was kept.

Two requests may share an answer where everything but the text of the last user message is the same (earlier turns,
system prompt, tools, parameters, wishes, caller, policy), the texts pass `router.sameness`, and the cosine of
their vectors is at least the threshold. The vector is the one that the router chose by, so only routed requests
take part, and of them only those whose vector is of that text alone and of all of it: not short ones that lean on
what was said before, nor ones that may be longer than the encoder's window. A quality floor is a promise about the
experts' answers, so a request with one never takes part.
"""

import hashlib
from typing import Any

import orjson

from gateway.chat_request import ChatRequest
from router.config import SemanticSettings
from router.embedding import Encoder, query_text
from router.errors import ConfigError
from router.ledger.answers import Answers, Command, KeptAnswer
from router.ledger.neighbours import Neighbours
from router.sameness import order, short, signature
from router.semantic import read_calibration
from router.types import Floats


class Semantic:
    """Raises `ConfigError` for a calibration that cannot be read."""

    def __init__(self, settings: SemanticSettings, answers: Answers) -> None:
        self._settings = settings
        self._neighbours = Neighbours(answers, entries=settings.entries)
        self._calibration = None if settings.calibration is None else read_calibration(settings.calibration)
        self._threshold = settings.threshold or 0.0
        self._encoder = ""
        #: The probability of a wrong answer that a hit is reckoned with.
        self.wrong = settings.wrong_share
        if self._calibration is not None:
            self._threshold, self.wrong = self._calibration.threshold, self._calibration.wrong_most

    def check(self, encoder: Encoder | None) -> None:
        """Raises `ConfigError` where the policy embeds nothing, or the calibration does not fit its encoder."""
        if encoder is None:
            raise ConfigError("cache.semantic: the policy does not read the query, so there is nothing to compare")
        if self._calibration is not None:
            self._calibration.check(encoder, self._settings.wrong_share)
        if self._encoder not in ("", encoder.revision):  # requests under way compare by the one there was
            raise ConfigError("cache.semantic: another encoder goes by the same name now; restart the gateway")
        self._encoder = encoder.revision

    def question(self, request: ChatRequest, asked: dict[str, Any]) -> "Question | None":
        """None where the request takes no part. `asked` is all that makes two requests the same."""
        if request.expert is not None or request.wishes.quality_floor or request.heard is not None:
            return None
        *before, last = request.body["messages"]
        text, blank = _text(last.get("content"))
        if last["role"] != "user" or text is None or not short(text):
            return None
        if query_text(request.body["messages"]) != text.strip():
            return None
        body = {**request.body, "messages": [*before, {**last, "content": blank}]}
        same = {**asked, "body": body, "signature": signature(text), "encoder": self._encoder}
        group = hashlib.sha256(orjson.dumps(same, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return Question(self._neighbours, group, order(text), self._threshold, self.wrong)


class Question:
    """One request's: what it may be compared with."""

    __slots__ = ("_group", "_neighbours", "_threshold", "_words", "wrong")

    def __init__(
        self, neighbours: Neighbours, group: str, words: tuple[int, ...], threshold: float, wrong: float
    ) -> None:
        self._neighbours = neighbours
        self._group = group
        self._words = words
        self._threshold = threshold
        self.wrong = wrong

    async def nearest(self, vector: Floats, max_age_s: float | None) -> KeptAnswer | None:
        return await self._neighbours.nearest(self._group, vector, self._words, self._threshold, max_age_s)

    def entry(self, digest: str, vector: Floats) -> tuple[Command, ...]:
        return self._neighbours.entry(self._group, digest, vector, self._words)


def _text(content: Any) -> tuple[str | None, Any]:
    """The text of a message that has one, and its content without it; (None, ...) for any other message."""
    if isinstance(content, str):
        return content, None
    if isinstance(content, list) and len(content) == 1 and content[0].get("type") == "text":
        text = content[0].get("text")
        return (text if isinstance(text, str) else None), [{**content[0], "text": None}]
    return None, None
